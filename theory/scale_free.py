"""What happens when a loss is multiplied by a constant, and when its gradient is noisy?

Claim: NGDiff's direction does not change when L_R or L_F is multiplied by any s > 0, nor does
AutoLR's lr (slope and curvature scale alike), so the path is the same: bit for bit where s is a
power of 2. Another s rounds differently, and AutoLR at each step multiplies that tenfold every two
or three steps (as exact line searches do), until the paths part in the third digit.

Gradient difference changes: with weight c and L_F times s it is gradient difference with another
weight, c' / (1 - c') = c / ((1 - c) s), and ends at the other minimiser
theta*(c') = (c'A - (1 - c')B)^-1 (c'A r - (1 - c')B f), or runs away.

Not covered by the paper's theory, and measured here: gradients of b examples instead of all N.
- With e_R, e_F the gradients' errors, the direction is off by P e_R/|g_R| - P e_F/|g_F|, P taking
  out each gradient's own part. So the angle to the whole set's direction is, to first order,
  sqrt(trace / b) / |d|: it falls as 1 / sqrt(b), and averages out over batches.
- Normalising each micro-batch of m examples before summing does not average out. The mean of
  g_m/|g_m| is g/|g| - (P C g/|g| + 1/2 tr(P C) g/|g|) / |g|^2 to first order, C = the covariance of
  g_m, about 1/m of one example's. A bias of order 1/m, even when all N examples are used: that is
  why ngdiff.loss_and_grad sums all parts first. Then the split does not matter at all.

Where it fails: GDiff, by the factor s. AutoLR judges rounding on an absolute scale (a loss is a
difference of logits of order 1), so in float32 a loss multiplied by 1e-3 and a tiny lr is taken
for noise and the fit looks wider, where the loss itself would have been fitted.

Toy problems: random quadratics in R^20, eigenvalues 1 .. 100; logistic regressions with 512
examples in R^20.  Expected output: each row ok.
"""
import sys

import numpy as np
import torch

import ngdiff
from theory import parabola, pareto_front, toy

SCALES = (1e-3, 1e-1, 1e1, 1e3)
POWERS = (2.0**-10, 2.0**-3, 2.0**3, 2.0**10)
BATCHES = (8, 16, 32, 64, 128, 256)


# --------------------------------------------------------------------------- predicted

def ngdiff_path(q, start, steps, lr):
    """NGDiff with a fixed lr on the unscaled quadratics, by its formula."""
    path = [start]
    for _ in range(steps):
        path.append(path[-1] - lr * toy.bisector(*q.gradients(path[-1])))
    return np.array(path)


def covariance(rows, b):
    """Of the mean of b of the N rows, drawn without replacement."""
    return np.cov(rows.T) / b * (1 - b / len(rows))


def expected_angle(lg, theta, b):
    """Root mean square angle between a batch's direction and the whole set's, first order."""
    rows, spread = lg.row_gradients(theta), 0.0
    d = toy.bisector(*(r.mean(0) for r in rows))
    off_d = np.eye(len(d)) - np.outer(d, d) / (d @ d)
    for r in rows:
        g = r.mean(0)
        P = off_d @ (np.eye(len(g)) - np.outer(g, g) / (g @ g))
        spread = spread + np.trace(P @ covariance(r, b) @ P.T) / (g @ g)
    return np.sqrt(spread / (d @ d))


def expected_bias(lg, theta, m):
    """The mean of the micro-batches' own directions minus the whole set's, first order in 1/m."""
    shift = []
    for r in lg.row_gradients(theta):
        g = r.mean(0)
        u, C = g / np.linalg.norm(g), covariance(r, m)
        PC = C - np.outer(u, u) @ C
        shift.append(-(PC @ u + 0.5 * np.trace(PC) * u) / (g @ g))
    return shift[0] - shift[1]


# --------------------------------------------------------------------------- measured

def scaled(tasks, s_R, s_F):
    """The two tasks, multiplied."""
    return (lambda theta: s_R * tasks[0](theta)), (lambda theta: s_F * tasks[1](theta))


def path_difference(tasks, start, steps, lr, scales):
    """The largest difference of the path over all scales of L_R and of L_F, over its length."""
    path = lambda t: toy.descend(t, start, steps, lr).theta
    plain = path(tasks)
    return max(np.abs(path(scaled(tasks, *s)) - plain).max() / np.abs(plain - start).max()
               for x in scales for s in ((x, 1.0), (1.0, x)))


