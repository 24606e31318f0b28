#!/usr/bin/env bash
# datasets 5.2.0: map adds a column that is True or False in the first 1,000 rows and a count
# (2) later.
# Expected: an error, as for a fraction after whole numbers, or numbers for all.
# Instead:  the first 1,000 rows fix the type, and every later count becomes True. If the first
#           count is row 999, the column's type is Json and the counts stay.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile datasets==5.2.0
HF_HOME="$dir/hf" v/bin/python - <<'PY'
from datasets import Dataset, disable_progress_bars
disable_progress_bars()
data = Dataset.from_dict({"row": list(range(1500))})

def last(change, early, late):
    try:
        out = data.map(lambda r: {"hits": early if r["row"] < change else late})
        return str(out.features["hits"]), out[0]["hits"], out[1499]["hits"]
    except Exception as error:                       # the kind of error is what is printed
        return type(error).__name__, str(error)[:60]

got = {"True, then 2 from row 1000": last(1000, True, 2),
       "True, then 2 from row 999": last(999, True, 2),
       "1, then .5 from row 1000": last(1000, 1, .5),
       "None, then 2 from row 1000": last(1000, None, 2)}
for name, result in got.items():
    print(f"{name:28} {result}")
assert got["True, then 2 from row 1000"] == ("Value('bool')", True, True), got
assert got["True, then 2 from row 999"][1:] == (True, 2), got
assert got["1, then .5 from row 1000"][0].startswith("Arrow"), got
PY
