"""The command line: flags made from a Config, their checks, and how a command ends."""
import argparse
import hashlib
import os
import re
import signal
import sys
from dataclasses import field, fields

import torch

from harness import files, muse, processes, sources
from ngdiff import LR_RANGE

# The learning rate where --lr is not given and AutoLR does not fit it: for SGD and Adam, plain,
# then for SGD and Adam with the level. Found by `python -m experiments.rates`. gdiff's go with the
# c in their name; another c needs an --lr.
RATES = {
    "ngdiff": (0.03, 1e-4, 0.03, 1e-4),
    "gdiff 0.9": (0.35, 5e-5, 0.7, 1e-4),
    "gdiff 0.5": (0.05, 2.5e-5, 0.05, 2.5e-5),
    "gdiff 0.1": (0.02, 2.5e-5, 0.02, 2.5e-5),
    "lossnorm": (0.02, 1.5e-4),
    "pcgrad": (0.025, 2.5e-5, 0.2, 4e-4),
    "mgda": (2.0, 5e-4, 2.0, 5e-4),
    "npo": (0.0025, 2.5e-5),
    "ga": (0.01, 2.5e-5, 0.01, 2.5e-5),
    "retain": (0.3, 1e-4),
}
NO_LEVEL = ("npo", "retain", "lossnorm")     # methods that can't go with --level
FIRST_GUESS = 0.01       # AutoLR's

# Smallest and largest value of every flag that is a number.
BOUNDS = dict(authors=(2, 10**5), documents=(1, 10**6), seed=(0, 2**63 - 1), n_layer=(1, 1000),
              n_embd=(1, 10**5), n_head=(1, 10**5), epochs=(1e-9, 1e6), train_batch=(1, 10**6),
              train_lr=(1e-9, 100), weight_decay=(0, 1000), c=(0, 1), lr=LR_RANGE, lazy=(1, 10**6),
              steps=(1, 10**6), batch=(0, 10**6), micro_batch=(0, 10**6))


def flag(default, text, choices=None, **other):
    """A flag, as a dataclass field: its default, help and choices; other: its default with --init
    (`init`), with MUSE's folder (`muse`) or with other --data (`data`)."""
    return field(default=default, metadata=dict(help=text, choices=choices, other=other))


class Parser(argparse.ArgumentParser):
    def error(self, message):                # one line, without the usage block
        raise ValueError(message)


def parse(Config, argv, doc):
    """Command line to Config, every value checked. ValueError on a user's mistake."""
    parser = Parser(description=doc.split("\n\n")[0], allow_abbrev=False)
    for f in fields(Config):
        text = f.metadata["help"]
        if f.default:
            names = {"data": "--data", "init": "--init", "muse": "MUSE's folder"}
            text += f" (default: {f.default}" + "".join(
                f", {v} with {names[k]}" for k, v in f.metadata["other"].items()) + ")"
        kind = dict(action=argparse.BooleanOptionalAction) if f.name == "autolr" else \
            dict(action="store_true") if f.type is bool else \
            dict(type=f.type, choices=f.metadata["choices"])
        parser.add_argument(f"--{f.name}", default=None, help=text, **kind)
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    built_in = given.get("data", "muse") == "muse"
    kinds = {"init": bool(given.get("init")), "muse": muse.is_folder(given.get("data", "")),
             "data": not built_in}             # the first that is so, and has a default, decides
    defaults = {f.name: next((f.metadata["other"][k] for k, so in kinds.items()
                              if so and k in f.metadata["other"]), f.default)
                for f in fields(Config)}
    defaults["tiny"] = built_in
    defaults["autolr"] = given.get("method", "ngdiff") == "ngdiff"
    config = Config(**{**defaults, **given})
    check(config, given)
    config.lr = config.lr or default_rate(config)
    if config.device == "auto":
        config.device = "cuda" if torch.cuda.is_available() else "cpu"
    config.out = config.out or os.path.join("out", folder_name(config, given))
    files.check_folder("--out", config.out)
    files.check_folder("--cache", config.cache)
    return config


