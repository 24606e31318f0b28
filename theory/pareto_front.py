"""Where does a weighted difference of two losses end up? On the Pareto front, if it ends at all.

Claim, static weights: LSP(theta; c) = c L_R - (1 - c) L_F. For 0 < c < 1 each global minimiser of
LSP is Pareto optimal: a point with a lower L_R and a higher L_F would have a lower LSP. On two
quadratics (A, B positive definite) a minimiser exists iff c A - (1 - c) B is positive definite:

    c > c* = lam / (1 + lam),  lam = the largest eigenvalue of A^-1 B;  it is then
    theta*(c) = (c A - (1 - c) B)^-1 (c A r - (1 - c) B f).

Below c* gradient descent runs away, by the factor 1 + lr |smallest eigenvalue| a step: that is the
"collapse" of gradient ascent (c = 0) and of gradient difference with a small c.

Claim, moving weights ("Eq. (3)"): theta <- theta - lr (c_t g_R - (1 - c_t) g_F). If c_t converges
to c > c*, theta converges to theta*(c), whatever the path of c_t, even one that passes below c*
(for a while the run moves off; each later step contracts). A c_t that keeps swinging ends on an
orbit, not on the front.

Claim, NGDiff: with AutoLR at each step, or a decaying lr of infinite sum, it comes to rest where
g_R and g_F are parallel (cos = 1): (A - mu B) theta = A r - mu B f, mu = |g_R| / |g_F|. Why: on
quadratics AutoLR is exact, so L_R falls by |g_R|^2 (1 - cos)^2 / (2 d'Ad) a step, and d'Ad is at
most 2 (1 - cos) times A's largest eigenvalue; as L_R cannot fall for ever, |g_R|^2 (1 - cos) -> 0.
(AutoLR's bound, a factor of 2 a fit, is not in this proof. Where lr* drops faster than that L_R
rises for a step or two; on other seeds a few starts had not settled after 3000 steps.)

What the paper's statement leaves out: "the limit is Pareto optimal" is true only of the part of
that curve where mu <= 1 / lam. NGDiff needs A - mu B positive on the directions orthogonal to g_R
alone, so it also rests at points that are optimal among their neighbours and dominated by a
distant point of the front; from random starts one run in eight to one in two does. A fixed lr needs
no decay: it comes to rest too, but only where lr < 2 |g_R| / (largest eigenvalue of A - mu B on
the directions orthogonal to g_R), so a large one pushes the run outward, to a larger L_R.

Expected output: each row ok.
"""
import sys

import numpy as np

from theory import toy


# --------------------------------------------------------------------------- predicted

def critical_c(q):
    """c* = lam / (1 + lam)."""
    lam = np.linalg.eigvals(np.linalg.solve(q.A, q.B)).real.max()
    return lam / (1 + lam)


def minimiser(q, c):
    """theta*(c), the front's point for c > c*."""
    return np.linalg.solve(c * q.A - (1 - c) * q.B, c * q.A @ q.r - (1 - c) * q.B @ q.f)


def growth(q, c, lr):
    """The factor by which a step of static scalarization stretches its most unstable direction."""
    return 1 - lr * np.linalg.eigvalsh(c * q.A - (1 - c) * q.B)[0]


def orbit(q, c_high, c_low, half, lr):
    """Where c_t that swings between two values, `half` steps each, ends: at the fixed point of
    two affine maps theta -> M theta + v, one a half period. Returns theta after a whole period."""
    maps = []
    for c in (c_high, c_low):
        M = np.linalg.matrix_power(np.eye(len(q.r)) - lr * (c * q.A - (1 - c) * q.B), half)
        maps.append((M, minimiser(q, c) - M @ minimiser(q, c)))
    (M1, v1), (M2, v2) = maps
    return np.linalg.solve(np.eye(len(q.r)) - M2 @ M1, M2 @ v1 + v2)


def rest_point(q, theta):
    """mu and the point of the stationary curve that theta should be, by the formula."""
    g_R, g_F = q.gradients(theta)
    mu = (g_R @ g_F) / (g_F @ g_F)
    return mu, np.linalg.solve(q.A - mu * q.B, q.A @ q.r - mu * q.B @ q.f)


def dominated(q, theta):
    """Does the front's point with the same L_R have a higher L_F? Found by bisection on c."""
    loss_R, loss_F = q.losses(theta)
    low, high = critical_c(q), 1.0
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if q.losses(minimiser(q, c))[0] > loss_R else (low, c)
    return q.losses(minimiser(q, high))[1] > loss_F * (1 + 1e-9)


