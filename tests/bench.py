"""How fast is it, compared with what the machine can do?  python -m tests.bench

Without a GPU: float32, the shape of train.py --tiny, a minute on two cores. With a GPU: GPT-2 124M
and XL, bfloat16 autocast over float32 parameters, first as they are and then through torch.compile.
Weights and tokens are random. Tasks run in turn, A B C A B C ...: three rounds to warm up, then n
that count. A value is the median over the rounds. A ratio is the median of value / `to`, round by
round: what slows the machine for a second slows both sides.
  limit        product of two square matrices, in the type that the model's products have
  products     the matrix products of both passes, forward and backward, with attention's (the
               causal half): at best as fast as the limit. Norms, GELU, softmax, loss do not count
  two passes   ngdiff.loss_and_grad on both batches: no step can do without
  GDiff        ngdiff.step, method "gdiff", c = 0.5. It computes the five numbers too, for the log:
               it costs what NGDiff costs
  NGDiff       ngdiff.step as train.py calls it at most steps: two passes, five numbers, d, update.
               The rows are collated before
  1 worker     an NGDiff step with --micro_batch 72; then one in which workers share the rows, see
               harness/workers.py. (Other rows of the CPU's table are with workers too.)
  + AutoLR     the mean of nine such steps and one that also fits the learning rate
  peak memory  most bytes held during an NGDiff step with AutoLR. to: parameters + 2 gradients; the
               rest is activations. CPU: growth of a fresh process, 27 M parameters, 4 + 4 rows
  generation   model.generate
"""
import gc
import os
import time
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import harness       # first: it sets how torch's threads wait
import torch

import ngdiff
from data import Example
from harness import workers
from harness.processes import side_by_side
from model import GPT, GPTConfig
from train import Config, loss_functions, micro_batches

# Every row has block_size = T tokens, of which the last T - T//2 + 1 are labels. Vocabulary and
# rows of the retain and forget batch are those of train.py --tiny; T is its longest row.
TINY, ROWS = GPTConfig(439, 25), (216, 48)
BIG = GPTConfig(439, 25, 8, 8, 528)       # so large that activations are small beside it
GPU = [(f"GPT-2 {name}, T {T}", GPTConfig(50257, T, *size), rows)
       for name, size, rows in (("124M", (12, 12, 768), 32), ("XL", (48, 25, 1600), 8))
       for T in (64, 256)]
WARM = 3                                  # rounds not counted: they allocate, tune and compile


class Row(NamedTuple):
    name: str
    value: float
    unit: str
    n: int = 1                            # rounds
    ratio: float = None
    to: str = ""


# --------------------------------------------------------------------------- measuring

def in_turn(tasks, n, device="cpu"):
    """Seconds of each of `tasks` (name -> function), run in turn: name -> (n,) float64."""
    seconds = torch.zeros(WARM + n, len(tasks), dtype=torch.float64)
    for i in range(WARM + n):
        for j, f in enumerate(tasks.values()):
            t0 = time.perf_counter()
            f()
            if device == "cuda":          # f has only queued its kernels
                torch.cuda.synchronize()
            seconds[i, j] = time.perf_counter() - t0
    return dict(zip(tasks, seconds[WARM:].T))


def median(x):
    return float(x.quantile(0.5))


