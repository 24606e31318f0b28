#!/usr/bin/env bash
# gradescope-utils 0.5.0: one partial_credit test, written once in a base class and run for two
# subclasses (one for each function that the student writes).
# Expected: a test that raises before set_score gets 0 of 5.
# Instead:  it is marked as failed and gets 5 of 5: the score of the subclass that ran before.
#           The decorator keeps the score on the shared function, and nothing resets it.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile gradescope-utils==0.5.0
v/bin/python - <<'PY'
import io, json, unittest
from gradescope_utils.autograder_utils.decorators import partial_credit
from gradescope_utils.autograder_utils.json_test_runner import JSONTestRunner

class Part:
    @partial_credit(5)
    def test_part(self, set_score=None):
        set_score(5 if self.student(3) == 9 else 0)

class TestA(Part, unittest.TestCase):
    def student(self, x):
        return x * x

class TestB(Part, unittest.TestCase):
    def student(self, x):
        raise NotImplementedError

def grade(*classes):
    Part.test_part.__score__ = None                # a fresh process would start like this
    out = io.StringIO()
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    JSONTestRunner(stream=out).run(unittest.TestSuite(map(load, classes)))
    tests = json.loads(out.getvalue())["tests"]
    return [(test["name"].split(".")[1], test["status"], test["score"]) for test in tests]

first, second = grade(TestA, TestB), grade(TestB, TestA)
print("A, then B:", first)
print("B, then A:", second)
assert first == [("TestA", "passed", 5), ("TestB", "failed", 5)], first
assert second[0] == ("TestB", "failed", 0), second
PY
