"""pytest puts this file's folder's parent, the project's root, on the import path."""
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from harness import processes, report  # noqa: E402 (found by the line above)


AHEAD = {}      # (function, *arguments) of a mark `ahead`: the Future of what it gives


def pytest_configure(config):
    config.addinivalue_line("markers", "ahead(function, *arguments): begins beside the other tests")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("ahead") is not None)


def pytest_collection_finish(session):
    """What takes long begins now, in a process of its own, and the tests that wait for it come last:
    so the suite has use for two cores."""
    jobs = dict.fromkeys(mark.args for item in session.items for mark in item.iter_markers("ahead"))
    if jobs and not session.config.option.collectonly:
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"),
                                   processes.prepare_worker, (1,))
        AHEAD.update((job, pool.submit(*job)) for job in jobs)
        session.config.add_cleanup(lambda: pool.shutdown(wait=False, cancel_futures=True))


@pytest.fixture
def ahead(request):
    """What the function in the test's mark `ahead` gave."""
    return AHEAD[request.node.get_closest_marker("ahead").args].result()


def in_turn(function, jobs, workers, threads):
    """processes.side_by_side without processes; backwards, as if the last job ended first."""
    for i, job in reversed(list(enumerate(jobs))):
        yield i, function(*job)


@pytest.fixture
def in_this_process(monkeypatch):
    """No process to start, no signal handler, and one thread."""
    monkeypatch.setattr(processes, "side_by_side", in_turn)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_drawing(monkeypatch):
    """The picture takes longer than a small run."""
    monkeypatch.setattr(report, "png", lambda *_: b"")
