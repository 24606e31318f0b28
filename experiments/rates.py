"""Which fixed learning rate suits each method? python -m experiments.rates

For every method except `retain`, which forgets nothing: tries half, once and twice its rate in
harness/flags.py on seed 100, until the best rate has a worse one on either side. The best run is
the one that ends nearest to the retrained model (tradeoff.py); if all lost too much to count, the
one with the largest area. Prints the rates tried, with distance and area, and a
new flags.RATES. All flags but --only are those of train.py.
"""
from dataclasses import replace

from experiments import compare, shared
from harness import flags

ROUNDS = 6           # at most; each tries one more rate a method


def ready(argv):
    """As `compare.ready`, on the one seed."""
    parser = shared.parser("rates", __doc__)
    compare.only(parser)
    own, others = parser.parse_known_args(argv)
    configs = compare.both(others, __doc__)
    names = [n for n in own.only if n not in ("ngdiff, AutoLR", "retain")]
    return configs, compare.prepare(configs, [compare.TUNING_SEED]), names


def wanted(v, tried):
    """The rates to try next for the Variant v: neighbours of the best one that are not `tried`."""
    best = best_rate(tried) if tried else v.config.lr
    return [lr for lr in (best / 2, best, best * 2) if lr not in tried]


def best_rate(tried):
    """tried: {rate: (distance, area)}."""
    return min(tried, key=lambda lr: (tried[lr][0], -tried[lr][1]))


def act(tuned):
    """Search each method's best rate; print and write the table."""
    configs, runs, names = tuned
    found, some = compare.all_references(runs), compare.variants(configs, names)
    tried = [{} for _ in some]
    for _ in range(ROUNDS):
        new = [(lr, of, compare.Variant(v.name, replace(v.config, lr=lr)))
               for v, of in zip(some, tried) for lr in wanted(v, of)]
        if new:
            compare.run_all("rates", [v for *_, v in new], found, runs)
        for lr, of, v in new:
            of[lr] = v.distances[0], v.areas[0]
    rates = {}
    for v, of in zip(some, tried):
        print(f"{v.name:13} {'level' if v.config.level else 'plain'} {v.config.optimizer:4}  "
              + "  ".join(f"{lr:g}: {d:.3f} {a:.3f}" for lr, (d, a) in sorted(of.items())))
        rates.setdefault(v.name.split(",")[0], []).append(best_rate(of))
    print("\n" + "\n".join(f'"{name}": ({", ".join(f"{lr:g}" for lr in of)}),'
                           for name, of in rates.items()))


def main(argv=None):
    flags.command(ready, act, argv)


if __name__ == "__main__":
    main()
