"""What one run shows, and what many show: the table and the curves, the comparison of all methods,
the ablations, the audits. train.py calls `report`, `compare`, `ablate` and `audit`; nothing here is
needed to follow the method.

    python train.py --tiny --compare --seeds 5          every method, SGD and Adam
    python train.py --tiny --ablate lazy                also lr, batch, forget, size
    python train.py --tiny --audit                      is it gone, or hidden?

Many runs share the machine as one process a core, each with one thread: for matrices of this size
that is faster than one run with all threads, and it gives the same numbers on any number of cores.
"""
import contextlib
import copy
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace

import numpy as np
import torch
from matplotlib.figure import Figure

import metrics
import train
from data import collate
from model import GPT

# --------------------------------------------------------------------------- one run

def table(models):
    """The results as text: one line a metric, one column a model."""
    keys = list(dict.fromkeys(k for m in models.values() for k in m))
    lines = [f"{'':22}" + "".join(f"{name:>12}" for name in models)]
    for k in keys:
        cells = (f"{m[k]:12.4g}" if k in m else f"{'-':>12}" for m in models.values())
        lines.append(f"{k:22}" + "".join(cells))
    return "\n".join(lines)


def samples(measured, part, n=None):
    """Questions (or first halves of passages) of one set with the gold answer (or second half) and
    every model's, as text."""
    out = []
    first = next(iter(measured.values()))[part]
    for i, (prompt, gold) in enumerate(list(zip(first["prompts"], first["gold"]))[:n]):
        out.append(f"[{part}] {prompt}\n{'gold':>12}: {gold}")
        out += [f"{name:>12}: {m[part]['answers'][i]}" for name, m in measured.items()]
    return "\n".join(out)


def draw_curves(path, log, models, method):
    """curves.png: losses with their reference levels, learning rate, norms, cosine."""
    fig = Figure(figsize=(10, 7), layout="constrained")
    (ax_loss, ax_lr), (ax_norm, ax_cos) = fig.subplots(2, 2)
    column = lambda key: [row.get(key) for row in log]   # no lr where the holdout stop ended it
    steps = column("step")
    ax_loss.plot(steps, column("loss_retain"), color="tab:blue", label="retain, to stay low")
    if method != "npo":                                  # npo logs its own objective there
        ax_loss.plot(steps, column("loss_forget"), color="tab:red", label="forget, to rise")
    ax_loss.axhline(models["retrain"]["forget_loss"], color="tab:red", ls="--", lw=1,
                    label="forget, retrained model")
    ax_loss.axhline(models[method]["holdout_loss"], color="tab:gray", ls=":",
                    label="holdout, unlearned model")
    ax_loss.set(title="Losses of the batch", ylabel="nats per token", yscale="log")
    ax_lr.plot(steps, column("lr"), color="tab:green")
    fits = [row for row in log if row.get("status")]
    for status, marker in (("fit", "o"), ("no convexity", "^"), ("no descent", "v"),
                           ("not finite", "x")):
        some = [row for row in fits if row["status"] == status]
        if some:
            ax_lr.plot([r["step"] for r in some], [r["lr"] for r in some], marker, ms=4,
                       color="tab:green", label=f"AutoLR: {status}")
    ax_lr.set(title="Learning rate", ylabel="lr", yscale="log")
    ax_norm.plot(steps, column("norm_retain"), color="tab:blue", label="retain")
    ax_norm.plot(steps, column("norm_forget"), color="tab:red", label="forget")
    ax_norm.set(title="Gradient norms", ylabel="norm over all parameters", yscale="log")
    ax_cos.plot(steps, column("cos"), color="tab:purple", label="cosine")
    ax_cos.axhline(1, color="tab:gray", ls=":", label="1: Pareto stationary")
    ax_cos.set(title="Cosine of the two gradients", ylabel="cos", ylim=(-1.05, 1.1))
    for ax in fig.axes:
        ax.set_xlabel("step")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)
    fig.suptitle(f"Unlearning with {method}")
    train.replace(path, lambda temporary: fig.savefig(temporary, format="png", dpi=110))


