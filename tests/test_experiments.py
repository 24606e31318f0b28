"""experiments/: the comparison, the ablations, the audits and the questions say what was run."""
import copy
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import metrics
import train
from conftest import SMALL, ready, refused, spy
from experiments import (ablate, ask, audit, batches, compare, folders, pictures, rates, relearn,
                         shared, tradeoff)
from harness import files, flags, names, processes, report, sources

pytestmark = pytest.mark.usefixtures("in_this_process", "no_drawing")


@pytest.fixture(scope="module")
def cache(plain, tmp_path_factory):
    return shutil.copytree(plain[0], tmp_path_factory.mktemp("experiments") / "cache")


@pytest.fixture(scope="module")
def words(cache):
    """Flags of the run that all tests share."""
    return [*SMALL, "--cache", str(cache)]


@pytest.fixture(scope="module")
def run(cache):
    return ready(cache)


@pytest.fixture(scope="module")
def trained(run):
    return train.train_both(run)


@pytest.fixture
def folder(plain, tmp_path):
    return shutil.copytree(plain[1], tmp_path / "folder")


def changed(run, **change):
    return run._replace(config=replace(run.config, **change))


def equal(a, b):
    return all(map(torch.equal, a.parameters(), b.parameters()))


def saved(path):
    return json.loads(path.read_text("utf-8"))


def edit(monkeypatch, name):
    """As if the code of `name` were edited."""
    reach = names.reach

    def edited(starts):
        code, settings = reach(starts)
        return {k: "edited" if k == name else of for k, of in code.items()}, settings
    monkeypatch.setattr(names, "reach", edited)


@pytest.mark.parametrize("forget_rouge, utility, area", [
    ([1, 0.8], [0.9, 0.9], 1), ([1], [0.9], 0), ([1, 0.8], [0.9, 0], 0),
    ([1, 0.9], [0.9, 0.9], 0.5), ([1, 0], [0.9, 0.27], 0.3),
    ([1, 0.9, 0.7], [0.9, 0.9, 0.45], 0.75), ([1, 0.8], [0.9, 1.8], 1),
    ([1, 0.9, 0.8], [0.9, 0, 0.9], 1), ([1, 0.7, 0.9], [0.9, 0.45, 0.9], 0.75)])
def test_the_area_is_that_under_the_best_utility_from_target_to_retrained_model(
        forget_rouge, utility, area):
    path = [tradeoff.Look(0, *x) for x in zip(forget_rouge, utility)]
    assert tradeoff.area(*tradeoff.shares(path, 0.8)) == pytest.approx(area)


@pytest.mark.parametrize("final, expected", [
    ((0.8, 0.5, 0, 1), 0), ((1, 0.9, -4, 1), 1), ((0.8, 0.5, 0, 0.98), 1),
    ((0.9, 0.5, 0, 1), 0.5 / 3), ((0.7, 0.5, 0, 1), 0.5 / 3), ((0.8, 0.3, -1, 1), 0.75 / 3),
    ((0, 0.5, 0, 1), 1), ((0.9, None, 0, 1), 0.25), ((), 1)])
def test_the_distance_is_0_at_the_retrained_model_and_1_at_the_target(final, expected):
    summary = lambda *x: {k: v for k, v in zip((*tradeoff.DISTANCES, "retain_rouge"), x)
                          if v is not None} or None
    references = tradeoff.References(summary(1, 0.9, -4), summary(0.8, 0.5, 0), 0.8)
    assert tradeoff.distance(summary(*final), references) == pytest.approx(expected)


@pytest.mark.parametrize("target", [(0.8, 0.9), (0.9, 0)])
def test_a_seed_with_nothing_to_forget_ends_the_comparison(run, trained, monkeypatch, target):
    looks = iter((target, (0.8, 0.9)))
    monkeypatch.setattr(tradeoff, "look", lambda *_: tradeoff.Look(0, *next(looks)))
    with pytest.raises(FloatingPointError, match="--epochs"):
        tradeoff.references(run, trained)


def test_a_look_is_rouge_and_probability_of_its_three_sets(run, trained):
    model, rows = trained["target"].model, run.rows | {"retain": run.rows["retain"][::8]}
    forget, *others = (report.evaluate(model, run.tokenizer, {"": sources.plain(rows[k])})[""]
                       for k in ("forget", "retain", "world"))
    parts = [x for m in others for x in (metrics.probability(m["loss"]), np.mean(m["rouge"]))]
    look = tradeoff.look(run, model, 3)
    assert look.step == 3 and look.forget_rouge == pytest.approx(np.mean(forget["rouge"]))
    assert look.utility == pytest.approx(len(parts) / sum(1 / x for x in parts), rel=1e-5)


