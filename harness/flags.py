"""The command line: flags made from a Config, their checks, and how a command ends."""
import argparse
import contextlib
import os
import re
import sys
from concurrent.futures import BrokenExecutor
from dataclasses import field, fields

import torch
import torch.distributed as dist

from harness import SOURCES, files, hub, muse, names, on_disk, processes, sources
from model import GPTConfig
from ngdiff import LR_RANGE

OUTPUTS = ("config.json", "log.csv", "results.json", "curves.png", "samples.txt", "model.pt")

# The learning rate if --lr is not given and AutoLR does not fit it: SGD and Adam, plain; then SGD
# and Adam, with the level. Found by `python -m experiments.rates`, except retain's. gdiff has rates
# for the c in its name; another c needs an --lr.
RATES = {
    "ngdiff": (0.03, 1e-4, 0.02, 5e-5),
    "gdiff 0.9": (0.35, 5e-5, 0.32, 3.2e-3),
    "gdiff 0.5": (0.05, 2.5e-5, 0.0025, 5e-5),
    "gdiff 0.1": (0.02, 2.5e-5, 0.001, 5e-5),
    "lossnorm": (0.02, 1.5e-4),
    "pcgrad": (0.025, 2.5e-5, 0.0025, 2.5e-5),
    "mgda": (2.0, 5e-4, 0.4, 3.2e-3),
    "npo": (0.0025, 2.5e-5),
    "ga": (0.01, 2.5e-5, 0.001, 5e-5),
    "retain": (0.3, 1e-4),
}
NO_LEVEL = ("npo", "retain", "lossnorm")     # methods that can't go with --level
FIRST_GUESS = 0.01       # AutoLR's

# Smallest and largest value of every flag that is a number (seeds: of the experiments).
BOUNDS = dict(authors=(2, 10**5), documents=(1, 10**6), seed=(0, 2**63 - 1), seeds=(1, 100),
              n_layer=(1, 1000), n_embd=(1, 10**5), epochs=(0, 1e6), train_batch=(1, 10**6),
              train_lr=(1e-9, 100), c=(0, 1), lr=LR_RANGE, lazy=(0, 10**6),
              budget=(0, 100), steps=(1, 10**6), batch=(0, 10**6), micro_batch=(0, 10**6))


def flag(default, text, choices=None, bare=None, **other):
    """A flag, as a dataclass field: its default, help and choices; bare: its value if it is given
    without one; other: its default with --init (`init`), with a Llama there (`llama`), with MUSE's
    folder (`muse`), with --level (`level`) or with other --data (`data`). Without a help text it is
    no flag, only a setting."""
    return field(default=default, metadata=dict(help=text, choices=choices, bare=bare, other=other))


class Parser(argparse.ArgumentParser):
    def error(self, message):                # one line, without the usage block
        raise ValueError(message)


def parse(Config, argv, doc):
    """Command line to Config, every value checked. ValueError on a user's mistake."""
    parser = Parser(description=(doc or "").split("\n\n")[0], allow_abbrev=False)   # python -OO
    for f in fields(Config):
        if text := f.metadata["help"]:
            kind = dict(action="store_true") if f.type is bool else \
                dict(type=f.type, choices=f.metadata["choices"], const=f.metadata["bare"],
                     nargs="?" if f.metadata["bare"] else None)
            parser.add_argument(f"--{f.name}", default=None, help=text + default_text(f), **kind)
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    built_in = given.get("data", "muse") == "muse"
    init = given.get("init", "")
    kinds = {"llama": bool(init) and hub.is_llama(init), "init": bool(init),
             "muse": muse.is_folder(given.get("data", "")), "level": "level" in given,
             "data": not built_in}
    # The first kind that applies and has a default decides.
    defaults = {f.name: next((f.metadata["other"][k] for k, so in kinds.items()
                              if so and k in f.metadata["other"]), f.default)
                for f in fields(Config)}
    defaults["tiny"] = built_in
    defaults["lazy"] = 10 if given.get("method", "ngdiff") == "ngdiff" else 0
    if given.get("method", "ngdiff") != "ngdiff" or given.get("lazy") == 0:
        defaults["budget"] = 0.0             # no fit would keep it
    config = Config(**{**defaults, **given})
    check(config, given)
    config.lr = config.lr or default_rate(config)
    config.device = device(config.device)
    config.out = config.out or os.path.join("out", folder_name(config, given))
    files.check_folder("--out", config.out)
    files.check_folder("--cache", config.cache, os.X_OK)     # a full cache may be read-only
    check_inputs(config)
    if on_disk() != SOURCES:
        raise ValueError("the code was edited while it was read: start again")
    return config


