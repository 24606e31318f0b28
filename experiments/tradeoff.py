"""One run of the comparison: where it ends, how far that is from the retrained model, and its area.

A run is measured every few steps. Its path says what it had forgotten and still knew at each look.
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
LEVELS = "", "row"       # of --level, which are compared


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
    ran_away: str           # how they did; else empty


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


def references(run, trained):
    """References of one seed; trained: its models' Stages. Raises FloatingPointError if the target
    model has nothing to forget or to lose: no run could be ranked."""
    models = [trained[title].model for title in ("target", "retrain")]
    target, retrain = (look(run, model, 0) for model in models)
    if target.forget_rouge <= retrain.forget_rouge or target.utility == 0:
        raise FloatingPointError(
            f"seed {run.config.seed}: nothing to forget; the target model has a forget ROUGE of "
            f"{target.forget_rouge:.3f} and a utility of {target.utility:.3f}, the retrained one a "
            f"forget ROUGE of {retrain.forget_rouge:.3f}; try more --epochs")
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
    return Outcome(path, final, ran_away)


# --------------------------------------------------------------------------- distance and area

def distance(final, references):
    """How far a run's end is from the retrained model: 0 = there, 1 = as far as the target (ours).

    final: the end's `measuring.summary`, or None. The mean over DISTANCES of the difference to the
    retrained model, as a share of the target's difference; 1 at most. It is 1 if the numbers ran
    away or the retain ROUGE is below KEPT: a ruined model is not near the retrained one.
    """
    if final is None or final["retain_rouge"] < KEPT:
        return 1.0
    shares = [abs(final[k] - references.retrain[k]) / abs(references.target[k]
                                                          - references.retrain[k])
              for k in DISTANCES if k in final]
    return min(1.0, float(np.mean(shares)))


def shares(path, enough):
    """(forgetting (N,), utility (N,)) of a path's N Looks, as shares. Forgetting: 0 is the target
    model's forget ROUGE, 1 is `enough`, the retrained model's. Utility: 1 is the target's."""
    _, forget, utility = np.array(path).T
    return (forget[0] - forget) / (forget[0] - enough), utility / utility[0]


def best_utility(forgetting, utility, at):
    """U(x) for each x of the array `at`: the highest utility, cut to 0 .. 1, among the points of
    a path whose forgetting is x or more; 0 if there is none."""
    U = [max(utility[forgetting >= x], default=0) for x in at]
    return np.clip(U, 0, 1)


def area(forgetting, utility):
    """Area under U(x), 0 to 1, of a path's `shares`: 1 = all was forgotten at no cost. Ours; the
    hypervolume of Zitzler and Thiele 1999 with (0, 0) as reference."""
    at = np.sort(np.clip(forgetting, 0, 1))
    # area = integral_0^1 U(x) dx = sum_i (f_i - f_(i-1)) U(f_i),  f_0 = 0
    return float(np.sum(np.diff(at, prepend=0) * best_utility(forgetting, utility, at)))


def draw(paths, names):
    """A Figure: the utility lost, 1 - U(x), against forgetting x: what the area is made of.

    paths: {(name, optimizer, level): [`shares` of a seed, ...]}, best first; names: all of them, in
    the colours' order. A run that never forgets as much as x has lost everything there, 1.
    """
    fig = Figure(figsize=(13, 9), layout="constrained")
    fig.suptitle("Lower is better. Lines: mean over the seeds; bands: their range")
    colors = dict(zip(names, ("black", *(f"C{i}" for i in range(10)))))
    x = np.linspace(0.005, 1, 200)
    kinds = [(optimizer, level) for level in LEVELS for optimizer in ("sgd", "adam")]
    for ax, kind in zip(fig.subplots(2, 2, sharex=True, sharey=True).flat, kinds):
        for (name, *its), runs in paths.items():
            if tuple(its) == kind:
                lost = np.array([1 - best_utility(*run, x) for run in runs]).clip(LEAST)
                ax.plot(x, lost.mean(0), color=colors[name], label=name, drawstyle="steps-pre")
                ax.fill_between(x, lost.min(0), lost.max(0), color=colors[name], alpha=0.1, lw=0)
        ax.set(title=f"{kind[0]}, {'with the level loss' if kind[1] else 'plain'}",
               xlabel="forgetting, by forget ROUGE: 0 target, 1 retrained model",
               ylabel="utility lost, share of the target's", yscale="log", ylim=(LEAST, 1.3))
        if ax.lines:
            ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), title="nearest first")
    return fig
