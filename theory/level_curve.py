"""Where does NGDiff end with the level loss if there is no room? Short of its goal, on a curve.

Ours, not in the paper. The goal is that of level.py: lowest L_R with every forget row's loss at its
level, l_x = B_x. But here no theta has both L_R at its minimum and every row at its level. P is
level.py's.

Claim: where a method comes to rest and neither gradient is 0, L_R + mu P is stationary for some
mu > 0. The minimisers theta(mu) form a curve that reaches the goal as mu -> infinity.

- Gradient difference ends at theta((1 - c) / c), which depends on c.
- NGDiff ends at a theta(mu) too, mu = |g_R| / |g_F| there: the first point at which no small step
  improves both losses, short of the goal. Which one depends on the start and on the learning rates.

Assumptions: a learning rate that falls slowly enough to arrive.

Toy problem: level.py's 12 rows in R^10.  Expected output: each row ok.
"""
import numpy as np

from theory.level import B, COSTS, N_X, end, falling, gdiff_ends, goal, problem, residual, run
from theory.table import bound, compare, figure

SLOW = dict(lr=falling(1.0, 0.98), steps=800)

# --------------------------------------------------------------------------- predicted


def on_curve(p, mu):
    """theta(mu): the minimiser of L_R + mu P, by Newton's method from the goal."""
    theta, share = goal(p), mu * N_X / N_X.sum()
    for _ in range(50):
        l, J = p.row_losses(theta), p.row_gradients(theta)
        off = np.log(l / B)
        grad = p.grad_retain(theta) + (share * off / l) @ J
        bent = (J.T * (share * (1 - off) / l**2)) @ J
        theta = theta - np.linalg.solve(p.hessian(theta, share * off / l) + bent, grad)
    return theta


def claims():
    p = problem(10)
    theirs, path, fixed_c = goal(p), run(p, **SLOW), gdiff_ends(p)
    theta, last = path.theta[-1], path.steps[-1]
    near = [end(p._replace(start=start + 0.01), lr=falling(0.02, 0.96), steps=200)
            for start in (theirs, on_curve(p, 0.01))]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate([*fixed_c, theirs]) for b in fixed_c[:i]]
    return [
        compare("GDiff, c = 0.2, 0.8, ends at theta((1 - c) / c)",
                [on_curve(p, (1 - c) / c) for c in COSTS], fixed_c, 1e-4),
        bound("   ... off the goal and off each other: least of the distances", ">", 0.01,
              min(gaps)),
        compare("NGDiff ends at theta(mu), mu = |g_R| / |g_F|",
                on_curve(p, last.norm_retain / last.norm_forget), theta, 1e-4),
        compare("   ... what is left of the first Lagrange condition", 0, residual(p, theta), 1e-5),
        bound("   ... fails to reach the goal: farthest row in log l", ">", 0.1,
              np.abs(np.log(p.row_losses(theta) / B)).max()),
        bound("   ... from near the goal and near theta(0.01), small lr: ends apart by", ">", 0.1,
              np.linalg.norm(near[0] - near[1]))]


def draw():
    p = problem(10)
    fig, ax = figure("Claim: without room NGDiff and gradient difference\nend on the curve "
                     "theta(mu), short of the goal", 1, 7, 5)

    def shown(points):
        return np.array([(p.loss_retain(theta), np.abs(np.log(p.row_losses(theta) / B)).max())
                         for theta in points]).T
    ax.loglog(*shown([on_curve(p, mu) for mu in np.geomspace(0.01, 1e3, 60)]), "k--",
              label="predicted: theta(mu); the goal is far below")
    for name, options in (("NGDiff, lr falling", SLOW),
                          ("NGDiff, AutoLR every 10th step", dict(lr=None, lazy=10)),
                          ("GDiff(0.2)", dict(lr=0.5, c=0.2, method="gdiff")),
                          ("GDiff(0.8)", dict(lr=0.5, c=0.8, method="gdiff"))):
        path = shown(run(p, **options).theta)
        line, = ax.plot(*path, lw=0.8, alpha=0.8, label=f"measured: {name}")
        ax.plot(*path[:, -1], "o", color=line.get_color())
    ax.set(title="Paths and ends (dots)", xlabel="L_R, to be low",
           ylabel="farthest row's distance from its level, in log l")
    return fig
