#!/usr/bin/env bash
# transformers 5.24.0 (accelerate 1.15.0): Trainer.evaluate on rows of which only the answer is
# labelled (the rest -100), with 2 to 9 labelled tokens a row.
# Expected: eval_loss is the mean over tokens, the training loss's rule, for any batch size.
# Instead:  it is the mean of the batches' means, weighted by rows: the same model on the same
#           rows gets another loss with another per_device_eval_batch_size.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0
v/bin/python - <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, max_position_embeddings=32, initializer_range=1.)).eval()
rows = []
for answer in (2, 9, 3, 9):
    ids = torch.randint(0, 32, (12,))
    labels = ids.clone()
    labels[:-answer] = -100
    rows.append({"input_ids": ids, "labels": labels})

def evaluate(batch):
    args = TrainingArguments("out", per_device_eval_batch_size=batch, report_to=[], use_cpu=True,
                             disable_tqdm=True)
    return Trainer(model, args, eval_dataset=rows).evaluate()["eval_loss"]

with torch.no_grad():
    means = [model(r["input_ids"][None], labels=r["labels"][None]).loss.item() for r in rows]
counts = [int((r["labels"] != -100).sum()) for r in rows]
by_token = sum(m * n for m, n in zip(means, counts)) / sum(counts)
got = {batch: evaluate(batch) for batch in (1, 2, 4)}
print("mean over tokens", round(by_token, 4), " mean over rows", round(sum(means) / 4, 4))
print("eval_loss by batch size", {batch: round(loss, 4) for batch, loss in got.items()})
assert abs(got[4] - by_token) < 1e-3 and abs(got[1] - sum(means) / 4) < 1e-3
assert abs(got[1] - got[4]) > .05
PY
