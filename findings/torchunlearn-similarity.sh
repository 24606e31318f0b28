#!/usr/bin/env bash
# torchunlearn 0.1.0: get_logit_similarity(base_logits, logits) compares an unlearned model's logits
# with the retrained model's, on the retain, the forget and the test rows.
# Expected: numbers for each of the three sets; WD (Wasserstein distance) is 0 only for equal
#           probabilities.
# Instead:  one number each for KL, WD, L1 and L2, those of the set that comes last: a model that
#           is ruined on the first two looks perfect. WD sorts the probabilities first, so it is 0
#           for a model that gives another answer to every row, as surely.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3
v/bin/pip install -q --no-compile --no-deps torchunlearn==0.1.0     # torchvision is not needed here
v/bin/python -W ignore - <<'PY'
import importlib.util, pathlib
import torch

folder = importlib.util.find_spec("torchunlearn").submodule_search_locations[0]
spec = importlib.util.spec_from_file_location(
    "logit_compare", pathlib.Path(folder) / "utils" / "logit_compare.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)                                     # this file alone

labels = torch.arange(10).repeat(5)
retrained = 6. * torch.nn.functional.one_hot(labels, 10)            # sure of the right answer
others = retrained.roll(1, dims=1)                                  # as sure of a wrong one
sets = ("(R)", "(F)", "(Te)")                                       # retain, forget, test
base = {name: (retrained, labels) for name in sets}
found = {}
for wrong in (("(R)", "(F)"), ("(Te)",)):
    logits = {name: (others if name in wrong else retrained, labels) for name in sets}
    found[wrong] = module.get_logit_similarity(base, logits)
    print("other answers on", " and ".join(wrong), "gives",
          {key: round(value, 3) for key, value in found[wrong].items()})
first, last = found.values()
assert set(first) == {"KL", "WD", "L1", "L2"} and max(map(abs, first.values())) < 1e-6, first
assert last["KL"] > 5 and last["L1"] > 1 and abs(last["WD"]) < 1e-6, last
PY
