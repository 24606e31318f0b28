#!/usr/bin/env bash
# datacruxai 0.4.0: check_contamination of training rows with a list of holdout questions.
# Expected: a row that holds a holdout question word for word is flagged.
# Instead:  only if the question has 8 words or more (ngram_size). A shorter one is kept as one
#           piece, and no longer row has such a piece: "When was Ann Berg born?" is never found.
#           Rows made of the package's own ten TruthfulQA questions: 6 are flagged.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile datacruxai==0.4.0 xxhash==4.1.0
v/bin/python - <<'PY'
from datacruxai import Example, check_contamination
from datacruxai.contamination import _BUILTIN_BENCHMARKS as own

short = [f"When was {name} born?" for name in ("Ann Berg", "Leo Park", "Ida Moss")]
long = [f"In which year and in which town was {name} born?" for name in ("Ann Berg", "Leo Park")]
cases = {"5 words": short, "11 words": long}
cases |= {f"built in: {name}": own[name] for name in ("truthfulqa", "gsm8k", "mmlu")}
found = {}
for name, questions in cases.items():
    rows = [Example(instruction=question, output="It was in 1958, they say.")
            for question in questions]
    report = check_contamination(rows, {"holdout": questions})
    found[name] = report.total_flagged, report.total_checked
    print(f"{name:20} flagged {report.total_flagged} of {report.total_checked} rows")
assert list(found.values()) == [(0, 3), (2, 2), (6, 10), (7, 10), (8, 10)], found
PY
