"""Does a small step really lower L_R and raise L_F at once?

Claim: unless g_R and g_F have the same direction, for a small lr the step theta - lr d of NGDiff
gives

    change of L_R = -lr |g_R| (1 - cos) + O(lr^2) < 0
    change of L_F = +lr |g_F| (1 - cos) + O(lr^2) > 0

So the remainder after the first-order term falls with lr^2: a line of slope 2 on log-log axes. On
quadratics it is exactly 1/2 lr^2 d'Hd.

Assumptions: smooth losses, both gradients non-zero, a small lr. Opposite gradients (cos = -1) are
the best case, d = 2 g_R / |g_R|. Where it fails: gradients in the same direction (d = 0; ngdiff.py
says Stationary), and a large lr (past 2 g_R.d / d'H_R d, L_R rises). A convex L_F always rises.

Toy problems: two random quadratics in R^20 with eigenvalues 1 .. 100; two logistic regressions in
R^20, which are not quadratic.  Expected output: each row ok; all slopes 2.00.
"""
import numpy as np

import ngdiff
from theory import toy
from theory.table import compare, figure, log_slope, same

LRS = np.geomspace(1e-5, 1e-2, 13)

# --------------------------------------------------------------------------- predicted


def first_order(g_R, g_F):
    """The change of (L_R, L_F) a unit of lr, from the two gradients."""
    norm_R, norm_F = np.linalg.norm(g_R), np.linalg.norm(g_F)
    cos = g_R @ g_F / (norm_R * norm_F)
    return np.array([-norm_R * (1 - cos), norm_F * (1 - cos)])


def second_order(q, theta):
    """1/2 d'Ad and 1/2 d'Bd."""
    d = toy.bisector(*q.gradients(theta))
    return np.array([d @ q.A @ d, d @ q.B @ d]) / 2


# --------------------------------------------------------------------------- measured

def change(tasks, start, lr):
    """The change of (L_R, L_F) by one step of ngdiff.py: (2,)."""
    theta = toy.leaf(start)
    retain, forget = toy.losses(tasks, theta)
    before = ngdiff.step(retain, forget, [theta], ngdiff.State(lr=float(lr)), lazy=0)
    return np.array([ngdiff.loss_only(retain) - before.loss_retain,
                     ngdiff.loss_only(forget) - before.loss_forget])


def changes(tasks, start):
    """The same for each of LRS: (len(LRS), 2)."""
    return np.array([change(tasks, start, lr) for lr in LRS])


def stationary(tasks, start):
    """What ngdiff.py says of a point: "Stationary" or "a direction"."""
    try:
        change(tasks, start, 1e-4)
    except ngdiff.Stationary:
        return "Stationary"
    return "a direction"


def sign(x):
    return np.sign(x).astype(int).tolist()


def order_claims(name, problem, theta):
    """The first order itself, and both losses' remainder: its slope on log-log axes."""
    tasks, rate = problem.tasks(), first_order(*problem.gradients(theta))
    left = np.abs(changes(tasks, theta) - LRS[:, None] * rate)
    return [compare(f"{name}: change of L_R, L_F a unit of lr, at lr 1e-6", rate,
                    change(tasks, theta, 1e-6) / 1e-6, 1e-3),
            *(compare(f"{name}: remainder of {loss}, log-log slope", 2.0,
                      log_slope(LRS, left[:, i]), 0.01) for i, loss in enumerate(("L_R", "L_F")))]


def claims(n_points=50):
    q, lg = toy.quadratics(20, 0), toy.logistic(20, 200, 0)
    points = np.random.default_rng(1).standard_normal((n_points, 20))
    theta, tasks = points[0], q.tasks()
    rate, d2 = first_order(*q.gradients(theta)), second_order(q, theta)
    signs = [sign(change(tasks, point, 1e-4)) for point in points]
    double = (tasks[0], lambda theta: 2 * tasks[0](theta))           # g_F = 2 g_R
    opposite = (tasks[0], lambda theta: -2 * tasks[0](theta))        # g_F = -2 g_R
    return [
        compare(f"{n_points} random points, lr 1e-4: share where L_R falls and L_F rises", 1.0,
                np.mean([s == [-1, 1] for s in signs]), 0),
        *order_claims("quadratics", q, theta),
        compare("quadratics: the remainder is 1/2 lr^2 d'Hd", 1e-4 * d2,
                change(tasks, theta, 0.01) - 0.01 * rate, 1e-9),
        *order_claims("logistic", lg, theta),
        same("fails if g_F = 2 g_R (same direction): ngdiff.py says", "Stationary",
             stationary(double, theta)),
        same("g_F = -2 g_R is no exception: signs of the changes", [-1, 1],
             sign(change(opposite, theta, 1e-4))),
        same("fails if lr is large (2 x the zero of the parabola): sign for L_R", 1,
             sign(change(tasks, theta, -2 * rate[0] / d2[0])[0])),
        same("   ... but a convex L_F rises even at lr 1000: sign for L_F", 1,
             sign(change(tasks, theta, 1000.0)[1]))]


def draw():
    fig, axes = figure("Claim: NGDiff's step lowers L_R and raises L_F by lr |g| (1 - cos), and "
                       "what is left falls with lr squared", 2, 11, 4.4)
    for ax, name, problem in ((axes[0], "Two quadratics", toy.quadratics(20, 0)),
                              (axes[1], "Two logistic regressions", toy.logistic(20, 200, 0))):
        rate = first_order(*problem.gradients(np.ones(20)))
        found = changes(problem.tasks(), np.ones(20))
        left = np.abs(found - LRS[:, None] * rate)
        for i, (label, color) in enumerate((("fall of L_R", "tab:blue"),
                                            ("rise of L_F", "tab:red"))):
            ax.loglog(LRS, np.abs(found[:, i]), "o-", color=color, ms=3, label=label)
            ax.loglog(LRS, LRS * abs(rate[i]), "k--", lw=1)
            ax.loglog(LRS, left[:, i], "s:", color=color, ms=3,
                      label="   what the first order leaves")
            ax.loglog(LRS, left[-1, i] * (LRS / LRS[-1])**2, "k--", lw=1)
        ax.plot([], [], "k--", lw=1, label="predicted: slopes 1 and 2")
        ax.set(title=name, xlabel="lr", ylabel="change of the loss")
    return fig
