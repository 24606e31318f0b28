#!/usr/bin/env bash
# ckptkit 0.3.0: diff of two checkpoints, to "see what changed during fine-tuning".
# Expected: a tensor with other numbers is a change; the report even has a sign for it.
# Instead:  only names, shapes and number types are compared. A model and one with all its weights
#           negated have 2 identical tensors of 2 and 0 changes, in Python and on the command line.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile 'ckptkit[safetensors,cli]==0.3.0' safetensors==0.8.0 numpy==2.4.6
v/bin/python - <<'PY'
import numpy
from ckptkit import diff
from safetensors.numpy import save_file

draw = numpy.random.default_rng(0)
target = {name: draw.standard_normal((9, 4)) for name in ("wte.weight", "lm_head.weight")}
models = {"target": target, "negated": {name: -w for name, w in target.items()},
          "half": {name: w.astype(numpy.float16) for name, w in target.items()}}
for name, weights in models.items():
    save_file(weights, f"{name}.safetensors")
found = {}
for name in models:
    result = diff("target.safetensors", f"{name}.safetensors")
    found[name] = result.n_identical, result.n_changes
    print(f"target and {name:8} {result.n_identical} of {result.n_shared} tensors identical, "
          f"{result.n_changes} changes")
assert found == {"target": (2, 0), "negated": (2, 0), "half": (0, 2)}, found
PY
v/bin/ckptkit diff target.safetensors negated.safetensors | tee printed
grep -q "Identical: 2  Changes: 0" printed
