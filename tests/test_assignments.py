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
    found, mark = {"as shipped": []}, f'raise NotImplementedError("assignment {a.number}")'
    for variant, body in {"blank": mark, **CONSTANTS}.items() if a.functions else ():
        changed = blank.changes(a, "")
        found[variant] = [(name, changed[blank.place(name)[0]].replace(mark, body))
                          for name in a.functions]
    for i, bug in enumerate(a.bugs, 1):
        found[f"bug{i}"] = [(blank.around(bug), blank.changes(a, f"bug{i}")[bug.file])]
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
        self.outcomes = {n: {} for n in FOUND}      # {number: {variant: {test: whether it passed}}}

    def pytest_runtestloop(self, session):
        for n, a in FOUND.items():
            seconds = {test: 0 for some in a.points.values() for test in some}
            items = {test: [item for item in session.items if item.nodeid == test or
                            item.nodeid.startswith(test + "[")] for test in seconds}
            wrong = {w.name for w in wrong_answers(n)}
            for variant, changes in sources(a).items():
                found = self.outcomes[n][variant] = {}
                with swapped(changes):
                    for test in sorted(seconds, key=seconds.get):        # the fast ones first
                        started = time.perf_counter()
                        found[test] = bool(items[test]) and all(map(passes, items[test]))
                        seconds[test] = max(seconds[test], time.perf_counter() - started)
                        if variant in wrong and len(set(found.values())) == 2:
                            break                          # one passes, one fails: enough is known
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
    """In a process of its own: write Variants.outcomes to `path`."""
    recorder.isolate(cpu=600)
    os.chdir(ROOT)
    import torch
    torch.set_num_threads(1)
    tests = {test.partition("[")[0] for a in FOUND.values() for some in a.points.values()
             for test in some}
    variants = Variants()
    if pytest.main([*sorted(tests), "-s", "-q", *recorder.PLUGINS], plugins=[variants]):
        variants.outcomes = {}
    with open(path, "w", encoding="utf-8") as f:
        json.dump(variants.outcomes, f)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """{number: {variant: {test: whether it passed}}}"""
    path = tmp_path_factory.mktemp("variants") / "outcomes.json"
    process = grade.context().Process(target=run_variants, args=(str(path),), daemon=True)
    process.start()
    process.join(600)
    process.kill()
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    assert found, "no outcome: a wrong answer loops or does not fit the code, or a test is gone?"
    return {int(n): variants for n, variants in found.items()}


@NUMBERED
def test_the_shipped_code_has_all_points(n, outcomes):
    assert [test for test, passed in outcomes[n]["as shipped"].items() if not passed] == []
    assert len(outcomes[n]["as shipped"]) == len({t for some in FOUND[n].points.values()
                                                  for t in some})


@NUMBERED
def test_a_blank_a_body_left_out_and_a_constant_have_none(n, outcomes):
    for variant in ("blank", *CONSTANTS) if FOUND[n].functions else ():
        assert [test for test, passed in outcomes[n][variant].items() if passed] == [], variant
    for bug, tests in FOUND[n].points.items() if FOUND[n].bugs else ():
        assert not any(outcomes[n][bug][test] for test in tests), bug


@NUMBERED
def test_every_wrong_answer_loses_points_and_not_all(n, outcomes):
    wrong = wrong_answers(n)
    assert len(wrong) >= 3 and len({w.name for w in wrong}) == len(wrong)
    for w in wrong:
        assert set(outcomes[n][w.name].values()) == {True, False}, w.name


def test_all_twelve_have_100_points_by_tests_and_40_by_hand():
    if len(FOUND) == 12:
        assert sum(a.total for a in FOUND.values()) == 100
        assert sum(a.by_hand for a in FOUND.values()) == 40


# ---- copies

# Lines of a solution that stand elsewhere too, and why they may.
KNOWN = ("if lazy and state.step % lazy == 0:",            # a test makes a step from its pieces
         "super().__init__()", "device = next(model.parameters()).device",
         "if config.n_embd % config.n_head:", "max(map(len, gold)))")


def texts(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in
            sorted(folder.rglob("*")) if file.is_file()}


