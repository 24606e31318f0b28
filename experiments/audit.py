"""Is it gone, or only hidden? python -m experiments.audit RUN_FOLDER

RUN_FOLDER is the folder of a run of train.py on questions, as for ask.py. Four tests, on the
target, the retrained, the unlearned and a fresh, random model:
  relearning   train on a quarter of the forget rows: do the *other* forget rows come back?
  rounding     round the weights to 8 and to 4 bits: do the answers come back?
  extraction   which share of an answer, from its end, does the model predict without a mistake?
               And which share of all its tokens (exact memorisation)?
  rephrasing   ask the same questions in other words
Prints a table, and writes audit.json and audit.png into RUN_FOLDER.
"""
import copy

import numpy as np
import torch
from matplotlib.figure import Figure

import data
import metrics
import ngdiff
from experiments import folders, shared
from harness import files, flags, measuring, report, sources

RELEARN_STEPS, RELEARN_LR = 40, 3e-4


def ready(argv):
    """(RUN_FOLDER, its train.Run, its Stages). ValueError on a mistake."""
    parser = shared.parser("audit", __doc__)
    parser.add_argument("folder", metavar="RUN_FOLDER")
    folder = parser.parse_args(argv).folder
    run, stages = folders.run_of(folder)
    shared.questions_only(run)
    if len(run.rows["forget"]) < 2:
        raise ValueError(f"{folder}: one forget row; one to learn again and another are needed")
    files.check_folder("RUN_FOLDER", folder)
    return folder, run, stages


def relearning(model, known, device, group=""):
    """Train a copy of `model` on the Examples `known` (Adam, one batch). Yields the copy before
    the first step and after every second step. group: train only parameters with this in the name.
    """
    model = copy.deepcopy(model)
    params = [p for name, p in model.named_parameters() if group in name]
    m, v = ([torch.zeros_like(p) for p in params] for _ in range(2))
    batch = data.collate(known).to(device)
    yield model
    for step in range(1, RELEARN_STEPS + 1):
        grad = torch.autograd.grad(model(batch).mean(), params)
        ngdiff.update(params, ngdiff.adam_direction(grad, m, v, step), RELEARN_LR)
        if step % 2 == 0:
            yield model


def mean_probability(model, examples):
    return metrics.probability(measuring.measure_losses(model, examples)["loss"])


@torch.no_grad()
def quantized(model, bits):
    """A copy whose matrices are rounded to `bits` bits: symmetric, with one scale a row."""
    model = copy.deepcopy(model)
    for p in model.parameters():
        if p.dim() > 1:
            scale = p.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            p.copy_((p / torch.where(scale > 0, scale, 1)).round() * scale)
    return model


@torch.no_grad()
def memorised(model, examples, device):
    """Two measures of the examples' answers, end of text dropped: {name: their mean}."""
    batches = [data.collate([e]).to(device) for e in examples]
    hits = [(model.logits(b).argmax(-1) == b.labels)[:-1].tolist() for b in batches]
    return {of.__name__: float(np.mean([of(answer) for answer in hits]))
            for of in (metrics.extraction_strength, metrics.exact_memorisation)}


def rouge(run, model, rows):
    """Mean ROUGE-L recall of the model's greedy answers."""
    measured = report.evaluate(model, run.tokenizer, {"rows": sources.plain(rows)})
    return float(np.mean(measured["rows"]["rouge"]))


def rephrased(rows):
    """The rows that have a paraphrased question, with this one as the question."""
    return [row | {"question": row["paraphrased_question"]} for row in rows
            if "paraphrased_question" in row]


def audit_one(run, model):
    """All tests of one model: (a flat dict of numbers, the other rows' mean probability before and
    along `relearning`)."""
    forget, device = run.examples["forget"], run.config.device
    out = memorised(model, forget, device)
    some = {name: run.rows[name] for name in ("forget", "retain")}
    for title, altered in (("float32", model), ("8 bits", quantized(model, 8)),
                           ("4 bits", quantized(model, 4))):
        out |= {f"{name}_rouge {title}": rouge(run, altered, rows) for name, rows in some.items()}
    out |= {f"{name}_rouge rephrased": rouge(run, model, rephrased(rows))
            for name, rows in some.items() if rephrased(rows)}
    other = [e for i, e in enumerate(forget) if i % 4]
    curve = [mean_probability(m, other) for m in relearning(model, forget[::4], device)]
    return out | {f"relearn_prob {step}": curve[step // 2] for step in (0, 10, 20, 40)}, curve


def draw(audits):
    """A Figure: the relearning curves; ROUGE after rounding and for rephrased questions."""
    fig = Figure(figsize=(11, 4.2), layout="constrained")
    ax, bars = fig.subplots(1, 2)
    for i, (name, (numbers, curve)) in enumerate(audits.items()):
        ax.plot(range(0, 2 * len(curve), 2), curve, label=name)
        keys = [k for k in numbers if k.startswith("forget_rouge")]
        bars.bar(np.arange(len(keys)) + 0.2 * i, [numbers[k] for k in keys], 0.2)
    ax.set(title="Relearning: a quarter of the forget rows is trained on", xlabel="step",
           ylabel="probability of the other forget rows")
    bars.set(title="Forget ROUGE: weights rounded, questions rephrased")
    bars.set_xticks(np.arange(len(keys)) + 0.1 * (len(audits) - 1),
                    [k.removeprefix("forget_rouge ") for k in keys])
    ax.legend()
    return fig


def act(audited):
    """Audit the run's models; print, write and draw what was found."""
    folder, run, stages = audited
    models = folders.models_in(run, stages)
    torch.manual_seed(run.config.seed + 1)
    models["fresh"] = type(run.initial)(run.initial.config).to(run.config.device)
    audits = {name: audit_one(run, model) for name, model in models.items()}
    print("\n" + report.table({name: numbers for name, (numbers, _) in audits.items()}, aims=False))
    shared.write(folder, {
        "audit.json": {name: numbers | {"relearn_curve": curve}
                       for name, (numbers, curve) in audits.items()},
        "audit.png": report.png(draw(audits))})


def main(argv=None):
    flags.command(ready, act, argv)


if __name__ == "__main__":
    main()
