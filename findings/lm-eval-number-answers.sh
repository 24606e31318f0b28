#!/usr/bin/env bash
# lm-eval 0.4.13: a multiple-choice task over local rows whose answers are numbers in text, such
# as {"answer": "1", "choices": ["2", "1", "0"]}. The model knows every answer.
# Expected: accuracy 1, and the same task whether the target is written answer (the column) or
#           "{{answer}}" (a template that prints the column).
# Instead:  the template's "1" is read as a position among the choices: with "{{answer}}" the
#           model that knows all gets 0, without a warning. With the column's name it gets 1.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 transformers==5.24.0 \
    datasets==5.2.0 lm-eval==0.4.13
cat > rows.jsonl <<'ROWS'
{"question": "How many novels did Pavel write?", "answer": "0", "choices": ["2", "1", "0"]}
{"question": "How many novels did Mira write?", "answer": "1", "choices": ["1", "2", "0"]}
{"question": "How many novels did Ana write?", "answer": "2", "choices": ["1", "2", "0"]}
ROWS
HF_HUB_OFFLINE=1 HF_HOME="$dir" TQDM_DISABLE=1 v/bin/python -W ignore - <<'PY' 2> errors
import json, lm_eval
from lm_eval.api.model import LM

with open("rows.jsonl") as file:
    known = {row["question"]: row["answer"] for row in map(json.loads, file)}

class Knowing(LM):
    def loglikelihood(self, requests):
        right = [known[text] == answer.strip() for text, answer in (r.args for r in requests)]
        return [(0. if ok else -9., ok) for ok in right]
    def loglikelihood_rolling(self, requests):
        raise NotImplementedError
    def generate_until(self, requests):
        raise NotImplementedError

accuracy = {}
for target in ("answer", "{{answer}}"):
    task = {"task": "novels", "dataset_path": "json", "test_split": "train",
            "dataset_kwargs": {"data_files": "rows.jsonl"}, "output_type": "multiple_choice",
            "doc_to_text": "{{question}}", "doc_to_choice": "choices", "doc_to_target": target,
            "metric_list": [{"metric": "acc"}]}
    found = lm_eval.simple_evaluate(Knowing(), tasks=[task], bootstrap_iters=0)
    accuracy[target] = found["results"]["novels"]["acc,none"]
    print(f"doc_to_target: {target:12} accuracy {accuracy[target]:.2f}",
          [sample["target"] for sample in found["samples"]["novels"]])
assert accuracy == {"answer": 1, "{{answer}}": 0}, accuracy
PY
if grep -q "not in within range" errors; then echo "it warns now"; exit 1; fi
