"""When does one step help both tasks? When its direction lies in the improvement cone.

Claim ("Eq. (7)", "Fig. 2"): to first order a step theta - lr d changes L_R by -lr g_R.d and L_F by
-lr g_F.d, so it hurts neither iff g_R.d >= 0 >= g_F.d. For d = c g_R - (1 - c) g_F, p = g_R.g_F:

    p / (|g_R|^2 + p)  <=  c  <=  |g_F|^2 / (|g_F|^2 + p)

(a side whose denominator is not positive drops out). Cauchy-Schwarz keeps the interval from being
empty. A constant c leaves it once the norms differ enough: with k = c |g_R| / ((1 - c) |g_F|) both
tasks improve iff cos <= min(k, 1/k), for a share 1 - arccos(min(k, 1/k)) / pi of all angles.
NGDiff is c = |g_F| / (|g_R| + |g_F|), so k = 1: inside at every angle and every ratio of norms.

Claim (ours, not in the paper): NGDiff is the bisector of g_R and -g_F, and as such also
- IMTL-G: the mix of the two, weights summing to 1, with equal projections on both unit vectors;
- MGDA on unit gradients: the least-norm point between them, which is half of it;
- Nash-MTL: the maximum of log(g_R.d) + log(-g_F.d) under K alpha = 1/alpha, K the two gradients'
  inner products; it is NGDiff / sqrt(1 - cos).
PCGrad and MGDA on raw gradients differ from it as soon as the norms do.

Assumptions: non-zero gradients, not parallel; the first order only; d applied as it is. What the
paper leaves out: preconditioning by Adam breaks the last. Its first step is the sign of d, and
g_R.sign(d) can be negative, so NGDiff with Adam has no such guarantee: rare for unrelated
gradients, the rule for gradients that nearly agree.

Toy problem: two gradients in a plane, norm ratios 1e-3 .. 1e3, angles 0.5 .. 179.5 degrees; for
Adam random gradients in R^20.  Expected output: each row ok.
"""
import sys

import numpy as np
import torch

import ngdiff
from theory import toy

RATIOS = np.geomspace(1e-3, 1e3, 61)                 # |g_R| / |g_F|
ANGLES = np.radians(np.arange(0.5, 180))             # between g_R and g_F


# --------------------------------------------------------------------------- predicted

def interval(g_R, g_F):
    """The c's for which both tasks improve."""
    p, rr, ff = g_R @ g_F, g_R @ g_R, g_F @ g_F
    return (p / (rr + p) if rr + p > 0 else 0.0), (ff / (ff + p) if ff + p > 0 else 1.0)


def share_by_angle(c):
    """The share of all angles at which gradient difference improves both, mean over RATIOS."""
    k = c / (1 - c) * RATIOS
    return (1 - np.arccos(np.minimum(k, 1 / k)) / np.pi).mean()


def nash(g1, g2):
    """Nash bargaining of two directions: Newton's method on 1/2 alpha'K alpha - sum log alpha."""
    G = np.stack((g1, g2))
    K, alpha = G @ G.T, 1 / np.linalg.norm(G, axis=1)
    for _ in range(100):
        move = np.linalg.solve(K + np.diag(alpha**-2), K @ alpha - 1 / alpha)
        alpha = alpha - move * 0.5 / max(0.5, np.abs(move / alpha).max())    # alpha stays > 0
    return alpha @ G


def imtl(g1, g2):
    """Weights that sum to 1 and give equal projections on both unit vectors: a linear system."""
    G = np.stack((g1, g2))
    u = G / np.linalg.norm(G, axis=1, keepdims=True)
    return np.linalg.solve(np.stack((G @ (u[0] - u[1]), np.ones(2))), [0, 1]) @ G


def least_norm(g1, g2):
    """The shortest vector between two others, by projected gradient descent on the weight."""
    x, lr = 0.5, 1 / (2 * (g1 - g2) @ (g1 - g2))
    for _ in range(100):
        x = np.clip(x - lr * 2 * (g1 - g2) @ (x * g1 + (1 - x) * g2), 0, 1)
    return x * g1 + (1 - x) * g2


def pcgrad(g1, g2):
    """Each loses its component along the other where they conflict; summed."""
    def without(a, b):
        return a - min(a @ b, 0) / (b @ b) * b
    return without(g1, g2) + without(g2, g1)