def report(run, models):
    """Measure the three models, print the table and some answers, write the rest of the folder."""
    config, state, t0 = run.config, run.state, time.time()
    out = lambda name: os.path.join(config.out, name)
    measured = {name: finite(metrics.evaluate, m, run.tokenizer, run.data)
                for name, m in models.items()}
    results = {name: metrics.summary(m, measured["retrain"]) for name, m in measured.items()}
    parts = [p for p in run.data if p != "holdout"]
    print("\n" + table(results) + "\n")
    print("\n".join(samples(measured, p, 1) for p in (
        "forget", "forget_questions", "retain", "world") if p in run.data))
    train.write_text(out("samples.txt"), "\n".join(samples(measured, p) for p in parts) + "\n")
    draw_curves(out("curves.png"), state["log"], results, config.method)
    if config.audit:
        audit(run, models)
    run.seconds["evaluate"] = time.time() - t0
    run.seconds["total"] = sum(run.seconds.values())
    train.write_text(out("results.json"), json.dumps(
        {"config": asdict(config), "seconds": run.seconds, "steps": state["step"],
         "stopped": state["stopped"], "models": results}, indent=1))
    outputs = train.OUTPUTS[:8 if config.audit else 6]
    print(f"\nwritten to {config.out}: {', '.join(outputs)}\nin "
          f"{run.seconds['total']:.1f} s: " + ", ".join(
              f"{k} {v:.1f}" for k, v in run.seconds.items() if k != "total"))


# --------------------------------------------------------------------------- many runs

def quick(model, run, every=8):
    """A cheap look at a model on its way: forget and retain ROUGE, and `utility`, the harmonic mean
    of probability and ROUGE on every 8th retain row and on the world facts (model utility without
    its truth ratios, which cost five times the rest)."""
    sets = {"forget": run.data["forget"], "retain": run.data["retain"][::every],
            "world": run.data["world"]}
    plain = [{k: row[k] for k in ("question", "answer")} for rows in sets.values() for row in rows]
    m, out, at, utility = metrics.measure(model, run.tokenizer, plain), {}, 0, []
    for part, rows in sets.items():
        some, at = slice(at, at + len(rows)), at + len(rows)
        out[f"{part}_rouge"] = float(np.mean(m["rouge"][some]))
        if part != "forget":
            utility += [metrics.probability(m["loss"][some]), out[f"{part}_rouge"]]
    return {**out, "utility": metrics.model_utility(utility)}


def both_models(config):
    """Train the target and the retrained model of one seed into the cache, in a process of its
    own, and measure them: a dict of their summaries."""
    torch.set_num_threads(1)
    run = train.prepare(config)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        models = train.train_models(run)
    measured = {title: metrics.evaluate(m, run.tokenizer, run.data) for title, m in models.items()}
    return {title: {**metrics.summary(measured[title], measured["retrain"]), "look": quick(m, run)}
            for title, m in models.items()}


def finite(f, *args):
    """f(*args), a measure; what it says of numbers that are not finite is a FloatingPointError."""
    try:
        return f(*args)
    except ValueError as e:
        raise FloatingPointError(f"measuring, {e}: try a smaller --lr") from None


def hopeless(path, enough, half):
    """Whether a run on this path is given up: a tenth of the utility is left; or, where half of
    its steps are done, these have brought less than a tenth of the forgetting."""
    first, last = path[0], path[-1]
    forgotten, wanted = (first["forget_rouge"] - x for x in (last["forget_rouge"], enough))
    return last["utility"] < 0.1 * first["utility"] or half and forgotten < 0.1 * wanted


