"""The whole story in one command: train a small GPT, make it forget, measure what happened.

    python train.py --tiny                          built-in data, a minute on two cores
    python train.py --tiny --method gdiff           another method, from the cached models
    python train.py --data DIR --authors 40         TOFU's published files in DIR
    torchrun --nproc_per_node 2 train.py --tiny     the same run, shared by two processes

In this order: the flags, a batch's loss, training, unlearning (`unlearn` is the loop, its
mathematics is ngdiff.py's), and the run that joins them.
"""
import copy
import hashlib
import os
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import NamedTuple

import harness       # first: it sets how torch's threads wait
import torch

import data
import model as gpt
import ngdiff
from data import SPLITS
from harness import flags, measuring, processes, report, sources, stages, weights
from harness.flags import flag
from harness.processes import total

# --------------------------------------------------------------------------- configuration

@dataclass
class Config:
    """Every flag of the command line, with its type, default and help."""
    # data
    tiny: bool = flag(False, "the built-in data; the default where --data is not given")
    data: str = flag("", "TOFU's folder, a file of rows or a folder of texts (README, \"Your own "
                     "data\"); muse: the built-in authors as texts")
    forget: str = flag("forget10", "share of the authors to forget", choices=tuple(SPLITS))
    authors: int = flag(160, "how many authors in all", data=200)
    documents: int = flag(0, "MUSE's folder: so many documents of each file; default: all")
    tokenizer: str = flag("words", "the data's own words, or GPT-2's encoding",
                          choices=("words", "gpt2"))
    seed: int = flag(0, "random seed of the data, the weights and the batches")
    # model
    n_layer: int = flag(2, "transformer blocks")
    n_embd: int = flag(128, "width", muse=128, data=192)
    n_head: int = flag(4, "attention heads")
    init: str = flag("", "published GPT-2 weights to start from (.safetensors, .bin, .pt or .pth)")
    # training the target and the retrained model
    epochs: float = flag(40, "passes over the training rows", muse=8)
    train_batch: int = flag(32, "rows a step", muse=8)
    train_lr: float = flag(3e-3, "AdamW's peak learning rate; warm-up, then linear to 0", init=1e-4)
    weight_decay: float = flag(0.3, "AdamW's", init=0.01, muse=0.05)
    # unlearning
    method: str = flag("ngdiff", "which direction to step along", choices=ngdiff.METHODS)
    level: bool = flag(False, "ours: raise each forget row to the loss of unseen rows, not further")
    c: float = flag(0.9, "gdiff's weight on the retain gradient, 0 to 1")
    optimizer: str = flag("sgd", "apply d itself, or Adam's preconditioning of it",
                          choices=("sgd", "adam"))
    lr: float = flag(0.0, "learning rate: AutoLR's first guess, or the fixed one; "
                     "default: the method's (RATES in harness/flags.py)")
    autolr: bool = flag(True, "fit the learning rate (default: with ngdiff alone)")
    lazy: int = flag(10, "AutoLR fits at every so many steps")
    steps: int = flag(80, "unlearning steps")
    batch: int = flag(0, "retain rows a step, and forget rows, at most; default: half of the "
                      "retain rows (--level: a quarter), but no more than 400; 64 of MUSE's",
                      muse=64)
    micro_batch: int = flag(0, "rows in memory at once, same result; default: 72 on the CPU, "
                            "where that is fastest, the whole batch on a GPU")
    # the run
    out: str = flag("", "run folder; default: out/ and a name made of the flags")
    cache: str = flag("out/cache", "folder of the stages' states")
    device: str = flag("auto", "auto: cuda where there is one", choices=("auto", "cpu", "cuda"))
    dtype: str = flag("float32", "of the passes; parameters, gradients and AutoLR's losses stay "
                      "float32", choices=("float32", "bfloat16"))


# --------------------------------------------------------------------------- a batch's loss

