"""Everything about the assignments that takes minutes. Exit code 1 if something is wrong.

    python -m tests.wrong_answers answers     every variant of the code, every wrong answer
    python -m tests.wrong_answers grader      the real grader: shipped full, blank 0; then 77 edits
                                              of right work, in which check must equal grade
    python -m tests.wrong_answers packages    both packages, four submissions each: seconds, memory
    python -m tests.wrong_answers class       100 submissions of assignment 2: seconds
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import assignments  # noqa: E402
import wrong_answers  # noqa: E402
from assignments import blank, grade, package  # noqa: E402
from wrong_answers.edits import edits  # noqa: E402


def answers(scratch):
    found = assignments.load()
    outcomes = wrong_answers.outcomes(found, False, scratch / "outcomes.json")
    for n, a in found.items():
        print(f"{n:2}: {len(outcomes[n])} variants")
        yield from (f"{n}: {line}" for line in wrong_answers.faults(a, outcomes[n]))


def right(a, folder):
    """A folder with the shipped files, as a student would hand them in."""
    for part in a.points:
        (folder / part).mkdir(parents=True)
        for file in a.files:
            shutil.copyfile(ROOT / file, folder / part / file)
    return str(folder)


def grader(scratch):
    n_edits = 0
    for n, a in assignments.load().items():
        at = scratch / str(n)
        pristine = str(at / "pristine")
        blank.pristine(a, pristine)
        whole, none = (score for _, score in sorted(grade.grade(
            a, [right(a, at / "right"), pristine], pristine)))
        print(f"{n:2}: shipped {whole.points} of {whole.total}, blank {none.points} "
              f"({none.status})", flush=True)
        if (whole.points, none.points, whole.left_out) != (a.total, 0, []):
            yield f"{n}: {whole}, {none}"
        if not a.bugs:
            n_edits += (yield from edited(a, at, pristine)) or 0
    print(f"{n_edits} edits")


def edited(a, at, pristine):
    """Every third edit of each assignment's file, handed in and checked in a copy."""
    file, path, _ = blank.place(a.functions[0])
    method = path if len(path) == 2 and path[0] == "Attention" else None
    some = list(edits(blank.read_text(str(ROOT), file), path, method).items())
    some = [edit for i, edit in enumerate(some)
            if i % 3 == a.number % 3 or edit[0] == "a class's __init__"]
    folders = []
    for i, (name, (source, _)) in enumerate(some):
        for kind in ("alone", "copy", "whole"):     # handed in; in a copy; as pytest has it
            folder = at / f"{kind}{i}"
            shutil.copytree(pristine, folder) if kind == "copy" else folder.mkdir()
            (folder / file).write_text(source, encoding="utf-8", newline="")
            folders.append(str(folder))
    scores = dict(grade.grade(a, folders, pristine))
    as_pytest = dict(grade.grade(a._replace(functions=[file]), folders[2::3], pristine))
    for i, (name, (_, must_keep)) in enumerate(some):
        alone, check = scores[3 * i], scores[3 * i + 1]
        if as_pytest[i].points != a.total:
            yield f"{a.number}: {name}: pytest does not accept it: {as_pytest[i].why}"
        lost = alone.points < a.total and (must_keep or not alone.left_out)
        if lost or (alone.points, alone.left_out) != (check.points, check.left_out):
            yield f"{a.number}: {name}: {alone.points}, {check.points} of {a.total}, {alone.why}"
    return len(some)


LOOP = "    while True: pass\n"


