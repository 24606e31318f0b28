"""Can three values of L_R give the best step, with no second derivative? ("Algorithm 1")

Claim: the parabola through (-lr, L-), (0, L0), (lr, L+), L+- = L_R(theta -+ lr d), has

    slope     = (L- - L+) / (2 lr)          = g_R.d    + O(lr^2),
    curvature = (L+ - 2 L0 + L-) / lr^2     = d'H_R d  + O(lr^2),    lr* = slope / curvature.

On a quadratic both are exact. Elsewhere the errors are lr^2/6 and lr^2/12 times the third and
fourth derivative of L_R along d, until float rounding takes over: the losses are known to about
1e-16 (float64) or 1e-7 (float32), so that the errors grow again as 1/lr and 1/lr^2 when lr shrinks.

A fit may move lr by a factor of 2 at most and the first step repeats it until lr moves by less
than 15 %: from lr0, that takes ceil(|log2(lr*/lr0)|) + 1 fits (one less if the last of the moves is
below 15 %). Later fits come every `lazy` steps: T steps cost 2 T + 2 fits loss evaluations.

What the paper leaves out. (1) Where L_R is not quadratic, AutoLR settles where lr equals its own
answer, lr = slope(lr) / curvature(lr): the same place from every lr0 (to about those 15 %), but not
the lr that lowers L_R most; below, a quarter short of it. (2) A fit is right for the step it is
made at. Between lazy fits d turns and the old lr overshoots: on badly conditioned quadratics L_R
rises and the run creeps outward along the front. Only a fit each step keeps L_R falling (and only
while lr* does not fall by more than a factor of 4 between two steps: the fit follows by 2 at most,
and L_R rises past 2 lr*).

Toy problems: random quadratics in R^20, eigenvalues 1 .. 100; a logistic regression in R^20.
Expected output: each row ok.
"""
import math
import sys

import numpy as np
import torch

import ngdiff
from theory import toy

LRS = np.geomspace(1e-7, 10, 33)
FIRST_LRS = (1e-6, 1e-4, 1e-2, 1.0, 10.0)
LAZY = (1, 5, 10, 50)


# --------------------------------------------------------------------------- predicted

def quadratic_truth(q, theta):
    """(g_R.d, d'Ad) along NGDiff's direction."""
    d = toy.bisector(*q.gradients(theta))
    return np.array([q.gradients(theta)[0] @ d, d @ q.A @ d])


def logistic_truth(lg, theta):
    """(g_R.d, d'H_R d) and the coefficients of lr^2 in the two errors."""
    d = toy.bisector(*(rows.mean(0) for rows in lg.row_gradients(theta)))
    first, second, third, fourth = lg.derivatives(theta, d)
    return np.array([-first, second]), np.abs([third / 6, fourth / 12])


def fits_needed(first_lr, best):
    """How many fits from first_lr until lr rests, if each answers `best` but moves 2 x at most."""
    doublings = abs(math.log2(best / first_lr))
    whole, part = divmod(doublings, 1)
    last = 2**part if best > first_lr else 2**-part           # the last, incomplete move
    return int(whole) + 1 + (part > 0 and abs(last - 1) >= 0.15)


# --------------------------------------------------------------------------- measured

def fitted_parabola(tasks, theta, lr, dtype=torch.float64):
    """(slope, curvature) by ngdiff.py along NGDiff's direction."""
    params = toy.leaf(theta, dtype)
    five, d = toy.step(tasks, params)
    minus, plus = ngdiff.probe(toy.parts(tasks[0], params), params, d, float(lr))
    return np.array(ngdiff.parabola(minus, five.loss_retain, plus, float(lr)))


def errors(lg, points, lrs, dtype):
    """Errors of (slope, curvature): the median over points, (len(lrs), 2)."""
    tasks = lg.tasks(dtype)
    return np.median([[np.abs(fitted_parabola(tasks, p, lr, dtype) - logistic_truth(lg, p)[0])
                       for lr in lrs] for p in points], axis=0)