def tangent_eigenvalues(q, theta):
    """Of A - mu B on the directions orthogonal to g_R, smallest first. At a stationary point: all
    positive where it is optimal among its neighbours."""
    g_R, g_F = q.gradients(theta)
    V = np.linalg.svd(g_R[None])[2][1:]                               # (n - 1, n)
    mu = np.linalg.norm(g_R) / np.linalg.norm(g_F)
    return np.linalg.eigvalsh(V @ (q.A - mu * q.B) @ V.T)


def stable_lr(q, theta):
    """The largest fixed lr that stays at a stationary point."""
    return 2 * np.linalg.norm(q.gradients(theta)[0]) / tangent_eigenvalues(q, theta)[-1]


# --------------------------------------------------------------------------- measured

def scalarize(q, c, steps, lr, start=None):
    """Where gradient difference with weight c (a number or a function of t) ends."""
    start = np.zeros(len(q.r)) if start is None else start
    return toy.descend(q.tasks(), start, steps, lr, "gdiff", c).theta


def wandering(c, seed, width=0.2, decay=0.98):
    """A random path of c_t that converges to c, and starts by leaving [c*, 1] on both sides."""
    noise = np.random.default_rng(seed).uniform(-1, 1, 100_000)
    return lambda t: float(np.clip(c + width * noise[t] * decay**t, 0, 1))


def rests(q, starts, lr, steps, **kwargs):
    """The last points and 1 - cos of NGDiff from each start."""
    paths = [toy.descend(q.tasks(), s, steps, lr, stop=1e-13, **kwargs) for s in starts]
    return [p.theta[-1] for p in paths], max(p.gap[-1] for p in paths)


# --------------------------------------------------------------------------- claims

