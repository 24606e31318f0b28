"""Where does NGDiff come to rest? Where g_R and g_F have the same direction.

Claim: with AutoLR at each step, or a decaying lr of infinite sum, NGDiff comes to rest where g_R
and g_F have the same direction (cos = 1). On two quadratics these points form a curve:

    (A - mu B) theta = A r - mu B f,     mu = |g_R| / |g_F|.

Why: on quadratics AutoLR is exact, so L_R falls by |g_R|^2 (1 - cos)^2 / (2 d'Ad) a step, and d'Ad
is at most 2 (1 - cos) times A's largest eigenvalue. L_R cannot fall for ever, so
|g_R|^2 (1 - cos) -> 0. (AutoLR's bound, a factor of 2 a fit, is not in this proof: on other seeds
a few starts had not settled after 3000 steps.)

The paper's "the limit is Pareto optimal" is true only where mu <= 1 / lam, lam = the largest
eigenvalue of A^-1 B. NGDiff needs A - mu B positive only on the directions orthogonal to g_R. So
one run in eight to one in two ends at a point that is optimal among its neighbours but dominated by
a distant one. A fixed lr comes to rest too, but only where
lr < 2 |g_R| / (largest eigenvalue of A - mu B on those directions): a large one pushes the run
outward, to a larger L_R.

Toy problem: random quadratics in R^20, eigenvalues 1 .. 100.  Expected output: each row ok.
"""
import numpy as np

from theory import toy
from theory.pareto_front import critical_c, front, minimiser
from theory.table import bound, compare, figure, legend_below, same

# --------------------------------------------------------------------------- predicted


def rest_point(q, theta):
    """mu, and the point of the stationary curve that theta should be, by the formula."""
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

def rests(q, starts, lr=None, steps=3000):
    """(last points, largest 1 - cos there) of NGDiff from each start."""
    paths = [toy.descend(q.tasks(), start, steps, lr, stop=1e-13) for start in starts]
    return [path.theta[-1] for path in paths], max(1 - path.steps[-1].cos for path in paths)


def claims(n_starts=8, largest=100.0):
    """largest: eigenvalue; the steps to rest grow with it."""
    q, rng = toy.quadratics(20, 1, largest), np.random.default_rng(0)
    near, far = (q.r + spread * rng.standard_normal((8, 20)) for spread in (1, 3))
    ends, gap = rests(q, far[:n_starts])
    _, gap_decay = rests(q, near[:n_starts // 2], lambda t: 2 / (1 + t)**0.5)
    ends_fixed, gap_fixed = rests(q, near[:2], 0.5)
    mus, points = zip(*(rest_point(q, end) for end in ends))
    lam = critical_c(q) / (1 - critical_c(q))
    optimal = [i for i, mu in enumerate(mus) if mu * lam < 1]
    return [
        bound(f"AutoLR each step, {n_starts} starts: largest 1 - cos at the end", "<", 1e-9, gap),
        bound(f"lr 2/sqrt(1+t), {n_starts // 2} starts: largest 1 - cos at the end", "<", 1e-9,
              gap_decay),
        compare("AutoLR rests where (A - mu B) theta = A r - mu B f", points, ends, 1e-4),
        compare("where mu < 1/lam that is the front's theta*(1/(1 + mu))",
                [minimiser(q, 1 / (1 + mus[i])) for i in optimal],
                [ends[i] for i in optimal], 1e-4),
        same("fails where mu > 1/lam: runs that rest at a dominated point",
             f"{n_starts - len(optimal)} of {n_starts}",
             f"{sum(dominated(q, end) for end in ends)} of {n_starts}"),
        bound("a fixed lr of 0.5 comes to rest as well: largest 1 - cos", "<", 1e-9, gap_fixed),
        compare("   ... once far enough out to be stable: largest stable lr there", 0.5,
                min(stable_lr(q, end) for end in ends_fixed), 0.02)]


def local_curve(q):
    """Points beyond the front that are optimal only among their neighbours: (n, 2)."""
    beyond = [minimiser(q, c) for c in np.linspace(0.02, critical_c(q) - 0.003, 3000)]
    return np.array([theta for theta in beyond if tangent_eigenvalues(q, theta)[0] > 0
                     and np.prod(q.gradients(theta), 0).sum() > 0])


def draw():
    q, angles = toy.quadratics(2, 2, largest=10.0), np.arange(20) * np.pi / 10 + 0.1
    fig, axes = figure("Claim: NGDiff with AutoLR comes to rest on the predicted stationary curve, "
                       "from every start.\nMost ends are Pareto optimal; some (red) are only "
                       "locally so", 2, 11, 5.6)

    def plot(points, style, **options):
        axes[0].plot(*points.T, style, **options)
        axes[1].plot(*np.array([q.losses(theta) for theta in points]).T, style, **options)
    for angle in angles:
        start = q.r + 3 * np.array([np.cos(angle), np.sin(angle)])
        path = toy.descend(q.tasks(), start, 300, stop=1e-13).theta
        plot(path, "-", color="tab:blue", lw=0.8, label="NGDiff's path")
        plot(path[-1:], "o", color="tab:blue", ms=5, label="where it rests")
    plot(front(q), "k--", lw=2, label="predicted: Pareto front (c > c*)")
    plot(local_curve(q), "r--", lw=2, label="predicted: optimal only among neighbours")
    axes[0].set(xlim=q.r[0] + np.array([-8, 8]), ylim=q.r[1] + np.array([-8, 8]),
                xlabel="theta 1", ylabel="theta 2")
    axes[1].set(xscale="log", yscale="log", xlim=(0.03, 200), ylim=(1, 600),
                xlabel="L_R, to be low", ylabel="L_F, to be high")
    legend_below(fig, axes, 5)
    return fig
