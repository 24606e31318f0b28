"""What does each of the two norms do? Drop one of them and look: python -m experiments.norms

NGDiff divides both gradients by their norms. The same run (train.py --tiny, its flags are taken)
is made three times: as it is, without the forget norm, and without the retain norm. Writes
norms.png into --out. In the figure: the two losses and the learning rate that AutoLR finds.
"""
import copy
import os
import sys

from matplotlib.figure import Figure

import ngdiff
import train
from harness import files, flags, measuring, report, stages

VARIANTS = {      # a, b of d = a g_R - b g_F
    "NGDiff: both norms": lambda n: (1 / n.norm_retain, 1 / n.norm_forget),
    "forget norm dropped": lambda n: (1 / n.norm_retain, 1.0),
    "retain norm dropped": lambda n: (1.0, 1 / n.norm_forget)}


def run_one(run, target, weigh):
    """(log, ROUGE-L recall by set) of a run whose a, b are weigh(numbers)."""
    state, original = stages.State(copy.deepcopy(target)), ngdiff.coefficients
    ngdiff.coefficients = lambda method, numbers, c: weigh(numbers)
    try:
        for _ in train.unlearn(state, target, run.examples, run.config):
            pass
    except FloatingPointError:
        pass                                       # the log ends there, and the figure with it
    finally:
        ngdiff.coefficients = original
    rouge = {}
    for name in ("retain", "forget"):
        m = measuring.measure(state.model, run.tokenizer, run.rows[name])
        rouge[name] = sum(m["rouge"]) / len(m["rouge"])
    return state.log, rouge


def draw(logs):
    """A Figure with a column a variant: the losses above, the learning rate below."""
    fig = Figure(figsize=(12, 5), layout="constrained")
    axes = fig.subplots(2, len(logs), sharex=True, sharey="row")
    for (name, (log, rouge)), (above, below) in zip(logs.items(), axes.T):
        steps = [row["step"] for row in log]
        for key, color in (("loss_retain", "tab:blue"), ("loss_forget", "tab:red")):
            above.plot(steps, [row[key] for row in log], color=color, label=key)
        below.plot(steps, [row["lr"] for row in log], color="tab:green", label="learning rate")
        for status, marker in report.STATUSES:
            if some := [row for row in log if row["status"] == status]:
                below.plot([row["step"] for row in some], [row["lr"] for row in some], marker,
                           color="tab:green", ms=5, label=f"AutoLR: {status}")
        above.set(title=f"{name}\nROUGE: retain {rouge['retain']:.2f}, forget "
                  f"{rouge['forget']:.2f}", yscale="log")
        below.set(xlabel="step", yscale="log")
        below.legend(fontsize=8)
    axes[0, 0].set_ylabel("nats per token")
    axes[1, 0].set_ylabel("lr")
    axes[0, 0].legend(fontsize=8)
    return fig


def act(run):
    target = train.both_models(run)["target"].model
    logs = {name: run_one(run, target, weigh) for name, weigh in VARIANTS.items()}
    for name, (log, rouge) in logs.items():
        print(f"{name:22} retain ROUGE {rouge['retain']:.3f}  forget ROUGE {rouge['forget']:.3f}  "
              f"last lr {log[-1]['lr']:.3g}  AutoLR: "
              + ", ".join(row["status"] for row in log if row["status"]))
    files.write(run.config.out, {"norms.png": report.png(draw(logs), 80)})
    print(f"written to {os.path.join(run.config.out, 'norms.png')}")


def main(argv=None):
    return flags.command(train.ready, act, argv)


if __name__ == "__main__":
    sys.exit(main())
