"""Does the level loss give NGDiff a place to end? Yes, where all rows have room.

Ours, not in the paper. The goal: lowest L_R with every forget row's loss at its level,
l_x(theta) = B_x. Its solution satisfies the Lagrange conditions g_R + sum_x lambda_x grad l_x = 0
and l_x = B_x. In L_F's place the level loss (ngdiff.level_objective) raises -P,

    P = sum_x n_x (log l_x - log B_x)^2 / (2 sum_x n_x).

Claim: if some theta has every row at its level and L_R at its minimum, NGDiff ends at such a theta:
the goal. There is such room if there are more parameters than rows. Plain L_F runs away. This does
not need NGDiff: gradient difference with any c ends there as well.

Assumptions: room (level_curve.py shows what happens without it), and a learning rate that falls,
but not too fast. Or any fixed rate, if a step goes at most a quarter of the way to the levels, by
the objective's slope along d (`approach` of ngdiff.step). Where it fails: at a fixed rate without
that limit NGDiff circles the goal, since d does not shrink with the gradients. With steps of the
whole way it overshoots. AutoLR's lr falls with |g_R|: the run freezes before the rows are at their
levels. Why the distance is measured in logarithms: arrival.py.

Toy problem: 8 retain rows, each the squared error of a linear function of theta in R^12, and 4
forget rows, each the logistic loss of one, with unequal n_x and B_x. The start knows all rows
nearly by heart.  Expected output: each row ok.
"""
from typing import NamedTuple

import numpy as np
import torch

import ngdiff
from theory import toy
from theory.arrival import margin
from theory.table import bound, compare, figure, same

B = np.array([0.5, 1.0, 1.5, 2.5])              # the forget rows' levels
N_X = np.array([3.0, 5.0, 8.0, 13.0])           # and their answer tokens
KNOWN = np.array([0.2, 0.02, 0.002, 0.0002])    # and their losses at the start
COSTS = (0.2, 0.8)                              # gradient difference's c
FIXED = (0.05, 0.5, 5.0)                        # learning rates

# --------------------------------------------------------------------------- predicted


class Rows(NamedTuple):
    """Errors X theta - y of the retain rows, margins Z theta - z of the forget rows; a retain row's
    loss is half its squared error, a forget row's log(1 + exp(-margin)). start: where runs begin.
    """
    X: np.ndarray
    y: np.ndarray
    Z: np.ndarray
    z: np.ndarray
    start: np.ndarray

    def row_losses(self, theta):
        """The forget rows' l_x: (4,)."""
        return np.logaddexp(0, self.z - self.Z @ theta)

    def row_gradients(self, theta):
        """Theirs: (4, n)."""
        return -(1 - np.exp(-self.row_losses(theta)))[:, None] * self.Z

    def loss_retain(self, theta):
        return 0.5 * np.mean((self.X @ theta - self.y)**2)

    def grad_retain(self, theta):
        return self.X.T @ (self.X @ theta - self.y) / len(self.y)

    def hessian(self, theta, weights):
        """Of L_R + sum_x weights_x l_x."""
        p = np.exp(-self.row_losses(theta))
        return self.X.T @ self.X / len(self.y) + (self.Z.T * (weights * p * (1 - p))) @ self.Z


