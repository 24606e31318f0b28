"""Which settings matter for AutoLR? python -m experiments.ablate NAME [flags of train.py]

NAME is lazy, lr, batch, steps, forget or size: this setting takes several values, all others are as
the flags say. Prints a table with a line a value, and writes table.txt and ablate.json into
--out (default: out/ablate-NAME).
"""
from dataclasses import replace

import numpy as np

import train
from experiments import shared
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


def ready(argv):
    """(NAME, --out, a train.Run for each of CASES[NAME]). ValueError on a mistake."""
    parser = shared.parser("ablate", __doc__)
    parser.add_argument("name", metavar="NAME", choices=list(CASES))
    name = parser.parse_args(argv[:1]).name
    taken = {key for case in CASES[name] for key in case} | {"method"}
    config = shared.parse(["--out", f"out/ablate-{name}", *argv[1:]], sorted(taken), __doc__)
    run, runs = train.prepare(config), []
    shared.questions_only(run)
    for case in CASES[name]:
        flags.check(replace(config, **case), case)
        runs.append(train.prepare(replace(config, **case)) if name in OTHER_MODELS else
                    run._replace(config=replace(run.config, **case)))
    return name, config.out, runs


def unlearn_one(run, trained):
    """The numbers of one line of the table, as a dict; under `final` the MEASURES at the run's end.
    row_low, row_high: the lowest and the highest loss of a forget row, as a multiple of the holdout
    rows' mean. If the numbers ran away, only `ran away`."""
    unseen = shared.reference(run, trained["retrain"].model)
    try:
        stage = train.unlearned(run, trained["target"])
        final = measuring.summary(report.evaluate(stage.model, run.tokenizer, run.rows), unseen)
    except FloatingPointError as e:
        return {"ran away": str(e)}
    if run.config.level:
        rows = measuring.measure_losses(stage.model, run.examples["forget"])["loss"]
        final |= {"row_low": min(rows) / final["holdout_loss"],
                  "row_high": max(rows) / final["holdout_loss"]}
    return {"steps": stage.step, "fits": sum(row["fits"] or 0 for row in stage.log),
            "lr": stage.log[-1]["lr"] if stage.log else run.config.lr, "seconds": stage.seconds,
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
    """Unlearn with each value; print and write the table."""
    name, out, runs = ablation
    shared.train_models(runs if name in OTHER_MODELS else runs[:1])
    results = shared.results("ablate", unlearn_one, runs)
    text = table(name, results)
    print("\n" + text)
    shared.write(out, {
        "table.txt": text + "\n",
        "ablate.json": [{"case": case} | r for case, r in zip(CASES[name], results)]})


def main(argv=None):
    flags.command(ready, act, argv)


if __name__ == "__main__":
    main()
