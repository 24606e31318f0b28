"""Is the retain loss of a real transformer a parabola along NGDiff's direction? Close to 0, yes.

Claim: AutoLR takes L_R(theta - lr d) for a parabola in lr with slope g_R.d and curvature d'H_R d
("Algorithm 1"). Here d comes from the first 20 steps of unlearning the small GPT that
`python train.py --tiny` trains. At some steps L_R and L_F are measured along d on both sides of
theta. The slope and curvature that ngdiff.py finds from three losses are compared with those of
backpropagation: g_R.d, and d'H_R d from a second backward pass through the first.

Expected: from probes near 0 both agree to a few per cent. A small step lowers L_R and raises L_F,
and the step that AutoLR chooses lowers L_R on its batch. Where it fails: the parabola is local.
Beyond the probes, which stand at the lr in use, L_R leaves the fitted curve. L_F is no
parabola at all.

Assumptions: one batch (216 retain rows and all forget rows) for the gradients and all losses; no
dropout. float32, as in train.py. The target model comes from train.py's cache, or is trained here
and kept there.  Expected output: each row ok.
"""
import copy
import functools
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import ngdiff
import train
from harness import flags
from theory import toy
from theory.table import bound, compare, figure, legend_below, same

MOMENTS = (0, 10, 20)                    # steps of the run at which the slices are taken
MULTIPLES = np.array([0.05, 0.3, 0.6, 1, 1.5, 2.5, 4])       # of the lr in use

# --------------------------------------------------------------------------- predicted


def backprop(losses, params, d):
    """(g_R.d, d'H_R d) by two backward passes, without ngdiff.py."""
    with sdpa_kernel(SDPBackend.MATH):   # the fused attention has no second derivative
        grad = torch.autograd.grad(sum(loss() for loss in losses), params, create_graph=True)
        slope = sum((g * x).sum() for g, x in zip(grad, d))
        curvature = sum((h * x).sum() for h, x in zip(torch.autograd.grad(slope, params), d))
    return slope.item(), curvature.item()


# --------------------------------------------------------------------------- measured

class Slice(NamedTuple):
    """The losses along d at one moment of a run."""
    step: int
    numbers: ngdiff.Numbers       # of that step, with AutoLR's fit
    truth: tuple                  # (g_R.d, d'H_R d) by backpropagation
    lrs: np.ndarray               # from -4 to 4 times the lr in use, 0 among them
    loss_retain: np.ndarray
    loss_forget: np.ndarray

    def parabola(self, lrs):
        """AutoLR's idea of L_R."""
        return (self.at(0.0)[0] - self.numbers.slope * lrs
                + self.numbers.curvature / 2 * lrs**2)

    def at(self, lr):
        """(L_R, L_F) at the measured lr nearest to this one."""
        i = np.argmin(np.abs(self.lrs - lr))
        return self.loss_retain[i], self.loss_forget[i]

    def near_zero(self):
        """(slope, curvature) by ngdiff.py from the innermost probes."""
        lr = self.lrs[self.lrs > 0][0]
        return ngdiff.parabola(self.at(-lr)[0], self.at(0.0)[0], self.at(lr)[0], lr)

    def leaves(self):
        """The first lr > 0 at which L_R is off the parabola by 10 % of its fall; inf if none."""
        fall = self.numbers.slope**2 / (2 * self.numbers.curvature)
        off = np.abs(self.loss_retain - self.parabola(self.lrs)) > 0.1 * fall
        return min(self.lrs[(self.lrs > 0) & off], default=np.inf)


def along(losses, params, d, lrs):
    """One loss at theta - lr d for each of -lrs, 0, lrs (ascending), by ngdiff.py's probe."""
    pairs = [ngdiff.probe(losses, params, d, float(lr)) for lr in lrs]
    return np.array([minus for minus, _ in pairs[::-1]] + [ngdiff.loss_only(losses)]
                    + [plus for _, plus in pairs])


