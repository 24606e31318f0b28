"""experiments/: the comparison, the ablations, the audits and the questions say what was run."""
import json
import math
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import metrics
import ngdiff
import train
from conftest import in_turn
from experiments import (ablate, ask, audit, compare, forget_rows, rates, relearn, shared, swing,
                         tradeoff)
from harness import flags, measuring, processes, report

pytestmark = pytest.mark.usefixtures("in_this_process")
SMALL = ("--authors 10 --epochs 50 --train_batch 40 --train_lr 2e-2 --n_layer 1 --n_embd 32 "
         "--n_head 2 --steps 6 --device cpu").split()
INF, NAN = float("inf"), float("nan")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config(cache, tmp_path):
    return flags.parse(train.Config, [*SMALL, "--cache", str(cache), "--out", str(tmp_path)], "")


@pytest.fixture
def run(config):
    return train.prepare(config)


@pytest.fixture
def folder(run, tmp_path):
    """A run folder, as far as the experiments read it."""
    about = report.about(run.config, run.initial.config)
    (tmp_path / "config.json").write_text(json.dumps(about), "utf-8")
    return tmp_path


def go(module, cache, out, argv):
    """main() of an experiment that takes train.py's flags; its own come first."""
    own, _, others = argv.partition(" -- ")
    return module.main([*own.split(), *SMALL, "--cache", str(cache), "--out", str(out),
                        *others.split()])


def saved(path):
    return json.loads(path.read_text("utf-8"))


# ---- the area

def test_the_area_is_the_integral_of_the_best_utility_still_to_be_had():
    rng = np.random.default_rng(3)
    for _ in range(9):
        f, u = rng.uniform(-0.2, 1.3, 9), rng.uniform(0, 1.2, 9)
        x = (np.arange(1000) + 0.5) / 1000
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
    ([0, 7], [1, 0.3], 0.3), ([0, 0.5, 1], [1, 1, 0.5], 0.75)])
def test_areas_known_beforehand(f, u, area):
    assert tradeoff.area_under_utility(f, u) == pytest.approx(area)


@pytest.mark.parametrize("f, u", [([0.0, NAN], [1.0, 1.0]), ([0.0, 1.0], [1.0, INF]),
                                  ([0.0], [1.0, 1.0]), ([], [])])
def test_an_area_of_what_is_no_number_is_refused(f, u):
    with pytest.raises(ValueError):
        tradeoff.area_under_utility(f, u)


def test_a_path_counts_from_the_target_to_the_retrained_model():
    path = [tradeoff.Look(4 * i, *x) for i, x in enumerate(((1.0, 0.9), (0.9, 0.9), (0.7, 0.45)))]
    forgetting, utility = tradeoff.shares(path, 0.8)
    assert forgetting == pytest.approx([0, 0.5, 1.5]) and utility == pytest.approx([1, 1, 0.5])
    assert tradeoff.area(path, 0.8) == pytest.approx(0.5 * 1 + 0.5 * 0.5)


@pytest.mark.parametrize("target, retrain, ends", [
    ((0.8, 0.9), (0.8, 0.9), True), ((0.8, 0.0), (0.5, 0.9), True),
    ((0.8, 0.9), (0.7, 0.0), False)])
def test_a_seed_with_nothing_to_forget_ends_the_comparison(run, monkeypatch, target, retrain, ends):
    found = iter((target, retrain))
    monkeypatch.setattr(tradeoff, "look", lambda *_: tradeoff.Look(0, *next(found)))
    if ends:
        with pytest.raises(FloatingPointError, match="--epochs"):
            tradeoff.references(run)
    else:
        assert tradeoff.references(run).enough == 0.7


# ---- one run of the comparison

