#!/usr/bin/env bash
# otter-grader 7.0.0: a question's points against the points of its test cases.
# Expected: .1 + .2 fit into a question of .3; a question of 5 points whose two cases say
#           1 point each is an error, or stays worth 5.
# Instead:  the first is refused ("More points ... than allowed": the sum is compared in floating
#           point), the second is worth 2 without a word. Points as a list of .1, .2 are taken.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile otter-grader==7.0.0
cat > question.py <<'TEST'
OK_FORMAT = True
test = {"name": "q1", "points": POINTS, "suites": [{"type": "doctest", "cases": [
    {"code": ">>> 1 + 1\n2", "hidden": False, "locked": False, **FIRST},
    {"code": ">>> 2 + 2\n4", "hidden": False, "locked": False, **SECOND}]}]}
TEST
v/bin/python - <<'PY'
from pathlib import Path
from otter.test_files.ok_test import OKTestFile

def worth(points, *cases):
    text = Path("question.py").read_text().replace("POINTS", repr(points))
    for name, case in zip(("FIRST", "SECOND"), cases):
        text = text.replace(name, repr({} if case is None else {"points": case}))
    Path("q1.py").write_text(text)
    try:
        test = OKTestFile.from_file("q1.py")
        test.run({})
        return test.score, test.possible
    except ValueError as error:
        return str(error)

rows = [(.5, .25, .25), (.3, .1, .2), ([.1, .2], None, None), (5, 1, None), (5, 1, 1)]
got = [worth(*row) for row in rows]
for row, result in zip(rows, got):
    print(f"question {row[0]}, cases {row[1:]}: {result}")
assert got[0] == (.5, .5) and "More points" in got[1], got
assert got[3] == (5., 5.) and got[4] == (2, 2), got
PY
