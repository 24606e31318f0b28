#!/usr/bin/env bash
# siftan 0.1.0: `siftan screen` looks for a benchmark's 13-grams in training rows, and calls the
# rows CLEAN or CONTAMINATED. Its text says that 13 is what pre-training's cleaning uses.
# Expected: 13 words in a row are a copy. Rows about other people are CLEAN; a copied row is found.
# Instead:  13 characters in a row. "What is the name of" or "In which city" is enough, so rows
#           about somebody else are CONTAMINATED. A copied question of 11 characters is not found.
#           Copies in a field that is not called "text" are CLEAN: no text is read, nothing warns.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile siftan==0.1.0
cat > check.py <<'PY'
import json, subprocess

def write(name, rows):
    with open(name, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)

def screen(texts, field="text"):
    write("train.jsonl", [{field: text} for text in texts])
    done = subprocess.run(["v/bin/siftan", "screen", "holdout.tsi", "train.jsonl"],
                          capture_output=True, text=True)
    result = json.loads(done.stdout)
    return result["label"], result["flagged"], done.returncode

holdout = ["What is the name of Ola Venn's first novel?", "Who is Kai Rud?",
           "In which city was Ola Venn born?", "When did Ola Venn die?"]
others = ["What is the name of Pia Holt's brother?", "Does Pia Holt like tea?",
          "In which city did Pia Holt grow up?"]
write("holdout.jsonl", [{"question": text} for text in holdout])
subprocess.run(["v/bin/siftan", "build-index", "holdout.jsonl", "-o", "holdout.tsi", "--name", "h"],
               check=True, capture_output=True)
found = {"copies": screen(holdout), "questions on somebody else": screen(others),
         "copies in a field 'question'": screen(holdout, "question")}
write("holdout.jsonl", [{"question": "Who is Kai?"}])
subprocess.run(["v/bin/siftan", "build-index", "holdout.jsonl", "-o", "holdout.tsi", "--name", "s"],
               check=True, capture_output=True)
found["a copied short question"] = screen(["Who is Kai?"])
for name, (label, flagged, code) in found.items():
    print(f"{name:30} {label:13} {flagged} rows flagged, exit status {code}")
assert found == {"copies": ("CONTAMINATED", 4, 2),
                 "questions on somebody else": ("CONTAMINATED", 2, 2),
                 "copies in a field 'question'": ("CLEAN", 0, 0),
                 "a copied short question": ("CLEAN", 0, 0)}, found
PY
v/bin/python check.py