class Part(NamedTuple):
    """A micro-batch of one task, with what its loss needs to know of the whole batch."""
    batch: data.Batch
    n_tokens: int                  # labelled tokens of the whole batch
    n_rows: int                    # rows of the whole batch
    loss_target: torch.Tensor      # (B,) npo's: each row's summed loss under the target model


def split(examples, config, loss_target=None):
    """A batch as Parts of config.micro_batch rows. Each of n processes takes every n-th row.
    Rows of one length go together: less padding, and a working set nearer to a CPU's caches."""
    n_tokens, n_rows = sum(len(e.tokens) - e.n_prompt for e in examples), len(examples)
    rank, n = processes.rank_and_size()
    examples, parts = examples[rank::n], []
    loss_target = None if loss_target is None else loss_target[rank::n]
    size = config.micro_batch or (72 if config.device == "cpu" else n_rows)
    for indices in data.by_length(examples, size):
        batch = data.collate([examples[i] for i in indices]).to(config.device)
        own = None if loss_target is None else loss_target[indices].to(config.device)
        parts.append(Part(batch, n_tokens, n_rows, own))
    return parts


def part_loss(model, part, config, level=None):
    """A part's share of its batch's loss (0-dim float64): the mean over the batch's answer tokens.

    In the forget loss's place: npo's objective where the part has loss_target; with `level` (nats
    per token) the level loss.
    """
    with torch.autocast(config.device, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        losses = model(part.batch).double()                               # (M,)
    if part.loss_target is None and level is None:
        return losses.sum() / part.n_tokens
    zeros = losses.new_zeros(len(part.batch.tokens))
    loss_rows = zeros.index_add(0, part.batch.row_of, losses)             # (B,)
    if level is None:
        return ngdiff.npo_objective(loss_rows, part.loss_target).sum() / part.n_rows
    n_tokens = zeros.index_add(0, part.batch.row_of, torch.ones_like(losses))
    return ngdiff.level_objective(loss_rows, n_tokens, level).sum() / part.n_tokens


def losses(model, parts, config, level=None):
    """The parts' losses as ngdiff.py takes them: functions that add up to the batch's loss."""
    return [partial(part_loss, model, part, config, level) for part in parts]


# --------------------------------------------------------------------------- training

def train(state, examples, config):
    """Train state.model on `examples` by AdamW until it knows them by heart. Yields each step.

    Made for speed: a short warm-up to a high learning rate, then linearly down to 0. Weight decay
    keeps the answers' probabilities near 0.99 instead of 0.9999, and alike: gradient ascent pushes
    a token in proportion to 1 - p, so where these differ, forgetting is uneven.
    """
    model, steps = state.model, training_steps(examples, config)
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params, lr=config.train_lr, betas=(0.9, 0.95),
                                  weight_decay=config.weight_decay, fused=True)
    if state.optimizer:
        optimizer.load_state_dict(state.optimizer)
    order = data.shuffled(len(examples), config.train_batch, config.seed, state.step)
    for step in range(state.step, steps):
        warm_up, decay = (step + 1) / (0.1 * steps), (1 - step / steps) / 0.9
        for group in optimizer.param_groups:
            group["lr"] = config.train_lr * min(1, warm_up, decay)
        parts = split([examples[i] for i in next(order)], config)
        loss, grad = ngdiff.loss_and_grad(losses(model, parts, config), params, total)
        for p, g in zip(params, grad):
            p.grad = g
        optimizer.step()
        if (step + 1) % max(1, steps // 10) == 0:      # seldom: a GPU has to wait for it
            state.log.append({"step": step, "loss": loss.item()})
        state.step, state.optimizer = step + 1, optimizer.state_dict()
        yield


def training_steps(examples, config):
    return max(1, round(config.epochs * -(-len(examples) // config.train_batch)))


# --------------------------------------------------------------------------- unlearning

LEVEL_EVERY = 10     # steps between two measurements of the level


def unlearn(state, target, examples, config):
    """Unlearn state.model, which starts as a copy of `target`: the paper's "Algorithm 1", or
    another method in its place. examples: encoded rows by set. Yields each step; where no step is
    left to take, state.stopped says why."""
    model, carried = state.model, ngdiff.State(**state.optimizer or {
        "lr": config.lr, "adam": config.optimizer == "adam"})
    state.optimizer = vars(carried)               # not a copy: what a step changes is saved
    exact = replace(config, dtype="float32")
    batches = task_batches(target, examples, config, state.step)
    for step, (retain, forget) in zip(range(state.step, config.steps), batches):
        measured = {}
        if config.level and step % LEVEL_EVERY == 0:
            state.level, measured = measure_level(model, examples)
        try:
            numbers = ngdiff.step(
                losses(model, retain, config), losses(model, forget, config, state.level),
                model.parameters(), carried, method=config.method, c=config.c,
                lazy=config.lazy if config.autolr else 0, total=total,
                probe_on=losses(model, retain, exact) if exact != config else None)
        except ngdiff.Stationary as e:
            state.stopped = f"at step {step}: {e}"
            return
        state.log.append({"step": step, "cos": numbers.cos, **numbers._asdict(), **measured})
        state.step = step + 1
        yield


def task_batches(target, examples, config, start):
    """Endless pairs of a retain and a forget batch, as lists of Parts, from step `start` on."""
    orders = [data.shuffled(len(examples[name]), config.batch, f"{name} {config.seed}", start)
              for name in ("retain", "forget")]
    loss_target = None
    if config.method == "npo":
        loss_target = torch.tensor([x.sum() for x in
                                    measuring.token_losses(target, examples["forget"])])
    for retain, forget in zip(*orders):
        yield (split([examples["retain"][i] for i in retain], config),
               split([examples["forget"][i] for i in forget], config,
                     None if loss_target is None else loss_target[forget]))


def measure_level(model, examples):
    """(level, what log.csv shows of it): the level is the model's mean loss on the holdout rows,
    nats per answer token. It drifts as the model changes, so it is measured again and again."""
    holdout, forget = (measuring.token_losses(model, examples[k]) for k in ("holdout", "forget"))
    level = sum(x.sum() for x in holdout) / sum(map(len, holdout))
    spread = (sum((x.mean() - level)**2 for x in forget) / len(forget))**0.5
    plain = sum(x.sum() for x in forget) / sum(map(len, forget))
    return float(level), {"level": float(level), "level_spread": float(spread),
                          "loss_forget_set": float(plain)}


# --------------------------------------------------------------------------- the run

class Run(NamedTuple):
    """Everything that stands ready before the first stage."""
    config: Config
    rows: dict           # sets of rows, see data.py
    tokenizer: object
    examples: dict       # unlearning's sets, encoded: retain, forget, holdout
    learned: dict        # what the target and the retrain model learn: lists of encoded rows
    initial: gpt.GPT     # both before training


def prepare(config):
    """Read and check all that a user can get wrong. Writes nothing; ValueError on a mistake."""
    rows = sources.load(config)
    tokenizer = data.word_tokenizer(rows) if config.tokenizer == "words" else weights.gpt2_tokenizer()
    initial = weights.initial_model(config, tokenizer, rows).to(config.device)
    encoded = sources.encode(tokenizer, rows, initial.config.block_size)
    # The questions on forgotten texts are in no batch: do the facts go with the text?
    examples = {"retain": encoded["retain"] + encoded.get("retain_questions", []),
                "forget": encoded["forget"], "holdout": encoded.get("holdout", [])}
    if config.level and not examples["holdout"]:
        raise ValueError(f"--level: {config.data} has no holdout rows to measure the level on")
    # With fewer rows the gradient at a memorised minimum is mostly noise (README, "The batch").
    share = 4 if config.level else 2
    config = replace(config, batch=config.batch or min(400, -(-len(examples["retain"]) // share)))
    flags.check_processes(config, examples)
    learned = {title: [e for name in encoded if not name.startswith(without)
                       for e in encoded[name]]
               for title, without in (("target", "holdout"), ("retrain", ("holdout", "forget")))}
    return Run(config, rows, tokenizer, examples, learned, initial)


def model_path(run, title, threads):
    """Where the State of the target or the retrain model is kept. The name is made of all that
    determines it, the number of threads that it is trained with included."""
    config = run.config
    settings = {k: getattr(config, k) for k in ("seed", "epochs", "train_batch", "train_lr",
                                                "weight_decay", "micro_batch", "device", "dtype")}
    if config.init:
        with open(config.init, "rb") as f:
            settings["init"] = hashlib.file_digest(f, "sha256").hexdigest()
    code = (gpt, weights.initial_model, data.collate, data.shuffled, data.by_length, split,
            part_loss, losses, train, training_steps, ngdiff.loss_and_grad)
    key = stages.key([asdict(run.initial.config), settings, run.learned[title]], code, threads)
    return os.path.join(config.cache, f"{title}-{key}.state")


def trained(run, title, path):
    """The State of the target or the retrain model: read from `path`, and trained as far as it
    still has to be."""
    examples, model = run.learned[title], copy.deepcopy(run.initial)
    state = stages.load(path, model) or stages.State(model)
    loop = train(state, examples, run.config)
    return stages.run(title, path, state, loop, training_steps(examples, run.config))


def train_one(config, title, path):
    """`trained`, in a process of its own: what counts is the file that it writes."""
    trained(prepare(config), title, path)


def both_models(run):
    """{"target": State, "retrain": State}: from the cache, or trained side by side with half of the
    threads each; on a GPU, or where processes share every batch, one after the other."""
    threads = torch.get_num_threads()
    one_by_one = run.config.device == "cuda" or processes.rank_and_size()[1] > 1
    half = threads if one_by_one else max(1, threads // 2)
    paths = {title: model_path(run, title, half) for title in run.learned}
    jobs = [(run.config, title, path) for title, path in paths.items() if not one_by_one and
            stages.steps_done(path) < training_steps(run.learned[title], run.config)]
    for _ in processes.side_by_side(train_one, jobs, min(2, threads), half):
        pass
    return {title: trained(run, title, path) for title, path in paths.items()}


def unlearned(run, target):
    """The State of the run that the flags describe: read from the cache, and made as far as it is
    missing. Its name leaves out the number of steps, on which step t does not depend."""
    config, threads = run.config, torch.get_num_threads()
    settings = {k: getattr(config, k) for k in ("method", "level", "c", "optimizer", "lr", "autolr",
                                                "lazy", "batch")}
    code = (ngdiff, gpt, data, split, part_loss, losses, unlearn, task_batches,
            measure_level)
    start = os.path.basename(model_path(run, "target", threads))
    key = stages.key([start, settings, run.examples], code, threads)
    path, model = os.path.join(config.cache, f"unlearn-{key}.state"), copy.deepcopy(target)
    state = stages.load(path, model)
    if state and state.step > config.steps:       # a longer run is there: it can't be shortened
        path, state, model = None, None, copy.deepcopy(target)
    state = state or stages.State(model)
    loop = unlearn(state, target, run.examples, config)
    return stages.run(config.method, path, state, loop, config.steps)


def ready(argv):
    """The command line, checked, and all that is read before the first stage: a Run."""
    config = flags.parse(Config, argv, __doc__)
    processes.join_torchrun(config.device)
    return prepare(config)


def story(run):
    """Train, unlearn, report."""
    started = time.time()
    states = both_models(run)
    states[run.config.method] = unlearned(run, states["target"].model)
    if processes.rank_and_size()[0] == 0:
        report.finish(run, states, started)


def main(argv=None):
    return flags.command(ready, story, argv)


if __name__ == "__main__":
    processes.leave(main())
