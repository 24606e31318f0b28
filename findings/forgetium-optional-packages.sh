#!/usr/bin/env bash
# forgetium 0.2.1, with and without the optional packages scikit-learn and rouge-score.
# Expected: the same AUC and the same ROUGE-L; its docstring says that an AUC near 1 means that the
#           forget rows can still be told from rows that were never seen.
# Instead:  without scikit-learn (forgetium does not ask for it) the AUC is turned round: a model
#           that knows all forget rows gets 0.0 instead of 1.0. Without rouge-score words are not
#           lower-cased and keep their full stops: "Paris." and "paris" have ROUGE-L 0, not 1.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 scipy==1.17.1 transformers==5.24.0 \
    datasets==5.2.0 accelerate==1.15.0 forgetium==0.2.1
cat > measure.py <<'PY'
import json, types, torch
from forgetium.metrics.mia import evaluate_mia
from forgetium.metrics.qa_metrics import rouge_l_score

class Model(torch.nn.Module):
    """Token 0 has probability .7 after any text, token 1 .2, token 2 .1."""
    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([.7, .2, .1]).log())
    def forward(self, input_ids, attention_mask):
        return types.SimpleNamespace(logits=self.logits.expand(*input_ids.shape, 3))

tokenizer = types.SimpleNamespace(encode=lambda text, add_special_tokens: [int(c) for c in text])
rows = lambda *answers: [dict(prompt="0", response=answer) for answer in answers]
found = evaluate_mia(Model(), tokenizer, rows("0", "00", "000"), rows("1", "12", "2"))
print(json.dumps([found["loss_auroc"], found["min_k_auroc"], rouge_l_score("Paris.", "paris")]))
PY
bare=$(v/bin/python measure.py 2> /dev/null | tail -n 1)
v/bin/pip install -q --no-compile scikit-learn==1.9.1 rouge-score==0.1.2
full=$(v/bin/python measure.py 2> /dev/null | tail -n 1)
echo "AUC by the loss, AUC by Min-20%, ROUGE-L: without the two packages $bare, with them $full"
[ "$bare" = "[0.0, 0.0, 0.0]" ] && [ "$full" = "[1.0, 1.0, 1.0]" ]
