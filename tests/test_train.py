"""train.py: the run folder, every method, the level loss, other data, two processes, bfloat16."""
import copy
import json
import math
import os
import re
import shutil
import socket
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import data
import ngdiff
import train
from conftest import code_of, draw_nothing, go, job, ready, refused, rows, spy, write_rows
from experiments import ask, compare
from harness import flags, measuring, names, processes, report, weights
from tests import kills

pytestmark = pytest.mark.usefixtures("in_this_process")
TINIEST = "--epochs 1 --n_layer 1 --n_embd 16 --steps 2".split()
SUMMARY = {f"{name}_{k}" for name in ("forget", "retain", "world") for k in (
    "loss", "prob", "rouge", "truth_ratio")} - {"world_loss"} | {
        "holdout_loss", "model_utility", "forget_quality", "log10_forget_quality"}
MUSE = {f"{name}_{k}" for name in ("forget", "retain") for k in ("loss", "prob", "verbmem",
                                                                 "knowmem")} | {"holdout_loss"}


@pytest.fixture(scope="module")
def target(plain):
    return train.train_both(ready(plain[0]))["target"].model


def unlearn(target, run, **settings):
    """The Stage of an unlearning that is kept in memory."""
    config = replace(run.config, **settings)
    stage = train.Stage(config.method, config.steps, copy.deepcopy(target))
    train.unlearn(stage, target, run.examples, config)
    return stage


# ---- what a run leaves

def test_the_run_folder_holds_what_it_promises(plain):
    out, results = plain[1], json.loads((plain[1] / "results.json").read_text("utf-8"))
    assert sorted(p.name for p in out.iterdir()) == sorted(flags.OUTPUTS)
    assert set(results) == {"config", "seconds", "steps", "stopped", "models"}
    assert set(results["seconds"]) == {"target", "retrain", "unlearn", "evaluate", "total"}
    assert set(results["models"]) == {"target", "retrain", "ngdiff"}
    for m in results["models"].values():
        assert set(m) == SUMMARY and all(math.isfinite(v) for v in m.values())
    assert results["models"]["retrain"]["forget_quality"] == 1
    log = rows(out / "log.csv")
    assert tuple(log[0]) == report.LOG_COLUMNS and len(log) == results["steps"] == 12
    assert [r["status"] != "" for r in log] == [i % 10 == 0 for i in range(12)], "lazy: 0 and 10"
    norm_R, norm_F, dot, cos, slope = (float(log[0][k]) for k in (
        "norm_retain", "norm_forget", "dot", "cos", "slope"))
    assert cos == pytest.approx(dot / norm_R / norm_F)
    assert slope == pytest.approx(norm_R * (1 - cos), rel=0.3)
    assert "[forget] " in (out / "samples.txt").read_text("utf-8")
    assert (out / "curves.png").read_bytes() == b"4 axes"


def test_the_run_folder_says_what_it_was_made_of(plain, monkeypatch):
    cache, out, results = plain
    config, run = json.loads((out / "config.json").read_text("utf-8")), ready(cache)
    assert config["authors"] == 10 and {f.name for f in fields(train.Config)} <= set(config)
    assert config["rows"] == names.digest(run.rows) and config["torch"] == torch.__version__
    assert config["model.pt"] == names.digest((out / "model.pt").read_bytes())
    assert set(config["made_of"]) == {"target", "retrain", "ngdiff"}
    assert config["made_of"]["target"] == train.training_stage(run, "target", 1).made_of
    monkeypatch.setattr(torch, "__version__", "2.13.0+build")      # the metadata leave it out
    monkeypatch.setattr(report, "version", lambda name: "metadata")
    about = report.about(run, {}, b"")
    assert about["torch"] == "2.13.0+build" and about["numpy"] == "metadata"


@pytest.mark.parametrize("method", train.METHODS)
def test_every_method_runs_with_either_optimizer_plain_and_with_the_level(plain, target, method):
    run = ready(plain[0], "--method", method, "--lr", "1e-3", "--steps", 2)
    for optimizer in ("sgd", "adam"):
        for level in ("", "row", "token")[:1 if method in flags.NO_LEVEL else 3]:
            stage = unlearn(target, run, optimizer=optimizer, level=level)
            assert stage.step == 2 and stage.stopped == ""
            assert [row["status"] is not None for row in stage.log] == [method == "ngdiff", False]
            assert ["levels" in row for row in stage.log] == [level != "", False]
            assert not torch.equal(stage.model.lm_head.weight, target.lm_head.weight)