def test_a_run_of_the_comparison_or_of_an_ablation_is_the_run_that_train_py_makes(
        run, trained, plain, monkeypatch):
    monkeypatch.setattr(tradeoff, "LOOK_EVERY", 4)
    out = tradeoff.outcome(run, trained)
    assert [x.step for x in out.path] == [0, 4, 8, 12] and not out.ran_away
    whole = saved(plain[1] / "results.json")["models"]["ngdiff"]
    for k in {*compare.COLUMNS, "retain_prob", "forget_truth_ratio"} & whole.keys():
        assert out.final[k] == pytest.approx(whole[k], rel=1e-9), "all but some truth ratios"
    final = ablate.unlearn_one(run, trained)["final"]
    assert final == {k: whole[k] for k in ablate.MEASURES if k in whole}
    level = ablate.unlearn_one(changed(run, level="row", steps=1), trained)["final"]
    assert 0 < level["row_low"] <= level["row_high"]


def test_a_ruined_run_is_given_up_and_numbers_that_run_away_are_said(run, trained, monkeypatch):
    utility, away = iter((0.8, 0.8, 0.8, 0.081, 0.079)), changed(run, method="ga", lazy=0, lr=1e38)
    monkeypatch.setattr(tradeoff, "LOOK_EVERY", 1)
    monkeypatch.setattr(tradeoff, "look", lambda run, model, step: tradeoff.Look(
        step, 1.0, next(utility)))
    out = tradeoff.outcome(away, trained)
    assert out.final is None and "loss_retain" in out.ran_away
    assert "loss_retain" in ablate.unlearn_one(away, trained)["ran away"]
    assert [x.step for x in tradeoff.outcome(run, trained).path] == [0, 1, 2]


def test_the_comparison_ranks_by_distance_and_goes_on_where_it_was(
        words, tmp_path, monkeypatch):
    """Each run with the batch that train.py takes: half of 27 rows, with the level a sixth."""
    monkeypatch.setattr(tradeoff, "end", lambda run, model, retrain: {
        "retain_rouge": 1, "forget_rouge": 0 if model is retrain else run.config.lr})
    rouge = iter(range(99, 0, -1))
    monkeypatch.setattr(tradeoff, "look", lambda run, model, step: tradeoff.Look(
        step, next(rouge), 0.9))
    argv = ["--seeds", "1", "--only", "gdiff 0.9", *words, "--steps", "1",
            "--out", str(tmp_path)]
    seen = spy(monkeypatch, shared, "results", lambda title, function, runs, *_: runs)
    drawn = spy(monkeypatch, report, "png", lambda fig, *_: [len(ax.lines) for ax in fig.axes])
    compare.main(argv)
    assert drawn == [[1, 1, 1, 1]], "SGD and Adam, plain and with the level"
    assert {(r.config.level, r.config.batch) for runs in seen for r in runs} == {
        ("", 14), ("row", 5)}
    done = saved(tmp_path / "compare.json")
    distances = [v["distances"] for v in done["variants"]]
    assert len(distances) == 4 and distances == sorted(distances) != distances[::-1]
    monkeypatch.setattr(tradeoff, "look", None)            # interrupted, say, and started again
    compare.main(argv)
    assert saved(tmp_path / "compare.json") == done


def test_every_method_is_compared_with_sgd_and_adam_plain_and_where_it_can_with_the_level(run):
    configs = {level: replace(run.config, level=level) for level in compare.LEVELS}
    some = compare.variants(configs, list(compare.METHODS))
    kinds = {(v.name, v.config.optimizer, v.config.level): v.config for v in some}
    assert len(kinds) == len(some) == 2 * len(compare.METHODS) + 2 * (len(compare.METHODS) - 3)
    assert {v.config.method for v in some} == set(train.METHODS)
    assert kinds["gdiff 0.9", "adam", "row"].lr == flags.RATES["gdiff 0.9"][3]
    assert kinds["ngdiff, AutoLR", "sgd", ""].lr == flags.FIRST_GUESS


