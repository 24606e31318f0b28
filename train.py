"""The whole story in one command: train a small GPT, make it forget, measure what happened.

    python train.py --tiny                              built-in data, about a minute on two cores
    python train.py --tiny --method gdiff --c 0.9       another method, from the cached models
    python train.py --data DIR --authors 40             TOFU's published files in DIR

Four acts, in this order below: train the *target* model on everything and the *retrained* model
on everything but the forget set (both cached); unlearn the target; measure all three; write the
run folder. The unlearning loop is `unlearn`; the mathematics in it is ngdiff.py's.
"""
import argparse
import copy
import csv
import hashlib
import inspect
import io
import json
import math
import os
import pickle
import platform
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version

import torch

import data as data_module
import metrics
import model as model_module
import ngdiff
from data import collate, encode_gold, shuffled
from model import GPT, GPTConfig

CHECKPOINT_SECONDS = 10   # how often a run saves what it needs to go on
FITS_AT_START = 60       # AutoLR's first step: at most so many fits (a factor of 2 each)


# --------------------------------------------------------------------------- configuration

def knob(default, text, tofu=None, choices=None):
    """A command line flag: its default, help, another default for --data, allowed values."""
    return field(default=default, metadata=dict(help=text, tofu=tofu, choices=choices))


@dataclass
class Config:
    # data
    tiny: bool = knob(False, "the built-in mini-TOFU and a model to match")
    data: str = knob("", "folder with TOFU's published JSON lines files")
    forget: str = knob("forget10", "share of the authors to forget", choices=tuple(data_module.SPLITS))
    authors: int = knob(160, "how many authors in all", tofu=200)
    tokenizer: str = knob("words", "the data's own words, or tiktoken's GPT-2 encoding",
                          choices=("words", "gpt2"))
    seed: int = knob(0, "random seed of the data, the weights and the batches")
    # model
    n_layer: int = knob(2, "transformer blocks")
    n_head: int = knob(4, "attention heads")
    n_embd: int = knob(128, "width", tofu=192)
    block_size: int = knob(0, "context in tokens; 0: as long as the longest row")
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
    steps: int = knob(60, "unlearning steps; with --stop holdout a bound, 250 unless given")
    stop: str = knob("steps", "after --steps, or when the mean forget loss reaches the mean loss "
                     "on the holdout authors", choices=("steps", "holdout"))
    batch: int = knob(216, "retain rows a step at most, and forget rows at most", tofu=400)
    micro_batch: int = knob(0, "rows in memory at once, with the same result; 0: the whole batch")
    # the run
    out: str = knob("", "run folder; empty: out/<data>-<method>-seed<seed>")
    cache: str = knob("out/cache", "folder of the target and retrained models")
    device: str = knob("auto", "cpu, cuda, or auto: cuda where there is one",
                       choices=("auto", "cpu", "cuda"))
    resume: bool = knob(False, "go on with the run in the run folder")


def parse(argv):
    """Command line to Config, every value checked. ValueError (or argparse) on a user's mistake."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawTextHelpFormatter)
    for f in fields(Config):
        tofu = f.metadata["tofu"]
        unless = "" if tofu is None else f", {tofu} with --data"
        text = f"{f.metadata['help']} (default: {f.default or 'none'}{unless})" if f.default not in (
            False, "") else f.metadata["help"]
        kind = dict(action=argparse.BooleanOptionalAction) if f.name == "autolr" else \
            dict(action="store_true") if f.type is bool else \
            dict(type=f.type, choices=f.metadata["choices"])
        parser.add_argument(f"--{f.name}", default=None, help=text, **kind)
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    defaults = {f.name: f.metadata["tofu"] if "data" in given and f.metadata["tofu"] is not None
                else f.default for f in fields(Config)}
    defaults["autolr"] = given.get("method", "ngdiff") == "ngdiff"
    if given.get("stop") == "holdout":
        defaults["steps"] = 250
    config = Config(**{**defaults, **given})
    check(config, given)
    name = "tiny" if config.tiny else os.path.basename(os.path.normpath(config.data))
    config.out = config.out or f"out/{name}-{config.method}-seed{config.seed}"
    return config


def check(config, given):
    """ValueError for what would fail later, or be ignored."""
    if config.tiny == bool(config.data):
        raise ValueError("say either --tiny (the built-in data) or --data DIR (TOFU's files)")
    for name, low in dict(authors=2, n_layer=1, n_head=1, n_embd=1, block_size=0, train_batch=1,
                          lazy=1, steps=1, batch=1, micro_batch=0).items():
        if getattr(config, name) < low:
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
    if config.n_embd % config.n_head:
        raise ValueError(f"--n_embd {config.n_embd}: must be a multiple of --n_head "
                         f"{config.n_head}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here; use --device cpu")


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
    killed, sees the old file or the new one and never half of one."""
    write(path + ".tmp")
    os.replace(path + ".tmp", path)


