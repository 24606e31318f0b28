#!/usr/bin/env bash
# transformers 5.24.0 with gguf 0.19.0: a Llama GGUF file that says how its positions are scaled,
# either by the keys llama.rope.scaling.* (linear, factor 4) or by the tensor rope_freqs.weight
# (as files of Llama 3.1 and later do).
# Expected: the loaded model scales its positions, or the loader says that it can't.
# Instead:  both are passed over in silence; the frequencies are those of an unscaled model.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 transformers==5.24.0 gguf==0.19.0
TQDM_DISABLE=1 v/bin/python - <<'PY'
import gguf, numpy, torch
from transformers import AutoModelForCausalLM

def write(path, linear=False, factors=None):
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(64); file.add_embedding_length(64); file.add_block_count(1)
    file.add_feed_forward_length(64); file.add_head_count(4); file.add_head_count_kv(4)
    file.add_layer_norm_rms_eps(1e-5); file.add_rope_freq_base(1e4); file.add_vocab_size(32)
    file.add_rope_dimension_count(16)
    if linear:
        file.add_rope_scaling_type(gguf.RopeScalingType.LINEAR); file.add_rope_scaling_factor(4.)
    draw = numpy.random.default_rng(0)
    shapes = {"token_embd": (32, 64), "output": (32, 64), "output_norm": (64,)}
    shapes |= {f"blk.0.{name}": (64, 64) for name in (
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")}
    shapes |= {"blk.0.attn_norm": (64,), "blk.0.ffn_norm": (64,)}
    for name, shape in shapes.items():
        file.add_tensor(name + ".weight", draw.standard_normal(shape).astype("float32"))
    if factors is not None:
        file.add_tensor("rope_freqs.weight", factors)
    file.write_header_to_file(); file.write_kv_data_to_file(); file.write_tensors_to_file()
    file.close()

def load(**scaling):
    write("m.gguf", **scaling)
    model = AutoModelForCausalLM.from_pretrained(".", gguf_file="m.gguf")
    print(scaling, model.config.rope_parameters, "frequencies", model.model.rotary_emb.inv_freq[:3])
    with torch.no_grad():
        return model(torch.arange(32)[None]).logits

plain = load()
linear, tensor = load(linear=True), load(factors=numpy.full(8, 4, "float32"))
print("logits equal to those without scaling:", torch.equal(plain, linear), torch.equal(plain, tensor))
assert torch.equal(plain, linear) and torch.equal(plain, tensor)
PY
