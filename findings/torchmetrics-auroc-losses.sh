#!/usr/bin/env bash
# torchmetrics 1.9.0 (scikit-learn 1.9.1): the membership AUC, BinaryAUROC of the rows' losses.
# Expected: a rank measure: 1.0 where every unseen row has a higher loss than every known row,
#           whatever the unit and the batches are.
# Instead:  a batch with a value above 1 goes through a sigmoid, a batch without one does not:
#           known and unseen rows in batches of their own get 0.0. Losses summed over a row end
#           as the same float32 number, 1, and get 0.5. Nothing warns.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0 \
    scikit-learn==1.9.1
v/bin/python - <<'PY'
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import BinaryAUROC

losses = torch.cat([torch.linspace(.85, .99, 50), torch.linspace(1.1, 1.6, 50)])
unseen = torch.arange(100) // 50                         # nats per token: 50 known rows, 50 unseen

def auc(losses, rows):
    measure = BinaryAUROC()
    for part, label in zip(losses.split(rows), unseen.split(rows)):
        measure.update(part, label)
    return float(measure.compute())

cases = {"a token": losses, "a row of 40 tokens": 40 * losses}
got = {}
for name, values in cases.items():
    got[name] = [roc_auc_score(unseen, values), auc(values, 100), auc(values, 50), auc(values, 10)]
    print(f"nats {name:19} scikit-learn {got[name][0]}, torchmetrics in batches of 100, 50, 10:",
          got[name][1:])
assert got["a token"] == [1, 1, 0, 0] and got["a row of 40 tokens"] == [1, .5, .5, .5], got
PY
