"""One run of the comparison: where it ends, how far that is from the retrained model, and its area.

A run is looked at every few steps. Its path is what it had forgotten and still knew at each look.
"""
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import metrics
from experiments import shared
from harness import measuring, report, sources

LOOK_EVERY = 8          # steps
LEAST = 1e-4            # utility lost, at the foot of the figure
KEPT = 0.99             # retain ROUGE below which a run counts as no nearer than the target
DISTANCES = ("forget_rouge", "membership_auc", "log10_forget_quality")


class Look(NamedTuple):
    """What a model knows, measured cheaply."""
    step: int
    forget_rouge: float     # ROUGE-L recall on all forget rows
    utility: float          # harmonic mean of probability and ROUGE on retain rows and world facts


class References(NamedTuple):
    """What the runs of one seed start from and are compared with."""
    target: dict            # `measuring.summary`
    retrain: dict
    enough: float           # the retrained model's forget ROUGE


class Outcome(NamedTuple):
    """What a run came to."""
    path: list              # Looks, the target model's first
    final: dict             # `measuring.summary` at its end; None where the numbers ran away
    ran_away: str           # why they did; else empty
    steps: int
    seconds: float          # spent on the steps


# --------------------------------------------------------------------------- along a run

def look(run, model, step):
    """A Look. Its utility is taken on every 8th retain row and on the world facts, without the
    truth ratios of `model_utility`, which cost five times the rest."""
    sets = [run.rows["forget"], run.rows["retain"][::8], run.rows.get("world", [])]
    m = report.evaluate(model, run.tokenizer, {"all": sources.plain(sum(sets, []))})["all"]
    ends = np.cumsum([0, *map(len, sets)])
    rouge = [np.mean(m["rouge"][a:b]) for a, b in zip(ends, ends[1:]) if b > a]
    probability = [metrics.probability(m["loss"][a:b]) for a, b in zip(ends[1:], ends[2:]) if b > a]
    return Look(step, float(rouge[0]), metrics.model_utility(probability + rouge[1:]))


def end(run, model, retrain):
    """`measuring.summary` of the run's end. Only the forget rows have truth ratios: those of the
    retain rows cost more than all the rest."""
    rows = {k: some if k in ("forget", "holdout") else sources.plain(some)
            for k, some in run.rows.items()}
    return measuring.summary(report.evaluate(model, run.tokenizer, rows),
                             shared.reference(run, retrain))


# --------------------------------------------------------------------------- jobs

def references(run, trained):
    """References of one seed; trained: its models' Stages. Raises FloatingPointError if the target
    model has nothing to forget or to lose: no run could be ranked."""
    models = [trained[title].model for title in ("target", "retrain")]
    target, retrain = (look(run, model, 0) for model in models)
    if target.forget_rouge <= retrain.forget_rouge or target.utility == 0:
        raise FloatingPointError(
            f"seed {run.config.seed}: nothing to forget; the target model, which learned the "
            f"forget rows, has a forget ROUGE of {target.forget_rouge:.3f} and a utility of "
            f"{target.utility:.3f}, the retrained one, which did not, a forget ROUGE of "
            f"{retrain.forget_rouge:.3f}; try more --epochs")
    return References(*(end(run, model, models[1]) for model in models), retrain.forget_rouge)


def outcome(run, trained):
    """The Outcome of one run, from the target of the Stages `trained`. Ends where less than a tenth
    of the utility is left."""
    path, final, ran_away = [], None, ""
    try:
        for stage in shared.unlearning(run, trained["target"].model, LOOK_EVERY):
            path.append(look(run, stage.model, stage.step))
            if path[-1].utility < 0.1 * path[0].utility:
                break
        final = end(run, stage.model, trained["retrain"].model)
    except FloatingPointError as e:
        ran_away = str(e)
    return Outcome(path, final, ran_away, stage.step, stage.seconds)


# --------------------------------------------------------------------------- the distance

def distance(final, references):
    """How far a run's end is from the retrained model: 0 = there, 1 = as far as the target (ours).

    final: the end's `measuring.summary`, or None. The mean over DISTANCES of the difference to the
    retrained model, as a share of the target's difference; 1 at most. It is 1 where the numbers
    ran away or the retain ROUGE is below KEPT: to forget by ruin is no way to come near.
    """
    if final is None or final["retain_rouge"] < KEPT:
        return 1.0
    shares = [abs(final[k] - references.retrain[k]) / abs(references.target[k]
                                                          - references.retrain[k])
              for k in DISTANCES if k in final]
    return min(1.0, float(np.mean(shares)))