def write_text(path, text):
    def write(temporary):
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(text)
    replace(path, write)


def read_checkpoint(path, keys):
    """A checkpoint's dict (tensors and plain values only: a stranger's file can't run code), or
    ValueError if the file is damaged."""
    try:
        with warnings.catch_warnings(action="ignore"):   # of torch's, about odd files
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as e:
        raise ValueError(f"{path}: damaged, or no checkpoint at all ({type(e).__name__}); delete "
                         "it to start over") from None
    if not isinstance(saved, dict) or not set(keys) <= saved.keys():
        raise ValueError(f"{path}: a checkpoint of something else; delete it to start over")
    return saved


def check_same(config, saved, path):
    """ValueError if a saved run was made with other flags, naming the first that differs."""
    free = ("out", "cache", "device", "resume")
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


# --------------------------------------------------------------------------- act 1 and 2: training

def model_key(config, gpt, examples):
    """A name for what training gives: the same settings, rows, code and torch have the same one.

    The code counts, so that whoever edits the model is not handed the model from before.
    """
    settings = [config.seed, config.epochs, config.train_batch, config.train_lr,
                config.weight_decay, config.device]
    code = [inspect.getsource(x) for x in (model_module, data_module, train_model)]
    text = json.dumps([asdict(gpt), settings, examples, code, torch.__version__])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def train_model(model, examples, config, title, path, saved=None):
    """Train `model` on `examples` by AdamW until it knows them by heart, and write it to `path`.

    Progress is kept in `path`.partial; saved: what was read from there, to go on. The schedule is made for
    speed: a short warm-up to a high learning rate, then linearly down to 0. Weight decay keeps
    the memorised answers' probabilities near 0.99 rather than 0.9999, and alike: gradient ascent
    pushes a token in proportion to 1 - p, so where these differ, forgetting is uneven.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train_lr, betas=(0.9, 0.95),
                                  weight_decay=config.weight_decay, fused=True)
    per_epoch = -(-len(examples) // config.train_batch)
    steps, partial, start = max(1, round(config.epochs * per_epoch)), path + ".partial", 0
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    order = shuffled(len(examples), config.train_batch, config.seed, start)
    progress, saved_at = Progress(title, start, steps), time.time()
    for step in range(start, steps):
        warm_up, decay = (step + 1) / (0.1 * steps), (1 - step / steps) / 0.9
        for group in optimizer.param_groups:
            group["lr"] = config.train_lr * min(1, warm_up, decay)
        batch = collate([examples[i] for i in next(order)]).to(config.device)
        loss = model(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % max(1, steps // 6) == 0:
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"training the {title}: loss {loss.item()} at step "
                                         f"{step}; try a smaller --train_lr")
            progress.line(step + 1, f"loss {loss.item():.4f}")
        if time.time() - saved_at > CHECKPOINT_SECONDS:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                     "step": step + 1}
            replace(partial, lambda temporary: torch.save(state, temporary))
            saved_at = time.time()
    replace(path, lambda temporary: torch.save({"model": model.state_dict()}, temporary))
    for leftover in (partial, partial + ".tmp"):
        if os.path.exists(leftover):
            os.remove(leftover)


# --------------------------------------------------------------------------- act 3: unlearning

def mean_loss(model, examples, device):
    """Mean next-token loss over `examples`, nats per answer token."""
    return ngdiff.loss_only(loss_parts(model, examples, 256, device))


def loss_parts(model, examples, micro_batch, device, loss_rows_target=None):
    """A batch's loss as functions, one a micro-batch, that add up to it (see ngdiff.py).

    Each is its micro-batch's sum over the whole batch's token count, so rows of unequal length
    weigh the same however they are split. With `loss_rows_target` (the frozen target model's
    summed loss of each row) it is npo's objective instead, a mean over rows.
    """
    n_tokens = sum(len(e.tokens) - e.n_prompt for e in examples)

    def part(batch, reference):
        losses = model(batch).double()                            # (M,)
        if reference is None:
            return losses.sum() / n_tokens
        loss_rows = torch.zeros_like(reference).index_add(0, batch.rows, losses)
        return ngdiff.npo_objective(loss_rows, reference).sum() / len(examples)

    size, parts = micro_batch or len(examples), []
    for at in range(0, len(examples), size):
        batch = collate(examples[at:at + size]).to(device)
        reference = None if loss_rows_target is None else loss_rows_target[at:at + size].to(device)
        parts.append(lambda batch=batch, reference=reference: part(batch, reference))
    return parts


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
        yield (loss_parts(model, [sets["retain"][i] for i in rows_R], config.micro_batch,
                          config.device),
               loss_parts(model, [sets["forget"][i] for i in rows_F], config.micro_batch,
                          config.device,
                          None if loss_rows_target is None else loss_rows_target[rows_F]))


def fresh_state(config, target):
    """What an unlearning run carries from step to step, besides the parameters."""
    adam = ngdiff.adam_state(list(target.parameters())) if config.optimizer == "adam" else None
    return {"step": 0, "lr": config.lr, "adam": adam, "log": [], "seconds": 0.0, "stopped": "",
            "loss_holdout": math.inf}


def unlearn(target, config, sets, state, save):
    """Unlearn a copy of `target`: the paper's "Algorithm 1", every other method in its place.

    sets: encoded retain, forget and holdout rows. state: from `fresh_state` or a checkpoint; it
    is brought up to date in place, and save(model) is called once a step. Returns the unlearned
    model; state["stopped"] says why it stopped.
    """
    model = copy.deepcopy(target)
    model.load_state_dict(state.pop("model", target.state_dict()))
    params = list(model.parameters())
    batches = task_batches(model, target, sets, config, state["step"])
    progress = Progress(config.method, state["step"], config.steps)
    for step in range(state["step"], config.steps):
        retain, forget = next(batches)
        loss_retain, grad_retain = ngdiff.loss_and_grad(retain, params)
        loss_forget, grad_forget = ngdiff.loss_and_grad(forget, params)
        try:
            five = ngdiff.five_numbers(loss_retain, grad_retain, loss_forget, grad_forget)
            a, b = ngdiff.coefficients(config.method, five, config.c)
        except FloatingPointError as e:
            raise FloatingPointError(f"step {step}, {e}: try a smaller --lr") from None
        except ngdiff.Stationary as e:
            state["stopped"] = f"at step {step}: {e}"
            break
        row = {"step": step, **five._asdict(), "cos": five.cos}
        if config.stop == "holdout" and holdout_reached(model, config, sets, state, row):
            break
        d = ngdiff.direction(grad_retain, grad_forget, a, b)
        del grad_retain, grad_forget                     # d stands in the memory of the first
        if state["adam"]:
            d = ngdiff.adam_direction(d, state["adam"])
        if config.autolr and step % config.lazy == 0:
            state["lr"], fits = ngdiff.autolr(retain, params, d, five.loss_retain, state["lr"],
                                              1 if step else FITS_AT_START)
            row |= {**fits[-1]._asdict(), "fits": len(fits)}
        ngdiff.update(params, d, state["lr"])
        row["lr"] = state["lr"]
        state["log"].append(row)
        state["step"] = step + 1
        if state["step"] % max(1, config.steps // 10) == 0:
            progress.line(state["step"], "  ".join(f"{k} {row[k]:.4g}" for k in (
                "loss_retain", "loss_forget", "cos", "lr")))
        save(model)
    state["stopped"] = state["stopped"] or f"after {config.steps} steps"
    return model


def holdout_reached(model, config, sets, state, row):
    """--stop holdout (ours, not in the paper): is the whole forget set as unlikely to the model
    as authors that it never saw? Looks every 10th step, and at each one whose batch says so."""
    if row["step"] % 10 and row["loss_forget"] < state["loss_holdout"]:
        return False
    forget, holdout = (mean_loss(model, sets[k], config.device) for k in ("forget", "holdout"))
    state["loss_holdout"] = row["loss_holdout_set"] = holdout
    row["loss_forget_set"] = forget
    if forget >= holdout:
        state["stopped"] = (f"at step {row['step']}: the forget loss {forget:.3f} reached the "
                            f"holdout loss {holdout:.3f}")
    return forget >= holdout


# --------------------------------------------------------------------------- act 4: what happened

def table(models):
    """The results as text: one line a metric, one column a model."""
    keys = list(dict.fromkeys(k for m in models.values() for k in m))
    lines = [f"{'':22}" + "".join(f"{name:>12}" for name in models)]
    for k in keys:
        cells = (f"{m[k]:12.4g}" if k in m else f"{'-':>12}" for m in models.values())
        lines.append(f"{k:22}" + "".join(cells))
    return "\n".join(lines)


def samples(data, measured, part, n=None):
    """Questions of one set with the gold answer and every model's, as text."""
    out = []
    rows = [row for row in data[part] if "perturbed_answer" in row] or data[part]
    for i, row in enumerate(rows[:n]):
        out.append(f"[{part}] {row['question']}\n{'gold':>12}: {row['answer']}")
        out += [f"{name:>12}: {m[part]['answers'][i]}" for name, m in measured.items()]
    return "\n".join(out)


