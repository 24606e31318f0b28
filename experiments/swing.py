"""Why does AutoLR's rate swing? Look along d at every fifth step: python -m experiments.swing

Takes train.py's flags and makes its run, which must be plain NGDiff with SGD. Before every fifth
step it finds the rate that is best along d, three times: on the step's own retain batch, with
probes as wide as AutoLR's; there again, with probes a quarter as wide; and on all retain rows.
Prints them beside the rate that the step takes, with the curvature of L_R along d and the retain
gradient's norm, and writes swing.png into --out.
"""
import copy
import os
import sys

from matplotlib.figure import Figure

import ngdiff
import train
from harness import files, flags, report, stages

EVERY = 5


def ready(argv):
    """The command line, checked. ValueError on a mistake."""
    run = train.ready(argv)
    if (run.config.method, run.config.optimizer, run.config.level) != ("ngdiff", "sgd", False):
        raise ValueError("--method, --optimizer, --level: this is about plain ngdiff with sgd")
    return run


def look(run, model, batch, lr):
    """The best rates along d at one point, without a step: a dict. batch: (retain, forget) Parts;
    lr: how wide the probes are."""
    own, forget = (train.losses(model, parts, run.config) for parts in batch)
    every = train.losses(model, train.split(run.examples["retain"], run.config), run.config)
    params = ngdiff.movable(model.parameters())
    loss_R, g_R = ngdiff.loss_and_grad(own, params)
    loss_F, g_F = ngdiff.loss_and_grad(forget, params)
    numbers = ngdiff.five_numbers(loss_R, g_R, loss_F, g_F)
    d = ngdiff.direction(g_R, g_F, *ngdiff.coefficients("ngdiff", numbers))
    out = {}
    for name, losses, width in (("own batch", own, lr), ("narrow", own, lr / 4),
                                ("all rows", every, lr)):
        minus, plus = ngdiff.probe(losses, params, d, width)
        slope, curvature = ngdiff.parabola(minus, ngdiff.loss_only(losses), plus, width)
        out[name] = slope / curvature if slope > 0 and curvature > 0 else None
        out.setdefault("curvature", curvature)
    return out


def follow(run, target):
    """The run's looks: a dict each, with the step's own numbers (`lr`, `norm_retain`, `step`)."""
    state, looks = stages.State(copy.deepcopy(target)), []
    steps = train.unlearn(state, target, run.examples, run.config)
    batches = train.task_batches(target, run.examples, run.config, 0)
    lr = run.config.lr
    for step in range(run.config.steps):
        batch = next(batches)
        seen = look(run, state.model, batch, lr) if step and step % EVERY == 0 else None
        next(steps)
        lr = state.log[-1]["lr"]
        if seen:
            looks.append(seen | {k: state.log[-1][k] for k in ("step", "lr", "norm_retain")})
    return looks


def draw(looks):
    """A Figure: the rates on the left; the curvature and the gradient's norm on the right."""
    fig = Figure(figsize=(11, 4), layout="constrained")
    left, right = fig.subplots(1, 2)
    at = [x["step"] for x in looks]
    for key, style, label in (("lr", "k-", "rate taken"),
                              ("own batch", "C0o-", "best on the batch"),
                              ("narrow", "C0:", "the same, narrow probes"),
                              ("all rows", "C1s-", "best on all retain rows")):
        left.plot(at, [x[key] for x in looks], style, ms=4, label=label)
    left.set(title="Learning rates along d", yscale="log", xlabel="step", ylabel="lr")
    for key in ("curvature", "norm_retain"):
        right.plot(at, [x[key] for x in looks], "o-", ms=4, label=key)
    right.set(title="Curvature of L_R along d, norm of g_R", yscale="log", xlabel="step")
    for ax in (left, right):
        ax.legend(fontsize=8)
    return fig


def act(run):
    looks = follow(run, train.both_models(run)["target"].model)
    keys = "lr", "own batch", "narrow", "all rows", "curvature", "norm_retain"
    print("step" + "".join(f"{k:>13}" for k in keys))
    for x in looks:
        print(f"{x['step']:4}" + "".join(f"{x[k]:13.4f}" if x[k] else f"{'-':>13}" for k in keys))
    files.write(run.config.out, {"swing.png": report.png(draw(looks), 80)})
    print(f"written to {os.path.join(run.config.out, 'swing.png')}")


def main(argv=None):
    return flags.command(ready, act, argv)


if __name__ == "__main__":
    sys.exit(main())