def default_text(f):
    """What --help says of a field's defaults."""
    kinds = {"data": "--data", "init": "--init", "llama": "a Llama", "muse": "MUSE's folder",
             "level": "--level"}
    words = [f"{v} with {kinds[k]}" for k, v in f.metadata["other"].items()]
    words = [str(f.default), *words] if f.default else words
    return f" (default: {', '.join(words)})" if words else ""


def device(name):
    """The device of that name; "auto" is a GPU if torch can use one, else the CPU. ValueError if
    torch sees no such device."""
    there = ["cuda"] * torch.cuda.is_available() + \
        ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name not in ("auto", *there):
        raise ValueError(f"--device {name}: torch sees no such device here; use --device cpu")
    return there[0] if name == "auto" else name


def check_inputs(config):
    """ValueError if the run would overwrite a file that it reads."""
    own = {os.path.realpath(os.path.join(config.out, name)) for name in OUTPUTS}
    for name in ("init", "data"):
        if (path := getattr(config, name)) and os.path.realpath(path) in own:
            raise ValueError(f"--out {config.out}: the run would overwrite --{name} {path}; give "
                             "another folder")


def check_bound(name, value):
    low, high = BOUNDS[name]
    if not low <= value <= high:
        raise ValueError(f"--{name} {value}: must be from {low:g} to {high:g}")


def check(config, given):
    """ValueError for flags that would fail later or be ignored."""
    for name in filter(BOUNDS.get, given):       # in their order: the first mistake is named
        check_bound(name, given[name])
    wrong = {
        "--tiny: --data names other data": config.tiny and config.data not in ("", "muse"),
        f"--c: only --method gdiff has a c, {config.method} has none":
            "c" in given and config.method != "gdiff",
        f"--level: {config.method} can't use it: npo has an objective of its own for the forget "
        "rows, retain does not look at them, lossnorm divides by their loss, which becomes 0":
            config.level and config.method in NO_LEVEL,
        "--budget: AutoLR keeps it, and with --lazy 0 it makes no fit":
            config.budget and not config.lazy and config.method == "ngdiff",
        f"--budget: only with ngdiff, whose d has length 2 at most; {config.method}'s grows "
        "between two fits, so the budget would not hold":
            config.budget and config.method != "ngdiff",
        "--train_lr, --train_batch: --epochs 0 trains nothing":
            not config.epochs and {"train_lr", "train_batch"} & given.keys(),
        "--epochs 0: unlearns the model of --init as it is; give --init FILE":
            not config.epochs and not config.init,
        f"--documents: {config.data or 'the built-in data'} is no folder as MUSE publishes it":
            "documents" in given and not muse.is_folder(config.data)}
    if config.init:
        wrong |= {f"--{name}: the file of --init says how large the model is": name in given
                  for name in ("n_layer", "n_embd")}
    if not config.tiny and sources.says_what_to_forget(config.data):
        wrong |= {f"--{name}: {config.data} says by itself what is to be forgotten": name in given
                  for name in ("authors", "forget")}
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise ValueError(message)
    if config.n_embd % GPTConfig.n_head:
        raise ValueError(f"--n_embd {config.n_embd}: must be a multiple of {GPTConfig.n_head}, the "
                         "number of attention heads")
    if (size := 12 * config.n_layer * config.n_embd**2) > 4e9:
        raise ValueError(f"--n_layer {config.n_layer} and --n_embd {config.n_embd} make "
                         f"{size:.2g} parameters: 4 billion at most")