def test_a_look_is_rouge_and_probability_of_its_three_sets(run):
    """Against the whole measure of each set."""
    model = shared.models_of(run)["target"]
    rows = {"forget": run.rows["forget"], "retain": run.rows["retain"][::8],
            "world": run.rows["world"]}
    plain = {k: [{"question": r["question"], "answer": r["answer"]} for r in v]
             for k, v in rows.items()}
    m = {k: measuring.measure(model, run.tokenizer, v) for k, v in plain.items()}
    numbers = [x for k in ("retain", "world")
               for x in (metrics.probability(m[k]["loss"]), np.mean(m[k]["rouge"]))]
    look = tradeoff.look(run, model, 3)
    assert look.step == 3 and look.forget_rouge == pytest.approx(np.mean(m["forget"]["rouge"]))
    assert look.utility == pytest.approx(len(numbers) / sum(1 / x for x in numbers), rel=1e-5)


def test_a_run_is_the_run_that_train_py_makes(run):
    state = shared.states_of(run)["ngdiff"]
    out = tradeoff.outcome(run)
    assert out.steps == state.step == 6
    assert [x.step for x in out.path] == [0, 6], "the last step is looked at too"
    models = shared.models_of(run)
    measured = [report.evaluate(m, run.tokenizer, run.rows)
                for m in (state.model, models["retrain"])]
    whole = measuring.summary(*measured)
    for k in {*compare.COLUMNS, "retain_prob", "forget_truth_ratio"} & whole.keys():
        assert out.final[k] == pytest.approx(whole[k], rel=1e-6), "all but truth ratios"
    assert out.ran_away == ""


def test_a_ruined_run_is_given_up(config, monkeypatch):
    monkeypatch.setattr(tradeoff, "LOOK_EVERY", 1)
    run = train.prepare(replace(config, method="ga", autolr=False, lr=1.0, steps=60))
    out = tradeoff.outcome(run)
    assert out.steps == out.path[-1].step < 60
    left = [x.utility < 0.1 * out.path[0].utility for x in out.path]
    assert left == [False] * (len(left) - 1) + [True]


def test_numbers_that_run_away_are_said_and_not_counted(config):
    run = train.prepare(replace(config, method="ga", autolr=False, lr=1e38))
    out = tradeoff.outcome(run)
    assert out.final is None and "loss_retain" in out.ran_away
    assert [x.step for x in out.path] == [0] and tradeoff.area(out.path, 0.0) == 0
    assert compare.spread([1.0, None, 3.0]) == "2.000±1.414" and compare.spread([None]) == "-"


def test_the_distance_is_0_at_the_retrained_model_and_1_at_the_target():
    summary = lambda rouge, auc, quality, retain=1.0: {
        "forget_rouge": rouge, "membership_auc": auc, "log10_forget_quality": quality,
        "retain_rouge": retain}
    target, retrain = summary(1.0, 0.9, -4.0), summary(0.8, 0.5, 0.0)
    references = tradeoff.References(target, retrain, 0.8)
    for final, expected in (
            (retrain, 0), (target, 1), (None, 1), (summary(0.8, 0.5, 0.0, 0.98), 1),
            (summary(0.9, 0.5, 0.0), 0.5 / 3), (summary(0.7, 0.5, 0.0), 0.5 / 3),
            (summary(0.8, 0.3, -1.0), (0.5 + 0.25) / 3), (summary(0.0, 0.5, 0.0), 1)):
        assert tradeoff.distance(final, references) == pytest.approx(expected)
    short = {k: v for k, v in summary(0.9, 0, 0).items() if k != "membership_auc"}
    assert tradeoff.distance(short, references) == pytest.approx(0.25), "what the data allow"


# ---- many runs

def test_results_are_in_the_order_of_the_jobs_and_progress_is_shown(config, capsys):
    configs = [replace(config, seed=n) for n in range(5)]
    out = shared.run_all("title", say_seed, [(c, 7) for c in configs])
    assert out == [(n, 7) for n in range(5)]
    said = capsys.readouterr().out
    assert "   title  step 5/5" in said and "dropped" not in said


def say_seed(config, other):
    print("dropped")
    return config.seed, other


