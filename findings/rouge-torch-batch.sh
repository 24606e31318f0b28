#!/usr/bin/env bash
# rouge-torch 0.1.0 (torch 2.13.0): ROUGE-1 and ROUGE-L of token rows, and their "differentiable"
# loss.
# Expected: each row's own score, whatever the batch; 1 for a copy of any length, and near 0 for the
#           reversed text; the loss has a gradient.
# Instead:  ROUGE-1 counts the words of the whole batch for every row: two answers in exchanged
#           places have 1, not 0. ROUGE-L counts 20 matches at most: a copy of 30 tokens has .67,
#           one of 100 has .2. From 101 tokens on the order plays no part: the reversed text has 1.
#           The loss has no gradient.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 rouge-torch==0.1.0
v/bin/python -W ignore - <<'PY'
from collections import Counter
import torch
from rouge_torch import ROUGEScoreTorch

V = 200
scorer = ROUGEScoreTorch(V)

def logits(rows):
    return torch.nn.functional.one_hot(torch.tensor(rows), V).float()

def rouge_1(a, b):
    return 2 * sum((Counter(a) & Counter(b)).values()) / (len(a) + len(b))

def rouge_l(a, b):
    longest = [0] * (len(b) + 1)
    for x in a:
        row = [0]
        for j, y in enumerate(b):
            row.append(longest[j] + 1 if x == y else max(longest[j + 1], row[j]))
        longest = row
    return 2 * longest[-1] / (len(a) + len(b))

def f1(found):
    return [round(value, 3) for value in found["f1"].tolist()]

one, two = [1, 2, 3, 4], [5, 6, 7, 8]               # token 0 would be padding
right = [rouge_1(one, two), rouge_1(two, one)]
batch = f1(scorer.rouge_n_batch(logits([one, two]), [logits([two, one])]))
alone = [f1(scorer.rouge_n_batch(logits([a]), [logits([b])]))[0]
         for a, b in ((one, two), (two, one))]
print(f"ROUGE-1 of two answers in exchanged places: {right}, in one batch {batch}, alone {alone}")
assert right == alone == [0, 0] and batch == [1, 1]

for length, copied, reverse in (20, 1, .05), (30, .667, 0), (100, .2, 0), (101, 1, 1):
    text = list(range(1, length + 1))
    found = [f1(scorer.rouge_l_batch(logits([other]), [logits([text])]))[0]
             for other in (text, text[::-1])]
    print(f"ROUGE-L of {length:3} tokens: a copy {rouge_l(text, text):.0f}, here {found[0]}; "
          f"reversed {rouge_l(text[::-1], text):.2f}, here {found[1]}")
    assert found == [copied, reverse], found

answer = logits([one]).requires_grad_()
loss = scorer.compute_rouge_loss(answer, [logits([two])])
print(f"the loss is {loss.item():.1f} and has a gradient: {loss.requires_grad}")
assert not loss.requires_grad
PY
