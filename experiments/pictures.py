"""What happens inside a run? python -m experiments.pictures NAME --tiny

NAME is one of three. Each takes train.py's flags, prints numbers and writes a picture into --out:
  norms   NGDiff as it is, without the forget norm, and without the retain norm
  rows    where each forget row ends, plain and with --level, beside holdout rows; the rows that the
          target knows best are on the left
  swing   the best rate along d at every fifth step: on the step's own retain batch, with AutoLR's
          probes and with narrower ones; and on all retain rows
"""
import copy

import numpy as np
from matplotlib.figure import Figure

import metrics
import ngdiff
import train
from experiments import audit, shared
from harness import flags, measuring, report

VARIANTS = {      # a, b of d = a g_R - b g_F
    "NGDiff: both norms": lambda n: (1 / n.norm_retain, 1 / n.norm_forget),
    "forget norm dropped": lambda n: (1 / n.norm_retain, 1.0),
    "retain norm dropped": lambda n: (1.0, 1 / n.norm_forget)}


def ready(argv):
    """(NAME, [the Run], for rows also the one with --level). ValueError on a mistake."""
    parser = shared.parser("pictures", __doc__)
    parser.add_argument("name", metavar="NAME", choices=PICTURES)
    name = parser.parse_args(argv[:1]).name
    taken = () if name == "rows" else ("method", "optimizer", "level", "dtype")
    return name, [train.prepare(shared.parse([*argv[1:], *more], taken, __doc__))
                  for more in ([], ["--level"])[:1 + (name == "rows")]]


def follow(run, target, weigh, every=0):
    """(log, model) of NGDiff's steps on a copy of `target`, with a, b = weigh(Numbers). The log
    ends where the numbers run away. Every `every` steps it includes `best_rates`."""
    model, config, lr, log = copy.deepcopy(target), run.config, run.config.lr, []
    params = ngdiff.movable(list(model.parameters()))
    everything = train.loss_functions(
        model, train.micro_batches(run.examples["retain"], config), config)
    batches = train.task_batches(run.examples, config, 0)
    for step in range(config.steps):
        retain, forget = (train.loss_functions(model, some, config) for some in next(batches))
        loss_R, g_R = ngdiff.loss_and_grad(retain, params)
        loss_F, g_F = ngdiff.loss_and_grad(forget, params)
        try:
            numbers = ngdiff.five_numbers(loss_R, g_R, loss_F, g_F)
        except FloatingPointError:
            break
        d = ngdiff.direction(g_R, g_F, *weigh(numbers))
        row = numbers._asdict() | {"step": step}
        if every and step and step % every == 0:
            row |= best_rates(retain, everything, params, d, lr)
        if config.lazy and step % config.lazy == 0:
            lr, fits = ngdiff.autolr(retain, params, d, numbers.loss_retain, lr,
                                     1 if step else ngdiff.FITS_AT_START)
            row["status"] = fits[-1].status
        ngdiff.update(params, d, lr)
        log.append(row | {"lr": lr})
    return log, model


def best_rates(retain, everything, params, d, lr):
    """The best rates along d on the step's own batch and on all retain rows; the probes are as wide
    as the rate of the step before, lr, or a quarter of it. None: there is no best one."""
    out = {}
    for name, losses, width in (("own batch", retain, lr), ("narrow", retain, lr / 4),
                                ("all rows", everything, lr)):
        minus, plus = ngdiff.probe(losses, params, d, width)
        slope, curvature = ngdiff.parabola(minus, ngdiff.loss_only(losses), plus, width)
        out[name] = slope / curvature if slope > 0 and curvature > 0 else None
        out.setdefault("curvature", curvature)
    return out


def plot(ax, log, styles, **settings):
    """Lines over the steps; styles: {column: matplotlib's format}."""
    for key, style in styles.items():
        ax.plot([row["step"] for row in log], [row[key] for row in log], style, ms=4, label=key)
    ax.set(xlabel="step", yscale="log", **settings)
    ax.legend(fontsize=8)