def scalarization_claims(q, n_paths):
    c_star = critical_c(q)
    c = c_star + 0.9 * (1 - c_star)
    swing = lambda t: (1.0, c_star + 0.3 * (1 - c_star))[t // 100 % 2]
    above = [c_star + share * (1 - c_star) for share in (0.5, 0.7, 0.9)]
    below = (0.0, 0.5, 0.9)
    rates = []
    for low in below:
        p = scalarize(q, low, 300, 0.01)
        rates.append(np.linalg.norm(p[-1] - p[-2]) / np.linalg.norm(p[-2] - p[-3]))
    wandered = [scalarize(q, wandering(c, seed), 3000, 0.018)[-1] for seed in range(n_paths)]
    swung, rest = scalarize(q, swing, 2000, 0.015)[-1], orbit(q, 1.0, swing(100), 100, 0.015)
    to_front = min(np.linalg.norm(minimiser(q, c) - swung) for c in front_weights(q))
    return [
        toy.compare("static c > c*: descent ends at theta*(c)", [minimiser(q, c) for c in above],
                    [scalarize(q, c, 3000, 0.018)[-1] for c in above], 1e-8),
        toy.compare("static c = 0, 0.5, 0.9 < c*: runs away by this factor a step",
                    [growth(q, low, 0.01) for low in below], rates, 1e-5),
        toy.compare(f"{n_paths} random paths of c_t, same limit c > c*: end at theta*(c)",
                    [minimiser(q, c)] * n_paths, wandered, 1e-8),
        toy.compare("fails if c_t keeps swinging: ends on this orbit", rest, swung, 1e-8),
        toy.bound("   ... and not on the front: distance to it", ">", 0.01, to_front)]


def front_weights(q, n=2000):
    """c from just above c* to 1, closer together towards c*."""
    c_star = critical_c(q)
    return c_star + (1 - c_star) * np.geomspace(1e-4, 1, n)


def ngdiff_claims(q, n_starts):
    rng = np.random.default_rng(0)
    near, far = (q.r + spread * rng.standard_normal((8, len(q.r))) for spread in (1, 3))
    ends, gap = rests(q, far[:n_starts], "auto", 3000)
    ends_decay, gap_decay = rests(q, near[:n_starts // 2], lambda t: 2 / (1 + t)**0.5, 3000)
    ends_fixed, gap_fixed = rests(q, near[:2], 0.5, 3000)
    points = [rest_point(q, end) for end in ends]
    lam = critical_c(q) / (1 - critical_c(q))
    optimal = [(minimiser(q, 1 / (1 + mu)), end) for (mu, _), end in zip(points, ends)
               if mu * lam < 1]
    return [
        toy.bound(f"NGDiff, AutoLR each step, {n_starts} starts: largest 1 - cos at the end",
                  "<", 1e-9, gap),
        toy.bound(f"NGDiff, lr 2/sqrt(1+t), {n_starts // 2} starts: largest 1 - cos at the end",
                  "<", 1e-9, gap_decay),
        toy.compare("AutoLR rests where (A - mu B) theta = A r - mu B f",
                    [point for _, point in points], ends, 1e-4),
        toy.compare("where mu < 1/lam that is the front's theta*(1/(1 + mu))",
                    [point for point, _ in optimal], [end for _, end in optimal], 1e-4),
        toy.same("fails where mu > 1/lam: runs that rest at a dominated point",
                 f"{n_starts - len(optimal)} of {n_starts}",
                 f"{sum(dominated(q, e) for e in ends)} of {n_starts}"),
        toy.bound("a fixed lr of 0.5 comes to rest as well: largest 1 - cos", "<", 1e-9, gap_fixed),
        toy.compare("   ... once far enough out to be stable: largest stable lr there", 0.5,
                    min(stable_lr(q, end) for end in ends_fixed), 0.02)]


def claims(n_paths=3, n_starts=8):
    """The rows of this script's table: random quadratics in R^20."""
    q = toy.quadratics(20, 1)
    return scalarization_claims(q, n_paths) + ngdiff_claims(q, n_starts)


# --------------------------------------------------------------------------- figure

def curves(q):
    """The front (mu < 1/lam) and the locally optimal points beyond: two arrays (n, 2)."""
    beyond = [minimiser(q, c) for c in np.linspace(0.02, critical_c(q) - 0.003, 3000)]
    return (np.array([minimiser(q, c) for c in front_weights(q)]),
            np.array([theta for theta in beyond if tangent_eigenvalues(q, theta)[0] > 0
                      and np.prod(q.gradients(theta), 0).sum() > 0]))


def draw(folder):
    q = toy.quadratics(2, 2, largest=10.0)
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False) + 0.1
    starts = q.r + 3 * np.stack((np.cos(angles), np.sin(angles)), 1)
    fig, axes = toy.figure(
        11, 5.6, 1, 2, "Claim: NGDiff with AutoLR comes to rest on the predicted stationary curve, "
        "from every start.\nMost ends are Pareto optimal; some (red) are only locally so")
    losses = lambda points: np.array([q.losses(p) for p in points])

    def plot(points, style, **kwargs):
        axes[0].plot(*points.T, style, **kwargs)
        axes[1].plot(*losses(points).T, style, **kwargs)
    for i, start in enumerate(starts):
        path = toy.descend(q.tasks(), start, 300, "auto", stop=1e-13).theta
        plot(path, "-", color="tab:blue", lw=0.8, label=None if i else "NGDiff's path")
        plot(path[:1], "o", mfc="none", color="tab:blue", ms=4, label=None if i else "its start")
        plot(path[-1:], "o", color="tab:blue", ms=5, label=None if i else "where it rests")
    front, local = curves(q)
    plot(front, "--", color="black", lw=2, label="predicted: Pareto front (c > c*)")
    plot(local, "--", color="tab:red", lw=2, label="predicted: optimal only among neighbours")
    for c, label in ((0.8, "gradient difference rests, c > c*"), (0.9, None), (0.97, None)):
        plot(scalarize(q, c, 3000, 0.1)[-1:], "s", mfc="none", color="tab:green", ms=9,
             label=label)
    plot(scalarize(q, 0.5, 40, 0.1, starts[1]), ":", color="tab:orange", lw=2,
         label="gradient difference, c = 0.5 < c*: runs away")
    axes[0].set(xlim=q.r[0] + np.array([-8, 8]), ylim=q.r[1] + np.array([-8, 8]),
                xlabel="theta 1", ylabel="theta 2", title="The two parameters")
    axes[1].set(xscale="log", yscale="log", xlim=(0.03, 200), ylim=(1, 600),
                xlabel="L_R, to be low", ylabel="L_F, to be high",
                title="The two losses: up and to the left is better")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
               fontsize=8)
    toy.save(fig, folder, "pareto_front")


def main():
    return toy.run_alone(claims, draw)


if __name__ == "__main__":
    sys.exit(main())
