"""When does one step help both tasks? When its direction lies in the improvement cone.

Claim ("Eq. (7)", "Fig. 2"): to first order a step theta - lr d changes L_R by -lr g_R.d and L_F by
-lr g_F.d. So it hurts neither iff g_R.d >= 0 >= g_F.d. For d = c g_R - (1 - c) g_F, p = g_R.g_F:

    p / (|g_R|^2 + p)  <=  c  <=  |g_F|^2 / (|g_F|^2 + p)

(ignore a side whose denominator is not positive). Cauchy-Schwarz keeps the interval from being
empty. A constant c leaves it once the norms differ enough: with k = c |g_R| / ((1 - c) |g_F|) both
tasks improve iff cos <= min(k, 1/k), for a share 1 - arccos(min(k, 1/k)) / pi of all angles.
NGDiff is c = |g_F| / (|g_R| + |g_F|), so k = 1: inside at every angle and every ratio of norms.

Assumptions: non-zero gradients that do not point in the same direction; the first order only; d
applied as it is. Not in the paper: Adam breaks the last one. Its first step is the sign of d, and
g_R.sign(d) can be negative. For gradients that nearly agree this is common.

Toy problem: two gradients in a plane, norm ratios 1e-3 .. 1e3, angles 0.5 .. 179.5 degrees; for
Adam random gradients in R^20.  Expected output: each row ok.
"""
import functools

import numpy as np
import torch

import ngdiff
from theory.table import bound, compare, figure, same
from theory.toy import bisector, unit

RATIOS = tuple(np.geomspace(1e-3, 1e3, 61))          # |g_R| / |g_F|
ANGLES = tuple(np.radians(np.arange(0.5, 180)))      # between g_R and g_F
METHODS = {"NGDiff": ("ngdiff", 0.5), "GDiff(0.1)": ("gdiff", 0.1), "GDiff(0.5)": ("gdiff", 0.5),
           "GDiff(0.9)": ("gdiff", 0.9)}
COLORS = dict(zip(METHODS, ("tab:blue", "tab:orange", "tab:red", "tab:purple")))

# --------------------------------------------------------------------------- predicted


def plane(ratio, angle):
    """g_R and g_F in the plane, of norms sqrt(ratio) and 1/sqrt(ratio)."""
    unit_F = np.array([np.cos(angle), np.sin(angle)])
    return np.array([ratio**0.5, 0.0]), unit_F / ratio**0.5


def interval(g_R, g_F):
    """The c's for which both tasks improve."""
    p, rr, ff = g_R @ g_F, g_R @ g_R, g_F @ g_F
    return (p / (rr + p) if rr + p > 0 else 0.0), (ff / (ff + p) if ff + p > 0 else 1.0)


def share_by_angle(name, ratios=RATIOS):
    """The share of all angles at which the method improves both, for each ratio."""
    method, c = METHODS[name]
    k = c / (1 - c) * np.array(ratios) if method == "gdiff" else np.ones(len(ratios))
    return 1 - np.arccos(np.minimum(k, 1 / k)) / np.pi


# --------------------------------------------------------------------------- measured

def directions(g_R, g_F, methods):
    """d of ngdiff.py for two given gradients, for each (method, c): numpy arrays (n,)."""
    r, f = torch.tensor(g_R), torch.tensor(g_F)
    numbers = ngdiff.five_numbers(1.0, [r], 1.0, [f])      # the losses play no part
    return [ngdiff.direction([r.clone()], [f], *ngdiff.coefficients(method, numbers, c))[0].numpy()
            for method, c in methods]


def improves(g_R, g_F, d):
    return bool(g_R @ d >= 0 >= g_F @ d)


@functools.cache
def improved(ratios, angles):
    """Where each of METHODS improves both tasks: bools (ratios, angles, methods)."""
    return np.array([[[improves(*pair, d) for d in directions(*pair, METHODS.values())]
                      for pair in (plane(ratio, angle) for angle in angles)] for ratio in ratios])


