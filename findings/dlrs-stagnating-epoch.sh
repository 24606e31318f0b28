#!/usr/bin/env bash
# pytorch-dlrs 0.2.1 (torch 2.13.0): DLRSScheduler, all options left alone. It reads the epoch's
# batch losses. Its manual: where the last one is above the first one by up to the mean loss, the
# epoch is "stagnating" and gets "minimal adjustments"; above that it is "diverging".
# Expected: a diverging epoch lowers the rate most, and a rate just below .01 is treated like .01.
# Instead:  batch losses of 1, 2, 3 (stagnating) take the rate from .01 to 1e-08, and a hundred
#           falling epochs bring it back to 2e-07 only; 1, 2, 3.4 (diverging) take it to .0044.
#           From .0099 it goes to .0089: the cut is counted in units of the rate's first digit.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 pytorch-dlrs==0.2.1
v/bin/python -W ignore - <<'PY'
import torch
from dlrs import DLRSScheduler

def run(lr, *epochs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = DLRSScheduler(optimizer)
    for losses in epochs:
        optimizer.step()
        scheduler.step(losses)
    return optimizer.param_groups[0]["lr"]

stagnating, diverging, falling = [1., 2., 3.], [1., 2., 3.4], [3., 2., 1.]
cases = {"falling": (.01, falling), "stagnating": (.01, stagnating),
         "diverging": (.01, diverging), "stagnating, from .0099": (.0099, stagnating),
         "stagnating, then 100 times falling": (.01, stagnating, *[falling] * 100)}
found = {}
for name, (lr, *epochs) in cases.items():
    found[name] = run(lr, *epochs)
    first, last = epochs[0][0], epochs[0][-1]
    print(f"{name:36} first epoch's losses {first} ... {last}: rate {lr} -> {found[name]:.3g}")
assert abs(found["falling"] - .011) < 1e-9 and found["stagnating"] == 1e-8, found
assert .004 < found["diverging"] < .005 and found["stagnating, from .0099"] > .0088, found
assert found["stagnating, then 100 times falling"] < .01, found
PY