def unit(v):
    return v / np.linalg.norm(v)


# --------------------------------------------------------------------------- measured

def direction(g_R, g_F, method, c=0.5):
    """d of ngdiff.py for two given gradients; the losses play no part in these methods."""
    g_R, g_F = [torch.tensor(g_R)], [torch.tensor(g_F)]
    five = ngdiff.five_numbers(1.0, g_R, 1.0, g_F)
    return ngdiff.direction(g_R, g_F, *ngdiff.coefficients(method, five, c))[0].numpy()


def plane(ratio, angle):
    """g_R and g_F in the plane, of norms sqrt(ratio) and 1/sqrt(ratio)."""
    unit_F = np.array([np.cos(angle), np.sin(angle)])
    return np.array([ratio**0.5, 0.0]), unit_F / ratio**0.5


def grid(ratios=RATIOS, angles=ANGLES):
    return [plane(ratio, angle) for ratio in ratios for angle in angles]


def improves(g_R, g_F, d):
    return bool(g_R @ d >= 0 >= g_F @ d)


def adam_pairs(n):
    """Does NGDiff's d improve both, before and after Adam's first step? Predicted: the sign of d.
    Returns three lists of bools: d itself, numpy's sign of it, ngdiff.py's Adam."""
    rng, plain, sign, adam = np.random.default_rng(0), [], [], []
    for _ in range(n):
        g_R, noise = rng.standard_normal((2, 20)) * np.exp(rng.standard_normal((2, 20)))
        g_F = g_R + 0.3 * noise                          # close to g_R, as when tasks are alike
        d = torch.tensor(direction(g_R, g_F, "ngdiff"))
        plain.append(improves(g_R, g_F, d.numpy()))
        sign.append(improves(g_R, g_F, np.sign(unit(g_R) - unit(g_F))))
        stepped = ngdiff.adam_direction([d.clone()], ngdiff.adam_state([d]))[0].numpy()
        adam.append(improves(g_R, g_F, stepped))
    return plain, sign, adam


# --------------------------------------------------------------------------- claims

def cone_claims(pairs):
    rows = [toy.compare("NGDiff improves both tasks, share of all ratios and angles", 1.0, np.mean(
        [improves(r, f, direction(r, f, "ngdiff")) for r, f in pairs]), 0)]
    for c in (0.1, 0.5, 0.9):
        inside = [lo <= c <= hi for lo, hi in (interval(r, f) for r, f in pairs)]
        measured = [improves(r, f, direction(r, f, "gdiff", c)) for r, f in pairs]
        rows.append(toy.same(f"GDiff({c}) improves both: number of cases by the interval",
                             sum(inside), sum(measured)))
        if len(pairs) == len(RATIOS) * len(ANGLES):
            rows.append(toy.compare("   ... and the share by 1 - arccos(min(k, 1/k)) / pi",
                                    share_by_angle(c), np.mean(measured), 0.005))
    return rows


def bisector_claims():
    pairs = grid(np.geomspace(1e-3, 1e3, 7), np.radians([10, 60, 90, 120, 170]))
    d = np.array([direction(r, f, "ngdiff") for r, f in pairs])
    d_unit = [unit(x) for x in d]
    cos = np.array([unit(r) @ unit(f) for r, f in pairs])
    r, f = plane(10.0, np.radians(60))
    degrees = lambda d: np.degrees(np.arctan2(d[1], d[0]))          # from g_R, -120 is -g_F
    return [
        toy.compare("NGDiff = Nash-MTL (solved numerically) x sqrt(1 - cos)",
                    [nash(r, -f) * np.sqrt(1 - c) for (r, f), c in zip(pairs, cos)], d, 1e-8),
        toy.compare("NGDiff = IMTL-G (a linear system), as directions",
                    [unit(imtl(r, -f)) for r, f in pairs], d_unit, 1e-8),
        toy.compare("NGDiff = 2 x MGDA on unit gradients (solved numerically)",
                    [2 * least_norm(unit(r), -unit(f)) for r, f in pairs], d, 1e-8),
        toy.compare("PCGrad, norms 10:1, g_R at 0, -g_F at -120 (NGDiff: -60) degrees",
                    degrees(pcgrad(r, -f)), degrees(direction(r, f, "pcgrad")), 1e-8),
        toy.compare("MGDA on raw gradients, the same two (NGDiff: -60) degrees",
                    degrees(least_norm(r, -f)), degrees(direction(r, f, "mgda")), 1e-8)]