def test_a_run_that_has_no_direction_left_says_so(plain, tmp_path, no_drawing, monkeypatch):
    def stationary(*args, **kwargs):
        raise ngdiff.Stationary("d = 0")
    monkeypatch.setattr(ngdiff, "coefficients", stationary)
    cache = shutil.copytree(plain[0], tmp_path / "cache")
    code, results = go(cache, tmp_path / "out", "--lr", 0.02)
    assert code == 0 and results["steps"] == 0 and "d = 0" in results["stopped"]


# ---- a batch's loss

@pytest.mark.parametrize("kind", ["plain", "npo", "level", "tokens"])
def test_the_parts_of_every_process_and_micro_batch_add_up(plain, target, monkeypatch, kind):
    run = ready(plain[0], "--method", "npo" if kind == "npo" else "ngdiff")
    examples = run.examples["forget"] + run.examples["retain"][:6]
    run.config.level = {"level": "row", "tokens": "token"}.get(kind, "")
    per_row = measuring.token_losses(target, examples)
    reference = 1 + torch.arange(len(examples), dtype=torch.float64)
    if kind == "tokens":
        reference = reference[:, None] * torch.linspace(0.01, 1, max(map(len, per_row)))

    def loss(config):
        batches = train.micro_batches(examples, config, reference)
        return ngdiff.loss_only(train.forget_functions(target, batches, config))
    whole, shares = loss(run.config), []
    summed = torch.tensor([x.sum() for x in per_row])
    odds = lambda l: np.log(np.expm1(l))
    expected = {
        "plain": lambda x, _: x.sum(),
        "level": lambda x, level: -len(x) * np.log(x.mean() / level)**2 / 2,
        "tokens": lambda x, levels: -((odds(x) - odds(levels[:len(x)]))**2).sum() / 2}
    mean = ngdiff.npo_objective(summed, reference).mean() if kind == "npo" else sum(
        map(expected[kind], per_row, reference.numpy())) / sum(map(len, per_row))
    assert whole == pytest.approx(float(mean), rel=1e-6)
    for rank in range(3):
        monkeypatch.setattr(processes, "rank_and_size", lambda: (rank, 3))
        shares.append(loss(replace(run.config, micro_batch=2)))
    assert sum(shares) == pytest.approx(whole, rel=1e-5) and len(set(shares)) == 3


def test_levels_are_the_paired_holdout_rows_losses_measured_every_tenth_step(
        plain, target, monkeypatch):
    run = ready(plain[0], "--level")
    seen = spy(monkeypatch, measuring, "level", lambda model, *_: model)
    stage = unlearn(target, run)
    assert seen == [stage.model] * 2
    assert [row["step"] for row in stage.log if "levels" in row] == [0, 10]
    holdout, forget = ([x.mean() for x in measuring.token_losses(target, run.examples[k])]
                       for k in ("holdout", "forget"))
    pairs = measuring.level_pairs(run.examples["forget"], run.examples["holdout"], run.config.seed)
    first = stage.log[0]
    assert first["levels"] == pytest.approx([holdout[i] for i in pairs])
    assert first["levels"] != stage.log[10]["levels"]
    assert [first[f"{name}_{q}"] for name in ("forget", "holdout") for q in (0, 50, 100)] == \
        pytest.approx([f(x) for x in (forget, holdout) for f in (min, np.median, max)])


