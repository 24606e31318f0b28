"""Stages and files: a run that was killed goes on, a damaged file is made again, two commands never
mix, and nothing of the user's is lost."""
import contextlib
import errno
import os
import shutil
import tempfile
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ngdiff
import train
from conftest import SMALL, code_of, draw_nothing, go, job, ready, rows, spy
from harness import files, measuring, processes, report, stages
from tests import kills

pytestmark = pytest.mark.usefixtures("in_this_process", "no_drawing")
needs_fork = pytest.mark.skipif(kills.FORK is None, reason="commands are forked")


def interrupt_at(patch, module, name, count):
    """Make the count-th call of module.name a Ctrl-C, and save after each step."""
    def look(*args, **kwargs):
        if len(seen) == count - 1:
            raise KeyboardInterrupt
    seen = spy(patch, module, name, look)
    kills.save_every_step(lambda *args: patch.setattr(*args, raising=False))


def test_the_same_command_goes_on_and_ends_in_the_same_numbers(plain, tmp_path, monkeypatch):
    """Stopped while the second model is trained, while a file is moved into its place, while
    unlearning and while measuring; the wall clock is set back by a year each time."""
    clock, cache, out = time.time(), tmp_path / "cache", tmp_path / "out"
    for module, name, count in ((train, "adamw", 60), (os, "replace", 6),
                                (ngdiff, "update", 9), (measuring, "summary", 2)):
        with monkeypatch.context() as patch:
            interrupt_at(patch, module, name, count)
            patch.setattr(time, "time", lambda: clock)
            assert go(cache, out) == (130, None) and not out.exists()
        clock -= 365 * 86400
    assert go(cache, out)[0] == 0 and kills.numbers(out) == plain[2]
    assert rows(out / "log.csv") == rows(plain[1] / "log.csv")
    assert sorted(p.suffix for p in cache.iterdir()) == [".json"] * 3 + [".state"] * 3
    kept = {p.name.split("-")[0]: stages.read(p)["optimizer"] for p in cache.glob("*.state")}
    assert kept["target"] is kept["retrain"] is None, "nobody goes on from there"
    assert kept["ngdiff"], "a larger --steps goes on from there"


@pytest.mark.parametrize("words", ["--optimizer adam --lazy 0", "--batch 9 --budget 0.1 --lazy 1",
                                   "--level --lr 1e-3", "--level token"])
def test_what_a_method_remembers_goes_on_too(plain, tmp_path, monkeypatch, words):
    """Adam's moments; the running mean, and the watched loss before the first step; the levels of
    rows, and of tokens."""
    run = ready(tmp_path, *words.split(), "--steps", 3)
    target = train.train_both(ready(plain[0]))["target"]
    whole = train.unlearned(run._replace(config=replace(run.config, cache="")), target)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, ngdiff, "update", 3)
        train.unlearned(run, target)
    again = train.unlearned(run, target)
    assert again.log == whole.log and again.step == 3
    assert all(map(torch.equal, again.model.parameters(), whole.model.parameters()))


def test_more_steps_prolong_a_run_and_fewer_read_what_a_killed_one_left(
        plain, tmp_path, monkeypatch, capsys):
    cache = shutil.copytree(plain[0], tmp_path / "cache")
    taken = spy(monkeypatch, ngdiff, "step", lambda *a, **k: 1)
    target = train.train_both(ready(cache))["target"]

    def steps_taken(*words):
        taken.clear()
        stage = train.unlearned(ready(cache, "--steps", *words), target)
        assert stage.step == words[0] == len(stage.log)
        return len(taken)
    assert steps_taken(5) == 5 and "starts again" in capsys.readouterr().out
    assert steps_taken(5) == 0 and "again" not in capsys.readouterr().out, "saved, and found"
    assert steps_taken(14) == 2 and steps_taken(12) == 0
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, ngdiff, "update", 4)
        steps_taken(99, "--lr", 0.02)
    assert steps_taken(5, "--lr", 0.02) == 2, "three steps were saved by the killed run"


def test_a_finished_cache_that_is_read_only_is_enough(plain, tmp_path, monkeypatch):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and not (
        mode & os.W_OK and str(path).startswith(str(plain[0]))))
    assert go(plain[0], tmp_path)[0] == 0 and kills.numbers(tmp_path) == plain[2]
    assert code_of([*SMALL, "--cache", plain[0], "--out", tmp_path / "o", "--seed", 5]) == 2


def test_damaged_files_are_named_and_made_again(plain, tmp_path, capsys):
    cache, out = tmp_path / "cache", tmp_path / "out"
    damages = (lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"not a state",
               lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:],
               lambda b: b[:-1] + bytes([b[-1] ^ 128]), lambda b: b + b"0")
    shutil.copytree(plain[0], cache)
    files_ = sorted(cache.iterdir())
    whole = [path.read_bytes()[32:] for path in files_]
    for path, damage in zip(files_, damages):
        path.write_bytes(damage(path.read_bytes()))
    assert go(cache, out)[0] == 0 and kills.numbers(out) == plain[2]
    said = capsys.readouterr().err
    assert [said.count(path.name) for path in files_] == [1] * 6
    assert [path.read_bytes()[32:] for path in files_[:3]] == whole[:3]


