"""What the theory scripts share: toy problems, and the shipped ngdiff.py at work on them.

    L_R(theta) = 1/2 (theta - r)' A (theta - r)        L_F(theta) = 1/2 (theta - f)' B (theta - f)

A and B are random symmetric positive definite matrices. Their eigenvalues are spread evenly (in the
logarithm) over 1 .. 100, so that no two directions are alike. A task is a function of one float64
vector theta. `direction` and `descend` hand two tasks to ngdiff.py, which is what every script
measures. Problems are numpy arrays: predictions are made from them without ngdiff.py.
"""
from typing import NamedTuple

import numpy as np
import torch

import ngdiff

# --------------------------------------------------------------------------- problems


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
            def loss(theta):
                e = theta - centre
                return 0.5 * e @ (H @ e)
            return loss
        return task(self.A, self.r), task(self.B, self.f)

    def gradients(self, theta):
        """(g_R, g_F) by the formula: numpy arrays (n,)."""
        return self.A @ (theta - self.r), self.B @ (theta - self.f)

    def derivatives(self, theta, d):
        """The first four derivatives of L_R(theta - lr d) by lr, at lr = 0: an array (4,)."""
        return np.array([-self.gradients(theta)[0] @ d, d @ self.A @ d, 0.0, 0.0])

    def losses(self, theta):
        """(L_R, L_F) by the formula: two floats."""
        g_R, g_F = self.gradients(theta)
        return 0.5 * (theta - self.r) @ g_R, 0.5 * (theta - self.f) @ g_F


def matrix(dim, rng, largest=100.0):
    """A random symmetric matrix (dim, dim) with eigenvalues 1 .. largest."""
    Q, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    return (Q * np.geomspace(1, largest, dim)) @ Q.T


def quadratics(dim, seed, largest=100.0):
    """Two random quadratics in `dim` dimensions with eigenvalues 1 .. largest."""
    rng = np.random.default_rng(seed)
    return Quadratics(matrix(dim, rng, largest), rng.standard_normal(dim),
                      matrix(dim, rng, largest), rng.standard_normal(dim))


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

    def some(self, rows_R, rows_F):
        """The same problem with only these examples of each task (indices or slices)."""
        return Logistic(self.X_R[rows_R], self.y_R[rows_R], self.X_F[rows_F], self.y_F[rows_F])

    def row_gradients(self, theta):
        """Every example's gradient by the formula, of both tasks: two arrays (N, n)."""
        def rows(X, y):
            Z = X * y[:, None]
            return -Z / (1 + np.exp(Z @ theta))[:, None]     # -y x sigma(-y x.theta)
        return rows(self.X_R, self.y_R), rows(self.X_F, self.y_F)

    def gradients(self, theta):
        """(g_R, g_F) by the formula: numpy arrays (n,)."""
        return tuple(rows.mean(0) for rows in self.row_gradients(theta))

    def derivatives(self, theta, d):
        """As those of Quadratics."""
        Z = self.X_R * self.y_R[:, None]
        s, p = Z @ d, 1 / (1 + np.exp(Z @ theta))            # softplus' derivative at -Z.theta
        q = p * (1 - p)
        return np.array([(p * s).mean(), (q * s**2).mean(), (q * (1 - 2 * p) * s**3).mean(),
                         (q * (1 - 6 * q) * s**4).mean()])


def logistic(dim, n, seed):
    """n examples a task in `dim` dimensions; each task's labels follow its own noisy rule."""
    rng = np.random.default_rng(seed)

    def data():
        X = rng.standard_normal((n, dim))
        return X, np.where(X @ rng.standard_normal(dim) + rng.standard_normal(n) > 0, 1.0, -1.0)
    return Logistic(*data(), *data())


def unit(v):
    """v divided by its norm."""
    return v / np.linalg.norm(v)


def bisector(g_R, g_F):
    """NGDiff's direction by its formula, for predictions: numpy arrays (n,)."""
    return unit(g_R) - unit(g_F)


def slope_and_curvature(problem, theta):
    """(g_R.d, d'H_R d) along NGDiff's direction by the formulas: an array (2,)."""
    return problem.derivatives(theta, bisector(*problem.gradients(theta)))[:2] * [-1, 1]


# --------------------------------------------------------------------------- the shipped method

def leaf(theta, dtype=torch.float64):
    """An array as a parameter: a tensor that requires a gradient."""
    return torch.tensor(theta, dtype=dtype, requires_grad=True)


def losses(tasks, theta):
    """Two tasks as ngdiff.py takes losses: functions without arguments, of the tensor theta."""
    return [lambda task=task: task(theta) for task in tasks]


def direction(retain, forget, params):
    """The first part of NGDiff's step: ngdiff.py's Numbers and d, for losses as step takes them."""
    (loss_R, grad_R), (loss_F, grad_F) = (ngdiff.loss_and_grad(loss, params)
                                          for loss in (retain, forget))
    numbers = ngdiff.five_numbers(loss_R, grad_R, loss_F, grad_F)
    return numbers, ngdiff.direction(grad_R, grad_F, *ngdiff.coefficients("ngdiff", numbers))


def fits(tasks, start, lr, max_fits=ngdiff.FITS_AT_START, dtype=torch.float64):
    """AutoLR's Fits from a first guess lr, as ngdiff.step makes them at its first step."""
    theta = leaf(start, dtype)
    retain, forget = losses(tasks, theta)
    numbers, d = direction(retain, forget, [theta])
    return ngdiff.autolr(retain, [theta], d, numbers.loss_retain, lr, max_fits)[1]


class Path(NamedTuple):
    """What `descend` went through: theta (T + 1, n) as numpy, and ngdiff.py's Numbers by step."""
    theta: np.ndarray
    steps: list

    @property
    def loss_retain(self):
        """L_R before each step."""
        return np.array([numbers.loss_retain for numbers in self.steps])


def at(value, t):
    """A number, or a function of t at t."""
    return value(t) if callable(value) else value


def descend(tasks, start, steps, lr=None, stop=-1.0, lazy=1, c=0.5, **options):
    """`steps` steps of ngdiff.step, or fewer if 1 - cos < stop before.

    lr: a number, a function of t, or None: AutoLR fits it every `lazy` steps. c: a number or a
    function of t. options: ngdiff.step's others. The path ends early where ngdiff.py finds no
    direction (it has arrived) or no finite number (it has run away).
    """
    theta, state, path = leaf(start), ngdiff.State(), Path([np.array(start)], [])
    for t in range(steps):
        if lr is not None:
            state.lr = at(lr, t)
        try:
            numbers = ngdiff.step(*losses(tasks, theta), [theta], state, c=at(c, t),
                                  lazy=0 if lr is not None else lazy, **options)
        except (ngdiff.Stationary, FloatingPointError):
            break
        path.steps.append(numbers)
        if 1 - numbers.cos < stop:
            break                            # it started at the goal: not counted
        path.theta.append(theta.detach().numpy().copy())
    return path._replace(theta=np.array(path.theta))
