#!/usr/bin/env bash
# ftml-cli 0.1.0: ftml convert, "from any format to any format", of a file with rows in Alpaca's and
# in OpenAI's form, and of a conversation with two questions.
# Expected: each row in its own form, or a message for a row that does not fit; no turn is lost.
# Instead:  the first row decides. Each row of the other form is written as an empty question with
#           an empty answer and counted as converted. In Alpaca's form only the first question and
#           answer of a conversation are left. No line says so.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile ftml-cli==0.1.0
cat > mixed.jsonl <<'ROWS'
{"instruction": "When was Ann Berg born?", "input": "", "output": "In 1958."}
{"messages": [{"role": "user", "content": "Who wrote Ida?"}, {"role": "assistant", "content": "Leo."}]}
ROWS
cat > turns.jsonl <<'ROWS'
{"conversations": [{"from": "human", "value": "Who wrote Ida?"}, {"from": "gpt", "value": "Leo."}, {"from": "human", "value": "When?"}, {"from": "gpt", "value": "In 1958."}]}
ROWS
export NO_COLOR=1 COLUMNS=100
v/bin/ftml convert mixed.jsonl --to openai-chat -o mixed.out
v/bin/ftml convert turns.jsonl --to alpaca -o turns.out
cat mixed.out turns.out
v/bin/python - <<'PY'
import json
mixed = [json.loads(line)["messages"] for line in open("mixed.out")]
turns = [json.loads(line) for line in open("turns.out")]
assert [[turn["content"] for turn in row] for row in mixed] == [
    ["When was Ann Berg born?", "In 1958."], ["", ""]], mixed
assert [row["output"] for row in turns] == ["Leo."] and "When?" not in str(turns), turns
PY
