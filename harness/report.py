"""What a run shows: the table, the answers, the curves, and the files of the run folder."""
import csv
import io
import json
import os
import platform
import shutil
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import version

import torch

from harness import files, flags, measuring, muse, names, weights
from harness.llama import Llama
from harness.stages import kept

LOG_COLUMNS = ("step", "loss_retain", "loss_forget", "norm_retain", "norm_forget", "dot", "cos",
               "lr", "fits", "status", "probed", "slope", "curvature", "watched", "room",
               *measuring.LEVEL_COLUMNS)
LATER = ("audit.json", "audit.png")       # made from an earlier run in the same folder


def evaluate(model, tokenizer, rows):
    """`measuring.measure` on every set of rows, by its name. FloatingPointError if the model's
    losses are not finite."""
    try:
        if "verbmem" in rows:
            return muse.measure(model, tokenizer, rows)
        return {name: (measuring.measure if some[0]["question"] else muse.measure_texts)(
                    model, tokenizer, some) for name, some in rows.items()}
    except ValueError as e:
        raise FloatingPointError(f"measuring, {e}: try a smaller --lr") from None


def measured(run, stage):
    """`evaluate` of a stage's model: from the cache if it was measured before. It is measured with
    as many threads as the model was made with, so its numbers do not depend on who asks first."""
    made_of = names.ingredients((evaluate, type(stage.model)), run.config, run.rows,
                                model=stage.name, step=stage.step)
    path = os.path.join(run.config.cache, f"measured-{names.digest(made_of)}.json")
    threads = torch.get_num_threads()
    torch.set_num_threads(stage.made_of["threads"])
    try:
        return kept(path, evaluate, stage.model, run.tokenizer, run.rows)
    finally:
        torch.set_num_threads(threads)


# --------------------------------------------------------------------------- text

def aim(name, models=("target", "retrain")):
    """The ideal value of a measure, in words. models: those that were measured."""
    ideals = {"membership_auc": "0.5; below: over-forgotten", "forget_quality": "1",
              "privleak": "0; above: over-forgotten", "log10_forget_quality": "0"}
    if "retrain" in models and name.startswith(("forget_", "holdout_")):
        return ideals.get(name, "as retrain")
    return ideals.get(name, "as unseen rows" if name.startswith("forget_") else "as target")


def table(models, aims=True):
    """The results as text: one line a measure, one column a model, and what a good model has."""
    keys = list(dict.fromkeys(k for m in models.values() for k in m))
    width = max(22, *map(len, keys))
    lines = [f"{'':{width}}" + "".join(f"{name:>12}" for name in models) + "    ideal" * aims]
    for k in keys:
        cells = (f"{m[k]:12.4g}" if k in m else f"{'-':>12}" for m in models.values())
        lines.append(f"{k:{width}}" + "".join(cells) + f"    {aim(k, models)}" * aims)
    return "\n".join(lines)


def nothing_to_forget(target, unseen, where="for the retrained model; raise --epochs or --n_embd"):
    """A line to print if the target model does not know the forget rows better, by 5 points, than
    rows that were never seen; else "". target, unseen: `measuring.summary`; where: of the second.
    """
    # MUSE's published prompts end anywhere, so a small model may continue none of them.
    points = {"forget_windows": 1, "forget_verbmem": 1, "forget_rouge": 0.01, "forget_prob": 0.01}
    key = next((k for k in points if k in target and k in unseen), None)
    if key is None or target[key] - unseen[key] >= 5 * points[key]:
        return ""
    return (f"\nnothing to forget: {key} is {target[key]:.3g} for the target and "
            f"{unseen[key]:.3g} {where}\n")


def samples(measured, name, n=None):
    """Questions (or first halves of texts) of one set, with the gold answer (or second half) and
    every model's, as text."""
    out, first = [], next(iter(measured.values()))[name]
    for i, (prompt, gold) in enumerate(zip(first["prompts"][:n], first["gold"])):
        out.append(f"[{name}] {prompt}\n{'gold':>12}: {gold}")
        out += [f"{model:>12}: {m[name]['answers'][i]}" for model, m in measured.items()]
    return "\n".join(out)