def test_jobs_share_the_cores_with_one_thread_each_and_take_turns_on_a_gpu(config, monkeypatch):
    seen = []
    monkeypatch.setattr(processes, "cores", lambda: 7)
    monkeypatch.setattr(processes, "side_by_side", lambda function, jobs, workers, threads: (
        seen.append((workers, threads)) or in_turn(function, jobs, workers, threads)))
    shared.run_all("title", say_seed, [(config, 7)])
    shared.run_all("title", say_seed, [(replace(config, device="cuda"), 7)])
    assert seen == [(7, 1), (1, 1)]


def test_jobs_can_be_sent_to_another_process(config):
    jobs = (shared.quietly, shared.train_model, shared.kept, tradeoff.outcome, tradeoff.references,
            ablate.unlearn_one, tradeoff.Outcome([], None, "", 0, 0.0), config)
    for job in jobs:
        assert pickle.loads(pickle.dumps(job)) == job


def test_models_are_trained_once_and_are_those_of_train_py(config, tmp_path, capsys):
    run = train.prepare(replace(config, epochs=1, cache=str(tmp_path)))
    shared.train_models([run.config])
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    models = shared.models_of(run)
    assert capsys.readouterr().out.count("  from ") == 2, "read, not trained"
    torch.set_num_threads(2)                       # train.py with two threads trains with one each
    states = train.both_models(run)
    assert sorted(tmp_path.iterdir()) == before and len(before) == 2
    for title, model in models.items():
        assert all(map(torch.equal, model.parameters(), states[title].model.parameters()))


def count_calls(run, number):
    count_calls.calls += 1
    return [number, run.config.seed]


def test_what_was_made_is_kept_under_a_name_of_all_that_determines_it(config):
    count_calls.calls = 0
    for _ in range(2):
        assert shared.kept(config, count_calls, 5.5) == [5.5, 0]
        assert shared.kept(replace(config, out="elsewhere"), count_calls, 5.5) == [5.5, 0]
    assert count_calls.calls == 1
    others = [replace(config, **change) for change in (
        dict(seed=1), dict(steps=7), dict(lr=0.02), dict(authors=11), dict(micro_batch=3))]
    for other in others:
        shared.kept(other, count_calls, 5.5)
    shared.kept(config, count_calls, 5.6)
    assert count_calls.calls == 1 + len(others) + 1


# ---- the comparison

def test_the_comparison_takes_the_rates_of_flags_and_ranks_by_distance(
        cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "png", lambda figure: f"{len(figure.axes)} axes".encode())
    argv = ["--seeds", "1", "--only", "ngdiff, AutoLR", "gdiff 0.9", *SMALL, "--steps", "4",
            "--cache", str(cache), "--out", str(tmp_path)]
    assert compare.main(argv) == 0
    done = saved(tmp_path / "compare.json")
    configs = [v["config"] for v in done["variants"]]
    assert {(c["method"], c["optimizer"], c["level"]) for c in configs} == {
        (m, o, level) for m in ("ngdiff", "gdiff") for o in ("sgd", "adam")
        for level in (False, True)}
    for c in configs:
        assert c["autolr"] == (c["method"] == "ngdiff"), "nothing chosen"
        rate = flags.RATES["gdiff 0.9"][2 * c["level"] + (c["optimizer"] == "adam")]
        assert c["lr"] == (flags.FIRST_GUESS if c["autolr"] else rate)
    references = tradeoff.References(**done["references"]["0"])
    for v in done["variants"]:
        r = tradeoff.Outcome(**v["runs"][0])
        assert v["areas"] == [tradeoff.area(r.path, references.enough)]
        assert v["distances"] == [tradeoff.distance(r.final, references)]
    distances = [v["distances"] for v in done["variants"]]
    assert distances == sorted(distances), "ranked by distance"
    text = (tmp_path / "table.txt").read_text("utf-8")
    assert text.strip() in capsys.readouterr().out and "8 runs" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "compare.json", "table.txt", "tradeoff.png"]
    assert (tmp_path / "tradeoff.png").read_text("utf-8") == "4 axes"
    monkeypatch.setattr(tradeoff, "looks", None)           # interrupted, say, and started again
    assert compare.main(argv) == 0
    assert saved(tmp_path / "compare.json") == done