@NUMBERED
def test_a_copy_is_the_project_with_blanks_and_holds_no_line_of_the_solution(n, tmp_path):
    a = FOUND[n]
    blank.start(a, str(tmp_path / "copy"))
    telling = [line.encode() for line in blank.solution(a) if line not in KNOWN]
    shipped = {file: Path(ROOT, file).read_bytes() for file in blank.project_files()}
    for folder in [f"copy/{part}" for part in a.points]:
        own = texts(tmp_path / folder)
        assert json.loads(own.pop(blank.STATE))["assignment"] == n
        assert set(own) == set(shipped), "nothing more: no history, bytecode, results or answers"
        touched = {blank.place(name)[0] for name in a.functions} | {bug.file for bug in a.bugs}
        for file, text in own.items():
            assert text == shipped[file] or file in touched or file.endswith((".md", ".toml"))
            if not a.bugs or file not in touched:      # one bug's file has the other functions
                assert not [line for line in telling if line in text], file
        assert assignments.load(str(tmp_path / folder))[n].bugs == []


def test_a_copy_has_no_answers():
    files = blank.project_files()
    assert "ngdiff.py" in files and "tests/test_ngdiff.py" in files
    for name in ("TEACHING", "wrong_answers", "test_assignments", "__pycache__", ".git/"):
        assert not [file for file in files if name in file]


def test_without_git_a_copy_has_the_same_files(tmp_path):
    if os.path.exists(os.path.join(ROOT, ".git")):
        files = [f for f in blank.project_files() if not f.startswith(".ci/")]
        for file in [*files, "out/x/log.csv", "tests/__pycache__/x.pyc", "assignments/TEACHING.md"]:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(b"")
        assert blank.project_files(str(tmp_path)) == files


def test_start_overwrites_nothing_and_copies_no_copy(tmp_path):
    (tmp_path / "mine").write_text("my thesis")
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(ValueError, match=str(folder)):
            blank.start(FOUND[2], str(folder))
    assert texts(tmp_path) == {"mine": b"my thesis"}
    (tmp_path / "empty").mkdir()
    blank.start(FOUND[2], str(tmp_path / "empty"))
    with pytest.raises(ValueError):
        blank.start(FOUND[2], str(tmp_path / "other"), root=str(tmp_path / "empty"))
    assert not (tmp_path / "other").exists()


SMALL = '''"""A module."""
import math

SCALE = 2.0


def neighbour(x):
    """x + 1."""
    return x + 1


@staticmethod
def twice(x):
    """2 x.

    A float.
    """
    # a comment that tells
    y = SCALE * x

    return y


class Pair:
    def __init__(self, a):
        self.a = a

    def half(self):
        if self.a == "none":
            return None
        return self.a / 2
'''


def test_a_blank_keeps_signature_decorators_and_docstring():
    found = blank.blanked(SMALL, ["twice"], None, 3)
    assert found == SMALL.replace('''    # a comment that tells
    y = SCALE * x

    return y
''', '    raise NotImplementedError("assignment 3")\n')
    assert blank.is_blank(found, ["twice"]) and not blank.is_blank(SMALL, ["twice"])
    found = blank.blanked(SMALL, ["Pair", "half"], "self.a == 'none'", 3)
    assert found == SMALL.replace("return None", 'raise NotImplementedError("assignment 3")')
    with pytest.raises(ValueError, match="thrice"):
        blank.blanked(SMALL, ["thrice"], None, 3)


def test_a_submission_is_the_shipped_module_with_the_students_functions():
    """What they added stays: imports, constants, functions, methods. All else is as shipped."""
    student = (SMALL.replace("import math", "import os as math\nfrom math import floor")
               .replace("SCALE = 2.0", "SCALE = 5.0\nMINE = floor(1.5)")
               .replace("return x + 1", "return 0").replace("self.a = a", "self.a = 7")
               .replace("return self.a / 2", "return self.own() + helper()")
               + "\n    def own(self):\n        return MINE\n\n\n"
               + "def helper():\n    return math.pi\n\n"
               + "neighbour = helper\nprint(1)\nmath.pi = 3\n")
    text, left_out = blank.merged(SMALL, student, [["Pair", "half"]])
    scope = {}
    exec(text, scope)
    assert scope["Pair"](1).half() == 1 + scope["math"].pi and scope["Pair"](1).a == 1
    assert scope["neighbour"](1) == 2 and scope["SCALE"] == 2
    assert len(left_out) == 4, "another SCALE, another neighbour, a print, a change in math"


