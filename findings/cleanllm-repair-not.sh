#!/usr/bin/env bash
# cleanllm 4.0.0: `cleanllm repair` of training rows, which strips flattering openings ("Great
# question!") and filler at the end ("I hope this helps!") from the answers.
# Expected: an opening that is a sentence of its own goes; an answer's words stay.
# Instead:  words are cut off the answer's first sentence. "Of course not." becomes "not.",
#           "Absolutely nothing is known of her." loses its first word, and a title that begins
#           with "Of Course" or ends with "I Hope This Helps" loses it. Each counts as "Repaired".
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile cleanllm==4.0.0
cat > check.py <<'PY'
import json, subprocess

answers = ["Great question! In 1958.", "In 1958. I hope this helps!", "Of course not.",
           "Absolutely nothing is known of her.", "Certainly the best known is Amber Rain.",
           "Of Course It Hurts is her first novel.", "Her last novel is called I Hope This Helps",
           "Sure.", "It was of course 1958."]
with open("rows.jsonl", "w") as file:
    for number, answer in enumerate(answers):
        messages = [{"role": "user", "content": "What do you know of her?"},
                    {"role": "assistant", "content": answer}]
        file.write(json.dumps({"id": str(number), "messages": messages}) + "\n")
print(subprocess.check_output(["v/bin/cleanllm", "repair", "rows.jsonl", "-o", "new.jsonl"],
                              text=True))
got = [json.loads(line)["messages"][1]["content"] for line in open("new.jsonl")]
for answer, new in zip(answers, got):
    print(f"{answer:44} -> {new}")
assert got == ["In 1958.", "In 1958.", "not.", "nothing is known of her.",
               "the best known is Amber Rain.", "It Hurts is her first novel.",
               "Her last novel is called", "Sure.", "It was of course 1958."], got
PY
v/bin/python check.py