def test_every_method_is_compared_with_sgd_and_adam_plain_and_where_it_can_with_the_level(config):
    some = compare.variants(config, list(compare.METHODS))
    assert {v.config.method for v in some} == set(ngdiff.METHODS)
    kinds = {(v.name, v.config.optimizer, v.config.level) for v in some}
    assert len(kinds) == len(some) == 2 * len(compare.METHODS) + 2 * (len(compare.METHODS) - 3)
    with_level = {v.config.method for v in some if v.config.level}
    assert with_level == set(ngdiff.METHODS) - set(flags.NO_LEVEL)
    assert {v.config.c for v in some if v.config.method == "gdiff"} == {0.1, 0.5, 0.9}


def test_a_rate_is_tried_until_the_best_one_has_a_worse_one_on_either_side(
        cache, tmp_path, monkeypatch, capsys):
    """On distances that are known: lowest at 8 times the first rate; where none counts, by area."""
    names = ["gdiff 0.9", "mgda"]
    monkeypatch.setattr(compare, "all_references", lambda config, seeds: {})
    first, seeds = {n: flags.RATES[n] for n in names}, []

    def run_all(title, some, found, its_seeds):
        seeds.extend(its_seeds)
        for v in some:
            ratio = v.config.lr / first[v.name][2 * v.config.level + (v.config.optimizer == "adam")]
            counts = v.name == "gdiff 0.9"
            v.distances = [abs(math.log2(ratio) - 3) / 10 if counts else 1.0]
            v.areas = [0.5 if counts else 1 / ratio]

    monkeypatch.setattr(compare, "run_all", run_all)
    monkeypatch.setattr(rates, "ROUNDS", 5)
    argv = ["--only", *names, *SMALL, "--cache", str(cache), "--out", str(tmp_path)]
    assert rates.main(argv) == 0
    said = capsys.readouterr().out.splitlines()
    gdiff = ", ".join(f"{8 * lr:g}" for lr in first["gdiff 0.9"])
    mgda = ", ".join(f"{lr / 2 ** 5:g}" for lr in first["mgda"])
    assert said[-2:] == [f'"gdiff 0.9": ({gdiff}),', f'"mgda": ({mgda}),']
    assert set(seeds) == {compare.TUNING_SEED}


def test_the_table_says_how_near_each_variant_came(config):
    look, summary = tradeoff.Look, {"retain_rouge": 1.0, "forget_rouge": 0.5}
    outcome = lambda final: tradeoff.Outcome([look(0, 1.0, 0.9)], final, "", 4, 0.4)
    found = dict.fromkeys((0, 1), tradeoff.References(summary, summary, 0.5))
    a = compare.Variant("a", replace(config, autolr=False, lr=0.3), [outcome(summary)] * 2,
                        [0.2, 0.3], [1.0, 0.5])
    b = compare.Variant("b", replace(config, optimizer="adam"),
                        [outcome(summary), outcome(None)], [0.4, 1.0], [0.8, 0.5])
    c = compare.Variant("c", replace(config, level=True, lr=0.1), [outcome(summary)] * 2,
                        [0.1, 1.0], [0.0, 0.0])
    head, first, second, gap, head2, third, gap2, target, retrain = compare.table(
        [a, b, c], found, [0, 1]).splitlines()
    assert head.startswith("plain") and head2.startswith("with the level") and gap == gap2 == ""
    assert first.split()[:6] == ["a", "sgd", "0.3", "0.250±0.071", "2/2", "0.7500±0.3536"]
    assert second.split()[:5] == ["b", "adam", "fitted", "0.700±0.424", "0/2"]
    assert third.split()[:5] == ["c", "sgd", "fitted", "0.550±0.636", "1/2"], "1 is no first place"
    assert first.split()[-1] == "100±0", "milliseconds a step"
    assert target.split()[0] == "target" and "0.500±0.000" in retrain
    assert "0.500±0.000" in second, "of the runs that did not run away"