def problem(n, seed=2):
    """Rows of 12 random functions on R^n, no direction more than 3 times steeper than another."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((k, k)))[0][:, :n] for k in (12, n))
    rows, start = U * np.geomspace(1, 3, n) @ V.T * 3**0.5, rng.standard_normal(n)
    errors = 0.3 * rng.standard_normal(8)
    return Rows(rows[:8], rows[:8] @ start + errors, rows[8:], rows[8:] @ start - margin(KNOWN),
                start)


def goal(p):
    """theta of the Lagrange conditions, by Newton's method from the rows' levels."""
    n, levels = len(p.start), margin(B)
    theta = p.start + np.linalg.pinv(p.Z) @ (levels + p.z - p.Z @ p.start)
    lam = np.zeros(4)
    for _ in range(50):
        J = p.row_gradients(theta)
        left = np.r_[p.grad_retain(theta) + lam @ J, p.row_losses(theta) - B]
        move = np.linalg.solve(np.block([[p.hessian(theta, lam), J.T], [J, np.zeros((4, 4))]]),
                               left)
        theta, lam = theta - move[:n], lam - move[n:]
    return theta


# --------------------------------------------------------------------------- measured

def tasks(p, level=True):
    """(L_R, what stands in L_F's place) as functions of a tensor theta."""
    X, y, Z, z, n_x, levels = map(torch.from_numpy, (p.X, p.y, p.Z, p.z, N_X, B))

    def forget(theta):
        loss_rows = n_x * torch.nn.functional.softplus(z - Z @ theta)
        return (ngdiff.level_objective(loss_rows, n_x, levels) if level else loss_rows
                ).sum() / n_x.sum()
    return (lambda theta: 0.5 * ((X @ theta - y)**2).mean()), forget


def falling(first, ratio):
    """A learning rate that falls by this ratio a step."""
    return lambda t: first * ratio**t


def run(p, lr=falling(0.5, 0.97), steps=500, level=True, **options):
    """The path of a method from p.start."""
    return toy.descend(tasks(p, level), p.start, steps, lr, **options)


def end(p, **options):
    return run(p, **options).theta[-1]


def gdiff_ends(p):
    return [end(p, lr=0.5, steps=400, method="gdiff", c=c) for c in COSTS]


def residual(p, theta):
    """How far g_R is from a combination of the rows' gradients: the first Lagrange condition."""
    J, g = p.row_gradients(theta), p.grad_retain(theta)
    return np.linalg.norm(g - np.linalg.pinv(J) @ (J @ g))


def arrivals(problems, ends):
    """In how many problems a run ended with every row at its level and L_R at 0."""
    return sum(bool(np.abs(p.row_losses(theta) / B - 1).max() < 0.01 and
                    p.loss_retain(theta) < 1e-6) for p, theta in zip(problems, ends))


def claims(n=6):
    """n: problems to count over."""
    problems = [problem(12, seed) for seed in range(2, 2 + n)]
    ends = lambda **options: [end(p, **options) for p in problems]
    p, falls, quarter = problems[0], ends(), ends(lr=FIXED[-1], steps=300, approach=0.25)
    theirs, theta = goal(p), falls[0]
    return [
        compare("NGDiff, lr falling, ends at the goal", theirs, theta, 1e-6),
        compare("   ... every row's loss at its level", B, p.row_losses(theta), 1e-6),
        compare("   ... what is left of the first Lagrange condition", 0, residual(p, theta), 1e-6),
        same(f"   ... {n} problems: runs that arrive", n, arrivals(problems, falls)),
        compare("GDiff, c = 0.2, 0.8, ends there as well", [theirs] * 2, gdiff_ends(p), 1e-4),
        compare("lr fixed at 0.05, 0.5, 5, with approach = 1/4: ends there", [theirs] * 3,
                [end(p, lr=lr, steps=300, approach=0.25) for lr in FIXED[:-1]] + quarter[:1], 1e-3),
        same(f"   ... at 5, {n} problems: runs that arrive", n, arrivals(problems, quarter)),
        bound(f"   ... with approach = 1, {n} problems: runs that arrive", "<", n / 2,
              arrivals(problems, ends(lr=FIXED[-1], steps=300, approach=1))),
        bound("plain L_F runs away: highest row's loss", ">", 8,
              p.row_losses(end(p, level=False, steps=150)).max()),
        bound("fails if lr is fixed at 0.05, without: distance from the goal", ">", 0.01,
              np.linalg.norm(end(p, lr=0.05, steps=150) - theirs)),
        same(f"fails if AutoLR fits each step, {n} problems: runs that arrive", 0,
             arrivals(problems, ends(lr=None, steps=150))),
        same(f"   ... every 10th step, {n} problems: runs that arrive", 0,
             arrivals(problems, ends(lr=None, steps=400, lazy=10)))]


def draw():
    p = problem(12)
    fig, axes = figure("Claim: with the level loss every forget row ends at its own level;\n"
                       "it needs a learning rate that falls, but not too fast", 2, 11, 4.8)
    for ax, name, runs in (
            (axes[0], "NGDiff, lr falling", (("level loss", {}), ("plain L_F", dict(level=False)))),
            (axes[1], "NGDiff, level loss", (("AutoLR every step", dict(lr=None)),
                                             ("lr fixed at 0.05", dict(lr=0.05))))):
        for i, (label, options) in enumerate(runs):
            path = run(p, **{"steps": 250, **options}).theta
            ax.semilogy([p.row_losses(theta) for theta in path], color=("tab:blue", "tab:red")[i],
                        label=[f"measured: {label}"] + [None] * 3)
        for level in B:
            ax.axhline(level, color="k", ls="--", lw=1,
                       label="predicted: the levels B_x" if level == B[0] else None)
        ax.set(title=name, xlabel="step", ylabel="each row's loss l_x", ylim=(1e-4, 30))
    return fig