def batch_direction(lg, theta, rows_R, rows_F):
    """ngdiff.py's direction from some of the examples."""
    some = lg._replace(X_R=lg.X_R[rows_R], y_R=lg.y_R[rows_R], X_F=lg.X_F[rows_F],
                       y_F=lg.y_F[rows_F])
    return toy.step(some.tasks(), toy.leaf(theta))[1][0].numpy()


def measured_angle(lg, theta, b, n, seed=0):
    """Root mean square angle between n random batches' directions and the whole set's."""
    rng, N = np.random.default_rng(seed), len(lg.y_R)
    d, angles = batch_direction(lg, theta, slice(None), slice(None)), []
    for _ in range(n):
        x = batch_direction(lg, theta, *(rng.permutation(N)[:b] for _ in range(2)))
        angles.append(np.arccos(x @ d / (np.linalg.norm(x) * np.linalg.norm(d))))
    return np.sqrt(np.mean(np.square(angles)))


def measured_bias(lg, theta, m, n, seed=0):
    """Mean of the directions of all N/m micro-batches, n random splits, minus the whole set's."""
    rng, N, found = np.random.default_rng(seed), len(lg.y_R), []
    for _ in range(n):
        order = rng.permutation(N).reshape(-1, m), rng.permutation(N).reshape(-1, m)
        found += [batch_direction(lg, theta, r, f) for r, f in zip(*order)]
    return np.mean(found, axis=0) - batch_direction(lg, theta, slice(None), slice(None))


def split_direction(lg, theta, m):
    """ngdiff.py's direction with the whole set handed over in parts of m examples."""
    params, N, grads = toy.leaf(theta), len(lg.y_R), []
    for X, y in ((lg.X_R, lg.y_R), (lg.X_F, lg.y_F)):
        part = lambda at: lg._replace(X_R=X[at:at + m], y_R=y[at:at + m]).tasks()[0]
        grads.append(ngdiff.loss_and_grad(
            [lambda task=part(at): task(params[0]) * m / N for at in range(0, N, m)], params))
    (loss_R, grad_R), (loss_F, grad_F) = grads
    five = ngdiff.five_numbers(loss_R, grad_R, loss_F, grad_F)
    return ngdiff.direction(grad_R, grad_F, *ngdiff.coefficients("ngdiff", five))[0].numpy()


# --------------------------------------------------------------------------- claims

def scale_claims(q):
    start, tasks, c = q.r + np.linspace(-1, 1, 20), q.tasks(), 0.995
    to = lambda s: c / (c + (1 - c) * s)                          # c'
    first = [parabola.settle(scaled(toy.logistic(20, 200, 0).tasks(torch.float32), s, 1.0),
                             np.ones(20), 0.003, torch.float32)[0].status for s in (1.0, 1e-3)]
    ends = [toy.descend(scaled(tasks, 1.0, s), start, 3000, 0.018, "gdiff", c).theta[-1]
            for s in (0.1, 1.0, 2.0)]
    return [
        toy.compare("NGDiff, fixed lr, L_F x 1000: 300 steps' path is the formula's unscaled",
                    ngdiff_path(q, start, 300, 0.02),
                    toy.descend(scaled(tasks, 1.0, 1e3), start, 300, 0.02).theta, 1e-9),
        toy.compare("NGDiff, fixed lr, L_R or L_F x 1e-3 .. 1e3: the path's change", 0,
                    path_difference(tasks, start, 100, 0.02, SCALES), 1e-12),
        toy.compare("NGDiff, AutoLR, x 2^-10 .. 2^10: change of 100 steps' path, bit for bit", 0,
                    path_difference(tasks, start, 100, "auto", POWERS), 0),
        toy.compare("NGDiff, AutoLR, x 1e-3 .. 1e3: change of 10 steps' path", 0,
                    path_difference(tasks, start, 10, "auto", SCALES), 1e-9),
        toy.bound("   fails by rounding: change of 60 steps' path", ">", 1e-6,
                  path_difference(tasks, start, 60, "auto", SCALES)),
        toy.compare("GDiff(0.995), L_F x 0.1, 1, 2: ends at theta*(c')",
                    [pareto_front.minimiser(q, to(s)) for s in (0.1, 1.0, 2.0)], ends, 1e-8),
        toy.bound("   ... so GDiff's end moves: distance from L_F x 0.1 to x 2", ">", 0.1,
                  np.linalg.norm(ends[0] - ends[2])),
        toy.same("fails in float32: AutoLR at lr 0.003, L_R x 1 and x 0.001, says",
                 "fit, no convexity", ", ".join(first))]


