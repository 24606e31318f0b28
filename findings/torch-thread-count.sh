#!/usr/bin/env bash
# torch 2.13.0: torch.set_num_threads as the initializer of two ThreadPoolExecutors, with 1 and 3.
# Expected: each pool's threads split their operations as their own call says.
# Instead:  at its first operation a Python thread takes the number that any thread set last. A
#           thread of the first pool that begins its work after the second pool's start has 3, and
#           its sums are added up in another order. Asking for the number first prevents it.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6
v/bin/python - <<'PY'
from concurrent.futures import ThreadPoolExecutor

import torch

def ask_then_set(n):
    torch.get_num_threads()
    torch.set_num_threads(n)

def threads(initializer):
    pools = [ThreadPoolExecutor(1, initializer=initializer, initargs=(n,)) for n in (1, 3)]
    for pool in pools:
        pool.submit(int).result()                # it has begun, and done nothing of torch's
    return [pool.submit(torch.get_num_threads).result() for pool in pools]

plain, asked = threads(torch.set_num_threads), threads(ask_then_set)
print("torch", torch.__version__.partition("+")[0])
print("1 and 3 threads set, at work with", plain, "and, if asked first,", asked)
assert plain == [3, 3] and asked == [1, 3], "changed: look anew"
PY
