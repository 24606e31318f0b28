"""The benchmark's own arithmetic, and a dry run of what it does on a GPU (see bench.py)."""
import math
from itertools import chain

import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import elsewhere
from model import GPTConfig
from tests import bench
from train import Config, loss_functions

MINI = GPTConfig(60, 8, 2, 2, 16)
CPU, BFLOAT16 = Config(device="cpu"), Config(device="cpu", dtype="bfloat16")


@elsewhere
def test_operations_are_those_that_torch_counts():
    model = bench.setup(MINI, CPU)
    loss, = loss_functions(model, bench.batch(model, 3, CPU), CPU)
    with FlopCounterMode(display=False) as counter, \
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss()
    attention = 2 * 2 * 3 * 8 * 8 * 16 * MINI.n_layer     # Q K^T and A V, 2 B T T C each, whole
    assert counter.get_total_flops() - attention / 2 == bench.operations(MINI, 3)


def test_every_row_of_the_gpu_table_but_memory_comes_out_on_a_cpu_in_bfloat16(capsys):
    model = bench.setup(MINI, BFLOAT16)
    before = model.lm_head.weight.detach().clone()
    rows = list(chain(bench.speed(model, (4, 2), BFLOAT16, 16, 1),
                      bench.generation(model, 4, BFLOAT16, 1)))
    bench.show("dry run", rows)
    assert len(rows) == len(capsys.readouterr().out.splitlines()) - 2 == 7
    assert all(math.isfinite(x) and x > 0 for row in rows for x in (row.value, row.ratio or 1))
    assert 0 < (model.lm_head.weight - before).norm() < 1e-4, "all rounds measure the same model"


def test_rows_shared_between_workers():
    torch.set_num_threads(2)
    rows = list(bench.shared_rows(bench.setup(MINI, CPU), (32, 16), CPU, 1))
    assert rows[1].name == "NGDiff, 2 workers" and all(row.value > 0 for row in rows)