def draw_curves(path, log, models, method):
    """curves.png: losses with their reference levels, learning rate, norms, cosine."""
    from matplotlib.figure import Figure
    fig = Figure(figsize=(10, 7), layout="constrained")
    (ax_loss, ax_lr), (ax_norm, ax_cos) = fig.subplots(2, 2)
    column = lambda key: [row[key] for row in log]
    steps = column("step")
    ax_loss.plot(steps, column("loss_retain"), color="tab:blue", label="retain, to stay low")
    if method != "npo":                                  # npo logs its own objective there
        ax_loss.plot(steps, column("loss_forget"), color="tab:red", label="forget, to rise")
    ax_loss.axhline(models["retrain"]["forget_loss"], color="tab:red", ls="--", lw=1,
                    label="forget, retrained model")
    ax_loss.axhline(models[method]["holdout_loss"], color="tab:gray", ls=":",
                    label="holdout, unlearned model")
    ax_loss.set(title="Losses of the batch", ylabel="nats per token", yscale="log")
    ax_lr.plot(steps, column("lr"), color="tab:green")
    fits = [row for row in log if row.get("status")]
    for status, marker in (("fit", "o"), ("no convexity", "^"), ("no descent", "v"),
                           ("not finite", "x")):
        some = [row for row in fits if row["status"] == status]
        if some:
            ax_lr.plot([r["step"] for r in some], [r["lr"] for r in some], marker, ms=4,
                       color="tab:green", label=f"AutoLR: {status}")
    ax_lr.set(title="Learning rate", ylabel="lr", yscale="log")
    ax_norm.plot(steps, column("norm_retain"), color="tab:blue", label="retain")
    ax_norm.plot(steps, column("norm_forget"), color="tab:red", label="forget")
    ax_norm.set(title="Gradient norms", ylabel="norm over all parameters", yscale="log")
    ax_cos.plot(steps, column("cos"), color="tab:purple", label="cosine")
    ax_cos.axhline(1, color="tab:gray", ls=":", label="1: Pareto stationary")
    ax_cos.set(title="Cosine of the two gradients", ylabel="cos", ylim=(-1.05, 1.1))
    for ax in fig.axes:
        ax.set_xlabel("step")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)
    fig.suptitle(f"Unlearning with {method}")
    replace(path, lambda temporary: fig.savefig(temporary, format="png", dpi=110))


