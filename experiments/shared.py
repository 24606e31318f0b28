"""What the experiments share: their flags, and many runs side by side.

Many runs share the machine: one process a core, one thread each. With matrices of this size that is
faster than one run after the other with all threads, and any number of cores gives the same
numbers.
"""
import argparse
import contextlib
import copy
import json
import os
import time

import torch

import data
import train
from harness import files, flags, names, processes, report
from harness.stages import Stage, kept


def parser(name, doc):
    """An argument parser for the experiment `name`; --help prints its docstring `doc`."""
    return flags.Parser(prog=f"python -m experiments.{name}", description=doc, allow_abbrev=False,
                        formatter_class=argparse.RawDescriptionHelpFormatter)


def parse(argv, taken, doc):
    """train.py's Config of the flags `argv`. ValueError on a mistake, and on a flag in `taken`:
    those the experiment sets itself."""
    given = {argument.split("=")[0] for argument in argv}
    for name in taken:
        if f"--{name}" in given:
            raise ValueError(f"--{name}: this experiment sets it itself; leave it out")
    config = flags.parse(train.Config, argv, doc)
    if not config.epochs:
        raise ValueError("--epochs 0: this experiment compares with a retrained model")
    return config


def questions_only(run):
    """ValueError if the run is on texts, which have no ROUGE and nothing to rephrase."""
    if not run.rows["forget"][0]["question"]:
        raise ValueError(f"--data {run.config.data}: these are texts; this experiment is for "
                         "questions")


def all_stages(run):
    """{title: Stage} of a run's three models: from the cache, or made if they are not there."""
    stages = train.train_both(run)
    return stages | {run.config.method: train.unlearned(run, stages["target"])}


def unlearning(run, target, every):
    """Unlearn a copy of the model `target`, in memory. Yields its Stage before the first step,
    after every `every` steps and at the end. Raises FloatingPointError as train.unlearn."""
    stage = Stage(run.config.method, 0, copy.deepcopy(target))
    yield stage
    while stage.step < run.config.steps and not stage.stopped:
        stage.steps = min(stage.step + every, run.config.steps)
        quietly(train.unlearn, stage, target, run.examples, run.config)
        yield stage


# --------------------------------------------------------------------------- many runs

def side_by_side(title, function, jobs, device):
    """function(*job) for each of the jobs, in processes of one thread; on a GPU one after the
    other. Prints a line every tenth of the way."""
    workers = processes.cores() if device == "cpu" else 1
    t0, n = time.monotonic(), len(jobs)
    ended = processes.side_by_side(quietly, [(function, *job) for job in jobs], workers, 1)
    for done, _ in enumerate(ended, 1):
        if done % max(1, n // 10) == 0:
            left = (time.monotonic() - t0) / done * (n - done)
            print(f"{title:>8}  step {done:{len(str(n))}}/{n}  runs  {left:4.0f} s left",
                  flush=True)


def quietly(function, *args):
    """function(*args) without its output: the lines of several runs would be mixed."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return function(*args)


def train_models(runs):
    """Train the target and the retrained model of each run into the cache."""
    jobs = {stage.name: (run, title, 1, stage.name) for run in runs for title in run.learned
            if not (stage := train.training_stage(run, title, 1)).finished()}
    side_by_side("models", train.train_one, list(jobs.values()), runs[0].config.device)


def results(title, function, runs, **options):
    """[function(run, train.train_both(run), **options) for each of runs], as JSON has it: from the
    cache, or made side by side and put there. So an interrupted command continues where it was.
    function must be importable by name. `train_models` comes first."""
    paths = [result_path(function, run, options) for run in runs]
    jobs = [(path, result, function, run, options, path) for path, run in zip(paths, runs)]
    todo = [job for job in jobs if not os.path.exists(job[0])]
    side_by_side(title, kept, todo, runs[0].config.device)
    return [kept(*job) for job in jobs]


def result_path(function, run, options):
    """A file in the cache, its name made of all that one of the `results` depends on."""
    stages = {title: train.training_stage(run, title, 1).name for title in run.learned}
    made_of = names.ingredients((function, type(run.initial), data.word_tokenizer), run.config,
                                [run.rows, run.examples, options], threads=1, stages=stages)
    return os.path.join(run.config.cache, f"{function.__name__}-{names.digest(made_of)}.json")


def result(function, run, options, path):
    """One of the `results`, in a process of its own."""
    if result_path(function, run, options) != path:
        raise processes.Refused("the code was edited while the command ran: start it again")
    torch.set_num_threads(1)         # as train_models: train_both finds its models
    return function(run, train.train_both(run), **options)


def reference(run, retrain):
    """What the retrained model does on the rows that it never saw, as `report.evaluate` has it:
    `measuring.summary` compares the other models with it."""
    unseen = {name: rows for name, rows in run.rows.items() if name in ("forget", "holdout")}
    return report.evaluate(retrain, run.tokenizer, unseen)


def write(folder, content):
    """Write `content` into the folder and say so: {name: a text, bytes, or what JSON holds}."""
    text = lambda x: x if isinstance(x, str) else json.dumps(x, indent=1)
    files.write(folder, {name: x if isinstance(x, bytes) else text(x).encode()
                         for name, x in content.items()})
    print(f"\nwritten to {folder}: {', '.join(content)}")