def test_a_function_that_the_student_deleted_or_wrote_twice():
    for student in ("", "def twice(x): return 0\ndef twice(x): return 1"):
        scope = {}
        exec(blank.merged(SMALL.replace("@staticmethod\n", ""), student, [["twice"]])[0], scope)
        if student:
            assert scope["twice"](4) == 1, "the last one counts, as in Python"
        else:
            with pytest.raises(NotImplementedError):
                scope["twice"](4)


# ---- the data

def test_a_file_of_the_wrong_format_is_refused_with_file_and_key(tmp_path):
    with open(os.path.join(ROOT, "assignments", "02_direction.toml"), encoding="utf-8") as f:
        text = f.read()
    for old, new, key in (('title = "', 'titel = "', "title"),
                          ("minutes = 45", 'minutes = "45"', "minutes"),
                          ("by_hand = 4", "by_hand = 4\ncolour = 1", "colour"),
                          ("ngdiff.direction\"", "ngdiff.directions\"", "functions"),
                          ("test_ngdiff_identities", "test_no_such", "points"),
                          ("\" = 2", "\" = 0", "points"),
                          ("title =", "title", "02_direction")):
        assert old in text
        (tmp_path / "02_direction.toml").write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ValueError, match=f"02_direction.toml.*{key}"
                           if key != "02_direction" else key):
            assignments.read(str(tmp_path / "02_direction.toml"), 2)


# ---- the grader

TESTS = '''import pytest
import ngdiff

def test_neighbour_and_twice():
    """Twice is twice. A second sentence."""
    assert ngdiff.neighbour(ngdiff.twice(3)) == 7

@pytest.mark.parametrize("x", [1.0, 2.0, 3.0])
def test_half_is_half(x):
    assert ngdiff.Pair(x).half() == pytest.approx(x / 2)

def test_twice_refuses_a_text():
    with pytest.raises(ValueError):
        ngdiff.twice("2")
'''
RIGHT = SMALL.replace("@staticmethod\n", "").replace(
    "    y = SCALE", "    if isinstance(x, str):\n        raise ValueError(x)\n    y = SCALE")
POINTS = {"tests/test_small.py::test_neighbour_and_twice": 2,
          "tests/test_small.py::test_half_is_half": 3,
          "tests/test_small.py::test_twice_refuses_a_text": 1}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with one module, one test file and one assignment, and none of ours."""
    root = tmp_path_factory.mktemp("project")
    (root / "tests").mkdir()
    (root / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (root / "ngdiff.py").write_text(RIGHT)
    (root / "tests" / "test_small.py").write_text(TESTS)
    return root


def submission(project, source, name="Ada"):
    """The Job of a submission whose ngdiff.py is `source`; None: there is none."""
    folder = project / "submissions" / name.replace(" ", "-").replace("/", "-")
    folder.mkdir(parents=True, exist_ok=True)
    if source is not None:
        (folder / "ngdiff.py").write_text(source)
    return grade.Job(name, str(folder), str(project), ["ngdiff.twice", "ngdiff.Pair.half"], POINTS)


def twice(body, top=""):
    """The right answer, but for the body of `twice`, and with lines at the module's end."""
    return RIGHT.replace("    y = SCALE * x\n\n    return y", f"    {body}") + top


