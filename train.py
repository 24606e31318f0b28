"""The whole story in one command: train a small GPT, make it forget, measure what happened.

    python train.py --tiny                          built-in data, a minute on two cores
    python train.py --tiny --method gdiff           another method, from the cached models
    python train.py --data DIR --authors 40         TOFU's published files in DIR

In this order: the settings, a batch's loss, `train`, `unlearn` (its mathematics is ngdiff.py's),
the data and models of a run, and `main`, which joins them.
"""
import copy
import time
from dataclasses import dataclass, replace
from typing import NamedTuple

import harness       # first: it sets how torch's threads wait
import torch
from torch.optim.adamw import adamw

import data
import model as gpt
import ngdiff
from data import SPLITS
from harness import flags, measuring, names, processes, report, sources, weights, workers
from harness.flags import flag
from harness.processes import total
from harness.stages import Stage

METHODS = *ngdiff.METHODS, "npo"
LEVEL_EVERY = 10     # steps between two measurements of the levels
APPROACH = 1 / 4     # with --level: a step goes at most this share of the way to the levels
# With --budget: how much of its running mean the retain gradient keeps, and how many retain rows
# are watched at most.
MEMORY, WATCHED = 0.9, 32
IN_TURN = 5e7        # parameters; training takes 16 bytes for each, and uses all threads well

# --------------------------------------------------------------------------- settings

@dataclass
class Config:
    """Every flag of the command line, with its type, default and help."""
    # data
    tiny: bool = flag(False, "the built-in data; the default where --data is not given")
    data: str = flag("", "TOFU's folder, a file of rows or a folder of texts "
                     "(docs/data.md); muse: the built-in authors as texts")
    forget: str = flag("forget10", "share of the authors to forget", choices=tuple(SPLITS))
    authors: int = flag(160, "how many authors in all", llama=30, data=200)
    documents: int = flag(0, "MUSE's folder: so many documents of each file; default: all")
    seed: int = flag(0, "random seed of the data, the weights and the batches")
    # model
    n_layer: int = flag(2, "transformer blocks")
    n_embd: int = flag(128, "width", muse=128, data=192)
    init: str = flag("", "published weights to start from: GPT-2's, or a Llama's "
                     "(.gguf, .safetensors, .bin, .pt or .pth)")
    # training the target and the retrained model
    epochs: float = flag(40, "passes over the training rows; 0: the target is --init's model as it "
                         "is, and there is no retrained model", llama=8)
    train_batch: int = flag(32, "rows a step", llama=16, muse=8)
    train_lr: float = flag(3e-3, "AdamW's peak learning rate; warm-up, then linear to 0",
                           llama=2e-4, init=1e-4)
    weight_decay: float = flag(0.3, "", init=0.01, muse=0.05)      # AdamW's; no flag
    # unlearning
    method: str = flag("ngdiff", "which direction to step along", choices=METHODS)
    level: str = flag("", "ours: raise each forget row to the loss of unseen rows, not further; "
                      "token: each of its tokens", choices=("row", "token"), bare="row")
    c: float = flag(0.9, "gdiff's weight on the retain gradient, 0 to 1")
    optimizer: str = flag("sgd", "apply d itself, or Adam's preconditioning of it",
                          choices=("sgd", "adam"))
    lr: float = flag(0.0, "learning rate: AutoLR's first guess, or the fixed one; "
                     "default: the method's (RATES in harness/flags.py)")
    lazy: int = flag(0, "AutoLR fits the rate at every so many steps; 0: never. Default: 10 with "
                     "ngdiff, else 0")
    budget: float = flag(0.0, "ours, for small batches: AutoLR lets the loss of 32 watched retain "
                         "rows rise by so many nats, and steps use a mean of past retain gradients",
                         llama=0.1, muse=0.1)
    steps: int = flag(80, "unlearning steps", llama=100, level=120)
    batch: int = flag(0, "retain rows a step, and forget rows, at most; default: half of the "
                      "retain rows (--level: a sixth), but no more than 400",
                      llama=16, muse=64)
    micro_batch: int = flag(0, "rows in memory at once, same result; default: 72 on the CPU, "
                            "shared by threads (more than 4: 18 each), the whole batch on a GPU",
                            llama=8)
    # the run
    out: str = flag("", "run folder; default: out/ and a name made of the flags")
    cache: str = flag("out/cache", "folder of the stages' states")
    device: str = flag("auto", "auto: a GPU that torch can use, if there is one",
                       choices=("auto", "cpu", "cuda", "mps"))
    dtype: str = flag("float32", "of the passes; parameters, gradients and AutoLR's losses stay "
                      "float32", choices=("float32", "bfloat16"))


