#!/usr/bin/env bash
# jiwer 4.0.0: word error rate of texts that differ in a line break or a tab only, and of an
# empty reference.
# Expected: 0 for the first two (white space parts words), an error or 1 for the last.
# Instead:  only a blank parts words: "in Paris\nin 1932" holds the word "Paris\nin". With an empty
#           reference the rate is the number of words that were said: 3 of 0 is 3.0.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile jiwer==4.0.0
v/bin/python - <<'PY'
import jiwer

pairs = {"two blanks": ("in Paris in 1932", "in  Paris in 1932"),
         "line break": ("in Paris in 1932", "in Paris\nin 1932"),
         "tab": ("in Paris", "in\tParis"),
         "empty reference": ("", "in Paris then")}
rates = {name: jiwer.wer(*pair) for name, pair in pairs.items()}
for name, rate in rates.items():
    print(f"{name:16} {rate}")
print("words seen:", jiwer.process_words(*pairs["line break"]).hypotheses)
assert rates == {"two blanks": 0, "line break": .5, "tab": 1, "empty reference": 3}, rates
PY