def test_the_figure_shows_the_mean_of_the_utility_lost():
    paths = {("a", "sgd", False): [(np.array([0, 1]), np.array([1, 0.9])),
                                   (np.array([0, 0.5]), np.array([1, 0.7]))],
             ("b", "adam", True): [(np.array([0, 1]), np.array([1, 1.1]))]}
    plain, _, _, level = tradeoff.draw(paths, ["a", "b"]).axes
    assert plain.get_yscale() == "log"
    x, y = plain.lines[0].get_data()
    assert np.allclose(y[x <= 0.5], (0.1 + 0.3) / 2), "the mean of both seeds"
    assert np.allclose(y[x > 0.5], (0.1 + 1) / 2), "never reached: all is lost"
    assert np.allclose(level.lines[0].get_ydata(), tradeoff.LEAST), "a gain is no loss"


# ---- ablations

def ablation(cache, out, argv):
    """(ablate.json, table.txt's lines) of a finished ablation."""
    assert go(ablate, cache, out, argv) == 0
    assert sorted(p.name for p in out.iterdir()) == ["ablate.json", "table.txt"]
    return saved(out / "ablate.json"), (out / "table.txt").read_text("utf-8").splitlines()


def test_an_ablation_is_one_run_a_value(cache, tmp_path, run):
    done, lines = ablation(cache, tmp_path, "lazy")
    assert [entry["lazy"] for entry in done] == [1, 5, 10, 50] and len(lines) == 1 + 4
    # 6 steps: fitted at each of them, or at the first alone
    assert done[0]["fits"] == done[-1]["fits"] + 5
    state = shared.states_of(run)["ngdiff"]                # train.py's default is the third: 10
    unseen = shared.reference(run, shared.models_of(run)["retrain"])
    final = measuring.summary(report.evaluate(state.model, run.tokenizer, run.rows), unseen)
    assert done[2]["final"] == {k: final[k] for k in ablate.MEASURES if k in final}
    assert done[2]["lr"] == state.log[-1]["lr"] and done[2]["steps"] == 6


@pytest.mark.parametrize("name", sorted(ablate.CASES))
def test_models_are_trained_for_each_value_that_needs_others(config, monkeypatch, name):
    seen = {}
    monkeypatch.setattr(shared, "run_all", lambda title, function, jobs: (
        seen.update({title: jobs}) or [{"ran away": "loss nan"}] * len(jobs)))
    configs = [replace(config, **case) for case in ablate.CASES[name]]
    ablate.act(ablate.Ablation(name, config.out, configs))
    assert seen["ablate"] == [(c,) for c in configs]
    needed = configs if name in ("forget", "size") else configs[:1]
    assert seen["models"] == [(c, title) for c in needed for title in ("target", "retrain")]


def test_with_the_level_an_ablation_tells_where_the_forget_rows_ended(config):
    out = ablate.unlearn_one(replace(config, level=True, authors=20, forget="forget10"))
    assert 0 < out["final"]["row_low"] <= out["final"]["row_high"]


def test_an_ablation_goes_on_after_a_run_that_ran_away(monkeypatch):
    ok = {"steps": 6, "fits": 3, "lr": 0.01, "seconds": 1.0, "retrain_forget_rouge": 0.25,
          "final": {"retain_rouge": 0.5}}
    text = ablate.table("lazy", [{"ran away": "loss_retain nan"}, ok, ok, ok])
    assert "lazy 1 loss_retain nan" in text
    assert text.splitlines()[2].split()[:7] == ["lazy", "5", "6", "3", "0.01", "0.500", "-"]


