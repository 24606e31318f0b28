#!/usr/bin/env bash
# concadptr 0.2.0 (peft 0.21.2): merge_adapters(method="linear"), a "weighted average" of two LoRA
# adapters, loaded again by PeftModel.from_pretrained.
# Expected: with weights 0 and 1 the second adapter; with .5 and .5 the mean of the two changes.
# Instead:  the first adapter's config is written for both: an adapter of lora_alpha 32 behind one
#           of 8 comes back a quarter as strong. A and B are averaged apart, so the mean of two
#           adapters points elsewhere (cosine .73 here).
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 transformers==5.24.0 datasets==5.2.0 \
    accelerate==1.15.0 peft==0.21.2 concadptr==0.2.0
HF_HUB_OFFLINE=1 TQDM_DISABLE=1 v/bin/python -W ignore - <<'PY' 2> /dev/null
import copy, torch
from concadptr.merging import merge_adapters
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
base = LlamaForCausalLM(LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, max_position_embeddings=32))

def make(name, alpha):
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(copy.deepcopy(base), config)
    for key, weight in model.named_parameters():
        if "lora_" in key:
            weight.data.normal_(0, .3)
    model.save_pretrained(name)

def change(name):
    model = PeftModel.from_pretrained(copy.deepcopy(base), name).merge_and_unload()
    pairs = zip(model.parameters(), base.parameters())
    return torch.cat([(new - old).flatten() for new, old in pairs]).detach()

make("a8", 8), make("b8", 8), make("b32", 32)
found = {}
for first, second, weights in (("a8", "b8", (0., 1.)), ("a8", "b32", (0., 1.)),
                               ("b32", "a8", (1., 0.)), ("a8", "b8", (.5, .5))):
    merge_adapters({"1": first, "2": second}, "merged", weights=list(weights))
    got = change("merged")
    want = weights[0] * change(first) + weights[1] * change(second)
    size, cosine = got.norm() / want.norm(), got @ want / (got.norm() * want.norm())
    found[first, second, weights[0]] = round(float(size), 3), round(float(cosine), 3)
    print(f"{weights[0]} x {first:3} + {weights[1]} x {second:3}: size / expected size {size:.3f}, "
          f"cosine with the expected change {cosine:.3f}")
sizes, cosines = zip(*found.values())
assert sizes[:3] == (1., .25, 1.) and cosines[:3] == (1., 1., 1.) and cosines[3] < .9, found
PY