def csv_text(log):
    out = io.StringIO()
    writer = csv.DictWriter(out, LOG_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(log)
    return out.getvalue()


def about(config):
    """config.json: the flags, the versions and the commit that a run was made with."""
    packages = {name: version(name) for name in ("torch", "numpy", "matplotlib", "tiktoken")}
    out = {**asdict(config), "python": platform.python_version(), **packages,
           "threads": torch.get_num_threads()}
    if shutil.which("git"):
        folder = os.path.dirname(os.path.abspath(__file__))
        git = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True,
                             text=True)
        if git.returncode == 0:
            out["commit"] = git.stdout.strip()
    return out


# --------------------------------------------------------------------------- the run

OUTPUTS = ("config.json", "log.csv", "results.json", "samples.txt", "curves.png", "checkpoint.pt")


@dataclass
class Run:
    """Everything that stands ready before the first file is written."""
    config: Config
    data: dict
    tokenizer: object
    models: dict     # title: (model, training examples, cache path, read from it?, partial state)
    state: dict      # of the unlearning run, None if it has not begun


def prepare(argv):
    """Read and check all that a user can get wrong. Writes nothing; ValueError on a mistake."""
    config = parse(argv)
    for flag, folder in (("--out", config.out), ("--cache", config.cache)):
        check_folder(flag, folder)
    if config.device == "auto":
        config.device = "cuda" if torch.cuda.is_available() else "cpu"
    data = data_module.mini_tofu(config.seed, config.forget, config.authors) if config.tiny else \
        data_module.load_tofu(config.data, config.forget, config.authors)
    tokenizer = data_module.word_tokenizer(data) if config.tokenizer == "words" else \
        data_module.gpt2_tokenizer()
    longest, where = data_module.longest_row(tokenizer, data)
    if longest > (config.block_size or longest):
        raise ValueError(f"--block_size {config.block_size}: {where} is {longest} tokens long")
    gpt = GPTConfig(tokenizer.n_vocab, config.block_size or longest, config.n_layer,
                    config.n_head, config.n_embd)
    models = {}
    for title in ("target", "retrain"):
        parts = [p for p in data if p != "holdout" and (title, p) != ("retrain", "forget")]
        examples = [e for part in parts for e in encode_gold(tokenizer, data[part])]
        torch.manual_seed(config.seed)
        model = GPT(gpt)
        path = os.path.join(config.cache, f"{title}-{model_key(config, gpt, examples)}.pt")
        cached, partial = os.path.exists(path), None
        if cached:
            load_weights(model, read_checkpoint(path, ["model"]), path)
        elif config.resume and os.path.exists(path + ".partial"):
            partial = read_checkpoint(path + ".partial", ("model", "optimizer", "step"))
            load_weights(model, partial, path + ".partial")
        models[title] = model.to(config.device), examples, path, cached, partial
    return Run(config, data, tokenizer, models, saved_state(config) if config.resume else None)


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
    saved = read_checkpoint(checkpoint, ("config", "model", "log", "step", "adam"))
    check_same(config, saved.pop("config"), checkpoint)
    for moment in "mv" if saved["adam"] else "":
        saved["adam"][moment] = [x.to(config.device) for x in saved["adam"][moment]]
    return saved


