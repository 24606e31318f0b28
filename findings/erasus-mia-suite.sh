#!/usr/bin/env bash
# erasus 0.2.0 (torch 2.13.0): MIASuite, six membership attacks on forget and holdout rows, with one
# "forgetting quality" (1: all AUCs are 0.5, 0: all are 0 or 1).
# Expected: quality near 0 for a language model that knows all forget rows and no holdout row; AUC
#           0.5 where all rows have the same loss, since nothing tells them apart.
# Instead:  with token labels four attacks fail, and each failure counts as an AUC of 0.5. The other
#           two take the surest token for the right one. So the quality is near 1, the same as for a
#           model that knows nothing. Equal losses have an AUC of 1, or of .03: ties keep the order
#           that numpy's sort gives them, which differs between processors.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 tqdm==4.70.1 pyyaml==6.0.4
v/bin/pip install -q --no-compile --no-deps erasus==0.2.0       # transformers is not needed here
v/bin/python -W ignore - <<'PY'
import torch
import torch.nn.functional as F
from erasus.metrics.forgetting.mia_suite import MIASuite
from torch.utils.data import DataLoader, TensorDataset

N, T, V = 100, 10, 20                     # rows a set, tokens a row, vocabulary

class Table(torch.nn.Module):
    """Row i's logits stand in table[i]."""
    def __init__(self, table):
        super().__init__()
        self.table = torch.nn.Parameter(table)
    def forward(self, ids):
        return self.table[ids[:, 0]]

def suite(logits, labels):
    rows = TensorDataset(torch.arange(2 * N)[:, None], labels)
    sets = [DataLoader(torch.utils.data.Subset(rows, part), batch_size=20)
            for part in (range(N), range(N, 2 * N))]
    return MIASuite().compute(Table(logits), *sets)

def loss_auc(logits, labels):
    """By counting pairs: a lower loss of the forget row counts 1, equal losses count a half."""
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    forget, holdout = losses.view(2, N, -1).mean(-1)
    return float((forget[:, None] < holdout).float().mean()
                 + (forget[:, None] == holdout).float().mean() / 2)

torch.manual_seed(0)
labels = torch.randint(V, (2 * N, T))
right = 8. * F.one_hot(labels, V)
wrong = right.roll(1, -1)                 # as sure of another token
noise = .1 * torch.randn(2 * N, T, V)     # so that no two rows are equal
for name, forget in ("all forget rows", right[:N]), ("nothing", wrong[:N]):
    logits = torch.cat([forget, wrong[N:]]) + noise
    found, auc = suite(logits, labels), loss_auc(logits, labels)
    failed = sorted(key for key in found if key.endswith("error"))
    print(f"a language model that knows {name}: AUC of the losses {auc:.2f}, erasus: mean AUC "
          f"{found['mia_suite_mean_auc']:.2f}, quality "
          f"{found['mia_suite_forgetting_quality']:.2f}; without a result: {', '.join(failed)}")
    assert abs(auc - (name != "nothing") / 2 - .5) < .1, auc
    assert len(failed) == 4 and found["mia_suite_forgetting_quality"] > .9, found

classes = labels[:, 0]
logits = torch.zeros(2 * N, V)
found, auc = suite(logits, classes), loss_auc(logits, classes)
print(f"one label a row, all losses equal: AUC of the losses {auc:.2f}, erasus:",
      f"{found['mia_loss_auc']:.2f}, quality {found['mia_suite_forgetting_quality']:.2f}")
assert auc == .5 and abs(found["mia_loss_auc"] - .5) > .4, found
PY
