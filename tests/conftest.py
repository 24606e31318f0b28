"""pytest puts this file's folder's parent, the project's root, on the import path."""
import os
import signal
import sys

import pytest
import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from harness import processes, report  # noqa: E402 (found by the line above)


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
