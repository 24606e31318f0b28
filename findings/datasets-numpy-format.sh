#!/usr/bin/env bash
# datasets 5.2.0 (numpy 2.4.6): a float64 column read with with_format("numpy").
# Expected: float64, whether one asks for a row or for a column.
# Instead:  a row gives float64, a column (or a slice) float32: 1e-300 becomes 0, and a KS
#           p-value of 1e-50 its logarithm -inf. Lists inside one row become float32 too.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile datasets==5.2.0 numpy==2.4.6
v/bin/python - <<'PY'
from datasets import Dataset
data = Dataset.from_dict({"p": [1e-50, .1], "both": [[1e-50, .1], [.1, .1]]}).with_format("numpy")
row, part = data[0], data[:]
print("stored as ", data.features["p"].dtype)
print("data[0]['p']   ", row["p"].dtype, row["p"])
print("data[:]['p']   ", part["p"].dtype, part["p"])
print("data['p'][:]   ", data["p"][:].dtype)
print("data[0]['both']", row["both"].dtype, row["both"])
wide = data.with_format("numpy", dtype="float64")
print("with dtype=    ", wide[:]["p"].dtype, wide[:]["p"])
assert row["p"].dtype == "float64" and row["p"] == 1e-50
assert part["p"].dtype == "float32" and part["p"][0] == 0
assert row["both"].dtype == "float32" and wide[:]["p"][0] == 1e-50
PY