def take_slice(model, parts, config, step, numbers):
    """The Slice at `model`, where a step with these Numbers starts. parts: both tasks' batches."""
    # One worker, as with --micro_batch: a loss that several evaluate has no second derivative.
    params, config = list(model.parameters()), replace(config, micro_batch=72)
    retain, forget = (train.loss_functions(model, some, config) for some in parts)
    d, lrs = toy.direction(retain, forget, params)[1], MULTIPLES * numbers.lr
    return Slice(step, numbers, backprop(retain, params, d), np.r_[-lrs[::-1], 0.0, lrs],
                 along(retain, params, d, lrs), along(forget, params, d, lrs))


@functools.cache
def measured_run(argv=("--tiny", "--out", "out/theory")):
    """Algorithm 1 by ngdiff.step up to the last moment of train.py's command `argv`: the Slices."""
    run = train.prepare(flags.parse(train.Config, argv, train.__doc__))
    stage = train.training_stage(run, "target", torch.get_num_threads())
    train.train(stage, run.learned["target"], run.config)
    model, state, found = copy.deepcopy(stage.model), ngdiff.State(lr=run.config.lr), []
    batches = train.task_batches(run.examples, run.config, 0)
    for step, parts in zip(range(MOMENTS[-1] + 1), batches):
        before = copy.deepcopy(model) if step in MOMENTS else None
        losses = (train.loss_functions(model, some, run.config) for some in parts)
        numbers = ngdiff.step(*losses, model.parameters(), state, lazy=run.config.lazy)
        if before:
            found.append(take_slice(before, parts, run.config, step, numbers))
    return found


def claims():
    found, rows = measured_run(), []
    for s in found:
        slope, curvature = s.near_zero()
        at = f"GPT, step {s.step}:"
        rows += [compare(f"{at} g_R.d from losses near 0", s.truth[0], slope, 0.05),
                 compare(f"{at} d'H_R d from losses near 0", s.truth[1], curvature, 0.1)]
    here, small, chosen = ([s.at(k * s.numbers.lr) for s in found] for k in (0, 0.05, 1))
    return rows + [
        same("a small step (lr / 20) lowers L_R and raises L_F: moments", len(found),
             sum(b[0] < a[0] and b[1] > a[1] for a, b in zip(here, small))),
        same("AutoLR's own step lowers L_R: moments", len(found),
             sum(b[0] < a[0] for a, b in zip(here, chosen))),
        bound("fails far out: L_R leaves the parabola, in lr's, at the latest", "<", 4.01,
              max(s.leaves() / s.numbers.lr for s in found))]


def draw():
    found = measured_run()
    fig, axes = figure("Claim: along NGDiff's direction the retain loss of a small GPT is close to "
                       "AutoLR's parabola, near the present point", len(found), 12, 6, rows=2)
    for (above, below), s in zip(axes.T, found):
        x = np.linspace(s.lrs[0], s.lrs[-1], 200)
        above.plot(s.lrs, s.loss_retain, "o-", color="tab:blue", ms=3, label="measured L_R")
        above.plot(x, s.parabola(x), "k--", lw=1, label="AutoLR's parabola")
        probes = np.array([-1, 0, 1]) * s.numbers.probed
        above.plot(probes, s.parabola(probes), "k^", ms=6, label="its three points")
        below.plot(s.lrs, s.loss_forget, "o-", color="tab:red", ms=3, label="measured L_F")
        for ax in (above, below):
            ax.axvline(s.numbers.lr, color="tab:green", ls="--", lw=1, label="AutoLR's choice")
        above.set(title=f"Before step {s.step}")
        below.set(xlabel="lr: the model at theta - lr d")
    axes[0, 0].set(ylabel="L_R, nats per token")
    axes[1, 0].set(ylabel="L_F, nats per token")
    legend_below(fig, axes.flat, 6)
    return fig