# name: (source, points of 6, a word of the one line that says why)
SUBMISSIONS = {
    "right": (RIGHT, 6, "3 of 3"),
    "blank": (blank.blanked(blank.blanked(RIGHT, ["twice"], None, 3), ["Pair", "half"], None, 3), 0,
              "not begun"),
    "one blank": (blank.blanked(RIGHT, ["twice"], None, 3), 3, "blank: ngdiff.twice"),
    "broken neighbour": (RIGHT.replace("x + 1", "x + 2").replace("2.0", "3.0"), 6, "3 of 3"),
    "own helper": (twice("return x + helper(x)", "\ndef helper(x):\n    return x\n"), 6, "3 of"),
    "os._exit(0)": (twice("import os; open(COPY + '.log', 'a').write('x'); os._exit(0)",
                          "\nCOPY = {root!r}\n"), 0, "exit code 0"),
    "sys.exit(0)": (twice("import sys; sys.exit(0)"), 4, "2 of 3"),
    "stops pytest": (twice("import pytest; pytest.exit('10 passed', 0)"), 0, "stopped"),
    "prints results": (twice("print('10 passed in 0.1s'); return 1"), 4, "2 of 3"),
    "floods of output": (twice("for _ in range(30): print('x' * 10**7)\n    return 2 * x"), 6,
                         "3 of 3"),
    "a huge file": (twice("open('big', 'wb').write(bytes(10**8)); return 2 * x"), 4, "2 of 3"),
    "16 gigabytes": (twice("return len(bytearray(2**34)) and 2 * x"),
                     4 if sys.platform == "linux" else 6, "of 3"),
    "a fork": (twice("import os; os.fork(); return 2 * x"), 4, "2 of 3"),
    "a thread": (twice("import threading, time; threading.Thread(target=time.sleep, args=(1e6,))"
                       ".start(); return 2 * x"), 6, "3 of 3"),
    "patched pytest": (twice("import pytest; pytest.approx = id; return 2 * x"), 0, ".approx"),
    "always equal": (twice("import pytest; type(pytest.approx(1)).__eq__ = lambda *_: True;"
                           " return 2 * x"), 0, "__eq__"),
    "another copy": (twice("import runpy; return runpy.run_path(COPY)['twice'](x)",
                           "\nCOPY = {root!r}\n"), 4, "2 of 3"),
    "an error at import": (RIGHT + "\nX = 1 / 0\n", 0, "ZeroDivisionError"),
    "an exit at import": (RIGHT + "\nX = exit(0)\n", 0, "stopped in the import"),
    "no Python": ("def twice(x)\n    return 2 * x\n", 0, "line 1"),
    "no text": ("\0", 0, ""),
    "no file": (None, 0, "ngdiff.py is missing"),
    "right again": (RIGHT, 6, "3 of 3"),
}


@pytest.fixture(scope="module")
def graded(project):
    """{name: Score} of SUBMISSIONS, graded as one class."""
    copy = repr(str(project / "ngdiff.py"))
    jobs = [submission(project, source and source.replace("{root!r}", copy), name)
            for name, (source, _, _) in SUBMISSIONS.items()]
    return {jobs[i].name: score for i, score in grade.scores(jobs)}


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_every_submission_gets_its_points_and_one_line(name, graded):
    _, points, why = SUBMISSIONS[name]
    assert (graded[name].points, graded[name].total) == (points, 6), graded[name]
    assert why in graded[name].why and "\n" not in graded[name].why
    assert list(graded[name].tests) == list(POINTS)


def test_a_process_that_ended_in_the_middle_gets_a_second_run_alone(graded, project):
    """The one beside it may have killed it."""
    assert (project / "ngdiff.py.log").read_text() == "xx"


def test_an_endless_loop_is_stopped_and_the_others_are_graded(project):
    loop = submission(project, twice("while True: pass"), "a loop")
    jobs = [loop, submission(project, SUBMISSIONS["no file"][0], "no file"), loop]
    started, found = time.monotonic(), dict(grade.scores(jobs, time_limit=1.5))
    assert [found[i].points for i in range(3)] == [0, 0, 0] and time.monotonic() - started < 60
    assert "stopped after 1.5 s" in found[0].why and "missing" in found[1].why


def test_edited_tests_count_for_nothing(project):
    job = submission(project, twice("return 0"), "edited")
    tests = os.path.join(job.student, "tests")
    os.makedirs(tests)
    for name in ("test_small.py", "conftest.py"):
        with open(os.path.join(tests, name), "w") as f:
            f.write("def test_neighbour_and_twice(): pass\ndef test_twice_refuses_a_text(): pass\n")
    (_, score), = grade.scores([job])
    assert score.points == 4 and (project / "tests" / "test_small.py").read_text() == TESTS


def test_a_failure_says_claim_call_expected_and_got(graded, project):
    wrong = graded["prints results"].tests["tests/test_small.py::test_neighbour_and_twice"][2]
    assert wrong[0] == "Twice is twice"
    assert "ngdiff.neighbour(ngdiff.twice(3))" in wrong[1] and wrong[2] == "got 2, expected 7"
    refused = graded["blank"].tests["tests/test_small.py::test_twice_refuses_a_text"][2]
    assert "twice(" in refused[1] and refused[2].startswith("got NotImplementedError: assignment 3")
    for score in graded.values():
        for _, _, lines in score.tests.values():
            assert len(lines) <= 3 and all(len(line) <= 100 and "\n" not in line for line in lines)


