"""kill -9 at random moments: does the same command go on, to the same numbers?

    python -m tests.kills 30

Commands are forked from this process, so no import is killed; each saves after every step.
"""
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

import train
from harness import stages

SMALL = ("--tiny --authors 10 --epochs 16 --train_lr 3e-2 --n_layer 1 --n_embd 16 "
         "--steps 12").split()
FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None


def save_every_step(set_):
    set_(stages, "SAVE_EVERY", -1)
    set_(stages.Stage, "cost", property(lambda self: -1, lambda self, seconds: None))


def start(folder, *words):
    """A command at work in `folder`, in a process of its own, with workers: forked too."""
    def command():
        os.chdir(folder)
        sys.stdout = sys.stderr = open("printed", "a", encoding="utf-8", buffering=1)
        torch.set_num_threads(1)
        multiprocessing.get_context = lambda how: FORK
        save_every_step(setattr)
        train.main([*SMALL, "--cache", "cache", "--out", "out", *words])
    process = FORK.Process(target=command)
    process.start()
    return process


def exit_codes(commands):
    for command in commands:
        command.join(300)
    return [command.exitcode for command in commands]


def numbers(folder):
    """What the run in `folder` found, without its seconds and paths."""
    results = json.loads(Path(folder, "results.json").read_text("utf-8"))
    return {k: results[k] for k in ("steps", "stopped", "models")}


def ended(folder, kill_after=None):
    """The numbers of a command in `folder`; before it, another one is killed after some seconds."""
    if kill_after is not None:
        first = start(folder)
        time.sleep(kill_after)
        first.kill()
    assert exit_codes([start(folder)]) == [0], Path(folder, "printed").read_text("utf-8")
    assert not list(Path(folder).rglob("*.part"))
    return numbers(Path(folder, "out"))


def main():
    n, longest, found = int((sys.argv[1:] or [30])[0]), 0, []
    for i in range(n + 1):
        began, seconds = time.monotonic(), random.uniform(0, longest)
        with tempfile.TemporaryDirectory() as folder:
            found.append(ended(folder, seconds if i else None))       # the first is not killed
        longest = longest or time.monotonic() - began
        print(f"killed after {seconds:.2f} of {longest:.2f} s: {found.count(found[0]) - 1} of {i} "
              "equal", flush=True)
    sys.exit(found.count(found[0]) != n + 1)


if __name__ == "__main__":
    main()
