#!/usr/bin/env bash
# tokenizers 0.23.3 and tiktoken 0.14.0: byte-level BPE whose vocabulary lacks a byte, as published
# models' do (of SmolLM2's 256 bytes 21 are missing, among them six control characters).
# Expected: the encoding is refused when it is made, or a text with such a byte ends in an ordinary
#           error; tokenizers has an unknown token for words.
# Instead:  tokenizers drops the byte without a word ("a\x04b" comes back as "ab"); tiktoken makes
#           the encoding, then panics at the text: no `except Exception` catches that.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile tokenizers==0.23.3 tiktoken==0.14.0
RUST_BACKTRACE=0 v/bin/python - <<'PY'
import tiktoken
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

text = "a\x04b"
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
letters.remove("Ą")                                   # how byte 4 is written
fast = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
back = fast.decode(fast.encode(text).ids)
print(f"tokenizers  {text!r} comes back as {back!r}, tokens {fast.encode(text).tokens}")

ranks = {bytes([byte]): byte for byte in range(256) if byte != 4}
encoding = tiktoken.Encoding("x", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={})
try:
    encoding.encode_ordinary(text)
    ended = None
except BaseException as e:
    ended = type(e)
print(f"tiktoken    {text!r} ends in {ended.__name__}, an Exception: {issubclass(ended, Exception)}")
assert back == "ab" and not issubclass(ended, Exception)
PY
