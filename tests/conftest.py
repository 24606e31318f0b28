"""The project's root on the import path; a second pytest; what several files use."""
import multiprocessing
import os
import queue
import signal
import sys
import threading

import pytest
import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from harness import processes, report  # noqa: E402 (found by the line above)


# ---- two cores: a second pytest runs these files, and the first one shows what it reports

SECOND = ("test_assignments.py", "test_experiments.py", "test_theory.py")
RECEIVED = pytest.StashKey()       # a queue of what the second sends
REPORTS = pytest.StashKey()        # {test: its reports so far}


class Sender:
    """A plugin of the second pytest: sends each report."""

    def __init__(self, pipe):
        self.pipe = pipe

    def pytest_collection_finish(self, session):
        self.config = session.config

    def pytest_runtest_logreport(self, report):
        self.pipe.send(self.config.hook.pytest_report_to_serializable(config=self.config,
                                                                      report=report))


def second_pytest(folder, tests, pipe):
    processes.prepare_worker(1)
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    pytest.main(["-q", *tests], plugins=[Sender(pipe)])


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name in SECOND)


def pytest_collection_finish(session):
    """Starts the second pytest, unless one of the two would have nothing to do."""
    second = [item.nodeid for item in session.items if item.path.name in SECOND]
    option = session.config.option
    alone = option.collectonly or option.usepdb or \
        any(isinstance(plugin, Sender) for plugin in session.config.pluginmanager.get_plugins())
    if alone or len(second) in (0, len(session.items)):
        return
    start = multiprocessing.get_context("spawn")
    receiver, sender = start.Pipe(duplex=False)
    process = start.Process(target=second_pytest, args=(os.getcwd(), second, sender))
    process.start()
    sender.close()                 # the second's end alone is left: recv ends when that one does
    received = session.config.stash[RECEIVED] = queue.Queue()
    session.config.stash[REPORTS] = {}
    threading.Thread(target=drain, args=(receiver, received), daemon=True).start()
    session.config.add_cleanup(process.kill)


def drain(receiver, received):
    """A pipe holds little: unless it is read, the second pytest gets stuck."""
    try:
        while True:
            received.put(receiver.recv())
    except (EOFError, OSError):
        received.put(None)


def pytest_runtest_protocol(item):
    received = item.config.stash.get(RECEIVED, None)
    if received is None or item.path.name not in SECOND:
        return None                # as any other test
    reports = item.config.stash[REPORTS]
    while not any(r.when == "teardown" for r in reports.get(item.nodeid, ())):
        if (data := received.get()) is None:
            pytest.exit(f"the second pytest ended before {item.nodeid}", 1)
        report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
        reports.setdefault(report.nodeid, []).append(report)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports[item.nodeid]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


# ---- what several files use

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
    """No picture: it takes longer than a small run."""
    monkeypatch.setattr(report, "png", lambda *_: b"")