def one_run(config, enough=None, fixed=0):
    """One unlearning run from the cached models, in a process of its own, and what it came to.

    enough: the retrained model's forget ROUGE. With it the run is looked at every LOOK steps, and
    ends where it is reached and the holdout stop too, after `fixed` steps at the earliest, or
    where it is hopeless. Measured in full (only if `fixed`: without it a learning rate is being
    chosen) are that first point of equal forgetting or else the end, the step `fixed` and the
    holdout stop. Without `enough` it is train.py's run, measured at its end.
    """
    torch.set_num_threads(1)
    run, t0 = train.prepare(config), time.time()
    config = run.config
    (target, *_, cached, _), (retrain, *_) = run.models["target"], run.models["retrain"]
    if not cached:
        raise ValueError("the files of this project changed during the command: start it again")
    of = lambda m, parts: metrics.evaluate(m, run.tokenizer, {p: run.data[p] for p in parts})
    unseen = of(retrain, ("forget", "holdout"))

    def measured(*parts):
        if enough is not None and not fixed:
            return {"steps": state["step"]}
        return {"steps": state["step"], **metrics.summary(finite(of, model, parts), unseen)}

    state, out, looking = train.fresh_state(config, target), {}, time.time() - t0
    path = out["path"] = []
    try:
        for model in train.unlearn(target, config, run.sets, state):
            if enough is None:
                continue
            t1, step = time.time(), state["step"]
            if step % LOOK == 0:
                path.append({"step": step, **finite(quick, model, run)})
                if path[-1]["forget_rouge"] <= enough and "final" not in out:
                    out["final"] = measured(*run.data)
            row = {**(state["log"] or [{"loss_forget": 0.0}])[-1], "step": step}
            if "holdout" not in out and train.holdout_reached(model, config, run.sets, state, row):
                out["holdout"] = measured("forget", "holdout")
            if step == fixed and fixed:
                out["fixed"] = measured("forget", "holdout")
            looking += time.time() - t1
            if hopeless(path, enough, step >= config.steps / 2) or \
                    {"final", "holdout"} <= out.keys() and step >= fixed:
                break
        seconds = time.time() - t0 - looking
        out = {"final": measured(*run.data), "fixed": measured("forget", "holdout"), **out}
    except FloatingPointError as e:                     # unlearning, or measuring, ran away
        seconds, out["ran away"] = time.time() - t0 - looking, str(e)
    return {"final": None, "holdout": None, "fixed": None, **out, "steps": state["step"],
            "lr": state["lr"], "fits": sum(row.get("fits", 0) for row in state["log"]),
            "seconds": seconds}