def test_the_maximum_is_fixed_and_only_a_case_that_passed_counts():
    job = grade.Job("Ada", "", "", [], {"a.py::t": 2, "a.py::u": 3, "a.py::u[1]": 1, "a.py::v": 4})
    all_passed = [{"collected": ["a.py::t", "a.py::u[1]", "a.py::u[2]", "a.py::v"]},
                  *({"test": f"a.py::{t}", "passed": True, "lines": []}
                    for t in ("t", "u[1]", "u[2]", "v", "w")), {"end": 0}]
    assert grade.judge(job, all_passed, "").points == 10
    for lost, points in ((0, 0), (1, 8), (2, 6), (3, 7), (4, 6), (5, 10)):
        score = grade.judge(job, all_passed[:lost] + all_passed[lost + 1:], "")
        assert (score.points, score.total) == (points, 10), lost
    assert grade.judge(job, [], "").points == 0
    failed = [dict(r, passed=False) if r.get("test") == "a.py::u[2]" else r for r in all_passed]
    assert grade.judge(job, failed, "").points == 7


def test_the_shipped_code_is_graded_with_all_points():
    """By the grader itself, which also watches for changed functions of torch."""
    whole = {n: a for n, a in FOUND.items() if not a.bugs}
    jobs = [grade.Job(str(n), "", ROOT, a.functions, a.points[""]) for n, a in whole.items()]
    for _, score in grade.scores(jobs):
        assert score.points == score.total == whole[int(score.name)].total, score
    (_, score), = grade.grade(FOUND[2], [ROOT])               # as a submission, merged
    assert (score.points, score.total, list(score.tests)) == (12, 12, list(FOUND[2].points[""]))


@NUMBERED
def test_shipped_functions_in_the_shipped_module_change_nothing(n):
    for name in FOUND[n].functions:
        file, path, _ = blank.place(name)
        text = blank.read_text(ROOT, file)
        assert blank.merged(text, text, [path]) == (ast.unparse(ast.parse(text)) + "\n", [])


TOML = """
title = "Two functions"
section = "none"
minutes = 1
by_hand = 1
functions = ["ngdiff.twice", "ngdiff.Pair.half"]
hints = ["An idea", "A formula", "A pitfall"]
text = "Write them."
[points]
""" + "\n".join(f'"{test}" = {n}' for test, n in POINTS.items())


@pytest.fixture
def small(project, monkeypatch):
    """The commands work on the small project."""
    (project / "assignments").mkdir(exist_ok=True)
    (project / "assignments" / "03_two_functions.toml").write_text(TOML)
    for module in (cli, grade):
        monkeypatch.setattr(module, "ROOT", str(project))
    return project


