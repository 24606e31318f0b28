"""The classroom: assignments cut from the shipped sources, checked and graded by the shipped tests.

One TOML file an assignment, NN_short_name.toml; NN is its number. TEACHING.md, "An assignment of
your own", describes such a file. All else follows from it: a body is replaced by
`raise NotImplementedError("assignment N")` (see blank.py), so the sources hold no solution markers
and there is no second copy of any code.
"""
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

from assignments.blank import ROOT, place


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
    paths = sorted(Path(root, "assignments").glob("*.toml"))
    return {a.number: a for a in (read(path, root) for path in paths)}


def read(path, root=ROOT):
    """The Assignment in the file `path`. ValueError as in `load`."""
    try:
        number = re.fullmatch(r"(\d\d)_\w+", path.stem)
        if not number:
            raise ValueError("the name must be like 02_direction.toml")
        values = tomllib.loads(path.read_text("utf-8"))
        bugs = [Bug(**bug) for bug in values.pop("bug", [])]
        a = Assignment(number=int(number[1]), files=[], bugs=bugs, **values)
        for key, kind in Assignment.__annotations__.items():
            value = getattr(a, key)
            if not isinstance(value, kind) or not (value or key in ("files", "bugs")):
                raise ValueError(f"{key} is {value!r}: must be given, of type {kind.__name__}")
        points = a.points if all(isinstance(v, dict) for v in a.points.values()) else {"": a.points}
        if not all(isinstance(n, int) and n > 0 for some in points.values() for n in some.values()):
            raise ValueError(f"points are whole numbers > 0, not {points}")
        if len(a.hints) != 3:
            raise ValueError(f"hints has {len(a.hints)} texts: must have 3")
        files = list(dict.fromkeys(place(name, root)[0] for name in a.functions))
    except (ValueError, TypeError) as e:              # TypeError: a key is missing, or is no key
        raise ValueError(f"{path.name}: {e}") from e
    return a._replace(files=files, points=points)