def run_all(title, function, jobs):
    """[function(*job), ...], a process a core; one line of progress a tenth, with the time left.
    A job's first argument is a Config."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = 1 if jobs[0][0].device == "cuda" else min(len(jobs), cores)
    progress, done, out = train.Progress(title, 0, len(jobs)), 0, [None] * len(jobs)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(function, *job): i for i, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                out[futures[future]] = future.result()
                done += 1
                if done % max(1, len(jobs) // 10) == 0:
                    progress.line(done, "runs")
        except BaseException:                   # do not work off the rest before saying it
            pool.shutdown(cancel_futures=True)
            raise
    return out


# --------------------------------------------------------------------------- the comparison

TUNING_SEED = 100       # baselines take their learning rate from here; it is never reported
LOOK = 4                # steps between two looks at a run on its way
ADAM, ADAM_LARGE = (1e-4, 3e-4, 1e-3), (3e-4, 1e-3, 3e-3)
VARIANTS = {            # name: (flags, learning rates to choose from with SGD, and with Adam)
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


def on_path(result):
    """(forgetting, utility) of the points of a run's path, both as shares: 0 is the target model's
    forget ROUGE and 1 the retrained model's; utility is relative to the target's."""
    first, aim = result["path"][0], result["retrain"]["look"]["forget_rouge"]
    room = first["forget_rouge"] - aim
    if room <= 0:
        raise FloatingPointError(
            f"forget ROUGE {first['forget_rouge']:.3f} of the target model, which learned the "
            f"forget rows, and {aim:.3f} of the retrained one, which did not: there is nothing to "
            "forget; try more --epochs")
    return ([(first["forget_rouge"] - p["forget_rouge"]) / room for p in result["path"]],
            [p["utility"] / first["utility"] for p in result["path"]])


def area(result):
    """The area up to the first look at which the retrained model's forget ROUGE is reached: what
    comes after it, longer in one run than in another, must not count."""
    forgetting, utility = on_path(result)
    n = next((i for i, f in enumerate(forgetting, 1) if f >= 1), None)
    return metrics.area_under_utility(forgetting[:n], utility[:n])


def in_region(m):
    """The aim: next to nothing of the retained lost, and no more known of the forgotten than the
    retrained model does."""
    return m["final"] is not None and m["final"]["retain_rouge"] >= 0.97 and \
        m["final"]["forget_rouge"] <= m["retrain"]["forget_rouge"]


def compare(config):
    """Every method with SGD and with Adam from the same target models, over seeds 0, 1, ...

    A baseline runs at the best (by area) of its learning rates on TUNING_SEED; NGDiff with AutoLR
    has nothing to choose. Writes table.txt, compare.json, tradeoff.png.
    """
    train.start_folder(config)
    seeds, t0 = list(range(config.seeds)), time.time()
    config = replace(config, stop="steps", autolr=False)
    every = [replace(config, seed=seed) for seed in (TUNING_SEED, *seeds)]
    both = dict(zip([c.seed for c in every], run_all("models", both_models, [(c,) for c in every])))
    entries = choose_rates(config, both[TUNING_SEED])
    jobs = [(replace(e["config"], seed=seed), both[seed]["retrain"]["look"]["forget_rouge"],
             e["fixed"]) for e in entries for seed in seeds]
    done = iter(run_all("compare", one_run, jobs))
    for e in entries:
        e["runs"] = [next(done) | both[seed] for seed in seeds]
        e["areas"] = [area(r) for r in e["runs"]]
    entries.sort(key=lambda e: -np.mean(e["areas"]))
    text = (f"{comparison_table(entries)}\n\n{stops_table(entries)}\n\n"
            f"{sum(len(e['rates']) for e in entries)} runs on seed {TUNING_SEED}, {len(jobs)} runs "
            f"reported, {time.time() - t0:.0f} s")
    print("\n" + text)
    train.write_text(os.path.join(config.out, "table.txt"), text + "\n")
    train.write_text(os.path.join(config.out, "compare.json"), json.dumps(
        [{**e, "config": asdict(e["config"])} for e in entries], indent=1))
    draw_tradeoff(os.path.join(config.out, "tradeoff.png"), entries)
    print(f"\nwritten to {config.out}: config.json, table.txt, compare.json, tradeoff.png")


def choose_rates(config, both):
    """Run every variant at each of its learning rates on TUNING_SEED: a list of dicts, one a
    variant, with the `config` to run, the areas of its `rates`, and as `fixed` number of steps
    those after which the holdout stop ended the best of these runs."""
    entries, jobs, enough = [], [], both["retrain"]["look"]["forget_rouge"]
    for name, (flags, *grids) in VARIANTS.items():
        for optimizer, grid in zip(("sgd", "adam"), grids):
            chosen = replace(config, optimizer=optimizer, **flags)
            entries.append({"method": name, "optimizer": optimizer, "config": chosen,
                            "rates": grid or [config.lr]})
            jobs += [(replace(chosen, lr=lr, seed=TUNING_SEED), enough)
                     for lr in entries[-1]["rates"]]
    done = iter(run_all("rates", one_run, jobs))
    for e in entries:
        runs = {lr: next(done) | both for lr in e["rates"]}
        e["rates"] = {lr: area(run) for lr, run in runs.items()}
        best = max(runs, key=e["rates"].get)
        e["config"] = replace(e["config"], lr=best)
        e["fixed"] = runs[best]["holdout"]["steps"] if runs[best]["holdout"] else config.steps
    return entries


def spread(values, digits=3):
    """Mean and standard deviation over the seeds, of those runs that could be measured."""
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.{digits}f}±{deviation:.{digits}f}"


def comparison_table(entries):
    """One line a method, best area first; * marks a rate at an end of its grid. From `steps` on: at
    the first look at which the forget ROUGE is the retrained model's, or, for runs that never got
    there (`equal` counts those that did), at the end."""
    n = len(entries[0]["runs"])
    areas = np.array([e["areas"] for e in entries])
    lines = [f"{'method':15} {'opt':4} {'lr':>7} {'rates':>5} {'area':>12} {'first':>5} "
             f"{'region':>6} {'equal':>5} {'steps':>10} {'forget ROUGE':>12} {'retain ROUGE':>12} "
             f"{'utility':>12} {'log10 quality':>13} {'AUC':>12} {'ms a step':>9}"]
    keys = ("forget_rouge", "retain_rouge", "model_utility", "log10_forget_quality",
            "membership_auc")

    def measures(models):
        cells = [spread([m and m[k] for m in models], 2 if "log10" in k else 3) for k in keys]
        return "{:>12} {:>12} {:>12} {:>13} {:>12}".format(*cells)
    for e, own in zip(entries, areas):
        final, fitted = [r["final"] for r in e["runs"]], e["config"].autolr
        rate, rates = e["config"].lr, list(e["rates"])
        edge = "*" if len(rates) > 1 and rate in (rates[0], rates[-1]) else ""
        equal = sum(max(on_path(r)[0]) >= 1 for r in e["runs"])
        lines.append(f"{e['method']:15} {e['optimizer']:4} "
                     f"{'fitted' if fitted else f'{rate:g}{edge}':>7} "
                     f"{0 if fitted else len(e['rates']):5} {spread(own):>12} "
                     f"{np.sum(own == areas.max(0)):3}/{n} {sum(map(in_region, e['runs'])):4}/{n} "
                     f"{equal:3}/{n} "
                     f"{spread([m and m['steps'] for m in final], 1):>10} {measures(final)} "
                     f"{spread([1000 * r['seconds'] / r['steps'] for r in e['runs']], 0):>9}")
    for title in ("target", "retrain"):
        lines.append(f"{title:76} {measures([r[title] for r in entries[0]['runs']])}")
    return "\n".join(lines)


def stops_table(entries):
    """How far from the retrained model a run is after a fixed number of steps and at the holdout
    stop, where it got there."""
    lines = [f"{'distance from the':20} {'|AUC difference|':>28} "
             f"{'-log10 forget quality':>28}   steps",
             f"{'retrained model':20} " + f"{'fixed':>14}{'holdout':>14} " * 2
             + f"{'fixed':>10} {'holdout':>13} {'stopped':>7}"]
    for e in entries:
        cells = []
        for distance in (lambda r, m: abs(m["membership_auc"] - r["retrain"]["membership_auc"]),
                         lambda r, m: -m["log10_forget_quality"]):
            for when in ("fixed", "holdout"):
                cells.append(spread([distance(r, r[when]) for r in e["runs"] if r[when]]))
        steps = [r["holdout"]["steps"] for r in e["runs"] if r["holdout"]]
        fixed = spread([r["fixed"]["steps"] for r in e["runs"] if r["fixed"]], 1)
        lines.append("{:15} {:4} {:>14}{:>14} {:>14}{:>14} {:>10} {:>13} {:5}/{}".format(
            e["method"], e["optimizer"], *cells, fixed, spread(steps, 1), len(steps),
            len(e["runs"])))
    return "\n".join(lines)


def draw_tradeoff(path, entries):
    """tradeoff.png: utility against forgetting along every run, the target's and the retrained
    model's points; to the upper right is better, beyond 1 is over-forgotten."""
    fig = Figure(figsize=(11, 4.6), layout="constrained")
    for ax, optimizer in zip(fig.subplots(1, 2, sharey=True), ("sgd", "adam")):
        for i, name in enumerate(VARIANTS):
            runs = [r for e in entries for r in e["runs"]
                    if (e["method"], e["optimizer"]) == (name, optimizer)]
            for j, r in enumerate(runs):
                ax.plot(*on_path(r), color="black" if i == 0 else f"C{i - 1}", alpha=0.8,
                        lw=2 if i == 0 else 1, zorder=3 if i == 0 else 2,
                        label=None if j else name)
        ax.plot(0, 1, "s", color="black", ms=8, zorder=4, label="target")
        ax.plot([1] * len(runs),
                [r["retrain"]["look"]["utility"] / r["path"][0]["utility"] for r in runs],
                "*", color="gold", mec="black", ms=12, zorder=4, label="retrained")
        ax.axvline(1, color="tab:gray", ls=":", lw=1)
        ax.set(title=dict(sgd="SGD", adam="Adam")[optimizer], xlim=(-0.05, 1.55), ylim=(0.6, 1.02),
               xlabel="forgetting: 0 as the target, 1 as the retrained model (by forget ROUGE)")
    fig.axes[0].set_ylabel("utility, share of the target's")
    fig.axes[0].legend(fontsize=8, loc="lower left")
    fig.suptitle("Utility against forgetting along each run")
    train.replace(path, lambda temporary: fig.savefig(temporary, format="png", dpi=100))


