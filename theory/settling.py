"""How soon does AutoLR settle, and for how long is a fit right? ("Algorithm 1", with lazy fits)

Claim: a fit moves lr by a factor of 2 at most, and the first step repeats it until lr moves by less
than 15 %. So from any first guess lr0 it ends in the same place, on a quadratic after
ceil(|log2(lr*/lr0)|) + 1 fits (one less if the last of the moves is below 15 %). Later fits come
every `lazy` steps: T steps cost 2 T + 2 fits + 1 loss evaluations. (The first fit evaluates L_R
once more, to see that it does not change from call to call.)

Assumptions: L_R quadratic along d, and a fit at each step. Not in the paper:

(1) Where L_R is not quadratic, AutoLR settles where lr = slope(lr) / curvature(lr). That is the
    same place from every lr0 (to about those 15 %), but a quarter short of the lr that lowers L_R
    most. If the answer falls faster than lr grows, lr would go back and forth for ever. So AutoLR
    stays between the rates that turned out too small and too large.
(2) Between lazy fits d turns and the old lr overshoots: on badly conditioned quadratics L_R rises.
    Only a fit each step keeps L_R falling (and only while lr* does not fall by more than a factor
    of 4 between two steps: the fit follows by 2 at most, and L_R rises past 2 lr*).

Toy problems: random quadratics in R^20, eigenvalues 1 .. 100; a logistic regression in R^20.
Expected output: each row ok.
"""
import math

import numpy as np
import torch

from theory import toy
from theory.table import bound, compare, figure, same

FIRST_LRS = (1e-6, 1e-4, 1e-2, 1.0, 10.0)
LAZY = (1, 5, 10, 50)

# --------------------------------------------------------------------------- predicted


def fits_needed(first_lr, best):
    """How many fits from first_lr until lr stays, if each answers `best` but moves at most 2 x."""
    doublings = abs(math.log2(best / first_lr))
    whole, part = divmod(doublings, 1)
    last = 2**part if best > first_lr else 2**-part           # the last, incomplete move
    return int(whole) + 1 + (part > 0 and abs(last - 1) >= 0.15)


def evaluations(q, start, steps, lazy):
    """How often the two losses are evaluated in a whole run."""
    slope, curvature = toy.slope_and_curvature(q, start)
    return 2 * steps + 2 * (fits_needed(0.01, slope / curvature) + (steps - 1) // lazy) + 1


# --------------------------------------------------------------------------- measured

def lowest(tasks, start, high):
    """The lr in (0, high) that lowers L_R most along d, by looking at 2000 of them."""
    theta = toy.leaf(start)
    d = toy.direction(*toy.losses(tasks, theta), [theta])[1][0]
    lrs = np.linspace(0, high, 2001)[1:]
    with torch.no_grad():
        return lrs[np.argmin([float(tasks[0](theta - lr * d)) for lr in lrs])]


def lazy_run(q, start, steps, lazy):
    """(path, loss evaluations) of NGDiff with a fit every `lazy` steps."""
    calls = []

    def counted(task):
        return lambda theta: calls.append(1) or task(theta)
    path = toy.descend([counted(task) for task in q.tasks()], start, steps, lazy=lazy)
    return path, len(calls)


def rises(path):
    """How many steps raised L_R."""
    return int((np.diff(path.loss_retain) > 0).sum())


def settle_claims(q, lg, theta):
    slope, curvature = toy.slope_and_curvature(q, theta)
    fits = [toy.fits(q.tasks(), theta, lr) for lr in FIRST_LRS]
    ends = [toy.fits(lg.tasks(), theta, lr)[-1].lr for lr in FIRST_LRS]
    tiny = toy.fits(lg.tasks(torch.float32), theta, 1e-6, dtype=torch.float32)
    # d = 2 here, of two opposite gradients, so x moves by 2 lr.
    tasks = lambda x: (x + x**8).sum(), lambda x: -x.sum()
    steep = [2 * toy.fits(tasks, np.zeros(1), lr / 2)[-1].lr for lr in FIRST_LRS]
    return [
        compare("quadratics: lr after the first step, lr0 = 1e-6 .. 10",
                [slope / curvature] * len(fits), [found[-1].lr for found in fits], 1e-6),
        same("   ... number of fits", [fits_needed(lr, slope / curvature) for lr in FIRST_LRS],
             [len(found) for found in fits]),
        bound("logistic: largest / smallest lr after the first step", "<", 1.15,
              max(ends) / min(ends)),
        bound("   ... float32 from lr0 = 1e-6 looks wider until it sees: lr / float64's", ">",
              0.999, tiny[-1].lr / ends[0]),
        compare("steep, L_R = x + x^8 at 0, where slope / curvature = 1 / (2 lr^6): lr",
                [0.5 ** (1 / 7)] * len(fits), steep, 0.15),
        bound("fails if not quadratic: that lr / the one that lowers L_R most", "<", 0.9,
              max(ends) / lowest(lg.tasks(), theta, 20.0))]


def lazy_claims(q, start, steps):
    runs = [lazy_run(q, start, steps, lazy) for lazy in LAZY]
    last = [path.loss_retain[-1] for path, _ in runs]
    return [
        same(f"loss evaluations of {steps} steps, lazy 1, 5, 10, 50",
             [evaluations(q, start, steps, lazy) for lazy in LAZY], [calls for _, calls in runs]),
        same("a fit each step: steps on which L_R rises", 0, rises(runs[0][0])),
        bound("fails if lazy is 10: steps on which L_R rises", ">", 0, rises(runs[2][0])),
        bound("   ... L_R at the end, as a multiple of lazy 1's", ">", 1.5, last[2] / last[0])]


def lazy_start(q):
    """Where the whole runs start."""
    return q.r + np.random.default_rng(3).standard_normal((2, 20))[1]


def claims(steps=300):
    q, lg = toy.quadratics(20, 1), toy.logistic(20, 200, 0)
    return settle_claims(q, lg, np.ones(20)) + lazy_claims(q, lazy_start(q), steps)


def draw():
    q, lg = toy.quadratics(20, 1), toy.logistic(20, 200, 0)
    fig, axes = figure("Claim: AutoLR's first step ends in the same place from any first guess; "
                       "but fits must not be rare", 2, 11, 4.6)
    for lr in FIRST_LRS:
        fits = toy.fits(lg.tasks(), np.ones(20), lr)
        axes[0].semilogy([fit.probed for fit in fits] + [fits[-1].lr], "o-", ms=3, lw=1,
                         label=f"measured, first guess {lr:g}")
    slope, curvature = toy.slope_and_curvature(lg, np.ones(20))
    axes[0].axhline(slope / curvature, color="k", ls="--", lw=1,
                    label="predicted if L_R were quadratic")
    axes[0].axhline(lowest(lg.tasks(), np.ones(20), 20.0), color="k", ls=":", lw=1,
                    label="lowers L_R most")
    axes[0].set(title="AutoLR's first step (logistic regression)", xlabel="fit", ylabel="lr")
    for lazy in LAZY:
        path, calls = lazy_run(q, lazy_start(q), 300, lazy)
        axes[1].semilogy(path.loss_retain, lw=1.5,
                         label=f"measured, a fit every {lazy} steps: {calls} evaluations")
    axes[1].set(title="Whole runs, condition number 100", xlabel="step", ylabel="L_R, to be low",
                ylim=(8, 4000))
    return fig
