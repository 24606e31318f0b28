"""Which settings matter for AutoLR? python -m experiments.ablate NAME [flags of train.py]

NAME is lazy, lr, batch, steps, forget or size: one setting takes several values, everything else is
as the flags say. Prints a table with a line a value, and writes table.txt and ablate.json into
--out (default: out/ablate-NAME). Runs share the machine, each with one thread.
"""
import sys
from dataclasses import replace
from typing import NamedTuple

import numpy as np

import train
from experiments import shared
from experiments.forget_rows import row_losses
from harness import flags, measuring, report

CASES = {
    "lazy": [dict(lazy=n) for n in (1, 5, 10, 50)],
    "lr": [dict(lr=10.0 ** n) for n in range(-6, 2)],
    "batch": [dict(batch=n) for n in (8, 27, 54, 108, 216, 432)],
    "steps": [dict(steps=n) for n in (80, 160, 320)],
    "forget": [dict(forget=f) for f in ("forget01", "forget05", "forget10")],
    "size": [dict(n_layer=n, n_embd=c) for n, c in ((1, 64), (2, 128), (4, 192))],
}
OTHER_MODELS = ("forget", "size")       # each of their values needs models of its own
MEASURES = ("retain_rouge", "retain_prob", "world_rouge", "forget_rouge", "membership_auc",
            "log10_forget_quality", "row_low", "row_high")


class Ablation(NamedTuple):
    """What is to be run."""
    name: str
    out: str
    configs: list        # a train.Config for each of CASES[name]


def ready(argv):
    """The command line, checked. ValueError on a mistake."""
    parser = shared.parser("ablate", __doc__)
    parser.epilog = "All other flags are those of train.py."
    parser.add_argument("name", metavar="NAME", choices=list(CASES))
    name = parser.parse_args(argv[:1]).name
    taken = {key for case in CASES[name] for key in case} | {"method", "autolr"}
    config = shared.parse(["--out", f"out/ablate-{name}", *argv[1:]], sorted(taken), __doc__)
    configs = [replace(config, **case) for case in CASES[name]]
    for each, case in zip(configs, CASES[name]):
        flags.check(each, case)
        shared.questions_only(train.prepare(each))
    return Ablation(name, config.out, configs)


def unlearn_one(config):
    """One run, and what it came to: a dict of steps, fits, lr (the last one), seconds, the
    retrained model's forget ROUGE, and under `final` the MEASURES; where the numbers ran away,
    `ran away` alone. row_low, row_high: the lowest and the highest loss of a forget row, as a
    multiple of the holdout rows' mean."""
    run = train.prepare(config)
    models = shared.models_of(run)
    unseen = shared.reference(run, models["retrain"])
    try:
        state = train.unlearned(run, models["target"])
        final = measuring.summary(report.evaluate(state.model, run.tokenizer, run.rows), unseen)
    except FloatingPointError as e:
        return {"ran away": str(e)}
    if config.level:
        rows = row_losses(state.model, run.examples["forget"]) / final["holdout_loss"]
        final |= {"row_low": rows.min(), "row_high": rows.max()}
    return {"steps": state.step, "fits": sum(row["fits"] or 0 for row in state.log),
            "lr": state.optimizer["lr"], "seconds": state.seconds,
            "retrain_forget_rouge": float(np.mean(unseen["forget"]["rouge"])),
            "final": {k: float(final[k]) for k in MEASURES if k in final}}


def table(name, results):
    """One line a value; the columns are those of the README."""
    lines = [f"{name:>24} {'steps':>5} {'fits':>4} {'last lr':>8} "
             + " ".join(f"{k.replace('log10_forget_', 'log10 '):>14}" for k in MEASURES)
             + f" {'(retrain forget_rouge)':>22} {'s':>6}"]
    for case, r in zip(CASES[name], results):
        value = " ".join(f"{k} {v:g}" if not isinstance(v, str) else v for k, v in case.items())
        if "ran away" in r:
            lines.append(f"{value:>24} {r['ran away']}")
            continue
        cells = " ".join(f"{r['final'][k]:14.3f}" if k in r["final"] else f"{'-':>14}"
                         for k in MEASURES)
        lines.append(f"{value:>24} {r['steps']:5} {r['fits']:4} {r['lr']:8.3g} {cells} "
                     f"{r['retrain_forget_rouge']:22.3f} {r['seconds']:6.1f}")
    return "\n".join(lines)


def act(ablation):
    name, configs = ablation.name, ablation.configs
    shared.train_models(configs if name in OTHER_MODELS else configs[:1])
    results = shared.run_all("ablate", unlearn_one, [(config,) for config in configs])
    text = table(name, results)
    print("\n" + text)
    shared.write(ablation.out, {
        "table.txt": text + "\n",
        "ablate.json": [case | r for case, r in zip(CASES[name], results)]})


def main(argv=None):
    return flags.command(ready, act, argv)


if __name__ == "__main__":
    sys.exit(main())
