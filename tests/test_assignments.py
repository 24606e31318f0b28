"""assignments/: every assignment's points, the copies without solutions, and the grader.

The tests that carry points run once for each variant of the code: as shipped, blank, left out,
constant, and wrong as wrong_answers/ has it. One process does this for all assignments: it imports
the tests once and swaps the code of the functions. The grader's own processes are tried on a
project of two small files, which needs no torch.
"""
import ast
import csv
import inspect
import json
import multiprocessing
import os
import shutil
import sys
import time
import tomllib
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

import assignments
from assignments import blank, grade, recorder
from assignments import __main__ as cli
from assignments.blank import ROOT

FOUND = assignments.load()
NUMBERED = pytest.mark.parametrize("n", FOUND)
CONSTANTS = {"a body left out": "pass", "a constant 0": "return 0.0", "a constant 1": "return 1.0",
             "a constant pair": "return 1.0, 1.0"}


def wrong_answers(n):
    """The Bugs, as it were, of tests/wrong_answers/NN_*.toml."""
    path, = Path(ROOT, "tests", "wrong_answers").glob(f"{n:02}_*.toml")
    with open(path, "rb") as f:
        return [assignments.Bug(**wrong) for wrong in tomllib.load(f)["wrong"]]


# ---- variants of the code

def sources(a):
    """{variant: [(function, a source that has that variant of it)]} of an assignment."""
    places = [(name, *blank.place(name)) for name in a.functions]
    read = {file: blank.read_text(ROOT, file) for _, file, _, _ in places}
    found = {"as shipped": [], "blank": []}
    for variant in CONSTANTS if places else ():
        found[variant] = []
    for variant in list(found)[1:]:
        for file in read:
            source, own = read[file], [p for p in places if p[1] == file]
            for _, _, path, condition in own:
                source = blank.blanked(source, path, condition, a.number)
            if variant != "blank":
                source = source.replace(f'raise NotImplementedError("assignment {a.number}")',
                                        CONSTANTS[variant])
            found[variant] += [(name, source) for name, *_ in own]
    for i, bug in enumerate(a.bugs, 1):
        found[f"bug{i}"] = [(blank.around(bug), blank.replaced(blank.read_text(ROOT, bug.file),
                                                               bug))]
    for wrong in wrong_answers(a.number):
        source = blank.replaced(blank.read_text(ROOT, wrong.file), wrong)
        found[wrong.name] = [(blank.around(wrong), source)]
    return found


@contextmanager
def swapped(changes):
    """The functions with their code from other sources, wherever they were imported to."""
    undo = []
    for name, source in changes:
        file, path, _ = blank.place(name)
        owner = module = import_module(file.removesuffix(".py").replace("/", "."))
        for part in path[:-1]:
            owner = vars(owner)[part]
        function = vars(owner)[path[-1]]
        if hasattr(function, "cache_clear"):
            function.cache_clear()
        function = inspect.unwrap(function.fget if isinstance(function, property) else function)
        node = blank.find(ast.parse(source), path)
        node.decorator_list, scope = [], dict(vars(module))
        exec(compile(ast.Module([node], []), file, "exec"), scope)
        undo.append((function, function.__code__))
        function.__code__ = scope[path[-1]].__code__
    try:
        yield
    finally:
        for function, code in reversed(undo):
            function.__code__ = code


class Variants:
    """A pytest plugin: in place of the tests' usual run, one run a variant."""

    def __init__(self):
        self.passed = {}      # {number: {variant: [test]}}

    def pytest_runtestloop(self, session):
        for n, a in FOUND.items():
            tests = {test for some in a.points.values() for test in some}
            items = {test: [item for item in session.items if item.nodeid == test or
                            item.nodeid.startswith(test + "[")] for test in tests}
            self.passed[n] = {}
            for variant, changes in sources(a).items():
                with swapped(changes):
                    self.passed[n][variant] = [test for test in sorted(tests) if items[test] and
                                               all(map(passes, items[test]))]
        return True


def passes(item):
    def once():
        item.session._setupstate.setup(item)
        item.runtest()
    if not item._request:
        item._initrequest()
    try:
        return pytest.CallInfo.from_call(once, "call").excinfo is None
    finally:
        item.session._setupstate.teardown_exact(None)
        item._request, item.funcargs = False, None


def run_variants(path):
    """In a process of its own: write {number: {variant: [test that passed]}} to `path`."""
    recorder.isolate()
    os.chdir(ROOT)
    import torch
    torch.set_num_threads(1)
    tests = {t.partition("[")[0] for a in FOUND.values() for some in a.points.values() for t in some}
    variants = Variants()
    pytest.main([*sorted(tests), "-s", "-q", *recorder.PLUGINS], plugins=[variants])
    with open(path, "w", encoding="utf-8") as f:
        json.dump(variants.passed, f)


@pytest.fixture(scope="module")
def passed(tmp_path_factory):
    """{number: {variant: [test that passed]}}"""
    path = tmp_path_factory.mktemp("variants") / "passed.json"
    process = grade.context().Process(target=run_variants, args=(str(path),), daemon=True)
    process.start()
    process.join(120)
    process.kill()
    return {int(n): variants for n, variants in json.loads(path.read_text()).items()}


def points(n, passed, part=None):
    return sum(of for folder, tests in FOUND[n].points.items() if part in (None, folder)
               for test, of in tests.items() if test in passed)


@NUMBERED
def test_the_shipped_code_has_all_points(n, passed):
    assert points(n, passed[n]["as shipped"]) == FOUND[n].total


@NUMBERED
def test_a_blank_a_body_left_out_and_a_constant_have_none(n, passed):
    for variant in ("blank", *CONSTANTS) if FOUND[n].functions else ():
        assert passed[n][variant] == [], variant
    for i in range(1, len(FOUND[n].bugs) + 1):
        assert points(n, passed[n][f"bug{i}"], f"bug{i}") == 0


@NUMBERED
def test_every_wrong_answer_loses_points_and_not_all(n, passed):
    wrong = wrong_answers(n)
    assert len(wrong) >= 3 and len({w.name for w in wrong}) == len(wrong)
    for w in wrong:
        assert 0 < points(n, passed[n][w.name]) < FOUND[n].total, w.name
