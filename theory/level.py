"""Does the level loss give NGDiff a place to end? Yes, where all rows have room.

Ours, not in the paper. The goal: lowest L_R with every forget row's loss at the level,
l_x(theta) = B. Its solution satisfies the Lagrange conditions g_R + sum_x lambda_x grad l_x = 0 and
l_x = B. In L_F's place the level loss (ngdiff.level_objective) raises -P,

    P = sum_x n_x (l_x - B)^2 / (2 B sum_x n_x).

Claim: if some theta has every row at B and L_R at its minimum, NGDiff ends at such a theta: the
goal. There is such room where there are more parameters than rows. Plain L_F runs away. NGDiff is
not needed for it: gradient difference with any c ends there as well.

Assumptions: room (level_curve.py shows what happens without it), and a learning rate that falls,
but not too fast. Where it fails: with a fixed one NGDiff circles the goal, for d does not shrink
with the gradients. AutoLR's lr falls with |g_R|: fitted at each step, the run freezes before the
rows are at B; fitted every 10th step, only some runs arrive.

Toy problem: 8 retain rows and 4 forget rows, each the squared error of a linear function of theta
in R^12, with unequal n_x. The start knows all rows nearly by heart. l_x = B leaves the sign of an
error open; the goal is the one on the start's side.  Expected output: each row ok.
"""
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

import ngdiff
from theory import toy
from theory.table import bound, compare, figure, same

B = 2.0                                         # the level
N_X = np.array([3.0, 5.0, 8.0, 13.0])           # the forget rows' answer tokens
COSTS = (0.2, 0.8)                              # gradient difference's c

# --------------------------------------------------------------------------- predicted


class Rows(NamedTuple):
    """Errors X theta - y of the retain rows, Z theta - z of the forget rows; a row's loss is half
    its squared error. start: where runs begin."""
    X: np.ndarray
    y: np.ndarray
    Z: np.ndarray
    z: np.ndarray
    start: np.ndarray

    def row_losses(self, theta):
        """The forget rows' l_x: (4,)."""
        return 0.5 * (self.Z @ theta - self.z)**2

    def row_gradients(self, theta):
        """Theirs: (4, n)."""
        return (self.Z @ theta - self.z)[:, None] * self.Z

    def loss_retain(self, theta):
        return 0.5 * np.mean((self.X @ theta - self.y)**2)

    def grad_retain(self, theta):
        return self.X.T @ (self.X @ theta - self.y) / len(self.y)

    def hessian(self, weights):
        """Of L_R + sum_x weights_x l_x."""
        return self.X.T @ self.X / len(self.y) + (self.Z.T * weights) @ self.Z


def problem(n, seed=2):
    """Rows of 12 random functions on R^n, no direction more than 3 times steeper than another."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((k, k)))[0][:, :n] for k in (12, n))
    rows, start = U * np.geomspace(1, 3, n) @ V.T * 3**0.5, rng.standard_normal(n)
    targets = rows @ start + 0.3 * rng.standard_normal(12)
    return Rows(rows[:8], targets[:8], rows[8:], targets[8:], start)


def goal(p):
    """theta of the Lagrange conditions, by Newton's method from the start."""
    theta, lam, n = p.start, np.zeros(4), len(p.start)
    for _ in range(50):
        J = p.row_gradients(theta)
        left = np.r_[p.grad_retain(theta) + lam @ J, p.row_losses(theta) - B]
        move = np.linalg.solve(np.block([[p.hessian(lam), J.T], [J, np.zeros((4, 4))]]), left)
        theta, lam = theta - move[:n], lam - move[n:]
    return theta


# --------------------------------------------------------------------------- measured

def tasks(p, level=True):
    """(L_R, what stands in L_F's place) as functions of a tensor theta."""
    X, y, Z, z, n_x = map(torch.from_numpy, (p.X, p.y, p.Z, p.z, N_X))

    def forget(theta):
        loss_rows = n_x * 0.5 * (Z @ theta - z)**2
        return (ngdiff.level_objective(loss_rows, n_x, B) if level else loss_rows).sum() / n_x.sum()
    return (lambda theta: 0.5 * ((X @ theta - y)**2).mean()), forget


def falling(first, ratio):
    """A learning rate that falls by this ratio a step."""
    return lambda t: first * ratio**t


def run(p, lr=falling(0.2, 0.96), steps=350, level=True, **options):
    """The path of a method from p.start."""
    return toy.descend(tasks(p, level), p.start, steps, lr, **options)


def end(p, **options):
    return run(p, **options).theta[-1]


def residual(p, theta):
    """How far g_R is from a combination of the rows' gradients: the first Lagrange condition."""
    J, g = p.row_gradients(theta), p.grad_retain(theta)
    return np.linalg.norm(g - np.linalg.pinv(J) @ (J @ g))


def arrivals(n, **options):
    """In how many of n problems a run ends with every row at B and L_R at 0."""
    found = [(p, end(p, **options)) for p in map(partial(problem, 12), range(n))]
    return sum(bool(np.abs(p.row_losses(theta) / B - 1).max() < 0.01 and
                    p.loss_retain(theta) < 1e-6) for p, theta in found)


def gdiff_ends(p):
    return [end(p, lr=0.15, steps=520, method="gdiff", c=c) for c in COSTS]


def claims(n=6):
    """n: problems to count over."""
    p = problem(12)
    theirs, theta = goal(p), end(p)
    return [
        compare("NGDiff, lr falling, ends at the goal", theirs, theta, 1e-6),
        compare("   ... every row's loss at B", [B] * 4, p.row_losses(theta), 1e-6),
        compare("   ... what is left of the first Lagrange condition", 0, residual(p, theta), 1e-6),
        same(f"   ... {n} problems: runs that arrive", n, arrivals(n)),
        compare("GDiff, c = 0.2, 0.8, ends there as well", [theirs] * 2, gdiff_ends(p), 1e-4),
        bound("plain L_F runs away: highest row's loss", ">", 50,
              p.row_losses(end(p, level=False, steps=150)).max()),
        bound("fails if lr is fixed at 0.05: distance from the goal", ">", 0.01,
              np.linalg.norm(end(p, lr=0.05, steps=150) - theirs)),
        same(f"fails if AutoLR fits each step, {n} problems: runs that arrive", 0,
             arrivals(n, lr=None, steps=150)),
        bound(f"   ... every 10th step, {n} problems: runs that arrive", "<", n,
              arrivals(n, lr=None, steps=400, lazy=10))]


def draw():
    p = problem(12)
    fig, axes = figure("Claim: with the level loss every forget row's loss ends at the level;\n"
                       "it needs a learning rate that falls, but not too fast", 2, 11, 4.8)
    for ax, name, runs in (
            (axes[0], "NGDiff, lr falling", (("level loss", {}), ("plain L_F", dict(level=False)))),
            (axes[1], "NGDiff, level loss", (("AutoLR every step", dict(lr=None)),
                                             ("lr fixed at 0.05", dict(lr=0.05))))):
        for i, (label, options) in enumerate(runs):
            path = run(p, steps=150, **options).theta
            ax.semilogy([p.row_losses(theta) for theta in path], color=("tab:blue", "tab:red")[i],
                        label=[f"measured: {label}"] + [None] * 3)
        ax.axhline(B, color="k", ls="--", label="predicted: the level B")
        ax.set(title=name, xlabel="step", ylabel="each row's loss l_x", ylim=(1e-4, 1e3))
    return fig
