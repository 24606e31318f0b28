#!/usr/bin/env bash
# transformers 5.24.0 with gguf 0.19.0: a SentencePiece-style tokenizer in a GGUF file that says
# tokenizer.ggml.add_space_prefix = false.
# Expected: no space is put before the text (add_bos_token = false, beside it, is obeyed).
# Instead:  a space is put before it all the same, so the first token is another one.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 transformers==5.24.0 gguf==0.19.0 \
    sentencepiece==0.2.3
v/bin/python - <<'PY'
import gguf
from transformers import AutoTokenizer

PIECES = [("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3)]        # piece, score, type
PIECES += [(f"<0x{byte:02X}>", 0, 6) for byte in range(256)]
PIECES += [("▁", -20, 1), ("▁no", -3, 1), ("no", -2, 1), ("n", -21, 1), ("o", -22, 1)]

def load(prefix, bos):
    file = gguf.GGUFWriter("t.gguf", "llama")
    file.add_context_length(64); file.add_embedding_length(64); file.add_block_count(1)
    file.add_feed_forward_length(64); file.add_head_count(4); file.add_vocab_size(len(PIECES))
    pieces, scores, types = zip(*PIECES)
    file.add_tokenizer_model("llama"); file.add_token_list(pieces)
    file.add_token_scores([float(score) for score in scores]); file.add_token_types(types)
    file.add_unk_token_id(0); file.add_bos_token_id(1); file.add_eos_token_id(2)
    file.add_add_space_prefix(prefix); file.add_add_bos_token(bos)
    file.write_header_to_file(); file.write_kv_data_to_file(); file.write_tensors_to_file()
    file.close()
    tokenizer = AutoTokenizer.from_pretrained(".", gguf_file="t.gguf")
    return tokenizer.convert_ids_to_tokens(tokenizer("no").input_ids)

got = {(prefix, bos): load(prefix, bos) for prefix in (True, False) for bos in (True, False)}
for (prefix, bos), tokens in got.items():
    print(f"add_space_prefix {prefix!s:5} add_bos_token {bos!s:5} {tokens}")
assert got[True, True] == got[False, True] == ["<s>", "▁no"], got
assert got[True, False] == got[False, False] == ["▁no"], got
PY
