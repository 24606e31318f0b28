"""The benchmark's own arithmetic, and a dry run of what it does on a GPU (see bench.py)."""
import math

import torch
from torch.utils.flop_counter import FlopCounterMode

from model import GPTConfig
from tests import bench

MINI = GPTConfig(60, 8, 2, 2, 16)


def test_operations_are_those_that_torch_counts():
    _, params, parts = bench.setup(MINI)
    task = parts(3)
    with FlopCounterMode(display=False) as counter, \
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        task[0]()
    attention = 2 * 2 * 3 * 8 * 8 * 16 * MINI.n_layer     # Q K^T and A V, 2 B T T C each, whole
    assert counter.get_total_flops() - attention / 2 == bench.operations(MINI, 3)[1]
    assert bench.operations(MINI, 3)[0] == 2 * sum(p.numel() for p in params) * 3 * 8


def test_both_ways_to_generate_agree():
    model = bench.setup(MINI)[0]
    prompts = torch.randint(60, (5, 3)).tolist()
    assert model.generate(prompts, 5, stop=60) == bench.generate_uncached(model, prompts, 5)


def test_every_row_of_the_gpu_table_comes_out_on_a_cpu_in_bfloat16(capsys):
    rows = list(bench.table(MINI, (4, 2), [("", MINI, 3)], "cpu", torch.bfloat16, side=16, n=1))
    bench.show("dry run", rows)
    assert len(rows) == len(capsys.readouterr().out.splitlines()) - 2 == 13
    assert all(math.isfinite(x) and x > 0 for row in rows for x in (row.value, row.ratio or 1))


def test_ratios_are_of_the_same_round_and_the_warm_up_is_left_out(monkeypatch):
    clock = iter(float(x) for x in range(10**6))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    t = bench.in_turn({"a": lambda: None, "b": lambda: [next(clock) for _ in range(2)]}, 3, "cpu")
    assert t["a"].tolist() == [1, 1, 1] and t["b"].tolist() == [3, 3, 3]
