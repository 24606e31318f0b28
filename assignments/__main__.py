"""Assignments on the paper, with a grader.

    python -m assignments                 the list: number, title, points, minutes, state
    python -m assignments show N          the task
    python -m assignments start N DIR     a copy of the project in which assignment N is blank

in such a copy, where N may be left out:
    python -m assignments check           points, test by test
    python -m assignments hint            the next of three hints

for the teacher:
    python -m assignments handout N DIR   the same copy as `start` makes, and DIR.zip
    python -m assignments grade N SUBMISSION ... [--csv FILE] [--json FILE]
    python -m assignments package N DIR --for gradescope | classroom50
"""
import argparse
import json
import os
import shutil
import sys
import tempfile

import assignments
from assignments import blank, grade, package, submissions
from assignments.blank import ROOT


def state():
    """What a student's copy remembers: {"assignment": number, "part": folder, "points": ...,
    "hints": ...}; {} in the project itself."""
    there = os.path.exists(os.path.join(ROOT, blank.STATE))
    return json.loads(blank.read_text(ROOT, blank.STATE)) if there else {}


def remember(**facts):
    blank.write_text(ROOT, blank.STATE, json.dumps({**state(), **facts}) + "\n")


def own_copy(a, what):
    """What this student's copy remembers. ValueError unless it is one of that assignment."""
    kept = state()
    if kept.get("assignment") != a.number:
        where = f"a copy of assignment {kept['assignment']}" if kept else "no student's copy"
        raise ValueError(f"{what}: this is {where}: `python -m assignments start {a.number} DIR` "
                         f"makes one of assignment {a.number}; go on there")
    return kept


# --------------------------------------------------------------------------- the student's

def show_list(found):
    """Print a line for each assignment: points, minutes, and how far this copy is."""
    kept = state()
    print(" N  title" + " " * 40 + "points  by hand  minutes  state")
    for n, a in found.items():
        now = ""
        if n == kept.get("assignment"):
            points, total = kept.get("points"), sum(a.points[kept["part"]].values())
            now = "not begun" if points is None else \
                "done" if points == total else f"{points} of {total}"
        print(f"{n:2}  {a.title:44} {a.total:6}  {a.by_hand:7}  {a.minutes:7}  {now}".rstrip())


def show(a, args):
    print(a.task.strip())
    warn_of_syntax(a)


def start(a, args):
    blank.start(a, args.folder, ROOT)
    first = os.path.normpath(os.path.join(args.folder, next(iter(a.points))))     # bug1, ...
    first = f'"{first}"' if " " in first else first
    print(f"{args.folder}: assignment {a.number}, {a.title}. Go on with:\n"
          f"  cd {first}\n  python -m assignments show")


def check(a, args):
    """Grade this copy as the teacher does, and show each failure."""
    part = own_copy(a, "check")["part"]
    print(f"Checking {', '.join(a.files)}. This takes some ten seconds; an endless loop is stopped "
          f"after {grade.CPU_LIMIT} s.", flush=True)
    (_, score), = grade.grade(a._replace(points={"": a.points[part]}), [ROOT], ROOT)
    ran = score.status in ("graded", "stopped")
    for test, (got, of, lines) in score.tests.items() if ran else ():
        name = test.partition("::test_")[2].replace("_", " ")
        print("\n         ".join([f"{got:2} of {of}  {name}", *lines]))
    print("\n".join([*score.left_out, f"{score.points} of {score.total} points; {score.why}"]))
    remember(points=score.points)
    if ran and score.points < score.total:
        lost = next(test for test, (got, of, _) in score.tests.items() if got < of)
        print(f"The whole of the first failure: python -m pytest {lost}\n"
              "A hint: python -m assignments hint")


def hint(a, args):
    """Show the next hint, and remember that it was shown."""
    n = min(own_copy(a, "hint").get("hints", 0) + 1, len(a.hints))
    print(f"Hint {n} of {len(a.hints)}. {a.hints[n - 1].strip()}\n{len(a.hints) - n} left.")
    remember(hints=n)
    warn_of_syntax(a)


def warn_of_syntax(a):
    for file in a.files:
        try:
            blank.read_source(ROOT, file)
        except ValueError as e:
            print(f"assignments: {e}", file=sys.stderr)


# --------------------------------------------------------------------------- the teacher's

def handout(a, args):
    if os.path.lexists(args.folder + ".zip"):
        raise ValueError(f"{args.folder}.zip exists: give another name")
    start(a, args)
    at, name = os.path.split(os.path.abspath(args.folder))
    print(f"The same as a file: {shutil.make_archive(args.folder, 'zip', at, name)}")


def make_package(a, args):
    print(package.make(a, args.folder, args.target, ROOT))


def grade_all(a, args):
    """Print a line a submission, and write the files after each. Returns the exit code: 1 if there
    was nothing to grade in some of them."""
    files = [(args.csv, grade.as_csv), (args.json, grade.as_json)]
    files, rows = [(path, form) for path, form in files if path], {}
    with tempfile.TemporaryDirectory() as scratch:
        found = submissions.find(args.paths, a, scratch)
        for path, form in files:                       # better now than after all grading
            grade.save(path, form(a, []))
        for i, score in grade.grade(a, [who.folder for who in found], ROOT):
            rows[i] = grade.entry(found[i], score)
            for path, form in files:
                grade.save(path, form(a, [rows[j] for j in sorted(rows)]))
            points = "  -" if rows[i]["points"] is None else f"{score.points:3}"
            print(f"{points} of {score.total}  {' '.join(filter(None, found[i][1:3]))}: "
                  f"{'; '.join([score.why, *rows[i]['notes']])}", flush=True)
    return int(any(row["points"] is None for row in rows.values()))


# --------------------------------------------------------------------------- the command line

class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ValueError(f"{message}; `python -m assignments --help` shows how")


def parser():
    """The command line's parser: a subcommand for each thing that can be done."""
    main = Parser(prog="python -m assignments", usage=__doc__, allow_abbrev=False)
    commands = main.add_subparsers(dest="what", parser_class=Parser)
    for name, run in (("show", show), ("check", check), ("hint", hint), ("start", start),
                      ("handout", handout), ("package", make_package), ("grade", grade_all)):
        one = commands.add_parser(name, usage=__doc__, allow_abbrev=False)
        one.set_defaults(run=run)
        in_a_copy = name in ("show", "check", "hint")
        one.add_argument("number", type=int, nargs="?" if in_a_copy else None)
        if name in ("start", "handout", "package"):
            one.add_argument("folder")
        if name == "package":
            one.add_argument("--for", dest="target", choices=package.TARGETS, required=True)
        if name == "grade":
            one.add_argument("paths", nargs="+")
            one.add_argument("--csv")
            one.add_argument("--json")
    return main


def command(argv):
    """Carry out one command line; ValueError on a mistake."""
    args, found = parser().parse_args(argv), assignments.load(ROOT)
    if not args.what:
        return show_list(found)
    number = state().get("assignment") if args.number is None else args.number
    if number not in found:
        raise ValueError(f"{args.what} {'without a number' if number is None else number}: choose "
                         f"an assignment from {min(found)} to {max(found)}")
    return args.run(found[number], args)


def main(argv=None):
    """The command line `argv`; a mistake is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):             # a console that lacks a letter of a name
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return command(argv) or 0
    except ValueError as e:
        print(f"assignments: {e}", file=sys.stderr)
    except BrokenPipeError:                     # of `| head`: nothing more can be said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 2


if __name__ == "__main__":
    sys.exit(main())
