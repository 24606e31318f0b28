"""What several files use: a small run, made once, and commands in this process."""
import csv
import importlib
import json
import multiprocessing
import os
import types
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

import train
from harness import flags, processes, report
from tests.kills import SMALL, numbers

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)            # small tensors: more threads would wait for each other


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: "done" in item.fixturenames)       # who waits for a job comes last


@pytest.fixture(scope="session", autouse=True)
def beside(request):
    """The jobs of the tests that take `done`, at work in a second process: {(function, *arguments):
    its Future}. Only that one may fork: a child waits for its parent's threads, which it lacks, if
    torch has used more than one."""
    jobs = [item.callspec.params["done"] for item in request.session.items
            if "done" in item.fixturenames
            and not any(mark.args[0] for mark in item.iter_markers("skipif"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(os, "fork", raising=False)
        if not jobs:
            yield {}
            return
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"),
                                 processes.prepare_worker, (1,)) as pool:
            yield {job: pool.submit(*job) for job in dict.fromkeys(jobs)}
            pool.shutdown(cancel_futures=True)


@pytest.fixture
def done(request, beside):
    """What a job returned: the test's parameter, (function, *arguments)."""
    return beside[request.param].result(600)


def job(*jobs, ids=None):
    """The mark of a test for each of these jobs."""
    return pytest.mark.parametrize("done", jobs, indirect=True, ids=ids)


def passes(module, name):
    """Run the test that `elsewhere` replaced."""
    getattr(importlib.import_module(module), name).test()


def elsewhere(test):
    """A slow test without fixtures, as a job: it fails there, and so here."""
    @job((passes, test.__module__, test.__name__), ids=["elsewhere"])
    def wait(done):
        assert done is None
    wait.test, wait.__name__, wait.__doc__ = test, test.__name__, test.__doc__
    return wait


@pytest.fixture(autouse=True)
def one_thread():
    yield
    torch.set_num_threads(1)


def in_turn(function, jobs, workers, threads):
    """processes.side_by_side without processes; backwards, as if the last job ended first."""
    for i, job in reversed(list(enumerate(jobs))):
        yield i, function(*job)


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(processes, "side_by_side", in_turn)


def draw_nothing(patch):
    """No picture: it takes longer than a small run."""
    patch.setattr(report, "curves", lambda *_: None)
    patch.setattr(report, "png", lambda *_: b"")


@pytest.fixture
def no_drawing(monkeypatch):
    draw_nothing(monkeypatch)


def ready(folder, *words, base=SMALL):
    """The train.Run of a command, before its first stage."""
    argv = [*base, "--cache", str(folder), "--out", str(folder / "out"), *map(str, words)]
    return train.prepare(flags.parse(train.Config, argv, train.__doc__))


def code_of(argv, main=train.main):
    """The exit code of a command."""
    try:
        main([str(word) for word in argv])
    except SystemExit as e:
        return e.code
    return 0


def refused(capsys, argv, main=train.main):
    """The one line that a refused command prints; its exit code is 2."""
    assert code_of(argv, main) == 2
    line, = capsys.readouterr().err.strip().splitlines()
    return line


def go(cache, out, *words, base=SMALL):
    """A command in the folder `out`: (exit code, results.json or None)."""
    code = code_of([*base, "--cache", cache, "--out", out, *words])
    path = Path(out) / "results.json"
    return code, json.loads(path.read_text("utf-8")) if path.exists() else None


def spy(patch, module, name, look):
    """What look(arguments) gave, call by call, of a function that goes on doing what it did."""
    seen, function = [], getattr(module, name)
    patch.setattr(module, name, lambda *a, **k: seen.append(look(*a, **k)) or function(*a, **k))
    return seen


class Stub:
    """A model whose loss on a token is a tenth of its number, and whose context has T tokens.
    said: the token ids that it answers to a prompt's."""

    def __init__(self, said, T=None):
        self.said, self.config = said, types.SimpleNamespace(block_size=T)
        self.sizes, self.prompts = [], []                # of the batches; all prompts

    def parameters(self):
        return iter([torch.zeros(1)])

    def token_losses(self, batch):
        self.sizes.append(len(batch.tokens))
        return batch.labels / 10.0

    def generate(self, prompts, max_new, stop):
        self.sizes.append(len(prompts))
        self.prompts += prompts
        return [self.said(prompt)[:max_new] for prompt in prompts]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def rows(path):
    with open(path, encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A run that was never interrupted, and not drawn: (cache, run folder, numbers)."""
    cache, out = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "side_by_side", in_turn)
        patch.setattr(report, "png", lambda fig, dpi: f"{len(fig.axes)} axes".encode())
        assert go(cache, out)[0] == 0
    return cache, out, numbers(out)
