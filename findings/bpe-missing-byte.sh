#!/usr/bin/env bash
# tokenizers 0.23.3: byte-level BPE whose vocabulary lacks a byte, as published models' do (of
# SmolLM2's 256 bytes 21 are missing, among them six control characters).
# Expected: a text with such a byte ends in an error, or the byte comes back as an unknown token.
# Instead:  the byte is dropped without a word ("a\x04b" comes back as "ab").
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile tokenizers==0.23.3
v/bin/python - <<'PY'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

text = "a\x04b"
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
letters.remove("Ą")                                   # how byte 4 is written
fast = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
back = fast.decode(fast.encode(text).ids)
print(f"tokenizers  {text!r} comes back as {back!r}, tokens {fast.encode(text).tokens}")
assert back == "ab"
PY