def settle(tasks, theta, first_lr, dtype=torch.float64):
    """AutoLR's first step: the list of fits."""
    params = toy.leaf(theta, dtype)
    five, d = toy.step(tasks, params)
    return ngdiff.autolr(toy.parts(tasks[0], params), params, d, five.loss_retain, first_lr,
                         toy.FITS_AT_START)[1]


def lowest(tasks, theta, high):
    """The lr in (0, high) that lowers L_R most along d, by looking at 20,000 of them."""
    params = toy.leaf(theta)
    d = toy.step(tasks, params)[1][0]
    lrs = np.linspace(0, high, 20_001)[1:]
    with torch.no_grad():
        return lrs[np.argmin([float(tasks[0](params[0] - lr * d)) for lr in lrs])]


def lazy_run(q, start, steps, lazy):
    """(path, loss evaluations) of NGDiff with a fit every `lazy` steps."""
    calls = 0

    def counted(task):
        def call(theta):
            nonlocal calls
            calls += 1
            return task(theta)
        return call
    path = toy.descend([counted(task) for task in q.tasks()], start, steps, lazy=lazy)
    return path, calls


def rises(path):
    """How many steps raised L_R."""
    return int((np.diff([five.loss_retain for five in path.five]) > 0).sum())


# --------------------------------------------------------------------------- claims

def rounding_claims(lg, points):
    wide, narrow = np.geomspace(0.01, 0.3, 5), np.geomspace(1e-5, 1e-3, 9)
    big = errors(lg, points, wide, torch.float64)
    coefficients = np.median([logistic_truth(lg, p)[1] for p in points], axis=0)
    rows = [toy.compare("logistic: error of slope, curvature at lr 0.01", 1e-4 * coefficients,
                        big[0], 0.02)]
    for i, name in enumerate(("slope", "curvature")):
        rows.append(toy.compare(f"logistic, float64: log-log slope of the {name}'s error", 2.0,
                                toy.slope_of(wide, big[:, i]), 0.01))
    small = errors(lg, points, narrow, torch.float32)
    for i, name in enumerate(("slope", "curvature")):
        rows.append(toy.compare(f"logistic, float32, small lr: slope of the {name}'s rounding",
                                -1.0 - i, toy.slope_of(narrow, small[:, i]), 0.15))
    return rows


def settle_claims(q, lg, theta):
    slope, curvature = quadratic_truth(q, theta)
    settled = [settle(q.tasks(), theta, lr) for lr in FIRST_LRS]
    ends = [settle(lg.tasks(), theta, lr)[-1].lr for lr in FIRST_LRS]
    best = lowest(lg.tasks(), theta, 20.0)
    tiny = settle(lg.tasks(torch.float32), theta, 1e-6, torch.float32)
    return [
        toy.compare("quadratics: lr after the first step, lr0 = 1e-6 .. 10",
                    [slope / curvature] * len(ends), [fits[-1].lr for fits in settled], 1e-6),
        toy.same("   ... number of fits", [fits_needed(lr, slope / curvature) for lr in FIRST_LRS],
                 [len(fits) for fits in settled]),
        toy.bound("logistic: largest / smallest lr after the first step", "<", 1.15,
                  max(ends) / min(ends)),
        toy.bound("   fails if not quadratic: that lr / the one that lowers L_R most", "<", 0.9,
                  max(ends) / best),
        toy.same("   float32 at lr0 = 1e-6 sees rounding only: AutoLR says", "no convexity",
                 tiny[0].status),
        toy.bound("   ... and looks wider until it sees: lr / float64's", ">", 0.999,
                  tiny[-1].lr / ends[0])]