# --------------------------------------------------------------------------- the area

def shares(path, enough):
    """(forgetting (N,), utility (N,)) of a path's N Looks, as shares. Forgetting: 0 is the target
    model's forget ROUGE, 1 is `enough`, the retrained model's. Utility: 1 is the target's."""
    _, forget, utility = np.array(path).T
    return (forget[0] - forget) / (forget[0] - enough), utility / utility[0]


def best_utility(forgetting, utility, at):
    """U(x) for each x of the array `at`: the most utility, cut to 0 .. 1, among those points of a
    path whose forgetting is x or more; 0 where there is none."""
    U = [max(utility[forgetting >= x], default=0) for x in at]
    return np.clip(U, 0, 1)


def area_under_utility(forgetting, utility):
    """Area under utility as a function of forgetting, 0 to 1, of the (N,) points of a run (ours;
    the hypervolume of Zitzler and Thiele 1999 with (0, 0) as reference). forgetting: 0 = as the
    target model, 1 = as the retrained one, what goes beyond earns nothing; utility: share of the
    target's, 1 at most. 1 = all was forgotten at no cost. Raises ValueError if an array is empty
    or holds what is not finite."""
    forgetting, utility = np.asarray(forgetting, float), np.asarray(utility, float)
    if not forgetting.size or forgetting.shape != utility.shape or \
            not np.isfinite([forgetting, utility]).all():
        raise ValueError(f"forgetting {forgetting}, utility {utility}: expected finite numbers, "
                         "as many of the one as of the other")
    at = np.sort(np.clip(forgetting, 0, 1))
    # area = integral_0^1 U(x) dx = sum_i (f_i - f_(i-1)) U(f_i),  f_0 = 0
    return float(np.sum(np.diff(at, prepend=0) * best_utility(forgetting, utility, at)))


def area(path, enough):
    return area_under_utility(*shares(path, enough))


# --------------------------------------------------------------------------- the figure

def draw(paths, names):
    """A Figure: the utility lost, 1 - U(x), against forgetting x: what the area is made of.

    paths: {(name, optimizer, level): [`shares` of a seed, ...]}, best first; names: all of them, in
    the colours' order. Lines are means over the seeds, bars on the right the range at x = 1. A run
    that never forgets as much as x has lost everything there, 1.
    """
    fig = Figure(figsize=(13, 9), layout="constrained")
    colors = dict(zip(names, ("black", *(f"C{i}" for i in range(10)))))
    kinds = [(optimizer, level) for level in (False, True) for optimizer in ("sgd", "adam")]
    for ax, (optimizer, level) in zip(fig.subplots(2, 2, sharex=True, sharey=True).flat, kinds):
        some = {name: runs for (name, *its), runs in paths.items() if its == [optimizer, level]}
        draw_lines(ax, some, colors)
        ax.set_title(f"{optimizer.upper().replace('ADAM', 'Adam')}, "
                     + ("with the level loss" if level else "plain"))
        if level:
            ax.set_xlabel("forgetting, by forget ROUGE: 0 target, 1 retrained model")
        if optimizer == "sgd":
            ax.set_ylabel("utility lost, share of the target's")
    fig.suptitle("Lower is better: the utility that is lost when so much is forgotten\n"
                 "lines: mean over the seeds, bars: their range at forgetting 1")
    return fig


def draw_lines(ax, some, colors):
    """The lines and bars of one panel; some: {name: [`shares` of a seed, ...]}, best first."""
    x = np.linspace(0.005, 1, 200)
    for i, (name, runs) in enumerate(some.items()):
        lost = np.array([1 - best_utility(*run, x) for run in runs]).clip(LEAST)   # (seeds, x)
        mean, low, high = lost.mean(0), lost[:, -1].min(), lost[:, -1].max()
        ax.plot(x, mean, color=colors[name], label=name, drawstyle="steps-pre")
        ax.errorbar(1.03 + 0.02 * i, mean[-1], [[mean[-1] - low], [high - mean[-1]]],
                    color=colors[name], fmt="o", ms=4, capsize=2)
    ax.axvline(1, color="tab:gray", ls=":", lw=1)
    ax.set(yscale="log", ylim=(LEAST, 1.3), xticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
    if some:
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), title="nearest first")