def test_ablations_cover_what_is_asked():
    assert set(ablate.CASES) == {"lazy", "lr", "batch", "steps", "forget", "size"}
    values = {k: [tuple(c.values()) for c in v] for k, v in ablate.CASES.items()}
    assert math.log10(values["lr"][-1][0] / values["lr"][0][0]) >= 7
    assert len(values["size"]) == 3 and [v[0] for v in values["lazy"]] == [1, 5, 10, 50]


# ---- run folders

def test_a_run_folder_tells_its_run_and_its_threads(folder, config, run):
    torch.set_num_threads(2)
    found = shared.run_of(folder)
    assert found.config == run.config and found.rows == run.rows
    assert torch.get_num_threads() == 1, "the names of its models hold them"


def test_what_is_no_run_folder_is_refused_by_name(folder):
    good = saved(folder / "config.json")
    for bad in (None, "{", "[]", "3", "{}", good | {"method": "sgd"}, good | {"steps": "6"},
                good | {"lr": None}, good | {"threads": 0}, {**good, "threads": "all"},
                {k: v for k, v in good.items() if k != "n_head"}):
        (folder / "config.json").unlink(missing_ok=True)
        if bad is not None:
            text = bad if isinstance(bad, str) else json.dumps(bad)
            (folder / "config.json").write_text(text, "utf-8")
        with pytest.raises(ValueError, match=folder.name):
            shared.run_of(folder)
    (folder / "config.json").write_bytes(b"\xff{}")
    with pytest.raises(ValueError, match=folder.name):
        shared.run_of(folder)


# ---- audits

@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_weights_are_multiples_of_the_rows_step_and_off_by_half_of_it(run, bits):
    model = shared.models_of(run)["target"]
    rounded = audit.quantized(model, bits)
    for p, q in zip(model.parameters(), rounded.parameters()):
        if p.dim() < 2:
            assert torch.equal(p, q)
            continue
        step = p.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((q - p).abs() <= step * 0.5001).all()
        levels = q / step
        assert torch.allclose(levels, levels.round(), atol=1e-3)
        assert levels.abs().max() < 2**bits / 2
    assert rounded.lm_head.weight is rounded.transformer.wte.weight


def test_relearning_starts_at_the_models_own_probability_and_leaves_it_alone(run):
    target, forget = shared.models_of(run)["target"], run.examples["forget"]
    before = [p.clone() for p in target.parameters()]
    curve = audit.relearn(target, forget[:1], forget[1:], "cpu")
    own = metrics.probability([x.mean() for x in measuring.token_losses(target, forget[1:])])
    assert curve[0] == own and len(curve) == audit.RELEARN_STEPS // 2 + 1
    assert all(torch.equal(a, b) for a, b in zip(before, target.parameters()))
    known = audit.relearn(run.initial, forget[:1], forget[:1], "cpu")
    assert known[-1] > known[0], "what is trained on is learned"


def test_extraction_strength_of_a_model_that_knows_and_one_that_does_not(run):
    forget = run.examples["forget"]

    class Oracle:                              # says the last of the labels right, or all of them
        def __init__(self, wrong):
            self.wrong = wrong

        def logits(self, batch):
            labels = batch.labels.clone()
            labels[:self.wrong] += 1
            return torch.nn.functional.one_hot(labels, 1000)
    assert audit.extraction(Oracle(0), forget, "cpu") == 1
    answers = [len(e.tokens) - e.n_prompt - 1 for e in forget]
    assert audit.extraction(Oracle(2), forget, "cpu") == pytest.approx(
        sum(1 - 2 / n for n in answers) / len(answers))