# --------------------------------------------------------------------------- a batch's loss

class MicroBatch(NamedTuple):
    """Some rows of one task's batch, with what their loss needs to know of the whole batch."""
    rows: data.Batch
    n_tokens: int                  # labelled tokens of the whole batch
    n_rows: int                    # rows of the whole batch
    reference: torch.Tensor        # (B,) a number a row: its summed loss under the target model
                                   # with npo, its level with --level; with levels of tokens
                                   # (B, T), a row's own from the left; else None


def micro_batches(examples, config, reference=None):
    """A batch as MicroBatches of at most config.micro_batch rows. Each of n processes takes every
    n-th row. Rows of similar length share a micro-batch: less padding, and less memory at once."""
    n_tokens, n_rows = sum(len(e.tokens) - e.n_prompt for e in examples), len(examples)
    rank, n = processes.rank_and_size()
    examples, found = examples[rank::n], []
    ways = 1 if config.micro_batch or config.device != "cpu" else workers.ways(len(examples))
    size = config.micro_batch or (max(18, 72 // ways) if config.device == "cpu" else n_rows)
    for indices in data.by_length(examples, size, ways):
        rows = data.collate([examples[i] for i in indices]).to(config.device)
        own = None if reference is None else reference[rank::n][indices].to(config.device)
        found.append(MicroBatch(rows, n_tokens, n_rows, own))
    return found


def token_losses(model, batch, config):
    """Losses (M,) of a MicroBatch's answer tokens, nats, float64 where the device has it."""
    with torch.autocast(config.device, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        losses = model(batch.rows)
    return losses.double() if config.device != "mps" else losses.float()


def mean_loss(model, batch, config):
    """A MicroBatch's share of L (0-dim): the mean over the whole batch's answer tokens."""
    return token_losses(model, batch, config).sum() / batch.n_tokens


def objective(model, batch, config):
    """A MicroBatch's share of what is raised in L_F's place with npo or --level."""
    losses, at = token_losses(model, batch, config), batch.rows.positions
    B, T = batch.rows.tokens.shape
    rows = losses.new_zeros(B * T).index_copy(0, at, losses).view(B, T)   # 0 where no token is
    if config.method == "npo":
        return ngdiff.npo_objective(rows.sum(1), batch.reference).sum() / batch.n_rows
    n_tokens = (at // T).bincount(minlength=B)                            # (B,)
    return ngdiff.level_objective(rows.sum(1), n_tokens, batch.reference).sum() / batch.n_tokens


def token_objective(model, batch, config):
    """The same with --level token."""
    def losses_and_margins(rows):                                         # (2, M)
        logits, labels = model.logits(rows), rows.labels
        others = logits.scatter(1, labels[:, None], -torch.inf)
        return torch.stack((torch.nn.functional.cross_entropy(logits, labels, reduction="none"),
                            others.amax(1) - logits.gather(1, labels[:, None])[:, 0]))
    losses, margins = token_losses(losses_and_margins, batch, config)
    B, T = batch.rows.tokens.shape
    n_tokens = (batch.rows.positions // T).bincount(minlength=B)
    own = torch.arange(batch.reference.shape[1], device=losses.device) < n_tokens[:, None]
    levels = batch.reference[own].to(losses)
    return ngdiff.token_level_objective(losses, margins, levels).sum() / batch.n_tokens


def loss_functions(model, batches, config, loss=mean_loss):
    """One task's loss as ngdiff.py takes it: functions that add up to L, one for each micro-batch
    (or one for all of them, which threads share)."""
    return workers.shared(loss, model, batches, config, one=config.micro_batch > 0)


def forget_functions(model, batches, config):
    """The same for what is raised: L_F, or the objective of npo or of the level loss."""
    loss = token_objective if config.level == "token" else \
        objective if config.level or config.method == "npo" else mean_loss
    return loss_functions(model, batches, config, loss)


# --------------------------------------------------------------------------- training

def train(stage, examples, config):
    """Train stage.model on `examples` by AdamW for stage.steps steps, to know them by heart.

    A short warm-up, then linear decay to 0. Weight decay keeps all answers near probability 0.99:
    gradient ascent pushes a token in proportion to 1 - p, so unequal probabilities would be
    forgotten unevenly.
    """
    model, steps, params = stage.model, stage.steps, list(stage.model.parameters())
    saved = stage.restore()                  # sets weights, step and log of a killed run
    if stage.step < steps:                   # AdamW's moments
        m, v = saved or ([torch.zeros_like(p) for p in params] for _ in range(2))
    order = data.shuffled(len(examples), config.train_batch, config.seed, stage.step)
    for step in range(stage.step, steps):
        warm_up, decay = (step + 1) / (0.1 * steps), (1 - step / steps) / 0.9
        lr = config.train_lr * min(1, warm_up, decay)
        batch = micro_batches([examples[i] for i in next(order)], config)
        loss, grad = ngdiff.loss_and_grad(loss_functions(model, batch, config), params, total)
        # torch's AdamW as a function: the class takes 2 s to load.
        taken = [torch.tensor(float(step), device=config.device) for _ in params]
        with torch.no_grad():
            adamw(params, grad, m, v, [], taken, lr=lr, beta1=0.9, beta2=0.95, eps=1e-8,
                  weight_decay=config.weight_decay, amsgrad=False, maximize=False, fused=True)
        if (step + 1) % max(1, steps // 10) == 0:        # rarely: .item() makes the CPU wait
            stage.record(step, loss=loss.item())
        stage.save(step + 1, [m, v] if step + 1 < steps else None)     # the end needs no moments


# --------------------------------------------------------------------------- unlearning

def unlearn(stage, target, examples, config):
    """Unlearn stage.model, which starts as a copy of `target`: the paper's "Algorithm 1", or
    another method. examples: encoded rows by set. If the method finds no direction, stage.stopped
    says why."""
    model, params = stage.model, list(stage.model.parameters())
    saved = stage.restore()                  # sets weights, step and log of a killed run
    state = ngdiff.State(**(saved or {"lr": config.lr, "adam": config.optimizer == "adam"}))
    method, c = ("gdiff", 0.5) if config.method == "npo" else (config.method, config.c)
    reference = references(target, examples, stage.log, config)
    batches = task_batches(examples, config, stage.step, reference)
    # AutoLR looks at the step's retain batch, or with a budget at the same rows in every step.
    exact = replace(config, dtype="float32")
    rows = next(data.shuffled(len(examples["retain"]), WATCHED, f"watched {config.seed}"))
    watched = micro_batches([examples["retain"][i] for i in rows], config) if config.budget else []
    for step in range(stage.step, stage.steps):
        measured = {}
        if config.level and step % LEVEL_EVERY == 0:
            measured = measuring.level(model, examples, config.seed, config.level)
            reference[:] = torch.tensor(measured["levels"])
        retain, forget = next(batches)
        try:
            numbers = ngdiff.step(
                loss_functions(model, retain, config), forget_functions(model, forget, config),
                params, state, method=method, c=c, lazy=config.lazy, total=total,
                memory=MEMORY if config.budget else 0, budget=config.budget or None,
                probe_on=loss_functions(model, watched or retain, exact)
                if config.budget or config.dtype != "float32" else None,
                approach=APPROACH if config.level else None)
        except ngdiff.Stationary as e:
            stage.stopped = f"at step {step}: {e}"
            stage.save(step, vars(state))
            break
        stage.record(step, cos=numbers.cos, **numbers._asdict(), **measured)
        stage.save(step + 1, vars(state))


def references(target, examples, log, config):
    """MicroBatch's `reference` for each forget row: with --level the last levels in the log, which
    change during a run; None if no objective needs it."""
    if config.method == "npo":
        return torch.tensor([x.sum() for x in measuring.token_losses(target, examples["forget"])])
    longest = max(len(e.tokens) - e.n_prompt for e in examples["forget"])
    none = [0.0] * longest if config.level == "token" else 0.0
    found = [row["levels"] for row in log if "levels" in row] or [[none] * len(examples["forget"])]
    return torch.tensor(found[-1]) if config.level else None


def task_batches(examples, config, start, reference=None):
    """Endless pairs of a retain and a forget batch, as lists of MicroBatches, from step `start`;
    the forget rows have their `reference` as it is when the pair is asked for."""
    orders = [data.shuffled(len(examples[name]), config.batch, f"{name} {config.seed}", start)
              for name in ("retain", "forget")]
    for retain, forget in zip(*orders):
        yield (micro_batches([examples["retain"][i] for i in retain], config),
               micro_batches([examples["forget"][i] for i in forget], config,
                             None if reference is None else reference[forget]))


# --------------------------------------------------------------------------- a run's data, models

class Run(NamedTuple):
    """Everything that stands ready before the first stage."""
    config: Config
    rows: dict           # sets of rows, see data.py
    tokenizer: object
    examples: dict       # unlearning's sets, encoded: retain, forget, holdout
    learned: dict        # what the target and the retrain model learn: lists of encoded rows; with
                         # --epochs 0 the target only
    initial: gpt.GPT     # both before training


def prepare(config):
    """Read and check all that a user can get wrong. Writes nothing; ValueError on a mistake."""
    rows = sources.load(config)
    tokenizer, initial = weights.initial_model(config, rows)
    initial.to(config.device)
    encoded = sources.encode(tokenizer, rows, initial.config.block_size)
    # No batch has the questions on forgotten texts: does forgetting a text remove its facts too?
    examples = {"retain": encoded["retain"] + encoded.get("retain_questions", []),
                "forget": encoded["forget"], "holdout": encoded.get("holdout", [])}
    # With fewer rows the gradient at a memorised minimum is mostly noise. With --level the
    # steps become shorter, so fewer rows are enough, and more steps come nearer to the levels.
    share = -(-len(examples["retain"]) // (6 if config.level else 2))
    config = replace(config, batch=config.batch or min(400, share),
                     n_layer=initial.config.n_layer, n_embd=initial.config.n_embd)   # of --init
    flags.check_sets(config, examples)
    learned = {title: [e for name in encoded if not name.startswith(without)
                       for e in encoded[name]]
               for title, without in (("target", "holdout"), ("retrain", ("holdout", "forget")))
               if config.epochs or title == "target"}
    return Run(config, rows, tokenizer, examples, learned, initial)


def training_stage(run, title, threads):
    """The Stage that trains the target or the retrained model, before it begins."""
    examples, config, model = run.learned[title], run.config, copy.deepcopy(run.initial)
    steps = round(config.epochs * -(-len(examples) // config.train_batch))
    steps = max(1, steps) if config.epochs else 0
    made_of = names.ingredients((train, type(model), Stage), config, examples, steps=steps,
                                threads=threads, initial=names.model_digest(model))
    return Stage(title, steps, model, config.cache, made_of)


def train_one(run, title, threads, name):
    """Train and measure one of the two in a process of its own. Its results are its files."""
    stage = training_stage(run, title, threads)
    if stage.name != name:
        raise processes.Refused("the code was edited while the command ran: start it again")
    train(stage, run.learned[title], run.config)
    report.measured(run, stage)              # here, where both are measured side by side


def train_both(run):
    """{"target": Stage, "retrain": Stage}: trained side by side with half of the threads each. On
    a GPU, under torchrun and from IN_TURN parameters on: one after the other."""
    alone = run.config.device == "cpu" and processes.rank_and_size()[1] == 1 and \
        sum(p.numel() for p in run.initial.parameters()) < IN_TURN
    threads = max(1, torch.get_num_threads() // (2 if alone else 1))
    stages = {title: training_stage(run, title, threads) for title in run.learned}
    jobs = [(run, title, threads, stage.name) for title, stage in stages.items()
            if alone and not stage.finished()]
    list(processes.side_by_side(train_one, jobs, min(2, torch.get_num_threads()), threads))
    for title, stage in stages.items():
        train(stage, run.learned[title], run.config)         # or read what was trained
    return stages


def unlearning_stage(run, target):
    """The Stage that unlearns, from the target's, before it begins. The number of steps is no part
    of its name: step t does not depend on it. (If yours does, read config.steps in `unlearn`.)"""
    config, model = run.config, copy.deepcopy(target.model)
    made_of = names.ingredients((unlearn, type(model), Stage), config, run.examples,
                                target=target.name, threads=torch.get_num_threads())
    return Stage(config.method, config.steps, model, config.cache, made_of)


def unlearned(run, target):
    """The Stage of the unlearned model, from the target's."""
    stage = unlearning_stage(run, target)
    try:
        unlearn(stage, target.model, run.examples, run.config)
    except FloatingPointError as e:
        raise FloatingPointError(f"{stage.title}, step {stage.step}: {e}: try a smaller --lr"
                                 ) from None
    return stage


def main(argv=None):
    """The command line `argv` from beginning to end: read, train, unlearn, report."""
    with flags.mistakes():
        config = flags.parse(Config, argv, __doc__)
        processes.join_torchrun(config.device)
        run = prepare(config)
    with flags.troubles():
        started = time.monotonic()
        stages = train_both(run)
        stages[config.method] = unlearned(run, stages["target"])
        if processes.rank_and_size()[0] == 0:
            report.finish(run, stages, started)


if __name__ == "__main__":
    main()