def test_the_students_day(small, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "copy"
    assert cli.main(["start", "3", str(copy)]) == 0
    monkeypatch.setattr(cli, "ROOT", str(copy))
    capsys.readouterr()
    text = (copy / "ngdiff.py").read_text()
    half = text.replace("a / 2", "").replace(                     # the last blank is filled
        "def half(self):\n        raise NotImplementedError(\"assignment 3\")",
        "def half(self):\n        return self.a / 2")
    for source, state, says in ((text, "0 of 6", "not begun"), (RIGHT, "done", "6 of 6 points"),
                                (half, "3 of 6", "blank: ngdiff.twice")):
        (copy / "ngdiff.py").write_text(source)
        assert cli.main(["check", "3"]) == 0 and says in capsys.readouterr().out
        assert cli.main([]) == 0 and state in capsys.readouterr().out
    for i, left in enumerate((2, 1, 0, 0)):
        assert cli.main(["hint", "3"]) == 0
        shown = capsys.readouterr().out
        assert f"{left} left" in shown and ("An idea", "A formula", *["A pitfall"] * 2)[i] in shown
    for wrong in (["check", "1"], ["start", "3", str(tmp_path / "new")], ["grade", "3", "x"]):
        assert cli.main(wrong) == 2 and capsys.readouterr().err.count("\n") == 1


def test_the_teachers_day(small, tmp_path, capsys):
    """Exit code 0 once all are graded, whatever the points; a table and a file for each system."""
    assert cli.main(["handout", "3", str(tmp_path / "handout")]) == 0
    folders = [str(tmp_path / "handout"), str(small), str(tmp_path / "nobody")]
    table, results = tmp_path / "points.csv", tmp_path / "results.json"
    assert cli.main(["grade", "3", *folders, "--csv", str(table), "--json", str(results)]) == 0
    with open(table, encoding="utf-8", newline="") as f:
        head, *rows = csv.reader(f)
    assert head[:4] == ["submission", "points", "of", "why"] and head[4:] == list(POINTS)
    assert [row[:3] for row in rows] == [[folders[0], "0", "6"], [folders[1], "6", "6"],
                                         [folders[2], "0", "6"]]
    found = json.loads(results.read_text(encoding="utf-8"))
    assert [found[folder]["score"] for folder in folders] == [0, 6, 0]
    assert cli.main(["grade", "3", folders[2], "--json", str(results)]) == 0
    assert json.loads(results.read_text(encoding="utf-8"))["score"] == 0, "Gradescope's own shape"


BUGS = TOML.partition("functions =")[0] + TOML[TOML.index("hints"):TOML.index("[points]")] + """
[points.bug1]
"tests/test_small.py::test_neighbour_and_twice" = 2
[points.bug2]
"tests/test_small.py::test_half_is_half" = 3

[[bug]]
name = "three times"
file = "ngdiff.py"
old = "y = SCALE * x"
new = "y = 3 * x"

[[bug]]
name = "a third"
file = "ngdiff.py"
old = "return self.a / 2"
new = "return self.a / 3"
"""


def test_bugs_are_one_a_folder_and_each_is_graded_by_itself(small, tmp_path, monkeypatch, capsys):
    bugs = small / "assignments" / "12_bugs.toml"
    bugs.write_text(BUGS)
    try:
        assert cli.main(["start", "12", str(tmp_path / "mine")]) == 0
        one, two = tmp_path / "mine" / "bug1", tmp_path / "mine" / "bug2"
        assert (one / "ngdiff.py").read_text() == RIGHT.replace("SCALE * x", "3 * x")
        assert (two / "ngdiff.py").read_text() == RIGHT.replace("self.a / 2", "self.a / 3")
        assert "a third" not in (one / "assignments" / "12_bugs.toml").read_text()
        a = assignments.load(str(small))[12]
        (_, score), = grade.grade(a, [str(tmp_path / "mine")])
        assert (score.points, score.total) == (0, 5)
        (two / "ngdiff.py").write_text(RIGHT)
        (_, score), = grade.grade(a, [str(tmp_path / "mine")])
        assert (score.points, score.total) == (3, 5) and "bug1: 0 of 1" in score.why
        monkeypatch.setattr(cli, "ROOT", str(two))
        assert cli.main(["check", "12"]) == 0 and "3 of 3 points" in capsys.readouterr().out
        assert cli.main([]) == 0 and "done" in capsys.readouterr().out
    finally:
        bugs.unlink()


def test_a_users_mistakes_end_in_one_line(tmp_path, capsys):
    for wrong in (["show", "77"], ["show"], ["start", "2"], ["check", "2"], ["hint", "2"],
                  ["grade", "2"], ["start", "2", ROOT]):
        assert cli.main(wrong) == 2, wrong
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    for n, a in FOUND.items():
        assert cli.main(["show", str(n)]) == 0
        assert a.text.strip().splitlines()[-1] in capsys.readouterr().out


def test_the_results_have_the_published_shapes():
    """Every key with its type is one of Gradescope's results.json, and of what GitHub Classroom's
    reporter reads: name, status, message, score; max_score and status of the whole."""
    score = grade.Score("Ada", {"a::t": (2, 2, []), "a::u": (0, 3, ["x", "y"])}, "1 of 2")
    found = grade.gradescope(score)
    kinds = {"score": int, "max_score": int, "output": str, "name": str, "tests": list,
             "extra_data": dict}
    for part in (found, *found["tests"]):
        assert all(type(value) is kinds[key] for key, value in part.items())
    assert found["score"] == 2 == sum(test["score"] for test in found["tests"])
    assert found["tests"][1] == {"name": "a::u", "score": 0, "max_score": 3, "output": "x\ny"}
    found = found["extra_data"]["classroom"]
    assert (found["status"], found["max_score"]) == ("fail", 5)
    assert [(t["name"], t["status"], t["score"], t["message"]) for t in found["tests"]] == [
        ("a::t", "pass", 2, None), ("a::u", "fail", 0, "x\ny")]
