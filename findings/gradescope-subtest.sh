#!/usr/bin/env bash
# gradescope-utils 0.5.0: weighted unittest tests with subTest, skip and expectedFailure.
# Expected: a test whose subTest fails is listed with 0 of 2 points; so is a skipped one.
# Instead:  such tests are missing from the results. No 0 is written and no maximum, so the
#           student's report shows a full score for the tests that are left.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile gradescope-utils==0.5.0
v/bin/python - <<'PY'
import io, json, unittest
from gradescope_utils.autograder_utils.decorators import weight
from gradescope_utils.autograder_utils.json_test_runner import JSONTestRunner

class Grade(unittest.TestCase):
    @weight(1)
    def test_plain_pass(self):
        pass

    @weight(2)
    def test_plain_fail(self):
        self.fail("no answer")

    @weight(2)
    def test_sub(self):
        for row in range(3):
            with self.subTest(row=row):
                self.assertNotEqual(row, 1)

    @weight(2)
    @unittest.skip("needs an accelerator")
    def test_skip(self):
        pass

    @weight(2)
    @unittest.expectedFailure
    def test_xfail(self):
        self.fail("a known fault")

out = io.StringIO()
result = JSONTestRunner(stream=out).run(unittest.defaultTestLoader.loadTestsFromTestCase(Grade))
report = json.loads(out.getvalue())
print("tests run:", result.testsRun, " failed sub-tests known to unittest:",
      sum("row=" in str(test) for test, _ in result.failures))
for test in report["tests"]:
    print(test["name"].split()[0], test["score"], "of", test["max_score"])
print("score:", report["score"])
names = sorted(test["name"].split()[0] for test in report["tests"])
assert result.testsRun == 5 and names == ["test_plain_fail", "test_plain_pass"], names
PY
