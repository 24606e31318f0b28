"""Where does a weighted difference of two losses end? On the Pareto front, if it ends at all.

Claim, fixed weight: LSP(theta; c) = c L_R - (1 - c) L_F. For 0 < c < 1 each global minimiser of
LSP is Pareto optimal: a point with a lower L_R and a higher L_F would have a lower LSP. On two
quadratics (A, B positive definite) a minimiser exists iff c A - (1 - c) B is positive definite:

    c > c* = lam / (1 + lam),  lam = the largest eigenvalue of A^-1 B;  it is then
    theta*(c) = (c A - (1 - c) B)^-1 (c A r - (1 - c) B f).

Below c* gradient descent runs away, by the factor 1 + lr |smallest eigenvalue| a step: the
"collapse" of gradient ascent (c = 0) and of a small c.

Claim, moving weights ("Eq. (3)"): theta <- theta - lr (c_t g_R - (1 - c_t) g_F). If c_t converges
to c > c*, theta converges to theta*(c), whatever the path of c_t, even one that passes below c*.

Assumptions: both losses quadratic, a small enough lr, and a c_t that converges. Where it fails: a
c_t that keeps swinging between two values ends on an orbit, not on the front.

Toy problem: random quadratics in R^20, eigenvalues 1 .. 100.  Expected output: each row ok.
"""
import numpy as np

from theory import toy
from theory.table import bound, compare, figure

# --------------------------------------------------------------------------- predicted


def critical_c(q):
    """c* = lam / (1 + lam)."""
    lam = np.linalg.eigvals(np.linalg.solve(q.A, q.B)).real.max()
    return lam / (1 + lam)


def minimiser(q, c):
    """theta*(c), the front's point for c > c*."""
    return np.linalg.solve(c * q.A - (1 - c) * q.B, c * q.A @ q.r - (1 - c) * q.B @ q.f)


def above(q, share):
    """The c that lies this share of the way from c* to 1."""
    return critical_c(q) + share * (1 - critical_c(q))


def front(q, n=2000):
    """Points of the front, closer together towards c*: (n, dim)."""
    return np.array([minimiser(q, above(q, share)) for share in np.geomspace(1e-4, 1, n)])


def growth(q, c, lr):
    """The factor by which a step stretches the most unstable direction."""
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


# --------------------------------------------------------------------------- measured

def scalarize(q, c, steps, lr):
    """The path of gradient difference from 0 with weight c, a number or a function of t."""
    return toy.descend(q.tasks(), np.zeros(len(q.r)), steps, lr, c=c, method="gdiff").theta


def wandering(c, seed, width=0.2, decay=0.98):
    """A random path of c_t that converges to c, and starts by leaving [c*, 1] on both sides."""
    noise = np.random.default_rng(seed).uniform(-1, 1, 100_000)
    return lambda t: float(np.clip(c + width * noise[t] * decay**t, 0, 1))


def swinging(q):
    """A c_t that jumps every 100 steps and never converges."""
    return lambda t: (1.0, above(q, 0.3))[t // 100 % 2]


def stretch(path):
    """The last step's length over that of the one before."""
    return np.linalg.norm(path[-1] - path[-2]) / np.linalg.norm(path[-2] - path[-3])


def claims(n_paths=2, largest=100.0):
    """largest: eigenvalue; steps and 1 / lr grow with it."""
    q, lr, steps = toy.quadratics(20, 1, largest), 1.8 / largest, round(20 * largest)
    c, fixed, small = above(q, 0.9), [above(q, share) for share in (0.5, 0.9)], (0.0, 0.5, 0.9)
    swung = scalarize(q, swinging(q), 200 * round(largest / 10), lr)[-1]
    return [
        compare("static c > c*: descent ends at theta*(c)", [minimiser(q, c) for c in fixed],
                [scalarize(q, c, steps, lr)[-1] for c in fixed], 1e-8),
        compare("static c = 0, 0.5, 0.9 < c*: runs away by this factor a step",
                [growth(q, low, 1 / largest) for low in small],
                [stretch(scalarize(q, low, round(5 * largest), 1 / largest)) for low in small],
                1e-5),
        compare(f"{n_paths} random paths of c_t, same limit c > c*: end at theta*(c)",
                [minimiser(q, c)] * n_paths,
                [scalarize(q, wandering(c, i, decay=1 - 2 / largest), steps, lr)[-1]
                 for i in range(n_paths)], 1e-8),
        compare("fails if c_t keeps swinging: ends on this orbit",
                orbit(q, 1.0, above(q, 0.3), 100, lr), swung, 1e-8),
        bound("   ... and not on the front: distance to it", ">", 0.01,
              np.linalg.norm(front(q) - swung, axis=1).min())]


def draw():
    q = toy.quadratics(2, 2, largest=10.0)
    c = above(q, 0.6)
    runs = (("c fixed", c, "tab:blue"), ("c_t wanders, then converges to c", wandering(c, 3),
                                         "tab:purple"),
            ("c_t keeps swinging", swinging(q), "tab:orange"), ("c = 0.5 < c*", 0.5, "tab:red"))
    fig, (plane, steps) = figure("Claim: gradient difference ends at theta*(c) on the Pareto front "
                                 "if c_t converges to c > c*, and runs away below c*", 2, 11, 5)
    for name, weight, color in runs:
        path = scalarize(q, weight, 600, 0.1)
        gap = np.linalg.norm(path - minimiser(q, c), axis=1)
        plane.plot(*path.T, color=color, lw=1.2)
        steps.semilogy(gap, color=color, label=f"measured: {name}")
    steps.semilogy(gap[20] * growth(q, 0.5, 0.1)**(np.arange(601) - 20), "k--", lw=1,
                   label="predicted growth below c*")
    plane.plot(*front(q).T, "k--", label="predicted: front, c from c* to 1")
    plane.plot(*minimiser(q, c), "k*", ms=12, label="predicted: theta*(c)")
    plane.set(xlim=q.r[0] + np.array([-4, 4]), ylim=q.r[1] + np.array([-4, 4]), xlabel="theta 1",
              ylabel="theta 2")
    steps.set(xlabel="step", ylabel="distance from theta*(c)", ylim=(1e-14, 1e4))
    return fig