def test_a_token_has_the_level_of_the_token_of_its_rank_in_the_paired_row(plain, target):
    def of(losses, like, own=False, theirs=False):
        own, theirs = np.full(len(losses), own), np.full(len(like), theirs)
        return measuring.token_levels(np.array(losses), own, np.array(like), theirs).tolist()
    assert of([3.0, 0.1, 0.2], [0.2, 5.2, 1.2]) == [5.2, 0.2, 1.2]
    assert of([0.1, 3.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == [1.0, 4.0], "the same share"
    assert of([0.5] * 4, [0.0, 1.0]) == [0.0, 0.0, 1.0, 1.0]
    own, theirs = [True, False, True, False], [True, True, False, False, True]
    assert of([0.1, 0.2, 0.9, 0.8], [2.0, 0.0, 3.0, 5.0, 1.0], own, theirs) == [0.0, 3.0, 2.0, 5.0]
    assert of([0.1, 0.2], [4.0, 5.0], own[:2]) == [4.0, 4.0], "none there repeats: of all"
    assert measuring.repeated(data.Example([7, 8, 8, 9, 7], 2)).tolist() == [True, False, True]
    run = ready(plain[0], "--level", "token")
    rows = {k: measuring.token_losses(target, run.examples[k]) for k in ("forget", "holdout")}
    asked = {k: list(map(measuring.repeated, run.examples[k])) for k in rows}
    pairs = measuring.level_pairs(run.examples["forget"], run.examples["holdout"], run.config.seed)
    found = unlearn(target, run).log[0]["levels"]
    assert len(set(map(len, found))) == 1
    for levels, row, own, i in zip(found, rows["forget"], asked["forget"], pairs, strict=True):
        expected = measuring.token_levels(row, own, rows["holdout"][i], asked["holdout"][i])
        assert levels == [*expected] + [0] * (len(levels) - len(row))


def test_what_a_token_loses_goes_to_the_likeliest_other_one(plain):
    """And to that one alone, whether the right one (number 2) is the likeliest or not."""
    logits = torch.tensor([[0.0, 3.0, 5.0, 4.0], [6.0, 0.0, 5.0, 4.0], [5.0, 5.0, 5.0, 4.0]],
                          requires_grad=True)
    rows = data.Batch(torch.zeros(1, 4, dtype=torch.long), torch.arange(3), torch.full((3,), 2))
    batch = train.MicroBatch(rows, 3, 1, torch.full((1, 5), 9.0))
    value = train.token_objective(SimpleNamespace(logits=lambda rows: logits), batch,
                                  ready(plain[0], "--level", "token").config)
    slope, = torch.autograd.grad(value, logits)
    assert (slope[:2] != 0).tolist() == [[0, 0, 1, 1], [1, 0, 1, 0]]
    assert (slope[:, 2] < 0).all() and slope.sum(1).tolist() == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("n_holdout", [12, 5, 30])
def test_level_pairs_go_by_rank_of_answer_length_and_the_seed_decides_between_equals(n_holdout):
    row = lambda length: data.Example([0] * (3 + length), 3)
    forget = [row(length) for length in (5, 1, 9, 3, 7, 2, 8, 4, 6, 11, 12, 10)]
    holdout = [row(length) for length in range(n_holdout, 0, -1)]
    pairs = measuring.level_pairs(forget, holdout, 0)
    for example, i in zip(forget, pairs):
        rank, length = len(example.tokens) - 4, len(holdout[i].tokens) - 3
        assert length == 1 + int((rank + 0.5) / 12 * n_holdout), "the same share of the ranks"
    equal = [row(3)] * 12
    orders = [measuring.level_pairs(equal, equal, seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert all(sorted(order) == list(range(12)) for order in orders), "each is used once"


def test_each_forget_row_of_a_batch_comes_with_its_own_reference(plain):
    run = ready(plain[0], "--micro_batch", "5")
    examples = run.examples["forget"]
    _, forget = next(train.task_batches(run.examples, run.config, 0, torch.arange(len(examples))))
    seen = [i for batch in forget for i in batch.reference.tolist()]
    for row, i in zip((row for batch in forget for row in batch.rows.tokens.tolist()), seen):
        assert row[:len(examples[i].tokens) - 1] == examples[i].tokens[:-1]
    assert len(seen) == min(len(examples), run.config.batch) and seen != sorted(seen)


def test_with_the_level_a_step_goes_a_quarter_of_the_way_at_most(plain, target):
    run = ready(plain[0], "--level", "--steps", "9", "--lazy", "0", "--lr", "1e-3")
    assert {row["lr"] for row in unlearn(target, run).log} == {1e-3}, "still far from the levels"
    for row in unlearn(target, run, lr=10.0).log:
        rise = row["norm_forget"] * (1 - row["cos"])     # of the objective, a unit of lr
        assert row["lr"] == pytest.approx(-2 * row["loss_forget"] / rise / 4, rel=1e-4)
    assert {row["lr"] for row in unlearn(target, run, level="").log} == {1e-3}


# ---- other data

def test_questions_on_forgotten_texts_are_learned_and_in_no_unlearning_batch(
        tmp_path, no_drawing, capsys):
    base = ["--data", "muse", "--authors", "10", *TINIEST]
    code, results = go(tmp_path, tmp_path / "out", base=base)
    assert code == 0 and "[forget_questions] " in capsys.readouterr().out
    assert set(results["models"]["ngdiff"]) == MUSE | {"world_prob", "world_rouge",
                                                       "world_truth_ratio"}
    run = ready(tmp_path, base=base)
    encoded = {k: data.encode_rows(run.tokenizer, some) for k, some in run.rows.items()}
    all_of = lambda *sets: sorted(e for name in sets for e in encoded[name])
    both, forgotten = ("retain", "retain_questions", "world"), ("forget", "forget_questions")
    assert sorted(run.learned["retrain"]) == all_of(*both)
    assert sorted(run.learned["target"]) == all_of(*both, *forgotten)
    assert run.examples["forget"] == encoded["forget"]
    assert sorted(run.examples["retain"]) == all_of("retain", "retain_questions")


def test_one_file_of_ones_own_rows_is_enough(tmp_path, no_drawing):
    rows_of = lambda name, n: [{"set": name, "question": f"Who is {name} {i}?",
                                "answer": f"Nobody but {i}."} for i in range(n)]
    own = rows_of("retain", 12) + rows_of("forget", 9)
    path = write_rows(tmp_path / "own.jsonl", own)
    keys = {f"{name}_{k}" for name in ("forget", "retain") for k in ("loss", "prob", "rouge")}
    code, results = go(tmp_path / "c", tmp_path / "a", base=["--data", str(path), *TINIEST])
    assert code == 0 and set(results["models"]["ngdiff"]) == keys
    wrong = {"paraphrased_answer": "No one.", "perturbed_answer": ["He.", "She is."]}
    write_rows(path, own[:11] + [row | wrong for row in own[11:]] + rows_of("holdout", 9))
    code, results = go(tmp_path / "c", tmp_path / "b", "--level",
                       base=["--data", str(path), *TINIEST])
    assert code == 0 and set(results["models"]["ngdiff"]) - {"privleak"} == keys | {
        "forget_truth_ratio", "forget_quality", "log10_forget_quality", "holdout_loss",
        "membership_auc", "retain_truth_ratio", "model_utility"}


# ---- several processes, bfloat16, published weights, too little memory

SHARED = ["--level", "--epochs", "2", "--steps", "3"]


def two_processes():
    """(what both print, the log, the run folder's files) of a run of two processes."""
    started = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        for rank in "01":
            for key, value in dict(LOCAL_RANK=rank, RANK=rank, WORLD_SIZE="2",
                                   MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)).items():
                patch.setenv(key, value)                           # as torchrun does
            started.append(kills.start(name, *SHARED))
        codes, printed = kills.exit_codes(started), Path(name, "printed").read_text("utf-8")
        assert codes == [0, 0], printed
        return printed, rows(Path(name, "out", "log.csv")), sorted(os.listdir(Path(name, "out")))


@pytest.mark.skipif(kills.FORK is None, reason="processes are forked")
@job((two_processes,))
def test_two_processes_take_the_single_ones_steps(done, tmp_path, no_drawing):
    printed, two, left = done
    assert left == sorted(flags.OUTPUTS)
    assert printed.count("stopped") == 1, "the first of two speaks alone"
    assert go(tmp_path / "cache", tmp_path / "one", *SHARED)[0] == 0
    one = rows(tmp_path / "one" / "log.csv")
    assert len(one) == len(two) == 3
    for a, b in zip(one, two):
        for key in set(report.LOG_COLUMNS) - {"status"}:
            assert (a[key] == b[key] == "") or float(b[key]) == pytest.approx(
                float(a[key]), rel=1e-3, abs=1e-6), (a["step"], key)


def test_in_bfloat16_the_parabola_is_still_fitted_in_float32(plain, target, monkeypatch):
    """The passes are in bfloat16, which is too coarse for a small step's change of the loss."""
    run = ready(plain[0], "--dtype", "bfloat16")
    exact = unlearn(target, run, steps=2, dtype="float32").log
    seen = spy(monkeypatch, ngdiff, "step", lambda retain, *_, probe_on, **k: [
        ngdiff.loss_only(x) for x in (retain, probe_on)])
    log = unlearn(target, run, steps=2).log
    assert seen[0][1] == exact[0]["loss_retain"] != seen[0][0]
    assert [x["loss_retain"] for x in log] == pytest.approx(
        [x["loss_retain"] for x in exact], rel=0.02)


def test_with_a_budget_autolr_watches_the_same_rows_at_every_fit(plain, target, monkeypatch):
    """Rows of its own, by the seed, in float32; and each step takes the running mean."""
    run = ready(plain[0])
    seen = spy(monkeypatch, ngdiff, "step", lambda *_, probe_on, memory, budget, **k: (
        [part.args[1].rows.tokens for part in probe_on or ()],
        {part.args[2].dtype for part in probe_on or ()}, memory, budget))
    log = unlearn(target, run, steps=11, batch=4, budget=0.5, dtype="bfloat16").log
    (first, *_), *later = seen
    assert sum(map(len, first)) == len(run.examples["retain"][:train.WATCHED])
    assert all(torch.equal(x, y) for rows, *_ in later for x, y in zip(first, rows, strict=True))
    assert all(rest == [{"float32"}, train.MEMORY, 0.5] for _, *rest in seen)
    fits = [row for row in log if row["fits"]]
    assert [row["watched"] + row["room"] for row in fits] == [pytest.approx(
        fits[0]["watched"] + 0.5)] * 2
    seen.clear()
    unlearn(target, run, steps=1, seed=9, budget=0.5)
    assert not all(map(torch.equal, first, seen[0][0])), "another seed watches other rows"
    seen.clear()
    assert unlearn(target, run, steps=1).log[0]["room"] is None
    assert seen == [([], set(), 0, None)]


def test_with_epochs_0_a_model_of_ones_own_is_unlearned_as_it_is(
        plain, tmp_path, capsys, no_drawing):
    """Nothing is trained; the steps are those from a target that was. Then the unlearned model can
    be the next one's start; one that knows nothing is named."""
    run = ready(plain[0])
    mine, out = tmp_path / "mine.pt", tmp_path / "out"
    torch.save(weights.as_published(train.train_both(run)["target"].model, run.tokenizer), mine)
    (tmp_path / "config.json").write_text('{"n_head": 4}')
    own = "--epochs", 0, "--init"
    tiny = "--tiny --authors 10 --steps 12".split()
    capsys.readouterr()
    code, results = go(tmp_path / "cache", out, *own, mine, base=tiny)
    assert code == 0 and rows(out / "log.csv") == rows(plain[1] / "log.csv")
    for model, m in results["models"].items():
        assert m.items() >= {k: v for k, v in plain[2]["models"][model].items()
                             if "forget_quality" not in k}.items()
        assert set(m) ^ SUMMARY == {"holdout_prob", "holdout_rouge", "holdout_truth_ratio",
                                    "forget_quality", "log10_forget_quality"}
    said = capsys.readouterr().out
    assert "as unseen rows" in said and "retrain" not in said and "nothing to" not in said
    assert code_of([out, "Who?"], ask.main) == 0
    assert re.findall(r"(\w+): ", capsys.readouterr().out) == ["target", "ngdiff"]
    assert "retrained model" in refused(capsys, [*tiny, *map(str, own), str(mine)], compare.main)
    short = [*tiny, "--steps", 1]
    code, again = go(tmp_path / "cache", tmp_path / "b", *own, out / "model.pt", base=short)
    assert code == 0 and again["models"]["target"] == results["models"]["ngdiff"]
    torch.save(weights.as_published(run.initial, run.tokenizer), mine)
    assert go(tmp_path / "cache", tmp_path / "c", *own, mine, base=short)[0] == 0
    assert "nothing to forget: forget_rouge" in capsys.readouterr().out


@pytest.mark.parametrize("steps, said", [(5, "loss_retain nan, loss_forget nan"),
                                         (1, "measuring.* nan.*--lr")])
def test_numbers_that_run_away_stop_the_run(plain, tmp_path, capsys, monkeypatch, steps, said):
    monkeypatch.setattr(ngdiff, "update", lambda params, d, lr: [
        p.data.fill_(float("nan")) for p in params])
    cache = shutil.copytree(plain[0], tmp_path / "cache")
    assert go(cache, tmp_path / "out", "--method", "ga", "--steps", steps) == (1, None)
    line, = capsys.readouterr().err.splitlines()
    assert re.search(said, line)
