#!/usr/bin/env bash
# transformers 5.24.0 with gguf 0.19.0: three things that a Llama GGUF file says: how positions
# are scaled (keys llama.rope.scaling.*, or the tensor rope_freqs.weight as in files of Llama
# 3.1 and later), and tokenizer.ggml.add_space_prefix = false.
# Expected: all are obeyed, or the loader says that it can't. (add_bos_token is obeyed.)
# Instead:  all three are passed over in silence: the logits are those of an unscaled model, and
#           a space is put before the text, so its first token is another one.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 transformers==5.24.0 gguf==0.19.0 \
    sentencepiece==0.2.3 accelerate==1.15.0
TQDM_DISABLE=1 v/bin/python - <<'PY'
import gguf, numpy, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PIECES = [("<unk>", 0., 2), ("<s>", 0., 3), ("</s>", 0., 3)]        # piece, score, type
PIECES += [(f"<0x{byte:02X}>", 0., 6) for byte in range(256)]
PIECES += [("▁", -20., 1), ("▁no", -3., 1), ("no", -2., 1), ("n", -21., 1), ("o", -22., 1)]

def load(linear=False, factors=None, prefix=True, bos=True):
    file = gguf.GGUFWriter("m.gguf", "llama")
    file.add_context_length(64); file.add_embedding_length(64); file.add_block_count(1)
    file.add_feed_forward_length(64); file.add_head_count(4); file.add_head_count_kv(4)
    file.add_layer_norm_rms_eps(1e-5); file.add_rope_freq_base(1e4)
    file.add_rope_dimension_count(16); file.add_vocab_size(len(PIECES))
    if linear:
        file.add_rope_scaling_type(gguf.RopeScalingType.LINEAR); file.add_rope_scaling_factor(4.)
    pieces, scores, types = zip(*PIECES)
    file.add_tokenizer_model("llama"); file.add_token_list(pieces); file.add_token_scores(scores)
    file.add_token_types(types); file.add_unk_token_id(0); file.add_bos_token_id(1)
    file.add_eos_token_id(2); file.add_add_space_prefix(prefix); file.add_add_bos_token(bos)
    draw = numpy.random.default_rng(0)
    shapes = dict.fromkeys(("token_embd", "output"), (len(PIECES), 64))
    shapes |= dict.fromkeys(("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"), (64,))
    shapes |= {f"blk.0.{name}": (64, 64) for name in (
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")}
    for name, shape in shapes.items():
        file.add_tensor(name + ".weight", draw.standard_normal(shape).astype("float32"))
    if factors is not None:
        file.add_tensor("rope_freqs.weight", factors)
    file.write_header_to_file(); file.write_kv_data_to_file(); file.write_tensors_to_file()
    file.close()
    model = AutoModelForCausalLM.from_pretrained(".", gguf_file="m.gguf")
    tokenizer = AutoTokenizer.from_pretrained(".", gguf_file="m.gguf")
    with torch.no_grad():
        return model(torch.arange(32)[None]).logits, tokenizer("no").tokens()

plain, tokens = load()
linear, bare = load(linear=True, prefix=False)
tensor, no_bos = load(factors=numpy.full(8, 4, "float32"), bos=False)
print("logits as without scaling: keys", torch.equal(plain, linear),
      " tensor", torch.equal(plain, tensor))
print("tokens of 'no':", tokens, " add_space_prefix false:", bare, " add_bos_token false:", no_bos)
assert torch.equal(plain, linear) and torch.equal(plain, tensor)
assert tokens == bare == ["<s>", "▁no"] and no_bos == ["▁no"], (tokens, bare, no_bos)
PY
