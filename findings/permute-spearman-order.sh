#!/usr/bin/env bash
# permute 0.2: spearman_corr(x, y) is Spearman's rank correlation with a permutation p-value.
# Expected: it does not depend on the order in which the pairs are listed, and is what scipy gives.
# Instead:  it correlates argsort(x) with argsort(y), which are not ranks. Six pairs with a rank
#           correlation of .943 have .486 and p = .17 as listed, and .943 if they are listed with x
#           ascending.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile permute==0.2 cryptorandom==0.4 numpy==2.4.6 scipy==1.17.1
v/bin/python - <<'PY'
from permute.core import spearman_corr
from scipy.stats import spearmanr

losses = [0.4, 2.1, 1.3, 0.2, 3.0, 0.9]         # of six rows, under two models, say
others = [1.0, 2.0, 1.5, 0.7, 2.9, 1.9]
for name, pairs in ("as listed", list(zip(losses, others))), ("x ascending",
                                                              sorted(zip(losses, others))):
    x, y = zip(*pairs)
    rho, p, _ = spearman_corr(x, y, seed=1, reps=2000)
    print(f"{name:12} permute {rho:.3f} (p = {p:.2f})  scipy {spearmanr(x, y).statistic:.3f}")
    assert round(spearmanr(x, y).statistic, 3) == 0.943
    assert round(rho, 3) == (0.486 if name == "as listed" else 0.943), rho
    assert (p > 0.1) == (name == "as listed"), p
PY