def lazy_claims(q, start, steps):
    runs = [lazy_run(q, start, steps, lazy) for lazy in LAZY]
    slope, curvature = quadratic_truth(q, start)
    first = fits_needed(0.01, slope / curvature)
    cost = [2 * steps + 2 * (first + (steps - 1) // lazy) for lazy in LAZY]
    last = [path.five[-1].loss_retain / path.five[0].loss_retain for path, _ in runs]
    return [
        toy.same(f"loss evaluations of {steps} steps, lazy 1, 5, 10, 50", cost,
                 [calls for _, calls in runs]),
        toy.same("a fit each step: steps on which L_R rises", 0, rises(runs[0][0])),
        toy.bound("fails if lazy is 10: steps on which L_R rises", ">", 0, rises(runs[2][0])),
        toy.bound("   ... L_R at the end, as a multiple of lazy 1's", ">", 1.5, last[2] / last[0])]


def claims(n_points=20, steps=300):
    """The rows of this script's table."""
    q, lg, rng = toy.quadratics(20, 1), toy.logistic(20, 200, 0), np.random.default_rng(3)
    points = rng.standard_normal((n_points, 20))
    exact = [quadratic_truth(q, points[0])] * 4
    return [
        toy.compare("quadratics: slope, curvature from lr = 0.001, 0.1, 1, 10", exact, [
            fitted_parabola(q.tasks(), points[0], lr) for lr in (1e-3, 0.1, 1.0, 10.0)], 1e-7),
        *rounding_claims(lg, points),
        *settle_claims(q, lg, np.ones(20)),
        *lazy_claims(q, q.r + points[1], steps)]


# --------------------------------------------------------------------------- figure

def draw_errors(ax, lg, points):
    for dtype, marker in ((torch.float64, "o-"), (torch.float32, "s-")):
        found = errors(lg, points, LRS, dtype)
        for i, (name, color) in enumerate((("slope", "tab:blue"), ("curvature", "tab:orange"))):
            ax.loglog(LRS, found[:, i], marker, color=color, ms=3, lw=1,
                      mfc="none" if dtype == torch.float32 else color,
                      label=f"{name}, {str(dtype)[6:]}")
    of_lr2 = np.median([logistic_truth(lg, p)[1] for p in points], axis=0)
    for coefficient in of_lr2:
        ax.loglog(LRS[14:], coefficient * LRS[14:]**2, "k--", lw=1)
    for eps in (2**-53, 2**-24):
        for power in (1, 2):
            ax.loglog(LRS[:21], eps / LRS[:21]**power, "k:", lw=1)
    ax.plot([], [], "k--", lw=1, label="predicted: lr squared")
    ax.plot([], [], "k:", lw=1, label="predicted: rounding / lr, / lr squared")
    ax.set(title="The fit's error (logistic regression)", xlabel="lr of the two probes",
           ylabel="absolute error", ylim=(1e-14, 1e14))
    ax.legend(fontsize=7, ncols=2, loc="upper center")


def draw(folder):
    q, lg, rng = toy.quadratics(20, 1), toy.logistic(20, 200, 0), np.random.default_rng(3)
    points = rng.standard_normal((10, 20))
    fig, axes = toy.figure(13, 4.6, 1, 3, "Claim: three values of L_R give the best lr, up to lr "
                           "squared and rounding, from any first guess; but fits must not be rare")
    draw_errors(axes[0], lg, points)
    for lr in FIRST_LRS:
        fits = settle(lg.tasks(), np.ones(20), lr)
        axes[1].semilogy([fit.probed for fit in fits] + [fits[-1].lr], "o-", ms=3, lw=1,
                         label=f"first guess {lr:g}")
    axes[1].axhline(lowest(lg.tasks(), np.ones(20), 20.0), color="k", ls="--", lw=1,
                    label="lowers L_R most")
    axes[1].set(title="AutoLR's first step (same problem)", xlabel="fit", ylabel="lr")
    axes[1].legend(fontsize=7, loc="lower right")
    for lazy in LAZY:
        path, calls = lazy_run(q, q.r + points[1], 300, lazy)
        axes[2].semilogy([five.loss_retain for five in path.five], lw=1.5,
                         label=f"a fit every {lazy} steps: {calls} evaluations")
    axes[2].set(title="Whole runs, condition number 100", xlabel="step", ylabel="L_R, to be low",
                ylim=(8, 4000))
    axes[2].legend(fontsize=7, loc="lower right")
    toy.save(fig, folder, "parabola")


def main():
    return toy.run_alone(claims, draw)


if __name__ == "__main__":
    sys.exit(main())
