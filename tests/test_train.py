"""train.py: the run folder, sameness, every method, the level loss, several processes, bfloat16."""
import contextlib
import copy
import csv
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import data
import ngdiff
import train
from conftest import in_turn
from harness import measuring, processes, report, stages

pytestmark = pytest.mark.usefixtures("in_this_process")
ROOT = Path(__file__).resolve().parent.parent
SMALL = "--tiny --authors 16 --epochs 10 --n_embd 32 --n_head 2 --steps 12".split()
TINIEST = "--epochs 1 --n_embd 16 --n_head 2 --steps 2".split()
SUMMARY = {"forget_loss", "forget_prob", "forget_rouge", "forget_truth_ratio", "retain_loss",
           "retain_prob", "retain_rouge", "retain_truth_ratio", "world_prob", "world_rouge",
           "world_truth_ratio", "holdout_loss", "model_utility", "forget_quality",
           "log10_forget_quality"}      # and with enough rows:
MEMBERSHIP = {"membership_auc", "privleak"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def go(cache, out, *flags, base=SMALL):
    """main() in the folder `out`: (exit code, results.json or None)."""
    code = train.main([*base, "--cache", str(cache), "--out", str(out), *map(str, flags)])
    path = Path(out) / "results.json"
    return code, json.loads(path.read_text("utf-8")) if path.exists() else None


def ready(cache, *flags, base=SMALL):
    return train.ready([*base, "--cache", str(cache), "--out", str(cache / "out"),
                        *map(str, flags)])


def numbers(results):
    return {k: results[k] for k in ("steps", "stopped", "models")}


def rows(path):
    with open(path, encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def plain(cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(processes, "side_by_side", in_turn)
        torch.set_num_threads(1)
        code, results = go(cache, out)
    assert code == 0
    return out, results


# ---- what a run leaves

def test_the_run_folder_holds_what_it_promises(plain):
    out, results = plain
    assert sorted(p.name for p in out.iterdir()) == sorted(report.OUTPUTS)
    assert set(results) == {"config", "seconds", "steps", "stopped", "models"}
    assert set(results["seconds"]) == {"target", "retrain", "unlearn", "evaluate", "total"}
    assert set(results["models"]) == {"target", "retrain", "ngdiff"}
    for m in results["models"].values():
        assert set(m) == SUMMARY and all(math.isfinite(v) for v in m.values())
    assert results["models"]["retrain"]["forget_quality"] == 1
    log = rows(out / "log.csv")
    assert tuple(log[0]) == report.LOG_COLUMNS and len(log) == results["steps"] == 12
    assert [r["status"] != "" for r in log] == [i % 10 == 0 for i in range(12)], "lazy: 0 and 10"
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert config["authors"] == 16 and {f.name for f in fields(train.Config)} <= set(config)
    assert "[forget] " in (out / "samples.txt").read_text("utf-8")
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_saved_weights_are_the_unlearned_models_and_load_as_published_ones(plain, cache):
    from harness import weights
    out, results = plain
    run = ready(cache)
    model = weights.from_gpt2(str(out / "model.pt"))
    assert model.config == run.initial.config
    again = report.measuring.summary(*[report.evaluate(model, run.tokenizer, run.rows)] * 2)
    assert again["forget_loss"] == results["models"]["ngdiff"]["forget_loss"]


def test_the_recorded_torch_is_the_build_that_ran(plain, cache, monkeypatch):
    """A wheel's metadata say 2.13.0 where torch says 2.13.0+cu130: the latter is recorded."""
    config = json.loads((plain[0] / "config.json").read_text("utf-8"))
    assert config["torch"] == torch.__version__
    monkeypatch.setattr(torch, "__version__", "2.13.0+build")
    monkeypatch.setattr(report, "version", lambda name: "metadata")
    about = report.about(train.Config(), ready(cache).initial.config)
    assert about["torch"] == "2.13.0+build" and about["numpy"] == "metadata"


def test_the_log_holds_the_methods_identities(plain):
    """What is logged is what was applied: slope = |g_R| (1 - cos) up to the probe's width."""
    first = rows(plain[0] / "log.csv")[0]
    value = {k: float(first[k]) for k in ("norm_retain", "norm_forget", "dot", "cos", "slope")}
    assert value["cos"] == pytest.approx(
        value["dot"] / value["norm_retain"] / value["norm_forget"])
    assert value["slope"] == pytest.approx(value["norm_retain"] * (1 - value["cos"]), rel=0.2)


def test_the_same_seed_gives_the_same_numbers_from_scratch(plain, tmp_path, no_drawing):
    code, results = go(tmp_path / "another_cache", tmp_path / "again")
    assert numbers(results) == numbers(plain[1])
    assert rows(tmp_path / "again/log.csv") == rows(plain[0] / "log.csv")


def test_another_seed_gives_other_models(plain, cache, tmp_path, no_drawing):
    code, results = go(cache, tmp_path, "--seed", 1, "--steps", 1)
    assert results["models"]["target"] != plain[1]["models"]["target"]


@pytest.mark.parametrize("method", ngdiff.METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("level", [False, True])
def test_every_method_runs_with_either_optimizer_plain_and_with_the_level(
        plain, cache, method, optimizer, level):
    if level and method in ("npo", "retain", "lossnorm"):
        return                                    # refused, see test_flags.py
    run = ready(cache, "--method", method, "--optimizer", optimizer, "--lr", "1e-3", "--steps", 2)
    run = run._replace(config=replace(run.config, level=level))
    target = train.both_models(run)["target"].model
    state = train.unlearned(run, target)
    assert state.step == 2 and state.stopped == ""
    assert [row["status"] is not None for row in state.log] == [method == "ngdiff", False]
    assert ["level" in row for row in state.log] == [level, False]
    assert not torch.equal(state.model.lm_head.weight, target.lm_head.weight)


def test_micro_batches_give_the_same_run(plain, cache, tmp_path, no_drawing):
    code, results = go(cache, tmp_path, "--micro_batch", 7)
    for key, value in results["models"]["ngdiff"].items():
        assert value == pytest.approx(plain[1]["models"]["ngdiff"][key], rel=0.02, abs=0.02), key


def test_a_run_that_has_no_direction_left_says_so(plain, cache, tmp_path, no_drawing, monkeypatch):
    def stationary(*args, **kwargs):
        raise ngdiff.Stationary("d = 0")
    monkeypatch.setattr(ngdiff, "coefficients", stationary)
    code, results = go(tmp_path / "cache", tmp_path / "out", *TINIEST)
    assert code == 0 and results["steps"] == 0 and "d = 0" in results["stopped"]


# ---- a batch's loss

def batch_of(run, name="forget"):
    return run.examples[name], train.both_models(run)["target"].model


@pytest.mark.parametrize("kind", ["plain", "npo", "level"])
def test_the_parts_of_every_process_and_micro_batch_add_up(plain, cache, monkeypatch, kind):
    """Rows of unequal length weigh by their answer tokens (npo's: each the same), however a batch
    is split, for every loss that can stand in the forget loss's place."""
    run = ready(cache)
    examples, model = batch_of(run)
    examples = examples + run.examples["retain"][:3]
    target = torch.arange(len(examples), dtype=torch.float64) if kind == "npo" else None
    level = 0.5 if kind == "level" else None

    def loss(config):
        parts = train.split(examples, config, target)
        return ngdiff.loss_only(train.losses(model, parts, config, level))
    whole, shares = loss(run.config), []
    per_row = train.measuring.token_losses(model, examples)
    n_tokens = sum(map(len, per_row))
    if kind == "plain":
        assert whole == pytest.approx(sum(map(sum, per_row)) / n_tokens, rel=1e-6)
    if kind == "level":
        assert whole == pytest.approx(-sum(len(x) * (x.mean() - level) ** 2 / (2 * level)
                                           for x in per_row) / n_tokens, rel=1e-6)
    if kind == "npo":
        rows_ = torch.tensor([x.sum() for x in per_row])
        assert whole == pytest.approx(float(ngdiff.npo_objective(rows_, target).mean()), rel=1e-6)
    for rank in range(3):
        monkeypatch.setattr(processes, "rank_and_size", lambda: (rank, 3))
        shares.append(loss(replace(run.config, micro_batch=2)))
    assert sum(shares) == pytest.approx(whole, rel=1e-5) and len(set(shares)) == 3


def test_the_level_is_the_mean_holdout_loss_per_token_and_the_spread_is_about_it(plain, cache):
    run = ready(cache, "--level")
    _, model = batch_of(run)
    level, measured = train.measure_level(model, run.examples)
    holdout, forget = ([torch.tensor(x) for x in train.measuring.token_losses(model, run.examples[k])]
                       for k in ("holdout", "forget"))
    assert level == pytest.approx(float(torch.cat(holdout).mean()))
    assert measured["loss_forget_set"] == pytest.approx(float(torch.cat(forget).mean()))
    spread = torch.stack([x.mean() - level for x in forget])
    assert measured["level_spread"] == pytest.approx(float((spread**2).mean().sqrt()))


def test_the_level_is_measured_every_tenth_step_on_the_model_as_it_is(plain, cache, monkeypatch):
    run = ready(cache, "--level")
    _, target = batch_of(run)
    state, seen = stages.State(copy.deepcopy(target)), []
    measure = train.measure_level
    monkeypatch.setattr(train, "measure_level", lambda model, examples: (
        seen.append(model) or measure(model, examples)))
    for _ in train.unlearn(state, target, run.examples, run.config):
        pass
    assert len(seen) == 2 and all(model is state.model for model in seen)
    assert [row["step"] for row in state.log if "level" in row] == [0, 10]
    assert state.level == state.log[10]["level"] != state.log[0]["level"]


def test_with_the_level_known_rows_rise_and_over_forgotten_ones_come_back(cache):
    """From the target, below the level, and from where plain NGDiff drove it, beyond the level."""
    base = "--tiny --authors 10 --epochs 60 --n_embd 48 --n_head 2 --steps 30".split()
    run = ready(cache, "--no-autolr", "--lr", 0.06, base=base)
    target = train.both_models(run)["target"].model
    beyond = train.unlearned(run, target).model
    config = replace(run.config, level=True, autolr=True, lr=0.01)

    def off(model):
        level, measured = train.measure_level(model, run.examples)
        return measured["loss_forget_set"] / level - 1
    assert off(target) < -0.7 and off(beyond) > 0.3
    for start in (target, beyond):
        state = stages.State(copy.deepcopy(start))
        for _ in train.unlearn(state, target, run.examples, config):
            pass
        assert abs(off(state.model)) < 0.8 * abs(off(start))


# ---- other data

MUSE = {f"{name}_{k}" for name in ("forget", "retain") for k in ("loss", "prob", "verbmem",
                                                                 "knowmem")} | {"holdout_loss"}


def test_questions_on_forgotten_texts_are_learned_and_in_no_unlearning_batch(
        cache, tmp_path, no_drawing, capsys):
    base = ["--data", "muse", "--authors", "10", *TINIEST]
    code, results = go(cache, tmp_path, base=base)
    assert code == 0 and "[forget_questions] " in capsys.readouterr().out
    assert set(results["models"]["ngdiff"]) == MUSE | {"world_prob", "world_rouge",
                                                       "world_truth_ratio"}
    run = ready(cache, base=base)
    encoded = {k: data.encode_rows(run.tokenizer, some) for k, some in run.rows.items()}
    all_of = lambda *names: sorted(e for name in names for e in encoded[name])
    learned = {title: sorted(examples) for title, examples in run.learned.items()}
    assert learned["retrain"] == all_of("retain", "retain_questions", "world")
    assert learned["target"] == sorted(
        learned["retrain"] + all_of("forget", "forget_questions"))
    assert run.examples["forget"] == encoded["forget"]
    assert sorted(run.examples["retain"]) == all_of("retain", "retain_questions")


def test_one_file_of_ones_own_rows_is_enough(cache, tmp_path, no_drawing):
    """With and without a holdout set, wrong answers and paraphrases."""
    rows = lambda name, n: [{"set": name, "question": f"Who is {name} {i}?",
                             "answer": f"Nobody but {i}."} for i in range(n)]
    own = rows("retain", 12) + rows("forget", 9)
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in own), "utf-8")
    keys = {f"{name}_{k}" for name in ("forget", "retain") for k in ("loss", "prob", "rouge")}
    code, results = go(cache, tmp_path / "a", base=["--data", str(path), *TINIEST])
    assert code == 0 and set(results["models"]["ngdiff"]) == keys
    for row in own[11:]:
        row |= {"paraphrased_answer": "No one.", "perturbed_answer": ["He.", "She is."]}
    own += rows("holdout", 9)
    path.write_text("".join(json.dumps(row) + "\n" for row in own), "utf-8")
    code, results = go(cache, tmp_path / "b", "--level", base=["--data", str(path), *TINIEST])
    assert code == 0 and set(results["models"]["ngdiff"]) - {"privleak"} == keys | {
        "forget_truth_ratio", "forget_quality", "log10_forget_quality", "holdout_loss",
        "membership_auc", "retain_truth_ratio", "model_utility"}


# ---- several processes, bfloat16, published weights, too little memory

def test_two_processes_take_the_single_ones_steps(tmp_path, capsys, no_drawing):
    """Training, both gradients, the level and AutoLR's losses, summed over gloo."""
    flags = "--tiny --level --authors 16 --epochs 2 --n_embd 32 --n_head 2 --steps 5".split()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    run = subprocess.Popen([*torchrun, "2", "train.py", *flags, "--cache", str(tmp_path / "cache2"),
                            "--out", str(tmp_path / "2")], cwd=ROOT, stdout=subprocess.PIPE,
                           start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert go(tmp_path / "cache1", tmp_path / "1", base=flags)[0] == 0
        of_two = run.communicate(timeout=120)[0].decode()
    finally:                        # torchrun and its workers, if one of them hangs
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 0
    assert capsys.readouterr().out.count("stopped") == of_two.count("stopped") == 1, \
        "the first of two speaks alone"
    one, two = (rows(tmp_path / out / "log.csv") for out in "12")
    assert len(one) == len(two) == 5
    for a, b in zip(one, two):
        for key in set(report.LOG_COLUMNS) - {"status"}:
            assert (a[key] == b[key] == "") or float(b[key]) == pytest.approx(
                float(a[key]), rel=1e-4, abs=1e-6), (a["step"], key)
    assert sorted(p.name for p in (tmp_path / "2").iterdir()) == sorted(report.OUTPUTS)


def test_in_bfloat16_the_parabola_is_still_fitted_in_float32(plain, cache, monkeypatch):
    """A small step's change of the loss drowns in bfloat16; float32 losses resolve it."""
    run = ready(cache, "--dtype", "bfloat16")
    exact = replace(run.config, dtype="float32")
    model = train.both_models(ready(cache))["target"].model
    params, parts = list(model.parameters()), train.split(run.examples["retain"][:8], run.config)
    coarse, fine = (train.losses(model, parts, config) for config in (run.config, exact))
    loss, grad = ngdiff.loss_and_grad(coarse, params)
    assert all(g.dtype == torch.float32 for g in grad)
    _, true = ngdiff.loss_and_grad(fine, params)
    slope = sum(float((g * g).sum()) for g in true)

    def error(losses):
        """Mean over eight widths: one sample of rounding noise may happen to be small."""
        pairs = [(ngdiff.probe(losses, params, true, i * 2e-6), i * 2e-6) for i in range(4, 12)]
        return sum(abs(ngdiff.parabola(minus, 0, plus, lr)[0] / slope - 1)
                   for (minus, plus), lr in pairs) / len(pairs)
    assert error(fine) < 1e-2 and 3 * error(fine) < error(coarse)
    seen, step = [], ngdiff.step
    monkeypatch.setattr(ngdiff, "step", lambda *a, **k: (
        seen.append([ngdiff.loss_only(x[0]) for x in (a[0], k["probe_on"])]) or step(*a, **k)))
    for _ in train.unlearn(stages.State(model), model, run.examples, replace(run.config, steps=1)):
        pass
    assert seen[0][0] != seen[0][1], "the passes are in bfloat16, the probes are not"


def test_a_bfloat16_run_comes_near_the_float32_one(cache, tmp_path, no_drawing):
    models = [go(cache, tmp_path / d, "--dtype", d, "--epochs", 3, "--steps", 3)[1]["models"]
              for d in ("float32", "bfloat16")]
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


def test_published_weights_are_where_both_models_start(cache, tmp_path, no_drawing):
    base = ("--tiny", "--authors", "16", "--steps", "2", "--epochs", "1e-9", "--train_lr", "1e-9")
    V = ready(cache, base=base).tokenizer.n_vocab
    flags = [*base, "--init", published(tmp_path / "gpt2.bin", V)]
    code, results = go(cache, tmp_path / "out", base=flags)
    assert code == 0 and results["models"]["target"]["retain_loss"] == pytest.approx(
        math.log(V), rel=0.05)
    saved = torch.load(tmp_path / "gpt2.bin")
    run = ready(cache, base=flags)
    for state in train.both_models(run).values():
        assert torch.allclose(state.model.transformer.wte.weight, saved["wte.weight"], atol=1e-6)
    path = train.model_path(run, "target", 1)
    published(tmp_path / "gpt2.bin", V, 65)               # another file of the same name
    assert train.model_path(ready(cache, base=flags), "target", 1) != path
    with pytest.raises(ValueError, match=rf"--init .*other.pt.* {V + 1} .*{V} "):
        ready(cache, base=[*base, "--init", published(tmp_path / "other.pt", V + 1)])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                                   MemoryError()])
def test_out_of_memory_says_which_flag_to_turn(plain, tmp_path, capsys, monkeypatch, error):
    def fail(*args):
        raise error
    monkeypatch.setattr(ngdiff, "loss_and_grad", fail)
    code, results = go(tmp_path / "cache", tmp_path / "out")
    err = capsys.readouterr().err
    assert code == 1 and results is None and "--micro_batch" in err and len(err.splitlines()) == 1


def test_another_runtime_error_is_not_called_out_of_memory(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("something else")
    monkeypatch.setattr(ngdiff, "loss_and_grad", fail)
    with pytest.raises(RuntimeError, match="something else"):
        go(tmp_path / "cache", tmp_path / "out")


@pytest.mark.parametrize("steps, where", [(5, r"ga, step \d"), (1, "measuring")])
def test_numbers_that_run_away_stop_the_run_with_a_hint(plain, cache, tmp_path, capsys, monkeypatch,
                                                        steps, where):
    """While unlearning, or, after the last step, while measuring."""
    monkeypatch.setattr(ngdiff, "update", lambda params, d, lr: [
        p.data.fill_(float("nan")) for p in params])
    code, results = go(cache, tmp_path / "out", "--method", "ga", "--steps", steps)
    err = capsys.readouterr().err
    assert code == 1 and results is None and re.search(where, err) and "--lr" in err
    for path in Path(cache).glob("unlearn-*"):            # of a patched function: not to be read
        path.unlink()


# ---- words that could rot

def test_every_command_of_the_readme_is_one_that_train_py_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(r"python train\.py ?([^\n`#|;)]*)", text)
    assert len(commands) > 3
    for command in commands:
        if "--help" not in command:
            words = [{"S": "1", "DIR": str(tmp_path), "FILE": str(tmp_path)}.get(w, w)
                     for w in shlex.split(command)]
            train.flags.parse(train.Config, words, train.__doc__)


def test_the_readme_defines_every_log_column_and_measure():
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in set(report.LOG_COLUMNS) | SUMMARY | MEMBERSHIP | MUSE:
        assert f"`{name}`" in readme, f"README.md does not say what {name} is"
