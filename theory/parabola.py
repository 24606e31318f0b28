"""Can three values of L_R give the best step, with no second derivative? ("Algorithm 1")

Claim: the parabola through (-lr, L-), (0, L0), (lr, L+), L+- = L_R(theta -+ lr d), has

    slope     = (L- - L+) / (2 lr)          = g_R.d    + O(lr^2),
    curvature = (L+ - 2 L0 + L-) / lr^2     = d'H_R d  + O(lr^2),    lr* = slope / curvature.

On a quadratic both are exact. Elsewhere the errors are lr^2/6 and lr^2/12 times the third and
fourth derivative of L_R along d.

Assumptions: L_R smooth along d, and probes far enough apart for the losses' digits. Where it fails:
as lr shrinks, the rounding errors grow, the slope's as 1/lr and the curvature's as 1/lr^2. In
float32 a first guess of 1e-6 sees only rounding.

Toy problems: random quadratics in R^20, eigenvalues 1 .. 100; a logistic regression in R^20.
Expected output: each row ok.
"""
import numpy as np
import torch

import ngdiff
from theory import toy
from theory.table import compare, figure, log_slope, same

LRS = np.geomspace(1e-7, 10, 33)
NAMES = ("slope", "curvature")

# --------------------------------------------------------------------------- predicted


def error_coefficients(lg, theta):
    """The coefficients of lr^2 in the errors of (slope, curvature)."""
    d = toy.bisector(*lg.gradients(theta))
    return np.abs(lg.derivatives(theta, d)[2:] / [6, 12])


# --------------------------------------------------------------------------- measured

def fitted(tasks, start, lr, dtype=torch.float64):
    """(slope, curvature) by ngdiff.py along NGDiff's direction."""
    theta = toy.leaf(start, dtype)
    retain, forget = toy.losses(tasks, theta)
    numbers, d = toy.direction(retain, forget, [theta])
    minus, plus = ngdiff.probe(retain, [theta], d, float(lr))
    return np.array(ngdiff.parabola(minus, numbers.loss_retain, plus, float(lr)))


def errors(lg, points, lrs, dtype):
    """Errors of (slope, curvature): root mean squares over points, (len(lrs), 2)."""
    tasks = lg.tasks(dtype)
    return rms([[fitted(tasks, p, lr, dtype) - toy.slope_and_curvature(lg, p) for lr in lrs]
                for p in points])


def rms(some):
    """Root mean square over the first axis."""
    return np.sqrt(np.mean(np.square(some), axis=0))


def claims(n_points=40):
    q, lg = toy.quadratics(20, 1), toy.logistic(20, 200, 0)
    points = np.random.default_rng(3).standard_normal((n_points, 20))
    wide, narrow = np.geomspace(0.01, 0.3, 5), np.geomspace(1e-5, 1e-3, 9)
    smooth, rounded = errors(lg, points, wide, torch.float64), errors(lg, points, narrow,
                                                                      torch.float32)
    coefficients = rms([error_coefficients(lg, p) for p in points])
    lrs = (1e-3, 0.1, 1.0, 10.0)
    return [
        compare("quadratics: slope, curvature from lr = 0.001, 0.1, 1, 10",
                [toy.slope_and_curvature(q, points[0])] * len(lrs),
                [fitted(q.tasks(), points[0], lr) for lr in lrs], 1e-7),
        compare("logistic: error of slope, curvature at lr 0.01", 1e-4 * coefficients, smooth[0],
                0.02),
        *(compare(f"logistic, float64: log-log slope of the {name}'s error", 2.0,
                  log_slope(wide, smooth[:, i]), 0.01) for i, name in enumerate(NAMES)),
        *(compare(f"fails in float32, small lr: log-log slope of the {name}'s error", -1.0 - i,
                  log_slope(narrow, rounded[:, i]), 0.15) for i, name in enumerate(NAMES)),
        same("   ... and at lr 1e-6 AutoLR sees rounding only: it says", "no convexity",
             toy.fits(lg.tasks(torch.float32), np.ones(20), 1e-6, 1, torch.float32)[0].status)]


def draw():
    lg = toy.logistic(20, 200, 0)
    points = np.random.default_rng(3).standard_normal((10, 20))
    fig, axes = figure("Claim: three values of L_R give slope and curvature along d, up to lr "
                       "squared and rounding", 2, 11, 4.4)
    coefficients = rms([error_coefficients(lg, p) for p in points])
    for i, (ax, name) in enumerate(zip(axes, NAMES)):
        for dtype, color, digits in ((torch.float64, "tab:blue", 53),
                                     (torch.float32, "tab:orange", 24)):
            ax.loglog(LRS, errors(lg, points, LRS, dtype)[:, i], "o-", color=color, ms=3, lw=1,
                      label=f"measured, {str(dtype)[6:]}")
            ax.loglog(LRS[:21], 2.0**-digits / LRS[:21]**(1 + i), ":", color=color, lw=1,
                      label="predicted: rounding / lr" + (" squared" if i else ""))
        ax.loglog(LRS[14:], coefficients[i] * LRS[14:]**2, "k--", lw=1,
                  label="predicted: derivative x lr squared")
        ax.set(title=f"Error of the {name} (logistic regression)", xlabel="lr of the two probes",
               ylabel="absolute error")
    return fig
