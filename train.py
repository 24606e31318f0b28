"""The whole story in one command: train a small GPT, make it forget, measure what happened.

    python train.py --tiny                              built-in data, about a minute on two cores
    python train.py --tiny --method gdiff --c 0.9       another method, from the cached models
    python train.py --tiny --compare                    every method, five seeds, table and figure
    python train.py --data DIR --authors 40             TOFU's published files in DIR
    torchrun --nproc_per_node 2 train.py --tiny         the same run, shared by two processes

In this order below: the flags, the files, training the *target* model on everything and the
*retrained* model on everything but the forget set (both cached), and unlearning the target.
The loop is `unlearn`; the mathematics in it is ngdiff.py's; measuring and drawing what came out,
and every command that makes more than one run, is experiments.py's.
"""
import argparse
import contextlib
import copy
import csv
import glob
import hashlib
import inspect
import io
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from dataclasses import replace as changed
from functools import partial
from importlib.metadata import version

import torch
import torch.distributed as dist

import data as data_module
import metrics
import model as model_module
import ngdiff
from data import by_length, collate, encode_gold, shuffled
from model import GPT, GPTConfig, from_gpt2, load_saved

FITS_AT_START = 60   # AutoLR's first step: at most so many fits (a factor of 2 each)


# --------------------------------------------------------------------------- configuration

def knob(default, text, tofu=None, choices=None):
    """A command line flag: its default, help, another default for --data, allowed values."""
    return field(default=default, metadata=dict(help=text, tofu=tofu, choices=choices))


@dataclass
class Config:
    """Every knob: a flag of the command line with its type, default and help."""
    # data
    tiny: bool = knob(False, "the built-in mini-TOFU and a model to match")
    data: str = knob("", "folder with TOFU's published files, or with text of your own (see "
                     "README.md); muse: the built-in authors as passages of text")
    forget: str = knob("forget10", "share of the authors to forget",
                       choices=tuple(data_module.SPLITS))
    authors: int = knob(160, "how many authors in all", tofu=200)
    tokenizer: str = knob("words", "the data's own words, or tiktoken's GPT-2 encoding",
                          choices=("words", "gpt2"))
    seed: int = knob(0, "random seed of the data, the weights and the batches")
    # model
    n_layer: int = knob(2, "transformer blocks")
    n_head: int = knob(4, "attention heads")
    n_embd: int = knob(128, "width", tofu=192)
    block_size: int = knob(0, "context in tokens; 0: as long as the longest row")
    init: str = knob("", "published GPT-2 weights to start from (.bin, .pt or .safetensors)")
    # training the target and the retrained model
    epochs: float = knob(40, "passes over the training rows")
    train_batch: int = knob(32, "rows a step")
    train_lr: float = knob(3e-3, "AdamW's peak learning rate; warm-up, then linear to 0")
    weight_decay: float = knob(0.3, "AdamW's, per unit of learning rate; keeps p a little below 1")
    # unlearning
    method: str = knob("ngdiff", "which direction to step along", choices=ngdiff.METHODS)
    c: float = knob(0.5, "gdiff's weight on the retain gradient, 0 to 1")
    optimizer: str = knob("sgd", "what is applied: d itself, or Adam's preconditioning of it",
                          choices=("sgd", "adam"))
    lr: float = knob(0.01, "learning rate: AutoLR's first guess, or the fixed one")
    autolr: bool = knob(True, "fit the learning rate (only ngdiff does so by default)")
    lazy: int = knob(10, "AutoLR fits every so many steps")
    steps: int = knob(80, "unlearning steps; with --stop holdout a bound, 250 unless given")
    stop: str = knob("steps", "after --steps, or when the mean forget loss reaches the mean loss "
                     "on the holdout authors", choices=("steps", "holdout"))
    batch: int = knob(0, "retain rows a step, and forget rows, at most; 0: half of the retain "
                      "rows, but no more than 400")
    micro_batch: int = knob(0, "rows in memory at once, with the same result; 0: 72 on the CPU, "
                            "where that is the fastest, the whole batch on a GPU")
    # more than one run, or more than a run (experiments.py)
    compare: bool = knob(False, "every method over several seeds: table, figure, ranking")
    seeds: int = knob(5, "how many seeds --compare reports, from 0 on")
    ablate: str = knob("", "one setting over a range of values, a run each",
                       choices=("lazy", "lr", "batch", "forget", "size"))
    audit: bool = knob(False, "after the run: is it gone or hidden? relearn, quantize, extract")
    # the run
    out: str = knob("", "run folder; empty: out/<data>-<method>-seed<seed>, or -compare, "
                    "-ablate-<name>")
    cache: str = knob("out/cache", "folder of the target and retrained models")
    device: str = knob("auto", "cpu, cuda, or auto: cuda where there is one",
                       choices=("auto", "cpu", "cuda"))
    dtype: str = knob("float32", "of the passes; parameters, gradients and AutoLR stay float32",
                      choices=("float32", "bfloat16"))
    compile: bool = knob(False, "compile the model: a minute or so at first, then faster")
    checkpoint: float = knob(10, "seconds between two checkpoints of a run")
    resume: bool = knob(False, "go on with the run in the run folder")