def packages(scratch):
    a = assignments.load()[2]
    shipped = (ROOT / "ngdiff.py").read_text()
    blanks = blank.changes(a, "")["ngdiff.py"]
    body = "    for g_R, g_F in zip(grad_retain, grad_forget):\n        g_R.mul_(a)"
    assert shipped.count(body) == 1
    for target in package.TARGETS:
        made = scratch / target
        package.make(a, str(made), target)
        if target == "gradescope":
            with zipfile.ZipFile(made / "autograder.zip") as z:
                z.extractall(made / "source")
            shutil.copy(made / "source" / "run_autograder", made)
            python = made / "venv" / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
            python.chmod(0o755)
        for name, source, points in (("right", shipped, a.total), ("blank", blanks, 0),
                                     ("broken", shipped.replace("def direction(", "def x"), 0),
                                     ("looping", shipped.replace(body, LOOP + body), 0)):
            own = made / "submission" if target == "gradescope" else made / name
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir()
            (own / "ngdiff.py").write_text(source)
            command = ["bash", made / "run_autograder"] if target == "gradescope" else \
                [sys.executable, made / "autograders" / "ngdiff-02" / "autograder.py"]
            env = {**os.environ, **dict.fromkeys((
                "CLASSROOM", "ASSIGNMENT", "SUBMISSION_TAG", "COMMIT_URL", "RELEASE_URL"), "x")}
            started, peak = time.monotonic(), 0
            process = subprocess.Popen(command, cwd=own, env=env, start_new_session=True)
            while process.poll() is None:
                peak = max(peak, memory(process.pid))
                time.sleep(0.05)
            result = own / "result.json"
            if target == "gradescope":
                result = made / "results" / "results.json"
            found = sum(test["score"] for test in json.loads(result.read_text())["tests"])
            print(f"{target}: {name} {found} of {a.total}, {time.monotonic() - started:.0f} s, "
                  f"{peak / 2**20:.0f} MB", flush=True)
            if found != points and name != "looping" or process.returncode:
                yield f"{target}: {name}: {found} points, exit code {process.returncode}"


def memory(pid):
    """Bytes of a process and of those that it started, shared ones counted once (Linux)."""
    total, waiting = 0, [pid]
    while waiting:
        at = Path("/proc", str(waiting.pop()))
        try:
            text = (at / "smaps_rollup").read_text()
            total += int(text.partition("\nPss:")[2].split()[0]) * 1024
            waiting += (at / "task" / at.name / "children").read_text().split()
        except (OSError, IndexError):
            continue                                  # it has just ended
    return total


def of_100(scratch):
    """30 right, 20 blank, 30 wrong, 20 that are broken, loop, exit or print."""
    a = assignments.load()[2]
    pristine = str(scratch / "pristine")
    blank.pristine(a, pristine)
    shipped, blanks = (ROOT / "ngdiff.py").read_text(), (Path(pristine) / "ngdiff.py").read_text()
    head = '    # The minus sign of forgetting'
    sources = [shipped] * 30 + [blanks] * 20
    wrong = wrong_answers.wrong_answers(2)
    sources += [blank.replaced(shipped, wrong[i % len(wrong)]) for i in range(30)]
    for i in range(20):
        hostile = ("while True: pass", "import os; os._exit(0)", "exit()", "x = ",
                   "print('10 passed'); return", "bytearray(2**34)")[i % 6]
        sources.append(shipped.replace(head, f"    {hostile}\n{head}"))
    folders = []
    for i, source in enumerate(sources):
        folders.append(str(scratch / str(i)))
        os.mkdir(folders[-1])
        (scratch / str(i) / "ngdiff.py").write_text(source)
    started = time.monotonic()
    scores = dict(grade.grade(a, folders, pristine))
    print(f"100 submissions: {time.monotonic() - started:.0f} s")
    if [scores[i].points for i in range(50)] != [a.total] * 30 + [0] * 20 or \
            any(scores[i].points == a.total for i in range(50, 100)):
        yield "of 100 submissions some right ones lack points, or some wrong ones have all"


def main(names):
    found, steps = [], {"answers": answers, "grader": grader, "packages": packages, "class": of_100}
    if not set(names) <= set(steps):
        sys.exit(__doc__)
    for name in names or steps:
        with tempfile.TemporaryDirectory() as scratch:
            for line in steps[name](Path(scratch)):
                print("NOT AS IT MUST BE:", line, flush=True)
                found.append(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
