"""How small may a batch be, and what does AutoLR need then? python -m experiments.batches

Unlearns with 8 to 216 retain rows a step, and at most as many forget rows, in four ways: as
printed; with AutoLR looking at another retain batch than the step's; with a budget for the loss of
the same watched rows in every step; and with the budget and the running mean of the retain
gradient, which is train.py's --budget. Prints a table with means over the seeds and draws two maps:
retain prob and the distance in forget prob. --seeds: how many. The other flags are train.py's;
--budget is 0.1 if not given. Writes table.txt, batches.json and batches.png into --out (default:
out/batches).
"""
import copy
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

import metrics
import ngdiff
import train
from experiments import shared, tradeoff
from harness import flags, measuring, report

SIZES = (8, 16, 32, 64, 108, 216)
WAYS = {                    # name: options of `unlearned`
    "as_printed": {}, "another_batch": dict(other=True), "budget": dict(budget=True),
    "budget_and_memory": dict(budget=True, memory=train.MEMORY)}
MEASURES = "retain_prob", "world_rouge", "forget_prob", "membership_auc"


def ready(argv):
    """(--out, [a train.Run for each seed]). ValueError on a mistake."""
    parser = shared.parser("batches", __doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    own, others = parser.parse_known_args(argv)
    flags.check_bound("seeds", own.seeds)
    taken = ("seed", "batch", "method", "level", "dtype", "lazy")
    config = shared.parse(["--out", "out/batches", "--budget", "0.1", *others], taken, __doc__)
    runs = [train.prepare(replace(config, seed=seed)) for seed in range(own.seeds)]
    shared.questions_only(runs[0])
    return config.out, runs


def unlearned(run, target, other=False, budget=False, memory=0.0):
    """A copy of the model `target` after config.steps steps of NGDiff with AutoLR, which looks at
    the step's retain batch, at an `other` one, or with the budget at the watched rows."""
    config, model = run.config, copy.deepcopy(target)
    losses = lambda batches: train.loss_functions(model, batches, config)
    state = ngdiff.State(lr=config.lr, adam=config.optimizer == "adam")
    batches, others, watched = (
        train.task_batches(run.examples, replace(config, seed=config.seed + k, batch=batch), 0)
        for k, batch in ((0, config.batch), (10**6, config.batch), (2 * 10**6, train.WATCHED)))
    watched = next(watched)[0]
    for _ in range(config.steps):
        retain, forget = next(batches)
        seen = watched if budget else next(others)[0] if other else retain
        ngdiff.step(losses(retain), losses(forget), model.parameters(), state,
                    probe_on=losses(seen), budget=config.budget if budget else None, memory=memory)
    return model


def end(run, trained, **options):
    """{measure: value} of what `unlearned` leaves, and `off`: how far its forget_prob is from the
    retrained model's. If the numbers ran away, the retain and forget prob are 0."""
    retrain = trained["retrain"].model
    unseen = measuring.measure_losses(retrain, run.examples["forget"])["loss"]
    goal = metrics.probability(unseen)
    try:
        model = unlearned(run, trained["target"].model, **options)
        found = tradeoff.end(run, model, retrain)
    except FloatingPointError:
        found = dict.fromkeys(MEASURES, 0.0)
    return {**{k: found[k] for k in MEASURES if k in found}, "off": found["forget_prob"] - goal}


# --------------------------------------------------------------------------- table and picture


def table(found):
    """One line a way and size: means over the seeds, and the lowest retain prob."""
    lines = [f"{'AutoLR':18} {'rows':>4} {'retain prob (lowest)':>22} {'world rouge':>12} "
             f"{'forget prob':>12} {'- retrained':>12} {'AUC':>6}"]
    for (way, size), ends in found.items():
        mean = {k: np.mean([e[k] for e in ends]) for k in ends[0]}
        low = min(e["retain_prob"] for e in ends)
        lines.append(f"{way:18} {size:4} {mean['retain_prob']:14.3f} ({low:.3f}) "
                     f"{mean.get('world_rouge', np.nan):12.3f} {mean['forget_prob']:12.3f} "
                     f"{mean['off']:+12.3f} {mean.get('membership_auc', np.nan):6.2f}")
    return "\n".join(lines)


def draw(found):
    """A map of the retain prob and one of the distance in forget prob, way by size."""
    fig = Figure(figsize=(11, 3.6), layout="constrained")
    for ax, key, title, limits in zip(
            fig.subplots(1, 2), ("retain_prob", "off"),
            ("retain prob, to stay near 1", "forget prob above the retrained model's"),
            ((0, 1), (-0.5, 0.5))):
        values = np.array([[np.mean([e[key] for e in found[way, size]]) for size in SIZES]
                           for way in WAYS])
        ax.imshow(values, cmap="viridis" if key == "retain_prob" else "coolwarm", aspect="auto",
                  vmin=limits[0], vmax=limits[1])
        for (i, j), value in np.ndenumerate(values):
            ax.text(j, i, f"{value:.2f}", ha="center", va="center",
                    bbox=dict(boxstyle="round,pad=0.15", fc="white", ec="none", alpha=0.8))
        ax.set(title=title, xlabel="rows a step", xticks=range(len(SIZES)), xticklabels=SIZES,
               yticks=range(len(WAYS)), yticklabels=[way.replace("_", " ") for way in WAYS])
    return fig


def act(asked):
    """Unlearn in each way with each batch; print, write and draw."""
    out, runs = asked
    shared.train_models(runs)
    sized = [run._replace(config=replace(run.config, batch=size)) for size in SIZES for run in runs]
    found = {}
    for way, options in WAYS.items():
        for run, ends in zip(sized, shared.results(way, end, sized, **options)):
            found.setdefault((way, run.config.batch), []).append(ends)
    text = table(found)
    print("\n" + text)
    shared.write(out, {"table.txt": text + "\n", "batches.png": report.png(draw(found)),
                       "batches.json": [dict(way=way, rows=size, ends=ends)
                                        for (way, size), ends in found.items()]})


def main(argv=None):
    flags.command(ready, act, argv)


if __name__ == "__main__":
    main()
