#!/usr/bin/env bash
# transformers 5.24.0 with gguf 0.19.0: the tokenizer of a GGUF file whose tokenizer.ggml.pre is
# "smollm" (SmolLM cuts every digit off before the merges).
# Expected: "1932" becomes four tokens, as with "qwen2" and with the tokenizer that was written.
# Instead:  "smollm" is read as plain GPT-2: digits are merged, other ids reach the model, and
#           nothing warns.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 transformers==5.24.0 gguf==0.19.0
v/bin/python - <<'PY'
import gguf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

vocab = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "19", "32", "in", "Ġin"]
merges = [("1", "9"), ("3", "2"), ("i", "n"), ("Ġ", "in")]
source = Tokenizer(models.BPE({token: i for i, token in enumerate(vocab)}, merges))
source.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Digits(individual_digits=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False)])

def load(pre):
    file = gguf.GGUFWriter("t.gguf", "llama")
    file.add_context_length(64); file.add_embedding_length(64); file.add_block_count(1)
    file.add_feed_forward_length(64); file.add_head_count(4); file.add_vocab_size(len(vocab))
    file.add_tokenizer_model("gpt2"); file.add_tokenizer_pre(pre); file.add_token_list(vocab)
    file.add_token_types([3] + [1] * (len(vocab) - 1))
    file.add_token_merges([" ".join(pair) for pair in merges])
    file.add_bos_token_id(0); file.add_eos_token_id(0)
    file.write_header_to_file(); file.write_kv_data_to_file(); file.write_tensors_to_file()
    file.close()
    return AutoTokenizer.from_pretrained(".", gguf_file="t.gguf")

text = "in 1932"
got = {"written": source.encode(text).tokens}
got |= {pre: load(pre).tokenize(text) for pre in ("smollm", "qwen2", "gpt-2")}
for name, tokens in got.items():
    print(f"{name:8} {tokens}")
assert got["qwen2"] == got["written"] == ["in", "Ġ", "1", "9", "3", "2"], got
assert got["smollm"] == got["gpt-2"] != got["written"], got
PY