def test_a_rate_is_tried_until_the_best_one_has_a_worse_one_on_either_side(
        words, monkeypatch, capsys):
    """On distances that are known, lowest at 8 times the first rate."""
    def run_all(title, some, found, runs):
        assert list(runs) == [compare.TUNING_SEED]
        for v in some:
            ratio = v.config.lr / flags.default_rate(v.config)
            v.distances, v.areas = [abs(math.log2(ratio) - 3)], [0.0]

    monkeypatch.setattr(compare, "all_references", lambda runs: {})
    monkeypatch.setattr(compare, "run_all", run_all)
    rates.main(["--only", "gdiff 0.9", *words])
    expected = ", ".join(f"{8 * lr:g}" for lr in flags.RATES["gdiff 0.9"])
    assert capsys.readouterr().out.endswith(f'"gdiff 0.9": ({expected}),\n')
    assert rates.best_rate({1: (1.0, 0.2), 2: (1.0, 0.3)}) == 2, "none counts: by area"


def test_the_table_says_how_near_each_variant_came(run):
    final, config = {"retain_rouge": 1.0, "forget_rouge": 0.5}, run.config
    runs = [tradeoff.Outcome([], final, ""), tradeoff.Outcome([], None, "ran away")]
    some = [compare.Variant("a", replace(config, lazy=0, lr=0.3), runs, [0.2, 0.3], [1.0, 0.5]),
            compare.Variant("b", replace(config, optimizer="adam"), runs, [0.4, 1], [0.8, 0.5]),
            compare.Variant("c", replace(config, level="row"), runs, [0.1, 1], [0, 0])]
    found = dict.fromkeys((0, 1), tradeoff.References(final, final, 0.5))
    _, a, b, _, _, c, *_ = compare.table(some, found).splitlines()
    assert a.split()[:6] == ["a", "sgd", "0.3", "0.250±0.071", "2/2", "0.7500±0.3536"]
    assert b.split()[:5] == ["b", "adam", "fitted", "0.700±0.424", "0/2"]
    assert c.split()[:5] == ["c", "sgd", "fitted", "0.550±0.636", "1/2"], "1 is no first place"
    assert "0.500±0.000" in b, "of the runs that did not run away"


def count_calls(one, stages):          # `run` is the name of more in this file: it would be reached
    count_calls.calls.append(one.config.lr)
    return [one.config.lr, list(stages)]


def test_results_are_in_order_and_made_once(run, monkeypatch):
    count_calls.calls = []
    runs = [changed(run, lr=lr, out=str(lr)) for lr in (0.1, 0.2)]
    for some in (runs, [changed(r, steps=9) for r in runs]):       # the function reads no steps
        assert shared.results("title", count_calls, some) == [
            [lr, ["target", "retrain"]] for lr in (0.1, 0.2)]
    assert len(count_calls.calls) == 2
    before = shared.result_path(count_calls, runs[0], {})
    fewer = run._replace(rows=run.rows | {"world": run.rows["world"][:-1]})
    for other in (changed(fewer, lr=0.1), changed(run, lr=0.1, train_lr=0.1), runs[1]):
        assert shared.result_path(count_calls, other, {}) != before
    assert shared.result_path(count_calls, runs[0], {"other": True}) != before
    edit(monkeypatch, "tests.test_experiments.count_calls")
    with pytest.raises(processes.Refused, match="edited"):
        shared.result(count_calls, runs[0], {}, before)


@pytest.mark.parametrize("name, models", [("forget", 3), ("size", 3), ("steps", 1)])
def test_models_are_trained_for_each_value_that_needs_others(monkeypatch, tmp_path, name, models):
    seen, cases = [], ablate.CASES[name]
    monkeypatch.setattr(shared, "train_models", seen.append)
    monkeypatch.setattr(shared, "results", lambda title, function, runs: (
        seen.append(runs) or [{"ran away": "loss nan", "steps": 7}] * len(runs)))
    ablate.main([name, "--authors", "40", "--out", str(tmp_path)])
    own, runs = seen
    assert (tmp_path / "table.txt").read_text("utf-8").count("loss nan\n") == len(cases)
    assert [{k: getattr(r.config, k) for k in case} for r, case in zip(runs, cases)] == cases
    assert [r["case"] for r in saved(tmp_path / "ablate.json")] == cases, "beside r's own steps"
    assert len(own) == len({train.training_stage(r, "retrain", 1).name for r in runs}) == models


def with_config(folder, **change):
    text = json.dumps(saved(folder / "config.json") | change)
    (folder / "config.json").write_text(text, "utf-8")


