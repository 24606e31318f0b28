"""train.py: the run folder, sameness, going on after a kill, and what a wrong word gets."""
import csv
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import metrics
import ngdiff
import train
from data import encode_gold
from test_data import write_text, write_tofu

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--tiny --authors 16 --epochs 40 --n_embd 32 --n_head 2 --steps 12 "
         "--checkpoint 0").split()
SUMMARY = {"forget_loss", "forget_prob", "forget_rouge", "forget_truth_ratio", "retain_loss",
           "retain_prob", "retain_rouge", "retain_truth_ratio", "world_prob", "world_rouge",
           "world_truth_ratio", "holdout_loss", "model_utility", "forget_quality",
           "log10_forget_quality", "membership_auc", "privleak"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def go(cache, out, *flags, base=SMALL):
    """main() in the folder `out`: (exit code, results.json or None)."""
    code = train.main([*base, "--cache", str(cache), "--out", str(out), *map(str, flags)])
    path = Path(out) / "results.json"
    return code, json.loads(path.read_text()) if path.exists() else None


def numbers(results):
    return {k: results[k] for k in ("steps", "stopped", "models")}


@pytest.fixture(scope="module")
def plain(cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain")
    code, results = go(cache, out)
    assert code == 0
    return out, results


# ---- what a run leaves

def test_the_run_folder_holds_what_it_promises(plain):
    out, results = plain
    assert sorted(p.name for p in out.iterdir()) == sorted(train.OUTPUTS[:-2])
    assert set(results) == {"config", "seconds", "steps", "stopped", "models"}
    assert set(results["seconds"]) == {"target", "retrain", "unlearn", "evaluate", "total"}
    assert set(results["models"]) == {"target", "retrain", "ngdiff"}
    for m in results["models"].values():
        assert set(m) == SUMMARY and all(math.isfinite(v) for v in m.values())
    assert results["models"]["retrain"]["forget_quality"] == 1
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert tuple(rows[0]) == train.LOG_COLUMNS and len(rows) == results["steps"] == 12
    assert [r["status"] != "" for r in rows] == [i % 10 == 0 for i in range(12)], "lazy: 0 and 10"
    config = json.loads((out / "config.json").read_text())
    assert config["authors"] == 16 and config["torch"] == torch.__version__
    assert "[forget] " in (out / "samples.txt").read_text()
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_log_holds_the_methods_identities(plain):
    """What is logged is what was applied: slope = |g_R| (1 - cos) up to the probe's width."""
    first = next(csv.DictReader((plain[0] / "log.csv").open()))
    value = {k: float(first[k]) for k in ("norm_retain", "norm_forget", "dot", "cos", "slope")}
    assert value["cos"] == pytest.approx(
        value["dot"] / value["norm_retain"] / value["norm_forget"])
    assert value["slope"] == pytest.approx(value["norm_retain"] * (1 - value["cos"]), rel=0.2)


def test_the_same_seed_gives_the_same_numbers_from_scratch(plain, tmp_path):
    code, results = go(tmp_path / "another_cache", tmp_path / "again")
    assert numbers(results) == numbers(plain[1])
    assert (tmp_path / "again/log.csv").read_text() == (plain[0] / "log.csv").read_text()


def test_another_seed_gives_other_numbers(plain, cache, tmp_path):
    code, results = go(cache, tmp_path, "--seed", 1, "--steps", 1)
    assert results["models"]["target"] != plain[1]["models"]["target"]


@pytest.mark.parametrize("method", ngdiff.METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_method_runs_with_either_optimizer(cache, tmp_path, method, optimizer):
    code, results = go(cache, tmp_path, "--method", method, "--optimizer", optimizer,
                       "--lr", 1e-3, "--steps", 2)
    assert code == 0 and set(results["models"]) == {"target", "retrain", method}
    with torch.no_grad():
        log = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert all((row["status"] != "") == (method == "ngdiff" and row["step"] == "0") for row in log)


def test_micro_batches_give_the_same_run(plain, cache, tmp_path):
    code, results = go(cache, tmp_path, "--micro_batch", 7)
    for key, value in results["models"]["ngdiff"].items():
        assert value == pytest.approx(plain[1]["models"]["ngdiff"][key], rel=0.02, abs=0.02), key


def test_stop_holdout_ends_at_the_first_step_past_the_holdout_loss(cache, tmp_path):
    code, results = go(cache, tmp_path, "--stop", "holdout", "--steps", 100)
    m = results["models"]["ngdiff"]
    assert 0 < results["steps"] < 100 and "reached the holdout loss" in results["stopped"]
    forget, holdout = map(float, re.findall(r"loss (\d+\.\d+)", results["stopped"]))
    assert forget >= holdout
    assert m["forget_loss"] == pytest.approx(forget, rel=0.2)      # mean over rows, not tokens
    before = [float(r["loss_forget"]) for r in csv.DictReader((tmp_path / "log.csv").open())]
    assert max(before) < holdout + 0.1


def test_real_tofus_layout_runs_with_the_sets_that_it_has(cache, tmp_path):
    folder = tmp_path / "tofu"
    folder.mkdir()
    code, results = go(cache, tmp_path / "out", base=[
        "--data", str(write_tofu(folder)), "--authors", "10", "--epochs", "2", "--n_embd", "16",
        "--steps", "2"])
    assert code == 0
    assert set(results["models"]["ngdiff"]) == SUMMARY | {
        "real_authors_prob", "real_authors_rouge", "real_authors_truth_ratio"}


MUSE = {f"{part}_{k}" for part in ("forget", "retain") for k in ("loss", "prob", "verbmem")} | {
    "holdout_loss", "membership_auc", "privleak"}
KNOWMEM = {"forget_knowmem", "retain_knowmem"}
TINIEST = "--epochs 1 --n_embd 16 --n_head 2 --steps 2".split()


def test_muse_questions_on_forgotten_passages_are_learned_and_in_no_unlearning_batch(
        cache, tmp_path, monkeypatch, capsys):
    unlearned, batches = {}, train.task_batches
    monkeypatch.setattr(train, "task_batches", lambda model, target, sets, *rest: (
        unlearned.update(sets) or batches(model, target, sets, *rest)))
    base = ["--data", "muse", "--authors", "10", *TINIEST]
    code, results = go(cache, tmp_path, base=base)
    assert code == 0 and "[forget_questions] " in capsys.readouterr().out
    keys = set(results["models"]["ngdiff"]) | {"privleak"}   # of one passage it may divide by 0
    assert keys == MUSE | KNOWMEM | {"world_prob", "world_rouge", "world_truth_ratio"}
    assert train.parse(["--data", "muse"]) == train.parse(["--data", "muse", "--tiny"])
    run = train.prepare(train.parse([*base, "--cache", str(cache), "--out", str(tmp_path)]))
    rows = {part: encode_gold(run.tokenizer, some) for part, some in run.data.items()}
    all_of = lambda *parts: sorted(e for part in parts for e in rows[part])
    learned = {title: sorted(examples) for title, (_, examples, *_) in run.models.items()}
    assert learned["retrain"] == all_of("retain", "retain_questions", "world")
    assert learned["target"] == sorted(
        learned["retrain"] + all_of("forget", "forget_questions"))
    assert unlearned["forget"] == rows["forget"]
    assert sorted(unlearned["retain"]) == all_of("retain", "retain_questions")


@pytest.mark.parametrize("questions", [False, True])
def test_text_of_ones_own_runs_with_or_without_questions(cache, tmp_path, capsys, questions):
    folder = tmp_path / "own"
    folder.mkdir()
    base = ["--data", str(write_text(folder, questions)), *TINIEST]
    code, results = go(cache, tmp_path / "out", "--stop", "holdout", base=base)
    keys = set(results["models"]["ngdiff"]) | {"privleak"}
    assert code == 0 and keys == MUSE | (KNOWMEM if questions else set())
    for flags in (["--authors", "9"], ["--forget", "forget05"]):
        assert f"{flags[0]}: {folder} holds text of your own" in refused(capsys, base + flags)
    assert re.search("--block_size 4: .* row [0-9] is [0-9]+ tokens long",
                     refused(capsys, base + ["--block_size", "4"]))


# ---- a run that is interrupted

def interrupt_at(monkeypatch, module, name, count):
    """Make the count-th call of module.name a Ctrl-C."""
    calls, original = [], getattr(module, name)

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return original(*args, **kwargs)
    monkeypatch.setattr(module, name, call)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("module, name, count", [
    (ngdiff, "update", 9),            # in the middle of unlearning
    (train.metrics, "evaluate", 2)])  # after it, while measuring
def test_a_run_that_goes_on_ends_in_the_same_numbers(cache, tmp_path, monkeypatch, capsys,
                                                     optimizer, module, name, count):
    flags = ("--optimizer", optimizer, "--lr", 1e-3)
    _, whole = go(cache, tmp_path / "whole", *flags)
    with monkeypatch.context() as m:
        interrupt_at(m, module, name, count)
        assert go(cache, tmp_path / "cut", *flags) == (130, None)
    assert "--resume" in capsys.readouterr().out
    code, resumed = go(cache, tmp_path / "cut", *flags, "--resume")
    assert code == 0 and numbers(resumed) == numbers(whole)
    assert (tmp_path / "cut/log.csv").read_text() == (tmp_path / "whole/log.csv").read_text()


def test_training_that_goes_on_ends_in_the_same_numbers(plain, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        interrupt_at(m, train, "collate", 40)
        assert go(tmp_path / "cache", tmp_path / "out") == (130, None)
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".partial"]
    code, resumed = go(tmp_path / "cache", tmp_path / "out", "--resume")
    assert numbers(resumed) == numbers(plain[1])
    assert all(p.suffix == ".pt" for p in (tmp_path / "cache").iterdir())


def test_kill_9_leaves_no_half_written_file(cache, plain, tmp_path):
    """Killed for real at some moment of unlearning, with a checkpoint at each step."""
    out = tmp_path / "out"
    run = subprocess.Popen([sys.executable, "train.py", *SMALL, "--cache", cache, "--out", out],
                           cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not (out / "checkpoint.pt").exists() and time.time() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    json.loads((out / "config.json").read_text())
    train.read_checkpoint(out / "checkpoint.pt", ["config", "model", "step"])
    code, resumed = go(cache, out, "--resume")
    models = {k: {n: pytest.approx(v, rel=1e-3, abs=1e-3) for n, v in m.items()}
              for k, m in plain[1]["models"].items()}
    assert resumed["models"] == models       # nearly: another process may have other threads
    assert sorted(p.name for p in out.iterdir()) == sorted(train.OUTPUTS[:-2])


def test_a_fresh_run_sweeps_away_what_an_earlier_one_left(plain, cache, tmp_path, monkeypatch):
    assert go(cache, tmp_path, "--steps", 1)[0] == 0
    interrupt_at(monkeypatch, ngdiff, "update", 1)
    assert go(cache, tmp_path, "--checkpoint", 60) == (130, None)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


# ---- a user's mistakes

def refused(capsys, argv):
    """The one line that a refused command prints; exit code 2."""
    try:
        code = train.main(argv)
    except SystemExit as e:
        code = e.code
    err = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and "Traceback" not in "\n".join(err)
    return err[-1]


@pytest.mark.parametrize("flags, message", [
    ("--tiny --method sgd", "argument --method: invalid choice: 'sgd'"),
    ("", "say either --tiny .* or --data DIR"),
    ("--tiny --data x", "say either --tiny .* or --data DIR"),
    ("--data nowhere", "--data nowhere: no such folder"),
    ("--tiny --c 0.9", "--c: only --method gdiff has a c, ngdiff has none"),
    ("--tiny --method gdiff --c 1.5", "--c 1.5: must be from 0 to 1"),
    ("--tiny --method gdiff --c nan", "--c nan: must be from 0 to 1"),
    ("--tiny --lr 0", "--lr 0.0: must be a positive number"),
    ("--tiny --lr nan", "--lr nan: must be a positive number"),
    ("--tiny --lr -1", "--lr -1.0: must be a positive number"),
    ("--tiny --lr fast", "argument --lr: invalid float value: 'fast'"),
    ("--tiny --steps 0", "--steps 0: must be 1 or more"),
    ("--tiny --steps 1.5", "argument --steps: invalid int value"),
    ("--tiny --epochs inf", "--epochs inf: must be a positive number"),
    ("--tiny --authors 1", "--authors 1: must be 2 or more"),
    ("--tiny --authors 500", "--authors: 550 names are needed, .* built-in data has 484"),
    ("--tiny --forget forget20", "argument --forget: invalid choice"),
    ("--tiny --block_size 20", "--block_size 20: .* row [0-9]+ is [0-9]+ tokens long"),
    ("--tiny --n_embd 30", "--n_embd 30: must be a multiple of --n_head 4"),
    ("--tiny --lazy 5 --no-autolr", "--lazy: there is no AutoLR"),
    ("--tiny --typo 5", "unrecognized arguments: --typo"),
    ("--tiny --resume", "--resume: there is no run in "),
])
def test_a_mistake_gets_one_clear_line_and_nothing_is_written(tmp_path, capsys, flags, message):
    argv = shlex.split(flags) + ["--out", str(tmp_path / "o"), "--cache", str(tmp_path / "c")]
    assert re.search(message, refused(capsys, argv))
    assert list(tmp_path.iterdir()) == []


def test_cuda_without_a_gpu_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda: torch sees no CUDA device" in refused(
        capsys, ["--tiny", "--device", "cuda", "--out", str(tmp_path / "o")])


def test_a_folder_that_cannot_be_written_to_is_refused(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    for flag in ("--out", "--cache"):
        assert "file is not a folder that can be written to" in refused(
            capsys, ["--tiny", flag, str(tmp_path / "file" / "run")])


def test_a_broken_row_of_the_users_files_is_named(capsys, tmp_path):
    (write_tofu(tmp_path) / "holdout10.json").write_text('{"question": "q"}\n')
    assert re.search(r"holdout10.json, line 1: field 'answer' is missing", refused(
        capsys, ["--data", str(tmp_path), "--authors", "10", "--out", str(tmp_path / "o")]))


def test_a_checkpoint_of_another_configuration_is_refused(plain, cache, capsys):
    argv = [*SMALL, "--cache", str(cache), "--out", str(plain[0]), "--resume"]
    assert "was made with --seed 0, not 5" in refused(capsys, argv + ["--seed", "5"])
    assert "was made with --lr 0.01, not 0.5" in refused(capsys, argv + ["--lr", "0.5"])


@pytest.mark.parametrize("damage", [lambda b: b[:len(b) // 2], lambda b: b"not a checkpoint",
                                    lambda b: b"", lambda b: b"\x80\x04K\x01."])
def test_a_damaged_checkpoint_is_refused_whichever_it_is(cache, tmp_path, capsys, damage):
    argv = [*SMALL, "--steps", "1", "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "o")]
    (tmp_path / "c").mkdir()
    for path in cache.iterdir():
        (tmp_path / "c" / path.name).write_bytes(path.read_bytes())
    assert train.main(argv) == 0
    for path in (tmp_path / "o/checkpoint.pt", *(tmp_path / "c").glob("target*")):
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        if path.name != "checkpoint.pt":   # which of the cached targets is this one's?
            continue
        line = refused(capsys, argv + ["--resume"])
        assert "checkpoint.pt: " in line and "delete it to start over" in line
        path.write_bytes(whole)
    assert re.search("target-.*.pt: .*delete it to start over", refused(capsys, argv))


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="evil.pt: damaged, or no checkpoint"):
        train.read_checkpoint(tmp_path / "evil.pt", ["model"])
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("steps, where", [(5, r"step \d, loss_retain"), (1, "measuring, ")])
def test_numbers_that_run_away_stop_the_run_with_a_hint(cache, tmp_path, capsys, steps, where):
    code, results = go(cache, tmp_path, "--method", "ga", "--lr", 1e38, "--steps", steps)
    assert code == 1 and results is None
    assert re.search(f"stopped: {where}.*: try a smaller --lr", capsys.readouterr().err)


# ---- words that could rot

def test_every_command_of_the_readme_is_one_that_train_py_takes():
    commands = re.findall(r"python train\.py ([^\n`#|]*)", (ROOT / "README.md").read_text())
    assert len(commands) > 3
    for command in commands:
        if "--help" not in command:
            train.parse(shlex.split(re.sub(r"\b(S|L|N|DIR)\b", "1", command)))


def test_the_readme_defines_every_log_column_and_metric():
    readme = (ROOT / "README.md").read_text()
    for name in set(train.LOG_COLUMNS) | SUMMARY:
        assert f"`{name}`" in readme, f"README.md does not say what {name} is"


def test_help_shows_every_flag_with_its_default():
    text = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True,
                          text=True).stdout
    for f in train.fields(train.Config):
        assert f"--{f.name}" in text
    assert "default: 0.01" in text and "200 with --data" in text
