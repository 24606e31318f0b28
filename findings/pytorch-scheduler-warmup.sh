#!/usr/bin/env bash
# pytorch-scheduler 0.2.2 (torch 2.13.0): WarmupScheduler, a "composable warmup wrapper for any LR
# scheduler", around torch's own schedulers.
# Expected: the rate climbs from 0 to lr, then torch's schedule begins.
# Instead:  torch's schedulers go on from the last rate, so they begin at the warm-up's last step:
#           three quarters of lr after 4 steps, half after 2. After 1 step the rate is 0 and stays
#           0. LambdaLR and the package's own schedulers are right.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 pytorch-scheduler==0.2.2
v/bin/python -W ignore - <<'PY'
import torch
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LinearLR, StepLR
from pytorch_scheduler import LinearDecayScheduler, WarmupScheduler

def rates(base, warmup, steps=9):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.)
    scheduler, found = WarmupScheduler(optimizer, base(optimizer), warmup), []
    for _ in range(steps):
        found.append(round(optimizer.param_groups[0]["lr"], 3))
        optimizer.step()
        scheduler.step()
    return found

bases = {"StepLR": lambda o: StepLR(o, 100), "ExponentialLR": lambda o: ExponentialLR(o, .9),
         "LinearLR": lambda o: LinearLR(o, 1., 0., 10),
         "LambdaLR": lambda o: LambdaLR(o, lambda step: 1),
         "the package's own": lambda o: LinearDecayScheduler(o, 10)}
highest = {}
for name, base in bases.items():
    for warmup in (1, 2, 4):
        found = rates(base, warmup)
        highest[name, warmup] = max(found)
        print(f"{name:18} warm-up of {warmup} steps:", *found)
torchs, others = list(highest.values())[:9], list(highest.values())[9:]
assert torchs == [0, .5, .75] * 3 and others == [1] * 6, highest
PY
