"""Assignments on the paper, with a grader.

    python -m assignments                 the list: number, title, points, minutes, state
    python -m assignments show N          the task
    python -m assignments start N DIR     a copy of the project in which assignment N is blank
    python -m assignments check N         in such a copy: points, test by test
    python -m assignments hint N          in such a copy: the next of three hints
    python -m assignments handout N DIR   the same copy as `start` makes, for a class
    python -m assignments grade N DIR ... [--csv FILE] [--json FILE]    the teacher's
"""
import argparse
import json
import os
import sys

import assignments
from assignments import blank, grade
from assignments.blank import ROOT


def state():
    """What a student's copy remembers: {"assignment": number, "points": ..., "hints": ...}; {} in
    the project itself."""
    if not os.path.exists(os.path.join(ROOT, blank.STATE)):
        return {}
    return json.loads(blank.read_text(ROOT, blank.STATE))


def show_list(found):
    kept = state()
    print(" N  title" + " " * 40 + "points  by hand  minutes  state")
    for n, a in found.items():
        now = ""
        if n == kept.get("assignment"):
            points, total = kept.get("points"), sum(a.points[kept["part"]].values())
            now = "not begun" if points is None else \
                "done" if points == total else f"{points} of {total}"
        print(f"{n:2}  {a.title:44} {a.total:6}  {a.by_hand:7}  {a.minutes:7}  {now}".rstrip())


def show(a):
    print(f"Assignment {a.number}: {a.title}\nIn the paper: {a.section}.\nAbout {a.minutes} "
          f"minutes, {a.total} points by tests, {a.by_hand} by hand.\n")
    for name in a.functions:
        print(f"  to write: {name}")
    print(f"\n{a.text.strip()}")


def start(a, folder):
    blank.start(a, folder, ROOT)
    first = os.path.join(folder, next(iter(a.points)))           # bug1, where there are bugs
    print(f"{folder}: assignment {a.number}, {a.title}. Go on with:\n"
          f"  cd {first}\n  python -m assignments show {a.number}")


def own_assignment(a, kept):
    """ValueError unless this is the student's copy of that assignment."""
    if kept.get("assignment") != a.number:
        where = f"of assignment {kept['assignment']}" if kept else "no student's copy"
        raise ValueError(f"this is {where}: `python -m assignments start {a.number} DIR` makes one "
                         f"of assignment {a.number}; go on there")


def remember(**facts):
    blank.write_text(ROOT, blank.STATE, json.dumps({**state(), **facts}) + "\n")


def check(a):
    """Run this copy's tests on this copy's code, and show each failure in three lines."""
    kept = state()
    own_assignment(a, kept)
    points = a.points[kept["part"]]
    print("The tests take some ten seconds.", flush=True)
    job = grade.Job("", "", ROOT, a.functions, points)
    (_, score), = grade.scores([job])
    for test, (got, of, lines) in score.tests.items():
        claim, *rest = lines or [test.partition("::test_")[2].replace("_", " ")]
        print("\n         ".join([f"{got:2} of {of}  {claim}", *rest]))
    print(f"{score.points} of {score.total} points; {score.why}")
    remember(points=score.points)
    if score.points < score.total:
        lost = next(test for test, (got, of, _) in score.tests.items() if got < of)
        print(f"The whole of the first failure: python -m pytest {lost}\n"
              f"A hint: python -m assignments hint {a.number}")


def hint(a):
    """Show the next hint, and remember that it was shown."""
    kept = state()
    own_assignment(a, kept)
    n = min(kept.get("hints", 0) + 1, len(a.hints))
    print(f"Hint {n} of {len(a.hints)}. {a.hints[n - 1].strip()}")
    print(f"{len(a.hints) - n} left.")
    remember(hints=n)


def grade_all(a, folders, csv, to_json):
    """Print a line a submission, and write the files."""
    if state():
        raise ValueError("grade: this is a student's copy; the teacher grades from the project")
    if not folders:
        raise ValueError("grade: name the submissions' folders after the number")
    found = {}
    for i, score in grade.grade(a, folders):
        print(f"{score.points:3} of {score.total}  {score.name}: {score.why}", flush=True)
        found[i] = score
    found = [found[i] for i in range(len(folders))]
    for path, write in ((csv, grade.write_csv), (to_json, grade.write_json)):
        if path:
            write(path, found)


def command(argv):
    parser = argparse.ArgumentParser(prog="python -m assignments", usage=__doc__,
                                     allow_abbrev=False)
    parser.add_argument("what", nargs="?", default="list",
                        choices=("list", "show", "start", "check", "hint", "handout", "grade"))
    parser.add_argument("number", nargs="?", type=int)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--csv")
    parser.add_argument("--json")
    args, found = parser.parse_args(argv), assignments.load(ROOT)
    if args.what == "list":
        return show_list(found)
    if args.number not in found:
        raise ValueError(f"{args.what} {args.number}: choose an assignment from "
                         f"{min(found)} to {max(found)}")
    a = found[args.number]
    if args.what == "show":
        return show(a)
    if args.what in ("start", "handout"):
        if len(args.folders) != 1:
            raise ValueError(f"{args.what} {a.number}: name one new folder after the number")
        return start(a, args.folders[0])
    if args.what == "grade":
        return grade_all(a, args.folders, args.csv, args.json)
    return check(a) if args.what == "check" else hint(a)


def main(argv=None):
    try:
        return command(argv) or 0
    except ValueError as e:
        print(f"assignments: {e}", file=sys.stderr)
        return 2
    except BrokenPipeError:                     # of `| head`: nothing more can be said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
