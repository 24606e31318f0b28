"""The shipped tests as graders: a submission's points, test by test.

Each submission runs in a process of its own, in a copy of the project that holds the student's
functions and nothing else of theirs (blank.merged). The process has a time limit, a memory limit
and a limit on what it writes to a file; what it prints is thrown away. It reports through a file of
random name, each line behind a random word. A test that did not run has 0 of its points.

What this stops: endless loops, exits, printed results, edited tests, changed functions of pytest or
torch, reading another copy of the project. What it does not stop: somebody who means to break out.
Student and grader share one process and one user's rights, so an attack can forge a report or read
the teacher's files. For a class that you do not trust, grade in a container without network.
"""
import csv
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.connection import wait
from secrets import token_hex
from typing import NamedTuple

from assignments import blank, recorder
from assignments.blank import ROOT

TIME_LIMIT = 100         # seconds a submission, however busy the machine is; see CPU_LIMIT too
SIDE_BY_SIDE = 2


class Job(NamedTuple):
    """What one process is to do."""
    name: str           # what to call the submission
    student: str        # the folder with the student's files; "": test the project as it is
    root: str           # the project. With a student, a copy of it is tested
    functions: list     # of the assignment, as in its file
    points: dict        # {test id: points}


class Score(NamedTuple):
    """A submission's points. tests: {test id: (points, of, three lines or fewer)}."""
    name: str
    tests: dict
    why: str            # one line

    @property
    def points(self):
        return sum(points for points, _, _ in self.tests.values())

    @property
    def total(self):
        return sum(of for _, of, _ in self.tests.values())


# --------------------------------------------------------------------------- processes

def context():
    """How processes are started. Where the system can fork, torch is imported once: each process is
    a fork of one that has it, and that has run nothing yet."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["torch", "numpy", "pytest", "tiktoken", "matplotlib.figure"])
    return forks


class Running:
    """A job's process, its folder and its report."""

    def __init__(self, job, time_limit):
        self.job, self.time_limit = job, time_limit
        self.folder, self.word = tempfile.mkdtemp(), token_hex(16)
        self.report = os.path.join(self.folder, token_hex(16))
        if job.student:
            job = job._replace(root=os.path.join(self.folder, "project"))
            for file in blank.project_files(self.job.root):
                target = os.path.join(job.root, file)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copyfile(os.path.join(self.job.root, file), target)
        self.process = context().Process(target=recorder.run, daemon=True,
                                       args=(job._asdict(), self.report, self.word))
        self.process.start()
        self.deadline = time.monotonic() + time_limit

    def end(self):
        """(the job's Score, whether its process said all it had to say), once the process has ended
        or its time is over."""
        late = self.process.is_alive()
        self.kill()
        busy = hasattr(signal, "SIGXCPU") and self.process.exitcode == -signal.SIGXCPU
        records = []
        if os.path.exists(self.report):
            with open(self.report, encoding="utf-8", errors="replace") as f:
                records = [json.loads(line[len(self.word):]) for line in f
                           if line.startswith(self.word) and line.endswith("\n")]
        why = f"stopped after {self.time_limit:g} s" if late else \
            f"stopped after {recorder.CPU_LIMIT} s of computing" if busy else \
            f"the process ended, exit code {self.process.exitcode}"
        self.clean()
        score = judge(self.job, records, why)
        return score, late or busy or any("end" in r or "broken" in r for r in records)

    def kill(self):
        """End the process and what it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (AttributeError, ProcessLookupError, PermissionError):     # Windows; over already
            self.process.kill()
        self.process.join()

    def clean(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def scores(jobs, time_limit=TIME_LIMIT, side_by_side=SIDE_BY_SIDE):
    """Yield (i, Score) of the jobs as they end. A process that ended in the middle may have been
    killed by the one beside it, so it gets a second run, alone."""
    waiting, running, again = list(enumerate(jobs)), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                i, job = waiting.pop(0)
                running[i] = Running(job, time_limit)
            first = min(r.deadline for r in running.values())
            wait([r.process.sentinel for r in running.values()], max(0, first - time.monotonic()))
            for i, r in list(running.items()):
                if not r.process.is_alive() or time.monotonic() >= r.deadline:
                    score, complete = running.pop(i).end()
                    if complete or side_by_side == 1:
                        yield i, score
                    else:
                        again.append(i)
    finally:
        for r in running.values():
            r.kill(), r.clean()
    for i in again:
        for _, score in scores([jobs[i]], time_limit, 1):
            yield i, score


# --------------------------------------------------------------------------- points

def judge(job, records, why_ended):
    """The Score that a process's records give."""
    facts = {k: v for record in records for k, v in record.items()}
    cases = {record["test"]: record for record in records if "passed" in record}
    collected = [test for record in records for test in record.get("collected", ())]
    tests = {}
    for test, of in job.points.items():
        mine = [c for c in collected if c == test or c.startswith(test + "[")]
        ran = [cases.get(c, {"passed": False, "lines": ["did not run"]}) for c in mine]
        failed = next((c for c in ran if not c["passed"]), None)
        right = bool(ran) and failed is None
        lines = [] if right else failed["lines"] if failed else ["did not run"]
        tests[test] = (of if right else 0, of, lines)
    n_passed = sum(points > 0 for points, _, _ in tests.values())
    score = Score(job.name, tests, f"{n_passed} of {len(tests)} tests passed")
    stopped = not collected or any(test not in cases for test in collected)
    return score._replace(why=reason(score.why, facts, stopped, why_ended))