def operations(shape, rows):
    """Operations of the matrix products of a forward pass over `rows` rows. The last MLP and the
    logits are computed at the labelled positions alone."""
    L, C, V, T = shape.n_layer, shape.n_embd, shape.vocab_size, shape.block_size
    n, m = rows * T, rows * (T - T // 2 + 1)             # positions, and those labelled
    attention = L * n * (4 * C**2 + T * C)               # 4 products C x C, 2 with T/2 keys
    return 2 * (attention + 8 * C**2 * ((L - 1) * n + m) + V * C * m)


def setup(shape, config):
    """A model with random weights."""
    torch.manual_seed(0)
    with torch.device(config.device):
        return GPT(shape)


def batch(model, rows, config):
    """A batch of random tokens, as train.py's MicroBatches."""
    V, T = model.config.vocab_size, model.config.block_size
    ids = torch.randint(V, (rows, T + 1)).tolist()
    return micro_batches([Example(row, T // 2) for row in ids], config)


def step(model, retain, forget, config, **options):
    """One step of train.unlearn, its second: no fit, unless the options (ngdiff.step's) say lazy=1.
    The learning rate is so small that all rounds measure the same model."""
    exact = replace(config, dtype="float32")
    ngdiff.step(loss_functions(model, retain, config), loss_functions(model, forget, config),
                model.parameters(), ngdiff.State(lr=1e-6, step=1), **options,
                probe_on=loss_functions(model, retain, exact) if exact != config else None)


# --------------------------------------------------------------------------- the table's rows

def speed(model, rows, config, side, n):
    """Limit, passes and steps."""
    retain, forget = (batch(model, k, config) for k in rows)
    tasks = [loss_functions(model, x, config) for x in (retain, forget)]
    params = list(model.parameters())
    x, y = torch.randn(2, side, side, device=config.device, dtype=getattr(torch, config.dtype))
    t = in_turn({
        "limit": lambda: x @ y,
        "two passes": lambda: [ngdiff.loss_and_grad(task, params) for task in tasks],
        "GDiff": lambda: step(model, retain, forget, config, method="gdiff", c=0.5),
        "NGDiff": lambda: step(model, retain, forget, config),
        "fit": lambda: step(model, retain, forget, config, lazy=1)}, n, config.device)
    t["NGDiff + AutoLR every 10th"] = 0.9 * t["NGDiff"] + 0.1 * t["fit"]
    limit = 2 * side**3 / t["limit"]
    yield Row(f"limit, {side} x {side}", median(limit) / 1e9, "GFLOP/s", n)
    rate = 3 * operations(model.config, sum(rows)) / t["two passes"]
    yield Row("products", median(rate) / 1e9, "GFLOP/s", n, median(rate / limit), "limit")
    yield Row("two passes", median(t["two passes"]) * 1e3, "ms", n)
    for name in ("GDiff", "NGDiff", "NGDiff + AutoLR every 10th"):
        ratio = median(t[name] / t["two passes"])
        yield Row(name, median(t[name]) * 1e3, "ms", n, ratio, "two passes")


def shared_rows(model, rows, config, n):
    """One worker, and all workers."""
    tasks, name = {}, f"NGDiff, {workers.count(model)} workers"
    for key, c in (("one", replace(config, micro_batch=72)), (name, config)):
        tasks[key] = partial(step, model, *(batch(model, k, c) for k in rows), c)
    t = in_turn(tasks, n)
    yield Row("NGDiff, 1 worker", median(t["one"]) * 1e3, "ms", n)
    yield Row(name, median(t[name]) * 1e3, "ms", n, median(t[name] / t["one"]), "1 worker")


def generation(model, rows, config, n):
    """Prompts of half the context, answers that fill it (no token has the id V, to stop at)."""
    V, T = model.config.vocab_size, model.config.block_size
    prompts, new = torch.randint(V, (rows, T // 2)).tolist(), T - T // 2
    with torch.autocast(config.device, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        t = in_turn({"": lambda: model.generate(prompts, new, stop=V)}, n, config.device)
    yield Row(f"generation, {rows} rows", rows * new / median(t[""]), "tokens/s", n)


def memory_row(model, peak, before):
    """peak, before: bytes held at most, and of those not by this model or its step."""
    need = 3 * sum(p.nbytes for p in model.parameters())
    return Row("peak memory", (peak - before) / 1e6, "MB", 1, (peak - before) / need,
               f"{need / 1e6:,.0f} MB")


def memory_gpu(model, rows, config):
    retain, forget = (batch(model, k, config) for k in rows)
    before = torch.cuda.memory_allocated() - sum(p.nbytes for p in model.parameters())
    torch.cuda.reset_peak_memory_stats()
    step(model, retain, forget, config, lazy=1)
    yield memory_row(model, torch.cuda.max_memory_allocated(), before)


def memory_child(config):
    """In a fresh process: the most it ever held, over what it held before the model was made."""
    def status(key):                      # Linux only; ru_maxrss would begin at the parent's peak
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith(key)) * 1024
    for shape in (TINY, BIG):             # the first loads the libraries
        before = status("VmRSS")
        model = setup(shape, config)
        step(model, batch(model, 4, config), batch(model, 4, config), config, lazy=1)
    return memory_row(model, status("VmHWM"), before)


def memory_cpu(config):
    # glibc then returns what is freed to the system at once: no holes are counted.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    for _, row in side_by_side(memory_child, [(config,)], 1, torch.get_num_threads()):
        yield row
    del os.environ["MALLOC_MMAP_THRESHOLD_"]


def show(title, *tables):
    print(f"\n{title:34} {'value':>10} {'unit':8} {'ratio':>6}  {'to':13} rounds")
    for rows in tables:
        for name, value, unit, n, ratio, to in rows:
            ratio = "" if ratio is None else f"{ratio:.3f}"
            print(f"{name:34} {value:10,.1f} {unit:8} {ratio:>6}  {to:13} {n:6}", flush=True)


def on_gpu(name, shape, rows):
    config, side, n = Config(device="cuda", dtype="bfloat16"), 8192, 21
    model = setup(shape, config)
    show(name, speed(model, (rows, rows), config, side, n),
         memory_gpu(model, (rows, rows), config), generation(model, rows, config, n // 4))
    # fullgraph: what will not compile is an error, and never quietly runs as it is.
    model = torch.compile(model, fullgraph=True, dynamic=False)
    show(f"{name}, compiled", speed(model, (rows, rows), config, side, n),
         memory_gpu(model, (rows, rows), config))


def main():
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        config = Config(device="cpu")
        model = setup(TINY, config)
        show("train.py --tiny, CPU, float32", speed(model, ROWS, config, 1024, 41),
             shared_rows(model, ROWS, config, 41), generation(model, ROWS[0], config, 10),
             memory_cpu(config))
        return
    print(f"{torch.cuda.get_device_name()}, bfloat16")
    for case in GPU:
        on_gpu(*case)
        torch.compiler.reset()
        gc.collect()


if __name__ == "__main__":
    main()
