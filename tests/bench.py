"""How fast is it, against what the machine can do?  python -m tests.bench

On the CPU: float32, the shape of train.py --tiny, about a minute on two cores. Where there is a
GPU, there instead: GPT-2 124M and XL, bfloat16 autocast over float32 parameters, as they are and
by torch.compile (which takes most of some ten minutes). Weights and tokens are random.

What is compared runs in turn, A B C A B C ..., n rounds after three to warm up. A value is the
median over rounds, a ratio the median of the rounds' own ratios to what stands under `to`: what
slows the machine for a second slows both sides.
  limit        product of two square matrices, in the type that the model's products have
  nominal      operations of a pass by the usual count: 2 x parameters x tokens forward and twice
               that backward, the tied embedding once. It credits the model with logits and last
               MLP at every position, though it computes those of labelled positions alone
  done         the matrix products it computes, attention's T x T ones included (the causal half).
               A limit for this count only. Neither counts norms, GELU, softmax and loss
  two passes   ngdiff.loss_and_grad on both batches: what no step can do without
  GDiff        two passes, d = (g_R - g_F) / 2, update: no norms, which it does not need
  NGDiff       two passes, five numbers, d, update: a step of train.py, its rows collated
  + AutoLR     the mean of nine such steps and one that fits the learning rate as well
  peak memory  most bytes held in an NGDiff step with AutoLR, to parameters + 2 gradients: above
               1 by the activations. CPU: growth of a fresh process with 27 M parameters, 4 + 4 rows
  generation   model.generate, to computing the whole prefix again for each token
  last rows    an NGDiff step by batch size, model size, and number of processes (gloo, 1 thread
               each, an equal share of the same rows each)
"""
import gc
import os
import tempfile
import time
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import torch
import torch.distributed as dist

import ngdiff
from data import Example
from model import GPT, GPTConfig
from train import Config, exact_loss, loss_parts

# Every row is block_size = T tokens long, its last T - T//2 + 1 positions labelled. Vocabulary,
# T and the rows of the retain and forget batch are train.py --tiny's.
TINY, ROWS = GPTConfig(439, 25), (216, 48)
SIZES = [("", TINY, rows) for rows in (8, 32, 128, 216)] + \
    [(f", {L} x {C}", GPTConfig(439, 25, L, 4, C), 32) for L, C in ((4, 256), (6, 384))]
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

def in_turn(tasks, n, device):
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


