#!/usr/bin/env bash
# pytorch-optimizer 4.1.0 (torch 2.13.0): maximize=True, the switch for gradient ascent.
# Expected: the same steps, bit for bit, as with the negated gradient.
# Instead:  true for all optimizers tried but Adan. It keeps the previous gradient with the
#           other sign, so the difference of two gradients becomes a sum: a gradient that
#           never changes gives another path.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 pytorch-optimizer==4.1.0
v/bin/python - <<'PY'
import torch
import pytorch_optimizer

def path(name, maximize, gradients):
    weight = torch.nn.Parameter(torch.tensor([1.]))
    optimizer = getattr(pytorch_optimizer, name)([weight], lr=.01, maximize=maximize)
    places = []
    for gradient in gradients:
        weight.grad = torch.tensor([gradient if maximize else -gradient])
        optimizer.step()
        places.append(round(weight.item(), 5))
    return places

same = []
for name in ("Adan", "AdaBelief", "Lion", "Tiger", "AdEMAMix", "StableAdamW"):
    ascent, negated = (path(name, up, [1.] * 5) for up in (True, False))
    same.append(ascent == negated)
    print(f"{name:12} maximize=True {ascent}  negated gradient {negated}")
assert same == [False, True, True, True, True, True], same
PY
