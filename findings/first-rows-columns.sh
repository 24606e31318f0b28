#!/usr/bin/env bash
# datasets 5.2.0 and polars 2.1.0: a key that only later rows have ("forget": true).
# Expected: a column with None where the key is missing (pyarrow does that), or an error.
# Instead:  the column is left out without a word. datasets' from_list looks at the first row,
#           polars' read_ndjson and DataFrame at the first 100.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile datasets==5.2.0 polars==2.1.0
v/bin/python - <<'PY'
import json
import polars, pyarrow
from datasets import Dataset, load_dataset

rows = [{"question": f"Who wrote book {n}?"} for n in range(300)]
for row in rows[200:]:
    row["forget"] = True
with open("rows.jsonl", "w") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows)
columns = {
    "datasets from_list": Dataset.from_list(rows).column_names,
    "polars read_ndjson": polars.read_ndjson("rows.jsonl").columns,
    "polars DataFrame": polars.DataFrame(rows).columns,
    "datasets load_dataset json": load_dataset("json", data_files="rows.jsonl", split="train",
                                               cache_dir="cache").column_names,
    "datasets from_list, last row first": Dataset.from_list(rows[::-1]).column_names}
for name, names in columns.items():
    print(f"{name:36} {names}")
short, full = ["question"], ["question", "forget"]
assert list(columns.values())[:3] == [short] * 3, columns
assert columns["datasets load_dataset json"] == full, columns
PY
