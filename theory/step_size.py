"""How large may the step be, and which step lowers L_R most?

Claim: along any direction d, L_R(theta - lr d) = L_R - lr g_R.d + 1/2 lr^2 d'H_R d + o(lr^2). If
g_R.d > 0 and d'H_R d > 0, L_R falls for 0 < lr < 2 lr* and falls most at

    lr* = g_R.d / d'H_R d,      by (g_R.d)^2 / (2 d'H_R d).

Both are exact on a quadratic. AutoLR (ngdiff.fit_lr) finds lr* from three values of L_R.

Assumptions: g_R.d > 0, which NGDiff's d has and Adam's need not; d'H_R d > 0; L_R quadratic along
d. Without the second there is no lr* (L_R falls ever further) and AutoLR says "no convexity";
without the third the zero is not at twice the minimum.

Toy problem: random quadratics in R^20 with eigenvalues 1 .. 100; the same with one eigenvalue
made negative; a logistic regression.  Expected output: each row ok.
"""
import sys

import numpy as np

import ngdiff
from theory import toy


# --------------------------------------------------------------------------- predicted

def best_lr(q, theta):
    """(lr*, how much L_R falls there) from A itself, along NGDiff's direction."""
    g_R, g_F = q.gradients(theta)
    d = toy.bisector(g_R, g_F)
    slope, curvature = g_R @ d, d @ q.A @ d
    return slope / curvature, slope**2 / (2 * curvature)


# --------------------------------------------------------------------------- measured

def fitted(tasks, theta, lr, bound=1e9):
    """ngdiff.fit_lr's answer from probes at lr; its bound on one move is lifted."""
    params = toy.leaf(theta)
    five, d = toy.step(tasks, params)
    return ngdiff.fit_lr(toy.parts(tasks[0], params), params, d, five.loss_retain, lr, bound)


def along(tasks, theta, lr):
    """(change of L_R, its derivative by lr) after one step of ngdiff.py with this lr."""
    params = toy.leaf(theta)
    five, d = toy.step(tasks, params)
    ngdiff.update(params, d, lr)
    loss, grad = ngdiff.loss_and_grad(toy.parts(tasks[0], params), params)
    return float(loss) - five.loss_retain, -float(grad[0] @ d[0])


def root(f, low, high):
    """Where f changes sign, by bisection."""
    sign = np.sign(f(low))
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.sign(f(middle)) == sign else (low, middle)
    return (low + high) / 2


def minimum_and_zero(tasks, theta, lr):
    """The lr where L_R is lowest, and the one where it is back at its old value."""
    return (root(lambda x: along(tasks, theta, x)[1], 1e-3 * lr, 100 * lr),
            root(lambda x: along(tasks, theta, x)[0], 1e-3 * lr, 100 * lr))


# --------------------------------------------------------------------------- claims

def claims(n_points=5):
    """The rows of this script's table."""
    q, rng = toy.quadratics(20, 0), np.random.default_rng(2)
    tasks, points = q.tasks(), rng.standard_normal((n_points, 20))
    predicted = np.array([best_lr(q, theta) for theta in points])
    found = np.array([minimum_and_zero(tasks, t, lr) for t, (lr, _) in zip(points, predicted)])
    falls = [-along(tasks, t, lr)[0] for t, (lr, _) in zip(points, predicted)]
    saddle = q._replace(A=q.A - 30 * np.eye(20))            # eigenvalues -29 .. 70
    valley = np.linalg.eigh(saddle.A)[1][:, 0] * 10 + q.r    # along it L_R is concave
    fit = fitted(saddle.tasks(), valley, 0.01)
    fall = [along(saddle.tasks(), valley, lr)[0] for lr in (1.0, 10.0, 100.0)]
    lg, theta = toy.logistic(20, 200, 0), np.ones(20)
    lowest, zero = minimum_and_zero(lg.tasks(), theta, 10.0)
    return [
        toy.compare("AutoLR's lr = g_R.d / d'Ad", predicted[:, 0],
                    [fitted(tasks, t, 0.1).lr for t in points], 1e-10),
        toy.compare("L_R is lowest at lr*", predicted[:, 0], found[:, 0], 1e-10),
        toy.compare("L_R is back at its old value at 2 lr*", 2 * predicted[:, 0], found[:, 1],
                    1e-10),
        toy.compare("at lr* L_R has fallen by (g_R.d)^2 / (2 d'Ad)", predicted[:, 1], falls, 1e-10),
        toy.same("fails if L_R is concave along d: AutoLR says", "no convexity", fit.status),
        toy.same("   ... L_R falls ever further, at lr 1, 10, 100", True,
                 bool(0 > fall[0] > fall[1] > fall[2])),
        toy.bound("fails if L_R is not quadratic (logistic): |zero / minimum - 2|", ">", 0.05,
                  abs(zero / lowest - 2))]


# --------------------------------------------------------------------------- figure

def draw(folder):
    q, theta = toy.quadratics(20, 0), np.ones(20)
    lg, lr_star = toy.logistic(20, 200, 0), best_lr(q, theta)[0]
    d = toy.bisector(*(rows.mean(0) for rows in lg.row_gradients(theta)))
    of_lg = lg.derivatives(theta, d)[:2] * [-1, 1]
    g_R, d_q = q.gradients(theta)[0], toy.bisector(*q.gradients(theta))
    of_q = g_R @ d_q, d_q @ q.A @ d_q
    fig, axes = toy.figure(11, 4.8, 1, 2, "Claim: along NGDiff's direction L_R falls until 2 lr*, "
                           "and most at lr* = g_R.d / d'Hd")
    lowest, _ = minimum_and_zero(lg.tasks(), theta, 10.0)
    for ax, tasks, high, (slope, curvature), name in (
            (axes[0], q.tasks(), 2.6 * lr_star, of_q, "A quadratic: exact"),
            (axes[1], lg.tasks(), 2.6 * lowest, of_lg,
             "A logistic regression: only near lr = 0")):
        lrs = np.linspace(0, high, 60)
        ax.plot(lrs, [along(tasks, theta, lr)[0] for lr in lrs], color="tab:blue", lw=2,
                label="measured change of L_R")
        ax.plot(lrs, -lrs * slope + lrs**2 / 2 * curvature, "k--",
                label="predicted parabola")
        ax.axvline(slope / curvature, color="tab:green", ls="--", lw=1, label="predicted lr*")
        ax.axvline(2 * slope / curvature, color="tab:red", ls="--", lw=1, label="predicted 2 lr*")
        ax.axhline(0, color="tab:gray", lw=0.8)
        ax.set(title=name, xlabel="lr", ylabel="L_R(theta - lr d) - L_R(theta)")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    toy.save(fig, folder, "step_size")


def main():
    return toy.run_alone(claims, draw)


if __name__ == "__main__":
    sys.exit(main())
