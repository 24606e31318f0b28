"""How soon is a row, or a token, at its level? The form of the distance decides it.

Ours, not in the paper. In L_F's place a level loss raises minus a distance from the level B: for a
row ngdiff.level_objective, -(log l - log B)^2 / 2, for a token ngdiff.token_level_objective.
|grad l| = |z| (1 - exp(-l)), for a row with a logistic loss as for a token's loss in one logit. So
a row that is known by heart hardly moves by itself.

Claim, rows: by gradient ascent on -D(l) the way from l to `end` takes the time

    the integral of dl / (|z|^2 (1 - exp(-l))^2 w(l)),    w(l) = -dD/dl.

In logarithms w is log(B / l) / l, and the time to half of the level hardly depends on the start.
With the distance of the losses themselves, D = (l - B)^2 / (2 B), w is 1 - l / B, and the time
grows as 1 / l: rows that are known by heart are left behind.

Claim, tokens: u = log(exp(l) - 1), the log-odds of being wrong, is minus the margin. In u the
gradient is |z| everywhere, so the way left falls as exp(-|z|^2 t), from anywhere to any level.
log l does so as long as l and B are small. Above 1 nat its speed falls as 1 / l, and the time to
nine tenths of B grows as B^2: unlikely tokens, which carry a row's mean, would come last.

Assumption: plain gradient ascent with small steps; each row alone, |z| = 1. Where it fails: a row
whose loss is 0, or below 1e-7, does not move.  Expected output: each row ok.
"""
import numpy as np
import torch

import ngdiff
from theory import toy
from theory.table import bound, compare, figure, same

# --------------------------------------------------------------------------- predicted


def margin(loss):
    """The margin at which a row, or a token, has this loss."""
    return -np.log(np.expm1(loss))


def log_odds(loss):
    return -margin(np.array(loss))


def arrival(start, weight, end=0.5):
    """The time from the loss `start` to `end` by the integral above."""
    l = np.geomspace(start, end, 20001)
    height = 1 / ((1 - np.exp(-l))**2 * weight(l))
    return np.diff(l) @ (height[1:] + height[:-1]) / 2       # the trapezoidal rule


# --------------------------------------------------------------------------- measured

def by_logarithms(loss, level=1.0):
    return ngdiff.level_objective(loss, torch.ones(1), torch.tensor([level]))


def by_log_odds(loss, level=1.0):
    margin = loss.expm1().log()              # of two words; the other one is the likeliest
    return ngdiff.token_level_objective(loss, margin, torch.tensor([level]))


def by_losses(loss, level=1.0):
    return -(loss - level)**2 / (2 * level)


def ascent(objective, level, starts, steps, lr):
    """Losses (steps + 1, starts) by gradient ascent on objective(loss, level) of each."""
    softplus = torch.nn.functional.softplus
    tasks = (lambda theta: 0 * theta.sum(),
             lambda theta: objective(softplus(-theta), level).sum())
    path = toy.descend(tasks, margin(np.array(starts)), steps, lr, method="ga")
    return np.logaddexp(0, -path.theta)


def arrival_times(objective, level, starts, times, lr, end=0.5):
    """When `ascent` has the loss `end`, times lr; `times`: predicted, to know how far to go."""
    steps = int(1.2 * max(times) / lr) + 20
    return lr * np.argmax(ascent(objective, level, starts, steps, lr) > end, axis=0)


def row_claims():
    """Two forms of a row's distance, from several starts to half of the level 1."""
    far, near = (0.1, 0.01, 0.001, 1e-5), (0.1, 0.03, 0.01)
    log_times = [arrival(start, lambda l: np.log(1 / l) / l) for start in far]
    times = [arrival(start, lambda l: 1 - l) for start in near]
    seen = arrival_times(by_logarithms, 1.0, far, log_times, 0.02)
    plain = arrival_times(by_losses, 1.0, near, times, 0.2)
    return [
        compare("rows: time to half of the level from l = 0.1, 0.01, 0.001, 1e-5", log_times, seen,
                0.02),
        bound("   ... from 1e-5 / from 0.1", "<", 2.1, seen[-1] / seen[0]),
        compare("   ... (l - B)^2 / (2 B) instead, from 0.1, 0.03, 0.01", times, plain, 0.02),
        bound("   ... from 0.01 / from 0.1", ">", 8, plain[-1] / plain[0]),
        same("fails where a row's loss is 1e-8: in 100 steps it moves by", 0.0,
             float(np.ptp(ascent(by_logarithms, 1.0, [1e-8], 100, 0.1))))]


def token_claims():
    """The way to an unlikely token's level."""
    starts, t = [0.1, 1e-3, 1e-5], np.arange(1001) * 0.002
    left = (log_odds(5.0) - log_odds(starts)) * np.exp(-t)[:, None]        # predicted
    seen = log_odds(5.0) - log_odds(ascent(by_log_odds, 5.0, starts, 1000, 0.002))
    times, log_times, times_seen, log_seen = [], [], [], []
    for level in 3.0, 12.0:
        end = 0.9 * level
        times.append(np.log((log_odds(level) - log_odds(1.0)) / (log_odds(level) - log_odds(end))))
        log_times.append(arrival(1.0, lambda l: np.log(level / l) / l, end))
        for by, predicted, found in ((by_log_odds, times, times_seen),
                                     (by_logarithms, log_times, log_seen)):
            found.extend(arrival_times(by, level, [1.0], predicted[-1:], 0.01, end))
    return [
        compare("tokens, in log-odds: way left to 5 nats from 0.1, 0.001, 1e-5", left, seen, 0.01),
        compare("   ... time from 1 nat to 0.9 B, B = 3, 12", times, times_seen, 0.02),
        compare("   ... in log l", log_times, log_seen, 0.02),
        bound("   ... in log l, to 12 / to 3 nats", ">", 10, log_seen[1] / log_seen[0]),
        bound("   ... in log-odds", "<", 1.5, times_seen[1] / times_seen[0])]


def claims():
    return row_claims() + token_claims()


def draw():
    lr, steps = 0.005, 3000
    fig, axes = figure("Claim: in logarithms rows that are known by heart arrive as soon as "
                       "others,\nin log-odds unlikely tokens do too", 2, 11, 4.8)
    t = lr * np.arange(steps + 1)
    for ax, level, starts, title in ((axes[0], 1.0, (0.1, 0.01, 0.001), "from three starts"),
                                     (axes[1], 12.0, (1.0,), "to an unlikely token's level")):
        for objective, color, name in ((by_losses, "tab:gray", "distance of the losses"),
                                       (by_logarithms, "tab:blue", "of their logarithms"),
                                       (by_log_odds, "tab:red", "of their log-odds")):
            found = ascent(objective, level, starts, steps, lr)
            ax.semilogy(t, found, color=color, label=[name] + [None] * (len(starts) - 1))
        ax.axhline(level, color="k", ls="--", lw=1, label="the level B")
        ax.set(title=title, xlabel="time: steps x lr", ylabel="loss l, nats")
    return fig
