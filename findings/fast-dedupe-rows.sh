#!/usr/bin/env bash
# fast-dedupe 0.1.1 (rapidfuzz 2.15.2): dedupe of a list of answers. One is there twice, with and
# without a full stop.
# Expected: the second of the two goes, every other row stays, however many rows there are.
# Instead:  the copy stays and the row right behind the first one goes, though it says something
#           else: a match's rank is taken for its place. Among more than 1,000 rows no near copy
#           goes at all.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile fast-dedupe==0.1.1 rapidfuzz==2.15.2
cat > check.py <<'PY'
import random
from fastdedupe import dedupe

if __name__ == "__main__":                           # more than 1,000 rows start processes
    rows = ["She wrote two novels.", "Born in Kuwait in 1958.", "A florist's son.",
            "She wrote two novels"]
    kept, copies = dedupe(rows)
    print("of ", rows, "\nkept", kept, "\ncopies", copies)
    assert kept == [rows[0], rows[2], rows[3]] and copies == {rows[0]: [rows[3]]}, (kept, copies)
    beside, _ = dedupe([rows[0], rows[3], rows[1], rows[2]])
    print("with the two side by side:", beside)
    assert beside == rows[:3], beside

    random.seed(0)
    texts = ["".join(random.choices("abcdefghij ", k=40)) for _ in range(501)]
    counts = {}
    for n in (500, 501):
        pairs = [text + end for text in texts[:n] for end in ("", ".")]
        counts[len(pairs)] = len(dedupe(pairs)[0])
    print("rows in pairs, side by side: rows kept", counts)
    assert counts == {1000: 500, 1002: 1002}, counts
PY
v/bin/python check.py
