"""Stages: the loops of train.py, each with its whole state in one file.

A stage is the training of a model, or one unlearning. It saves its state now and then and at the
end. So the same command finds a finished stage and continues a killed one, and a larger number of
steps extends a stage.
"""
import contextlib
import glob
import hashlib
import json
import math
import os
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property

import torch

from harness import files, names
from harness.processes import agree, rank_and_size

SAVE_EVERY = 10      # seconds, at least; and saving takes at most a twentieth of a stage's time
BYTES_A_SECOND = 1e8               # a guess at the disk's speed, until the first save is timed
KEPT = ("step", "optimizer", "log", "stopped", "seconds")      # in a file, beside the weights


@dataclass
class Stage:
    """A loop over steps, with all that is carried from one step to the next."""
    title: str
    steps: int                 # to take in all
    model: torch.nn.Module
    folder: str = ""           # where its files lie; "": it is kept in memory only
    made_of: dict = None       # all that it depends on, see `names.ingredients`
    step: int = 0              # steps taken
    optimizer: object = None   # the optimizer's own state; None before the first step
    log: list = field(default_factory=list)     # a dict a step
    stopped: str = ""          # why it ended before its last step
    seconds: float = 0.0       # spent on the steps

    @cached_property
    def name(self):
        return f"{self.title}-{names.digest(self.made_of)}"

    @property
    def path(self):
        return os.path.join(self.folder, f"{self.name}-{self.steps}.state")

    def restore(self):
        """Load what is saved of this stage: weights, step and log. Returns the optimizer's
        state, or None if nothing is saved and the stage begins."""
        device = next(self.model.parameters()).device
        for path in self.saved() if self.folder and self.step < self.steps else ():
            if content := read(path, device):
                self.model.load_state_dict(content.pop("model"))
                vars(self).update(content)
                break
        if self.folder:
            agree([self.name, self.step])
            if self.step >= self.steps:
                print(f"{self.title:>8}  from {self.path if self.steps else '--init'}", flush=True)
            elif not self.stopped:
                files.check_folder("--cache", self.folder)
        self.saved_at, self.clock = self.seconds, time.monotonic()
        self.cost = 3 * sum(p.nbytes for p in self.model.parameters()) / BYTES_A_SECOND
        return self.optimizer

    def saved(self):
        """The paths of this stage's files that do not go too far, the furthest one first."""
        pattern = os.path.join(glob.escape(self.folder), f"{self.name}-*.state")
        found = sorted(((steps_in(path), path) for path in glob.glob(pattern)), reverse=True)
        fit = [path for step, path in found if step <= self.steps]
        if found and not fit:
            print(f"{self.title:>8}  starts again: {found[-1][1]} has {found[-1][0]} steps already")
        return fit

    def finished(self):
        """Whether a file holds the stage's last step, or it has no step."""
        return not self.steps or any(steps_in(path) == self.steps and whole(path)
                                     for path in self.saved())

    def record(self, step, **numbers):
        """Add step's numbers to the log. Prints them every tenth of the way, with the time left.
        FloatingPointError if a training loss is not finite."""
        if not math.isfinite(numbers.get("loss", 0)):
            raise FloatingPointError(f"{self.title}, step {step}: loss {numbers['loss']}: try a "
                                     "smaller --train_lr")
        self.log.append({"step": step, **numbers})
        if (step + 1) % max(1, self.steps // 10) == 0:
            shown = "  ".join(f"{k} {numbers[k]:.4g}" for k in (
                "loss", "loss_retain", "loss_forget", "cos", "lr") if k in numbers)
            seconds_a_step = (self.seconds + time.monotonic() - self.clock) / (step + 1)
            print(f"{self.title:>8}  step {step + 1:{len(str(self.steps))}}/{self.steps}  {shown}  "
                  f"{seconds_a_step * (self.steps - step - 1):4.0f} s left", flush=True)

    def save(self, step, optimizer):
        """`step` steps are taken: keep the optimizer's state, and write the file if it is time."""
        now = time.monotonic()
        self.step, self.optimizer = step, optimizer
        self.seconds, self.clock = self.seconds + now - self.clock, now
        due = self.seconds - self.saved_at > max(SAVE_EVERY, 20 * self.cost)
        if self.folder and (due or step == self.steps or self.stopped):
            write(self)
            self.cost, self.saved_at = time.monotonic() - now, self.seconds


# --------------------------------------------------------------------------- the files

def write(stage):
    """Save the stage in its file: the number of steps (8 bytes), then what torch.save makes."""
    def content(f):
        f.write(stage.step.to_bytes(8, "little"))
        torch.save({"model": stage.model.state_dict(), **{k: getattr(stage, k) for k in KEPT}}, f)
    write_sealed(stage.path, content)


def read(path, device="cpu"):
    """What `write` saved in `path`, as a dict; None if there is nothing whole."""
    if f := open_sealed(path):
        with f:
            f.seek(8, os.SEEK_CUR)
            return torch.load(f, map_location=device, weights_only=True)


def whole(path):
    """Whether a stage's file is there, as it was written."""
    with open_sealed(path) or contextlib.nullcontext() as f:
        return f is not None


def steps_in(path):
    """The number of steps that a stage's file says it holds; 0 if another command deleted it."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as f:
        return int.from_bytes(f.read(40)[32:], "little")
    return 0


def kept(path, make, *args):
    """make(*args), as JSON has it: read from the file `path`, or computed and written there."""
    if f := open_sealed(path):
        with f:
            return json.load(f)
    content = json.dumps(make(*args), default=list)               # of arrays too
    write_sealed(path, lambda f: f.write(content.encode()))
    return json.loads(content)


def write_sealed(path, content):
    """Write what `content(file)` writes, behind its own SHA-256. Nothing is held in memory: a large
    model's state is gigabytes. Of several processes only the first writes."""
    def sealed(f):
        f.write(bytes(32))
        content(f)
        f.seek(32)
        digest = hashlib.file_digest(f, "sha256").digest()
        f.seek(0)
        f.write(digest)
    if rank_and_size()[0] == 0:
        folder, name = os.path.split(path)
        files.write(folder, {name: sealed})


def open_sealed(path):
    """The file that `write_sealed` wrote, open behind the SHA-256; None if there is none. A file
    that is not what was written is named, deleted and ignored."""
    try:
        f = open(path, "rb")
    except FileNotFoundError:
        return None
    if f.read(32) == hashlib.file_digest(f, "sha256").digest():
        f.seek(32)
        return f
    f.close()
    print(f"{path} is damaged: ignored and deleted", file=sys.stderr)
    with contextlib.suppress(OSError):
        os.remove(path)
    return None