# --------------------------------------------------------------------------- ablations

ABLATIONS = {
    "lazy": [dict(lazy=n) for n in (1, 5, 10, 50)],
    "lr": [dict(lr=10.0 ** n) for n in range(-6, 2)],
    "batch": [dict(batch=n) for n in (8, 27, 54, 108, 216, 432)],
    "forget": [dict(forget=f) for f in ("forget01", "forget05", "forget10")],
    "size": [dict(n_layer=n, n_embd=c) for n, c in ((1, 64), (2, 128), (4, 192))],
}


def ablated(config):
    """The configs of --ablate's runs."""
    return [replace(config, **change) for change in ABLATIONS[config.ablate]]


def ablate(config):
    """One setting over a range of values, everything else as the flags say: a table, a line a
    run; written to table.txt and ablate.json."""
    train.start_folder(config)
    changes, configs = ABLATIONS[config.ablate], [(c,) for c in ablated(config)]
    own = config.ablate in ("forget", "size")            # these train models of their own
    both = run_all("models", both_models, configs if own else configs[:1])
    done = run_all("ablate", one_run, configs)
    done = [r | m for r, m in zip(done, both if own else both * len(done))]
    keys = ("retain_rouge", "retain_prob", "world_rouge", "forget_rouge", "membership_auc")
    lines = [f"{config.ablate:>26} {'steps':>6} {'fits':>6} {'last lr':>9} "
             + " ".join(f"{k:>14}" for k in keys) + f" {'(retrained: forget_rouge)':>26} {'s':>7}"]
    for change, r in zip(changes, done):
        value = " ".join(f"{k} {v:g}" if not isinstance(v, str) else v for k, v in change.items())
        cells = [f"{r['final'][k]:14.3f}" if r["final"] else f"{'-':>14}" for k in keys]
        lines.append(f"{value:>26} {r['steps']:6} {r['fits']:6} {r['lr']:9.4g} {' '.join(cells)} "
                     f"{r['retrain']['forget_rouge']:26.3f} {r['seconds']:7.1f}")
    print("\n" + "\n".join(lines))
    train.write_text(os.path.join(config.out, "table.txt"), "\n".join(lines) + "\n")
    train.write_text(os.path.join(config.out, "ablate.json"),
                     json.dumps([{**c, **r} for c, r in zip(changes, done)], indent=1))
    print(f"\nwritten to {config.out}: config.json, table.txt, ablate.json")


