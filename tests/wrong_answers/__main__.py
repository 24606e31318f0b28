"""The slow checks (minutes): every variant of the code, every wrong answer, the real grader on the
shipped code and on the blank. Exit code 1 if something is not as it must be.

    python -m tests.wrong_answers [N ...]      all assignments, or those with these numbers
"""
import shutil
import sys
import tempfile
from pathlib import Path

import assignments
from assignments import blank, grade
from tests import wrong_answers


def graded(a, scratch):
    """What the real grader does not give as it must: all points to the shipped code, 0 to the
    blank."""
    right, pristine = scratch / "right", scratch / "pristine"
    blank.pristine(a, str(pristine))
    for part in a.points:
        (right / part).mkdir(parents=True)
        for file in a.files:
            shutil.copyfile(Path(blank.ROOT, file), right / part / file)
    scores = dict(grade.grade(a, [str(right), str(pristine)], blank.ROOT))
    points = [scores[i].points for i in (0, 1)]
    return [] if points == [a.total, 0] and not scores[0].left_out else [str(scores)]


def main(numbers):
    found = assignments.load()
    found = {n: found[n] for n in map(int, numbers or found)}
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = wrong_answers.outcomes(found, False)
        faults = []
        for n, a in found.items():
            some = wrong_answers.faults(a, outcomes[n]) + graded(a, Path(scratch) / str(n))
            print(f"{n:2}: {len(outcomes[n])} variants", *some, sep="\nNOT AS IT MUST BE: ")
            faults += some
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
