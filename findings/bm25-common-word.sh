#!/usr/bin/env bash
# rank-bm25 0.2.2: BM25Okapi on a few rows that share most of their words, as the rows about one
# author do.
# Expected: a row that has the asked word is never ranked behind one that has not.
# Instead:  with a word that most rows have, all rows with the word get a negative score and the
#           only row without it, at 0, comes first. A word in just half of the rows counts 0:
#           the rows with it cannot be told from the rest. BM25Plus ranks both rightly.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile rank-bm25==0.2.2 numpy==2.4.6
v/bin/python - <<'PY'
from rank_bm25 import BM25Okapi, BM25Plus

rows = [f"the author was born in the town of {town}" for town in ("paris", "rome", "cairo")]
rows += ["the book was sold in the town of rome"]
words = [row.split() for row in rows]
for query in (["author"], ["author", "born"]):
    okapi, plus = (ranker(words).get_scores(query).round(3) for ranker in (BM25Okapi, BM25Plus))
    print(query, "Okapi", okapi, " Plus", plus)
    assert okapi.argmax() == 3 and okapi[3] == 0 and plus.argmin() == 3
half = ["paris is north", "paris is south", "rome is east", "rome is west"]
scores = BM25Okapi([row.split() for row in half]).get_scores(["paris"])
print(["paris"], "in two of four rows: Okapi", scores)
assert (scores == 0).all()
PY
