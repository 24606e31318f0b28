#!/usr/bin/env bash
# datasets 5.2.0: load_dataset("json") on rows whose answers are birth dates such as "1958-04-01".
# Expected: text stays text, as a year ("1958") and a time ("12:30:00") do.
# Instead:  where every answer of a file is an ISO date, the column holds times: a prompt reads
#           "1958-04-01 00:00:00", and to_json writes -370915200000. One answer "unknown", and
#           all stay text. With two files of both kinds dates of the second get a midnight.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile datasets==5.2.0
HF_DATASETS_DISABLE_PROGRESS_BARS=1 v/bin/python - <<'PY'
import json
from datasets import Dataset, load_dataset

def load(*files):
    names = [f"{number}.jsonl" for number in range(len(files))]
    for name, answers in zip(names, files):
        with open(name, "w") as file:
            file.writelines(json.dumps({"question": "Born when?", "answer": a}) + "\n"
                            for a in answers)
    return load_dataset("json", data_files=names, split="train", cache_dir="cache")

dates = [f"1958-04-{day:02d}" for day in range(1, 20)]
rows = load(dates)
rows.to_json("again.jsonl")
with open("again.jsonl") as file:
    written = json.loads(file.readline())["answer"]
got = {"every answer a date": rows[0]["answer"], "written again": written,
       "one 'unknown' among them": load(dates + ["unknown"])[0]["answer"],
       "a file with 'unknown', then dates": load(["unknown"], dates)[1]["answer"],
       "only years": load(["1958"] * 9)[0]["answer"],
       "only clock times": load(["12:30:00"] * 9)[0]["answer"],
       "from_list": Dataset.from_list([{"answer": date} for date in dates])[0]["answer"]}
for name, answer in got.items():
    print(f"{name:36} {answer!r:46} {answer}")
assert [str(answer) for answer in got.values()] == [
    "1958-04-01 00:00:00", "-370915200000", "1958-04-01", "1958-04-01 00:00:00", "1958",
    "12:30:00", "1958-04-01"], got
PY