def reason(why, facts, stopped, why_ended):
    """One line on a submission: what went wrong, or how many tests passed."""
    blanks, notes = facts.get("blanks", []), facts.get("notes", [])
    if "broken" in facts:
        why = facts["broken"]
    elif "end" not in facts:
        why = f"{why_ended}, in {facts['begin']}" if "begin" in facts else why_ended
    elif "changed" in facts:
        why = f"changed {facts['changed']}: that test and all later ones count 0"
    elif blanks:
        why = "not begun: every function is blank" if facts["all_blank"] else \
            f"{why}; blank: {', '.join(blanks)}"
    elif stopped:
        why = f"the tests were stopped in {facts.get('begin', 'the import')}; {why}"
    return "; ".join([why] + notes)[:300]


# --------------------------------------------------------------------------- a class

def jobs_of(a, folders):
    """The Jobs of those submissions, part by part."""
    for folder in folders:
        for part, points in a.points.items():
            functions = a.functions or [blank.around(a.bugs[int(part[3:]) - 1], ROOT)]
            yield Job(folder, os.path.join(folder, part), ROOT, functions, points)


def grade(a, folders):
    """Yield (i, Score of folders[i]) as they end. The parts of an assignment count together."""
    n, found = len(a.points), {}
    names = [f"{part} {test}".strip() for part, tests in a.points.items() for test in tests]
    for job, score in scores(list(jobs_of(a, folders))):
        found[job], i = score, job // n
        if all(i * n + j in found for j in range(n)):
            parts = [found[i * n + j] for j in range(n)]
            tests = [test for score in parts for test in score.tests.values()]
            why = "; ".join(f"{part}: {score.why}" if part else score.why
                            for part, score in zip(a.points, parts))
            yield i, Score(folders[i], dict(zip(names, tests)), why)


def write_csv(path, found):
    """One line a submission: points, why, then the points of each test."""
    with open(path, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["submission", "points", "of", "why", *found[0].tests])
        for score in found:
            writer.writerow([score.name, score.points, score.total, score.why,
                             *(points for points, _, _ in score.tests.values())])


def write_json(path, found):
    """Gradescope's results.json if there is one submission, else {submission: results.json}. GitHub
    Classroom's shape is in its extra_data."""
    results = {score.name: gradescope(score) for score in found}
    with open(path, "w", encoding="utf-8") as f:
        json.dump(results if len(found) > 1 else results[found[0].name], f, indent=1)


def gradescope(score):
    """https://gradescope-autograders.readthedocs.io/en/latest/specs/, "Output format"."""
    return {"score": score.points, "output": score.why,
            "tests": [{"name": name, "score": points, "max_score": of, "output": "\n".join(lines)}
                      for name, (points, of, lines) in score.tests.items()],
            "extra_data": {"classroom": classroom(score)}}


def classroom(score):
    """What a step of GitHub Classroom's autograding hands, in base64, to its reporter
    (github-education-resources/autograding-grading-reporter)."""
    return {"version": 1, "status": "pass" if score.points == score.total else "fail",
            "max_score": score.total,
            "tests": [{"name": name, "status": "pass" if points else "fail", "score": points,
                       "max_score": of, "message": "\n".join(lines) or None}
                      for name, (points, of, lines) in score.tests.items()]}
