"""assignments/: the points, the copies without solutions, the grader, and what comes to it.

The grader is tried on a project of two small files, which needs no torch. Whether the tests with
points tell right from wrong is tried on a sample of the wrong answers: of each assignment the
blank, one constant and one wrong answer, those whose turn it is by the assignment's number.
`python -m tests.wrong_answers` tries all of them, and the real grader on all twelve (minutes).
"""
import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import assignments
from assignments import blank, grade, merge, package, submissions
from assignments import __main__ as cli
from assignments.blank import ROOT
from conftest import job
from tests import kills, wrong_answers

FOUND = assignments.load()
NUMBERED = pytest.mark.parametrize("n", FOUND)


# ---- the twelve

@NUMBERED
@job((wrong_answers.outcomes, tuple(FOUND), True))
def test_a_blank_and_a_constant_have_no_points_and_a_wrong_answer_some(n, done):
    assert wrong_answers.faults(FOUND[n], done[n]) == []


@NUMBERED
def test_every_quoted_line_is_there(n):
    wrong = wrong_answers.wrong_answers(n)
    assert len(wrong) >= 3 and len({w.name for w in wrong}) == len(wrong)
    for w in (*wrong, *FOUND[n].bugs):
        wrong_answers.around(w)
    _, _, handed_in = FOUND[n].text.rpartition("\n## What to hand in\n")
    assert "\n#" not in handed_in and all(file in handed_in for file in FOUND[n].files)


def test_all_twelve_have_100_points_by_tests_and_40_by_hand():
    assert sum(a.total for a in FOUND.values()) == 100
    assert sum(a.by_hand for a in FOUND.values()) == 40


@NUMBERED
def test_the_shipped_file_handed_in_is_the_shipped_module(n):
    """So it has all points: all tests pass on the shipped code, says the rest of the suite."""
    a, places = FOUND[n], [blank.place(name) for name in FOUND[n].functions]
    for file, given in ({} if a.bugs else blank.changes(a, "")).items():
        shipped = blank.read_text(ROOT, file)
        tree = ast.parse(shipped)
        tree.body = merge.one_by_one(tree.body)
        assert merge.merged(given, shipped, [path for at, path, _ in places if at == file]) == (
            ast.unparse(tree) + "\n", [])


# ---- copies

def texts(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in
            sorted(folder.rglob("*")) if file.is_file()}


# Lines of a solution that stand elsewhere too, and why they may.
KNOWN = ("if lazy and state.step % lazy == 0:",            # a test makes a step from its pieces
         "super().__init__()", "device = next(model.parameters()).device",
         "if config.n_embd % config.n_head:", "max(map(len, gold)))")


def solution(a):
    """The lines of the blanked bodies that say something: 16 characters and more, stripped."""
    found = {line.strip() for bug in a.bugs for line in bug.old.splitlines() if line not in bug.new}
    for name in a.functions if not a.bugs else ():
        file, *where = blank.place(name)
        source = blank.read_text(ROOT, file)
        first, end = blank.cut(source, *where)
        found |= {line.strip() for line in source.splitlines()[first:end]}
    return [line.encode() for line in found if len(line) >= 16 and line not in KNOWN]


@NUMBERED
def test_a_copy_is_the_project_with_blanks_and_holds_no_line_of_the_solution(n, tmp_path):
    a, answers = FOUND[n], solution(FOUND[n])
    blank.start(a, str(tmp_path / "copy"))
    shipped = {file: Path(ROOT, file).read_bytes() for file in blank.project_files()}
    for part in a.points:
        own = texts(tmp_path / "copy" / part)
        assert json.loads(own.pop(blank.STATE)) == {"assignment": n, "part": part}
        with zipfile.ZipFile(tmp_path / "copy" / part / blank.PRISTINE) as z:
            assert all(z.read(name) == own[name] for name in z.namelist())
        del own[blank.PRISTINE]
        assert set(own) == set(shipped), "nothing more: no history, bytecode, results or answers"
        assert own.pop("README.md").startswith(f"# Assignment {n}: {a.title}".encode())
        for file, text in own.items():
            changed = file in a.files or (file.startswith("assignments/") and file.endswith("toml"))
            assert text == shipped[file] or changed
            if file.endswith("toml"):                 # hints may quote a line
                assert b"[[bug]]" not in text
            elif not (a.bugs and file in a.files):    # one bug's file has the other functions
                lines = set(map(bytes.strip, text.splitlines()))     # a definition is no call
                held = lines if file.endswith(".py") else text
                assert not [line for line in answers if line in held], file