# --------------------------------------------------------------------------- audits

RELEARN_STEPS, RELEARN_LR = 40, 3e-4


def relearn(model, known, other, config):
    """Fine-tune a copy on the forget rows `known` (AdamW): mean probability of the rows `other`,
    before and after every second step. What was hidden comes back sooner than what is gone."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RELEARN_LR, weight_decay=0)
    batch, out = collate(known).to(config.device), []
    for step in range(RELEARN_STEPS + 1):
        if step % 2 == 0:
            losses = [t.mean() for t in metrics.token_losses(model, other)]
            out.append(metrics.probability(losses))
        if step == RELEARN_STEPS:
            break
        optimizer.zero_grad()
        model(batch).mean().backward()
        optimizer.step()
    return out


@torch.no_grad()
def quantized(model, bits):
    """A copy whose matrices are rounded to `bits` bits, symmetrically, one scale a row."""
    model = copy.deepcopy(model)
    for p in model.parameters():
        if p.dim() > 1:
            scale = p.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            p.copy_((p / torch.where(scale > 0, scale, 1)).round() * scale)
    return model


@torch.no_grad()
def extraction(model, examples, device):
    """Mean extraction strength of the examples' answers, end of text dropped."""
    strengths = []
    for e in examples:
        batch = collate([e]).to(device)
        hits = (model.logits(batch).argmax(-1) == batch.labels)[:-1]
        strengths.append(metrics.extraction_strength(hits.tolist()))
    return float(np.mean(strengths))