def parse(argv):
    """Command line to Config, every value checked. ValueError (or argparse) on a user's mistake."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawTextHelpFormatter)
    for f in fields(Config):
        tofu = f.metadata["tofu"]
        unless = "" if tofu is None else f", {tofu} with --data"
        text = f.metadata["help"]
        if f.default not in (False, "") or f.type in (int, float):
            text += f" (default: {f.default}{unless})"
        kind = dict(action=argparse.BooleanOptionalAction) if f.name == "autolr" else \
            dict(action="store_true") if f.type is bool else \
            dict(type=f.type, choices=f.metadata["choices"])
        parser.add_argument(f"--{f.name}", default=None, help=text, **kind)
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    if given.get("data") == "muse":
        given["tiny"] = True         # built-in data too: the same model, --tiny said or not
    tofu = "data" in given and not given.get("tiny")
    defaults = {f.name: f.metadata["tofu"] if tofu and f.metadata["tofu"] is not None
                else f.default for f in fields(Config)}
    defaults["autolr"] = given.get("method", "ngdiff") == "ngdiff"
    if given.get("stop") == "holdout":
        defaults["steps"] = 250
    config = Config(**{**defaults, **given})
    check(config, given)
    if config.device == "auto":
        config.device = "cuda" if torch.cuda.is_available() else "cpu"
    name = os.path.basename(os.path.normpath(config.data)) if config.data else "tiny"
    what = "compare" if config.compare else f"ablate-{config.ablate}" if config.ablate else \
        f"{config.method}-seed{config.seed}"
    config.out = config.out or f"out/{name}-{what}"
    return config


def check(config, given):
    """ValueError for what would fail later, or be ignored."""
    if config.tiny == bool(config.data) and config.data != "muse":
        raise ValueError("say either --tiny (the built-in data) or --data DIR (TOFU's files, or "
                         "text of your own) or --data muse")
    for name in ("authors", "forget"):
        if name in given and not config.tiny and data_module.is_text(config.data):
            raise ValueError(f"--{name}: {config.data} holds text of your own, which counts no "
                             "authors; what is to be forgotten is its forget.txt")
    for name, low in dict(authors=2, n_layer=1, n_head=1, n_embd=1, block_size=0, train_batch=1,
                          lazy=1, steps=1, batch=0, micro_batch=0, seeds=1, checkpoint=0).items():
        if not getattr(config, name) >= low:
            raise ValueError(f"--{name} {getattr(config, name)}: must be {low} or more")
    if not config.weight_decay >= 0:
        raise ValueError(f"--weight_decay {config.weight_decay}: must be 0 or more")
    for name in ("lr", "train_lr", "epochs"):
        if not (math.isfinite(getattr(config, name)) and getattr(config, name) > 0):
            raise ValueError(f"--{name} {getattr(config, name)}: must be a positive number")
    if not 0 <= config.c <= 1:
        raise ValueError(f"--c {config.c}: must be from 0 to 1")
    if "c" in given and config.method != "gdiff":
        raise ValueError(f"--c: only --method gdiff has a c, {config.method} has none")
    if "lazy" in given and not config.autolr:
        raise ValueError("--lazy: there is no AutoLR to be lazy; add --autolr")
    check_together(config, given)
    if config.n_embd % config.n_head:
        raise ValueError(f"--n_embd {config.n_embd}: must be a multiple of --n_head "
                         f"{config.n_head}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here; use --device cpu")


def check_together(config, given):
    """ValueError for flags that belong to another command than the one that was given."""
    several = "compare" if config.compare else "ablate" if config.ablate else ""
    if "seeds" in given and not config.compare:
        raise ValueError("--seeds: only --compare runs several; one run takes --seed")
    if config.seeds > 100:
        raise ValueError(f"--seeds {config.seeds}: 100 at most (rates are chosen on seed 100)")
    varied = ("n_layer", "n_embd", "init") if config.ablate == "size" else (config.ablate,)
    ignored = {"compare": ("ablate", "seed", "method", "c", "optimizer", "lr", "autolr", "lazy",
                           "stop"), "ablate": varied}.get(several, ())
    for name in ignored + (("audit", "resume") if several else ()):
        if name in given:
            raise ValueError(f"--{several} and --{name}: --{several} sets or has no --{name}")
    for name in ("n_layer", "n_head", "n_embd", "block_size"):
        if config.init and name in given:
            raise ValueError(f"--{name}: the file of --init says how large the model is")
    if several and "LOCAL_RANK" in os.environ:
        raise ValueError(f"--{several} starts processes of its own: run it without torchrun")
    if config.ablate == "lazy" and not config.autolr:
        raise ValueError(f"--ablate {config.ablate}: there is no AutoLR to look at; add --autolr")


def check_folder(flag, folder):
    """ValueError unless `folder` is, or could be made, a folder that can be written to."""
    at = os.path.abspath(folder)
    while not os.path.lexists(at):
        at = os.path.dirname(at)
    if not (os.path.isdir(at) and os.access(at, os.W_OK | os.X_OK)):
        raise ValueError(f"{flag} {folder}: {at} is not a folder that can be written to")


# --------------------------------------------------------------------------- files

def replace(path, write):
    """Write a file in one move: `write(temporary path)`, then rename. A reader, or a run that is
    killed, sees the old file or the new one and never half of one. Of several processes, the
    first alone writes."""
    if processes()[0] > 0:
        return
    temporary = f"{path}.{os.getpid()}.tmp"       # two commands may be making the same model
    write(temporary)
    os.replace(temporary, path)


def write_text(path, text):
    def write(temporary):
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(text)
    replace(path, write)


def remove(*paths):
    """Delete those of the files that exist; of several processes, the first does it."""
    for path in paths:
        if processes()[0] == 0:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)


def read_checkpoint(path, keys):
    """A checkpoint's dict, or ValueError if the file is damaged or lacks one of `keys`."""
    try:
        saved = load_saved(path)
    except ValueError as e:
        raise ValueError(f"{e}; delete it to start over") from None
    if not isinstance(saved, dict) or not set(keys) <= saved.keys():
        raise ValueError(f"{path}: a checkpoint of something else; delete it to start over")
    return saved


