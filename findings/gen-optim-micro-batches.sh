#!/usr/bin/env bash
# gen-optim 0.1.1, GeN's learning rate by its authors: lr_parabola with grad_accumulation_steps=4
# on a least-squares problem, where the best rate along the gradient is known.
# Expected: the rate of the whole batch, whatever the order of its four micro-batches is.
# Instead:  the first micro-batch alone decides. After it the weights stay where they were, so
#           the other three add the same loss to all three points of the parabola.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 \
    gen-optim==0.1.1
v/bin/python - <<'PY'
import torch
from GeN import lr_parabola

class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2))
    def forward(self, x):
        return x @ self.w

torch.manual_seed(0)
loss = torch.nn.MSELoss()
x = torch.randn(64, 2) * torch.tensor([3., 1.])
y = x @ torch.tensor([1., -2.]) + torch.randn(64)
grad = -2 * x.T @ y / 64                                 # of the whole batch, at w = 0

def best(x, y):
    """The minimiser of the loss of these rows at w = -rate grad."""
    return float(-2 * y @ (x @ grad) / len(x) / (2 * (x @ grad).square().mean()))

def found(parts):
    net = Linear()
    optimizer = torch.optim.SGD(net.parameters(), lr=.05)
    for _ in range(80):                                  # it moves a tenth of the way each time
        optimizer.zero_grad()
        for rows, targets in parts:
            (loss(net(rows), targets) / len(parts)).backward()
        lr_parabola(net, optimizer, loss, grad_accumulation_steps=len(parts),
                    tr_iter=iter(parts), device="cpu", task="image_cls")
        assert not net.w.any()                           # the weights are as before
    return optimizer.param_groups[0]["lr"]

parts = list(zip(x.split(16), y.split(16)))
print(f"one batch of 64: rate {found([(x, y)]):.4f}, the best {best(x, y):.4f}")
assert abs(found([(x, y)]) / best(x, y) - 1) < .01
for first in range(4):
    order = parts[first:] + parts[:first]
    rate, alone = found(order), best(*order[0])
    print(f"4 micro-batches, number {first} first: rate {rate:.4f}, the best for it {alone:.4f}")
    assert abs(rate / alone - 1) < .01 < abs(rate / best(x, y) - 1), (rate, alone)
PY