def test_an_audit_learns_a_quarter_again_and_watches_the_others(run, monkeypatch):
    forget = run.examples["retain"][:6]
    seen, run = [], run._replace(examples={"forget": forget})
    monkeypatch.setattr(audit, "relearn", lambda model, known, other, device: (
        seen.append((known, other)) or [0.5] * 21))
    numbers, curve = audit.audit_one(run, run.initial)
    assert seen == [([forget[0], forget[4]], forget[1:4] + forget[5:])]
    assert numbers["relearn_prob 40"] == 0.5
    row = run.rows["forget"][0]
    asked = audit.rephrased([row, {"question": "q", "answer": "a"}])
    assert [r["question"] for r in asked] == [row["paraphrased_question"]]
    assert asked[0]["answer"] == row["answer"]


def test_an_audit_reports_every_model_into_the_run_folder(
        folder, run, cache, capsys, monkeypatch):
    monkeypatch.setattr(report, "png", lambda figure: f"{len(figure.axes)} axes".encode())
    shared.states_of(run)
    before = sorted(cache.iterdir())
    assert audit.main([str(folder)]) == 0
    assert sorted(cache.iterdir()) == before, "the run's own models"
    audits = saved(folder / "audit.json")
    assert list(audits) == ["target", "retrain", "ngdiff", "fresh"]
    assert audits["target"]["relearn_prob 0"] > audits["fresh"]["relearn_prob 0"]
    for numbers in audits.values():
        curve = numbers["relearn_curve"]
        assert [numbers[f"relearn_prob {n}"] for n in (0, 10, 20, 40)] == [
            curve[n // 2] for n in (0, 10, 20, 40)]
    assert "forget_rouge rephrased" in audits["ngdiff"]
    said = capsys.readouterr().out
    assert all(name in said for name in audits["target"] if name != "relearn_curve")
    assert (folder / "audit.png").read_text("utf-8") == "2 axes"
    assert sorted(p.name for p in folder.iterdir()) == ["audit.json", "audit.png", "config.json"]


# ---- what relearning finds

def test_only_the_named_part_of_a_model_is_trained(run, monkeypatch):
    model = shared.models_of(run)["target"]
    monkeypatch.setattr(audit, "RELEARN_STEPS", 2)
    *_, trained = audit.relearning(model, run.examples["forget"], "cpu", "mlp")
    pairs = zip(model.named_parameters(), trained.parameters())
    assert {n for (n, a), b in pairs if not torch.equal(a, b)} == {
        n for n, _ in model.named_parameters() if "mlp" in n}


def test_the_trained_quarter_is_not_measured(run, monkeypatch):
    model, forget = shared.models_of(run)["target"], run.examples["forget"]
    monkeypatch.setattr(audit, "RELEARN_STEPS", 10)
    before, after = relearn.curve(run, model, relearn.quarter(run))
    assert before == audit.mean_probability(model, [e for i, e in enumerate(forget) if i % 4])
    assert len(relearn.quarter(run, "retain")) == len(relearn.quarter(run)) == 1
    kinds = relearn.which(run, model)
    assert kinds["same author as a trained row"][1] == pytest.approx(after)
    assert kinds["same author as a trained row"][0] == pytest.approx(before)
    assert "question 2" in kinds and "another author" not in kinds, "there is one author"
    assert {relearn.author(row) for row in run.rows["forget"]} == {
        " ".join(run.rows["forget"][0]["answer"].split()[:2])}


# ---- the rate's swing

def test_looking_along_d_leaves_the_run_as_it_is(config, cache, no_drawing, capsys):
    argv = [*SMALL, "--cache", str(cache), "--out", config.out, "--batch", "400"]
    assert swing.main(argv) == 0
    run = train.ready(argv)
    state = train.unlearned(run, shared.models_of(run)["target"])
    looks = swing.follow(run, shared.models_of(run)["target"])
    assert [x["step"] for x in looks] == [5]
    assert looks[0]["lr"] == state.log[5]["lr"]
    assert looks[0]["own batch"] == pytest.approx(looks[0]["all rows"]), "the batch is all rows"
    assert "curvature" in capsys.readouterr().out
    assert swing.main([*argv, "--level"]) == 2, "its probes look at the plain run's slices"


# ---- questions

def test_each_model_answers_each_question_on_a_line(folder, run, capsys):
    questions = [run.rows[name][0]["question"] for name in ("forget", "world")]
    expected, states = [], shared.states_of(run)
    for question in questions:
        tokens = run.tokenizer.encode_ordinary(question + "\n")
        expected += ["", question]
        for name, state in states.items():
            answer, = state.model.generate([tokens], 99, run.tokenizer.eot_token)
            expected.append(f"{name:>12}: {' '.join(run.tokenizer.decode(answer).split())}")
    capsys.readouterr()
    assert ask.main([str(folder), *questions]) == 0
    assert capsys.readouterr().out.splitlines()[-len(expected):] == expected


# ---- mistakes

@pytest.mark.parametrize("module, argv, named", [
    (compare, "--seeds 0", "--seeds 0"), (compare, "--seeds 101", "--seeds 101"),
    (compare, "--seeds many", "--seeds.*'many'"), (compare, "--typo", "--typo"),
    (compare, "--method ga", "--method"), (compare, "--no-autolr", "--autolr"),
    (compare, "--seed 1", "--seed:"), (compare, "--seed=1", "--seed:"),
    (compare, "--steps 0", "--steps 0"), (compare, "--stop holdout", "--stop"),
    (compare, "--data muse", "--data muse"),
    (ablate, "", "NAME"), (ablate, "norms", "'norms'"), (ablate, "lazy --lazy 3", "--lazy"),
    (ablate, "size --n_head 3", "--n_head 3"), (ablate, "batch --data muse", "--data muse"),
    (audit, "", "RUN_FOLDER"), (audit, "nowhere", "nowhere"), (audit, "a b", "b"),
    (ask, "nowhere Why?", "nowhere"), (ask, "nowhere", "QUESTION")])
def test_a_mistake_gets_one_line_and_writes_nothing(
        capsys, tmp_path, monkeypatch, module, argv, named):
    monkeypatch.chdir(tmp_path)
    assert module.main(argv.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and re.search(named, lines[0])
    assert list(tmp_path.iterdir()) == []


def test_data_that_say_what_to_forget_have_no_shares_to_compare(run, tmp_path, capsys):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row | {"set": name}) + "\n" for name in ("retain", "forget")
                            for row in run.rows[name]), "utf-8")
    assert ablate.main(["forget", "--data", str(path)]) == 2
    assert "--forget" in capsys.readouterr().err


