#!/usr/bin/env bash
# torch-ks-nf4 0.1.5 (torch 2.13.0): NF4Linear, a "4-bit NF4 quantized linear layer".
# Expected: its outputs are those of the same weights unquantised, up to some 10%; its state_dict
#           holds all that the layer needs.
# Instead:  the weights are divided by the largest one before they are rounded and never multiplied
#           by it again: outputs are 16 times too large for 256 inputs. The state_dict has the
#           4-bit codes, but no scale and no bias; saved and loaded, the layer has another bias.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 torch-ks-nf4==0.1.5
v/bin/python -W ignore - <<'PY'
import torch
from torch_ks_nf4 import NF4Linear

torch.manual_seed(0)
found = {}
for inputs in (16, 64, 256):
    layer, other = NF4Linear(inputs, 32), NF4Linear(inputs, 32)
    x = torch.randn(100, inputs)
    want = torch.nn.functional.linear(x, layer.weight[0])
    got = layer(x) - layer.bias
    factor = float((got * want).sum() / want.square().sum())
    error = float((got / factor - want).norm() / want.norm())
    other.load_state_dict(layer.state_dict())
    found[inputs] = factor, error, torch.equal(other(x), layer(x))
    print(f"{inputs:3} inputs: outputs x {factor:.2f}, error without that factor {error:.3f}; "
          f"state_dict {list(layer.state_dict())}, same outputs after loading it: "
          f"{found[inputs][2]}")
for inputs, (factor, error, same) in found.items():
    assert abs(factor / inputs ** .5 - 1) < .05 and error < .12 and not same, found
PY
