"""experiments/: the comparison, the ablations, the audits and the questions say what was run."""
import ast
import copy
import json
import math
import pickle
import re
import shutil
import signal
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

import data
import metrics
import train
from conftest import in_turn
from experiments import (ablate, ask, audit, compare, folders, pictures, rates, relearn, shared,
                         tradeoff)
from harness import files, flags, measuring, names, processes, report
from harness.stages import Stage

pytestmark = pytest.mark.usefixtures("in_this_process", "no_drawing")
SMALL = ("--epochs 20 --train_batch 40 --train_lr 2e-2 --n_layer 1 --n_embd 32 --steps 6 "
         "--device cpu").split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(flags, run folder) of a finished run on a file of rows: all tests share its models."""
    at = tmp_path_factory.mktemp("run")
    rows = data.mini_tofu(0, "forget10", 10)
    (at / "rows.jsonl").write_text("".join(
        json.dumps(row | {"set": name}) + "\n" for name in rows for row in rows[name]), "utf-8")
    argv = [*SMALL, "--data", str(at / "rows.jsonl"), "--cache", str(at / "cache")]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(processes, "side_by_side", in_turn)
        m.setattr(signal, "signal", lambda *_: None)
        m.setattr(report, "png", lambda *_: b"")
        torch.set_num_threads(1)
        train.main([*argv, "--out", str(at / "out")])
    return argv, at / "out"


@pytest.fixture(scope="module")
def run(finished):
    return train.prepare(flags.parse(train.Config, finished[0], ""))


@pytest.fixture(scope="module")
def trained(finished, run):
    return shared.trained(run)


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished[1], tmp_path / "folder")


def changed(run, **change):
    return run._replace(config=replace(run.config, **change))


def equal(a, b):
    return all(map(torch.equal, a.parameters(), b.parameters()))


def refused(capsys, module, argv):
    """The one line with which a command ends, with exit code 2."""
    with pytest.raises(SystemExit) as e:
        module.main(argv)
    line, = capsys.readouterr().err.splitlines()
    assert e.value.code == 2
    return line


def saved(path):
    return json.loads(path.read_text("utf-8"))


def edit(monkeypatch, module, name, old, new):
    """As if `old` were `new` in the definition of `name`."""
    original = names.definitions

    def definitions(of):
        text = ast.unparse(original(of)[name][0]) if of == module else ""
        assert of != module or old in text
        return original(of) | ({name: ast.parse(text.replace(old, new)).body} if text else {})
    monkeypatch.setattr(names, "definitions", definitions)
    monkeypatch.setattr(names, "reach", names.reach.__wrapped__)


# ---- the area and the distance

def test_the_area_is_the_integral_of_the_best_utility_still_to_be_had():
    rng, x = np.random.default_rng(3), (np.arange(1000) + 0.5) / 1000
    for _ in range(3):
        f, u = rng.uniform(-0.2, 1.3, 9), rng.uniform(0, 1.2, 9)
        best = [max([min(b, 1) for a, b in zip(f, u) if min(a, 1) >= at], default=0) for at in x]
        area = tradeoff.area_under_utility(f, u)
        assert area == pytest.approx(np.mean(best), abs=2e-3)
        assert np.allclose(tradeoff.best_utility(f, u, x), best), "what the figure shows"
        order = rng.permutation(9)
        assert tradeoff.area_under_utility(f[order], u[order]) == area, "the order is no matter"
        more = tradeoff.area_under_utility([*f, f[0] - 0.1], [*u, u[0]])
        assert more == pytest.approx(area), "a point that another dominates adds nothing"


@pytest.mark.parametrize("f, u, area", [
    ([0, 1], [1, 1], 1), ([0], [1], 0), ([0, 1], [1, 0], 0), ([0, 0.5], [1, 1], 0.5),
    ([0, 7], [1, 0.3], 0.3), ([0, 0.5, 1], [1, 1, 0.5], 0.75), ([0, math.nan], [1, 1], None),
    ([0, 1], [1, math.inf], None), ([0], [1, 1], None), ([], [], None)])
def test_areas_known_beforehand_and_refused(f, u, area):
    if area is None:
        with pytest.raises(ValueError):
            tradeoff.area_under_utility(f, u)
    else:
        assert tradeoff.area_under_utility(f, u) == pytest.approx(area)


def test_a_path_counts_from_the_target_to_the_retrained_model():
    path = [tradeoff.Look(4 * i, *x) for i, x in enumerate(((1.0, 0.9), (0.9, 0.9), (0.7, 0.45)))]
    forgetting, utility = tradeoff.shares(path, 0.8)
    assert forgetting == pytest.approx([0, 0.5, 1.5]) and utility == pytest.approx([1, 1, 0.5])
    assert tradeoff.area(path, 0.8) == pytest.approx(0.5 * 1 + 0.5 * 0.5)


def test_the_distance_is_0_at_the_retrained_model_and_1_at_the_target():
    summary = lambda rouge, auc, quality, retain=1.0: {
        "forget_rouge": rouge, "membership_auc": auc, "log10_forget_quality": quality,
        "retain_rouge": retain}
    target, retrain = summary(1.0, 0.9, -4.0), summary(0.8, 0.5, 0.0)
    short = {k: v for k, v in summary(0.9, 0, 0).items() if k != "membership_auc"}
    for final, expected in (
            (retrain, 0), (target, 1), (None, 1), (summary(0.8, 0.5, 0.0, 0.98), 1),
            (summary(0.9, 0.5, 0.0), 0.5 / 3), (summary(0.7, 0.5, 0.0), 0.5 / 3),
            (summary(0.8, 0.3, -1.0), (0.5 + 0.25) / 3), (summary(0.0, 0.5, 0.0), 1),
            (short, 0.25)):
        references = tradeoff.References(target, retrain, 0.8)
        assert tradeoff.distance(final, references) == pytest.approx(expected)


@pytest.mark.parametrize("target, retrain, ends", [
    ((0.8, 0.9), (0.8, 0.9), True), ((0.8, 0), (0.5, 0.9), True), ((0.8, 0.9), (0.7, 0), False)])
def test_a_seed_with_nothing_to_forget_ends_the_comparison(
        run, trained, monkeypatch, target, retrain, ends):
    found = iter((target, retrain))
    monkeypatch.setattr(tradeoff, "look", lambda *_: tradeoff.Look(0, *next(found)))
    monkeypatch.setattr(tradeoff, "end", lambda *_: {})
    with pytest.raises(FloatingPointError, match="--epochs") if ends else nullcontext():
        assert tradeoff.references(run, trained).enough == 0.7


# ---- one run of the comparison

def test_a_look_is_rouge_and_probability_of_its_three_sets(run, trained):
    """Against the whole measure of each set."""
    model, rows = trained["target"].model, run.rows | {"retain": run.rows["retain"][::8]}
    m = {k: measuring.measure(model, run.tokenizer, [
        {k: r[k] for k in ("question", "answer")} for r in rows[k]])
        for k in ("forget", "retain", "world")}
    parts = [x for k in ("retain", "world")
             for x in (metrics.probability(m[k]["loss"]), np.mean(m[k]["rouge"]))]
    look = tradeoff.look(run, model, 3)
    assert look.step == 3 and look.forget_rouge == pytest.approx(np.mean(m["forget"]["rouge"]))
    assert look.utility == pytest.approx(len(parts) / sum(1 / x for x in parts), rel=1e-5)


def test_a_run_of_the_comparison_is_the_run_that_train_py_makes(
        run, trained, finished, monkeypatch):
    """Also where it is looked at on the way."""
    monkeypatch.setattr(tradeoff, "LOOK_EVERY", 4)
    out = tradeoff.outcome(run, trained)
    assert [x.step for x in out.path] == [0, 4, out.steps] and out.steps == 6 and not out.ran_away
    whole = saved(finished[1] / "results.json")["models"]["ngdiff"]
    for k in {*compare.COLUMNS, "retain_prob", "forget_truth_ratio"} & whole.keys():
        assert out.final[k] == pytest.approx(whole[k], rel=1e-9), "all but some truth ratios"


@pytest.mark.parametrize("change", [
    dict(optimizer="adam", level=True), dict(method="npo", lr=1e-3, lazy=0)])
def test_unlearning_looked_at_takes_the_same_steps(run, trained, change):
    run, target = changed(run, steps=12, **change), trained["target"].model
    whole = Stage("whole", 12, copy.deepcopy(target))
    train.unlearn(whole, target, run.examples, run.config)
    *_, stage = shared.unlearning(run, target, 5)
    assert stage.log == whole.log and stage.step == 12 and equal(stage.model, whole.model)


def test_a_ruined_run_is_given_up_and_numbers_that_run_away_are_said(run, trained, monkeypatch):
    out = tradeoff.outcome(changed(run, method="ga", lazy=0, lr=1e38), trained)
    assert out.final is None and "loss_retain" in out.ran_away
    assert [x.step for x in out.path] == [0] and tradeoff.area(out.path, 0.0) == 0
    monkeypatch.setattr(tradeoff, "LOOK_EVERY", 1)
    out = tradeoff.outcome(changed(run, method="ga", lazy=0, lr=1.0, steps=60), trained)
    left = [x.utility < 0.1 * out.path[0].utility for x in out.path]
    assert out.steps == out.path[-1].step < 60 and left == [False] * (len(left) - 1) + [True]


# ---- many runs

def count_calls(one, stages):          # `run` is the name of more in this file: it would be reached
    print("dropped")
    count_calls.calls.append(one.config.lr)
    return [one.config.lr, list(stages)]


def test_results_are_in_order_and_made_once(run, monkeypatch, capsys):
    """A name is made of all that the result depends on: the settings that its function reads, its
    code, the rows, the models."""
    count_calls.calls = calls = []
    runs = [changed(run, lr=lr, out=str(lr)) for lr in (0.1, 0.2)]
    expected = [[lr, ["target", "retrain"]] for lr in (0.1, 0.2)]
    assert shared.results("title", count_calls, runs) == expected
    said = capsys.readouterr().out
    assert "   title  step 2/2" in said and "dropped" not in said
    assert shared.results("title", count_calls, [changed(r, steps=9) for r in runs]) == expected
    assert len(calls) == 2, "the function does not read steps"
    fewer = run._replace(rows=run.rows | {"world": run.rows["world"][:-1]})
    shared.results("title", count_calls, [changed(run, lr=0.4), changed(fewer, lr=0.1)])
    edit(monkeypatch, "tests.test_experiments", "count_calls", "dropped", "edited")
    shared.results("title", count_calls, runs[:1])
    assert len(calls) == 5
    with pytest.raises(processes.Refused, match="edited"):
        shared.make_result(count_calls, runs[0], "its name before.json")


def test_jobs_get_a_core_each_take_turns_on_a_gpu_and_can_be_sent(run, monkeypatch):
    seen = []
    monkeypatch.setattr(processes, "cores", lambda: 7)
    monkeypatch.setattr(processes, "side_by_side", lambda function, jobs, workers, threads: (
        seen.append((workers, threads)) or in_turn(function, jobs, workers, threads)))
    for device in ("cpu", "cuda"):
        shared.side_by_side("title", print, [(1,)], device)
    assert seen == [(7, 1), (1, 1)]
    for job in (shared.quietly, shared.make_result, train.train_one, tradeoff.outcome,
                tradeoff.references, ablate.unlearn_one):
        sent, own_run = pickle.loads(pickle.dumps((job, run)))
        assert sent is job and shared.result_name(job, own_run) == shared.result_name(job, run)


def test_models_are_trained_once_and_are_those_of_train_py(run, tmp_path, capsys):
    """train.py with two threads trains each with one."""
    run = changed(run, epochs=1, cache=str(tmp_path))
    shared.train_models([run])
    before, found = sorted(tmp_path.iterdir()), shared.trained(run)
    shared.train_models([run])
    torch.set_num_threads(2)
    stages = train.train_both(run)
    assert capsys.readouterr().out.count("  from ") == 4, "read, not trained"
    assert sorted(tmp_path.iterdir()) == before and len(before) == 2
    assert all(equal(found[title].model, stages[title].model) for title in found)


# ---- the comparison

def test_the_comparison_ranks_by_distance_and_goes_on_where_it_was(
        finished, tmp_path, monkeypatch, capsys):
    argv = ["--seeds", "1", "--only", "gdiff 0.9", *finished[0], "--steps", "1",
            "--out", str(tmp_path)]
    compare.main(argv)
    done = saved(tmp_path / "compare.json")
    references = tradeoff.References(**done["references"]["0"])
    for v in done["variants"]:
        r = tradeoff.Outcome(**v["runs"][0])
        assert v["areas"] == [tradeoff.area(r.path, references.enough)]
        assert v["distances"] == [tradeoff.distance(r.final, references)]
    distances = [v["distances"] for v in done["variants"]]
    assert distances == sorted(distances), "ranked by distance"
    text = (tmp_path / "table.txt").read_text("utf-8")
    assert text.strip() in capsys.readouterr().out and "4 runs" in text
    assert {p.name for p in tmp_path.iterdir()} == {"compare.json", "table.txt", "tradeoff.png"}
    monkeypatch.setattr(tradeoff, "look", None)            # interrupted, say, and started again
    compare.main(argv)
    assert saved(tmp_path / "compare.json") == done


def test_every_method_is_compared_with_sgd_and_adam_plain_and_where_it_can_with_the_level(run):
    """At the rates of flags.py; NGDiff with AutoLR has nothing to choose."""
    some = compare.variants(run.config, list(compare.METHODS))
    for c in (v.config for v in some if v.name in ("ngdiff, AutoLR", "gdiff 0.9")):
        assert c.lazy == (10 if c.method == "ngdiff" else 0)
        rate = flags.RATES["gdiff 0.9"][2 * c.level + (c.optimizer == "adam")]
        assert c.lr == (flags.FIRST_GUESS if c.lazy else rate)
    kinds = {(v.name, v.config.optimizer, v.config.level) for v in some}
    assert len(kinds) == len(some) == 2 * len(compare.METHODS) + 2 * (len(compare.METHODS) - 3)
    assert {v.config.method for v in some} == set(train.METHODS)
    assert {v.config.method for v in some if v.config.level}.isdisjoint(flags.NO_LEVEL)


def test_a_run_with_the_level_has_the_batch_that_train_py_takes_with_it(finished, monkeypatch):
    seen, outcome = [], ([tradeoff.Look(0, 1.0, 1.0)], None, "ran away", 0, 0.0)
    monkeypatch.setattr(shared, "results", lambda title, function, runs: (
        seen.extend(runs) or [outcome] * len(runs)))
    config, runs, _ = compare.ready(["--seeds", "1", *finished[0]])
    compare.run_all("title", compare.variants(config, ["gdiff 0.9"]),
                    {0: tradeoff.References({}, {}, 0.5)}, runs)
    for level in (False, True):
        argv = [*finished[0], *["--level"] * level]
        batch = train.prepare(flags.parse(train.Config, argv, "")).config.batch
        assert {r.config.batch for r in seen if r.config.level == level} == {batch}


def test_a_rate_is_tried_until_the_best_one_has_a_worse_one_on_either_side(
        finished, monkeypatch, capsys):
    """On distances that are known: lowest at 8 times the first rate; where none counts, by area."""
    first, seeds = {n: flags.RATES[n] for n in ("gdiff 0.9", "mgda")}, set()

    def run_all(title, some, found, runs):
        seeds.update(runs)
        for v in some:
            ratio = v.config.lr / first[v.name][2 * v.config.level + (v.config.optimizer == "adam")]
            counts = v.name == "gdiff 0.9"
            v.distances = [abs(math.log2(ratio) - 3) / 10 if counts else 1.0]
            v.areas = [0.5 if counts else 1 / ratio]

    monkeypatch.setattr(compare, "all_references", lambda runs: {})
    monkeypatch.setattr(compare, "run_all", run_all)
    monkeypatch.setattr(rates, "ROUNDS", 5)
    rates.main(["--only", *first, *finished[0]])
    gdiff = ", ".join(f"{8 * lr:g}" for lr in first["gdiff 0.9"])
    mgda = ", ".join(f"{lr / 2 ** 5:g}" for lr in first["mgda"])
    assert capsys.readouterr().out.endswith(f'"gdiff 0.9": ({gdiff}),\n"mgda": ({mgda}),\n')
    assert seeds == {compare.TUNING_SEED}


def test_the_table_and_the_figure_say_how_near_each_variant_came(run):
    summary, config = {"retain_rouge": 1.0, "forget_rouge": 0.5}, run.config
    outcome = lambda final: tradeoff.Outcome([tradeoff.Look(0, 1.0, 0.9)], final, "", 4, 0.4)
    a = compare.Variant("a", replace(config, lazy=0, lr=0.3), [outcome(summary)] * 2,
                        [0.2, 0.3], [1.0, 0.5])
    b = compare.Variant("b", replace(config, optimizer="adam"), [outcome(summary), outcome(None)],
                        [0.4, 1.0], [0.8, 0.5])
    c = compare.Variant("c", replace(config, level=True), [outcome(summary)] * 2,
                        [0.1, 1.0], [0.0, 0.0])
    head, first, second, gap, head2, third, gap2, target, retrain = compare.table(
        [a, b, c], dict.fromkeys((0, 1), tradeoff.References(summary, summary, 0.5))).splitlines()
    assert head.startswith("plain") and head2.startswith("with the level") and gap == gap2 == ""
    assert first.split()[:6] == ["a", "sgd", "0.3", "0.250±0.071", "2/2", "0.7500±0.3536"]
    assert second.split()[:5] == ["b", "adam", "fitted", "0.700±0.424", "0/2"]
    assert third.split()[:5] == ["c", "sgd", "fitted", "0.550±0.636", "1/2"], "1 is no first place"
    assert first.split()[-1] == "100±0", "milliseconds a step"
    assert "0.500±0.000" in retrain and "0.500±0.000" in second, "of those that did not run away"
    paths = {("a", "sgd", False): [(np.array([0, 1]), np.array([1, 0.9])),
                                   (np.array([0, 0.5]), np.array([1, 0.7]))],
             ("b", "adam", True): [(np.array([0, 1]), np.array([1, 1.1]))]}
    plain, _, _, level = tradeoff.draw(paths, ["a", "b"]).axes
    x, y = plain.lines[0].get_data()
    assert np.allclose(y, np.where(x <= 0.5, (0.1 + 0.3) / 2, (0.1 + 1) / 2)), "the seeds' mean"
    assert np.allclose(level.lines[0].get_ydata(), tradeoff.LEAST), "a gain is no loss"


# ---- ablations

def test_an_ablation_is_one_run_a_value(finished, run, trained, tmp_path):
    ablate.main(["lazy", *finished[0], "--out", str(tmp_path)])
    assert {p.name for p in tmp_path.iterdir()} == {"ablate.json", "table.txt"}
    done = saved(tmp_path / "ablate.json")
    assert [entry["lazy"] for entry in done] == [1, 5, 10, 50]
    # 6 steps: fitted at each of them, or only at the first
    assert done[0]["fits"] == done[-1]["fits"] + 5
    final = saved(finished[1] / "results.json")["models"]["ngdiff"]        # its lazy is 10 too
    assert done[2]["final"] == {k: final[k] for k in ablate.MEASURES if k in final}
    assert f"{done[2]['lr']}," in (finished[1] / "log.csv").read_text("utf-8").splitlines()[-1]
    level = ablate.unlearn_one(changed(run, level=True, steps=1), trained)
    assert 0 < level["final"]["row_low"] <= level["final"]["row_high"]
    away = ablate.unlearn_one(changed(run, method="ga", lazy=0, lr=1e38, steps=2), trained)
    lines = ablate.table("lazy", [away, level, level, level]).splitlines()
    assert "lazy 1 ga, step 1: loss_retain" in lines[1]
    assert lines[2].split()[:3] == ["lazy", "5", "1"]


@pytest.mark.parametrize("name", sorted(ablate.CASES))
def test_models_are_trained_for_each_value_that_needs_others(monkeypatch, tmp_path, name):
    seen, cases = {}, ablate.CASES[name]
    monkeypatch.setattr(shared, "train_models", lambda runs: seen.update(models=runs))
    monkeypatch.setattr(shared, "results", lambda title, function, runs: (
        seen.update(runs=runs) or [{"ran away": "loss nan"}] * len(runs)))
    ablate.main([name, "--authors", "40", "--out", str(tmp_path)])
    runs = seen["runs"]
    assert [{k: getattr(r.config, k) for k in case} for r, case in zip(runs, cases)] == cases
    assert seen["models"] == (runs if name in ("forget", "size") else runs[:1])
    models = {tuple(train.training_stage(r, title, 1).name for title in r.learned) for r in runs}
    assert len(models) == len(seen["models"])


# ---- run folders

def test_what_is_no_run_folder_is_refused_by_name(folder):
    path, good = folder / "config.json", saved(folder / "config.json")
    changes = ({"method": "sgd"}, {"steps": "6"}, {"lr": None}, {"threads": 0}, {"threads": "all"},
               {"made_of": []})
    for bad in ("{", "[]", "3", "{}", "\xff", *(json.dumps(good | change) for change in changes)):
        path.write_text(bad, "latin-1")
        with pytest.raises(ValueError, match=folder.name):
            folders.run_of(folder)
    path.unlink()
    with pytest.raises(ValueError, match=folder.name):
        folders.run_of(folder)


def with_config(folder, **change):
    text = json.dumps(saved(folder / "config.json") | change)
    (folder / "config.json").write_text(text, "utf-8")


def replace_rows(monkeypatch, folder):
    with open(saved(folder / "config.json")["data"], encoding="utf-8") as f:
        (folder / "other.jsonl").write_text("".join(f.readlines()[:-1]), "utf-8")
    with_config(folder, data=str(folder / "other.jsonl"))


@pytest.mark.parametrize("change, said", [
    (replace_rows, r"the rows of \S*other.jsonl have changed\."),
    (lambda m, folder: (folder / "model.pt").write_bytes(b"another"), "model.pt in the folder is"),
    (lambda m, folder: with_config(folder, c=0.8), "--c 0.9 -> 0.8"),
    (lambda m, _: edit(m, "ngdiff", "direction", "sub_", "add_"),
     r"run's: the code of ngdiff.direction has changed\."),
    (lambda m, _: edit(m, "data", "shuffled", "0", "1"), "the code of data.shuffled has changed"),
    (lambda m, _: m.setattr(torch, "__version__", "2.99"), r"torch \S+ -> 2.99"),
    (lambda m, _: m.setattr(data, "encode_rows", lambda tokenizer, rows: [
        data.encode(tokenizer, r["question"], r["answer"][:-1]) for r in rows]),
     "tokens of the rows")])
def test_another_model_than_the_runs_is_not_measured(folder, monkeypatch, capsys, change, said):
    change(monkeypatch, folder)
    for module, argv in ((ask, [str(folder), "Why?"]), (audit, [str(folder)])):
        assert re.search(said, refused(capsys, module, argv))


def test_a_run_on_a_gpu_is_read_on_the_cpu_from_its_checkpoints(
        folder, finished, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ask.main([str(folder), "Why?"])
    answers = capsys.readouterr().out.splitlines()[-4:]
    made_of = saved(folder / "config.json")["made_of"]
    old = [f"{title}-{names.digest(of)}" for title, of in made_of.items()]
    for of in made_of.values():
        of["settings"]["device"], of["processes"] = "cuda", 2
        if "target" in of:
            of["target"] = f"target-{names.digest(made_of['target'])}"
    new = [f"{title}-{names.digest(of)}" for title, of in made_of.items()]
    with_config(folder, device="cuda", made_of=made_of, cache=str(folder))
    assert "on cuda, by 2 process" in refused(capsys, ask, [str(folder), "Why?"])
    for a, b in zip(old, new):
        path, = (finished[1].parent / "cache").glob(f"{a}-*.state")
        shutil.copy(path, folder / path.name.replace(a, b))
    ask.main([str(folder), "Why?"])
    assert capsys.readouterr().out.splitlines()[-4:] == answers


def test_each_model_answers_each_question_on_a_line(folder, run, trained, monkeypatch, capsys):
    """With the run's threads, which are in its models' names. Nothing is written: the cache may be
    read-only."""
    monkeypatch.setattr(files, "write", None)
    monkeypatch.setattr(files, "check_folder", None)
    questions, expected = [run.rows[k][0]["question"] for k in ("forget", "world")], []
    stages = trained | {"ngdiff": train.unlearned(run, trained["target"])}
    for question in questions:
        tokens = run.tokenizer.encode_ordinary(question + "\n")
        expected += ["", question]
        for name, stage in stages.items():
            answer, = stage.model.generate([tokens], 99, run.tokenizer.eot_token)
            expected.append(f"{name:>12}: {' '.join(run.tokenizer.decode(answer).split())}")
    torch.set_num_threads(2)
    ask.main([str(folder), *questions])
    assert torch.get_num_threads() == 1
    assert capsys.readouterr().out.splitlines()[-len(expected):] == expected


# ---- audits

@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_weights_are_multiples_of_the_rows_step_and_off_by_half_of_it(trained, bits):
    model = trained["target"].model
    rounded = audit.quantized(model, bits)
    for p, q in zip(model.parameters(), rounded.parameters()):
        step = p.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
        levels = q / step
        assert torch.equal(p, q) if p.dim() < 2 else (
            ((q - p).abs() <= step * 0.5001).all() and levels.abs().max() < 2**bits / 2
            and torch.allclose(levels, levels.round(), atol=1e-3))
    assert rounded.lm_head.weight is rounded.transformer.wte.weight


def test_relearning_starts_at_the_models_own_probability_and_leaves_it_alone(
        run, trained, monkeypatch):
    target, forget = trained["target"].model, run.examples["forget"]
    monkeypatch.setattr(audit, "RELEARN_STEPS", 8)
    before = copy.deepcopy(target)
    curve = audit.relearn(target, forget[:1], forget[1:], "cpu")
    own = metrics.probability([x.mean() for x in measuring.token_losses(target, forget[1:])])
    assert curve[0] == own and len(curve) == 8 // 2 + 1 and equal(before, target)
    known = audit.relearn(run.initial, forget[:1], forget[:1], "cpu")
    assert known[-1] > known[0], "what is trained on is learned"
    *_, part = audit.relearning(target, forget, "cpu", "mlp")
    pairs = zip(target.named_parameters(), part.parameters())
    assert {n for (n, a), b in pairs if not torch.equal(a, b)} == {
        n for n, _ in target.named_parameters() if "mlp" in n}, "only the named part is trained"


def test_extraction_strength_of_a_model_that_knows_and_one_that_does_not(run):
    class Oracle:                              # says all but the first `wrong` labels right
        def __init__(self, wrong):
            self.wrong = wrong

        def logits(self, batch):
            labels = batch.labels.clone()
            labels[:self.wrong] += 1
            return torch.nn.functional.one_hot(labels, 1000)
    forget = run.examples["forget"]
    answers = [len(e.tokens) - e.n_prompt - 1 for e in forget]
    for wrong in (0, 2):
        assert audit.extraction(Oracle(wrong), forget, "cpu") == pytest.approx(
            np.mean([1 - wrong / n for n in answers]))


def test_an_audit_reports_every_model_and_learns_a_quarter_again(folder, run, capsys, monkeypatch):
    seen, forget, curve = [], run.examples["forget"], [i / 100 for i in range(21)]
    monkeypatch.setattr(train, "train_both", None)                # the run's own models are read
    monkeypatch.setattr(audit, "relearn", lambda model, known, other, device: (
        seen.append((known, other)) or curve))
    audit.main([str(folder)])
    audits, said = saved(folder / "audit.json"), capsys.readouterr().out
    assert seen == [(forget[::4], [e for i, e in enumerate(forget) if i % 4])] * 4
    assert list(audits) == ["target", "retrain", "ngdiff", "fresh"]
    assert audits["target"]["forget_rouge float32"] > audits["fresh"]["forget_rouge float32"]
    for numbers in audits.values():
        assert numbers.pop("relearn_curve") == curve
        assert [numbers[f"relearn_prob {n}"] for n in (0, 10, 20, 40)] == [0, 0.05, 0.1, 0.2]
        assert all(name in said for name in numbers) and "forget_rouge rephrased" in numbers
    row = run.rows["forget"][0]
    assert audit.rephrased([row, {"question": "q", "answer": "a"}]) == [
        row | {"question": row["paraphrased_question"]}]
    assert (folder / "audit.png").exists()


# ---- what relearning finds

def test_the_trained_quarter_is_not_measured(run, trained, monkeypatch):
    model, forget = trained["target"].model, run.examples["forget"]
    monkeypatch.setattr(audit, "RELEARN_STEPS", 10)
    before, after = relearn.curve(run, model, relearn.quarter(run))
    assert before == audit.mean_probability(model, [e for i, e in enumerate(forget) if i % 4])
    assert len(relearn.quarter(run, "retain")) == len(relearn.quarter(run)) == 1
    kinds = relearn.which(run, model)
    assert kinds["same author as a trained row"] == pytest.approx([before, after])
    assert "question 2" in kinds and "another author" not in kinds, "there is one author"
    assert {relearn.author(row) for row in run.rows["forget"]} == {
        " ".join(run.rows["forget"][0]["answer"].split()[:2])}
    small = relearn.decayed(changed(run, lazy=0, lr=1e-10, steps=3), model, 0.1)
    for p, q in zip(model.parameters(), small.parameters()):
        assert torch.allclose(q, p * 0.9**3, rtol=1e-4, atol=1e-7), "a share goes at each step"


# ---- pictures

def test_a_picture_follows_the_run_that_train_py_makes(run, trained):
    """Looking along d leaves it as it is."""
    target, weigh = trained["target"].model, pictures.VARIANTS["NGDiff: both norms"]
    log, model = pictures.follow(run, target, weigh, every=5)
    stage = train.unlearned(run, trained["target"])
    assert equal(model, stage.model)
    assert all(row.items() >= {k: of[k] for k in ("lr", "status", "loss_forget")}.items()
               for row, of in zip(log, stage.log, strict=True))
    assert ["narrow" in row for row in log] == [False] * 5 + [True]
    whole, _ = pictures.follow(changed(run, batch=400), target, weigh, every=5)
    assert whole[5]["own batch"] == pytest.approx(whole[5]["all rows"]), "the batch is all rows"
    short, _ = pictures.follow(run, target, lambda numbers: (1e38, 1e38))
    assert 0 < len(short) < 6, "the log ends where the numbers run away"


@pytest.mark.parametrize("name, picture, line", [
    ("norms", "norms.png", "retain norm dropped"), ("rows", "forget_rows.png", "ngdiff, level"),
    ("swing", "swing.png", "curvature")])
def test_each_picture_is_drawn_from_the_cached_models(
        finished, tmp_path, capsys, name, picture, line):
    pictures.main([name, *finished[0], "--out", str(tmp_path)])
    assert [p.name for p in tmp_path.iterdir()] == [picture] and line in capsys.readouterr().out


def test_each_rows_point_has_the_same_place_under_every_model():
    """From left to right as the first model, the target, knows them."""
    losses = {"target": (np.array([3, 1, 2]), np.ones(2)),
              "other": (np.array([6, 4, 5]), np.ones(2))}
    lines = pictures.draw_rows(losses).axes[0].lines         # forget, holdout and mean of each
    assert [lines[i].get_ydata().tolist() for i in (0, 3)] == [[1, 2, 3], [4, 5, 6]]


# ---- mistakes

@pytest.mark.parametrize("module, argv, named", [
    (compare, "--seeds 0", "--seeds 0"), (compare, "--seeds 101", "--seeds 101"),
    (compare, "--seeds many", "--seeds.*'many'"), (compare, "--typo", "--typo"),
    (compare, "--method ga", "--method"), (compare, "--lazy 0", "--lazy"),
    (compare, "--seed 1", "--seed:"), (compare, "--seed=1", "--seed:"),
    (compare, "--steps 0", "--steps 0"), (compare, "--data muse", "--data muse"),
    (ablate, "", "NAME"), (ablate, "norms", "'norms'"), (ablate, "lazy --lazy 3", "--lazy"),
    (ablate, "batch --data muse", "--data muse"), (ablate, "forget --data ROWS", "--forget"),
    (pictures, "curves", "'curves'"), (pictures, "swing --level", "--level"),
    (pictures, "norms --optimizer adam", "--optimizer"), (pictures, "rows --method npo", "npo"),
    (relearn, "--data muse", "--data muse"), (rates, "--only sgd", "'sgd'"),
    (audit, "", "RUN_FOLDER"), (audit, "nowhere", "nowhere"), (audit, "a b", "b"),
    (ask, "nowhere Why?", "nowhere"), (ask, "nowhere", "QUESTION")])
def test_a_mistake_gets_one_line_and_writes_nothing(
        capsys, finished, tmp_path, monkeypatch, module, argv, named):
    monkeypatch.chdir(tmp_path)
    argv = argv.replace("ROWS", str(finished[1].parent / "rows.jsonl")).split()
    assert re.search(named, refused(capsys, module, argv))
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_asked_or_audited_is_refused(folder, run, monkeypatch, capsys):
    room = run.initial.config.block_size
    longest = "When" + " and" * (room - 3)                   # and the line's end
    assert len(ask.prompt(run, longest)) == room - 1
    for question in (" ", longest + " and"):
        refused(capsys, ask, [str(folder), question])
    one = run._replace(rows=run.rows | {"forget": run.rows["forget"][:1]})
    monkeypatch.setattr(folders, "run_of", lambda folder: (one, {}))
    assert "one forget row" in refused(capsys, audit, [str(folder)])