def start_folder(config):
    """Make the run folder; what an earlier run left there goes, unless this one goes on with it."""
    os.makedirs(config.out, exist_ok=True)
    os.makedirs(config.cache, exist_ok=True)
    for name in OUTPUTS:
        for leftover in (name, name + ".tmp")[config.resume:]:
            if os.path.exists(os.path.join(config.out, leftover)):
                os.remove(os.path.join(config.out, leftover))
    write_text(os.path.join(config.out, "config.json"), json.dumps(about(config), indent=1))


def story(run):
    """The four acts."""
    config, seconds, t_start = run.config, {}, time.time()
    out = lambda name: os.path.join(config.out, name)
    start_folder(config)
    for title, (model, examples, path, cached, partial) in run.models.items():
        t0 = time.time()
        if cached:
            print(f"{title:>8}  from {path}")
        else:
            train_model(model, examples, config, title, path, partial)
        seconds[title] = time.time() - t0
    target, retrain = (run.models[title][0] for title in ("target", "retrain"))

    sets = {part: encode_gold(run.tokenizer, run.data[part])
            for part in ("retain", "forget", "holdout")}
    state, t0 = run.state or fresh_state(config, target), time.time()
    before, last_save = state["seconds"], time.time()

    def save(model, final=False):
        nonlocal last_save
        if final or time.time() - last_save > CHECKPOINT_SECONDS:
            state["seconds"] = before + time.time() - t0
            whole = {**state, "model": model.state_dict(), "config": asdict(config)}
            replace(out("checkpoint.pt"), lambda temporary: torch.save(whole, temporary))
            write_text(out("log.csv"), csv_text(state["log"]))
            last_save = time.time()

    model = unlearn(target, config, sets, state, save)
    save(model, final=True)
    print(f"{config.method:>8}  stopped {state['stopped']}")
    seconds["unlearn"] = state["seconds"]
    report(run, {"target": target, "retrain": retrain, config.method: model}, state, seconds,
           t_start)


