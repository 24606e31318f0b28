"""What the theory scripts share: toy problems, the loop on them, a table's rows, figures.

    L_R(theta) = 1/2 (theta - r)' A (theta - r)        L_F(theta) = 1/2 (theta - f)' B (theta - f)

A and B are random symmetric positive definite matrices with eigenvalues spread evenly (in the
logarithm) over 1 .. 100, so that no direction is like another. A task is a function of one float64
vector theta; `step` and `descend` hand it to ngdiff.py, which is what every script measures.
Problems are numpy arrays, so that a prediction can be made without any of that.
"""
import os
from typing import NamedTuple

import numpy as np
import torch

import ngdiff

FITS_AT_START = 60       # AutoLR's first step: at most so many fits


# --------------------------------------------------------------------------- toy problems

class Quadratics(NamedTuple):
    """A, B (n, n); r, f (n,): the places where L_R and L_F are lowest."""
    A: np.ndarray
    r: np.ndarray
    B: np.ndarray
    f: np.ndarray

    def tasks(self):
        """(L_R, L_F) as functions of a tensor theta (n,)."""
        def task(H, centre):
            H, centre = torch.from_numpy(H), torch.from_numpy(centre)
            return lambda theta: 0.5 * (theta - centre) @ (H @ (theta - centre))
        return task(self.A, self.r), task(self.B, self.f)

    def gradients(self, theta):
        """(g_R, g_F) by the formula: numpy arrays (n,)."""
        return self.A @ (theta - self.r), self.B @ (theta - self.f)

    def losses(self, theta):
        """(L_R, L_F) by the formula: two floats."""
        g_R, g_F = self.gradients(theta)
        return 0.5 * (theta - self.r) @ g_R, 0.5 * (theta - self.f) @ g_F


def quadratics(dim, seed, largest=100.0):
    """Two random quadratics in `dim` dimensions with eigenvalues 1 .. largest."""
    rng = np.random.default_rng(seed)

    def matrix():
        Q, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
        return (Q * np.geomspace(1, largest, dim)) @ Q.T
    return Quadratics(matrix(), rng.standard_normal(dim), matrix(), rng.standard_normal(dim))


class Logistic(NamedTuple):
    """Two logistic regressions with one theta: losses that are not quadratic. X (N, n), y +-1."""
    X_R: np.ndarray
    y_R: np.ndarray
    X_F: np.ndarray
    y_F: np.ndarray

    def tasks(self, dtype=torch.float64):
        """(L_R, L_F) as functions of a tensor theta (n,)."""
        def task(X, y):
            Z = torch.from_numpy(X * y[:, None]).to(dtype)            # (N, n)
            return lambda theta: torch.nn.functional.softplus(-(Z @ theta)).mean()
        return task(self.X_R, self.y_R), task(self.X_F, self.y_F)

    def row_gradients(self, theta):
        """Every example's gradient by the formula, of both tasks: two arrays (N, n)."""
        def rows(X, y):
            Z = X * y[:, None]
            return -Z / (1 + np.exp(Z @ theta))[:, None]     # -y x sigma(-y x.theta)
        return rows(self.X_R, self.y_R), rows(self.X_F, self.y_F)

    def derivatives(self, theta, d):
        """The first four derivatives of L_R(theta - lr d) by lr, at lr = 0: an array (4,)."""
        Z = self.X_R * self.y_R[:, None]
        s, p = Z @ d, 1 / (1 + np.exp(Z @ theta))            # softplus' derivative at -Z.theta
        q = p * (1 - p)
        return np.array([(p * s).mean(), (q * s**2).mean(), (q * (1 - 2 * p) * s**3).mean(),
                         (q * (1 - 6 * q) * s**4).mean()])


def bisector(g_R, g_F):
    """NGDiff's direction by its formula, for predictions: numpy arrays (n,)."""
    return g_R / np.linalg.norm(g_R) - g_F / np.linalg.norm(g_F)


def logistic(dim, n, seed):
    """n examples a task in `dim` dimensions; each task's labels follow its own noisy rule."""
    rng = np.random.default_rng(seed)

    def data():
        X = rng.standard_normal((n, dim))
        return X, np.where(X @ rng.standard_normal(dim) + rng.standard_normal(n) > 0, 1.0, -1.0)
    return Logistic(*data(), *data())


# --------------------------------------------------------------------------- the shipped method

def parts(task, params):
    """A task as ngdiff.py takes losses: a list of functions without arguments."""
    return [lambda: task(*params)]


def step(tasks, params, method="ngdiff", c=0.5):
    """One step but for the update, by ngdiff.py: the five numbers and the direction."""
    loss_R, grad_R = ngdiff.loss_and_grad(parts(tasks[0], params), params)
    loss_F, grad_F = ngdiff.loss_and_grad(parts(tasks[1], params), params)
    five = ngdiff.five_numbers(loss_R, grad_R, loss_F, grad_F)
    return five, ngdiff.direction(grad_R, grad_F, *ngdiff.coefficients(method, five, c))


