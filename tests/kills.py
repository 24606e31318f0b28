"""kill -9 at random moments: does the same command go on, to the same numbers?

    python -m tests.kills 30

Commands are forked from this process, so no import is killed; each saves after every step.
"""
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time

import torch
import torch._dynamo      # by AdamW, in each process anew if not here

import train
from harness import stages

SMALL = "--tiny --authors 10 --epochs 5 --n_layer 1 --n_embd 16 --steps 12".split()
FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None


def save_every_step(set_):
    """Saving is neither rare nor limited to a twentieth of the time."""
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


def results(folder):
    with open(os.path.join(folder, "out", "results.json"), encoding="utf-8") as f:
        return {k: v for k, v in json.load(f).items() if k in ("steps", "stopped", "models")}


def killed_and_again(folder, seconds):
    """The results of a command that is killed after so many seconds, then given again."""
    first = start(folder)
    time.sleep(seconds)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    second = start(folder)
    second.join()
    assert second.exitcode == 0, open(os.path.join(folder, "printed"), encoding="utf-8").read()
    assert sorted(os.listdir(folder)) == ["cache", "out", "printed"]
    assert not [n for _, _, names in os.walk(folder) for n in names if n.endswith(".part")]
    return results(folder)


def main():
    n = int((sys.argv[1:] or [30])[0])
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        start(folder).join()
        whole, longest = results(folder), time.monotonic() - began
    equal = 0
    for i in range(n):
        with tempfile.TemporaryDirectory() as folder:
            seconds = random.uniform(0, longest)
            equal += killed_and_again(folder, seconds) == whole
            print(f"killed after {seconds:.2f} of {longest:.2f} s: {equal} of {i + 1} equal",
                  flush=True)
    sys.exit(equal != n)


if __name__ == "__main__":
    main()
