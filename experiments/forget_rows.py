"""Where does each forget row end, plain and with --level?

    python -m experiments.forget_rows --tiny

Takes train.py's flags and makes the run twice: plain, and with --level. Prints lowest, median and
highest loss of the forget rows under each model, and of the holdout rows, which no model has seen.
Writes forget_rows.png into --out: a point a row, on the left the row that the target knows best,
and the holdout rows' mean.
"""
import os
import sys

import numpy as np
from matplotlib.figure import Figure

import train
from harness import files, flags, measuring, report


def row_losses(model, examples):
    """Each row's mean loss, nats per answer token, (N,)."""
    return np.array([x.mean() for x in measuring.token_losses(model, examples)])


def ready(argv):
    """The plain run and the one with the level, which have the same data and models."""
    return train.ready(argv), train.ready([*argv, "--level"])


def draw(losses):
    """A Figure. losses: {name: (forget rows (N,), holdout rows (M,))}."""
    fig = Figure(figsize=(8, 4), layout="constrained")
    ax = fig.subplots()
    first = next(iter(losses.values()))                       # the target's: they order the rows
    for i, pair in enumerate(losses.values()):
        for values, known, at, color, label in zip(
                pair, first, (i - 0.15, i + 0.15), ("tab:red", "tab:gray"),
                ("forget rows", "holdout rows")):
            ax.plot(at + np.linspace(-0.1, 0.1, len(values)), values[np.argsort(known)], ".",
                    color=color, alpha=0.6, label=None if i else label)
        ax.plot([i - 0.35, i + 0.35], [pair[1].mean()] * 2, color="black", lw=1,
                label=None if i else "holdout rows' mean")
    ax.set(yscale="log", ylabel="loss of a row, nats per token",
           title="Each forgotten row's loss, beside rows that were never seen")
    ax.set_xticks(range(len(losses)), losses)
    ax.legend(fontsize=8)
    return fig


def act(runs):
    plain, level = runs
    states = train.both_models(plain)
    target = states["target"].model
    models = {"target": target, "retrained": states["retrain"].model,
              f"{plain.config.method}, plain": train.unlearned(plain, target).model,
              f"{plain.config.method}, level": train.unlearned(level, target).model}
    losses = {name: tuple(row_losses(m, plain.examples[k]) for k in ("forget", "holdout"))
              for name, m in models.items()}
    print(f"{'nats per token':18} {'forget: lowest':>14} {'median':>12} {'highest':>12} "
          f"{'holdout mean':>14}")
    for name, (forget, holdout) in losses.items():
        print(f"{name:18} {forget.min():14.3f} {np.median(forget):12.3f} {forget.max():12.3f} "
              f"{holdout.mean():14.3f}")
    files.write(plain.config.out, {"forget_rows.png": report.png(draw(losses), 90)})
    print(f"written to {os.path.join(plain.config.out, 'forget_rows.png')}")


def main(argv=None):
    return flags.command(ready, act, argv)


if __name__ == "__main__":
    sys.exit(main())
