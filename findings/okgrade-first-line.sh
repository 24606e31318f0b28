#!/usr/bin/env bash
# okgrade 0.4.3 (ipython 9.18.1): ok tests, as the retired okpy service ran them. Each has one
# case of one or two doctest lines; the student's mean returns 0 for every list.
# Expected: a case counts as passed if all of its lines pass.
# Instead:  it counts as passed unless all of its lines fail: with an import before the check, the
#           wrong function gets "All tests passed!" and the full grade.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile okgrade==0.4.3 ipython==9.18.1
v/bin/python - <<'PY'
from okgrade.grader import grade

CASES = {"check": ">>> mean([1, 2, 6]) == 3\nTrue\n",
         "import, check": ">>> import math\n>>> math.isclose(mean([1, 2, 6]), 3)\nTrue\n",
         "two checks": ">>> mean([1, 2, 6]) == 3\nTrue\n>>> mean([0, 0]) == 0\nTrue\n"}
STUDENTS = {"right": lambda values: sum(values) / len(values), "wrong": lambda values: 0}
grades = {}
for name, code in CASES.items():
    with open("test.py", "w") as file:
        file.write(f"test = {dict(name=name, points=1, suites=[dict(cases=[dict(code=code)])])}")
    for student, mean in STUDENTS.items():
        found = grade("test.py", {"mean": mean})
        grades[name, student] = found.grade
        print(f"{name:14} {student}: grade {found.grade:.0f}, {found.get_summary().splitlines()[0]}")
assert all(grades[name, "right"] == 1 for name in CASES), grades
assert [grades[name, "wrong"] for name in CASES] == [0, 1, 1], grades
PY
