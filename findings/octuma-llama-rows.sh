#!/usr/bin/env bash
# octuma 0.1.5 (transformers 5.24.0, gguf 0.19.0): a small Llama and a small Qwen2, with random
# weights, are quantised to 4 bits and written by export_gguf.
# Expected: the GGUF file, read back, gives the quantised model's logits, up to 16-bit scales.
# Instead:  Qwen2's does. Llama's gives other logits altogether: GGUF wants the rows of each head's
#           query and key matrix in pairs (row 0, row half, row 1, ...), and they are not reordered.
#           The reader undoes an order that is not there. Sizes and names are right; nothing warns.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 transformers==5.24.0 gguf==0.19.0 \
    accelerate==1.15.0 octuma==0.1.5
HF_HUB_OFFLINE=1 TQDM_DISABLE=1 v/bin/python -W ignore - <<'PY'
import json
import torch
from octuma.calibrate import CalibrationSet
from octuma.export.gguf_export import export_gguf
from octuma.quantizer import QuantConfig, quantize_model
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

heads, size = 4, 128
with open("tokenizer.json", "w") as file:                           # the exporter asks for one
    json.dump({"model": {"vocab": {f"w{i}": i for i in range(64)}, "merges": []}}, file)
shape = dict(vocab_size=64, hidden_size=size, intermediate_size=size, num_hidden_layers=2,
             num_attention_heads=heads, num_key_value_heads=2, max_position_embeddings=64,
             tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, initializer_range=.2)
ids = torch.arange(8 * 24).reshape(8, 24) * 37 % 64
found = {}
for name, config in (("qwen2", Qwen2Config), ("llama", LlamaConfig)):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**shape)).eval()
    quantize_model(model, CalibrationSet([ids], 24, "random"), QuantConfig(method="rtn", awq=False))
    export_gguf(model, f"{name}.gguf", ".")
    back = AutoModelForCausalLM.from_pretrained(".", gguf_file=f"{name}.gguf").eval()
    with torch.no_grad():
        logits, read = model(ids).logits, back(ids).logits
    want = model.model.layers[0].self_attn.q_proj.dequantized_weight()
    got = back.model.layers[0].self_attn.q_proj.weight.detach()
    undone = want.view(heads, -1, 2, size).transpose(1, 2).reshape(size, size)
    close = [torch.allclose(got, rows, atol=1e-3) for rows in (want, undone)]
    found[name] = float((read - logits).norm() / logits.norm()), close
    print(f"{name}: logits from the file are off by {found[name][0]:.3f} of their size; rows of "
          f"the query matrix as in the model: {close[0]}, reordered: {close[1]}")
assert found["qwen2"][0] < .01 and found["qwen2"][1] == [True, False], found
assert found["llama"][0] > .5 and found["llama"][1] == [False, True], found
PY
