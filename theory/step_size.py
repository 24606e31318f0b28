"""How large may the step be, and which step lowers L_R most?

Claim: along any direction d, L_R(theta - lr d) = L_R - lr g_R.d + 1/2 lr^2 d'H_R d + o(lr^2). If
g_R.d > 0 and d'H_R d > 0, L_R falls for 0 < lr < 2 lr* and falls most at

    lr* = g_R.d / d'H_R d,      by (g_R.d)^2 / (2 d'H_R d).

Both are exact on a quadratic. AutoLR (ngdiff.fit_lr) finds lr* from three values of L_R.

Assumptions: g_R.d > 0, which NGDiff's d has and Adam's need not; d'H_R d > 0 (else L_R falls ever
further and AutoLR says "no convexity"); L_R quadratic along d (else the zero is not at 2 lr*).

Toy problem: random quadratics in R^20 with eigenvalues 1 .. 100; the same with one eigenvalue
made negative; a logistic regression.  Expected output: each row ok.
"""
import numpy as np

import ngdiff
from theory import toy
from theory.table import bound, compare, figure, same

# --------------------------------------------------------------------------- predicted


def best_lr(problem, theta):
    """(lr*, how much L_R falls there) by the formula, along NGDiff's direction."""
    slope, curvature = toy.slope_and_curvature(problem, theta)
    return slope / curvature, slope**2 / (2 * curvature)


# --------------------------------------------------------------------------- measured

def along(tasks, start, lr):
    """(change of L_R, its derivative by lr) after one step of ngdiff.py with this lr."""
    theta = toy.leaf(start)
    retain, forget = toy.losses(tasks, theta)
    before, d = toy.direction(retain, forget, [theta])
    ngdiff.update([theta], d, lr)
    after, grad = ngdiff.loss_and_grad(retain, [theta])
    return float(after) - before.loss_retain, -float(grad[0] @ d[0])


def root(f, low, high):
    """Where f changes sign, by bisection."""
    sign = np.sign(f(low))
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.sign(f(middle)) == sign else (low, middle)
    return (low + high) / 2


def minimum_and_zero(tasks, start, near):
    """The lr where L_R is lowest, and the one where it is back at its old value."""
    return [root(lambda lr: along(tasks, start, lr)[i], 1e-3 * near, 100 * near) for i in (1, 0)]


def claims(n_points=5):
    q, lg = toy.quadratics(20, 0), toy.logistic(20, 200, 0)
    tasks, points = q.tasks(), np.random.default_rng(2).standard_normal((n_points, 20))
    best, falls = np.array([best_lr(q, theta) for theta in points]).T
    found = np.array([minimum_and_zero(tasks, t, lr) for t, lr in zip(points, best)])
    saddle = q._replace(A=q.A - 30 * np.eye(20))             # eigenvalues -29 .. 70
    valley = np.linalg.eigh(saddle.A)[1][:, 0] * 10 + q.r    # along it L_R is concave
    fall = [along(saddle.tasks(), valley, lr)[0] for lr in (1.0, 10.0, 100.0)]
    lowest, zero = minimum_and_zero(lg.tasks(), np.ones(20), 10.0)
    return [
        compare("AutoLR's lr = g_R.d / d'Ad", best,
                [toy.fits(tasks, t, 0.1)[-1].lr for t in points], 1e-10),
        compare("L_R is lowest at lr*", best, found[:, 0], 1e-10),
        compare("L_R is back at its old value at 2 lr*", 2 * best, found[:, 1], 1e-10),
        compare("at lr* L_R has fallen by (g_R.d)^2 / (2 d'Ad)", falls,
                [-along(tasks, t, lr)[0] for t, lr in zip(points, best)], 1e-10),
        same("fails if L_R is concave along d: AutoLR says", "no convexity",
             toy.fits(saddle.tasks(), valley, 0.01, 1)[0].status),
        same("   ... L_R falls ever further, at lr 1, 10, 100", True,
             bool(0 > fall[0] > fall[1] > fall[2])),
        bound("fails if L_R is not quadratic (logistic): |zero / minimum - 2|", ">", 0.05,
              abs(zero / lowest - 2))]


def draw():
    theta = np.ones(20)
    fig, axes = figure("Claim: along NGDiff's direction L_R falls until 2 lr*, and most at "
                       "lr* = g_R.d / d'Hd", 2, 11, 4.8)
    for ax, name, problem, high in (
            (axes[0], "A quadratic: exact", toy.quadratics(20, 0), 2.6),
            (axes[1], "A logistic regression: only near lr = 0", toy.logistic(20, 200, 0), 5.0)):
        slope, curvature = toy.slope_and_curvature(problem, theta)
        best, _ = best_lr(problem, theta)
        lrs = np.linspace(0, high * best, 60)
        ax.plot(lrs, [along(problem.tasks(), theta, lr)[0] for lr in lrs], color="tab:blue", lw=2,
                label="measured change of L_R")
        ax.plot(lrs, -lrs * slope + lrs**2 / 2 * curvature, "k--", label="predicted parabola")
        for k, color in ((1, "tab:green"), (2, "tab:red")):
            ax.axvline(k * best, color=color, ls="--", lw=1, label=f"predicted {k} lr*")
        ax.set(title=name, xlabel="lr", ylabel="L_R(theta - lr d) - L_R(theta)")
    return fig
