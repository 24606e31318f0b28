"""What does relearning find after --level, and does any setting leave less to find?

    python -m experiments.relearn --tiny

Tables show the mean probability of the forget rows that are *not* trained on after 0, 10, 20 and 40
steps of training (`audit.relearning`):
  what     train on a quarter of the forget rows, on holdout rows, or on retain rows, as many
  where    train only one part of the model; and which of the other rows rise
  settings unlearn with other settings, then train on a quarter of the forget rows
Takes train.py's flags; --level is set. Writes relearn.json into --out (default: out/relearn).
"""
from dataclasses import replace

import numpy as np
import torch

import train
from experiments import audit, shared
from harness import flags, measuring

SHOWN = 0, 10, 20, 40
PARTS = "wte", "wpe", "ln", "attn", "mlp", "h.0", "h.1"
SETTINGS = {
    "default": {}, "fixed lr 0.01, 320 steps": dict(lazy=0, lr=0.01, steps=320),
    "160 steps": dict(steps=160), "320 steps": dict(steps=320),
    "adam": dict(optimizer="adam"), "144 retain rows a step": dict(batch=144),
    "288": dict(batch=288)}      # twice and four times --tiny's
DECAYS = 3e-4, 1e-3          # share of every weight that is taken away at each unlearning step


def ready(argv):
    """The run with the level, which the others vary. ValueError on a mistake."""
    run = train.prepare(shared.parse(["--out", "out/relearn", "--level", *argv], (), __doc__))
    shared.questions_only(run)
    return run


def curve(run, model, known, group=""):
    """Mean probability of the forget rows that are not in the trained quarter, at SHOWN steps."""
    other = [e for i, e in enumerate(run.examples["forget"]) if i % 4]
    models = audit.relearning(model, known, run.config.device, group)
    return [audit.mean_probability(m, other) for step, m in zip(range(0, 41, 2), models)
            if step in SHOWN]


def quarter(run, name="forget"):
    """A quarter of the forget rows, or as many rows of another set."""
    some = run.examples[name]
    return some[::4] if name == "forget" else some[:len(run.examples["forget"][::4])]


def what(run, models):
    """{"model, set": curve} for each model and each set of rows to train on."""
    return {f"{title}, {name} rows": curve(run, model, quarter(run, name))
            for title, model in models.items() for name in ("forget", "holdout", "retain")}


def where(run, model):
    """{part: curve} where only this part of the model is trained."""
    names = [n for n, _ in model.named_parameters()]
    return {part: curve(run, model, quarter(run), part)
            for part in PARTS if any(part in n for n in names)}


def which(run, model):
    """{kind of other row: [mean probability before, after 10 steps]}. Kinds: the row's author has
    another row in the trained quarter, or not; the question's template."""
    rows, examples = run.rows["forget"], run.examples["forget"]
    chance = lambda m: np.exp([-x.mean() for x in measuring.token_losses(m, examples)])
    models = audit.relearning(model, quarter(run), run.config.device)
    before = chance(next(models))
    for _ in range(5):
        trained = next(models)
    after, n = chance(trained), len(rows) // len({author(r) for r in rows})
    taught, other = {author(r) for r in rows[::4]}, [i for i in range(len(rows)) if i % 4]
    kinds = {"same author as a trained row": [i for i in other if author(rows[i]) in taught],
             "another author": [i for i in other if author(rows[i]) not in taught],
             **{f"question {k + 1}": [i for i in other if i % n == k] for k in range(n)}}
    return {kind: [float(p[some].mean()) for p in (before, after)]
            for kind, some in kinds.items() if some}


def author(row):
    """The author's name in a built-in question: its capitalised words, except the first word."""
    return " ".join(word for word in row["question"].rstrip("?").split()[1:] if word.istitle())


def decayed(run, target, decay):
    """The model after a run in which every weight shrinks by the share `decay` at each step."""
    for stage in shared.unlearning(run, target, 1):
        with torch.no_grad():
            for p in stage.model.parameters() if stage.step else ():
                p.mul_(1 - decay)
    return stage.model


def settings(run, target):
    """{setting: curve and retain ROUGE} after unlearning from the Stage `target` with it."""
    models = {}
    for name, change in SETTINGS.items():
        changed = run._replace(config=replace(run.config, **change))
        models[name] = train.unlearned(changed, target).model
    models |= {f"decay {d:g} a step": decayed(run, target.model, d) for d in DECAYS}
    return {name: curve(run, m, quarter(run)) + [audit.rouge(run, m, run.rows["retain"])]
            for name, m in models.items()}


def show(title, table):
    print(f"\n{title}\n" + "\n".join(f"{name:32}" + "".join(f"{x:8.3f}" for x in of)
                                     for name, of in table.items()))


def act(run):
    """Relearn from each model; print and write the table."""
    stages = shared.all_stages(run)
    models = {"retrained": stages["retrain"].model, "level": stages[run.config.method].model}
    out = {"what": what(run, models), "where": where(run, models["level"]),
           "which": which(run, models["level"]), "settings": settings(run, stages["target"])}
    show("what: trained on; probability after 0, 10, 20, 40 steps", out["what"])
    show("where: only this part of the model is trained", out["where"])
    show("which of the other rows: probability after 0 and 10 steps", out["which"])
    show("settings; last column: retain ROUGE before relearning", out["settings"])
    shared.write(run.config.out, {"relearn.json": out})


def main(argv=None):
    flags.command(ready, act, argv)


if __name__ == "__main__":
    main()
