"""The classroom: assignments cut from the shipped sources, checked and graded by the shipped tests.

One TOML file an assignment, NN_short_name.toml; NN is its number. TEACHING.md, "An assignment of
your own", says what stands in such a file. All else follows from it: a body is replaced by
`raise NotImplementedError("assignment N")` (see blank.py), so the sources hold no solution markers
and there is no second copy of any code.
"""
import os
import re
import tomllib
from typing import NamedTuple

from assignments.blank import ROOT, place


KEYS = dict(title=str, section=str, minutes=int, by_hand=int, functions=list, hints=list, text=str,
            points=dict, bug=list)


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
    functions: list     # "ngdiff.direction"; or a whole file, "ngdiff.py", to find a bug in
    files: list         # what a student hands in: the files that hold the functions
    hints: list
    text: str
    points: dict        # {folder: {test id: points}}. Folder "": the copy itself; else "bug1", ...
    bugs: list          # Bugs; empty in a student's copy

    @property
    def total(self):
        return sum(sum(tests.values()) for tests in self.points.values())

    @property
    def task(self):
        """What a student reads."""
        return (f"# Assignment {self.number}: {self.title}\n\nIn the paper: {self.section}.\n"
                f"About {self.minutes} minutes, {self.total} points by tests, {self.by_hand} by "
                "hand.\n\n" + "".join(f"    to write: {name}\n" for name in self.functions) +
                f"\n{self.text.strip()}\n")


def load(root=ROOT):
    """{number: Assignment} from the files in root/assignments, in order. ValueError, with file and
    key, for a file that is not as TEACHING.md says."""
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
            values = {"bug": [], **tomllib.load(f)}
        except tomllib.TOMLDecodeError as e:
            raise ValueError(f"{os.path.relpath(path, root)}: {e}") from e
    for key in sorted({*values, *KEYS}):
        demand(key in KEYS, key, f"is no key: the keys are {', '.join(KEYS)}")
        demand(isinstance(values.get(key), KEYS[key]) and (values[key] or key == "bug"), key,
               f"is {values.get(key)!r}: must be given, of type {KEYS[key].__name__}")
    demand(len(values["hints"]) == 3, "hints", f"has {len(values['hints'])} texts: must have 3")
    bugs, points = values.pop("bug"), values.pop("points")
    demand(all(set(b) == set(Bug._fields) for b in bugs), "bug", "must have name, file, old, new")
    points = points if all(isinstance(tests, dict) for tests in points.values()) else {"": points}
    for test, n in [pair for tests in points.values() for pair in tests.items()]:
        demand(isinstance(n, int) and n > 0, "points", f"of {test} are {n!r}: a whole number > 0")
    try:
        files = list(dict.fromkeys(place(name, root)[0] for name in values["functions"]))
    except ValueError as e:
        demand(False, "functions", e)
    return Assignment(number=number, files=files, bugs=[Bug(**bug) for bug in bugs], points=points,
                      **values)
