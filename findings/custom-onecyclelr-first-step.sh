#!/usr/bin/env bash
# custom-onecyclelr 0.2.0 (torch 2.13.0): OneCycleLr with its manual's numbers (max_lr .01,
# warmup_start_lr .0001, the optimizer's lr .001).
# Expected: the first step has the rate warmup_start_lr, and the optimizer's own lr plays no part,
#           as with torch's OneCycleLR.
# Instead:  the first step has the optimizer's lr, whatever it is; the warm-up begins with its
#           second step, and warmup_start_lr is never used. With the optimizer's lr at 1, the
#           first step is 10,000 times too long.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 custom-onecyclelr==0.2.0
v/bin/python -W ignore - <<'PY'
import torch
from custom_onecyclelr.scheduler import OneCycleLr
from torch.optim.lr_scheduler import OneCycleLR

def rates(make, lr, steps=8):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(round(optimizer.param_groups[0]["lr"], 6))
        optimizer.step()
        scheduler.step()
    return found

def custom(optimizer):
    return OneCycleLr(optimizer, warmup_iters=6, lr_idling_iters=8, annealing_iters=56,
                      decay_iters=100, max_lr=.01, annealing_lr_min=.001, decay_lr_min=.0001,
                      warmup_start_lr=.0001, warmup_type="linear")

def torchs(optimizer):
    return OneCycleLR(optimizer, max_lr=.01, total_steps=170, div_factor=100)

found = {}
for name, make in (("custom-onecyclelr", custom), ("torch", torchs)):
    for lr in (.001, 1.):
        found[name, lr] = rates(make, lr)
        print(f"{name:18} optimizer's lr {lr}: ", *found[name, lr])
assert found["torch", .001] == found["torch", 1.] and found["torch", 1.][0] == .0001
for lr in (.001, 1.):
    assert found["custom-onecyclelr", lr][:3] == [lr, .00175, .0034], found
PY