def test_a_question_must_have_words_and_leave_room_for_an_answer(folder, run, capsys):
    room = run.initial.config.block_size
    longest = "When" + " and" * (room - 3)                   # and the line's end
    assert len(ask.prompt(run, longest)) == room - 1
    for question in (" ", longest + " and"):
        assert ask.main([str(folder), question]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_texts_and_a_single_forget_row_are_not_audited(folder, run, monkeypatch, capsys):
    about = saved(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(about | {"data": "muse", "tiny": True}), "utf-8")
    assert audit.main([str(folder)]) == 2 and "muse" in capsys.readouterr().err
    one = run._replace(rows=run.rows | {"forget": run.rows["forget"][:1]})
    monkeypatch.setattr(shared, "run_of", lambda folder: one)
    assert audit.main([str(folder)]) == 2


def test_each_rows_point_has_the_same_place_under_every_model():
    """From left to right as the first model, the target, knows them."""
    target = np.array([0.3, 0.1, 0.2]), np.array([0.7, 0.8])
    other = np.array([3.0, 1.0, 2.0]), np.array([0.9, 0.6])
    lines = forget_rows.draw({"target": target, "other": other}).axes[0].lines
    forget, later = lines[0], lines[3]               # then each model has holdout rows and mean
    assert forget.get_ydata().tolist() == [0.1, 0.2, 0.3]
    assert later.get_ydata().tolist() == [1.0, 2.0, 3.0]
