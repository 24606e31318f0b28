"""How good is each method, plain and with the level? python -m experiments.compare --seeds 5

Every method, with SGD and with Adam, plain and with the level loss (ours), starts from the same
target models (seeds 0, 1, ...) and takes all the steps. A baseline has the learning rate that was
best on seed 100, which is never reported (rates.py); NGDiff with AutoLR has nothing to choose.
Ranked by the distance to the retrained model (tradeoff.py). Prints the table, and writes table.txt,
compare.json and tradeoff.png into --out (default: out/compare). README.md says what the columns
mean.
"""
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np

import train
from experiments import shared, tradeoff
from harness import flags, report

METHODS = {                                         # name: flags
    "ngdiff, AutoLR": dict(method="ngdiff", autolr=True), "ngdiff, fixed": dict(method="ngdiff"),
    "gdiff 0.9": dict(method="gdiff", c=0.9), "gdiff 0.5": dict(method="gdiff", c=0.5),
    "gdiff 0.1": dict(method="gdiff", c=0.1), "lossnorm": dict(method="lossnorm"),
    "pcgrad": dict(method="pcgrad"), "mgda": dict(method="mgda"), "npo": dict(method="npo"),
    "ga": dict(method="ga"), "retain": dict(method="retain")}
TUNING_SEED = 100                                   # see rates.py
TAKEN = ("method", "optimizer", "lr", "autolr", "c", "seed", "level")    # set here


class Comparison(NamedTuple):
    """What is to be run."""
    config: train.Config
    seeds: list
    names: list          # of METHODS


@dataclass
class Variant:
    """A method with an optimizer, plain or with the level, and what came of it."""
    name: str
    config: train.Config
    runs: list = field(default_factory=list)        # tradeoff.Outcomes, a seed each
    distances: list = field(default_factory=list)
    areas: list = field(default_factory=list)


def ready(argv):
    """The command line, checked. ValueError on a mistake."""
    parser = shared.parser("compare", __doc__)
    parser.epilog = "All other flags are those of train.py."
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    only(parser)
    own, others = parser.parse_known_args(argv)
    if not 1 <= own.seeds <= TUNING_SEED:
        raise ValueError(f"--seeds {own.seeds}: must be from 1 to {TUNING_SEED}")
    config = shared.parse(["--out", "out/compare", *others], TAKEN, __doc__)
    run = train.prepare(config)
    shared.questions_only(run)
    if not run.examples["holdout"]:
        raise ValueError(f"--data {config.data}: no holdout rows for the membership AUC")
    return Comparison(config, list(range(own.seeds)), own.only)


def only(parser):
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=METHODS, metavar="NAME",
                        help=f"some of the methods: {'; '.join(METHODS)}")


# --------------------------------------------------------------------------- the runs

def all_references(config, seeds):
    """{seed: its tradeoff.References}, its models trained into the cache."""
    configs = [replace(config, seed=seed) for seed in seeds]
    shared.train_models(configs)
    done = shared.run_all("measure", shared.kept, [(c, tradeoff.references) for c in configs])
    return {seed: tradeoff.References(*x) for seed, x in zip(seeds, done)}


def variants(config, names):
    """The methods `names` as Variants: with both optimizers, plain and where it can be with the
    level, at the rates of flags.RATES."""
    some = []
    for name in names:
        for level in (False, True):
            for optimizer in ("sgd", "adam"):
                own = replace(config, **{"autolr": False, **METHODS[name]}, optimizer=optimizer,
                              level=level)
                if not level or own.method not in flags.NO_LEVEL:
                    own.lr = flags.default_rate(own)
                    some.append(Variant(name, own))
    return some


def run_all(title, some, found, seeds):
    """Run each of the Variants on each seed: set its `runs`, `distances` and `areas`. found:
    {seed: References}."""
    jobs = [(replace(v.config, seed=seed), tradeoff.outcome) for v in some for seed in seeds]
    done = iter(shared.run_all(title, shared.kept, jobs))
    for v in some:
        v.runs = [tradeoff.Outcome(*next(done)) for _ in seeds]
        v.distances = [tradeoff.distance(r.final, found[s]) for r, s in zip(v.runs, seeds)]
        v.areas = [tradeoff.area(r.path, found[s].enough) for r, s in zip(v.runs, seeds)]


# --------------------------------------------------------------------------- what is shown

COLUMNS = {"retain_rouge": 3, "world_rouge": 3, "forget_rouge": 3, "membership_auc": 3,
           "log10_forget_quality": 2}          # of a run's end, with their digits


def spread(values, digits=3):
    """Mean and standard deviation over the seeds; - where there is no value."""
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.{digits}f}±{deviation:.{digits}f}"


def ends(models):
    """The table's cells of COLUMNS; models: a `metrics.summary` each, None where there is none."""
    return " ".join(f"{spread([m.get(k) for m in models if m], digits):>13}"
                    for k, digits in COLUMNS.items())


def table(some, found, seeds):
    """One line a Variant, the plain ones first. The columns are those of README.md."""
    lines = []
    for level in (False, True):
        group = [v for v in some if v.config.level == level]
        nearest = np.min([v.distances for v in group], axis=0) if group else []
        lines.append(f"{'with the level' if level else 'plain':14} {'opt':4} {'lr':>7} "
                     f"{'distance':>13} {'first':>5} {'area':>13} "
                     + " ".join(f"{k.replace('log10_forget_', 'log10 ').replace('_', ' '):>13}"
                                for k in COLUMNS) + f" {'ms a step':>9}")
        for v in group:
            rate = "fitted" if v.config.autolr else f"{v.config.lr:g}"
            first = sum(x == y < 1 for x, y in zip(v.distances, nearest))
            milliseconds = [1000 * r.seconds / r.steps for r in v.runs if r.steps]
            lines.append(f"{v.name:14} {v.config.optimizer:4} {rate:>7} {spread(v.distances):>13} "
                         f"{first:3}/{len(seeds)} {spread(v.areas, 4):>13} "
                         f"{ends([r.final for r in v.runs])} {spread(milliseconds, 0):>9}")
        lines.append("")
    for title in ("target", "retrain"):
        lines.append(f"{title:61} {ends([getattr(found[s], title) for s in seeds])}")
    return "\n".join(lines)


def act(comparison):
    config, seeds, names = comparison
    found, some, t0 = all_references(config, seeds), variants(config, names), time.time()
    run_all("compare", some, found, seeds)
    some.sort(key=lambda v: np.mean(v.distances))
    text = (f"{table(some, found, seeds)}\n\n{len(some) * len(seeds)} runs, "
            f"{time.time() - t0:.0f} s after the models were trained")
    print("\n" + text)
    paths = {(v.name, v.config.optimizer, v.config.level): [
        tradeoff.shares(r.path, found[s].enough) for r, s in zip(v.runs, seeds)] for v in some}
    shared.write(config.out, {
        "table.txt": text + "\n",
        "compare.json": {"config": asdict(config), "seeds": seeds,
                         "references": {s: r._asdict() for s, r in found.items()},
                         "variants": [asdict(v) | {"runs": [r._asdict() for r in v.runs]}
                                      for v in some]},
        "tradeoff.png": report.png(tradeoff.draw(paths, list(METHODS)))})


def main(argv=None):
    return flags.command(ready, act, argv)


if __name__ == "__main__":
    sys.exit(main())
