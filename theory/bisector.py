"""Which multi-task methods take NGDiff's direction? Those that weigh both tasks by direction only.

Claim (ours, not in the paper): d = g_R/|g_R| - g_F/|g_F| bisects the angle between g_R and -g_F,
the tasks' own directions. For two tasks it is therefore also

- IMTL-G: the mix of the two, weights summing to 1, with equal projections on both unit vectors;
- ConFIG (Liu, Chu and Thuerey 2024, arXiv 2408.11104): equal, non-negative projections on all unit
  gradients, as the direction of pinv([g_R/|g_R|; -g_F/|g_F|]) (1, 1);
- MGDA on unit gradients: the least-norm point between them, which is half of d;
- Nash-MTL: the maximum of log(g_R.d) + log(-g_F.d) under K alpha = 1/alpha, K the two gradients'
  inner products; it is d / sqrt(1 - cos).

Assumptions: two tasks, non-zero gradients that do not point in the same direction. Where it fails:
PCGrad and MGDA on raw gradients look at the norms too, and differ as soon as these do.

Toy problem: two gradients in a plane, norm ratios 1e-3 .. 1e3, angles 10 .. 170 degrees. Each
method is solved here from its own definition, without ngdiff.py.  Expected output: each row ok.
"""
import numpy as np

from theory.improvement_cone import directions, plane
from theory.table import compare, figure
from theory.toy import unit

RATIOS = np.geomspace(1e-3, 1e3, 7)                  # |g_R| / |g_F|
ANGLES = (10, 60, 90, 120, 170)                      # degrees between g_R and g_F

# --------------------------------------------------------------------------- predicted


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
    return np.linalg.solve(np.stack((G @ (unit(g1) - unit(g2)), np.ones(2))), [0, 1]) @ G


def config(g1, g2):
    """ConFIG: the vector whose projections on both unit vectors are 1, of the smallest norm."""
    return np.linalg.pinv(np.stack((unit(g1), unit(g2)))) @ np.ones(2)


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


# --------------------------------------------------------------------------- measured

def shipped(g_R, g_F, method):
    """d of ngdiff.py for two given gradients."""
    return directions(g_R, g_F, [(method, 0.5)])[0]


def degrees(d):
    """The angle from g_R in degrees; with 60 degrees between g_R and g_F, -g_F is at -120."""
    return np.degrees(np.arctan2(d[1], d[0]))


def claims():
    pairs = [plane(ratio, np.radians(angle)) for ratio in RATIOS for angle in ANGLES]
    wanted = [(r, -f) for r, f in pairs]                       # the two directions to mix
    d = np.array([shipped(r, f, "ngdiff") for r, f in pairs])
    d_unit, cos = [unit(x) for x in d], np.array([unit(r) @ unit(f) for r, f in pairs])
    r, f = plane(10.0, np.radians(60))
    return [
        compare("NGDiff = Nash-MTL (solved numerically) x sqrt(1 - cos)",
                [nash(*pair) * np.sqrt(1 - c) for pair, c in zip(wanted, cos)], d, 1e-8),
        compare("NGDiff = IMTL-G (a linear system), as directions",
                [unit(imtl(*pair)) for pair in wanted], d_unit, 1e-8),
        compare("NGDiff = ConFIG (a pseudo-inverse), as directions",
                [unit(config(*pair)) for pair in wanted], d_unit, 1e-8),
        compare("NGDiff = 2 x MGDA on unit gradients (solved numerically)",
                [2 * least_norm(unit(a), unit(b)) for a, b in wanted], d, 1e-8),
        compare("fails for PCGrad, norms 10:1 (NGDiff: -60): degrees from g_R",
                degrees(pcgrad(r, -f)), degrees(shipped(r, f, "pcgrad")), 1e-8),
        compare("fails for MGDA on raw gradients, the same two (NGDiff: -60): degrees",
                degrees(least_norm(r, -f)), degrees(shipped(r, f, "mgda")), 1e-8)]


def draw():
    fig, ax = figure("Claim: NGDiff takes the direction of IMTL-G, ConFIG, Nash-MTL and unit MGDA;"
                     "\nPCGrad and MGDA turn with the ratio of the norms", 1, 8, 4.6)
    ratios, angle = np.geomspace(1e-3, 1e3, 61), np.radians(60)
    for name, solved, color in (("ngdiff", imtl, "tab:blue"), ("pcgrad", pcgrad, "tab:orange"),
                                ("mgda", least_norm, "tab:purple")):
        pairs = [plane(ratio, angle) for ratio in ratios]
        ax.plot(ratios, [degrees(shipped(r, f, name)) for r, f in pairs], color=color, lw=3,
                alpha=0.6, label=f"measured: --method {name}")
        ax.plot(ratios, [degrees(solved(r, -f)) for r, f in pairs], "k--", lw=1,
                label="predicted from each definition" if name == "ngdiff" else None)
    ax.set(xscale="log", xlabel="|g_R| / |g_F|", ylabel="direction of d, degrees from g_R",
           title="g_R at 0 degrees, -g_F at -120 degrees")
    return fig
