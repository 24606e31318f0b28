#!/usr/bin/env bash
# torchmetrics 1.9.0 and sacrebleu 2.6.0: short answers (a name, a year) compared with themselves.
# Expected: the full score from both packages' chrF++ and BLEU.
# Instead:  torchmetrics' CHRFScore counts every n-gram longer than the text as a miss: a perfect
#           "1932" gets .625, where sacrebleu gives 1. The corpus BLEU of perfect answers of less
#           than four words is 0 in both, and 1 as soon as one answer of five words joins them.
#           torchmetrics' ExtendedEditDistance of a text with itself is not 0, for "no" .07.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0 sacrebleu==2.6.0
v/bin/python - <<'PY'
import sacrebleu
from torchmetrics.text import CHRFScore, ExtendedEditDistance, SacreBLEUScore

chrf = {}
for text in ("no", "1932", "in Kuwait", "she was born in Kuwait City"):
    ours = CHRFScore()([text], [[text]]).item()
    theirs = sacrebleu.corpus_chrf([text], [[text]], word_order=2).score / 100
    chrf[text] = round(ours, 4), round(theirs, 4)
    edits = ExtendedEditDistance()([text], [[text]]).item()
    print(f"{text!r} with itself: chrF++ of torchmetrics {chrf[text][0]}, of sacrebleu "
          f"{chrf[text][1]}; extended edit distance {edits:.4f}")
    assert edits > .005, edits
bleu, short = {}, ["Kuwait", "1932", "a florist"]
for name, texts in {"three short": short,
                    "and a long one": short + ["she wrote two long novels"]}.items():
    bleu[name] = (SacreBLEUScore()(texts, [[text] for text in texts]).item(),
                  sacrebleu.corpus_bleu(texts, [texts]).score / 100)
    print(f"BLEU of {name} with themselves: torchmetrics %.4f, sacrebleu %.4f" % bleu[name])
assert all(theirs == 1 for _, theirs in chrf.values()) and chrf["no"][0] == .375, chrf
assert bleu["three short"] == (0, 0) and min(bleu["and a long one"]) > .999, bleu
PY
