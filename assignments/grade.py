"""The shipped tests as graders: a submission's points, test by test.

Each submission runs in a process of its own, in a pristine copy of the project that gets the
student's functions (merge.bring). The process has limits on time, memory and files (recorder.py);
what it prints is thrown away. A test that did not run has 0 of its points.

This stops accidents and cheap tricks: endless loops, exits, printed results, edited tests, changed
functions of pytest or torch. It is no sandbox: the submission has the rights of whoever grades.
"""
import csv
import io
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from secrets import token_hex
from typing import NamedTuple

from assignments import blank, recorder

CPU_LIMIT = 20           # seconds of computing a submission: an endless loop ends here
TIME_LIMIT = 100         # seconds, however busy the machine is
SIDE_BY_SIDE = 2
PRELOAD = ["torch", "numpy", "matplotlib.figure", "tiktoken", "pytest"]


class Score(NamedTuple):
    """A submission's points. tests: {test id: (points, of, at most four lines)}."""
    tests: dict
    status: str         # "graded", "not begun", "broken", "stopped" or "nothing to grade"
    why: str            # one line
    left_out: list      # what does not count, a line each

    @property
    def points(self):
        return sum(points for points, _, _ in self.tests.values())

    @property
    def total(self):
        return sum(of for _, of, _ in self.tests.values())


# --------------------------------------------------------------------------- processes

def context():
    """How processes are started. Where the system can fork, torch is imported once: each process is
    forked from a clean one that has imported it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(PRELOAD)
    return forks


def grade(a, folders, root, cpu=CPU_LIMIT):
    """Yield (i, Score of folders[i]) as they end. folders: where the students' files are, "" where
    there are none; root: the project, or a copy of it, to be graded with."""
    with tempfile.TemporaryDirectory() as pristine, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        blank.pristine(a, pristine, root)
        try:
            futures = {pool.submit(score, a, folder, pristine, cpu): i
                       for i, folder in enumerate(folders)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:                                     # interrupted: what runs is ended
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                if process.name == "submission":
                    process.kill()


def score(a, folder, pristine, cpu=CPU_LIMIT):
    """The Score of one submission. The folders of an assignment, bug1, ..., count together.
    pristine: what blank.pristine made."""
    parts = {}
    for part, points in a.points.items():
        parts[part] = judge(points, *run(os.path.join(folder, part), os.path.join(pristine, part),
                                         a.functions, points, cpu)
                            if folder else ([], ""))
    if not folder:
        why = f"nothing to grade: no {' or '.join(a.files)} found"
        return together(parts)._replace(status="nothing to grade", why=why)
    return together(parts)


def run(student, pristine, functions, points, cpu):
    """(records, how it ended): what the process of one folder reported."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        report = os.path.join(folder, token_hex(16))
        root = shutil.copytree(pristine, os.path.join(folder, "project"))
        process = context().Process(target=recorder.run, name="submission", daemon=True,
                                    args=(student, root, functions, list(points), report, cpu))
        process.start()
        process.join(TIME_LIMIT)
        late = process.is_alive()
        try:
            os.killpg(process.pid, signal.SIGKILL)         # what it started as well
        except (AttributeError, ProcessLookupError, PermissionError):     # Windows; over already
            process.kill()
        process.join()
        records = []
        if os.path.exists(report):
            with open(report, encoding="utf-8", errors="replace") as f:
                records = [json.loads(line) for line in f if line.endswith("}\n")]
    if late:
        return records, f"stopped after {TIME_LIMIT} s"
    if hasattr(signal, "SIGXCPU") and process.exitcode == -signal.SIGXCPU:
        return records, f"stopped after {cpu} s of computing"
    return records, f"the process ended, exit code {process.exitcode}"


# --------------------------------------------------------------------------- points

def judge(points, records, ended):
    """The Score that the records of a process give, which ended as `ended` says."""
    facts = {k: v for record in records for k, v in record.items()}
    cases = {record["test"]: record["lines"] for record in records if "lines" in record}
    collected, tests = facts.get("collected", []), {}
    cases = {} if "changed" in facts else cases
    for test, of in points.items():
        mine = [c for c in collected if c == test or c.startswith(test + "[")]
        failed = [lines for lines in (cases.get(c, ["did not run"]) for c in mine) if lines]
        right = mine and not failed
        tests[test] = of if right else 0, of, [] if right else (failed or [["did not run"]])[0]
    status, why = verdict(facts, not collected or set(collected) - set(cases), ended)
    passed = f"{sum(got > 0 for got, _, _ in tests.values())} of {len(tests)} tests passed"
    if status in ("graded", "stopped"):
        why = f"{why}; {passed}" if why else passed
    return Score(tests, status, why, facts.get("left_out", []))


def verdict(facts, unfinished, ended):
    """(status, what went wrong, in one line, or "")."""
    if "broken" in facts:
        return "broken", facts["broken"]
    if "end" not in facts:
        return "stopped", f"{ended}, in {facts['begin']}" if "begin" in facts else ended
    if "changed" in facts:
        return "graded", f"changed {facts['changed']}: no test counts"
    if facts["none_begun"]:
        return "not begun", "not begun: all is as it was handed out"
    if unfinished:
        return "stopped", f"the tests were stopped in {facts.get('begin', 'the import')}"
    return "graded", f"blank: {', '.join(facts['untouched'])}" if facts["untouched"] else ""


def together(parts):
    """One Score of the Scores of an assignment's folders: {folder: Score}."""
    if list(parts) == [""]:
        return parts[""]
    statuses = {score.status for score in parts.values()}
    return Score({f"{part} {test}": points for part, score in parts.items()
                  for test, points in score.tests.items()},
                 statuses.pop() if len(statuses) == 1 else "graded",
                 "; ".join(f"{part}: {score.why}" for part, score in parts.items()),
                 [f"{part}/{line}" for part, score in parts.items() for line in score.left_out])


# --------------------------------------------------------------------------- files

def entry(who, score):
    """A Submission and its Score as a dict. points: None, not 0, if there was nothing to grade."""
    return {"student": who.student, "id": who.id, "path": who.path, "status": score.status,
            "points": None if score.status == "nothing to grade" else score.points,
            "of": score.total, "why": score.why, "notes": [who.note] * bool(who.note) +
            score.left_out, "tests": [{"name": name, "points": got, "of": of, "lines": lines}
                                      for name, (got, of, lines) in score.tests.items()]}


def as_csv(a, entries):
    """A table: a line a submission, the points of each test behind the rest."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["student", "id", "status", "points", "of", "why", *(
        f"{part} {test}".strip() for part, tests in a.points.items() for test in tests)])
    for e in entries:
        writer.writerow([e["student"], e["id"], e["status"], e["points"], e["of"],
                         "; ".join([e["why"], *e["notes"]]),
                         *("" if e["points"] is None else t["points"] for t in e["tests"])])
    return out.getvalue()


def as_json(a, entries):
    """The same with the lines on each failed test; one shape however many there are."""
    found = {"assignment": a.number, "of": a.total, "submissions": entries}
    return json.dumps(found, indent=1) + "\n"


def save(path, text):
    """Write a whole file or none. ValueError if that can't be done."""
    try:
        with open(path + ".part", "w", encoding="utf-8", errors="backslashreplace") as f:
            f.write(text)
        os.replace(path + ".part", path)
    except OSError as e:
        raise ValueError(f"{path} can't be written: {e.strerror}") from e
