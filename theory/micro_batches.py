"""What do few examples do to NGDiff's direction? A batch turns it; a normalised part biases it.

Claim (ours), a batch: with e_R, e_F the gradients' errors, the direction is off by
P e_R/|g_R| - P e_F/|g_F|, where P removes the part along each gradient. So the angle to the whole
set's direction is, to first order, sqrt(trace / b) / |d|, where trace is that of the projected
errors' covariance. It averages out over batches.

Claim, micro-batches: normalising each micro-batch of m examples before summing does not average
out. The mean of g_m/|g_m| is g/|g| - (P C g/|g| + 1/2 tr(P C) g/|g|) / |g|^2 to first order. C is
the covariance of g_m, about 1/m of one example's. That is a bias of order 1/m, even when all N
examples are used. So ngdiff.loss_and_grad sums all parts first: then the split does not matter.

Assumptions: errors small beside the gradients (first order). Where it fails: small batches (the
figure), and the normalised micro-batches.

Toy problem: logistic regressions with 512 examples in R^20.  Expected output: each row ok.
"""
import functools

import numpy as np

from theory import toy
from theory.table import bound, compare, figure

BATCHES = (16, 32, 64, 128, 256)

# --------------------------------------------------------------------------- predicted


def covariance(rows, b):
    """Of the mean of b of the N rows, drawn without replacement."""
    return np.cov(rows.T) / b * (1 - b / len(rows))


def off(v):
    """The projection that takes out the part along v."""
    return np.eye(len(v)) - np.outer(v, v) / (v @ v)


def expected_angle(lg, theta, b):
    """Root mean square angle between a batch's direction and the whole set's, first order."""
    d, spread = toy.bisector(*lg.gradients(theta)), 0.0
    for rows, g in zip(lg.row_gradients(theta), lg.gradients(theta)):
        P = off(d) @ off(g)
        spread = spread + np.trace(P @ covariance(rows, b) @ P.T) / (g @ g)
    return np.sqrt(spread / (d @ d))


def expected_bias(lg, theta, m):
    """The mean of the micro-batches' own directions minus the whole set's, first order in 1/m."""
    shift = []
    for rows, g in zip(lg.row_gradients(theta), lg.gradients(theta)):
        PC = off(g) @ covariance(rows, m)
        shift.append(-(PC @ toy.unit(g) + 0.5 * np.trace(PC) * toy.unit(g)) / (g @ g))
    return shift[0] - shift[1]


# --------------------------------------------------------------------------- measured

def batch_direction(lg, theta, rows_R=slice(None), rows_F=slice(None)):
    """ngdiff.py's direction from some of the examples; from all of them if none are named."""
    theta = toy.leaf(theta)
    losses = toy.losses(lg.some(rows_R, rows_F).tasks(), theta)
    return toy.direction(*losses, [theta])[1][0].numpy()


@functools.cache
def batch_directions(b, n, seed=0):
    """Those of all N/b batches of b, for n random splits of each task's examples: (n N/b, dim)."""
    lg, theta, rng = *problem(), np.random.default_rng(seed)
    found = []
    for _ in range(n):
        splits = [rng.permutation(len(lg.y_R)).reshape(-1, b) for _ in range(2)]
        found += [batch_direction(lg, theta, *rows) for rows in zip(*splits)]
    return np.array(found)


def measured_angle(b, n):
    """Root mean square angle between these and the whole set's direction, radians."""
    d = batch_direction(*problem())
    return np.sqrt(np.mean([np.arccos(toy.unit(x) @ toy.unit(d))**2
                            for x in batch_directions(b, n)]))


def measured_bias(m, n):
    """Their mean minus the whole set's direction."""
    return batch_directions(m, n).mean(0) - batch_direction(*problem())


def split_direction(lg, theta, m):
    """ngdiff.py's direction with the whole set handed over in parts of m examples."""
    params, N, parts = [toy.leaf(theta)], len(lg.y_R), ([], [])
    for i in range(0, N, m):
        some = lg.some(slice(i, i + m), slice(i, i + m)).tasks()
        for task, part in zip(some, parts):
            part.append(lambda task=task: task(params[0]) * m / N)
    return toy.direction(*parts, params)[1][0].numpy()


def problem():
    """(The two regressions, the point where everything is measured.)"""
    return toy.logistic(20, 512, 0), np.full(20, 0.2)


def claims(n=400):
    """n: random splits that each average is taken over."""
    (lg, theta), bias = problem(), measured_bias(128, n)
    whole = batch_direction(lg, theta)
    return [
        *(compare(f"angle between a batch of {b} (of 512) and the whole set, radians",
                  expected_angle(lg, theta, b), measured_angle(b, n), 0.1) for b in (128, 256)),
        compare("each micro-batch of 128 normalised: shift of the mean direction",
                expected_bias(lg, theta, 128), bias, 0.2),
        bound("   ... fails to average out: length of the shift over that of d", ">", 0.02,
              np.linalg.norm(bias) / np.linalg.norm(whole)),
        compare("summed first, normalised once: any split gives the same direction",
                [whole] * 3, [split_direction(lg, theta, m) for m in (8, 64, 256)], 1e-12)]


def draw():
    (lg, theta), batches, n = problem(), np.array(BATCHES), 20
    fig, axes = figure("Claim: a batch turns NGDiff's direction; normalising each micro-batch "
                       "biases it, even over the whole set", 2, 11, 4.4)
    axes[0].loglog(batches, [np.degrees(measured_angle(b, n)) for b in BATCHES], "o-",
                   color="tab:blue", label="measured")
    axes[0].loglog(batches, [np.degrees(expected_angle(lg, theta, b)) for b in BATCHES], "k--",
                   label="predicted, first order")
    axes[0].set(title="Angle of a batch's direction to all 512 examples'", ylabel="degrees (rms)")
    axes[1].loglog(batches, [np.linalg.norm(measured_bias(b, n)) for b in BATCHES], "o-",
                   color="tab:red", label="measured: each normalised, then averaged")
    axes[1].loglog(batches, [np.linalg.norm(expected_bias(lg, theta, b)) for b in BATCHES], "k--",
                   label="predicted, first order")
    axes[1].set(title="Micro-batches of the whole set: bias of d", ylabel="length of the shift")
    for ax in axes:
        ax.set_xscale("log", base=2)
        ax.set_xlabel("examples in a batch of each task")
    return fig
