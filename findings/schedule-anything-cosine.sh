#!/usr/bin/env bash
# torch-schedule-anything 1.2.3 (torch 2.13.0): cosine_annealing_with_warmup over 100 steps, then
# five more. Its manual calls the cosine schedules "smooth S-shaped transitions".
# Expected: half a cosine, as in torch and transformers: half of lr in the middle, level at the
#           end; after the last step the rate stays at its end or rises again.
# Instead:  a quarter of a cosine: .71 of lr in the middle, and steepest at the end. It crosses 0
#           at the last step: from then on the rate is negative, and SGD climbs. A weight decay
#           under this schedule lets the weights grow.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 torch-schedule-anything==1.2.3
v/bin/python -W ignore - <<'PY'
import torch
import torch_schedule_anything as tsa
from torch.optim.lr_scheduler import CosineAnnealingLR

def schedule(optimizer):
    part = tsa.cosine_annealing_with_warmup(optimizer, warmup_to_value=1., anneal_to_value=0.,
                                            num_warmup_steps=0, num_training_steps=100)
    return tsa.SynchronousSchedule([part])

def train(make):
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=.1)
    scheduler, rates, losses = make(optimizer), [], []
    for _ in range(106):
        loss = weight.square().sum() / 2
        optimizer.zero_grad(); loss.backward()
        rates.append(optimizer.param_groups[0]["lr"]); losses.append(loss.item())
        optimizer.step(); scheduler.step()
    return rates, losses

for name, make in (("schedule-anything", schedule), ("torch", lambda o: CosineAnnealingLR(o, 100))):
    rates, losses = train(make)
    print(f"{name:18}", *(f"step {t}: {rates[t]:+.4f}" for t in (0, 25, 50, 75, 99, 102, 105)),
          f"loss rises after step 100: {losses[105] > losses[101]}", sep="  ")
    if name == "torch":
        assert abs(rates[50] - .05) < 1e-6 and min(rates) >= 0 and losses[105] <= losses[101], rates
    else:
        assert abs(rates[50] - .0707) < 1e-4 and rates[99] > .0015, rates
        assert all(rate < 0 for rate in rates[101:]) and losses[105] > losses[101], rates
PY
