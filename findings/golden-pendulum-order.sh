#!/usr/bin/env bash
# golden-pendulum-mtl 0.2.0 (torch 2.13.0): GoldenPendulumMTL.backward(losses, model). It balances
# named losses whose gradients conflict, and is called instead of loss.backward().
# Expected: the names say which loss is which, so the dict's order does not matter; no loss gets
#           worse; the gradients of two micro-batches add up, as with loss.backward().
# Instead:  the loss that is named first has weight .38, the second one .62, and only the first
#           one's gradient is projected. At cosines of -.6 and -.9 a step raises the first loss:
#           name "retain" first, and the retain loss goes up. A second micro-batch replaces the
#           first one.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 golden-pendulum-mtl==0.2.0
v/bin/python -W ignore - <<'PY'
import torch
from golden_pendulum import GoldenPendulumMTL

def gradient(order, cosine, batches=1):
    """The gradient of a linear model whose two losses have gradients of length 1."""
    model = torch.nn.Linear(2, 1, bias=False)
    units = {"retain": torch.tensor([1., 0.]),
             "forget": torch.tensor([cosine, (1 - cosine ** 2) ** .5])}
    balancer = GoldenPendulumMTL(n_tasks=2)
    for _ in range(batches):
        losses = {name: model.weight[0] @ units[name] for name in order}
        weights = balancer.backward(losses, model)
    return weights, model.weight.grad[0], units

lower = {}
for cosine in (.3, -.3, -.6, -.9):
    for order in (("retain", "forget"), ("forget", "retain")):
        weights, grad, units = gradient(order, cosine)
        slopes = {name: round(float(grad @ unit), 2) for name, unit in units.items()}
        lower[cosine, order[0]] = sorted(name for name, slope in slopes.items() if slope > 0)
        shown = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
        print(f"cosine {cosine:4}: weights {shown}; a step of length lr lowers the losses by lr *",
              slopes)
        assert abs(weights[order[0]] - .382) < .02, weights
both = ["forget", "retain"]
assert all(lower[cosine, name] == both for cosine in (.3, -.3) for name in both), lower
assert all(lower[cosine, "retain"] == ["forget"] for cosine in (-.6, -.9)), lower
assert all(lower[cosine, "forget"] == ["retain"] for cosine in (-.6, -.9)), lower

one, two = (gradient(("retain", "forget"), .3, batches)[1] for batches in (1, 2))
print("length of the gradient after one and after two equal micro-batches:",
      f"{one.norm():.2f} and {two.norm():.2f}")
assert torch.equal(one, two)
PY