def test_a_copy_has_no_answers_and_what_git_tracks_otherwise(tmp_path):
    put(put(tmp_path / "tests" / "a.py").parent / "__pycache__" / "a.pyc")
    assert blank.project_files(str(tmp_path)) == ["tests/a.py"]
    files = blank.project_files()
    for name in ("TEACHING", "wrong_answers", "test_assignments", ".git/"):
        assert not [file for file in files if name in file]
    if os.path.exists(os.path.join(ROOT, ".git")):
        tracked = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True)
        missing = [file for file in tracked.stdout.split("\n") if file and file not in files and
                   not file.startswith((".ci/", "findings/", *blank.ANSWERS))]
        assert [file for file in missing if os.path.exists(os.path.join(ROOT, file))] == []


# ---- a small project

SMALL = '''"""A module."""
import math, re
from typing import NamedTuple

SCALE = 2.0


def neighbour(x):
    """x + 1."""
    return x + 1


def twice(x):
    """2 x.

    A float.
    """
    # a comment that tells
    if isinstance(x, str):
        raise ValueError(x)
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
TESTS = '''import pytest
import ngdiff

def test_neighbour_and_twice():
    """Twice is twice. A second sentence."""
    three = 3
    assert ngdiff.neighbour(ngdiff.twice(three)) == 7

@pytest.mark.parametrize("x", [1.0, 2.0, 3.0])
def test_half_is_half(x):
    assert ngdiff.Pair(x).half() == pytest.approx(x / 2)

def test_twice_refuses_a_text():
    with pytest.raises(ValueError):
        ngdiff.twice("2")
'''
POINTS = {"tests/test_small.py::test_neighbour_and_twice": 2,
          "tests/test_small.py::test_half_is_half": 3,
          "tests/test_small.py::test_twice_refuses_a_text": 1}
TOML = '''
title = "Two functions"
section = "none"
minutes = 1
by_hand = 1
functions = ["ngdiff.twice", "ngdiff.Pair.half"]
hints = ["An idea", "A formula", "A pitfall"]
text = "Write them. Hand in ngdiff.py."
[points]
''' + "\n".join(f'"{test}" = {n}' for test, n in POINTS.items())
BUGS = TOML.partition("[points]")[0].replace('twice", "ngdiff.Pair.half', "py") + '''
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
'''


def build(root):
    """A project with one module, one test file, assignment 3 and 12, and this grader."""
    shutil.copytree(Path(ROOT, "assignments"), root / "assignments",
                    ignore=shutil.ignore_patterns("*.toml", "__pycache__", "TEACHING.md"))
    for name, text in {"requirements.txt": "pytest\n", "README.md": "# Small\n",
                       "pytest.ini": "[pytest]\npythonpath = .\n", "ngdiff.py": SMALL,
                       "tests/test_small.py": TESTS, "assignments/12_bugs.toml": BUGS,
                       "assignments/03_two_functions.toml": TOML}.items():
        put(root / name, text)
    text = (root / "assignments" / "grade.py").read_text()
    for old, new in (("CPU_LIMIT = 20", "CPU_LIMIT = 1"),
                     ('"torch", "numpy", "matplotlib.figure", "tiktoken", ', "")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (root / "assignments" / "grade.py").write_text(text)
    return root


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return build(tmp_path_factory.mktemp("project"))


@pytest.fixture
def small(project, monkeypatch):
    """The commands work on the small project, the grader's processes without torch."""
    monkeypatch.setattr(cli, "ROOT", str(project))
    monkeypatch.setattr(grade, "PRELOAD", ["pytest"])
    return project


def run(*words):
    return cli.main([str(word) for word in words])


def twice(body):
    """The right answer with one more line in `twice`."""
    return SMALL.replace("    y = SCALE", f"    {body}\n    y = SCALE")


def test_a_blank_keeps_signature_decorators_and_docstring():
    found = blank.blanked(SMALL, ["Pair", "half"], None, 3)
    assert found == SMALL.replace('''        if self.a == "none":
            return None
        return self.a / 2
