"""Packages: what Gradescope and Classroom 50 need to grade an assignment, and what runs in them.

A package holds the copy that students get, packed, and no model answer. In the container

    python -m assignments.package gradescope | classroom50 SUBMISSION RESULT

grades one submission and writes the result as that service wants it. The formats:
https://gradescope-autograders.readthedocs.io/en/latest/specs/ and foundation50/classroom50's wiki,
"Advanced Autograding".
"""
import json
import os
import re
import shutil
import sys
import tempfile

import assignments
from assignments import blank, grade, submissions
from assignments.blank import ROOT

TARGETS = {"gradescope": ("UPLOAD.txt", "run_autograder", "setup.sh"),      # and its files in HERE
           "classroom50": ("UPLOAD.txt", "autograder.py", "runtime.json")}
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "packages")


def make(a, folder, target, root=ROOT):
    """Make `folder` the package. Returns what to say. ValueError as blank.start."""
    slug = f"ngdiff-{a.number:02}"
    blank.refuse_used(folder)
    own = os.path.join(folder, *(("autograders", slug) if target == "classroom50" else ("source",)))
    blank.start(a, os.path.join(own, "project"), root)
    for part in a.points:                         # what the tests need is packed: blank.PRISTINE
        for top in ("README.md", "assets", "docs", "experiments", "harness", "tests", "theory"):
            at = os.path.join(own, "project", part, top)
            os.remove(at) if os.path.isfile(at) else shutil.rmtree(at, ignore_errors=True)
    for name in TARGETS[target]:
        text = blank.read_text(os.path.join(HERE, target), name)
        for key, value in (("SLUG", slug), ("TITLE", a.title), ("POINTS", a.total), ("N", a.number),
                           ("FILES", " ".join(a.files)), ("FIRST", next(iter(a.points)))):
            text = text.replace(f"@{key}@", str(value))
        at = folder if name == "UPLOAD.txt" else own
        blank.write_text(at, name, text)
        os.chmod(os.path.join(at, name), 0o755)
    if target == "gradescope":
        nothing = grade.score(a, "", "")
        blank.write_text(own, "not-graded.json", gradescope(nothing._replace(
            why="The grader did not come to its end. Hand in again, or tell your teacher.")))
        shutil.make_archive(os.path.join(folder, "autograder"), "zip", own)
        shutil.rmtree(own)
    return f"{folder}: open {os.path.join(folder, 'UPLOAD.txt')} and do what it says"


def gradescope(score):
    """results.json. No score at the top: it would override the tests' sum."""
    return json.dumps({
        "output": "\n".join([score.why, *score.left_out]), "output_format": "text",
        "tests": [{"name": name, "score": got, "max_score": of, "visibility": "visible",
                   "status": "passed" if got else "failed", "output": "\n".join(lines),
                   "output_format": "text"} for name, (got, of, lines) in score.tests.items()]},
        indent=1) + "\n"


def classroom50(score, told):
    """result.json; told: the runner's environment. Hyphens, and whole numbers."""
    values = {name.partition("_")[0].lower(): told[name] for name in (
        "CLASSROOM", "ASSIGNMENT", "SUBMISSION_TAG", "COMMIT_URL", "RELEASE_URL")}
    return json.dumps({
        "schema": "classroom50/result/v1", **values,
        "review": told.get("REVIEW_URL") or told["COMMIT_URL"],
        "score": score.points, "max-score": score.total,
        "tests": [{"test-name": name, "passed": got > 0, "score": got, "max-score": of}
                  for name, (got, of, _) in score.tests.items()]}, indent=1) + "\n"


def release_body(score):
    """What the student reads on the release page: Markdown."""
    text = "\n".join([score.why, *score.left_out, ""] + [
        "\n    ".join([f"{got} of {of}  {name.rpartition('::')[2]}", *lines])
        for name, (got, of, lines) in score.tests.items()])
    fence = "`" * (2 + max([1, *map(len, re.findall("`+", text))]))
    return f"**{score.points} of {score.total} points**\n\n{fence}text\n{text}\n{fence}\n"


def main(target, submission, result):
    """In a package, on the target's machine: grade `submission`, write `result` in its form."""
    with open(os.path.join(ROOT, blank.STATE), encoding="utf-8") as f:
        a = assignments.load()[json.load(f)["assignment"]]
    with tempfile.TemporaryDirectory() as scratch:
        found = submissions.find([submission], a, scratch)[0]
        (_, score), = grade.grade(a, [found.folder], ROOT)
    score.left_out[:0] = [found.note] if found.note else []
    grade.save(result, gradescope(score) if target == "gradescope" else
               classroom50(score, os.environ))
    if target == "classroom50":
        grade.save(os.path.join(os.path.dirname(result), "release-body.md"), release_body(score))


if __name__ == "__main__":
    main(*sys.argv[1:])
