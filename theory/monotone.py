"""Does a small step really lower L_R and raise L_F at once?

Claim: unless g_R and g_F point the same way, for a small lr the step theta - lr d of NGDiff gives

    change of L_R = -lr |g_R| (1 - cos) + O(lr^2) < 0
    change of L_F = +lr |g_F| (1 - cos) + O(lr^2) > 0

so what is left after the first-order term falls with lr^2: a line of slope 2 on log-log axes. On
quadratics it is exactly 1/2 lr^2 d'Hd.

Assumptions: smooth losses, both gradients non-zero. Opposite gradients (cos = -1) are also
"parallel", but they are the best case: d = 2 g_R / |g_R|. Two cases where it fails: gradients in
the same direction (d = 0; ngdiff.py says Stationary) and a large lr (past 2 g_R.d / d'H_R d, L_R
rises). The forget half needs no small lr where L_F is convex: it then rises at every lr.

Toy problems: two random quadratics in R^20 with eigenvalues 1 .. 100; two logistic regressions in
R^20, which are not quadratic.  Expected output: each row ok; both slopes 2.00.
"""
import sys

import numpy as np

import ngdiff
from theory import toy

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

def changes(tasks, theta, lrs):
    """The change of (L_R, L_F) by one step of ngdiff.py from theta, for each lr: (len(lrs), 2)."""
    out = []
    for lr in lrs:
        params = toy.leaf(theta)
        five, d = toy.step(tasks, params)
        ngdiff.update(params, d, float(lr))
        after = [ngdiff.loss_only(toy.parts(task, params)) for task in tasks]
        out.append([after[0] - five.loss_retain, after[1] - five.loss_forget])
    return np.array(out)


def stationary(tasks, theta):
    """What ngdiff.py says of a point: "Stationary" or "a direction"."""
    try:
        toy.step(tasks, toy.leaf(theta))
    except ngdiff.Stationary:
        return "Stationary"
    return "a direction"


# --------------------------------------------------------------------------- claims

def slope_claims(name, tasks, theta, g_R, g_F):
    """Remainder of both losses: slope on log-log axes; and the first order itself."""
    rate = first_order(g_R, g_F)
    left = np.abs(changes(tasks, theta, LRS) - LRS[:, None] * rate)
    small = changes(tasks, theta, [1e-6])[0] / 1e-6
    return [toy.compare(f"{name}: change of L_R, L_F a unit of lr, at lr 1e-6", rate, small, 1e-3),
            toy.compare(f"{name}: remainder of L_R, log-log slope", 2.0,
                        toy.slope_of(LRS, left[:, 0]), 0.01),
            toy.compare(f"{name}: remainder of L_F, log-log slope", 2.0,
                        toy.slope_of(LRS, left[:, 1]), 0.01)]


def claims(n_points=50):
    """The rows of this script's table."""
    q, lg, rng = toy.quadratics(20, 0), toy.logistic(20, 200, 0), np.random.default_rng(1)
    points = rng.standard_normal((n_points, 20))
    theta, tasks = points[0], q.tasks()
    g_R, g_F = q.gradients(theta)
    d2 = second_order(q, theta)
    too_large = -2 * first_order(g_R, g_F)[0] / d2[0]          # 2 x (2 g_R.d / d'Ad)
    left = changes(tasks, theta, [0.01])[0] - 0.01 * first_order(g_R, g_F)
    signs = np.array([np.sign(changes(tasks, p, [1e-4])[0]) for p in points])
    double = (tasks[0], lambda t: 2 * tasks[0](t))             # g_F = 2 g_R
    opposite = (tasks[0], lambda t: -2 * tasks[0](t))          # g_F = -2 g_R
    return [
        toy.compare(f"{n_points} random points, lr 1e-4: share where L_R falls and L_F rises", 1.0,
                    np.mean((signs == [-1, 1]).all(1)), 0),
        *slope_claims("quadratics", tasks, theta, g_R, g_F),
        toy.compare("quadratics: the remainder is 1/2 lr^2 d'Hd", 1e-4 * d2, left, 1e-9),
        *slope_claims("logistic", lg.tasks(), theta,
                      *(rows.mean(0) for rows in lg.row_gradients(theta))),
        toy.same("fails if g_F = 2 g_R (same direction): ngdiff.py says", "Stationary",
                 stationary(double, theta)),
        toy.same("g_F = -2 g_R is no exception: signs of the changes", [-1, 1],
                 np.sign(changes(opposite, theta, [1e-4])[0]).astype(int).tolist()),
        toy.same("fails if lr is large (2 x the zero of the parabola): sign for L_R", 1,
                 int(np.sign(changes(tasks, theta, [too_large])[0, 0]))),
        toy.same("   ... but a convex L_F rises even at lr 1000: sign for L_F", 1,
                 int(np.sign(changes(tasks, theta, [1000.0])[0, 1])))]


# --------------------------------------------------------------------------- figure

def draw(folder):
    q, lg, theta = toy.quadratics(20, 0), toy.logistic(20, 200, 0), np.ones(20)
    fig, axes = toy.figure(11, 4.4, 1, 2, "Claim: NGDiff's step lowers L_R and raises L_F by "
                           "lr |g| (1 - cos), and what is left falls with lr squared")
    problems = (("Two quadratics", q.tasks(), q.gradients(theta)),
                ("Two logistic regressions", lg.tasks(),
                 [rows.mean(0) for rows in lg.row_gradients(theta)]))
    for ax, (name, tasks, gradients) in zip(axes, problems):
        rate = first_order(*gradients)
        change = changes(tasks, theta, LRS)
        left = np.abs(change - LRS[:, None] * rate)
        for i, (label, color, sign) in enumerate((("fall of L_R", "tab:blue", -1),
                                                  ("rise of L_F", "tab:red", 1))):
            ax.loglog(LRS, sign * change[:, i], "o-", color=color, ms=3, label=label)
            ax.loglog(LRS, LRS * abs(rate[i]), "k--", lw=1)
            ax.loglog(LRS, left[:, i], "s-", color=color, ms=3, mfc="none", alpha=0.6,
                      label="   what the first order leaves")
            ax.loglog(LRS, left[-1, i] * (LRS / LRS[-1])**2, "k--", lw=1)
        ax.plot([], [], "k--", lw=1, label="predicted: slopes 1 and 2")
        ax.set(title=name, xlabel="lr", ylabel="change of the loss")
        ax.legend(fontsize=8)
    toy.save(fig, folder, "monotone")


def main():
    return toy.run_alone(claims, draw)


if __name__ == "__main__":
    sys.exit(main())