''', '        raise NotImplementedError("assignment 3")\n')
    found = blank.blanked(SMALL, ["twice"], None, 3)
    assert "comment" not in found and '    """2 x.\n\n    A float.\n    """\n    raise' in found
    found = blank.blanked(SMALL, ["Pair", "half"], "self.a == 'none'", 3)
    assert found == SMALL.replace("return None", 'raise NotImplementedError("assignment 3")')
    with pytest.raises(ValueError, match="thrice"):
        blank.blanked(SMALL, ["thrice"], None, 3)


@pytest.mark.parametrize("old, new, named", [
    ('title = "', 'titel = "', "'titel'"), ('title = "Two functions"', "", "'title'"),
    ("minutes = 1", 'minutes = "ten"', "minutes"), ("minutes = 1", "minutes = 0", "minutes"),
    ("by_hand = 1", "by_hand = 1\ncolour = 1", "colour"), ("ngdiff.twice", "no.twice", "no.twice"),
    ('" = 2', '" = 0', "points"), ('"A formula", ', "", "hints"), ("title =", "title", "Expected"),
    ("[points]", "[[bug]]\nname = '1'\n[points]", "Bug")])
def test_a_file_of_the_wrong_format_or_name_is_refused(tmp_path, old, new, named):
    put(tmp_path / "ngdiff.py")
    path = put(tmp_path / "02_direction.toml", TOML.replace(old, new))
    with pytest.raises(ValueError, match=f"^02_direction.toml: .*{named}"):
        assignments.read(path, str(tmp_path))
    with pytest.raises(ValueError, match="^2_direction.toml: the name"):
        assignments.read(path.rename(tmp_path / "2_direction.toml"), str(tmp_path))


# ---- one merged source

PATHS = [["twice"], ["Pair", "half"]]
BLANK = blank.blanked(blank.blanked(SMALL, PATHS[0], None, 3), PATHS[1], None, 3)
HELPER = "def helper(x):\n    return x\n\n\n"


def edited(inside="pass", above="", first="", end=""):
    """SMALL with a statement in `twice` and in `half`; lines above `twice`, after the module's
    docstring and at its end."""
    source = SMALL.replace('module."""\n', f'module."""\n{first}\n') + end
    source = source.replace("def twice", above + "def twice")
    for line in "    y =", "        return self":
        source = source.replace(line, line[:-len(line.strip())] + f"{inside}\n{line}")
    return source


EDITS = {       # what a student does besides the task. Must it keep all points?
    "one more name in an import": (edited("List", first="from typing import NamedTuple, List"),
                                   True),
    "a submodule": (edited("os.path.join('a', 'b')", first="import os.path"), True),
    "a helper in front": (edited("helper(1)", HELPER), True),
    "a constant as default": (edited(above="MY = SCALE\n").replace("twice(x)", "twice(x, my=MY)"),
                              True),
    "two constants": (edited("assert ONE + TWO == 5", "ONE, TWO = 1, 2\nONE: int = 3\n"), True),
    "annotations of the future": (edited(first="from __future__ import annotations").replace(
        "twice(x)", "twice(x) -> No"), True),
    "a class of one's own": (edited("Own().x", "class Own:\n    x = 1\n\n\n"), True),
    "a class's __init__": (SMALL.replace("self.a = a", "self.a, self.my = a, 1").replace(
        "return self.a", "assert self.my == 1\n        return self.a"), True),
    "formatted anew": (ast.unparse(ast.parse(SMALL)), True),
    "another docstring": (SMALL.replace("A module.", "Mine."), True),
    "an attribute": (edited("helper.x", HELPER + "helper.x = 1\n"), True),
    "the blank left above": (blank.blanked(SMALL, PATHS[0], None, 3) + SMALL[
        SMALL.index("def twice"):SMALL.index("class")], True),
    "a byte-order mark": ("\ufeff" + SMALL.replace("\n", "\r\n"), True),
    "a print at the end": (edited(end="\nprint('done')\n"), False),
    "an import by star": (edited("sqrt(4)", first="from math import *"), False)}


def points_of(source):
    """Whether the three tests pass on a module's source."""
    scope = {"__name__": "ngdiff"}
    try:
        exec(compile(source.lstrip("\ufeff"), "ngdiff.py", "exec", dont_inherit=True), scope)
        refused = pytest.raises(ValueError, scope["twice"], "2")
        right = scope["neighbour"](scope["twice"](3)), scope["Pair"](3.0).half()
        return refused and right == (7, 1.5)
    except (NotImplementedError, NameError, AttributeError):
        return False


@pytest.mark.parametrize("name", EDITS)
def test_right_work_with_an_edit_keeps_its_points_or_a_line_says_why_not(name, tmp_path):
    source, must_keep = EDITS[name]
    assert source != SMALL and points_of(source), "as a student's pytest would find"
    put(tmp_path / "own" / "ngdiff.py", source)
    put(tmp_path / "ngdiff.py", BLANK)
    functions = ["ngdiff.twice", "ngdiff.Pair.half"]
    left_out, untouched = merge.bring(str(tmp_path / "own"), str(tmp_path), functions)
    kept = points_of((tmp_path / "ngdiff.py").read_text()) and not untouched
    assert kept and not left_out if must_keep else left_out, left_out
    assert all(re.match(r"ngdiff.py, line \d+: `", line) for line in left_out)


@pytest.mark.parametrize("source, line", [
    (SMALL + "import own\n", "line 33: `import own` does not count, the grader has no such module"),
    (SMALL + "def neighbour(x):\n    return 0\n", "line 33: `def neighbour(x):` does not count"),
    (SMALL + "math.pi = 3\n", "line 33: `math.pi = 3`"),
    (SMALL.replace("def twice", "def zwice"), "twice is not there")])
def test_what_does_not_count_is_named_with_its_line(source, line):
    found, left_out = merge.merged(BLANK, source, PATHS)
    assert len(left_out) == 1 and left_out[0].startswith(line)
    assert points_of(found) or "zwice" in source


# ---- hostile and broken submissions

# name: (ngdiff.py, points of 6, status, a word of the one line that says why)
HOSTILE = {
    "right": (SMALL, 6, "graded", "3 of 3"),
    "blank": (BLANK, 0, "not begun", "not begun"),
    "one blank": (blank.blanked(SMALL, ["twice"], None, 3), 3, "graded", "blank: ngdiff.twice"),
    "broken neighbour": (SMALL.replace("x + 1", "x").replace("2.0", "3.0"), 6, "graded", "3 of 3"),
    "os._exit(0)": (twice("import os; os._exit(0)"), 0, "stopped", "exit code 0, in test_neigh"),
    "stops pytest": (twice("import pytest; pytest.exit('passed', 0)"), 0, "stopped", "stopped in"),
    "prints results": (twice("print('10 passed in 0.1s'); return 1"), 4, "graded", "2 of 3"),
    "floods of output": (twice("for _ in range(10): print('x' * 10**7)"), 6, "graded", "3 of 3"),
    "a huge file": (twice("open('big', 'wb').write(bytes(10**8))"), 4, "graded", "2 of 3"),
    "16 gigabytes": (twice("bytearray(2**34)"), 4, "graded", "2 of 3"),
    "a thread": (twice("import threading, time; threading.Thread(target=time.sleep, args=(1e6,))"
                       ".start()"), 6, "graded", "3 of 3"),
    "patched pytest": (twice("import pytest; pytest.approx = id"), 0, "graded", ".approx"),
    "always equal": (twice("import pytest; type(pytest.approx(1)).__eq__ = lambda *_: True"), 0,
                     "graded", "__eq__"),
    "patched tests": (twice("import test_small; test_small.test_half_is_half = id"), 0, "graded",
                      "test_small.test_half_is_half"),
    "an error at import": (SMALL + "\nX = 'a' < 1\n", 0, "broken", "TypeError: '<' not supported"),
    "no Python": (SMALL.replace("(x):", "(x)"), 0, "broken", "ngdiff.py, line 8: SyntaxError"),
    "no text": ("\0", 0, "broken", "ngdiff.py: "),
    "an endless loop": (twice("while True: pass"), 0, "stopped", "after 1 s of computing, in "),
    "sleeps": (twice("import time; time.sleep(1000)"), 0, "stopped", "stopped after "),
    "no file": (None, 0, "nothing to grade", "no ngdiff.py found"),
}
if sys.platform != "linux":
    del HOSTILE["16 gigabytes"], HOSTILE["an endless loop"]


def graded():
    """{name: Score} of HOSTILE, graded as one class."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "PRELOAD", ["pytest"])
        at, folders = Path(folder), []
        project, pristine = str(build(at / "project")), str(at / "pristine")
        a = assignments.load(project)[3]
        blank.pristine(a, pristine, project)
        for i, (source, *_) in enumerate(HOSTILE.values()):
            put(at / str(i) / "ngdiff.py", source or "")
            for name in ("test_small.py", "conftest.py"):       # edited tests count for nothing
                put(at / str(i) / name, "def test_neighbour_and_twice(): pass")
            folders.append(str(at / str(i)) if source else "")
        slow = list(HOSTILE).index("sleeps")
        with patch.context() as limit:
            limit.setattr(grade, "TIME_LIMIT", 2 if kills.FORK else 10)    # or: imports torch
            stopped, folders[slow] = grade.score(a, folders[slow], pristine), ""
        found = {**dict(grade.grade(a, folders, project, cpu=1)), slow: stopped}
        return {name: found[i] for i, name in enumerate(HOSTILE)}


@pytest.mark.parametrize("name", HOSTILE)
@job((graded,))
def test_every_submission_gets_its_points_a_status_and_one_line(name, done):
    _, points, status, why = HOSTILE[name]
    score = done[name]
    assert (score.points, score.total, score.status) == (points, 6, status), score
    assert why in score.why and "\n" not in score.why and list(score.tests) == list(POINTS)
    for _, _, lines in score.tests.values():
        assert len(lines) <= 4 and all(len(line) <= 100 and "\n" not in line for line in lines)


@job((graded,))
def test_a_failure_says_claim_statement_inputs_expected_and_got(done):
    assert done["prints results"].tests["tests/test_small.py::test_neighbour_and_twice"][2] == [
        "Twice is twice", "tested assert ngdiff.neighbour(ngdiff.twice(three)) == 7",
        "where three = 3", "got 2, expected 7"]
    refused = done["one blank"].tests["tests/test_small.py::test_twice_refuses_a_text"][2]
    assert refused[-1] == "got NotImplementedError: assignment 3 (in twice)"


def test_the_maximum_is_fixed_and_only_a_case_that_passed_counts():
    points = {"a.py::t": 2, "a.py::u": 3, "a.py::u[1]": 1, "a.py::v": 4}
    passed = [{"none_begun": False, "untouched": []},
              {"collected": ["a.py::t", "a.py::u[1]", "a.py::u[2]", "a.py::v"]},
              *({"test": f"a.py::{t}", "lines": []} for t in ("t", "u[1]", "u[2]", "v", "w")),
              {"end": 0}]
    assert grade.judge(points, passed, "").points == 10
    for lost, left in ((1, 0), (2, 8), (3, 6), (4, 7), (5, 6), (6, 10)):
        score = grade.judge(points, passed[:lost] + passed[lost + 1:], "")
        assert (score.points, score.total) == (left, 10), lost
    assert grade.judge(points, [], "").points == 0
    failed = [dict(r, lines=["x"]) if r.get("test") == "a.py::u[2]" else r for r in passed]
    assert grade.judge(points, failed, "").points == 7


# ---- submissions as they come

METADATA = """---
submission_111:
  :submitters:
  - :name: Ada Example
    :sid: '77'
  :created_at: 2026-09-12 03:31:59 Z
submission_222:
  :submitters:
  - :name: Bo Beispiel
"""


def put(path, content=SMALL):
    """A file of a text, or a zip of a dict's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_bytes(content.encode("utf-8"))
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, text in content.items():
            z.writestr(name, text)


CLASS = [      # student, id, points, a word of the note, what was handed in
    ("folder", "", 6, "", {"folder/ngdiff.py": SMALL, ".DS_Store": ""}),
    ("zip", "", 6, "", {"zip.zip": {"work/ngdiff.py": SMALL, "__MACOSX/work/._ngdiff.py": "\0"}}),
    ("zip in a folder", "", 6, "", {"zip in a folder/w.zip": {"ngdiff.py": SMALL},
                                    "zip in a folder/__MACOSX/ngdiff.py": "\0"}),
    ("single", "", 6, "single.py taken as", {"single.py": SMALL}),
    ("bom", "", 6, "", {"bom/ngdiff (1).py": "\ufeff" + SMALL}),
    ("Ada Example", "77", 6, "", {"submission_metadata.yml": METADATA,
                                  "submission_111/ngdiff.py": SMALL}),
    ("Bea Probe", "1234567", 6, "", {
        "Bea Probe_1234567_assignsubmission_file_/ngdiff.py": SMALL,
        "Bea Probe_1234567_assignsubmission_onlinetext_/onlinetext.html": "<p>"}),
    ("probecy", "12345", 6, "latest of 3", {
        "probecy_12345_987654_ngdiff-1.py": BLANK, "probecy_12345_987655_ngdiff-2.py": SMALL,
        "probecy_12345_987656_helper.py": "x = 1"}),
    ("lateson", "23456", 6, "late", {"lateson_LATE_23456_987657_work.zip": {"ngdiff.py": SMALL}}),
    ("only a letter", "", None, "no ngdiff.py found", {"only a letter/letter.txt": "I was ill."}),
    ("two of them", "", None, "which one? a/ngdiff.py, b/ngdiff.py", {
        "two of them/a/ngdiff.py": SMALL, "two of them/b/ngdiff.py": SMALL}),
    ("broken", "", None, "broken.zip can't be unpacked", {"broken.zip": "PK"}),
    ("bomb", "", None, "it holds more than", {"bomb.zip": {"ngdiff.py": SMALL + "#" * 10_000}})]


def test_right_work_has_all_points_in_every_shape_that_comes(
        small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(submissions, "SIZE", 10_000)
    for *_, files in CLASS:
        for name, content in files.items():
            put(tmp_path / "s" / name, content)
    out, js = tmp_path / "p.csv", tmp_path / "p.json"
    both = tmp_path / "s" / "*", f"{tmp_path}/s/folder/"                   # one of them twice
    assert run("grade", 3, "--csv", out, *both, "--json", js) == 1, "four lack it"
    with open(out, encoding="utf-8", newline="") as f:
        head, *rows = csv.reader(f)
    assert head == ["student", "id", "status", "points", "of", "why", *POINTS]
    assert capsys.readouterr().out.count("\n") == len(rows) == len(CLASS)
    rows = {row[0]: row[1:] for row in rows}
    found = {s["student"]: s for s in json.loads(js.read_text())["submissions"]}
    for student, number, points, note, _ in CLASS:
        status = "graded" if points else "nothing to grade"
        assert rows[student][:2] == [number, status]
        assert note in rows[student][4] and ("latest" in note) == ("latest" in rows[student][4])
        assert rows[student][2:4] + rows[student][5:] == (
            ["6", "6", "2", "3", "1"] if points else ["", "6", "", "", ""])
        assert (found[student]["status"], found[student]["points"]) == (status, points)


# ---- the commands

def test_the_students_day(small, tmp_path, monkeypatch, capsys):
    """From the handout on: a folder, and the same as a zip."""
    copy = tmp_path / "my copy"
    assert run("handout", 3, copy) == 0
    assert f'cd "{copy}' in capsys.readouterr().out, "a path with a space is quoted"
    with zipfile.ZipFile(f"{copy}.zip") as z:
        packed = {name for name in z.namelist() if not name.endswith("/")}
        assert packed == {f"my copy/{file}" for file in texts(copy)}
        assert z.read("my copy/README.md").startswith(b"# Assignment 3: Two functions")
    monkeypatch.setattr(cli, "ROOT", str(copy))
    half = BLANK.replace('    def half(self):\n        raise NotImplementedError("assignment 3")',
                         "    def half(self):\n        return self.a / 2")
    for source, state, says in ((BLANK, "0 of 6", "not begun"),
                                (half, "3 of 6", "blank: ngdiff.twice"),
                                (SMALL + "print(1)\n", "done", "line 33: `print(1)` does not")):
        put(copy / "ngdiff.py", source)
        assert run("check") == 0 and says in capsys.readouterr().out
        assert run() == 0 and state in capsys.readouterr().out
    for i, left in enumerate((2, 1, 0, 0)):
        assert run("hint") == 0
        shown = capsys.readouterr().out
        assert f"{left} left" in shown and ("An idea", "A formula", *["A pitfall"] * 2)[i] in shown
    put(copy / "ngdiff.py", SMALL.replace("def twice(x):", "def twice(x)"))
    for command in ("check", "hint", "show"):
        assert run(command) == 0
        told = capsys.readouterr()
        assert "ngdiff.py, line 13: " in told.out + told.err
    for wrong in (["check", 1], ["start", 3, tmp_path / "new"]):
        assert run(*wrong) == 2 and capsys.readouterr().err.count("\n") == 1


def test_bugs_are_one_a_folder_and_each_is_graded_by_itself(small, tmp_path, monkeypatch, capsys):
    assert run("start", 12, tmp_path / "mine") == 0
    one, two = tmp_path / "mine" / "bug1", tmp_path / "mine" / "bug2"
    assert (one / "ngdiff.py").read_text() == SMALL.replace("SCALE * x", "3 * x")
    assert (two / "ngdiff.py").read_text() == SMALL.replace("self.a / 2", "self.a / 3")
    assert "a third" not in (one / "assignments" / "12_bugs.toml").read_text()
    put(two / "ngdiff.py")
    assert run("grade", 12, tmp_path / "mine") == 0
    told = capsys.readouterr().out
    assert " 3 of 5  mine: bug1: not begun: all is as it was handed out; bug2: 1 of 1 tests" in told
    monkeypatch.setattr(cli, "ROOT", str(two))
    assert run("check") == 0 and "3 of 3 points" in capsys.readouterr().out


@pytest.mark.parametrize("words, says", [
    ("show 77", "choose an assignment from 3 to 12"), ("show", "without a number"),
    ("check 3", "no student's copy"), ("hint 3", "no student's"),
    ("start", "required: number, folder"), ("start 3 {root}", "not an empty folder"),
    ("grade 3", "required: paths"), ("grade 3 {root} --js x", "unrecognized arguments: --js"),
    ("grade 3 {root}/nothing/*", "nothing to grade found"), ("grade 3 /nope", "no such file or"),
    ("grade 3 {root} --json /nope/x.json", "/nope/x.json can't be written"),
    ("package 3 x", "required: --for"), ("package 3 x --for codio", "invalid choice: 'codio'")])
def test_a_users_mistake_ends_in_one_line(words, says, small, capsys):
    assert run(*words.format(root=small).split()) == 2
    told = capsys.readouterr().err
    assert says in told and len(told.strip().splitlines()) == 1, told


def test_what_was_graded_is_written_before_the_next_is(small, tmp_path, monkeypatch):
    for name in "ab":
        put(tmp_path / name / "ngdiff.py")

    def interrupted(a, folders, *_):
        yield 0, grade.score(a, "", "")
        assert "a,," in (tmp_path / "p.csv").read_text()
        raise ValueError("the power is gone")
    monkeypatch.setattr(grade, "grade", interrupted)
    assert run("grade", 3, tmp_path / "a", tmp_path / "b", "--csv", tmp_path / "p.csv",
               "--json", tmp_path / "p.json") == 2
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 2
    found = json.loads((tmp_path / "p.json").read_text())
    assert set(found) == {"assignment", "of", "submissions"} and len(found["submissions"]) == 1


# ---- packages

RUNNER = {"CLASSROOM": "cs1", "ASSIGNMENT": "ngdiff-03", "SUBMISSION_TAG": "submit/1",
          "COMMIT_URL": "https://c", "RELEASE_URL": "https://r", "REVIEW_URL": "https://v"}
# No score at the top: it would override the tests'. Without output_format the output is HTML.
GRADESCOPE = {"output": "1 of 2 ```` passed\nline 3", "output_format": "text", "tests": [
    {"name": "a.py::t", "score": 2, "max_score": 2, "visibility": "visible", "status": "passed",
     "output": "", "output_format": "text"},
    {"name": "a.py::u", "score": 0, "max_score": 3, "visibility": "visible", "status": "failed",
     "output": "claim\ngot 1", "output_format": "text"}]}
CLASSROOM50 = {
    "schema": "classroom50/result/v1", "classroom": "cs1", "assignment": "ngdiff-03",
    "submission": "submit/1", "commit": "https://c", "release": "https://r", "review": "https://v",
    "score": 2, "max-score": 5, "tests": [
        {"test-name": "a.py::t", "passed": True, "score": 2, "max-score": 2},
        {"test-name": "a.py::u", "passed": False, "score": 0, "max-score": 3}]}


def test_a_score_has_the_forms_that_the_two_services_demand():
    """Compared as text: no score may be a float or a bool."""
    score = grade.Score({"a.py::t": (2, 2, []), "a.py::u": (0, 3, ["claim", "got 1"])}, "graded",
                        "1 of 2 ```` passed", ["line 3"])
    assert package.gradescope(score) == json.dumps(GRADESCOPE, indent=1) + "\n"
    assert package.classroom50(score, RUNNER) == json.dumps(CLASSROOM50, indent=1) + "\n"
    assert package.release_body(score).count("`````") == 2, "longer than any backticks inside"


SECRET = twice("import os; assert not [k for k in os.environ if "
               "k.startswith(('GITHUB_', 'ACTIONS_', 'RUNNER_'))]")


def packaged(target):
    """The points of right and of looping work, by a package."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        own, env, right = folder / "package", {**os.environ, **RUNNER}, SMALL
        patch.setattr(cli, "ROOT", str(build(folder / "project")))
        assert run("package", 3, own, "--for", target) == 0
        if target == "gradescope":
            shutil.unpack_archive(own / "autograder.zip", own / "source")
            shutil.copy(own / "source" / "run_autograder", own)
            assert '"max_score": 3' in (own / "source" / "not-graded.json").read_text()
            put(own / "venv" / "bin" / "python",
                f'#!/bin/sh\nexec "{sys.executable}" "$@"\n').chmod(0o755)
            command, script, result = "bash", "run_autograder", "results/results.json"
        else:
            assert sum(map(len, texts(own).values())) < 10 * 2**20, "a bundle has 10 MB at most"
            put(own / "submission" / "result.json", "a stale one")
            env, right = env | {"GITHUB_OUTPUT": "secret", "RUNNER_TEMP": "secret"}, SECRET
            command, script = sys.executable, "autograders/ngdiff-03/autograder.py"
            result = "submission/result.json"

        def points(source):
            machine = folder / str(len(source))
            shutil.copytree(own, machine)
            cwd = put(machine / "submission" / "ngdiff.py", source).parent
            assert subprocess.run([command, machine / script], cwd=cwd, env=env).returncode == 0
            tests = json.loads((machine / result).read_text())["tests"]
            return sum(test["score"] for test in tests)
        with ThreadPoolExecutor(2) as pool:
            wrong = HOSTILE.get("an endless loop", HOSTILE["blank"])[0]
            found = list(pool.map(points, [right, wrong]))
        if target == "classroom50":
            body = folder / str(len(right)) / "submission" / "release-body.md"
            assert "**6 of 6 points**" in body.read_text()
        return found


@job(*((packaged, target) for target in package.TARGETS), ids=package.TARGETS)
def test_a_package_grades_right_and_looping_work(done):
    """In fresh folders without git; on Classroom 50 the job's secrets do not reach the work."""
    assert done == [6, 0]


@pytest.mark.parametrize("n, target", [(2, "classroom50"), (12, "gradescope")])
def test_a_package_says_what_to_click_and_holds_only_what_the_grader_needs(n, target, tmp_path):
    package.make(FOUND[n], str(tmp_path / "p"), target)
    told = (tmp_path / "p" / "UPLOAD.txt").read_text()
    assert str(FOUND[n].total) in told and "@" not in told
    for path in [*(tmp_path / "p").rglob("autograder.zip")]:
        shutil.unpack_archive(path, path.with_suffix(""))
    assert not [path for path in texts(tmp_path / "p") if path.endswith(".md")]
