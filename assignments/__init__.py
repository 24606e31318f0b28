"""The classroom: assignments cut from the shipped sources, checked and graded by the shipped tests.

    python -m assignments                 the list
    python -m assignments start 2 mine    a copy of the project in which assignment 2 is blank

One TOML file an assignment, NN_short_name.toml. NN is its number. The keys, all of them required:

    title       a few words
    section     where the paper has it: "Section 3.2, Algorithm 1"
    minutes     how long it takes, a whole number
    by_hand     points for the written question, a whole number: a person marks it
    functions   the list of what is blank in the student's copy. An entry is a module's path, a
                class if there is one, and a function, with dots: "ngdiff.direction",
                "model.Attention.forward", "harness.flags.check". To blank one branch of a function
                and not the rest, add the branch's condition:
                "ngdiff.coefficients if method == 'ngdiff'" blanks the body of that `if`
    hints       three texts, shown one at a time: the idea, the formula, the pitfall
    text        Markdown: the paper's formula, what to write, what to run, the written question and
                its points. What a test demands and no docstring says, is said here
    [points]    a table: "tests/test_ngdiff.py::test_name" = whole number. A test with parameters
                counts as one, and all of its cases must pass; "...::test_name[case]" is one case

Short values first, then text, then [points]: a key after a table's header would belong to it. Put
hints and text between ''' and ''': there a backslash and a quote stand for themselves.

An assignment of the kind "find the bug" has no `functions`. It has, at the very end of its file,

    [points.bug1]    a table as [points], for the first bug; [points.bug2], and so on
    [[bug]]          the first bug; then the second, and so on, each with four keys:
    name             what is wrong, in a few words
    file             "ngdiff.py"
    old              the lines as they are shipped, indentation included; they stand once in file
    new              what the student finds instead

and `start` makes the folders bug1, bug2, ...: copies of the project with one bug each. A copy has
this file without the [[bug]] tables, for they are the solution.

The rest follows from the data: a body is replaced by `raise NotImplementedError("assignment N")`
(see blank.py), so the sources hold no solution markers and there is no second copy of any code.
Choose the points so that a blank, a body left out and a constant pass no test that has points;
tests/test_assignments.py tries this for every file here, and every wrong answer that
tests/wrong_answers/NN_short_name.toml lists: it must lose points, and not all of them. That file
has [[wrong]] tables: name (the mistake, in words), file, old and new as in [[bug]].
"""
import ast
import os
import re
import tomllib
from functools import lru_cache
from typing import NamedTuple

from assignments.blank import ROOT, cut, place, read_text

KEYS = dict(title=str, section=str, minutes=int, by_hand=int, hints=list, text=str, points=dict)


class Bug(NamedTuple):
    name: str
    file: str
    old: str
    new: str


class Assignment(NamedTuple):
    """One assignment, as its file says."""
    number: int
    title: str
    section: str
    minutes: int
    by_hand: int
    hints: list
    text: str
    functions: list     # empty where there are bugs to find
    points: dict        # folder of a student's copy: {test id: points}. Folder "": the copy itself
    bugs: list          # Bugs; empty in a student's copy

    @property
    def total(self):
        return sum(sum(tests.values()) for tests in self.points.values())


def load(root=ROOT):
    """{number: Assignment} from the files in root/assignments, in order. ValueError, with file and
    key, for a file that is not as the top of this module says."""
    folder, found = os.path.join(root, "assignments"), {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".toml"):
            number = re.match(r"(\d\d)_\w+\.toml$", name)
            if not number:
                raise ValueError(f"assignments/{name}: the name must be like 02_direction.toml")
            found[int(number[1])] = read(os.path.join(folder, name), int(number[1]), root)
    return found


def read(path, number, root=ROOT):
    """The Assignment in the file `path`. ValueError as in `load`."""
    def demand(right, key, what):
        if not right:
            raise ValueError(f"{os.path.relpath(path, root)}: {key} {what}")
    with open(path, "rb") as f:
        try:
            values = tomllib.load(f)
        except tomllib.TOMLDecodeError as e:
            raise ValueError(f"{os.path.relpath(path, root)}: {e}") from e
    for key, kind in KEYS.items():
        demand(isinstance(values.get(key), kind) and values[key] != "", key,
               f"is {values.get(key)!r}: must be given, of type {kind.__name__}")
    functions, bugs = values.pop("functions", []), values.pop("bug", [])
    demand(not (unknown := set(values) - set(KEYS)), ", ".join(sorted(unknown)), "is no key")
    demand(len(values["hints"]) == 3, "hints", f"has {len(values['hints'])} texts: must have 3")
    for bug in bugs:
        demand(set(bug) == set(Bug._fields), "bug", f"must have {', '.join(Bug._fields)} alone")
    points = {"": values["points"]} if functions else values["points"]
    demand(all(isinstance(tests, dict) and tests for tests in points.values()), "points",
           "must be a table of tests, or, without functions, one table a bug")
    for test, n in [pair for tests in points.values() for pair in tests.items()]:
        demand(isinstance(n, int) and n > 0, "points", f"of {test} are {n!r}: a whole number > 0")
        demand(has_test(root, test), "points", f"of {test}: there is no such test")
    for name in functions:
        try:
            file, within, condition = place(name, root)
            cut(read_text(root, file), within, condition)
        except ValueError as e:
            demand(False, "functions", e)
    values["points"] = points
    return Assignment(number=number, functions=functions, bugs=[Bug(**bug) for bug in bugs],
                      **values)


def has_test(root, test):
    """Whether the file of the test id `test` has a function of that name."""
    file, _, name = test.partition("::")
    path = os.path.join(root, file)
    return os.path.isfile(path) and name.partition("[")[0] in tests_in(path)


@lru_cache
def tests_in(path):
    with open(path, encoding="utf-8") as f:
        return {n.name for n in ast.parse(f.read()).body if isinstance(n, ast.FunctionDef)}
