#!/usr/bin/env bash
# unitgrade 1.0.0.16 (numpy 2.4.6): a report grades a correct softmax, and six questions with three
# tests each, of which two pass.
# Expected: a grader does not change what the student's code computes; two thirds of the tests give
#           about two thirds of the points.
# Instead:  `import unitgrade` makes numpy raise an error where a number becomes too small:
#           exp(-800) is 0 before it and a FloatingPointError after it, so the softmax has 0 of 4
#           points. Each question is rounded down to whole points: six questions of 1 point give 0.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile numpy==2.4.6 unitgrade==1.0.0.16
cat > report.py <<'PY'
import unittest
import numpy

def softmax(logits):
    exps = numpy.exp(logits - logits.max())
    return exps / exps.sum()

def right():
    try:
        return softmax(numpy.array([0., -800.])).tolist() == [1., 0.]
    except FloatingPointError as error:
        return str(error)

before = right()
from unitgrade import Report
from unitgrade.evaluate import evaluate_report

class Softmax(unittest.TestCase):
    def test_sure(self):
        self.assertEqual(softmax(numpy.array([0., -800.]))[0], 1)

def question(number):
    class Question(unittest.TestCase):
        def test_a(self): self.assertTrue(True)
        def test_b(self): self.assertTrue(True)
        def test_c(self): self.assertTrue(False)
    Question.__name__ = Question.__qualname__ = f"Question{number}"
    return Question

class Work(Report):
    title = "Work"
    questions = [(Softmax, 4)] + [(question(number), 1) for number in range(6)]
    pack_imports = []

results, table = evaluate_report(Work(), show_progress_bar=False, generate_artifacts=False)
print("softmax right before the import:", before, "  after it:", right())
for line in table:
    print(*line)
assert before is True and right() == "underflow encountered in exp", (before, right())
assert results["total"] == (0, 10), results["total"]
assert [line[1] for line in table] == ["0/4"] + ["0/1"] * 6 + ["0/10"], table
PY
v/bin/python report.py > printed
tail -9 printed