def check_sets(config, examples):
    """ValueError if --level has no holdout rows, or if some process would get no row of some batch
    or set."""
    if config.level and not examples["holdout"]:
        raise ValueError(f"--level: {config.data} has no holdout rows to measure the level on")
    n, sets = processes.rank_and_size()[1], [len(some) for some in examples.values() if some]
    if n > max(1, min(config.batch // 2, config.train_batch // 2, *sets)):
        raise ValueError(f"{n} processes, but a batch, or a set, of fewer rows: start fewer of "
                         "them or raise --batch and --train_batch")


def default_rate(config):
    """AutoLR's first guess, or the fixed rate that RATES has for the method."""
    if config.lazy:
        return FIRST_GUESS
    name = f"gdiff {config.c:g}" if config.method == "gdiff" else config.method
    if name not in RATES:
        raise ValueError(f"--c {config.c:g}: give --lr too; a default rate is known for c = 0.1, "
                         "0.5 and 0.9 only")
    return RATES[name][2 * bool(config.level) + (config.optimizer == "adam")]


def folder_name(config, given):
    """A name made of the flags: commands with different flags have different folders. A path in
    --data or --init is shortened to its last part and a digest of the whole."""
    own = ("tiny", "data", "method", "seed", "out", "cache")

    def short(path):
        path = os.path.abspath(path)
        return f"{os.path.basename(path)}-{names.digest(path.encode())[:6]}"
    data = (config.data or "tiny") if config.tiny else short(config.data)
    words = [k if v is True else f"{k}{short(v) if k == 'init' else v}"
             for k, v in given.items() if k not in own]
    name = "-".join([data, config.method, f"seed{config.seed}", *words])
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    return name if len(name) < 120 else f"{name[:100]}-{names.digest(name.encode())[:8]}"


# --------------------------------------------------------------------------- how a command ends

@contextlib.contextmanager
def mistakes():
    """While a command is read: a user's mistake prints one line and ends with exit code 2."""
    if sys.stdout is None:                                   # closed
        sys.stdout = open(os.devnull, "w")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")    # a console that lacks a letter
    try:
        yield
    except ValueError as e:
        end(f"error: {e}", 2)
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def troubles():
    """While a command is at work, these end it with one line: Ctrl-C (exit code 130), numbers that
    run away, full memory or disk (1), and a mistake that shows only now (2)."""
    try:
        yield
        sys.stdout.flush()
    except files.Refused as e:
        end(f"error: {e}", 2)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from where it was", file=sys.stderr)
        sys.exit(130)
    except FloatingPointError as e:
        end(f"stopped: {e}")
    except BrokenExecutor:
        end("stopped: a process that it started was killed, for lack of memory perhaps; the same "
            "command goes on. Less memory: a smaller --train_batch, --micro_batch or --n_embd")
    except OSError as e:
        try:
            sys.stdout.flush()
        except OSError:                # nothing more can be said there, not even at Python's exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        end(f"stopped: {e}")
    except (RuntimeError, MemoryError) as e:   # on the CPU, torch says it only in words
        if not isinstance(e, (torch.OutOfMemoryError, MemoryError)) and "allocate" not in str(e):
            raise
        end(f"out of memory: {str(e).splitlines()[0] if str(e) else e!r}; the same result in less "
            "memory: --micro_batch, half of what a batch now has; then --train_batch, --n_embd")
    if dist.is_initialized():
        processes.leave(0)


def end(why, code=1):
    print(f"{os.path.basename(sys.argv[0])}: {why}", file=sys.stderr)
    if dist.is_initialized():
        processes.leave(code)
    sys.exit(code)


def command(ready, act, argv=None):
    """act(ready(argv)): a whole command. `ready` finds a user's mistakes."""
    with mistakes():
        asked = ready(sys.argv[1:] if argv is None else argv)
    with troubles():
        act(asked)
