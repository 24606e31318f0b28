#!/usr/bin/env bash
# cleanllm 4.0.0: `cleanllm fix` of training rows in the messages form, with no option. Its manual:
# "remove URLs, normalize whitespace".
# Expected: blanks at the ends of lines go; code in an answer still runs.
# Instead:  the blanks at the beginning of each line go too, and with them Python's blocks: every
#           answer with an indented line is no longer Python. The report only counts
#           "modified_rows".
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile cleanllm==4.0.0
cat > check.py <<'PY'
import ast, json, subprocess

answers = ["def double(x):\n    return 2 * x", "for row in rows:\n    if row:\n        print(row)",
           "x = 1\ny = 2", "She wrote two novels."]
question = "Write it in Python, please."
with open("rows.jsonl", "w") as file:
    for number, answer in enumerate(answers):
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        file.write(json.dumps({"id": str(number), "messages": messages}) + "\n")
print(subprocess.check_output(["v/bin/cleanllm", "fix", "rows.jsonl", "-o", "fixed.jsonl"],
                              text=True))
fixed = [json.loads(line)["messages"][1]["content"] for line in open("fixed.jsonl")]

def runs(text):
    try:
        return bool(ast.parse(text))
    except SyntaxError:
        return False

for answer, new in zip(answers, fixed):
    print(f"{answer!r}\n    becomes {new!r}; Python before {runs(answer)}, after {runs(new)}")
assert fixed == ["\n".join(line.strip() for line in text.split("\n")) for text in answers], fixed
assert [runs(text) for text in answers] == [True, True, True, False]
assert [runs(text) for text in fixed] == [False, False, True, False]
PY
v/bin/python check.py