def check_same(config, saved, path):
    """ValueError if a saved run was made with other flags, naming the first that differs."""
    free = ("out", "cache", "device", "resume", "checkpoint", "audit", "compile")
    for name, value in asdict(config).items():
        if name not in free and saved.get(name) != value:
            raise ValueError(f"{path} was made with --{name} {saved.get(name)}, not {value}: "
                             "resume with the same flags, or start anew without --resume")


class Progress:
    """One line an interval with the time left."""

    def __init__(self, title, start, end):
        self.title, self.start, self.end, self.t0 = title, start, end, time.time()

    def line(self, step, text):
        done, left = step - self.start, self.end - step
        seconds = (time.time() - self.t0) / max(done, 1) * left
        width = len(str(self.end))
        print(f"{self.title:>8}  step {step:{width}}/{self.end}  {text}  {seconds:4.0f} s left",
              flush=True)


# --------------------------------------------------------------------------- several processes

def processes():
    """(number of this process, how many there are): (0, 1) unless torchrun started several."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def start_processes(device):
    """Join the other processes of a torchrun, if that is what started this one."""
    if "LOCAL_RANK" in os.environ:
        local, n_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if device == "cuda" and local >= n_gpus:
            raise ValueError(f"--nproc_per_node: more processes than the {n_gpus} GPUs here")
        if device == "cuda":
            torch.cuda.set_device(local)
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
        if dist.get_rank() > 0:
            sys.stdout = open(os.devnull, "w")   # the first speaks for all


def agree(run):
    """Wait until every process has read what it needs (nobody writes before that), and make sure
    that all found the same: one that trains while another does not would wait for ever."""
    if dist.is_initialized():
        mine = [cached for *_, cached, _ in run.models.values()], bool(run.state)
        found = [None] * dist.get_world_size()
        dist.all_gather_object(found, mine)
        if any(f != mine for f in found):
            raise ValueError("--cache, --out: the processes do not find the same files there; they "
                             "need one disk, and no other command at work on it: start again")


def total(tensors):
    """Sum each tensor over all processes, in place; alone, nothing is to be done."""
    if dist.is_initialized():
        for handle in [dist.all_reduce(t, async_op=True) for t in tensors]:
            handle.wait()
    return tensors


def over_processes(loss_and_grad):
    """A loss and its gradient, of which each process holds a share, summed over all of them."""
    loss, grad = loss_and_grad
    total([loss, *grad])
    return loss, grad


# --------------------------------------------------------------------------- a batch's loss

def loss_parts(model, examples, config, loss_rows_target=None):
    """A batch's loss as functions, one a micro-batch, that add up to it (see ngdiff.py).

    Each is its micro-batch's sum over the whole batch's token count, so rows of unequal length
    weigh the same however they are split; of several processes each gets every n-th row. Rows of
    a length go together: less padding, and on the CPU a working set nearer to its caches. With
    `loss_rows_target` (the frozen target model's summed loss of each row) it is npo's objective
    instead, a mean over rows. A part called with exact=True is not in bfloat16.
    """
    n_rows, n_tokens = len(examples), sum(len(e.tokens) - e.n_prompt for e in examples)
    rank, n = processes()
    examples = examples[rank::n]

    def part(batch, reference, exact=False):
        with torch.autocast(config.device, torch.bfloat16,
                            enabled=config.dtype == "bfloat16" and not exact):
            losses = model(batch).double()                        # (M,)
        if reference is None:
            return losses.sum() / n_tokens
        loss_rows = torch.zeros_like(reference).index_add(0, batch.rows, losses)
        return ngdiff.npo_objective(loss_rows, reference).sum() / n_rows

    size, parts = config.micro_batch or (72 if config.device == "cpu" else len(examples)), []
    for rows in by_length(examples, size):
        batch = collate([examples[i] for i in rows]).to(config.device)
        reference = None if loss_rows_target is None else \
            loss_rows_target[rank::n][rows].to(config.device)
        parts.append(partial(part, batch, reference))
    return parts


def exact_loss(parts):
    """A batch's loss as ngdiff.autolr wants it: over all processes, and in float32 whatever the
    passes are in. A loss of 0.01 in bfloat16 is known to 1 part in 256; what AutoLR looks for, its
    change over one step, is smaller than that."""
    return total([sum(part(exact=True) for part in parts)])[0]


def mean_loss(model, examples, config):
    """Mean next-token loss over `examples`, nats per answer token."""
    small = changed(config, micro_batch=min(256, config.micro_batch or 256))
    return ngdiff.loss_only([partial(exact_loss, loss_parts(model, examples, small))])


# --------------------------------------------------------------------------- act 1 and 2: training

def model_key(config, gpt, examples):
    """A name for what training gives: the same settings, rows, code and torch have the same one.

    The code counts, so that whoever edits the model is not handed the model from before.
    """
    settings = [config.seed, config.epochs, config.train_batch, config.train_lr,
                config.weight_decay, config.device, config.dtype, processes()[1],
                torch.get_num_threads()]
    if config.init:
        with open(config.init, "rb") as f:
            settings.append(hashlib.file_digest(f, "sha256").hexdigest())
    code = [inspect.getsource(x) for x in (model_module, data_module, train_model, loss_parts,
                                           ngdiff.loss_and_grad)]
    text = json.dumps([asdict(gpt), settings, examples, code, torch.__version__])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def train_model(model, examples, config, title, path, saved=None):
    """Train `model` on `examples` by AdamW until it knows them by heart, and write it to `path`.

    Progress is kept in `path`.partial; saved: what was read from there, to go on. The schedule is
    made for speed: a short warm-up to a high learning rate, then linearly down to 0. Weight decay
    keeps the memorised answers' probabilities near 0.99 rather than 0.9999, and alike: gradient
    ascent pushes a token in proportion to 1 - p, so where these differ, forgetting is uneven.
    """
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params, lr=config.train_lr, betas=(0.9, 0.95),
                                  weight_decay=config.weight_decay, fused=True)
    per_epoch = -(-len(examples) // config.train_batch)
    steps, unfinished, start = max(1, round(config.epochs * per_epoch)), path + ".partial", 0
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    order = shuffled(len(examples), config.train_batch, config.seed, start)
    progress, saved_at = Progress(title, start, steps), time.time()
    if config.compile:
        model.compile(dynamic=True, fullgraph=True)
    for step in range(start, steps):
        warm_up, decay = (step + 1) / (0.1 * steps), (1 - step / steps) / 0.9
        for group in optimizer.param_groups:
            group["lr"] = config.train_lr * min(1, warm_up, decay)
        batch = loss_parts(model, [examples[i] for i in next(order)], config)
        loss, grad = over_processes(ngdiff.loss_and_grad(batch, params))
        for p, g in zip(params, grad):
            p.grad = g
        optimizer.step()
        if (step + 1) % max(1, steps // 6) == 0:
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"training the {title}: loss {loss.item()} at step "
                                         f"{step}; try a smaller --train_lr")
            progress.line(step + 1, f"loss {loss.item():.4f}")
        if time.time() - saved_at > config.checkpoint:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                     "step": step + 1}
            replace(unfinished, lambda temporary: torch.save(state, temporary))
            saved_at = time.time()
    replace(path, lambda temporary: torch.save({"model": model.state_dict()}, temporary))
    remove(unfinished, *glob.glob(glob.escape(unfinished) + ".*.tmp"))


# --------------------------------------------------------------------------- act 3: unlearning

LOG_COLUMNS = ("step", "loss_retain", "loss_forget", "norm_retain", "norm_forget", "dot", "cos",
               "lr", "fits", "status", "probed", "slope", "curvature", "loss_forget_set",
               "loss_holdout_set")


def task_batches(model, target, sets, config, start):
    """Endless (retain parts, forget parts) of `model`, a pair a step, from step `start` on."""
    orders = [shuffled(len(sets[part]), config.batch, f"{part} {config.seed}", start)
              for part in ("retain", "forget")]
    loss_rows_target = None
    if config.method == "npo":
        loss_rows_target = torch.tensor([t.sum() for t in
                                         metrics.token_losses(target, sets["forget"])])
    for rows_R, rows_F in zip(*orders):
        yield (loss_parts(model, [sets["retain"][i] for i in rows_R], config),
               loss_parts(model, [sets["forget"][i] for i in rows_F], config,
                          None if loss_rows_target is None else loss_rows_target[rows_F]))


def fresh_state(config, target):
    """What an unlearning run carries from step to step, besides the parameters."""
    adam = ngdiff.adam_state(list(target.parameters())) if config.optimizer == "adam" else None
    return {"step": 0, "lr": config.lr, "adam": adam, "log": [], "seconds": 0.0, "stopped": "",
            "loss_holdout": math.inf}


def unlearn(target, config, sets, state):
    """Unlearn a copy of `target`: the paper's "Algorithm 1", every other method in its place.

    sets: encoded retain, forget and holdout rows. state: from `fresh_state` or a checkpoint,
    brought up to date in place. Yields the model as it is at first and after each step; at the
    end state["stopped"] says why it stopped.
    """
    model = copy.deepcopy(target)
    model.load_state_dict(state.pop("model", target.state_dict()))
    if config.compile:
        model.compile(dynamic=True, fullgraph=True)
    params = list(model.parameters())
    batches = task_batches(model, target, sets, config, state["step"])
    yield model
    if state["stopped"]:                                 # a run that had ended, and is resumed
        return
    for step in range(state["step"], config.steps):
        retain, forget = next(batches)
        loss_retain, grad_retain = over_processes(ngdiff.loss_and_grad(retain, params))
        loss_forget, grad_forget = over_processes(ngdiff.loss_and_grad(forget, params))
        try:
            five = ngdiff.five_numbers(loss_retain, grad_retain, loss_forget, grad_forget)
            a, b = ngdiff.coefficients(config.method, five, config.c)
        except FloatingPointError as e:
            raise FloatingPointError(f"step {step}, {e}: try a smaller --lr") from None
        except ngdiff.Stationary as e:
            state["stopped"] = f"at step {step}: {e}"
            return
        row = {"step": step, **five._asdict(), "cos": five.cos}
        if config.stop == "holdout" and holdout_reached(model, config, sets, state, row):
            state["log"].append(row)
            return
        d = ngdiff.direction(grad_retain, grad_forget, a, b)
        del grad_retain, grad_forget                     # d stands in the memory of the first
        if state["adam"]:
            d = ngdiff.adam_direction(d, state["adam"])
        if config.autolr and step % config.lazy == 0:
            L_R = partial(exact_loss, retain)
            loss_0 = five.loss_retain if config.dtype == "float32" else ngdiff.loss_only([L_R])
            state["lr"], fits = ngdiff.autolr([L_R], params, d, loss_0, state["lr"],
                                              1 if step else FITS_AT_START)
            row |= {**fits[-1]._asdict(), "fits": len(fits)}
        ngdiff.update(params, d, state["lr"])
        row["lr"] = state["lr"]
        state["log"].append(row)
        state["step"] = step + 1
        yield model
    state["stopped"] = f"after {config.steps} steps"


def holdout_reached(model, config, sets, state, row):
    """--stop holdout (ours, not in the paper): is the whole forget set as unlikely to the model
    as authors that it never saw?

    Looks at every step from where the batch's forget loss is half of the holdout loss, so that
    the step that crosses is the one that stops; before that at each 10th, for the holdout loss.
    """
    far = config.method != "npo" and row["loss_forget"] < state["loss_holdout"] / 2
    if far and row["step"] % 10:        # npo's loss_forget is its objective, and tells nothing
        return False
    forget, holdout = (mean_loss(model, sets[k], config) for k in ("forget", "holdout"))
    state["loss_holdout"] = row["loss_holdout_set"] = holdout
    row["loss_forget_set"] = forget
    if forget >= holdout:
        before = state["log"][-1] if state["log"] else {}
        state["stopped"] = (
            f"at step {row['step']}: the forget loss {forget:.3f} reached the holdout loss "
            f"{holdout:.3f}" + (f" (a step before: {before['loss_forget_set']:.3f} of "
                                f"{before['loss_holdout_set']:.3f})"
                                if "loss_forget_set" in before else ""))
    return forget >= holdout


# --------------------------------------------------------------------------- the run

def about(config):
    """config.json: the flags, the versions and the commit that a run was made with."""
    packages = {name: version(name) for name in ("numpy", "matplotlib", "tiktoken")}
    # torch.__version__ tells the build too (2.13.0+cu130), which the package metadata leave out.
    out = {**asdict(config), "python": platform.python_version(), "torch": torch.__version__,
           **packages,
           "threads": torch.get_num_threads()}
    if shutil.which("git"):
        folder = os.path.dirname(os.path.abspath(__file__))
        git = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True,
                             text=True)
        if git.returncode == 0:
            out["commit"] = git.stdout.strip()
    return out


def csv_text(log):
    """log.csv: one row a step; a column that the step has not stays empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, LOG_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(log)
    return out.getvalue()


OUTPUTS = ("config.json", "log.csv", "results.json", "samples.txt", "curves.png", "checkpoint.pt",
           "audit.json", "audit.png",                                 # with --audit
           "table.txt", "compare.json", "tradeoff.png", "ablate.json")    # of --compare, --ablate


@dataclass
class Run:
    """Everything that stands ready before the first file is written."""
    config: Config
    data: dict
    tokenizer: object
    sets: dict       # encoded rows of the unlearning batches, and of the holdout authors
    models: dict     # title: (model, training examples, cache path, read from it?, partial state)
    state: dict      # of the unlearning run, None if it has not begun
    seconds: dict = field(default_factory=dict)    # by act


def prepare(config):
    """Read and check all that a user can get wrong. Writes nothing; ValueError on a mistake."""
    for flag, folder in (("--out", config.out), ("--cache", config.cache)):
        check_folder(flag, folder)
    data = data_module.load(config.data, config.seed, config.forget, config.authors)
    if (config.compare or config.ablate or config.audit) and "passage" in data["forget"][0]:
        raise ValueError(f"--data {config.data}: --compare, --ablate and --audit ask questions, "
                         "and what is to be forgotten here is passages")
    tokenizer = data_module.word_tokenizer(data) if config.tokenizer == "words" else \
        data_module.gpt2_tokenizer()
    encoded = {part: encode_gold(tokenizer, rows) for part, rows in data.items()}
    sets = {part: encoded[part] for part in ("retain", "forget", "holdout")}
    # the questions on forgotten passages are in no batch: do the facts go with the text?
    sets["retain"] = sets["retain"] + encoded.get("retain_questions", [])
    # With fewer rows the gradient at a memorised minimum is mostly noise (README, "the batch").
    config = changed(config, batch=config.batch or min(400, -(-len(sets["retain"]) // 2)))
    fewest = min(config.batch // 2, config.train_batch // 2, *map(len, sets.values()))
    if processes()[1] > max(fewest, 1):
        raise ValueError(f"{processes()[1]} processes, but a batch, or a set, of fewer rows: start "
                         "fewer of them or raise --batch and --train_batch")
    initial = initial_model(config, tokenizer, data)
    gpt = initial.config
    config = changed(config, n_layer=gpt.n_layer, n_head=gpt.n_head, n_embd=gpt.n_embd)
    models = {}
    for title, without in (("target", ["holdout"]),
                           ("retrain", ["holdout", "forget", "forget_questions"])):
        examples = [e for part in encoded if part not in without for e in encoded[part]]
        models[title] = read_model(config, title, copy.deepcopy(initial), examples)
    state = saved_state(config) if config.resume else None
    return Run(config, data, tokenizer, sets, models, state)


def initial_model(config, tokenizer, data):
    """The model before training: random, the same for a seed, or the published one of --init."""
    longest, where = data_module.longest_row(tokenizer, data)
    if longest > (config.block_size or longest):
        raise ValueError(f"--block_size {config.block_size}: {where} is {longest} tokens long")
    if not config.init:
        torch.manual_seed(config.seed)
        return GPT(GPTConfig(tokenizer.n_vocab, config.block_size or longest, config.n_layer,
                             config.n_head, config.n_embd))
    model = from_gpt2(config.init)
    V, T = model.config.vocab_size, model.config.block_size
    if tokenizer.n_vocab != V or longest > T:
        raise ValueError(f"--init {config.init}: a vocabulary of {V} and a context of {T} tokens, "
                         f"but the data has {tokenizer.n_vocab} and rows of {longest}; published "
                         "weights go with --tokenizer gpt2")
    return model


def read_model(config, title, model, examples):
    """`model` with what the cache has of it: an entry of Run.models."""
    path = os.path.join(config.cache, f"{title}-{model_key(config, model.config, examples)}.pt")
    cached, unfinished = os.path.exists(path), None
    if cached:
        load_weights(model, read_checkpoint(path, ["model"]), path)
    elif config.resume and os.path.exists(path + ".partial"):
        unfinished = read_checkpoint(path + ".partial", ("model", "optimizer", "step"))
        load_weights(model, unfinished, path + ".partial")
    return model.to(config.device), examples, path, cached, unfinished


def load_weights(model, saved, path):
    try:
        model.load_state_dict(saved["model"])
    except RuntimeError:
        raise ValueError(f"{path}: the weights of a model of another shape; delete it to start "
                         "over") from None


def saved_state(config):
    """The state to resume from, None if the run had not come to unlearning yet."""
    path, checkpoint = (os.path.join(config.out, f) for f in ("config.json", "checkpoint.pt"))
    if not os.path.exists(path):
        raise ValueError(f"--resume: there is no run in {config.out}")
    try:
        with open(path, encoding="utf-8") as f:
            flags = json.load(f)
    except (OSError, ValueError) as e:
        raise ValueError(f"--resume: {path} cannot be read ({e})") from None
    check_same(config, flags, path)
    if not os.path.exists(checkpoint):
        return None
    saved = read_checkpoint(checkpoint, ("config", "model", "log", "step", "adam", "lr", "seconds",
                                         "stopped", "loss_holdout"))
    check_same(config, saved.pop("config"), checkpoint)
    for moment in "mv" if saved["adam"] else "":
        saved["adam"][moment] = [x.to(config.device) for x in saved["adam"][moment]]
    return saved


def start_folder(config):
    """Make the run folder; what an earlier run left there goes, unless this one goes on with it."""
    os.makedirs(config.out, exist_ok=True)
    os.makedirs(config.cache, exist_ok=True)
    leftovers = glob.glob(os.path.join(glob.escape(config.out), "*.tmp"))
    remove(*leftovers, *(() if config.resume else (os.path.join(config.out, x) for x in OUTPUTS)))
    write_text(os.path.join(config.out, "config.json"), json.dumps(about(config), indent=1))


def train_models(run):
    """The target and the retrained model, trained unless they stand in the cache: a dict."""
    for title, (model, examples, path, cached, unfinished) in run.models.items():
        t0 = time.time()
        if cached:
            print(f"{title:>8}  from {path}")
        else:
            train_model(model, examples, run.config, title, path, unfinished)
        run.seconds[title] = time.time() - t0
    return {title: model for title, (model, *_) in run.models.items()}


def story(run):
    """Train and unlearn, keeping on disk what is needed to go on; the three models by name."""
    config = run.config
    out = lambda name: os.path.join(config.out, name)
    start_folder(config)
    models = train_models(run)
    state = run.state = run.state or fresh_state(config, models["target"])
    progress, before = Progress(config.method, state["step"], config.steps), state["seconds"]
    saved_at = progress.t0

    def save(model):
        state["seconds"] = before + time.time() - progress.t0
        whole = {**state, "model": model.state_dict(), "config": asdict(config)}
        replace(out("checkpoint.pt"), lambda temporary: torch.save(whole, temporary))
        write_text(out("log.csv"), csv_text(state["log"]))

    for model in unlearn(models["target"], config, run.sets, state):
        if state["log"] and state["step"] % max(1, config.steps // 10) == 0:
            progress.line(state["step"], "  ".join(f"{k} {state['log'][-1][k]:.4g}" for k in (
                "loss_retain", "loss_forget", "cos", "lr")))
        if time.time() - saved_at > config.checkpoint:
            save(model)
            saved_at = time.time()
    save(model)
    print(f"{config.method:>8}  stopped {state['stopped']}")
    run.seconds["unlearn"] = state["seconds"]
    return {**models, config.method: model}


def main(argv=None):
    """Exit code 0, or 2 on a user's mistake, 1 if the numbers ran away, 130 on Ctrl-C."""
    import experiments   # not at the top, for it imports this file

    try:
        config = parse(argv)
        start_processes(config.device)
        run = prepare(config)
        for other in experiments.ablated(config) if config.ablate else ():
            prepare(other)
        agree(run)
    except ValueError as e:
        print(f"train.py: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    try:
        if config.compare:
            experiments.compare(config)
        elif config.ablate:
            experiments.ablate(config)
        else:
            models = story(run)
            if dist.is_initialized():
                dist.barrier()             # what is left to do, the first does alone
            if processes()[0] == 0:
                experiments.report(run, models)
    except FloatingPointError as e:
        print(f"train.py: stopped: {e}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as e:   # on the CPU, torch says it in words alone
        if not isinstance(e, (torch.OutOfMemoryError, MemoryError)) and "allocate" not in str(e):
            raise
        print(f"train.py: out of memory: {str(e).splitlines()[0] if str(e) else e!r}; the same "
              "result in less memory: --micro_batch, half of what a batch now has; then "
              "--train_batch, --n_embd, --block_size", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = f"; the same command with --resume goes on from {config.out}"
        print("\ninterrupted" + ("" if config.compare or config.ablate else hint))
        return 130
    return 0


if __name__ == "__main__":
    from train import main as run_main   # under its own name, as experiments.py knows this file
    code = run_main()
    if dist.is_initialized():   # gloo's threads abort now and then at a normal end
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