def test_a_state_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)
    path = str(tmp_path / "evil.state")
    stages.write_sealed(path, lambda f: f.write(bytes(8)) and torch.save({"model": Evil()}, f))
    with pytest.raises(Exception, match="(?i)weights"):
        stages.read(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("seconds", [0.001, 1, 18, 100])
def test_saving_takes_a_twentieth_of_a_stages_time_at_most(monkeypatch, tmp_path, seconds):
    """However long one save takes. Steps (1 s each) and saves move a clock that stages.py reads."""
    steps, saves = [], []
    now = lambda: 1e6 + len(steps) + seconds * len(saves)
    monkeypatch.setattr(stages, "time", types.SimpleNamespace(monotonic=now))
    monkeypatch.setattr(stages, "write", saves.append)
    monkeypatch.setattr(stages, "BYTES_A_SECOND", 2 * 16 / seconds)   # 1.5 times too slow
    stage = stages.Stage("x", 10**5, torch.nn.Linear(3, 1), str(tmp_path), {})
    stage.restore()
    for step in range(10**4):
        steps.append(step)
        stage.save(step + 1, None)
    assert 0 < seconds * len(saves) <= 0.05 * (now() - 1e6)
    assert len(saves) > 10**4 / max(11, 25 * seconds) / 2, "but it is saved"


# ---- files

def test_files_are_written_all_or_none_and_only_ones_own_leftovers_are_deleted(
        tmp_path, monkeypatch):
    mine = f".a.{files.HOST}-{'0' * 16}.part"
    kept = {"thesis.tmp": b"1", ".a.part": b"2", f".a.other-host-{'0' * 16}.part": b"3"}
    for name, content in {**kept, mine: b"of a kill", "old": b"old"}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "x.tmp").mkdir()
    files.write(str(tmp_path), {"a": b"1", "b": b"2"}, remove=["old", "never there"])
    kept |= {"a": b"1", "b": b"2"} | ({} if files.fcntl else {mine: b"of a kill"})
    read = lambda: {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    assert read() == kept and (tmp_path / "x.tmp").is_dir()
    parts = iter("ab")

    def full(path, *mode):
        if path.endswith(".part") and next(parts, None) is None:
            raise OSError(28, "No space left on device")
        return open(path, *mode)
    monkeypatch.setattr(files, "open", full, raising=False)
    with pytest.raises(OSError):
        files.write(str(tmp_path), {n: b"new" for n in "abcd"}, remove=["a"])
    assert read() == kept


def write_8(folder, name, flock):
    """8 times three files of one content each; what another one wrote may come between."""
    if flock:
        files.fcntl = types.SimpleNamespace(flock=flock, LOCK_EX=2, LOCK_NB=4)
        files.HOST = files.HOST if flock is without_locks else name
    for _ in range(8):
        files.write(folder, {file: name.encode() * 20000 for file in "abc"})
        with files.turn(folder):
            found = [Path(folder, file).read_bytes() for file in "abc"]
        assert all(len(set(content)) == 1 and len(content) == 20000 for content in found)
        assert flock or len(set(found)) == 1, "files of two writers side by side"


def without_locks(*args):
    raise OSError(errno.ENOLCK, "No locks available")


def useless(*args):
    """A lock of each machine's own."""


def written(flock):
    """(exit codes of three writers at once, the files that they leave)."""
    with tempfile.TemporaryDirectory() as folder:
        writers = [kills.FORK.Process(target=write_8, args=(folder, x, flock)) for x in "xyz"]
        for writer in writers:
            writer.start()
        return kills.exit_codes(writers), sorted(os.listdir(folder))


@needs_fork
@job((written, None), (written, without_locks), (written, useless))
def test_writers_never_spoil_each_others_files(done):
    """With locks they take turns; without, nobody waits, and each file is whole all the same."""
    assert done == ([0, 0, 0], ["a", "b", "c"])


# ---- real processes

def living():
    """{number: parent's number} of all processes, from /proc."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):                  # it may have ended meanwhile
            state, parent = path.read_text("utf-8").rsplit(")", 1)[1].split()[:2]
            found |= {} if state == "Z" else {int(path.parent.name): int(parent)}
    return found


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def at_once():
    """(what commands at once print, the numbers of their two run folders)."""
    worker_of = lambda command: {pid for pid, parent in living().items() if parent == command.pid}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        killed = kills.start(folder)
        other = kills.start(folder, "--steps", "3", "--out", "other")
        workers = until(lambda: worker_of(killed))
        killed.kill()
        terminated = kills.start(folder, "--seed", "1")
        more = until(lambda: worker_of(terminated))
        terminated.terminate()
        assert kills.exit_codes([killed, terminated, other]) == [-9, -15, 0]
        assert workers and more and until(lambda: not (workers | more) & living().keys())
        assert kills.exit_codes([kills.start(folder), kills.start(folder)]) == [0, 0]
        assert not list(Path(folder).rglob("*.part"))
        return Path(folder, "printed").read_text("utf-8"), *(
            kills.numbers(Path(folder, name)) for name in ("out", "other"))


@needs_fork
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks at /proc")
@job((at_once,))
def test_commands_at_once_killed_or_not_end_as_if_alone(plain, done):
    """With a worker each: one is killed, one terminated (both take their workers along), one ends.
    Then the first is given again, twice at once."""
    printed, out, other = done
    assert printed.count(report.table(plain[2]["models"])) == 2 and out == plain[2]
    assert other["models"]["target"] == plain[2]["models"]["target"]


def multiplied():
    """Tensors by a spawned worker, where TMPDIR is too long a path for a socket: 130 letters."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", os.path.join(folder, "x" * 130))
        os.mkdir(os.environ["TMPDIR"])
        jobs = [(torch.arange(3.0), 2), (torch.ones(2), 3)]
        return {i: x.tolist() for i, x in processes.side_by_side(torch.mul, jobs, 1, 1)}


@job((multiplied,))
def test_a_spawned_worker_gets_its_job_whatever_tmpdir_is(done):
    assert done == {0: [0, 2, 4], 1: [3, 3]}
