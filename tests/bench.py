"""How fast is it, against what the machine can do?  python -m tests.bench

One table, measured in one run, medians. The limit is the float32 product of two 1024 x 1024
matrices with the same threads; the shapes are those of --tiny's kind: 2 layers, 128 wide, 4
heads, 64 rows of 28 tokens of which half are labelled, vocabulary 508. Operations are counted as
6 x parameters x tokens, the tied embedding once, though the logits (and the last block's MLP) of
unlabelled positions are never computed: a share above what the matrix products alone allow is
that.
"""
import resource
import time

import torch

import ngdiff
from data import Example, collate
from model import GPT, GPTConfig

B, T, V = 64, 28, 508


def median_seconds(f, n=60):
    for _ in range(5):
        f()
    times = []
    for _ in range(n):
        t0 = time.perf_counter()
        f()
        times.append(time.perf_counter() - t0)
    return sorted(times)[n // 2]


def rows(n, seed):
    g = torch.Generator().manual_seed(seed)
    return [Example(torch.randint(0, V, (T + 1,), generator=g).tolist(), T // 2 + 1)
            for _ in range(n)]


def ngdiff_step(model, params, retain, forget, state, fit):
    """One step as in train.py; fit: with one AutoLR fit."""
    loss_R, grad_R = ngdiff.loss_and_grad(retain, params)
    loss_F, grad_F = ngdiff.loss_and_grad(forget, params)
    five = ngdiff.five_numbers(loss_R, grad_R, loss_F, grad_F)
    d = ngdiff.direction(grad_R, grad_F, *ngdiff.coefficients("ngdiff", five))
    if fit:
        ngdiff.autolr(retain, params, d, five.loss_retain, state["lr"])
    ngdiff.update(params, d, 1e-6)


def main():
    torch.manual_seed(0)
    model = GPT(GPTConfig(V, T + 8))
    params, batches = list(model.parameters()), [collate(rows(B, seed)) for seed in (1, 2)]
    retain, forget = ([lambda b=b: model(b).double().mean()] for b in batches)
    n = sum(p.numel() for p in params)
    x, y = torch.randn(2, 1024, 1024)

    def both_passes():
        for parts in (retain, forget):
            ngdiff.loss_and_grad(parts, params)

    def forward():
        with torch.no_grad():
            retain[0]()
    limit = 2 * 1024**3 / median_seconds(lambda: x @ y)
    t_forward = median_seconds(forward)
    t_pass = median_seconds(lambda: ngdiff.loss_and_grad(retain, params))
    t_both = median_seconds(both_passes)
    t_step = median_seconds(lambda: ngdiff_step(model, params, retain, forget, {}, False))
    t_fit = median_seconds(lambda: ngdiff_step(model, params, retain, forget, {"lr": 0.1}, True))
    prompts = [e.tokens[:8] for e in rows(256, 3)]
    t_generate = median_seconds(lambda: model.generate(prompts, 20, stop=V), 10)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {n:,} parameters")
    flops = 6 * n * B * T
    for name, value in {
            "matrix product 1024^3, the limit": f"{limit / 1e9:8.1f} GFLOP/s",
            "forward": f"{flops / 3 / t_forward / 1e9:8.1f} GFLOP/s  "
                       f"{flops / 3 / t_forward / limit:6.1%} of the limit",
            "forward + backward": f"{flops / t_pass / 1e9:8.1f} GFLOP/s  "
                                  f"{flops / t_pass / limit:6.1%} of the limit",
            "two forward + backward passes": f"{t_both * 1e3:8.2f} ms",
            "NGDiff step": f"{t_step * 1e3:8.2f} ms       {t_step / t_both:6.3f} x the two passes",
            "   with AutoLR every 10th step": f"{(0.9 * t_step + 0.1 * t_fit) * 1e3:8.2f} ms       "
            f"{0.9 + 0.1 * t_fit / t_step:6.3f} x the step without",
            "generation, 256 rows, cached": f"{256 * 20 / t_generate:8.0f} tokens/s",
            "peak memory": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.0f} MB"
    }.items():
        print(f"{name:34} {value}")


if __name__ == "__main__":
    main()