@pytest.mark.parametrize("said, change", [
    ("changed: rows", lambda m, folder: with_config(folder, authors=12)),
    ("settings c", lambda m, folder: with_config(folder, c=0.8)),
    ("steps", lambda m, folder: with_config(folder, epochs=1)),
    ("model.pt", lambda m, folder: (folder / "model.pt").write_bytes(b"another")),
    ("code ngdiff.direction", lambda m, _: edit(m, "ngdiff.direction")),
    ("code data.shuffled", lambda m, _: edit(m, "data.shuffled")),
    ("torch", lambda m, _: m.setattr(torch, "__version__", "2.99")),
    ("no run folder", lambda m, folder: (folder / "config.json").write_text("{}"))])
def test_another_model_than_the_runs_is_not_measured(folder, monkeypatch, said, change):
    change(monkeypatch, folder)
    with pytest.raises(ValueError, match=said):
        folders.run_of(folder)


def test_a_run_on_a_gpu_is_read_on_the_cpu_from_its_checkpoints(
        folder, plain, trained, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made_of = saved(folder / "config.json")["made_of"]
    old = [f"{title}-{names.digest(of)}" for title, of in made_of.items()]
    for of in made_of.values():
        of["settings"]["device"], of["processes"] = "cuda", 2
    made_of["ngdiff"]["target"] = f"target-{names.digest(made_of['target'])}"
    with_config(folder, device="cuda", made_of=made_of, cache=str(folder))
    with pytest.raises(ValueError, match="on cuda, by 2 process"):
        folders.run_of(folder)
    for a, (title, of) in zip(old, made_of.items()):
        path, = (plain[0]).glob(f"{a}-*.state")
        shutil.copy(path, folder / path.name.replace(a, f"{title}-{names.digest(of)}"))
    models = folders.models_in(*folders.run_of(folder))
    assert all(equal(models[title], trained[title].model) for title in trained)


def test_each_model_answers_each_question_on_a_line(folder, run, trained, monkeypatch, capsys):
    """With the run's threads. Nothing is written: the cache may be read-only."""
    monkeypatch.setattr(files, "write", None)
    question, models = run.rows["world"][0]["question"], folders.models_in(*folders.run_of(folder))
    tokens, expected = run.tokenizer.encode_ordinary(question + "\n"), ["", question]
    for name, model in models.items():
        answer, = model.generate([tokens], 99, run.tokenizer.eot_token)
        expected.append(f"{name:>12}: {' '.join(run.tokenizer.decode(answer).split())}")
    torch.set_num_threads(2)
    ask.main([str(folder), question, question])
    assert capsys.readouterr().out.splitlines()[-10:] == 2 * expected
    for question in (" ", "When" + " and" * run.initial.config.block_size):
        with pytest.raises(ValueError):
            ask.prompt(run, question)


def test_rounded_weights_are_multiples_of_the_rows_step_and_off_by_half_of_it(run):
    for p, q in zip(run.initial.parameters(), audit.quantized(run.initial, 4).parameters()):
        step = p.abs().amax(-1, keepdim=True) / 7                      # 4 bits: -7 to 7
        assert torch.equal(p, q) if p.dim() < 2 else (
            ((q - p).abs() <= step * 0.5001).all()
            and torch.allclose(q / step, (q / step).round(), atol=1e-3))


def test_relearning_trains_a_copy_on_a_quarter_and_measures_the_others(run, trained, monkeypatch):
    model, forget = trained["target"].model, run.examples["forget"]
    monkeypatch.setattr(audit, "RELEARN_STEPS", 10)
    before, others = copy.deepcopy(model), [e for i, e in enumerate(forget) if i % 4]
    curve = relearn.curve(run, model, relearn.quarter(run))
    assert curve[0] == audit.mean_probability(before, others) != curve[1] and equal(before, model)
    assert relearn.which(run, model)["same author as a trained row"] == pytest.approx(curve)
    *_, part = audit.relearning(model, forget, "cpu", "mlp")
    assert audit.mean_probability(part, forget) > audit.mean_probability(model, forget)
    for (name, a), b in zip(model.named_parameters(), part.parameters()):
        assert torch.equal(a, b) == ("mlp" not in name)


def test_an_audit_reports_every_model_and_learns_a_quarter_again(folder, run, capsys, monkeypatch):
    forget, curve = run.examples["forget"], [i / 100 for i in range(21)]
    others = [e for i, e in enumerate(forget) if i % 4]
    monkeypatch.setattr(train, "train_both", None)                # the run's own models are read
    monkeypatch.setattr(audit, "relearning", lambda model, known, device: (
        curve if known == forget[::4] else None))
    monkeypatch.setattr(audit, "mean_probability", lambda p, other: p if other == others else -1)
    monkeypatch.setattr(audit, "rouge", lambda run, model, rows: len(rows))
    audit.main([str(folder)])
    audits, said = saved(folder / "audit.json"), capsys.readouterr().out
    assert list(audits) == ["target", "retrain", "ngdiff", "fresh"]
    for name in ("extraction_strength", "exact_memorisation"):
        assert audits["target"][name] > audits["fresh"][name]
    for numbers in audits.values():
        assert numbers.pop("relearn_curve") == curve
        assert [numbers[f"relearn_prob {n}"] for n in (0, 10, 20, 40)] == [0, 0.05, 0.1, 0.2]
        assert all(name in said for name in numbers) and "forget_rouge rephrased" in numbers


def test_a_picture_follows_the_run_that_train_py_makes(run, trained):
    target, weigh = trained["target"].model, pictures.VARIANTS["NGDiff: both norms"]
    log, model = pictures.follow(run, target, weigh, every=5)
    assert equal(model, train.unlearned(run, trained["target"]).model)
    assert ["narrow" in row for row in log] == [t in (5, 10) for t in range(12)]
    short, _ = pictures.follow(run, target, lambda numbers: (1e38, 1e38))
    assert 0 < len(short) < 12, "the log ends where the numbers run away"


@pytest.mark.parametrize("name, steps, picture, line", [
    ("norms", "2", "norms.png", "retain norm dropped"),
    ("rows", "6", "forget_rows.png", "ngdiff, level"), ("swing", "6", "swing.png", "curvature")])
def test_each_picture_is_drawn_from_the_cached_models(
        words, tmp_path, capsys, name, steps, picture, line):
    pictures.main([name, *words, "--steps", steps, "--out", str(tmp_path)])
    assert [p.name for p in tmp_path.iterdir()] == [picture] and line in capsys.readouterr().out


@pytest.mark.parametrize("module, argv, named", [
    (compare, "--seeds 101", "--seeds 101"), (compare, "--seed=1", "--seed:"),
    (compare, "--authors 4 --data muse", "--data muse"), (rates, "--only sgd", "'sgd'"),
    (ablate, "norms", "'norms'"), (ablate, "lazy --lazy 3", "--lazy"),
    (pictures, "swing --level", "--level"), (pictures, "rows --authors 4 --method npo", "npo"),
    (audit, "nowhere", "config.json"), (ask, "nowhere", "QUESTION")])
def test_a_mistake_gets_one_line(capsys, tmp_path, monkeypatch, module, argv, named):
    monkeypatch.chdir(tmp_path)
    assert named in refused(capsys, argv.split(), module.main) and not list(tmp_path.iterdir())


def test_batches_compare_the_four_ways_on_the_same_steps(words, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "SIZES", (4, 6))
    steps = spy(monkeypatch, batches.ngdiff, "step", lambda retain, *_, probe_on, budget, memory: (
        [f.args[1].rows.tokens.tolist() for f in (retain[0], probe_on[0])], budget, memory))
    maps = spy(monkeypatch, report, "png", lambda fig, *_: [
        [t.get_text() for t in ax.texts] for ax in fig.axes if ax.get_title() and ax.get_xlabel()])
    batches.main(["--seeds", "1", *words, "--steps", "2", "--out", str(tmp_path)])
    done = saved(tmp_path / "batches.json")
    assert maps == [[[f"{row['ends'][0][k]:.2f}" for row in done] for k in ("retain_prob", "off")]]
    assert [(row["way"], row["rows"]) for row in done] == [
        (way, size) for way in batches.WAYS for size in (4, 6)]
    printed, another, budget, both = (steps[i:i + 4] for i in range(0, 16, 4))
    assert all(own == seen for (own, seen), *_ in printed)
    assert all(own != seen for (own, seen), *_ in another)
    for some in budget, both:
        assert all(seen == some[0][0][1] for (_, seen), *_ in some), "the same rows at each step"
    assert [some[0][1:] for some in (printed, another, budget, both)] == [
        (None, 0), (None, 0), (0.1, 0), (0.1, train.MEMORY)]
    assert [own for (own, _), *_ in printed] == [own for (own, _), *_ in both]
    text = (tmp_path / "table.txt").read_text("utf-8")
    assert text.count("\n") == 9 and all(way in text for way in batches.WAYS)