def leaf(theta, dtype=torch.float64):
    """An array as a list of one parameter."""
    return [torch.tensor(theta, dtype=dtype, requires_grad=True)]


class Path(NamedTuple):
    """What `descend` went through: theta (T + 1, n) as numpy; five numbers and lr of each step."""
    theta: np.ndarray
    five: list
    lr: list

    @property
    def gap(self):
        """1 - cos of g_R and g_F at each step: 0 where Pareto stationary."""
        return np.array([1 - five.cos for five in self.five])


def descend(tasks, start, steps, lr="auto", method="ngdiff", c=0.5, lazy=1, stop=-1.0):
    """theta <- theta - lr d, `steps` times or until 1 - cos < stop, from ngdiff.py's functions.

    lr: a number, a function of t, or "auto" (AutoLR every `lazy` steps); c: a number or a
    function of t.
    """
    params, eta = leaf(start), 0.01
    path = Path([np.array(start)], [], [])
    for t in range(steps):
        try:
            five, d = step(tasks, params, method, c(t) if callable(c) else c)
        except (ngdiff.Stationary, FloatingPointError):
            break                            # arrived, or run away: the last point says which
        path.five.append(five)
        if 1 - five.cos < stop:
            break
        if lr == "auto" and t % lazy == 0:
            eta, _ = ngdiff.autolr(parts(tasks[0], params), params, d, five.loss_retain, eta,
                                   FITS_AT_START if t == 0 else 1)
        elif lr != "auto":
            eta = lr(t) if callable(lr) else lr
        ngdiff.update(params, d, eta)
        path.lr.append(eta)
        path.theta.append(params[0].detach().numpy().copy())
    return path._replace(theta=np.array(path.theta))


# --------------------------------------------------------------------------- table and figures

class Row(NamedTuple):
    """One claim: what its formula says, what ngdiff.py does, how far apart, within tolerance?"""
    claim: str
    predicted: str
    measured: str
    error: str
    ok: bool


def show(x):
    """A number, or how many and the largest of them."""
    x = np.asarray(x, dtype=float)
    if x.size == 0:
        return "nothing"
    return f"{x:.7g}" if x.ndim == 0 else f"{x.size} to {np.abs(x).max():.5g}"


def compare(claim, predicted, measured, tolerance):
    """ok where they differ by less than the share `tolerance` (absolutely, if 0 is predicted)."""
    p, m = np.asarray(predicted, dtype=float), np.asarray(measured, dtype=float)
    error = np.inf                           # if there is nothing to compare, or too little
    if p.size and p.shape == m.shape:
        error = np.abs(m - p).max() / (np.abs(p).max() or 1.0)
    return Row(claim, show(p), show(m), f"{error:.1e}", bool(error <= tolerance))


def bound(claim, sign, limit, measured):
    """ok where measured < limit (sign "<") or > limit (sign ">")."""
    ok = measured < limit if sign == "<" else measured > limit
    return Row(claim, f"{sign} {limit:g}", show(measured), "-", bool(ok))


def same(claim, predicted, measured):
    """ok where both are equal: counts, words."""
    return Row(claim, str(predicted), str(measured), "-", predicted == measured)


def heading(name):
    """A row with nothing but a script's name."""
    return Row(name, "", "", "", True)


def print_table(rows):
    """The rows in fixed columns; returns the exit code: 1 if one is not ok."""
    print(f"{'claim':72} {'predicted':>21} {'measured':>21} {'error':>8}  ok")
    for row in rows:
        ok = "" if not row.measured else "yes" if row.ok else "NO"
        line = f"{row.claim:72} {row.predicted:>21} {row.measured:>21} {row.error:>8}  {ok}"
        print(line.rstrip())
    return int(not all(row.ok for row in rows))


def slope_of(x, y):
    """The straight line's slope through points on log-log axes."""
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def figure(width, height, rows, columns, title):
    """A Figure with that many axes (array) under one title."""
    from matplotlib.figure import Figure
    fig = Figure(figsize=(width, height), layout="constrained")
    fig.suptitle(title)
    return fig, fig.subplots(rows, columns)


def save(fig, folder, name):
    """Write folder/name.png."""
    os.makedirs(folder, exist_ok=True)
    fig.savefig(os.path.join(folder, name + ".png"), dpi=80)


def run_alone(claims, draw, folder="out/theory"):
    """What `python -m theory.NAME` does: the script's table and figure, and the exit code."""
    code = print_table(claims())
    draw(folder)
    print(f"figure in {folder}")
    return code