def audit_one(model, run):
    """All audits of one model: a flat dict, and the relearning curve."""
    config, tokenizer = run.config, run.tokenizer
    forget = run.sets["forget"]
    known = forget[::4]
    other = [e for i, e in enumerate(forget) if i % 4]
    out = {"extraction_strength": extraction(model, forget, config.device)}
    some = {part: run.data[part] for part in ("forget", "retain")}
    rouge = lambda m, rows: float(np.mean(metrics.measure(m, tokenizer, rows)["rouge"]))
    for name, m in (("float32", model), ("8 bits", quantized(model, 8)),
                    ("4 bits", quantized(model, 4))):
        for part, rows in some.items():
            plain = [{k: row[k] for k in ("question", "answer")} for row in rows]
            out[f"{part}_rouge {name}"] = rouge(m, plain)
    for part, rows in some.items():
        asked = [{"question": row["paraphrased_question"], "answer": row["answer"]}
                 for row in rows if "paraphrased_question" in row]
        if asked:
            out[f"{part}_rouge paraphrased"] = rouge(model, asked)
    curve = relearn(model, known, other, config)
    for step in (0, 10, 20, 40):
        out[f"relearn_prob {step}"] = curve[step // 2]
    return out, curve


def audit(run, models):
    """--audit: is it gone, or hidden? (a) how fast do the forget rows come back when a quarter of
    them is learned again, against a model that never saw them and one that never saw anything;
    (b) do they come back when the weights are rounded; (c) are they still in there: extraction
    strength, and the answer to a question in other words. Writes audit.json and audit.png."""
    torch.manual_seed(run.config.seed + 1)
    fresh = GPT(models["target"].config).to(run.config.device)
    audits = {name: audit_one(m, run) for name, m in {**models, "fresh": fresh}.items()}
    print("\naudit\n" + table({name: numbers for name, (numbers, _) in audits.items()}))
    out = lambda name: os.path.join(run.config.out, name)
    train.write_text(out("audit.json"), json.dumps(
        {name: {**numbers, "relearn_curve": curve} for name, (numbers, curve) in audits.items()},
        indent=1))
    draw_audit(out("audit.png"), audits)


def draw_audit(path, audits):
    """audit.png: the relearning curves, and ROUGE after rounding and under a rephrased question."""
    fig = Figure(figsize=(11, 4.2), layout="constrained")
    ax, bars = fig.subplots(1, 2)
    for i, (name, (numbers, curve)) in enumerate(audits.items()):
        ax.plot(range(0, 2 * len(curve), 2), curve, color=f"C{i}", label=name)
        keys = [k for k in numbers if k.startswith("forget_rouge")]
        at = np.arange(len(keys)) + 0.2 * (i - 1.5)
        bars.bar(at, [numbers[k] for k in keys], 0.2, color=f"C{i}", label=name)
    ax.set(title="Relearning: a quarter of the forget rows is trained on", xlabel="step",
           ylabel="probability of the other forget rows", ylim=(0, 1.02))
    bars.set(title="Forget ROUGE of the altered model or question", ylim=(0, 1.02))
    bars.set_xticks(range(len(keys)), [k.removeprefix("forget_rouge ") for k in keys])
    ax.legend(fontsize=8)
    train.replace(path, lambda temporary: fig.savefig(temporary, format="png", dpi=100))
