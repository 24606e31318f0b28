#!/usr/bin/env bash
# torchjd 0.18.0 (cvxpy 1.9.3, ecos 2.0.14): NashMTL of two gradients that conflict a little.
# Expected: for two tasks the Nash bargaining direction halves the angle between the gradients,
#           whatever their lengths are.
# Instead:  where the solver gives up, their plain sum comes back without a word of it, so the
#           longer gradient decides, as if no method were used: for (3, 0) and (-3, 4) it is (0, 1);
#           of pairs with cosine -0.3, a quarter.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 torchjd==0.18.0 cvxpy==1.9.3 \
    ecos==2.0.14
v/bin/python -W ignore - <<'PY' 2> /dev/null
import torch
from torchjd.aggregation import NashMTL

def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))

summed, draw = {}, torch.Generator().manual_seed(0)
for c in (.5, 0., -.3, -.6, -.9):
    summed[c] = 0
    for _ in range(20):
        a, b = torch.randn(2, 1000, generator=draw)
        a /= a.norm()
        b -= a * (a @ b)
        length = 1 + 9 * torch.rand(1, generator=draw)
        rows = torch.stack((length * a, c * a + (1 - c * c)**.5 * b / b.norm()))
        d, units = NashMTL(n_tasks=2)(rows), rows / rows.norm(dim=1, keepdim=True)
        summed[c] += cosine(d, rows.sum(0)) > .9999 and cosine(d, units.sum(0)) < .999
d = NashMTL(n_tasks=2)(torch.tensor([[3., 0.], [-3., 4.]]))
print("(3, 0) and (-3, 4):", [round(x, 3) for x in d.tolist()], "(half the angle: [0.447, 0.894])")
print("plain sums among 20 pairs of 1,000 numbers, lengths 1 and 1 to 10, by cosine:", summed)
assert cosine(d, torch.tensor([0., 1.])) > .9999 and summed[-.3] > 2, (d, summed)
PY
