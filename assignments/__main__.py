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
from assignments import blank, grade, package, recorder, submissions
from assignments.blank import ROOT

def state():
    """What a student's copy remembers: {"assignment": number, "part": folder, "points": ...,
    "hints": ...}; {} in the project itself."""
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


def start(a, folder):
    blank.start(a, folder, ROOT)
    first = os.path.join(folder, next(iter(a.points)))           # bug1, where there are bugs
    print(f"{folder}: assignment {a.number}, {a.title}. Go on with:\n"
          f"  cd {quoted(first)}\n  python -m assignments show")


def quoted(path):
    return f'"{path}"' if " " in path else path


def handout(a, folder):
    if os.path.lexists(folder + ".zip"):
        raise ValueError(f"{folder}.zip exists: give another name")
    start(a, folder)
    at, name = os.path.split(os.path.abspath(folder))
    print(f"The same as a file: {shutil.make_archive(folder, 'zip', at, name)}")


def own_copy(a, what):
    """What this student's copy remembers. ValueError unless it is one of that assignment."""
    kept = state()
    if kept.get("assignment") != a.number:
        where = f"a copy of assignment {kept['assignment']}" if kept else "no student's copy"
        raise ValueError(f"{what}: this is {where}: `python -m assignments start {a.number} DIR` "
                         f"makes one of assignment {a.number}; go on there")
    return kept


def remember(**facts):
    blank.write_text(ROOT, blank.STATE, json.dumps({**state(), **facts}) + "\n")


def check(a):
    """Grade this copy as the teacher does, and show each failure."""
    part = own_copy(a, "check")["part"]
    print(f"Checking {', '.join(a.files)}. This takes some ten seconds; an endless loop is stopped "
          f"after {recorder.CPU_LIMIT} s.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        blank.pristine(a, folder, ROOT)
        one = a._replace(points={"": a.points[part]})
        score = grade.score(one, ROOT, os.path.join(folder, part))
    for test, (got, of, lines) in score.tests.items() if score.status == "graded" else ():
        claim, *rest = lines if len(lines) > 1 else [
            test.partition("::test_")[2].replace("_", " "), *lines]
        print("\n         ".join([f"{got:2} of {of}  {claim}", *rest]))
    print("\n".join([*score.left_out, f"{score.points} of {score.total} points; {score.why}"]))
    remember(points=score.points)
    if score.status == "graded" and score.points < score.total:
        lost = next(test for test, (got, of, _) in score.tests.items() if got < of)
        print(f"The whole of the first failure: python -m pytest {lost}\n"
              "A hint: python -m assignments hint")


def hint(a):
    """Show the next hint, and remember that it was shown."""
    n = min(own_copy(a, "hint").get("hints", 0) + 1, len(a.hints))
    print(f"Hint {n} of {len(a.hints)}. {a.hints[n - 1].strip()}\n{len(a.hints) - n} left.")
    remember(hints=n)


def warn_of_syntax(a):
    for file in a.files:
        try:
            compile(blank.read_text(ROOT, file), file, "exec")
        except SyntaxError as e:
            print(f"assignments: {file}, line {e.lineno}: {e.msg}", file=sys.stderr)


def grade_all(a, paths, files):
    """Print a line a submission, and write the files {path: grade.as_csv or grade.as_json} after
    each. Returns the exit code: 1 if there was a submission without anything to grade."""
    rows = {}
    for path, form in files.items():                       # better now than after all grading
        grade.save(path, form(a, []))
    with tempfile.TemporaryDirectory() as scratch:
        found = submissions.find(paths, a, scratch)
        blank.pristine(a, os.path.join(scratch, "pristine"), ROOT)
        for i, score in grade.grade(a, [s.folder for s in found], os.path.join(scratch, "pristine")):
            rows[i] = found[i], score
            for path, form in files.items():
                grade.save(path, form(a, [rows[j] for j in sorted(rows)]))
            entry = grade.entries([rows[i]])[0]
            points = "  -" if entry["points"] is None else f"{score.points:3}"
            print(f"{points} of {score.total}  {' '.join(filter(None, found[i][1:3]))}: "
                  f"{'; '.join([score.why, *entry['notes']])}", flush=True)
    return int(any(score.status == "nothing to grade" for _, score in rows.values()))


def fail(message):
    raise ValueError(f"{message}; `python -m assignments --help` shows how")


def command(argv):
    parser = argparse.ArgumentParser(prog="python -m assignments", usage=__doc__,
                                     allow_abbrev=False)
    parser.add_argument("what", nargs="?", default="list", choices=(
        "list", "show", "start", "check", "hint", "handout", "grade", "package"))
    parser.add_argument("number", nargs="?", type=int)
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--csv")
    parser.add_argument("--json")
    parser.add_argument("--for", dest="target", choices=package.TARGETS)
    parser.error = fail
    args, found = parser.parse_intermixed_args(argv), assignments.load(ROOT)
    what, kept = args.what, state()
    if what == "list":
        return show_list(found)
    number = kept.get("assignment") if args.number is None else args.number
    if number not in found:
        fail(f"{what} {'without a number' if number is None else number}: choose an assignment "
             f"from {min(found)} to {max(found)}")
    a = found[number]
    if what == "grade":
        if not args.paths:
            fail(f"grade {number}: name the submissions after the number")
        return grade_all(a, args.paths, {path: form for path, form in (
            (args.csv, grade.as_csv), (args.json, grade.as_json)) if path})
    if len(args.paths) != (what in ("start", "handout", "package")):
        fail(f"{what} {number}: " + ("name one new folder after the number" if what in (
            "start", "handout", "package") else f"{' '.join(args.paths)} is too much"))
    if what == "package" and not args.target:
        fail(f"package {number}: add --for {' or --for '.join(package.TARGETS)}")
    if what == "package":
        return print(package.make(a, args.paths[0], args.target, ROOT))
    if what in ("start", "handout"):
        return {"start": start, "handout": handout}[what](a, args.paths[0])
    if what == "show":
        print(a.task.strip())
    else:
        {"check": check, "hint": hint}[what](a)
    if what != "check" and kept:
        warn_of_syntax(a)


def main(argv=None):
    for stream in (sys.stdout, sys.stderr):             # a console that lacks a letter of a name
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return command(argv) or 0
    except SyntaxError as e:
        print(f"assignments: {e.filename}, line {e.lineno}: {e.msg}", file=sys.stderr)
    except ValueError as e:
        print(f"assignments: {e}", file=sys.stderr)
    except BrokenPipeError:                     # of `| head`: nothing more can be said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 2


if __name__ == "__main__":
    sys.exit(main())
