"""Stages: a run that was killed goes on, a damaged file is made anew, two commands never mix."""
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import ngdiff
import train
from conftest import in_turn
from harness import files, processes, report, stages
from test_train import SMALL, numbers, rows
from test_train import go as run_in

pytestmark = pytest.mark.usefixtures("in_this_process")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted: (cache, run folder, results)."""
    cache, out = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(processes, "side_by_side", in_turn)
        m.setattr(signal, "signal", lambda *_: None)
        m.setattr(report, "png", lambda *_: b"")
        torch.set_num_threads(1)
        assert run_in(cache, out, "--optimizer", "adam")[0] == 0
    return cache, out, json.loads((out / "results.json").read_text("utf-8"))


def go(cache, out, *flags):
    return run_in(cache, out, "--optimizer", "adam", *flags)


def interrupt_at(monkeypatch, module, name, count):
    """Make the count-th call of module.name a Ctrl-C, and save after each step."""
    calls, original = [], getattr(module, name)

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return original(*args, **kwargs)
    monkeypatch.setattr(module, name, call)
    monkeypatch.setattr(stages, "SAVE_EVERY", 0)


@pytest.mark.parametrize("module, name, count", [
    (torch.optim.AdamW, "step", 40),       # while the retrained model is trained
    (ngdiff, "update", 9),                 # in the middle of unlearning
    (report.measuring, "summary", 2),        # while measuring
    (os, "replace", 30)])                  # while a file is moved into its place
def test_the_same_command_goes_on_and_ends_in_the_same_numbers(
        whole, tmp_path, monkeypatch, no_drawing, module, name, count):
    with monkeypatch.context() as m:
        interrupt_at(m, module, name, count)
        assert go(tmp_path / "cache", tmp_path / "out") == (130, None)
        assert not (tmp_path / "out").exists(), "the run folder is filled at the end"
    code, results = go(tmp_path / "cache", tmp_path / "out")
    assert code == 0 and numbers(results) == numbers(whole[2])
    assert rows(tmp_path / "out/log.csv") == rows(whole[1] / "log.csv")
    assert sorted(p.suffix for p in (tmp_path / "cache").iterdir()) == [".state"] * 3


def test_more_steps_prolong_a_run_and_fewer_leave_the_longer_one(whole, tmp_path, no_drawing,
                                                                 monkeypatch):
    cache = tmp_path / "cache"
    assert go(cache, tmp_path / "a", "--steps", 5)[0] == 0
    steps, step = [], ngdiff.step
    monkeypatch.setattr(ngdiff, "step", lambda *a, **k: steps.append(1) or step(*a, **k))
    code, longer = go(cache, tmp_path / "b")
    assert len(steps) == 12 - 5 and numbers(longer) == numbers(whole[2])
    code, again = go(cache, tmp_path / "c")
    assert len(steps) == 12 - 5 and numbers(again) == numbers(longer), "read, not made"
    code, shorter = go(cache, tmp_path / "d", "--steps", 5)
    assert len(steps) == 12 and shorter["steps"] == 5
    assert numbers(shorter) == numbers(json.loads((tmp_path / "a/results.json").read_text("utf-8")))
    assert numbers(go(cache, tmp_path / "e")[1]) == numbers(longer) and len(steps) == 12


@pytest.mark.parametrize("damage", [
    lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"not a state",
    lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:], lambda b: b[:-1] + bytes([b[-1] ^ 128])])
def test_a_damaged_state_is_named_and_made_anew(whole, tmp_path, capsys, no_drawing, damage):
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in whole[0].iterdir():
        (cache / path.name).write_bytes(path.read_bytes())
    damaged = sorted(cache.iterdir())[random.Random(len(damage(b"x" * 99))).randrange(3)]
    damaged.write_bytes(damage(damaged.read_bytes()))
    code, results = go(cache, tmp_path / "out")
    assert code == 0 and numbers(results) == numbers(whole[2])
    assert capsys.readouterr().err.count(damaged.name) == 1


def test_the_name_is_made_of_everything_that_determines_a_stage(whole, tmp_path, monkeypatch):
    """Each of these gives another target, so another name; what comes later does not."""
    def path(*flags, threads=1):
        run = train.ready([*SMALL, "--cache", str(tmp_path), "--out", str(tmp_path / "o"), *flags])
        return train.model_path(run, "target", threads)
    base = path()
    for flags in ("--seed 1", "--epochs 9", "--train_batch 16", "--train_lr 0.001", "--n_layer 1",
                  "--weight_decay 0.1", "--micro_batch 4", "--dtype bfloat16", "--authors 15",
                  "--forget forget01 --data muse", "--n_head 4", "--tokenizer words --authors 17"):
        words = [w for w in flags.split()]
        argv = [w for w in SMALL if w != "--tiny"] if "muse" in flags else SMALL
        run = train.ready([*argv, "--cache", str(tmp_path), "--out", str(tmp_path / "o"), *words])
        assert train.model_path(run, "target", 1) != base, flags
    assert path(threads=2) != base
    for flags in (["--steps", "3"], ["--method", "ga"], ["--level"], ["--lr", "0.1"]):
        assert path(*flags) == base, flags
    with monkeypatch.context() as m:
        m.setattr(torch, "__version__", "another")
        assert path() != base
    with monkeypatch.context() as m:       # a line of the code that trains was changed
        m.setattr(stages.inspect, "getsource", lambda x: "changed" if x is train.train else "")
        changed = path()
        m.setattr(stages.inspect, "getsource", lambda x: "")
        assert path() != changed
    monkeypatch.setattr(processes, "rank_and_size", lambda: (0, 2))
    monkeypatch.setattr(stages, "rank_and_size", lambda: (0, 2))
    assert path() != base


def test_the_seed_is_part_of_the_name_where_the_rows_do_not_depend_on_it(tmp_path):
    own = [{"set": name, "question": f"Who {i}?", "answer": f"{name} {i}."}
           for name in ("retain", "forget") for i in range(9)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, own)), "utf-8")
    names = {train.model_path(train.ready(["--data", str(tmp_path / "own.jsonl"), "--seed", seed,
                                           "--cache", str(tmp_path)]), "target", 1)
             for seed in "012"}
    assert len(names) == 3


def test_seconds_add_up_over_a_run_that_goes_on(tmp_path, capsys):
    model = train.gpt.GPT(train.gpt.GPTConfig(7, 5, 1, 1, 4))
    state = stages.State(model, step=1, seconds=100.0)

    def loop():
        state.step += 1
        yield
    assert 100 < stages.run("title", None, state, loop(), 2).seconds < 200
    assert "title" in capsys.readouterr().out


def test_the_unlearning_runs_name_leaves_out_the_steps_alone(whole, tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(stages, "load", lambda path, model: names.append(path))
    monkeypatch.setattr(stages, "run", lambda *args: None)

    def name(*flags):
        run = train.ready([*SMALL, "--cache", str(tmp_path), "--out", str(tmp_path / "o"), *flags])
        train.unlearned(run, run.initial)
        return names[-1]
    base = name()
    assert name("--steps", "99") == base
    others = [name(*flags.split()) for flags in (
        "--method ga", "--method gdiff --lr 0.01", "--method gdiff --c 0.5 --lr 0.01", "--level",
        "--optimizer adam", "--lr 0.1", "--no-autolr --lr 0.01", "--lazy 5", "--batch 8",
        "--micro_batch 5", "--seed 3", "--dtype bfloat16", "--epochs 2")]
    assert len({base, *others}) == len(others) + 1


def test_a_state_comes_back_as_it_was(tmp_path):
    model = train.gpt.GPT(train.gpt.GPTConfig(7, 5, 1, 1, 4))
    carried = ngdiff.State(lr=0.5, step=3, adam=True, m=[torch.ones(2)], v=[torch.zeros(2)])
    state = stages.State(model, 3, vars(carried), [{"step": 2, "lr": 0.5, "status": None}], 0.7,
                         "because", 1.5)
    stages.save(str(tmp_path / "s.state"), state)
    other = train.gpt.GPT(train.gpt.GPTConfig(7, 5, 1, 1, 4))
    back = stages.load(str(tmp_path / "s.state"), other)
    assert back.model is other and back.model.lm_head.weight is other.transformer.wte.weight
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    again = ngdiff.State(**back.optimizer)
    assert (again.lr, again.step, again.adam) == (0.5, 3, True) and torch.equal(again.m[0],
                                                                               carried.m[0])
    assert (back.step, back.log, back.level, back.stopped, back.seconds) == (
        3, state.log, 0.7, "because", 1.5)
    assert stages.load(str(tmp_path / "none.state"), other) is None


def test_a_state_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)
    torch.save({"model": Evil()}, tmp_path / "evil.state")
    content = (tmp_path / "evil.state").read_bytes()
    (tmp_path / "evil.state").write_bytes(hashlib.sha256(content).digest() + content)
    with pytest.raises(Exception):
        stages.read(str(tmp_path / "evil.state"))
    assert not (tmp_path / "owned").exists()


# ---- files

def test_files_are_written_all_or_none_and_leftovers_are_swept_away(tmp_path, monkeypatch):
    (tmp_path / "old").write_bytes(b"old"), (tmp_path / "z.tmp").write_bytes(b"of a kill")
    files.write(str(tmp_path), {"a": b"1", "b": b"2"}, remove=["old", "never there"])
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}
    opened = []

    def full(path, *mode):
        opened.append(path)
        if len(opened) == 2:
            raise OSError(28, "No space left on device")
        return open(path, *mode)
    monkeypatch.setattr(files, "open", full, raising=False)
    with pytest.raises(OSError):
        files.write(str(tmp_path), {"a": b"new", "b": b"new"}, remove=["a"])
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}


WRITER = """
import sys; sys.path.insert(0, {root!r})
from harness import files
for i in range(40):
    files.write({folder!r}, {{name: sys.argv[1].encode() * 20000 for name in "abc"}})
    with files.turn({folder!r}):
        found = {{open({folder!r} + "/" + name, "rb").read() for name in "abc"}}
    assert len(found) == 1, "files of two writers side by side"
