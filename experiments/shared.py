"""What the experiments share: flags, run folders, and many runs side by side.

Many runs share the machine as one process a core with one thread each. For matrices of this size
that is faster than one run with all threads. It also gives the same numbers on any number of cores.
"""
import contextlib
import json
import os
import sys
import time
from dataclasses import asdict, fields, replace

import torch

import data
import model as gpt
import ngdiff
import train
from harness import files, flags, measuring, processes, report, stages

# --------------------------------------------------------------------------- before a run


def parser(name, doc):
    """An argument parser for the experiment `name`; its docstring `doc` begins with a question."""
    return flags.Parser(prog=f"python -m experiments.{name}", description=doc.split("?")[0] + "?",
                        allow_abbrev=False)


def parse(argv, taken, doc):
    """train.py's Config of the flags `argv`. ValueError on a mistake, and on a flag in `taken`:
    those the experiment sets itself."""
    given = {argument.split("=")[0] for argument in argv}
    for name in taken:
        if given & {f"--{name}", f"--no-{name}"}:
            raise ValueError(f"--{name}: this experiment sets it itself; leave it out")
    return flags.parse(train.Config, argv, doc)


def questions_only(run):
    """ValueError if the run is on texts, which have no ROUGE and nothing to rephrase."""
    if not run.rows["forget"][0]["question"]:
        raise ValueError(f"--data {run.config.data}: these are texts; this experiment is for "
                         "questions")


def run_of(folder):
    """The train.Run that filled `folder`, made from its config.json. ValueError, which names the
    file, if it is no run folder of train.py.

    The number of threads becomes the run's: it is part of the names under which its models lie in
    the cache.
    """
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as f:
            saved = json.load(f)
        values, threads = {f.name: saved[f.name] for f in fields(train.Config)}, saved["threads"]
        for f in fields(train.Config):
            kind, choices = (int, float) if f.type is float else f.type, f.metadata["choices"]
            if not isinstance(values[f.name], kind) or choices and values[f.name] not in choices:
                raise ValueError(f"{f.name} is {values[f.name]!r:.99}")
        torch.set_num_threads(threads)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
        raise ValueError(f"{folder}: no run folder of train.py, by its config.json ({e!r})"
                         ) from None
    config = train.Config(**values)
    flags.check(config, ())
    return train.prepare(config)


def states_of(run):
    """The States of the target, the retrained and the unlearned model, by name: from the cache,
    or made as far as they are not there."""
    states = train.both_models(run)
    return states | {run.config.method: train.unlearned(run, states["target"].model)}


# --------------------------------------------------------------------------- many runs

def run_all(title, function, jobs):
    """[function(*job) for job in jobs], made side by side; prints a line every tenth of the way.

    function must be importable by name. A job's first argument is a Config: jobs on a GPU run one
    after the other.
    """
    workers = 1 if jobs[0][0].device == "cuda" else processes.cores()
    out, t0, n = [None] * len(jobs), time.time(), len(jobs)
    ended = processes.side_by_side(quietly, [(function, *job) for job in jobs], workers, 1)
    for done, (i, result) in enumerate(ended, 1):
        out[i] = result
        if done % max(1, n // 10) == 0:
            print(f"{title:>8}  step {done:{len(str(n))}}/{n}  runs  "
                  f"{(time.time() - t0) / done * (n - done):4.0f} s left", flush=True)
    return out


def quietly(function, *args):
    """function(*args), what it prints dropped: the lines of several runs would be mixed."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return function(*args)


def train_models(configs):
    """Train the target and the retrained model of each config into the cache."""
    run_all("models", train_model, [(c, title) for c in configs for title in ("target", "retrain")])


def train_model(config, title):
    """One of the two models, into the cache, in a process of its own."""
    run = train.prepare(config)
    train.trained(run, title, train.model_path(run, title, torch.get_num_threads()))


def models_of(run):
    """{"target": model, "retrain": model}, of the cache, in a process of `run_all`."""
    threads = torch.get_num_threads()
    return {title: train.trained(run, title, train.model_path(run, title, threads)).model
            for title in ("target", "retrain")}


def kept(config, function, *args):
    """function(run, *args) of the run that `config` describes, as JSON has it: from the cache, or
    made and put there. So a command with many runs goes on where it was interrupted."""
    run, threads = train.prepare(config), torch.get_num_threads()
    start = os.path.basename(train.model_path(run, "target", threads))
    settings = [start, asdict(replace(run.config, out="", cache="")), run.rows, args]
    code = (data, gpt, metrics, ngdiff, train, report, reference, sys.modules[function.__module__])
    name = f"{function.__name__}-{stages.key(settings, code, threads)}.json"
    path = os.path.join(config.cache, name)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    out = json.dumps(function(run, *args))
    files.write(config.cache, {name: out.encode()})
    return json.loads(out)


def reference(run, retrain):
    """What the retrained model does on the rows that it never saw, as `report.evaluate` has it:
    `measuring.summary` compares the other models with it."""
    unseen = {name: rows for name, rows in run.rows.items() if name in ("forget", "holdout")}
    return report.evaluate(retrain, run.tokenizer, unseen)


# --------------------------------------------------------------------------- after the runs

def write(folder, content):
    """Write `content` into the folder and say so: a dict of names and texts, bytes or what JSON
    holds."""
    out = {}
    for name, x in content.items():
        text = x if isinstance(x, (str, bytes)) else json.dumps(x, indent=1)
        out[name] = text if isinstance(text, bytes) else text.encode()
    files.write(folder, out)
    print(f"\nwritten to {folder}: {', '.join(content)}")