def adam_pairs(n):
    """Does NGDiff's d improve both, before and after Adam's first step? Predicted: the sign of d.
    Bools (3, n): d itself, numpy's sign of it, ngdiff.py's Adam."""
    rng, found = np.random.default_rng(0), []
    for _ in range(n):
        g_R, noise = rng.standard_normal((2, 20)) * np.exp(rng.standard_normal((2, 20)))
        g_F = g_R + 0.3 * noise                          # close to g_R, as when tasks are alike
        d, = directions(g_R, g_F, [("ngdiff", 0.5)])
        adam, = ngdiff.adam_direction([torch.tensor(d)], *([torch.zeros(20, dtype=torch.float64)]
                                                           for _ in range(2)), step=1)
        found.append([improves(g_R, g_F, x) for x in (d, np.sign(bisector(g_R, g_F)),
                                                      adam.numpy())])
    return np.array(found).T


def claims(ratios=RATIOS, angles=ANGLES, n_adam=1000):
    measured, (plain, sign, adam) = improved(ratios, angles), adam_pairs(n_adam)
    rows = [compare("NGDiff improves both tasks, share of all ratios and angles", 1.0,
                    measured[..., 0].mean(), 0)]
    intervals = [interval(*plane(ratio, angle)) for ratio in ratios for angle in angles]
    for i, name in list(enumerate(METHODS))[1:]:
        inside = sum(low <= METHODS[name][1] <= high for low, high in intervals)
        rows += [same(f"{name} improves both: number of cases by the interval", inside,
                      int(measured[..., i].sum())),
                 compare("   ... and the share by 1 - arccos(min(k, 1/k)) / pi",
                         share_by_angle(name, ratios).mean(), measured[..., i].mean(),
                         1 / len(angles))]
    r, f = plane(1000.0, np.radians(60))
    return rows + [
        same("fails if c is constant and the norms are 1000:1: both improve", False,
             improves(r, f, directions(r, f, [("gdiff", 0.5)])[0])),
        same(f"NGDiff's d for {n_adam} random pairs in R^20: outside the cone", 0,
             int(sum(~plain))),
        same("   ... fails if Adam preconditions it: outside (predicted: sign of d)",
             int(sum(~sign)), int(sum(~adam))),
        bound("   ... and that is a share of them", ">", 0.01, 1 - adam.mean())]


def draw_plane(ax, ratio):
    """One gradient plane at 60 degrees: the cone, the span of scalarization, the directions."""
    r, f = plane(1.0, np.radians(60))
    turn = np.radians(np.arange(0, 361))
    circle = np.stack((np.cos(turn), np.sin(turn)), 1)
    cone = circle[(circle @ r >= 0) & (circle @ f <= 0)]
    ax.fill(*np.vstack(([0, 0], cone)).T, alpha=0.25, color="tab:green",
            label="predicted: both tasks improve")
    for v, name in ((r, "g_R"), (-f, "-g_F")):
        ax.annotate("", 1.2 * v, (0, 0), arrowprops=dict(arrowstyle="->", lw=1))
        ax.text(*(1.3 * v), name, ha="center", va="center")
    found = directions(*plane(ratio, np.radians(60)), METHODS.values())
    for i, (name, d) in enumerate(zip(METHODS, found)):
        d = (1 - 0.1 * i) * unit(d)
        ax.plot([0, d[0]], [0, d[1]], color=COLORS[name], lw=3, label=name)
    ax.set(xlim=(-0.9, 1.6), ylim=(-1.4, 0.8), aspect="equal", xlabel="along g_R",
           ylabel="across g_R", title=f"|g_R| / |g_F| = {ratio:g}")


def draw():
    fig, axes = figure("Claim: NGDiff improves both tasks at every ratio of the gradients' norms "
                       "and every angle; GDiff with a fixed c does not", 4, 13, 4.4)
    for ax, ratio in zip(axes, (0.1, 1.0, 10.0)):
        draw_plane(ax, ratio)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8)
    share = improved(RATIOS, ANGLES).mean(1)                         # (ratios, methods)
    for i, name in enumerate(METHODS):
        axes[3].plot(RATIOS, share[:, i], color=COLORS[name], lw=3, alpha=0.6)
        axes[3].plot(RATIOS, share_by_angle(name), "k--", lw=1,
                     label="predicted (solid: measured)" if i == 0 else None)
    axes[3].legend(fontsize=8, loc="lower center")
    axes[3].set(xscale="log", ylim=(0.3, 1.03), xlabel="|g_R| / |g_F|", title="Share of all angles",
                ylabel="share where both improve")
    return fig
