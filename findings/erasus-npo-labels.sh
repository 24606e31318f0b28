#!/usr/bin/env bash
# erasus 0.2.0 (torch 2.13.0): its "LLM-specific" strategy npo (negative preference optimization),
# on a small model that knows the answers, with a label for each token.
# Expected: the answers' own tokens become less likely; other labels give another model.
# Instead:  it never reads token labels. It lowers the mean log probability of the whole vocabulary,
#           so each token that was likely becomes surer: the answers' loss falls from .01 to .0001.
#           The answers, other tokens and -100 everywhere give the same weights, bit for bit. The
#           loss that it reports falls all the while. With one label a row it does forget.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 tqdm==4.70.1 pyyaml==6.0.4
v/bin/pip install -q --no-compile --no-deps erasus==0.2.0       # transformers is not needed here
v/bin/python -W ignore - <<'PY'
import copy
import torch
import torch.nn.functional as F
from erasus.strategies.llm_specific.npo import NPOStrategy
from torch.utils.data import DataLoader, TensorDataset

V, STEPS, LR, BETA = 12, 20, .01, .1

def loss(model, ids, labels):
    return F.cross_entropy(model(ids).flatten(0, -2), labels.flatten())

def learn(ids, labels):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(V, 16), torch.nn.Linear(16, V))
    optimizer = torch.optim.Adam(model.parameters(), lr=.05)
    while loss(model, ids, labels) > .01:
        optimizer.zero_grad()
        loss(model, ids, labels).backward()
        optimizer.step()
    return model

def erasus(model, ids, labels):
    model = copy.deepcopy(model)
    loader = DataLoader(TensorDataset(ids, labels), batch_size=len(ids))
    _, reported, _ = NPOStrategy(beta=BETA, lr=LR).unlearn(model, loader, epochs=STEPS)
    return model, reported

def by_hand(model, ids, labels):
    """NPO's formula: the answer's log probability against the one before unlearning."""
    model, before = copy.deepcopy(model), model
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    answer = lambda m: m(ids).log_softmax(-1).gather(-1, labels[..., None])[..., 0].sum(-1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-F.logsigmoid(-BETA * (answer(model) - answer(before).detach()))).mean().backward()
        optimizer.step()
    return model

ids, answers = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[2, 3, 4], [5, 6, 7]])
model = learn(ids, answers)
start, right = loss(model, ids, answers).item(), loss(by_hand(model, ids, answers), ids, answers)
print(f"loss of the answers before: {start:.5f}, after NPO by hand: {right:.5f}")
weights = []
for name, labels in (("the answers", answers), ("other tokens", answers * 5 % V),
                     ("-100 everywhere", torch.full_like(answers, -100))):
    found, reported = erasus(model, ids, labels)
    weights.append(torch.nn.utils.parameters_to_vector(found.parameters()))
    after = loss(found, ids, answers).item()
    print(f"erasus, labels {name:15}: {after:.5f}; it reports {reported[0]:.3f}, then "
          f"{reported[-1]:.3f}; same weights as with the answers: "
          f"{torch.equal(weights[0], weights[-1])}")
    assert after < start / 10 and reported[-1] < reported[0]
    assert torch.equal(weights[0], weights[-1])
assert right > 2 * start

rows, classes = torch.tensor([1, 4]), torch.tensor([2, 5])
model = learn(rows, classes)
start = loss(model, rows, classes).item()
after = loss(erasus(model, rows, classes)[0], rows, classes).item()
print(f"one label a row: {start:.5f} before, {after:.5f} after")
assert after > 2 * start
PY
