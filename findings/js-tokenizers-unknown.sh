#!/usr/bin/env bash
# @huggingface/tokenizers 0.2.0 (npm) and tokenizers 0.23.3 (PyPI): one tokenizer.json, WordLevel
# model with unk_token "[UNK]", Whitespace pre-tokenizer.
# Expected: the same ids from both; an unknown word gets the id of [UNK].
# Instead:  the npm package keeps the unknown word as a token and gives it no id (undefined), and it
#           cuts a known word at every accented letter.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile tokenizers==0.23.3
npm install --silent --no-fund --no-audit @huggingface/tokenizers@0.2.0 >/dev/null
cat > encode.mjs <<'JS'
import { Tokenizer } from "@huggingface/tokenizers";
import fs from "fs";
const tokenizer = new Tokenizer(JSON.parse(fs.readFileSync("tokenizer.json")), {});
const texts = JSON.parse(fs.readFileSync("texts.json"));
console.log(JSON.stringify(texts.map((text) => tokenizer.encode(text).ids)));
JS
v/bin/python - <<'PY'
import json, subprocess
from tokenizers import Tokenizer, models, pre_tokenizers

vocab = {word: i for i, word in enumerate(["[UNK]", "she", "wrote", "a", "résumé", "."])}
tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.save("tokenizer.json")
texts = ["she wrote a.", "she wrote novels.", "she wrote a résumé."]
json.dump(texts, open("texts.json", "w"))
other = json.loads(subprocess.check_output(["node", "encode.mjs"]))
mine = [tokenizer.encode(text).ids for text in texts]
for text, ids, theirs in zip(texts, mine, other):
    print(f"{text:22} tokenizers {ids}  npm {theirs}")
assert other[0] == mine[0] == [1, 2, 3, 5]
assert mine[1] == [1, 2, 0, 5] and other[1] == [1, 2, None, 5], other
assert mine[2] == [1, 2, 3, 4, 5] and None in other[2] and len(other[2]) > 5, other
PY
