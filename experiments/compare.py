"""How good is each method, plain and with the level? python -m experiments.compare --seeds 5

Every method, with SGD and with Adam, starts from the same target models (seeds 0, 1, ...). Ranked
by the distance to the retrained model (tradeoff.py). Prints the table, and writes table.txt,
compare.json and tradeoff.png into --out (default: out/compare). README.md says how the learning
rates were chosen and what the columns mean. All other flags are those of train.py.
"""
import time
from dataclasses import asdict, dataclass, field, replace

import numpy as np

import train
from experiments import shared, tradeoff
from experiments.tradeoff import LEVELS
from harness import flags, report

METHODS = {                                         # name: settings
    "ngdiff, AutoLR": dict(method="ngdiff", lazy=10), "ngdiff, fixed": dict(method="ngdiff"),
    "gdiff 0.9": dict(method="gdiff", c=0.9), "gdiff 0.5": dict(method="gdiff", c=0.5),
    "gdiff 0.1": dict(method="gdiff", c=0.1), "lossnorm": dict(method="lossnorm"),
    "pcgrad": dict(method="pcgrad"), "mgda": dict(method="mgda"), "npo": dict(method="npo"),
    "ga": dict(method="ga"), "retain": dict(method="retain")}
TUNING_SEED = 100                                   # see rates.py; --seeds stays below it
TAKEN = ("method", "optimizer", "lr", "lazy", "c", "seed", "level")      # set here


@dataclass
class Variant:
    """A method with an optimizer, plain or with the level, and its results."""
    name: str
    config: train.Config
    runs: list = field(default_factory=list)        # tradeoff.Outcomes, a seed each
    distances: list = field(default_factory=list)
    areas: list = field(default_factory=list)


def ready(argv):
    """({level: Config}, the Runs of `prepare`, names of METHODS). ValueError on a mistake."""
    parser = shared.parser("compare", __doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    only(parser)
    own, others = parser.parse_known_args(argv)
    flags.check_bound("seeds", own.seeds)
    configs = both(["--out", "out/compare", *others], __doc__)
    return configs, prepare(configs, range(own.seeds)), own.only


def both(argv, doc):
    """{level: the Config of the flags argv}, plain and with --level, which has defaults of its
    own. ValueError on a mistake."""
    return {level: shared.parse([*argv, "--level", level] if level else argv,
                                () if level else TAKEN, doc) for level in LEVELS}


def only(parser):
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=METHODS, metavar="NAME",
                        help=f"some of the methods: {'; '.join(METHODS)}")


def prepare(configs, seeds):
    """{seed: {level: train.Run}}. ValueError on a mistake."""
    runs = {}
    for seed in seeds:
        runs[seed] = {level: train.prepare(replace(config, seed=seed))
                      for level, config in configs.items()}
        shared.questions_only(runs[seed][""])
    return runs


def all_references(runs):
    """{seed: its tradeoff.References}, its models trained into the cache."""
    plain = [some[""] for some in runs.values()]
    shared.train_models(plain)
    done = shared.results("measure", tradeoff.references, plain)
    return {seed: tradeoff.References(*x) for seed, x in zip(runs, done)}


def variants(configs, names):
    """The methods `names` as Variants: with both optimizers, plain and (if the method can) with the
    level, at the rates of flags.RATES."""
    some = []
    for name in names:
        for level, config in configs.items():
            for optimizer in ("sgd", "adam"):
                own = replace(config, **{"lazy": 0, **METHODS[name]}, optimizer=optimizer)
                if not level or own.method not in flags.NO_LEVEL:
                    own.lr = flags.default_rate(own)
                    some.append(Variant(name, own))
    return some


def run_all(title, some, found, runs):
    """Run each of the Variants on each seed: set its `runs`, `distances` and `areas`. found:
    {seed: References}; runs: see `prepare`."""
    done = iter(shared.results(title, tradeoff.outcome, [
        one[v.config.level]._replace(config=replace(
            v.config, seed=seed, batch=one[v.config.level].config.batch))
        for v in some for seed, one in runs.items()]))
    for v in some:
        v.runs = [tradeoff.Outcome(*next(done)) for _ in runs]
        v.distances = [tradeoff.distance(r.final, found[s]) for r, s in zip(v.runs, runs)]
        v.areas = [tradeoff.area(*tradeoff.shares(r.path, found[s].enough))
                   for r, s in zip(v.runs, runs)]


COLUMNS = {"retain_rouge": 3, "world_rouge": 3, "forget_rouge": 3, "membership_auc": 3,
           "log10_forget_quality": 2}          # of a run's end, with their digits


def spread(values, digits=3):
    """Mean and standard deviation over the seeds; - where there is no value."""
    if not (values := [v for v in values if v is not None]):
        return "-"
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.{digits}f}±{deviation:.{digits}f}"


def ends(models):
    """The table's cells of COLUMNS; models: `measuring.summary` of each, or None."""
    return " ".join(f"{spread([m.get(k) for m in models if m], digits):>13}"
                    for k, digits in COLUMNS.items())


def table(some, found):
    """One line a Variant, the plain ones first; found: {seed: References}."""
    lines = []
    for level in LEVELS:
        group = [v for v in some if v.config.level == level]
        nearest = np.min([v.distances for v in group], axis=0) if group else []
        lines.append(f"{'with the level' if level else 'plain':14} {'opt':4} {'lr':>7} "
                     f"{'distance':>13} {'first':>5} {'area':>13} "
                     + " ".join(f"{k.replace('log10_forget_', 'log10 ').replace('_', ' '):>13}"
                                for k in COLUMNS))
        for v in group:
            rate = "fitted" if v.config.lazy else f"{v.config.lr:g}"
            first = sum(x == y < 1 for x, y in zip(v.distances, nearest))
            lines.append(f"{v.name:14} {v.config.optimizer:4} {rate:>7} {spread(v.distances):>13} "
                         f"{first:3}/{len(found)} {spread(v.areas, 4):>13} "
                         f"{ends([r.final for r in v.runs])}")
        lines.append("")
    for title in ("target", "retrain"):
        lines.append(f"{title:61} {ends([getattr(r, title) for r in found.values()])}")
    return "\n".join(lines)


def act(comparison):
    """Run every variant on every seed; print, write and draw the comparison."""
    configs, runs, names = comparison
    config = configs[""]
    found, some, t0 = all_references(runs), variants(configs, names), time.monotonic()
    run_all("compare", some, found, runs)
    some.sort(key=lambda v: np.mean(v.distances))
    text = (f"{table(some, found)}\n\n{len(some) * len(runs)} runs, "
            f"{time.monotonic() - t0:.0f} s after the models were trained")
    print("\n" + text)
    paths = {(v.name, v.config.optimizer, v.config.level): [
        tradeoff.shares(r.path, found[s].enough) for r, s in zip(v.runs, runs)] for v in some}
    shared.write(config.out, {
        "table.txt": text + "\n",
        "compare.json": {"config": asdict(config), "seeds": list(runs),
                         "references": {s: r._asdict() for s, r in found.items()},
                         "variants": [asdict(v) | {"runs": [r._asdict() for r in v.runs]}
                                      for v in some]},
        "tradeoff.png": report.png(tradeoff.draw(paths, list(METHODS)))})


def main(argv=None):
    flags.command(ready, act, argv)


if __name__ == "__main__":
    main()
