"""How good is each method, and with how much tuning? python -m experiments.compare --seeds 5

Every method, with SGD and with Adam, starts from the same target models (seeds 0, 1, ...). It runs
until it has forgotten as much as the retrained model. A baseline runs at the best of a few learning
rates, chosen on seed 100, which is never reported; NGDiff with AutoLR has nothing to choose. Ranked
by area (tradeoff.py). Prints the table, and writes table.txt, compare.json and tradeoff.png into
--out (default: out/compare). README.md says what the columns mean.
"""
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np

import train
from experiments import shared, tradeoff
from harness import flags, report

TUNING_SEED = 100
ADAM, ADAM_LARGE = (1e-4, 3e-4, 1e-3), (3e-4, 1e-3, 3e-3)
METHODS = {             # name: (flags, learning rates to choose from with SGD, and with Adam)
    "ngdiff, AutoLR": (dict(method="ngdiff", autolr=True), None, None),
    "ngdiff, fixed": (dict(method="ngdiff"), (0.03, 0.06, 0.1), ADAM),
    "gdiff 0.9": (dict(method="gdiff", c=0.9), (0.5, 0.7, 1.0), ADAM),
    "gdiff 0.5": (dict(method="gdiff", c=0.5), (0.05, 0.07, 0.1), ADAM),
    "gdiff 0.1": (dict(method="gdiff", c=0.1), (0.02, 0.03, 0.06), ADAM),
    "lossnorm": (dict(method="lossnorm"), (0.01, 0.03, 0.05), ADAM_LARGE),
    "pcgrad": (dict(method="pcgrad"), (0.03, 0.05, 0.1), ADAM),
    "mgda": (dict(method="mgda"), (2.0, 3.0, 5.0), ADAM_LARGE),
    "npo": (dict(method="npo"), (0.003, 0.004, 0.006), ADAM),
    "ga": (dict(method="ga"), (0.02, 0.03, 0.06), ADAM),
    "retain": (dict(method="retain"), (0.3,), (1e-4,)),      # forgets nothing to choose by
}
TAKEN = ("method", "optimizer", "lr", "autolr", "c", "seed", "level")    # set here


class Comparison(NamedTuple):
    """What is to be run."""
    config: train.Config
    seeds: list


@dataclass
class Variant:
    """A method with an optimizer, and what came of it."""
    name: str
    optimizer: str
    config: train.Config
    rates: dict                                     # {learning rate: its area on TUNING_SEED}
    runs: list = field(default_factory=list)        # tradeoff.Outcomes, a seed each
    areas: list = field(default_factory=list)


def ready(argv):
    """The command line, checked. ValueError on a mistake."""
    parser = shared.parser("compare", __doc__)
    parser.epilog = "All other flags are those of train.py."
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    own, others = parser.parse_known_args(argv)
    if not 1 <= own.seeds <= TUNING_SEED:
        raise ValueError(f"--seeds {own.seeds}: must be from 1 to {TUNING_SEED}")
    config = shared.parse(["--out", "out/compare", *others], TAKEN, __doc__)
    shared.questions_only(train.prepare(config))
    return Comparison(replace(config, autolr=False), list(range(own.seeds)))


# --------------------------------------------------------------------------- the runs

def all_references(config, seeds):
    """{seed: its tradeoff.References}, its models trained into the cache."""
    configs = [replace(config, seed=seed) for seed in seeds]
    shared.train_models(configs)
    done = shared.run_all("measure", shared.kept, [(c, tradeoff.references) for c in configs])
    return {seed: tradeoff.References(*x) for seed, x in zip(seeds, done)}


def variants(config):
    """Every method with both optimizers, its rates not yet tried."""
    return [Variant(name, optimizer, replace(config, optimizer=optimizer, **its_flags),
                    dict.fromkeys(rates or [config.lr]))
            for name, (its_flags, *grids) in METHODS.items()
            for optimizer, rates in zip(("sgd", "adam"), grids)]


