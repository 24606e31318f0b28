"""train.py: the run folder, sameness, going on after a kill, and what a wrong word gets."""
import contextlib
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

import experiments
import metrics
import ngdiff
import train
from data import encode_gold
from test_data import write_text, write_tofu

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--tiny --authors 16 --epochs 10 --n_embd 32 --n_head 2 --steps 12 "
         "--checkpoint 0").split()
SUMMARY = {"forget_loss", "forget_prob", "forget_rouge", "forget_truth_ratio", "retain_loss",
           "retain_prob", "retain_rouge", "retain_truth_ratio", "world_prob", "world_rouge",
           "world_truth_ratio", "holdout_loss", "model_utility", "forget_quality",
           "log10_forget_quality", "membership_auc", "privleak"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """The picture takes longer than the run; `plain`, made before this, has a real one."""
    monkeypatch.setattr(experiments, "draw_curves", lambda path, *rest: train.write_text(path, ""))


def go(cache, out, *flags, base=SMALL):
    """main() in the folder `out`: (exit code, results.json or None)."""
    code = train.main([*base, "--cache", str(cache), "--out", str(out), *map(str, flags)])
    path = Path(out) / "results.json"
    return code, json.loads(path.read_text("utf-8")) if path.exists() else None


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
    assert sorted(p.name for p in out.iterdir()) == sorted(train.OUTPUTS[:6])
    assert set(results) == {"config", "seconds", "steps", "stopped", "models"}
    assert set(results["seconds"]) == {"target", "retrain", "unlearn", "evaluate", "total"}
    assert set(results["models"]) == {"target", "retrain", "ngdiff"}
    for m in results["models"].values():
        assert set(m) == SUMMARY and all(math.isfinite(v) for v in m.values())
    assert results["models"]["retrain"]["forget_quality"] == 1
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert tuple(rows[0]) == train.LOG_COLUMNS and len(rows) == results["steps"] == 12
    assert [r["status"] != "" for r in rows] == [i % 10 == 0 for i in range(12)], "lazy: 0 and 10"
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert config["authors"] == 16 and config["torch"] == torch.__version__
    assert "[forget] " in (out / "samples.txt").read_text("utf-8")
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_recorded_torch_is_the_build_that_ran(monkeypatch):
    """A wheel's metadata say 2.13.0 where torch says 2.13.0+cu130: the latter is recorded."""
    monkeypatch.setattr(torch, "__version__", "2.13.0+build")
    monkeypatch.setattr(train, "version", lambda name: "metadata")
    about = train.about(train.Config())
    assert about["torch"] == "2.13.0+build" and about["numpy"] == "metadata"


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
    assert (tmp_path / "again/log.csv").read_text("utf-8") == (plain[0] / "log.csv").read_text("utf-8")


def test_another_seed_gives_other_numbers(plain, cache, tmp_path):
    code, results = go(cache, tmp_path, "--seed", 1, "--steps", 1)
    assert results["models"]["target"] != plain[1]["models"]["target"]


@pytest.mark.parametrize("method", ngdiff.METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_method_runs_with_either_optimizer(plain, cache, tmp_path, method, optimizer):
    run = train.prepare(train.parse([
        *SMALL, "--cache", str(cache), "--out", str(tmp_path), "--method", method, "--optimizer",
        optimizer, "--lr", "1e-3", "--steps", "2"]))
    target = run.models["target"][0]
    state = train.fresh_state(run.config, target)
    *_, model = train.unlearn(target, run.config, run.sets, state)
    assert state["step"] == 2 and state["stopped"] == "after 2 steps"
    assert ["status" in row for row in state["log"]] == [method == "ngdiff", False]
    assert not torch.equal(model.lm_head.weight, target.lm_head.weight)


def test_micro_batches_give_the_same_run(plain, cache, tmp_path):
    code, results = go(cache, tmp_path, "--micro_batch", 7)
    for key, value in results["models"]["ngdiff"].items():
        assert value == pytest.approx(plain[1]["models"]["ngdiff"][key], rel=0.02, abs=0.02), key


def test_stop_holdout_ends_at_the_first_step_past_the_holdout_loss(cache, tmp_path):
    code, results = go(cache, tmp_path, "--stop", "holdout", "--steps", 400, "--no-autolr",
                       "--lr", 0.05)
    m = results["models"]["ngdiff"]
    assert 0 < results["steps"] < 400 and "reached the holdout loss" in results["stopped"]
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
    assert (tmp_path / "cut/log.csv").read_text("utf-8") == (tmp_path / "whole/log.csv").read_text("utf-8")


def test_training_that_goes_on_ends_in_the_same_numbers(plain, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        interrupt_at(m, train, "collate", 12)
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
    json.loads((out / "config.json").read_text("utf-8"))
    train.read_checkpoint(out / "checkpoint.pt", ["config", "model", "step"])
    code, resumed = go(cache, out, "--resume")
    models = {k: {n: pytest.approx(v, rel=1e-3, abs=1e-3) for n, v in m.items()}
              for k, m in plain[1]["models"].items()}
    assert resumed["models"] == models       # nearly: another process may have other threads
    assert sorted(p.name for p in out.iterdir()) == sorted(train.OUTPUTS[:6])


def test_a_fresh_run_sweeps_away_what_an_earlier_one_left(plain, cache, tmp_path, monkeypatch):
    assert go(cache, tmp_path, "--steps", 1)[0] == 0
    interrupt_at(monkeypatch, ngdiff, "update", 1)
    assert go(cache, tmp_path, "--checkpoint", 60) == (130, None)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


# ---- more than one process, bfloat16, published weights, too little memory

def test_two_processes_take_the_single_ones_steps(tmp_path):
    """Training, both gradients and AutoLR's losses, summed over gloo."""
    flags = "--tiny --authors 16 --epochs 2 --n_embd 32 --n_head 2 --steps 5".split()
    flags += ["--cache", str(tmp_path / "cache"), "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    runs = [subprocess.Popen([*command, "train.py", *flags, str(tmp_path / out)], cwd=ROOT,
                             env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
                             start_new_session=True)
            for command, out in (([sys.executable], "1"), ([*torchrun, "2"], "2"))]
    try:
        said = [run.communicate(timeout=120)[0].decode() for run in runs]
    finally:
        for run in runs:            # torchrun and its workers, if one of them hangs
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
    assert [run.returncode for run in runs] == [0, 0]
    assert said[0].count("stopped") == said[1].count("stopped") == 1, "the first process alone speaks"
    one, two = (list(csv.DictReader((tmp_path / out / "log.csv").open())) for out in "12")
    assert len(one) == len(two) == 5
    for a, b in zip(one, two):
        for key in set(train.LOG_COLUMNS) - {"status"}:
            assert (a[key] == b[key] == "") or float(b[key]) == pytest.approx(
                float(a[key]), rel=1e-4, abs=1e-6), (a["step"], key)
    assert sorted(p.name for p in (tmp_path / "2").iterdir()) == sorted(train.OUTPUTS[:6])


def test_each_process_gets_its_share_and_all_add_up(monkeypatch, plain, cache, tmp_path):
    """Unequal shares too: the parts of 3 processes add up to the batch's loss."""
    run = train.prepare(train.parse([*SMALL, "--cache", str(cache), "--out", str(tmp_path)]))
    model, rows = run.models["target"][0], run.sets["forget"]
    whole = ngdiff.loss_only(train.loss_parts(model, rows, run.config))
    losses = []
    for rank in range(3):
        monkeypatch.setattr(train, "processes", lambda: (rank, 3))
        losses.append(ngdiff.loss_only(train.loss_parts(model, rows, run.config)))
    assert sum(losses) == pytest.approx(whole, rel=1e-6) and min(losses) > 0
    monkeypatch.setattr(train, "processes", lambda: (1, 3))
    train.write_text(tmp_path / "file", "by the second process")
    assert not (tmp_path / "file").exists()


def test_more_processes_than_rows_are_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(train, "processes", lambda: (0, 50))
    assert "50 processes, but a batch, or a set, of fewer rows" in refused(
        capsys, [*SMALL, "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "o")])


def test_in_bfloat16_the_parabola_is_still_fitted_in_float32(cache, tmp_path):
    """A small step's change of the loss drowns in bfloat16; the parts' exact form resolves it."""
    run = train.prepare(train.parse([*SMALL, "--dtype", "bfloat16", "--cache", str(cache),
                                     "--out", str(tmp_path)]))
    model, rows = run.models["target"][0], run.sets["retain"][:8]
    params = list(model.parameters())
    parts = train.loss_parts(model, rows, run.config)
    exact = [lambda: train.exact_loss(parts)]
    loss, grad = ngdiff.loss_and_grad(parts, params)
    assert all(g.dtype == torch.float32 for g in grad)
    assert float(loss) != ngdiff.loss_only(exact), "the passes are in bfloat16"
    _, true = ngdiff.loss_and_grad(train.loss_parts(model, rows, train.Config(device="cpu")), params)
    slope = sum(float((g * g).sum()) for g in true)

    def error(parts):
        """Mean over eight widths: one sample of rounding noise may happen to be small."""
        pairs = [(ngdiff.probe(parts, params, true, i * 2e-6), i * 2e-6) for i in range(4, 12)]
        return sum(abs(ngdiff.parabola(minus, 0, plus, lr)[0] / slope - 1)
                   for (minus, plus), lr in pairs) / len(pairs)
    assert error(exact) < 1e-2 and 3 * error(exact) < error(parts)


def test_a_bfloat16_run_comes_near_the_float32_one(cache, tmp_path):
    models = [go(cache, tmp_path / dtype, "--dtype", dtype, "--epochs", 3, "--steps", 3)[1]["models"]
              for dtype in ("float32", "bfloat16")]
    for key in ("retain_loss", "forget_loss", "holdout_loss"):
        assert models[0]["ngdiff"][key] == pytest.approx(models[1]["ngdiff"][key], rel=0.02), key


def published(path, vocab_size, n_positions=64):
    """A file of random weights in the published layout: 1 layer, width 64."""
    shapes = {"wte.weight": (vocab_size, 64), "wpe.weight": (n_positions, 64)}
    for name, n_in, n_out in (("attn.c_attn", 64, 192), ("attn.c_proj", 64, 64),
                              ("mlp.c_fc", 64, 256), ("mlp.c_proj", 256, 64)):
        shapes |= {f"h.0.{name}.weight": (n_in, n_out), f"h.0.{name}.bias": (n_out,)}
    for name in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        shapes |= {f"{name}.weight": (64,), f"{name}.bias": (64,)}
    torch.manual_seed(0)
    torch.save({n: 0.02 * torch.randn(shape) for n, shape in shapes.items()}, path)
    return str(path)


def test_published_weights_are_where_both_models_start(cache, tmp_path, capsys):
    base = ("--tiny", "--authors", "16", "--steps", "2", "--epochs", "1e-9", "--train_lr", "1e-9")
    run = train.prepare(train.parse(base))
    V = run.tokenizer.n_vocab
    flags = [*base, "--init", published(tmp_path / "gpt2.bin", V)]
    code, results = go(cache, tmp_path / "out", base=flags)
    assert code == 0 and results["models"]["target"]["retain_loss"] == pytest.approx(
        math.log(V), rel=0.05)
    saved = torch.load(tmp_path / "gpt2.bin")
    run = train.prepare(train.parse([*flags, "--cache", str(cache)]))
    for title in ("target", "retrain"):
        model, _, path, cached, _ = run.models[title]
        assert cached and torch.allclose(model.transformer.wte.weight, saved["wte.weight"], atol=1e-6)
    published(tmp_path / "gpt2.bin", V, 65)               # another file of the same name
    assert not train.prepare(train.parse([*flags, "--cache", str(cache)])).models["target"][3]
    assert re.search(rf"--init .*other.pt: a vocabulary of {V + 1} and .* has {V} .*--tokenizer gpt2",
                     refused(capsys, [*base, "--init", published(tmp_path / "other.pt", V + 1)]))
    assert "--n_embd: the file of --init says" in refused(capsys, [*flags, "--n_embd", "64"])
    assert "nowhere.bin: no such file" in refused(capsys, [*base, "--init", "nowhere.bin"])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_says_which_flag_to_turn(cache, tmp_path, capsys, monkeypatch, error):
    def fail(*args):
        raise error
    monkeypatch.setattr(ngdiff, "five_numbers", fail)
    code, results = go(cache, tmp_path)
    err = capsys.readouterr().err
    assert code == 1 and results is None
    assert "out of memory: " in err and "--micro_batch" in err and len(err.splitlines()) == 1


def test_another_runtime_error_is_not_called_out_of_memory(cache, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("something else")
    monkeypatch.setattr(ngdiff, "five_numbers", fail)
    with pytest.raises(RuntimeError, match="something else"):
        go(cache, tmp_path)


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
    ("--tiny --seeds 3", "--seeds: only --compare runs several"),
    ("--tiny --compare --seeds 0", "--seeds 0: must be 1 or more"),
    ("--tiny --compare --method ga", "--compare and --method: --compare sets or has no --method"),
    ("--tiny --compare --audit", "--compare and --audit: --compare sets or has no --audit"),
    ("--tiny --compare --resume", "--compare and --resume: "),
    ("--tiny --compare --ablate lr", "--compare and --ablate: "),
    ("--tiny --ablate lr --lr 3", "--ablate and --lr: --ablate sets or has no --lr"),
    ("--tiny --ablate size --n_embd 64", "--ablate and --n_embd: "),
    ("--tiny --ablate size --n_head 3 --n_embd 129", "--ablate and --n_embd: "),
    ("--tiny --compare --seeds 101", "--seeds 101: 100 at most"),
    ("--tiny --ablate steps", "argument --ablate: invalid choice"),
    ("--tiny --ablate lazy --method ga", "--ablate lazy: there is no AutoLR to look at"),
    ("--data muse --compare", "--data muse: --compare, --ablate and --audit ask questions"),
    ("--tiny --checkpoint -1", "--checkpoint -1.0: must be 0 or more"),
    ("--tiny --checkpoint nan", "--checkpoint nan: must be 0 or more"),
    ("--tiny --dtype float16", "argument --dtype: invalid choice"),
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
    commands = re.findall(r"python train\.py ([^\n`#|]*)", (ROOT / "README.md").read_text("utf-8"))
    assert len(commands) > 3
    for command in commands:
        if "--help" not in command:
            command = command.replace("NAME", "lazy")
            train.parse(shlex.split(re.sub(r"\b(S|L|N|DIR)\b", "1", command)))


def test_the_readme_defines_every_log_column_and_metric():
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in set(train.LOG_COLUMNS) | SUMMARY | MUSE | KNOWMEM:
        assert f"`{name}`" in readme, f"README.md does not say what {name} is"


def test_help_shows_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit):
        train.parse(["--help"])
    text = capsys.readouterr().out
    for f in train.fields(train.Config):
        assert f"--{f.name}" in text
    assert "default: 0.01" in text and "200 with --data" in text