def check(config, given):
    """ValueError for what would fail later, or be ignored."""
    for name, (low, high) in BOUNDS.items():
        value = getattr(config, name)
        if name in given and not low <= value <= high:
            raise ValueError(f"--{name} {value}: must be from {low:g} to {high:g}")
    wrong = {
        "--tiny: --data names other data": config.tiny and config.data not in ("", "muse"),
        f"--c: only --method gdiff has a c, {config.method} has none":
            "c" in given and config.method != "gdiff",
        "--lazy: there is no AutoLR to be lazy; add --autolr":
            "lazy" in given and not config.autolr,
        "--level: npo has an objective of its own for the forget rows; choose one of the two":
            config.level and config.method == "npo",
        f"--level: {config.method} can't use it: retain does not look at the forget rows, lossnorm "
        "divides by their loss, which the level loss brings to 0":
            config.level and config.method in NO_LEVEL,
        f"--documents: {config.data or 'the built-in data'} is no folder as MUSE publishes it":
            "documents" in given and not muse.is_folder(config.data),
        "--device cuda: torch sees no CUDA device here; use --device cpu":
            config.device == "cuda" and not torch.cuda.is_available()}
    for name in ("n_layer", "n_embd", "n_head"):
        wrong[f"--{name}: the file of --init says how large the model is"] = \
            config.init and name in given
    for name in ("authors", "forget"):
        wrong[f"--{name}: {config.data} says by itself what is to be forgotten"] = \
            name in given and not config.tiny and sources.says_what_to_forget(config.data)
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise ValueError(message)
    if config.n_embd % config.n_head:
        raise ValueError(f"--n_embd {config.n_embd}: must be a multiple of --n_head "
                         f"{config.n_head}")
    if (size := 12 * config.n_layer * config.n_embd**2) > 4e9:
        raise ValueError(f"--n_layer {config.n_layer} and --n_embd {config.n_embd} make "
                         f"{size:.2g} parameters: 4 billion at most")


def check_processes(config, examples):
    """ValueError if some process would get no row of some batch or set."""
    n = processes.rank_and_size()[1]
    sets = [len(some) for some in examples.values() if some]
    fewest = min(config.batch // 2, config.train_batch // 2, *sets)
    if n > max(fewest, 1):
        raise ValueError(f"{n} processes, but a batch, or a set, of fewer rows: start fewer of "
                         "them or raise --batch and --train_batch")


def default_rate(config):
    """AutoLR's first guess, or the fixed rate that RATES has for the method."""
    if config.autolr:
        return FIRST_GUESS
    name = f"gdiff {config.c:g}" if config.method == "gdiff" else config.method
    if name not in RATES:
        raise ValueError(f"--c {config.c:g}: give --lr too; a default rate is known for c = 0.1, "
                         "0.5 and 0.9 alone")
    return RATES[name][2 * config.level + (config.optimizer == "adam")]


def folder_name(config, given):
    """A name made of the flags: two commands with other flags have other folders."""
    own = ("tiny", "data", "method", "seed", "out", "cache")
    name = "-".join([config.data or "tiny", config.method, f"seed{config.seed}"] + [
        k if v is True else f"no-{k}" if v is False else f"{k}{v}"
        for k, v in given.items() if k not in own])
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name if len(name) < 120 else f"{name[:100]}-{digest}"


# --------------------------------------------------------------------------- how a command ends

def command(ready, act, argv=None):
    """act(ready(argv)), a whole command. Returns its exit code: 0; 2 on a user's mistake; 1 where
    numbers ran away, or memory or disk was full; 130 on Ctrl-C. Every end says why in one line."""
    program = os.path.basename(sys.argv[0])
    if sys.stdout is None:                                   # closed
        sys.stdout = open(os.devnull, "w")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")    # a console that lacks a letter
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: workers are ended too
    try:
        run = ready(sys.argv[1:] if argv is None else argv)
    except ValueError as e:
        print(f"{program}: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    try:
        act(run)
        sys.stdout.flush()
        return 0
    except FloatingPointError as e:
        why = f"stopped: {e}"
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from where it was", file=sys.stderr)
        return 130
    except OSError as e:
        why = f"stopped: {e}"
        try:
            sys.stdout.flush()
        except OSError:                # nothing more can be said there, not even at Python's exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (RuntimeError, MemoryError) as e:   # on the CPU, torch says it in words alone
        if not isinstance(e, (torch.OutOfMemoryError, MemoryError)) and "allocate" not in str(e):
            raise
        why = (f"out of memory: {str(e).splitlines()[0] if str(e) else e!r}; the same result in "
               "less memory: --micro_batch, half of what a batch now has; then --train_batch, "
               "--n_embd")
    print(f"{program}: {why}", file=sys.stderr)
    return 1
