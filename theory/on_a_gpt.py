"""Is the retain loss of a real transformer a parabola along NGDiff's direction? Close to 0, yes.

Claim: AutoLR takes L_R(theta - lr d) for a parabola in lr with slope g_R.d and curvature d'H_R d
("Algorithm 1"). Here d comes from the first 20 steps of unlearning the small GPT that
`python train.py --tiny` trains. At some moments L_R and L_F are measured along d on both sides of
theta, and the slope and curvature that ngdiff.py finds from three losses are held against those
of backpropagation: g_R.d, and d'H_R d from a second backward pass through the first.

Expected: from probes near 0 both agree to a few per cent; a small step lowers L_R and raises L_F,
and the step that AutoLR chooses lowers L_R on its batch. What fails: the parabola is local. Its
probes stand at the lr in use, and further out L_R leaves the fitted curve (the figure marks where).
The probes see the average bend over that width, which is what a step of that size needs, and not
the d'H_R d of the formula. L_F is no parabola at all (on the positive side it curves up at first, later down).

Assumptions: one batch (216 retain rows and all forget rows) for the gradients and all losses; no
dropout. float32, as in train.py. The first run trains the target model and keeps it in out/cache.
Expected output: each row ok.
"""
import copy
import functools
import os
import sys
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import ngdiff
import train
from theory import toy

MOMENTS = (0, 10, 20)                    # steps of the run at which the slices are taken
MULTIPLES = np.array([0.05, 0.3, 0.6, 1, 1.5, 2.5, 4])       # of the lr in use


# --------------------------------------------------------------------------- predicted

def backprop(parts, params, d):
    """(g_R.d, d'H_R d) by two backward passes, without ngdiff.py."""
    with sdpa_kernel(SDPBackend.MATH):   # the fused attention has no second derivative
        grad = torch.autograd.grad(sum(part() for part in parts), params, create_graph=True)
        slope = sum((g * x).sum() for g, x in zip(grad, d))
        curvature = sum((h * x).sum() for h, x in zip(torch.autograd.grad(slope, params), d))
    return slope.item(), curvature.item()


# --------------------------------------------------------------------------- measured

class Slice(NamedTuple):
    """The losses along d at one moment of a run."""
    step: int
    fit: ngdiff.Fit       # AutoLR's, from probes at fit.probed; its lr is the one used
    truth: tuple          # (g_R.d, d'H_R d) by backpropagation
    lrs: np.ndarray       # from -4 to 4 times the lr in use, 0 among them
    loss_retain: np.ndarray
    loss_forget: np.ndarray

    def parabola(self, lrs):
        """AutoLR's idea of L_R."""
        return self.at(0.0)[0] - self.fit.slope * lrs + self.fit.curvature / 2 * lrs**2

    def at(self, lr):
        """(L_R, L_F) at the measured lr nearest to this one."""
        i = np.argmin(np.abs(self.lrs - lr))
        return self.loss_retain[i], self.loss_forget[i]

    def near_zero(self):
        """(slope, curvature) by ngdiff.py from the innermost probes."""
        lr = self.lrs[self.lrs > 0][0]
        return ngdiff.parabola(self.at(-lr)[0], self.at(0.0)[0], self.at(lr)[0], lr)


def slices(parts, params, d, lrs):
    """One loss at theta - lr d for each of -lrs, 0, lrs (ascending), by ngdiff.py's probe."""
    pairs = [ngdiff.probe(parts, params, d, float(lr)) for lr in lrs]
    return np.array([minus for minus, _ in pairs[::-1]] + [ngdiff.loss_only(parts)]
                    + [plus for _, plus in pairs])


def cached_target():
    """(target model, its retain and forget rows, config); trained here if it is not cached."""
    run = train.prepare(train.parse(["--tiny", "--out", "out/theory"]))
    model, examples, path, cached, _ = run.models["target"]
    if not cached:
        os.makedirs(run.config.cache, exist_ok=True)
        train.train_model(model, examples, run.config, "target", path)
    return model, run.sets, run.config