def noise_claims(lg, theta, n):
    angle = {b: measured_angle(lg, theta, b, n) for b in (128, 256)}
    whole = batch_direction(lg, theta, slice(None), slice(None))
    bias = measured_bias(lg, theta, 128, n)
    return [
        *(toy.compare(f"angle between a batch of {b} (of 512) and the whole set, radians",
                      expected_angle(lg, theta, b), angle[b], 0.1) for b in angle),
        toy.compare("each micro-batch of 128 normalised: shift of the mean direction",
                    expected_bias(lg, theta, 128), bias, 0.2),
        toy.bound("   ... fails to average out: length of the shift over that of d", ">", 0.02,
                  np.linalg.norm(bias) / np.linalg.norm(whole)),
        toy.compare("summed first, normalised once: any split gives the same direction",
                    [whole] * 3, [split_direction(lg, theta, m) for m in (8, 64, 256)], 1e-12)]


def claims(n=400):
    """The rows of this script's table. n: random batches that each average is taken over."""
    return scale_claims(toy.quadratics(20, 1)) + noise_claims(toy.logistic(20, 512, 0),
                                                              np.full(20, 0.2), n)


# --------------------------------------------------------------------------- figure

def draw_paths(ax):
    q = toy.quadratics(2, 2, largest=10.0)
    start = q.r + np.array([2.0, 2.0])
    for method, color, label in (("ngdiff", "tab:blue", "NGDiff"),
                                 ("gdiff", "tab:red", "GDiff(0.9)")):
        for i, s in enumerate((1e-3, 1.0, 2.0, 1e3)):
            tasks = scaled(q.tasks(), 1.0, s)
            if method == "ngdiff" or s < 1e3:
                path = toy.descend(tasks, start, 2000, 0.02, method, 0.9).theta
            else:
                path = toy.descend(tasks, start, 4, 0.001, method, 0.9).theta
            ax.plot(*path.T, color=color, lw=4 - i, alpha=0.5, label=None if i else label)
            ax.plot(*path[-1], "o", color=color, ms=5)
    ax.plot(*ngdiff_path(q, start, 2000, 0.02).T, "k--", lw=1, label="predicted, NGDiff")
    ax.set(xlim=start[0] + np.array([-5, 3]), ylim=start[1] + np.array([-3, 5]), xlabel="theta 1",
           ylabel="theta 2", title="L_F times 0.001, 1, 2, 1000")
    ax.legend(fontsize=8)


def draw(folder):
    lg, theta, batches = toy.logistic(20, 512, 0), np.full(20, 0.2), np.array(BATCHES)
    fig, axes = toy.figure(13, 4.4, 1, 3, "Claim: NGDiff's path does not depend on the losses' "
                           "scale. A mini-batch turns it; normalising each micro-batch biases it")
    draw_paths(axes[0])
    angle = [np.degrees(measured_angle(lg, theta, b, 200)) for b in batches]
    axes[1].loglog(batches, angle, "o-", color="tab:blue", label="measured")
    axes[1].loglog(batches, [np.degrees(expected_angle(lg, theta, b)) for b in batches], "k--",
                   label="predicted, first order")
    axes[1].set(title="Angle of a batch's direction to all 512 examples'", ylabel="degrees (rms)")
    bias = [np.linalg.norm(measured_bias(lg, theta, b, 100)) for b in batches]
    axes[2].loglog(batches, bias, "o-", color="tab:red", label="each normalised, then averaged")
    axes[2].loglog(batches, [np.linalg.norm(expected_bias(lg, theta, b)) for b in batches], "k--",
                   label="predicted, first order")
    axes[2].set(title="Micro-batches of the whole set: bias of d", ylabel="length of the shift")
    for ax in axes[1:]:
        ax.set_xlabel("examples in a batch of each task")
        ax.legend(fontsize=8)
    toy.save(fig, folder, "scale_free")


def main():
    return toy.run_alone(claims, draw)


if __name__ == "__main__":
    sys.exit(main())
