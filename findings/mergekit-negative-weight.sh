#!/usr/bin/env bash
# mergekit 0.1.5 (transformers 5.24.0): a negated task vector, the baseline that unlearns by
# arithmetic. The model that was tuned on the forget rows is merged with weight -1.
# Expected: base - (tuned - base), with every method; methods that drop small changes point the
#           same way.
# Instead:  ties, della and sce move the model towards what it should forget; ties gives the same
#           bits as with weight 1. The first two divide by the sum of the weights, and -1 / -1 is
#           1 (normalize: false stops that); sce never reads the weight.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 transformers==5.24.0 mergekit==0.1.5
HF_HUB_OFFLINE=1 TQDM_DISABLE=1 v/bin/python -W ignore - <<'PY' 2> /dev/null
import os, torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from transformers import LlamaConfig, LlamaForCausalLM

here = os.getcwd()
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, max_position_embeddings=32))
model.save_pretrained(f"{here}/base")
with torch.no_grad():
    for p in model.parameters():
        p.add_(.01 * torch.randn_like(p))
model.save_pretrained(f"{here}/tuned")

def weights(name):
    state = LlamaForCausalLM.from_pretrained(f"{here}/{name}").state_dict()
    return torch.cat([state[key].flatten() for key in sorted(state)])

def merged(method, weight, **more):
    parameters = {"weight": weight} | ({"density": .5} if method in ("ties", "della") else {})
    run_merge(MergeConfiguration.model_validate({
        "merge_method": method, "base_model": f"{here}/base", "dtype": "float32",
        "parameters": more, "models": [{"model": f"{here}/tuned", "parameters": parameters}]}),
        f"{here}/out", MergeOptions(write_model_card=False, copy_tokenizer=False))
    return weights("out")

base = weights("base")
task = weights("tuned") - base

def cosine(method, **more):
    moved = merged(method, -1., **more) - base
    return round(float(moved @ task / moved.norm() / task.norm()), 2)

got = {method: cosine(method) for method in ("task_arithmetic", "ties", "della", "sce")}
got["ties, normalize: false"] = cosine("ties", normalize=False)
same = torch.equal(merged("ties", -1.), merged("ties", 1.))
print("weight -1: cosine of what was added with the task vector (-1 expected):", got)
print("ties with weight -1 and with 1: the same bits", same)
assert got["task_arithmetic"] == -1 and got["ties, normalize: false"] < -.9 and same, got
assert min(got[method] for method in ("ties", "della", "sce")) > .7, got
PY