def operations(config, rows):
    """(nominal, done) operations of a forward pass over `rows` rows; the docstring above."""
    L, C, V, T = config.n_layer, config.n_embd, config.vocab_size, config.block_size
    n, m = rows * T, rows * (T - T // 2 + 1)             # positions, and those labelled
    parameters = V * C + T * C + L * (12 * C**2 + 13 * C) + 2 * C
    attention = L * n * (4 * C**2 + T * C)               # 4 products C x C, 2 with T/2 keys
    return 2 * parameters * n, 2 * (attention + 8 * C**2 * ((L - 1) * n + m) + V * C * m)


def autocast(device, dtype):
    return torch.autocast(device, dtype, enabled=dtype != torch.float32)


def setup(config, device="cpu", dtype=torch.float32, compiled=False):
    """A model, its parameters (float32), and parts(rows) -> a batch's loss for ngdiff.py."""
    torch.manual_seed(0)
    with torch.device(device):
        model = GPT(config)
    # fullgraph: what will not compile is an error, and never quietly runs as it is.
    forward = torch.compile(model.forward, fullgraph=True, dynamic=False) if compiled else model

    def parts(rows, micro_batch=0):
        ids = torch.randint(config.vocab_size, (rows, config.block_size + 1)).tolist()
        examples = [Example(row, config.block_size // 2) for row in ids]
        return loss_parts(forward, examples, Config(device=device, micro_batch=micro_batch,
                                                    dtype=str(dtype).removeprefix("torch.")))
    return model, list(model.parameters()), parts


def step(params, retain, forget, method="ngdiff", fit=None, world=1):
    """One step of train.py's loop; fit: AutoLR too, the passes being in this dtype; world:
    processes that share the rows."""
    loss_R, grad_R = ngdiff.loss_and_grad(retain, params)
    loss_F, grad_F = ngdiff.loss_and_grad(forget, params)
    if world > 1:
        average(grad_R, world)
        average(grad_F, world)
    a, b = 0.5, 0.5
    if method == "ngdiff":
        five = ngdiff.five_numbers(loss_R, grad_R, loss_F, grad_F)
        a, b = ngdiff.coefficients(method, five)
    d = ngdiff.direction(grad_R, grad_F, a, b)
    del grad_R, grad_F
    if fit:                               # in float32, as in train.py, whatever the passes are in
        L_R = [partial(exact_loss, retain)]
        loss_0 = five.loss_retain if fit == torch.float32 else ngdiff.loss_only(L_R)
        ngdiff.autolr(L_R, params, d, loss_0, 0.01)
    ngdiff.update(params, d, 1e-6)        # small: all rounds measure about the same model


def average(grad, world):
    """g <- its mean over processes, by hand what train.py does under torchrun; one message."""
    flat = torch.cat([g.flatten() for g in grad])
    dist.all_reduce(flat)
    for g, mean in zip(grad, (flat / world).split([g.numel() for g in grad])):
        g.copy_(mean.view_as(g))


# --------------------------------------------------------------------------- the table's rows

def speed(config, rows, made, device, dtype, side, n):
    """Limit, passes and steps."""
    _, params, parts = made
    retain, forget = map(parts, rows)
    x, y = torch.randn(2, side, side, device=device, dtype=dtype)
    t = in_turn({
        "limit": lambda: x @ y,
        "forward": lambda: ngdiff.loss_only(retain),
        "two passes": lambda: [ngdiff.loss_and_grad(task, params) for task in (retain, forget)],
        "GDiff": lambda: step(params, retain, forget, "gdiff"),
        "NGDiff": lambda: step(params, retain, forget),
        "fit": lambda: step(params, retain, forget, fit=dtype)}, n, device)
    t["NGDiff + AutoLR every 10th"] = 0.9 * t["NGDiff"] + 0.1 * t["fit"]
    limit = 2 * side**3 / t["limit"]
    yield Row(f"limit, {side} x {side}", median(limit) / 1e9, "GFLOP/s", n)
    for name, of, passes, count in (("forward", "forward", 1, rows[0]),
                                    ("forward + backward", "two passes", 3, sum(rows))):
        for kind, ops in zip(("nominal", "done"), operations(config, count)):
            rate = passes * ops / t[of]
            yield Row(f"{name}, {kind}", median(rate) / 1e9, "GFLOP/s", n, median(rate / limit),
                      "limit")
    for name, to in (("two passes", ""), ("GDiff", "two passes"), ("NGDiff", "two passes"),
                     ("NGDiff + AutoLR every 10th", "two passes"),
                     ("NGDiff + AutoLR every 10th", "NGDiff")):
        yield Row(name, median(t[name]) * 1e3, "ms", n, median(t[name] / t[to]) if to else None, to)


@torch.no_grad()
def generate_uncached(model, prompts, max_new):
    """Greedy continuations of prompts of one length, the whole prefix computed for each token."""
    tokens = torch.tensor(prompts, device=model.lm_head.weight.device)
    for _ in range(max_new):
        choice = model.lm_head(model.hidden(tokens)[:, -1]).argmax(-1, keepdim=True)
        tokens = torch.cat((tokens, choice), 1)
    return tokens[:, -max_new:].tolist()


def generation(config, rows, model, device, dtype, n):
    """Prompts of half the context, answers that fill it (no token has the id V, to stop at)."""
    V, T = config.vocab_size, config.block_size
    prompts, new = torch.randint(V, (rows, T // 2)).tolist(), T - T // 2
    with autocast(device, dtype):
        t = in_turn({"uncached": lambda: generate_uncached(model, prompts, new),
                     "cached": lambda: model.generate(prompts, new, stop=V)}, n, device)
    for name, to in (("uncached", ""), ("cached", "uncached")):
        yield Row(f"generation, {rows} rows, {name}", rows * new / median(t[name]), "tokens/s", n,
                  median(t[to] / t[name]) if to else None, to)


def sizes(cases, device, dtype, side, n):
    """An NGDiff step of each (name, config, rows of either batch), and its share of the limit."""
    x, y = torch.randn(2, side, side, device=device, dtype=dtype)
    tasks = {"limit": lambda: x @ y}
    for case in cases:
        _, params, parts = setup(case[1], device, dtype)
        tasks[str(case)] = lambda p=params, r=parts(case[2]), f=parts(case[2]): step(p, r, f)
    t = in_turn(tasks, n, device)
    for name, config, rows in cases:
        seconds = t[str((name, config, rows))]
        share = 6 * operations(config, rows)[1] / seconds * t["limit"] / (2 * side**3)
        yield Row(f"NGDiff, {rows} + {rows} rows{name}",
                  2 * rows * config.block_size / median(seconds), "tokens/s", n, median(share),
                  "limit (done)")


def memory_row(name, params, peak, before=0):
    """peak, before: bytes held at most, and of those not by this model or its step."""
    need = 3 * sum(p.nbytes for p in params)
    return Row(f"peak memory{name}", (peak - before) / 1e6, "MB", 1, (peak - before) / need,
               f"{need / 1e6:,.0f} MB")


def memory_gpu(rows, made, dtype):
    _, params, parts = made
    retain, forget = map(parts, rows)
    before = torch.cuda.memory_allocated() - sum(p.nbytes for p in params)
    torch.cuda.reset_peak_memory_stats()
    step(params, retain, forget, fit=dtype)
    yield memory_row("", params, torch.cuda.max_memory_allocated(), before)


def memory_child(micro_batch):
    """In a fresh process: the most it ever held, over what it held before the model was made."""
    def status(key):                      # Linux only; ru_maxrss would begin at the parent's peak
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith(key)) * 1024
    for config in (TINY, BIG):            # the first loads the libraries
        before = status("VmRSS")
        _, params, parts = setup(config)
        step(params, parts(4, micro_batch), parts(4, micro_batch), fit=torch.float32)
    name = f", micro-batches of {micro_batch}" if micro_batch else ""
    return memory_row(name, params, status("VmHWM"), before)


def memory_cpu():
    # glibc then returns what is freed to the system at once: no holes are counted.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    for micro_batch in (0, 1):
        with get_context("spawn").Pool(1) as pool:
            yield pool.apply(memory_child, (micro_batch,))
    del os.environ["MALLOC_MMAP_THRESHOLD_"]


def process_child(rank, world, file, n):
    """All rows in process 0, in turn with a share of them in each process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    _, params, parts = setup(TINY)
    whole, share = ([parts(rows // k) for rows in ROWS] for k in (1, world))

    def alone():
        if rank == 0:
            step(params, *whole)
        dist.barrier()
    t = in_turn({1: alone, world: lambda: step(params, *share, world=world)}, n, "cpu")
    dist.destroy_process_group()
    return t


def processes(world, n):
    with tempfile.TemporaryDirectory() as folder, get_context("spawn").Pool(world) as pool:
        jobs = [(rank, world, os.path.join(folder, "meet"), n) for rank in range(world)]
        t = pool.starmap(process_child, jobs, chunksize=1)[0]
    yield Row("NGDiff, 1 process", median(t[1]) * 1e3, "ms", n)
    yield Row(f"NGDiff, {world} processes", median(t[world]) * 1e3, "ms", n,
              median(t[world] / t[1]), "1 process")


def table(config, rows, cases, device, dtype, compiled=False, side=1024, n=41):
    """The rows that do not differ between CPU and GPU; `cases`: see `sizes`."""
    made = setup(config, device, dtype, compiled)
    yield from speed(config, rows, made, device, dtype, side, n)
    if device == "cuda":
        yield from memory_gpu(rows, made, dtype)
    if not compiled:                      # generation is not; every batch size would take minutes
        yield from generation(config, rows[0], made[0], device, dtype, max(1, n // 4))
        yield from sizes(cases, device, dtype, side, max(1, n // 4))


def show(title, *tables):
    print(f"\n{title:34} {'value':>10} {'unit':8} {'ratio':>6}  {'to':13} rounds")
    for rows in tables:
        for name, value, unit, n, ratio, to in rows:
            ratio = "" if ratio is None else f"{ratio:.3f}"
            print(f"{name:34} {value:10,.1f} {unit:8} {ratio:>6}  {to:13} {n:6}", flush=True)


def main():
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        show("train.py --tiny, CPU, float32", table(TINY, ROWS, SIZES, "cpu", torch.float32),
             memory_cpu(), processes(2, 21))
        return
    print(f"{torch.cuda.get_device_name()}, bfloat16")
    for name, config, rows in GPU:
        for compiled in (False, True):
            torch.compiler.reset()
            gc.collect()
            cases = [("", config, k) for k in (rows // 4, rows)]
            show(name + ", compiled" * compiled, table(
                config, (rows, rows), cases, "cuda", torch.bfloat16, compiled, 8192, 21))


if __name__ == "__main__":
    main()
