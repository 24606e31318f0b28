"""Stages: loops whose whole state lies on disk, so that a run that was killed goes on by itself.

A stage (target, retrain, or one unlearning) is a loop over steps. Its state is saved every
SAVE_EVERY seconds and at the end, under a name made from everything that determines it. So the
same command finds it again, another command does not, and more steps prolong a finished stage.
"""
import contextlib
import hashlib
import inspect
import io
import json
import os
import sys
import time
from dataclasses import dataclass, field

import torch

from harness import files
from harness.processes import agree, rank_and_size

SAVE_EVERY = 10      # seconds


@dataclass
class State:
    """All that a stage carries from step to step, and all that is saved."""
    model: torch.nn.Module
    step: int = 0              # steps done
    optimizer: dict = None     # the optimizer's own state; None before the first step
    log: list = field(default_factory=list)     # a dict a step
    level: float = None        # of the level loss, measured now and then
    stopped: str = ""          # why it ended before its last step
    seconds: float = 0.0       # spent on the steps


def key(settings, code, threads):
    """A name for what a stage gives: settings (JSON) and source code (functions, modules) that are
    the same, with the same torch and as many threads and processes, have the same one."""
    text = json.dumps([settings, [inspect.getsource(x) for x in code], torch.__version__, threads,
                       rank_and_size()[1]])
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def save(path, state):
    """Write the state, behind its own digest. Of several processes the first alone writes."""
    if rank_and_size()[0] > 0:
        return
    buffer = io.BytesIO()
    torch.save({**vars(state), "model": state.model.state_dict()}, buffer)
    content = buffer.getvalue()
    files.write(os.path.dirname(path), {
        os.path.basename(path): hashlib.sha256(content).digest() + content})


def read(path):
    """What `save` wrote to `path`, as a dict; None if there is nothing. A file that is not what was
    saved there is named, deleted and as good as absent."""
    try:
        with open(path, "rb") as f:
            digest, content = f.read(32), f.read()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content).digest() == digest:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    print(f"{path} is damaged: made anew", file=sys.stderr)
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    return None


def steps_done(path):
    """How many steps the state saved in `path` has behind it; 0 if there is none."""
    saved = read(path)
    return saved["step"] if saved else 0


def load(path, model):
    """The State saved in `path`, with its weights in `model`, or None."""
    saved = read(path)
    if saved is None:
        return None
    model.load_state_dict(saved.pop("model"))
    device = next(model.parameters()).device
    for key, value in (saved["optimizer"] or {}).items():      # ngdiff.State's moments
        if isinstance(value, list) and value and torch.is_tensor(value[0]):
            saved["optimizer"][key] = [x.to(device) for x in value]
    return State(model, **saved)


def run(title, path, state, loop, steps):
    """Drive `loop`, a generator that changes `state` and yields after each step, up to `steps`.

    path: where the state is saved; None: nowhere. Prints a line every tenth of the way. Returns
    the state.
    """
    agree(state.step)
    if state.step >= steps:
        print(f"{title:>8}  from {path}", flush=True)
        return state
    start, before, t0 = state.step, state.seconds, time.time()
    saved_at = t0
    try:
        for _ in loop:
            state.seconds = before + time.time() - t0
            if state.step % max(1, steps // 10) == 0:
                show(title, state, steps, (time.time() - t0) / (state.step - start))
            if path and state.step < steps and time.time() - saved_at > SAVE_EVERY:
                save(path, state)
                saved_at = time.time()
    except FloatingPointError as e:
        raise FloatingPointError(f"{title}, step {state.step}: {e}: try a smaller --lr or "
                                 "--train_lr") from None
    if path and (state.step > start or state.stopped):
        save(path, state)
    return state


def show(title, state, steps, seconds_a_step):
    """One line: the step, the numbers of the last one, the time left."""
    numbers = "  ".join(f"{k} {state.log[-1][k]:.4g}" for k in (
        "loss", "loss_retain", "loss_forget", "cos", "lr") if state.log and k in state.log[-1])
    print(f"{title:>8}  step {state.step:{len(str(steps))}}/{steps}  {numbers}  "
          f"{seconds_a_step * (steps - state.step):4.0f} s left", flush=True)