def claims(pairs=None, n_adam=1000):
    """The rows of this script's table."""
    plain, sign, adam = adam_pairs(n_adam)
    r, f = plane(1000.0, np.radians(60))
    return cone_claims(pairs or grid()) + bisector_claims() + [
        toy.same("fails if c is constant and the norms are 1000:1: both improve", False,
                 improves(r, f, direction(r, f, "gdiff", 0.5))),
        toy.same(f"NGDiff's d for {n_adam} random pairs in R^20: outside the cone", 0,
                 n_adam - sum(plain)),
        toy.same("   ... fails if Adam preconditions it: outside (predicted: sign of d)",
                 n_adam - sum(sign), n_adam - sum(adam)),
        toy.bound("   ... and that is a share of them", ">", 0.01, 1 - np.mean(adam))]


# --------------------------------------------------------------------------- figure

def draw_plane(ax, ratio):
    """One gradient plane at 60 degrees: the cone, the span of scalarization, the directions."""
    r, f = (unit(v) for v in plane(1.0, np.radians(60)))
    turn = np.radians(np.arange(0, 361))
    circle = np.stack((np.cos(turn), np.sin(turn)), 1)
    cone, span = circle[(circle @ r >= 0) & (circle @ f <= 0)], circle[turn >= np.radians(240)]
    ax.fill(*np.vstack(([0, 0], cone)).T, alpha=0.25, color="tab:green",
            label="predicted: both tasks improve")
    ax.plot(*(1.06 * span).T, "--", color="tab:gray", label="all scalarizations, c from 0 to 1")
    styles = [("ngdiff", 0.5, "tab:blue", "NGDiff"), ("gdiff", 0.1, "tab:orange", "GDiff(0.1)"),
              ("gdiff", 0.5, "tab:red", "GDiff(0.5)"), ("gdiff", 0.9, "tab:purple", "GDiff(0.9)")]
    for v, name in ((r, "g_R"), (-f, "-g_F")):
        ax.annotate("", 1.2 * v, (0, 0), arrowprops=dict(arrowstyle="->", lw=1))
        ax.text(*(1.3 * v), name, ha="center", va="center")
    for i, (method, c, color, label) in enumerate(styles):
        d = (1 - 0.1 * i) * unit(direction(*plane(ratio, np.radians(60)), method, c))
        ax.plot([0, d[0]], [0, d[1]], color=color, lw=3, label=label)
    ax.set(xlim=(-0.9, 1.6), ylim=(-1.4, 0.8), aspect="equal", xlabel="along g_R",
           ylabel="across g_R", title=f"|g_R| / |g_F| = {ratio:g}")


def draw(folder):
    fig, axes = toy.figure(13, 4.4, 1, 4, "Claim: NGDiff improves both tasks at every ratio of the "
                           "gradients' norms and every angle; GDiff with a fixed c does not")
    for ax, ratio in zip(axes, (0.1, 1.0, 10.0)):
        draw_plane(ax, ratio)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8)
    ax, pairs = axes[3], [[plane(x, a) for a in ANGLES] for x in RATIOS]
    for method, c, color in (("ngdiff", 0.5, "tab:blue"), ("gdiff", 0.1, "tab:orange"),
                             ("gdiff", 0.5, "tab:red"), ("gdiff", 0.9, "tab:purple")):
        share = [np.mean([improves(r, f, direction(r, f, method, c)) for r, f in row])
                 for row in pairs]
        ax.plot(RATIOS, share, color=color, lw=3, alpha=0.6)
        k = c / (1 - c) * RATIOS if method == "gdiff" else np.ones_like(RATIOS)
        ax.plot(RATIOS, 1 - np.arccos(np.minimum(k, 1 / k)) / np.pi, "k--", lw=1)
    ax.plot([], [], "k--", label="predicted (solid: measured)")
    ax.legend(fontsize=8, loc="lower center")
    ax.set(xscale="log", ylim=(0.3, 1.03), xlabel="|g_R| / |g_F|", title="Share of all angles",
           ylabel="share where both improve")
    toy.save(fig, folder, "improvement_cone")


def main():
    return toy.run_alone(claims, draw)


if __name__ == "__main__":
    sys.exit(main())
