#!/usr/bin/env bash
# autograder-gen 0.1.2: a generated Gradescope autograder with function tests; each function of the
# student's returns one number. strict_float is left at its default, false.
# Expected: a whole number must be right; of a float the last digits may differ.
# Instead:  a number may be off by a ten-thousandth of it or by .0001, whole or not: 50256 passes
#           for 50257 (GPT-2's vocabulary), 0 for a p-value of 3e-05. In a list every digit must
#           agree: [.1 + .2] fails for [.3].
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile autograder-gen==0.1.2 gradescope-utils==0.5.0
mkdir work
cat > work/answers.py <<'STUDENT'
def vocabulary(): return 50256
def tokens(): return 99
def p_value(): return 0.0
def mean(): return .1 + .2
def means(): return [.1 + .2]
STUDENT
v/bin/python - <<'PY'
from autograder_gen.autograder_run import AutograderRun

expected = {"vocabulary": 50257, "tokens": 100, "p_value": 3e-05, "mean": .3, "means": [.3]}
questions = [{"name": str(number), "marking_items": [
    {"type": "function_test", "name": name, "target_file": "answers.py", "function_name": name,
     "total_mark": 1, "test_cases": [{"args": [], "expected": value}]}]}
    for number, (name, value) in enumerate(expected.items(), 1)]
config = {"language": "python", "required_files": ["answers.py"], "questions": questions}
result = AutograderRun(config, save_log=False).run_autograder_for_submission("work")
scores = {}
for test, (name, value) in zip(sorted(result["tests"], key=lambda t: str(t["number"])),
                               expected.items()):
    scores[name] = test["score"]
    returned = test["output"].split("Actual output:")[1].split("\n")[1]
    print(f"{name:11} expected {value!s:8} returned {returned:23} score {test['score']}")
assert list(scores.values()) == [1, 0, 1, 1, 0], scores
PY