def report(run, models, state, seconds, t_start):
    """Measure the three models, print the table and some answers, write the rest of the folder."""
    config, t0 = run.config, time.time()
    out = lambda name: os.path.join(config.out, name)
    try:
        measured = {name: metrics.evaluate(m, run.tokenizer, run.data)
                    for name, m in models.items()}
    except ValueError as e:
        raise FloatingPointError(f"measuring, {e}: try a smaller --lr") from None
    results = {name: metrics.summary(m, measured["retrain"]) for name, m in measured.items()}
    seconds["evaluate"], seconds["total"] = time.time() - t0, time.time() - t_start
    parts = [p for p in run.data if p != "holdout"]
    print("\n" + table(results) + "\n")
    print("\n".join(samples(run.data, measured, p, 1) for p in ("forget", "retain", "world")))
    write_text(out("samples.txt"), "\n".join(samples(run.data, measured, p) for p in parts) + "\n")
    draw_curves(out("curves.png"), state["log"], results, config.method)
    write_text(out("results.json"), json.dumps(
        {"config": asdict(config), "seconds": seconds, "steps": state["step"],
         "stopped": state["stopped"], "models": results}, indent=1))
    print(f"\nwritten to {config.out}: {', '.join(OUTPUTS)}\nin "
          f"{seconds['total']:.1f} s: " + ", ".join(f"{k} {v:.1f}" for k, v in seconds.items()
                                                   if k != "total"))


def main(argv=None):
    """Exit code 0, or 2 on a user's mistake, 1 if the numbers ran away, 130 on Ctrl-C."""
    try:
        run = prepare(argv)
    except ValueError as e:
        print(f"train.py: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    try:
        story(run)
    except FloatingPointError as e:
        print(f"train.py: stopped: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command with --resume goes on from {run.config.out}")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
