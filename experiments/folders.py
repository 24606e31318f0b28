"""A run folder of train.py, and what has changed since it was filled: for ask and audit."""
import json
import os
from dataclasses import fields, replace

import torch

import train
from experiments import shared
from harness import flags, report


def run_of(folder):
    """(train.Run, {title: Stage}) of the run that filled `folder`, by its config.json. No Stage is
    read yet. ValueError if it is no run folder of train.py, or if what made it has changed.

    torch is set to the run's number of threads. If torch sees no device like the run's here, the
    CPU is used, and the models must be in the cache.
    """
    saved, weights = read(folder)
    config = train.Config(**{f.name: saved[f.name] for f in fields(train.Config)})
    torch.set_num_threads(saved["threads"])
    try:
        flags.device(config.device)
    except ValueError:
        config = replace(config, device="cpu")
    run, made_of = train.prepare(config), saved["made_of"]
    new = {k: train.training_stage(run, k, made_of[k]["threads"]) for k in run.learned}
    new[config.method] = train.unlearning_stage(run, new["target"])
    if changed := differences(saved, report.about(run, new, weights)):
        raise ValueError(f"{folder}: its models would not be the run's, for these have changed: "
                         f"{', '.join(changed)}. Undo this, or run train.py again")
    old = {title: replace(stage, made_of=made_of[title]) for title, stage in new.items()}
    if any(old[k].name != new[k].name for k in new) and not all(s.finished() for s in old.values()):
        raise ValueError(f"{folder}: the run was on {saved['device']}, by "
                         f"{made_of['target']['processes']} process(es); its models are not in "
                         f"{config.cache}, and one process on {config.device} can't make the same")
    return run, old


def read(folder):
    """(config.json, the bytes of model.pt) of a run folder. ValueError if it is none."""
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            saved = json.load(f)
        with open(os.path.join(folder, "model.pt"), "rb") as f:
            weights = f.read()
        needed = {f.name for f in fields(train.Config)} | {"threads", "made_of"}
        if missing := needed - set(saved):
            raise ValueError(f"config.json has no {min(missing)}")
    except (OSError, ValueError, TypeError) as e:
        raise ValueError(f"{folder}: no run folder of train.py ({e})") from None
    return saved, weights


def differences(old, new):
    """Where two config.json differ in what makes the models, in its words. The device may differ:
    a model that was trained elsewhere can be read here."""
    found = [k for k in ("rows", "tokenizer", "model.pt") if old[k] != new[k]]
    for title, made_of in new["made_of"].items():
        before = old["made_of"][title]
        found += [words for k, words in dict(torch="torch", data="data", steps="steps",
                                             initial="the weights before training").items()
                  if before.get(k) != made_of.get(k)]
        for kind in ("code", "settings"):
            found += [f"{kind} {k}" for k in sorted({*before[kind], *made_of[kind]} - {"device"})
                      if before[kind].get(k) != made_of[kind].get(k)]
    return list(dict.fromkeys(found))


def models_in(run, stages):
    """{title: model} of the Stages of `run_of`: from the cache, or made if they are not there."""
    if all(stage.finished() for stage in stages.values()):
        for stage in stages.values():
            stage.restore()
    else:
        stages = shared.all_stages(run)
    return {title: stage.model for title, stage in stages.items()}