"""


@pytest.mark.skipif(files.fcntl is None, reason="writers take turns where there is flock")
def test_two_writers_in_one_folder_never_mix_their_files(tmp_path):
    code = WRITER.format(root=str(ROOT), folder=str(tmp_path / "shared"))
    writers = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "xyz"]
    assert [w.wait(timeout=60) for w in writers] == [0, 0, 0]
    assert sorted(p.name for p in (tmp_path / "shared").iterdir()) == ["a", "b", "c"]


# ---- real processes

def start(cache, out, *flags):
    return subprocess.Popen(
        [sys.executable, "train.py", *SMALL, "--cache", str(cache), "--out", str(out), *flags],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"})


def processes_here():
    """{pid: (parent's pid, state)} of everything that runs, from /proc."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text("utf-8").rsplit(")", 1)[1].split()[:2]
            found[int(path.parent.name)] = int(parent), state
    return found


def end(run, how):
    """Send the signal once training has begun; the workers that are still there 20 s later."""
    line = run.stdout.readline()                          # a worker's first
    assert re.search(rb"target|retrain", line)
    workers = [pid for pid, (parent, _) in processes_here().items() if parent == run.pid]
    run.send_signal(how)
    run.wait(timeout=20)
    run.stdout.close()
    deadline, left = time.time() + 20, workers
    while left and time.time() < deadline:
        now = processes_here()
        left = [pid for pid in workers if now.get(pid, (0, "Z"))[1] != "Z"]
        time.sleep(0.05)
    assert workers
    return left


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks at /proc")
def test_a_terminated_command_takes_its_workers_with_it(tmp_path):
    assert not end(start(tmp_path / "cache", tmp_path / "out"), signal.SIGTERM)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks at /proc")
def test_killed_the_same_command_ends_in_the_same_numbers(whole, tmp_path, no_drawing):
    """kill -9, with workers; afterwards nothing temporary is left."""
    cache, out = tmp_path / "cache", tmp_path / "out"
    assert not end(start(cache, out, "--optimizer", "adam"), signal.SIGKILL)
    code, results = go(cache, out)
    assert code == 0 and numbers(results) == numbers(whole[2])
    assert not list(tmp_path.rglob("*.tmp"))