def norms(run):
    """A Figure: the run with both norms, without the forget norm, without the retain norm."""
    target, fig = train.train_both(run)["target"].model, Figure((12, 5), layout="constrained")
    axes = fig.subplots(2, len(VARIANTS), sharex=True, sharey="row")
    for (name, weigh), above, below in zip(VARIANTS.items(), *axes):
        log, model = follow(run, target, weigh)
        fits = ", ".join(row["status"] for row in log if row["status"])
        retain, forget = (audit.rouge(run, model, run.rows[k]) for k in ("retain", "forget"))
        print(f"{name:22} retain ROUGE {retain:.3f}  forget ROUGE {forget:.3f}  "
              f"last lr {log[-1]['lr']:.3g}  AutoLR: {fits}")
        plot(above, log, {"loss_retain": "C0", "loss_forget": "C3"}, ylabel="nats per token",
             title=f"{name}\nROUGE: retain {retain:.2f}, forget {forget:.2f}")
        plot(below, log, {"lr": "C2"}, ylabel="learning rate")
    return {"norms.png": report.png(fig, 80)}


def rows(plain, level):
    """Each forget row's loss under four models, beside the holdout rows': a table and a picture."""
    stages, method = train.train_both(plain), plain.config.method
    shown = {"target": stages["target"], "retrained": stages["retrain"],
             f"{method}, plain": train.unlearned(plain, stages["target"]),
             f"{method}, level": train.unlearned(level, stages["target"])}
    # The last column: forget quality's test, here of the forget rows against the holdout rows.
    print(f"{'nats per token':18} {'forget: lowest':>14} {'median':>12} {'highest':>12} "
          f"{'holdout mean':>14} {'alike, p':>10}")
    for name, stage in shown.items():
        forget, holdout = shown[name] = [
            np.array(measuring.measure_losses(stage.model, plain.examples[k])["loss"])
            for k in ("forget", "holdout")]
        print(f"{name:18} {forget.min():14.3f} {np.median(forget):12.3f} {forget.max():12.3f} "
              f"{holdout.mean():14.3f} {metrics.forget_quality(forget, holdout)[0]:10.2f}")
    return {"forget_rows.png": report.png(draw_rows(shown), 90)}


def draw_rows(losses):
    """A Figure. losses: {name: (forget rows' losses (N,), holdout rows' (M,))}; those of the first
    model, the target, order the rows."""
    fig = Figure((8, 4), layout="constrained")
    ax = fig.subplots()
    orders = [np.argsort(some) for some in next(iter(losses.values()))]
    for i, pair in enumerate(losses.values()):
        for some, order, at, style in zip(pair, orders, (i - 0.15, i + 0.15), ("C3.", "C7.")):
            ax.plot(at + np.linspace(-0.1, 0.1, len(some)), some[order], style, alpha=0.6)
        ax.plot([i - 0.35, i + 0.35], [pair[1].mean()] * 2, "k", lw=1)
    ax.set(yscale="log", ylabel="loss of a row, nats per token",
           title="Each forgotten row's loss, beside rows that were never seen")
    ax.set_xticks(range(len(losses)), losses)
    ax.legend(ax.lines[:3], ("forget rows", "holdout rows", "holdout rows' mean"), fontsize=8,
              loc="lower right")
    return fig


def swing(run):
    """Best rates along d, every fifth step of a plain run: a table and a picture."""
    target = train.train_both(run)["target"].model
    log, _ = follow(run, target, VARIANTS["NGDiff: both norms"], every=5)
    looks = [row for row in log if "narrow" in row]
    keys = "lr", "own batch", "narrow", "all rows", "curvature", "norm_retain"
    print("step" + "".join(f"{k:>13}" for k in keys))
    for x in looks:
        print(f"{x['step']:4}" + "".join(f"{x[k]:13.4f}" if x[k] else f"{'-':>13}" for k in keys))
    fig = Figure((11, 4), layout="constrained")
    left, right = fig.subplots(1, 2)
    plot(left, looks, {"lr": "k-", "own batch": "C0o-", "narrow": "C0:", "all rows": "C1s-"},
         title="Best rates along d, and lr, the rate taken")
    plot(right, looks, {"curvature": "o-", "norm_retain": "o-"},
         title="Curvature of L_R along d, norm of g_R")
    return {"swing.png": report.png(fig, 80)}


PICTURES = {"norms": norms, "rows": rows, "swing": swing}


def act(asked):
    """Draw the picture that was asked for."""
    name, runs = asked
    shared.write(runs[0].config.out, PICTURES[name](*runs))


def main(argv=None):
    flags.command(ready, act, argv)


if __name__ == "__main__":
    main()