def unlearn(model, batches, lr, moments, lazy=10):
    """Algorithm 1 up to the last moment, with a Slice at each. `model` is changed."""
    params, found = list(model.parameters()), []
    for step in range(moments[-1] + 1):
        retain, forget = next(batches)
        loss_retain, grad_retain = ngdiff.loss_and_grad(retain, params)
        loss_forget, grad_forget = ngdiff.loss_and_grad(forget, params)
        five = ngdiff.five_numbers(loss_retain, grad_retain, loss_forget, grad_forget)
        d = ngdiff.direction(grad_retain, grad_forget, *ngdiff.coefficients("ngdiff", five))
        if step % lazy == 0:
            lr, fits = ngdiff.autolr(retain, params, d, five.loss_retain, lr,
                                     toy.FITS_AT_START if step == 0 else 1)
        if step in moments:
            lrs = MULTIPLES * lr
            found.append(Slice(step, fits[-1], backprop(retain, params, d),
                               np.concatenate((-lrs[::-1], [0.0], lrs)),
                               slices(retain, params, d, lrs), slices(forget, params, d, lrs)))
        ngdiff.update(params, d, lr)
    return found


@functools.cache
def measured_run():
    """The slices, measured once for table and figure."""
    target, sets, config = cached_target()
    model = copy.deepcopy(target)
    return unlearn(model, train.task_batches(model, target, sets, config, 0), config.lr, MOMENTS)


# --------------------------------------------------------------------------- claims

def leaves_at(s):
    """The first lr > 0 at which L_R is off the fitted parabola by 10 % of the predicted fall, in
    multiples of the lr in use; infinite if that is not seen."""
    off = np.abs(s.loss_retain - s.parabola(s.lrs)) > 0.1 * s.fit.slope**2 / (2 * s.fit.curvature)
    out = s.lrs[(s.lrs > 0) & off]
    return out[0] / s.fit.lr if len(out) else np.inf


def claims():
    """The rows of this script's table."""
    found, rows = measured_run(), []
    for s in found:
        slope, curvature = s.near_zero()
        at = f"GPT, step {s.step}:"
        rows += [toy.compare(f"{at} g_R.d from losses near 0", s.truth[0], slope, 0.05),
                 toy.compare(f"{at} d'H_R d from losses near 0", s.truth[1], curvature, 0.1)]
    here, small, chosen = ([s.at(k * s.fit.lr) for s in found] for k in (0, 0.05, 1))
    return rows + [
        toy.same("a small step (lr / 20) lowers L_R and raises L_F: moments", len(found),
                 sum(b[0] < a[0] and b[1] > a[1] for a, b in zip(here, small))),
        toy.same("AutoLR's own step lowers L_R: moments", len(found),
                 sum(b[0] < a[0] for a, b in zip(here, chosen))),
        toy.bound("fails far out: L_R leaves the parabola, in lr's, at the latest", "<", 4.01,
                  max(leaves_at(s) for s in found))]


# --------------------------------------------------------------------------- figure

def draw(folder):
    found = measured_run()
    fig, axes = toy.figure(12, 6, 2, len(found), "Claim: along NGDiff's direction the retain loss "
                           "of a small GPT is close to AutoLR's parabola, near the present point")
    for (above, below), s in zip(axes.T, found):
        x = np.linspace(s.lrs[0], s.lrs[-1], 200)
        above.plot(s.lrs, s.loss_retain, "o-", color="tab:blue", ms=3, label="measured L_R")
        above.plot(x, s.parabola(x), "k--", lw=1, label="AutoLR's parabola")
        probes = np.array([-1, 0, 1]) * s.fit.probed
        above.plot(probes, s.parabola(probes), "k^", ms=6, label="its three points")
        below.plot(s.lrs, s.loss_forget, "o-", color="tab:red", ms=3, label="measured L_F")
        for ax in (above, below):
            ax.axvline(s.fit.lr, color="tab:green", ls="--", lw=1, label="lr that AutoLR chooses")
            if np.isfinite(leaves_at(s)):
                ax.axvspan(leaves_at(s) * s.fit.lr, x[-1], color="tab:gray", alpha=0.2, lw=0,
                           label="parabola off by > 10 % of its fall")
        above.set(title=f"Before step {s.step}")
        below.set(xlabel="lr: the model at theta - lr d")
    axes[0, 0].set(ylabel="L_R, nats per token")
    axes[1, 0].set(ylabel="L_F, nats per token")
    labels = {}
    for ax in axes[:, 0]:
        handles, names = ax.get_legend_handles_labels()
        labels |= dict(zip(names, handles))
    fig.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=6, fontsize=8)
    toy.save(fig, folder, "on_a_gpt")


def main():
    return toy.run_alone(claims, draw)


if __name__ == "__main__":
    sys.exit(main())