def about(run, stages, weights_file):
    """config.json: the settings, what each model was made of, digests of rows, tokenizer and
    model.pt (its bytes), the versions and the commit."""
    # torch.__version__ tells the build too (2.13.0+cu130), which the package metadata leave out.
    return {**asdict(run.config), **asdict(run.initial.config), "threads": torch.get_num_threads(),
            "model_type": "llama" if isinstance(run.initial, Llama) else "gpt2",
            "rows": names.digest(run.rows), "tokenizer": names.digest(weights.told(run.tokenizer)),
            "model.pt": names.digest(weights_file), **commit(),
            "made_of": {title: stage.made_of for title, stage in stages.items()},
            "python": platform.python_version(), "torch": torch.__version__,
            **{name: version(name) for name in ("numpy", "matplotlib", "tiktoken")}}


def commit():
    """The commit of this repository and whether a file was edited since; {} outside of git, also
    where the project lies in another repository's folder."""
    def git(*words):
        done = subprocess.run(["git", "-C", names.ROOT, *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None
    if not shutil.which("git") or (top := git("rev-parse", "--show-toplevel")) is None or \
            os.path.realpath(top) != os.path.realpath(names.ROOT):
        return {}
    return {"commit": git("rev-parse", "HEAD"),
            "edited": git("status", "--porcelain", "--untracked-files=no") != ""}


def log_csv(log):
    """log.csv: one row a step; a cell is empty where the step has no such number."""
    out = io.StringIO()
    writer = csv.DictWriter(out, LOG_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(log)
    return out.getvalue()


# --------------------------------------------------------------------------- picture

STATUSES = (("fit", "o"), ("no convexity", "^"), ("no descent", "v"), ("not finite", "x"),
            ("not settled", "s"), ("no room", "D"))


def png(fig, dpi=100):
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=dpi)
    return out.getvalue()


def curves(log, models, method):
    """A Figure: losses with their reference levels, learning rate, norms, cosine, by step."""
    from matplotlib.figure import Figure      # here: it takes a second to load
    fig = Figure(figsize=(10, 7), layout="constrained")
    (ax_loss, ax_lr), (ax_norm, ax_cos) = fig.subplots(2, 2)
    column = lambda key, some=log: [row.get(key) for row in some]
    steps, levels = column("step"), [row for row in log if "levels" in row]
    draw_losses(ax_loss, log, column, levels, models, method)
    ax_lr.plot(steps, column("lr"), color="tab:green")
    for status, marker in STATUSES:
        if some := [row for row in log if row["status"] == status]:
            ax_lr.plot(column("step", some), column("lr", some), marker, ms=4, color="tab:green",
                       label=f"AutoLR: {status}")
    ax_lr.set(title="Learning rate", ylabel="lr", yscale="log")
    ax_norm.plot(steps, column("norm_retain"), color="tab:blue", label="retain")
    ax_norm.plot(steps, column("norm_forget"), color="tab:red", label="forget")
    ax_norm.set(title="Gradient norms", ylabel="norm over all parameters", yscale="log")
    ax_cos.plot(steps, column("cos"), color="tab:purple", label="cosine")
    ax_cos.axhline(1, color="tab:gray", ls=":", label="1: Pareto stationary")
    ax_cos.set(title="Cosine of the two gradients", ylabel="cos", ylim=(-1.05, 1.1))
    for ax in fig.axes:
        ax.set_xlabel("step")
        ax.xaxis.get_major_locator().set_params(integer=True)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)
    fig.suptitle(f"Unlearning with {method}" + (" and the level loss" if levels else ""))
    return fig


def draw_losses(ax, log, column, levels, models, method):
    """The losses of the batch. With the level loss the spread of the forget rows' losses and of the
    holdout rows' (their levels) takes the place of the objective."""
    steps = column("step")
    ax.plot(steps, column("loss_retain"), color="tab:blue", label="retain, to stay low")
    if fits := [row for row in log if row.get("room") is not None]:
        ax.plot(column("step", fits), column("watched", fits), ".-", color="tab:cyan",
                label="watched retain rows")
        ax.axhline(fits[0]["watched"] + fits[0]["room"], color="tab:cyan", ls="--", lw=1,
                   label="their budget")
    for name, color in (("holdout", "tab:gray"), ("forget", "tab:red")) if levels else ():
        low, middle, high = (column(f"{name}_{q}", levels) for q in (10, 50, 90))
        ax.plot(column("step", levels), middle, color=color, label=f"{name} rows, median")
        ax.fill_between(column("step", levels), low, high, color=color, alpha=0.2,
                        label=f"{name} rows, 80 % of them")
    if not levels:
        if method != "npo":                              # npo logs its own objective there
            ax.plot(steps, column("loss_forget"), color="tab:red", label="forget, to rise")
        if "retrain" in models:
            ax.axhline(models["retrain"]["forget_loss"], color="tab:red", ls="--", lw=1,
                       label="forget, retrained model")
        if "holdout_loss" in models[method]:
            ax.axhline(models[method]["holdout_loss"], color="tab:gray", ls=":",
                       label="holdout, unlearned model")
    ax.set(title="Losses", ylabel="nats per token", yscale="log")


# --------------------------------------------------------------------------- the run folder

def finish(run, stages, started):
    """Measure the models, fill the run folder, then print the table and some answers.

    run: train.Run; stages: the models' Stages by name, the unlearned one last; started: the
    monotonic time when the command began its work.
    """
    config, last, t0 = run.config, stages[run.config.method], time.monotonic()
    found = {name: measured(run, stage) for name, stage in stages.items()}
    results = {name: measuring.summary(m, found.get("retrain")) for name, m in found.items()}
    stopped = last.stopped or f"after {config.steps} steps"
    seconds = {**{name: stages[name].seconds for name in run.learned},
               "unlearn": last.seconds, "evaluate": time.monotonic() - t0}
    torch.save(weights.as_published(last.model, run.tokenizer), saved := io.BytesIO())
    picture = png(curves(last.log, results, config.method), 110)
    names_of = [name for name, m in found[config.method].items()
                if name != "holdout" and "prompts" in m]
    seconds["total"] = time.monotonic() - started
    text = lambda x: (x if isinstance(x, str) else json.dumps(x, indent=1)).encode()
    files.write(config.out, {
        "config.json": text(about(run, stages, saved.getvalue())),
        "log.csv": text(log_csv(last.log)),
        "samples.txt": text("\n".join(samples(found, name) for name in names_of) + "\n"),
        "curves.png": picture, "model.pt": saved.getvalue(),
        "results.json": text({"config": asdict(config), "seconds": seconds, "steps": last.step,
                              "stopped": stopped, "models": results})}, remove=LATER)
    print(f"{config.method:>8}  stopped {stopped}\n\n{table(results)}")
    target, retrain = results["target"], results.get("retrain")
    unseen = {k.replace("holdout", "forget"): v for k, v in target.items() if "holdout" in k}
    print(nothing_to_forget(target, retrain) if retrain else nothing_to_forget(
        target, unseen, "on the holdout rows; choose another --init, or other rows"))
    print("\n".join(samples(found, name, 1) for name in names_of if name != "real_authors"))
    for name in filter(run.rows.get, names_of):
        if (n := len(measuring.measured_rows(run.rows[name]))) < len(run.rows[name]):
            print(f"{name}: measured on those {n} of {len(run.rows[name])} rows that have wrong "
                  "answers")
    print(f"\nwritten to {config.out}: {', '.join(flags.OUTPUTS)}\nin {seconds['total']:.1f} s; "
          "spent on " + ", ".join(f"{k} {v:.1f}" for k, v in seconds.items() if k != "total"))
