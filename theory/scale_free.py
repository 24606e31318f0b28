"""What happens when a loss is multiplied by a constant? Nothing, for NGDiff.

Claim: NGDiff's direction does not change when L_R or L_F is multiplied by any s > 0, nor does
AutoLR's lr (slope and curvature scale alike). So the path is the same: bit for bit if s is a
power of 2. Another s rounds differently, and AutoLR at each step amplifies that until the paths
differ in the third digit.

Gradient difference changes: with weight c and L_F times s it is gradient difference with another
weight, c' / (1 - c') = c / ((1 - c) s). So it ends at the other minimiser

    theta*(c') = (c'A - (1 - c')B)^-1 (c'A r - (1 - c')B f),

or runs away.

Assumptions: s > 0, and losses with enough digits: in float32 AutoLR says the same at every scale.
Where it fails: GDiff; and NGDiff's AutoLR in float32 if a large constant is added to a loss
instead. The loss's differences are then lost in rounding.

Toy problems: random quadratics in R^20, eigenvalues 1 .. 100; a logistic regression in R^20.
Expected output: each row ok.
"""
import numpy as np
import torch

from theory import toy
from theory.pareto_front import minimiser
from theory.table import bound, compare, figure, same

SCALES, POWERS = (1e-3, 1e3), (2.0**-10, 2.0**10)

# --------------------------------------------------------------------------- predicted


def ngdiff_path(q, start, steps, lr):
    """NGDiff with a fixed lr on the unscaled quadratics, by its formula."""
    path = [start]
    for _ in range(steps):
        path.append(path[-1] - lr * toy.bisector(*q.gradients(path[-1])))
    return np.array(path)


def other_c(c, s):
    """c': the weight that c becomes when L_F is multiplied by s."""
    return c / (c + (1 - c) * s)


# --------------------------------------------------------------------------- measured

def scaled(tasks, s_R, s_F):
    """The two tasks, multiplied."""
    return (lambda theta: s_R * tasks[0](theta)), (lambda theta: s_F * tasks[1](theta))


def path_difference(tasks, start, steps, lr, scales):
    """The largest difference of the path over all scales of L_R and of L_F, over its length."""
    plain = toy.descend(tasks, start, steps, lr).theta
    paths = [toy.descend(scaled(tasks, *s), start, steps, lr).theta
             for x in scales for s in ((x, 1.0), (1.0, x))]
    return max(np.abs(path - plain).max() for path in paths) / np.abs(plain - start).max()


def gdiff_end(q, start, s, c=0.995):
    """Where gradient difference ends with L_F multiplied by s."""
    lr = 1.8 / np.linalg.eigvalsh(q.A)[-1]
    return toy.descend(scaled(q.tasks(), 1.0, s), start, round(30 / lr), lr, c=c,
                       method="gdiff").theta[-1]


def float32_status(lg, s, more=0.0):
    """What AutoLR says in float32 at lr 0.03, with s L_R + more for L_R."""
    L_R, L_F = scaled(lg.tasks(torch.float32), s, 1.0)
    tasks = (lambda theta: L_R(theta) + more), L_F
    return toy.fits(tasks, np.ones(20), 0.03, 1, torch.float32)[0].status


def claims(largest=100.0):
    """largest: the largest eigenvalue where gradient difference runs to its end; the number of
    steps grows with it."""
    q, lg, c = toy.quadratics(20, 1), toy.logistic(20, 200, 0), 0.995
    start, tasks = q.r + np.linspace(-1, 1, 20), q.tasks()
    easy = toy.quadratics(20, 1, largest)
    ends = [gdiff_end(easy, start, s, c) for s in (0.1, 1.0, 2.0)]
    return [
        compare("NGDiff, fixed lr, L_F x 1000: 100 steps' path is the formula's unscaled",
                ngdiff_path(q, start, 100, 0.02),
                toy.descend(scaled(tasks, 1.0, 1e3), start, 100, 0.02).theta, 1e-9),
        compare("NGDiff, fixed lr, L_R or L_F x 1e-3 .. 1e3: the path's change", 0,
                path_difference(tasks, start, 50, 0.02, SCALES), 1e-12),
        compare("NGDiff, AutoLR, x 2^-10 .. 2^10: change of 100 steps' path, bit for bit", 0,
                path_difference(tasks, start, 100, None, POWERS), 0),
        compare("NGDiff, AutoLR, x 1e-3 .. 1e3: change of 10 steps' path", 0,
                path_difference(tasks, start, 10, None, SCALES), 1e-9),
        bound("   fails by rounding: change of 60 steps' path", ">", 1e-6,
              path_difference(tasks, start, 60, None, SCALES)),
        compare("GDiff(0.995), L_F x 0.1, 1, 2: ends at theta*(c')",
                [minimiser(easy, other_c(c, s)) for s in (0.1, 1.0, 2.0)], ends, 1e-8),
        bound("   ... so GDiff's end moves: distance from L_F x 0.1 to x 2", ">", 0.1,
              np.linalg.norm(ends[0] - ends[2])),
        same("float32: AutoLR at lr 0.03 says, L_R x 1, x 1e-6; fails if 1000 is added",
             "fit, fit, no convexity",
             ", ".join(float32_status(lg, *s) for s in ((1.0,), (1e-6,), (1.0, 1e3))))]


def draw():
    q = toy.quadratics(2, 2, largest=10.0)
    start = q.r + np.array([2.0, 2.0])
    fig, axes = figure("Claim: NGDiff's path does not depend on the losses' scale; gradient "
                       "difference's does", 2, 11, 4.8)
    for i, s in enumerate((1e-3, 1.0, 2.0)):
        tasks = scaled(q.tasks(), 1.0, s)
        for ax, path in ((axes[0], toy.descend(tasks, start, 400, 0.02)),
                         (axes[1], toy.descend(tasks, start, 400, 0.05, c=0.9, method="gdiff"))):
            ax.plot(*path.theta.T, color=f"C{i}", lw=6 - 2 * i, alpha=0.6,
                    label=f"measured: L_F times {s:g}")
        axes[1].plot(*minimiser(q, other_c(0.9, s)), "kx", ms=9,
                     label="predicted: theta*(c')" if i == 0 else None)
    axes[0].plot(*ngdiff_path(q, start, 400, 0.02).T, "k--", lw=1, label="predicted")
    for ax, name in zip(axes, ("NGDiff", "Gradient difference, c = 0.9")):
        ax.set(xlim=start[0] + np.array([-5, 3]), ylim=start[1] + np.array([-3, 5]),
               xlabel="theta 1", ylabel="theta 2", title=name)
    return fig
