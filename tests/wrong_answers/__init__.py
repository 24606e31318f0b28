"""Do the tests that carry points tell right from wrong? Each file here lists plausible wrong
answers to one assignment: [[wrong]] tables with name (the mistake, in words), file, old (the
shipped lines, which stand there once) and new. Each must lose points, and not all of them.

    python -m tests.wrong_answers [N ...]    all of them, and the real grader: minutes

The ordinary suite runs a sample (tests/test_assignments.py). One process runs the tests once for
each variant of the code: it imports the tests once and swaps the code of the functions.
"""
import ast
import inspect
import json
import multiprocessing
import os
import tempfile
import tomllib
from contextlib import contextmanager
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

import assignments
from assignments import blank, recorder
from assignments.blank import ROOT

CONSTANTS = {"a body left out": "pass", "a constant 0": "return 0.0", "a constant 1": "return 1.0",
             "a constant pair": "return 1.0, 1.0"}


def wrong_answers(n):
    """The wrong answers to assignment n, as Bugs."""
    path, = Path(ROOT, "tests", "wrong_answers").glob(f"{n:02}_*.toml")
    with open(path, "rb") as f:
        found = tomllib.load(f)["wrong"]
    return [assignments.Bug(**dict(w, name=f"{path.name}: {w['name']}")) for w in found]


def around(bug):
    """The function that holds the lines of a Bug: "ngdiff.probe"."""
    source = blank.read_text(ROOT, bug.file)
    blank.replaced(source, bug)                  # says so if the lines are not there
    line = source[:source.index(bug.old.lstrip("\n"))].count("\n") + 1
    inside = [node for node in ast.walk(blank.parsed(source))            # the outer ones first
              if isinstance(node, (ast.ClassDef, ast.FunctionDef))
              and node.lineno <= line <= node.end_lineno]
    end = [isinstance(node, ast.FunctionDef) for node in inside].index(True) + 1
    module = bug.file.removesuffix(".py").replace("/", ".")
    return ".".join([module, *(node.name for node in inside[:end])])


def variants(a, sample):
    """{variant: [(function, a source that has that variant of it)]} of an assignment. sample: the
    blank, one of CONSTANTS and one wrong answer, those whose turn it is by the assignment's number;
    else all, and the code as shipped."""
    found, mark = {"as shipped": []}, f'raise NotImplementedError("assignment {a.number}")'
    constants, wrong = list(CONSTANTS), wrong_answers(a.number)
    if sample:
        found, constants = {}, [constants[a.number % len(constants)]]
        wrong = [wrong[a.number % len(wrong)]]
    for variant in ["blank", *constants] if not a.bugs else ():
        changed = blank.changes(a, "")
        found[variant] = [(name, changed[blank.place(name)[0]].replace(
            mark, CONSTANTS.get(variant, mark))) for name in a.functions]
    for i, bug in enumerate(a.bugs, 1):
        found[f"bug{i}"] = [(around(bug), blank.changes(a, f"bug{i}")[bug.file])]
    for w in wrong:
        found[w.name] = [(around(w), blank.replaced(blank.read_text(ROOT, w.file), w))]
    return found


@contextmanager
def swapped(changes):
    """The functions with their code from other sources, wherever they were imported to."""
    with pytest.MonkeyPatch.context() as patch:
        for name, source in changes:
            file, path, _ = blank.place(name)
            module = import_module(file.removesuffix(".py").replace("/", "."))
            function = vars(reduce(getattr, path[:-1], module))[path[-1]]
            if hasattr(function, "cache_clear"):
                function.cache_clear()
            function = inspect.unwrap(function.fget if isinstance(function, property) else function)
            node, scope = blank.find(ast.parse(source), path), dict(vars(module))
            node.decorator_list = []
            exec(compile(ast.Module([node], []), file, "exec"), scope)
            patch.setattr(function, "__code__", scope[path[-1]].__code__)
        yield


class Variants:
    """A pytest plugin: in place of the tests' usual run, one run a variant."""

    def __init__(self, found, sample):
        self.found, self.sample = found, sample
        self.outcomes = {n: {} for n in found}      # {number: {variant: {test: whether it passed}}}

    def pytest_runtestloop(self, session):
        for n, a in self.found.items():
            items = {test: [item for item in session.items if item.nodeid == test or
                            item.nodeid.startswith(test + "[")]
                     for some in a.points.values() for test in some}
            for variant, changes in variants(a, self.sample).items():
                outcome = self.outcomes[n][variant] = {}
                with swapped(changes):
                    for test, some in items.items():
                        outcome[test] = bool(some) and all(map(passes, some))
                        if ".toml: " in variant and len(set(outcome.values())) == 2:
                            break                          # one passes, one fails: enough is known
        return True


def passes(item):
    return all(report.passed for report in runtestprotocol(item, log=False))


def run_here(numbers, sample, path):
    """In a process of its own: write Variants.outcomes to `path`."""
    recorder.isolate(cpu=600)
    os.chdir(ROOT)
    found = {n: a for n, a in assignments.load().items() if n in numbers}
    tests = {test.partition("[")[0] for a in found.values() for some in a.points.values()
             for test in some}
    plugin = Variants(found, sample)
    words = [*sorted(tests), "-s", "-q", "--tb=no", *recorder.PLUGINS]
    if pytest.main(words, plugins=[plugin]) == 0:
        path.write_text(json.dumps(plugin.outcomes), "utf-8")


def outcomes(numbers, sample):
    """{number: {variant: {test: whether it passed}}}. It forks: call it where torch has one thread.
    """
    for a in (assignments.load()[n] for n in numbers):
        variants(a, sample)                        # says so if a wrong answer does not fit the code
    how = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "outcomes.json")
        process = multiprocessing.get_context(how).Process(
            target=run_here, args=(list(numbers), sample, path), daemon=True)
        process.start()
        process.join(600)
        process.kill()
        assert path.exists(), "no outcome: a wrong answer loops, or a test with points is gone?"
        return {int(n): found for n, found in json.loads(path.read_text("utf-8")).items()}


def faults(a, found):
    """What is not as it must be in the outcomes of one assignment, a line each."""
    lines = []
    for variant, outcome in found.items():
        passed = [test for test, right in outcome.items() if right]
        if variant == "as shipped" and len(passed) < len(outcome):
            lines.append(f"{variant}: fails {sorted(set(outcome) - set(passed))}")
        elif variant.startswith("bug"):
            lines += [f"{variant}: {test} passes" for test in passed if test in a.points[variant]]
        elif ".toml: " in variant and len(set(outcome.values())) < 2:
            lines.append(f"{variant}: loses {'no point' if passed else 'all points'}")
        elif (variant == "blank" or variant in CONSTANTS) and passed:
            lines.append(f"{variant}: passes {passed}")
    return lines