def choose_rates(some, enough):
    """Run each of the Variants `some` at each of its rates on TUNING_SEED; set its `rates`, and its
    config to the best."""
    jobs = [(replace(v.config, lr=lr, seed=TUNING_SEED), tradeoff.path_alone, enough)
            for v in some for lr in v.rates]
    done = iter(shared.run_all("rates", shared.kept, jobs))
    for v in some:
        v.rates = {lr: tradeoff.area(next(done), enough) for lr in v.rates}
        v.config = replace(v.config, lr=max(v.rates, key=v.rates.get))


def run_seeds(some, found, seeds):
    """Run each of the Variants on each seed: set its `runs` and `areas`. found: References."""
    jobs = [(replace(v.config, seed=seed), tradeoff.outcome, found[seed].enough)
            for v in some for seed in seeds]
    done = iter(shared.run_all("compare", shared.kept, jobs))
    for v in some:
        v.runs = [tradeoff.Outcome(*next(done)) for _ in seeds]
        v.areas = [tradeoff.area(r.path, found[s].enough) for r, s in zip(v.runs, seeds)]


# --------------------------------------------------------------------------- what is shown

COLUMNS = {"forget_rouge": 3, "retain_rouge": 3, "model_utility": 3, "log10_forget_quality": 2,
           "membership_auc": 3}          # of a run's end, with their digits


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


def in_region(outcome, references):
    """Whether the run met the aim: next to nothing of the retained rows is lost, and no more is
    known of the forgotten ones than the retrained model knows."""
    m = outcome.final
    return m is not None and m["retain_rouge"] >= 0.97 and \
        m["forget_rouge"] <= references.retrain["forget_rouge"]


def table(some, found, seeds):
    """One line a Variant. The columns are those of README.md."""
    n, best = len(seeds), np.max([v.areas for v in some], axis=0)
    lines = [f"{'method':14} {'opt':4} {'lr':>7} {'rates':>5} {'area':>13} {'first':>5} "
             f"{'region':>6} {'equal':>5} {'steps':>9} "
             + " ".join(f"{k.replace('log10_forget_', 'log10 ').replace('_', ' '):>13}"
                        for k in COLUMNS) + f" {'ms a step':>9}"]
    for v in some:
        fitted, edges = v.config.autolr, [list(v.rates)[i] for i in (0, -1)]
        edge = "*" if len(v.rates) > 1 and v.config.lr in edges else ""
        equal = sum(r.path[-1][1] <= found[s].enough for r, s in zip(v.runs, seeds))
        region = sum(in_region(r, found[s]) for r, s in zip(v.runs, seeds))
        milliseconds = [1000 * r.seconds / r.steps for r in v.runs if r.steps]
        lines.append(
            f"{v.name:14} {v.optimizer:4} {'fitted' if fitted else f'{v.config.lr:g}{edge}':>7} "
            f"{0 if fitted else len(v.rates):5} {spread(v.areas, 4):>13} "
            f"{np.sum(v.areas == best):3}/{n} {region:4}/{n} {equal:3}/{n} "
            f"{spread([r.steps for r in v.runs if r.final], 0):>9} "
            f"{ends([r.final for r in v.runs])} {spread(milliseconds, 0):>9}")
    for title in ("target", "retrain"):
        lines.append(f"{title:73} {ends([getattr(found[s], title) for s in seeds])}")
    return "\n".join(lines)


def act(comparison):
    config, seeds, t0 = *comparison, time.time()
    found, some = all_references(config, [TUNING_SEED, *seeds]), variants(config)
    choose_rates(some, found[TUNING_SEED].enough)
    run_seeds(some, found, seeds)
    some.sort(key=lambda v: -np.mean(v.areas))
    text = (f"{table(some, found, seeds)}\n\n{sum(len(v.rates) for v in some)} runs on seed "
            f"{TUNING_SEED}, {len(some) * len(seeds)} runs reported, {time.time() - t0:.0f} s")
    print("\n" + text)
    paths = {(v.name, v.optimizer): [tradeoff.shares(r.path, found[s].enough)
                                     for r, s in zip(v.runs, seeds)] for v in some}
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
