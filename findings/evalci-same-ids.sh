#!/usr/bin/env bash
# evalci 0.1.0: `evalci compare a.json b.json` of two results of lm-evaluation-harness, here with
# two tasks of 40 and 20 questions. The harness numbers the questions of each task from 0.
# Expected: 60 pairs of answers. Model a has 12 of 60 more right, all in the small task: delta .2,
#           McNemar's exact p = .0005.
# Instead:  answers of different tasks with one number are averaged: 40 pairs, delta .15. McNemar's
#           test sees no answer that is half right, so p = 1. In Python compare on the two tables'
#           columns gives the right values.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile evalci==0.1.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3
cat > check.py <<'PY'
import json, re, subprocess
import evalci
from scipy.stats import binomtest

birth = [i % 2 for i in range(40)]                        # the same answers are right in both
works = {"a": [1] * 12 + [0] * 8, "b": [0] * 20}
for name in "ab":
    samples = {"birth": birth, "works": works[name]}
    with open(f"{name}.json", "w") as file:
        json.dump({"samples": {task: [{"doc_id": i, "acc": right} for i, right in enumerate(rows)]
                               for task, rows in samples.items()}}, file)

a, b = birth + works["a"], birth + works["b"]
p = binomtest(sum(x < y for x, y in zip(a, b)), sum(x != y for x, y in zip(a, b))).pvalue
delta = (sum(a) - sum(b)) / len(a)
print(f"by hand: delta {delta:.3f}, p = {p:.4f}, n = {len(a)}")

tables = [evalci.adapters.load_lm_eval_harness(f"{name}.json")["score"] for name in "ab"]
whole = evalci.compare(*tables, method="mcnemar")
print(f"evalci.compare of the columns: delta {whole.delta:.3f}, p = {whole.p_value:.4f}, "
      f"n = {whole.n}")
assert (round(whole.delta, 6), whole.p_value, whole.n) == (round(delta, 6), p, 60), whole

done = subprocess.run(["v/bin/evalci", "compare", "a.json", "b.json", "--method", "mcnemar"],
                      capture_output=True, text=True, check=True)
print("evalci compare a.json b.json:", done.stdout.strip())
found = re.search(r"=(\S+), 95% CI .* p=(\S+), n=(\d+)", done.stdout).groups()
assert found == ("0.150", "1", "40"), found
PY
v/bin/python check.py
