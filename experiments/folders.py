"""A run folder of train.py, and what has changed since it was filled: for ask and audit."""
import copy
import json
import os
from dataclasses import fields, replace

import torch

import train
from experiments import shared
from harness import flags, report
from harness.stages import Stage


def run_of(folder):
    """(train.Run, {title: Stage}) of the run that filled `folder`, by its config.json; no Stage is
    read yet. ValueError if it is no run folder of train.py, or if what made it has changed.

    The number of threads becomes the run's. If torch sees no such device as the run's here, the
    CPU takes its place, and the models must be in the cache.
    """
    saved = read_config(folder)
    config = train.Config(**{f.name: saved[f.name] for f in fields(train.Config)})
    flags.check(config, ())
    try:
        flags.device(config.device)
    except ValueError:
        config = replace(config, device="cpu")
    run = train.prepare(config)
    old = {title: Stage(title, made_of.get("steps", config.steps), copy.deepcopy(run.initial),
                        config.cache, made_of) for title, made_of in saved["made_of"].items()}
    new = {title: train.training_stage(run, title, old[title].made_of["threads"])
           for title in run.learned}
    new[config.method] = train.unlearning_stage(run, new["target"])
    if changed := changes(folder, saved, run, new):
        raise ValueError(f"{folder}: its models would not be the run's: {'; '.join(changed)}. Undo "
                         "this, or run train.py again")
    if any(old[k].name != new[k].name for k in new) and not all(s.finished() for s in old.values()):
        raise ValueError(f"{folder}: the run was on {saved['device']}, by "
                         f"{old['target'].made_of['processes']} process(es); its models are not in "
                         f"{config.cache}, and one process on {config.device} can't make the same")
    return run, old


def read_config(folder):
    """A run folder's config.json, as far as it is what train.py writes. ValueError, which names the
    folder, if it is not."""
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            saved = json.load(f)
        for f in fields(train.Config):
            kind, choices = (int, float) if f.type is float else f.type, f.metadata["choices"]
            if not isinstance(saved[f.name], kind) or choices and saved[f.name] not in choices:
                raise ValueError(f"{f.name} is {saved[f.name]!r:.99}")
        torch.set_num_threads(saved["threads"])
        for title in ("target", "retrain", saved["method"]):
            saved["made_of"][title]["settings"]["device"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
        raise ValueError(f"{folder}: no run folder of train.py, by its config.json ({e!r})"
                         ) from None
    return saved


def changes(folder, saved, run, stages):
    """What has changed since the run, in words. saved: its config.json; stages: {title: Stage} as
    they would be made now."""
    try:
        with open(os.path.join(folder, "model.pt"), "rb") as f:
            now = report.about(run, stages, f.read())
    except OSError as e:
        raise ValueError(f"{folder}: {e}") from None
    out = ["model.pt in the folder is another file"] * (now["model.pt"] != saved["model.pt"])
    if now["rows"] != saved["rows"]:
        out.append(f"the rows of {run.config.data or 'the built-in data'} have changed")
    for title, stage in stages.items():
        out += differences(saved["made_of"][title], stage.made_of)
    derived = [(now["tokenizer"], saved["tokenizer"])] + [
        (stage.made_of[k], saved["made_of"][title][k]) for title, stage in stages.items()
        for k in ("data", "initial") if k in stage.made_of]
    if not out and any(a != b for a, b in derived):
        out.append(f"the tokens of the rows, or the weights {run.config.init or 'before training'},"
                   " have changed")
    return list(dict.fromkeys(out))


def differences(old, new):
    """Where the code, the settings and torch of two stages' ingredients differ, in words. Only the
    device may: a model that was trained elsewhere can be read here."""
    of = lambda key: [k for k in sorted({*old[key], *new[key]} - {"device"})
                      if old[key].get(k) != new[key].get(k)]
    out = [f"the code of {name} has changed" for name in of("code")]
    out += [f"--{k} {old['settings'].get(k)} -> {new['settings'].get(k)}" for k in of("settings")]
    return out + [f"torch {old['torch']} -> {new['torch']}"] * (old["torch"] != new["torch"])


def models_in(run, stages):
    """{title: model} of the Stages of `run_of`: read from the cache, or made if they are not
    there."""
    if all(stage.finished() for stage in stages.values()):
        for stage in stages.values():
            stage.restore()
    else:
        stages = shared.all_stages(run)
    return {title: stage.model for title, stage in stages.items()}
