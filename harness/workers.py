"""Micro-batches side by side: each worker, a Python thread, evaluates its share of a loss.

The operations of a small model are too small for torch to split them well over several threads.
So the rows are split instead: a worker takes some of the micro-batches, and nobody waits inside
an operation. ngdiff.py need not know: `shared` makes one loss function of many.
"""
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial

import torch

MOST = 8          # workers: Python runs only one of them at a time, between torch's operations
LEAST = 8         # rows a worker: with fewer, this Python is most of the work
LARGE = 2**24     # parameters: beyond, torch splits operations as well, and gradients take memory


def ways(n_rows):
    """How many workers share so many rows of a batch."""
    return max(1, min(torch.get_num_threads(), MOST, n_rows // LEAST))


def count(model):
    """How many workers evaluate a model's losses: one on a GPU or for a LARGE model, otherwise
    as many as torch has threads, and MOST at most. Each has up to two gradients in memory."""
    params = list(model.parameters())
    many = params[0].device.type == "cpu" and sum(p.numel() for p in params) <= LARGE
    return min(torch.get_num_threads(), MOST) if many else 1


@cache
def pool(n, threads):
    """n Python threads with `threads` torch threads each (torch counts them by Python thread)."""
    return ThreadPoolExecutor(n, "worker", torch.set_num_threads, (threads,))


def side_by_side(function, jobs, n):
    """[function(job) for job in jobs], in n Python threads that divide torch's threads equally.

    Grad mode and autocast do not reach these threads: function must set both. If it raises, so
    does this, after all threads have ended what they had begun.
    """
    n = min(n, len(jobs))
    if n <= 1:
        return [function(job) for job in jobs]
    threads = pool(n, max(1, torch.get_num_threads() // n))
    futures = [threads.submit(function, job) for job in jobs]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


# --------------------------------------------------------------------------- a loss

def shared(losses, model):
    """A list of functions with the same sum as `losses`: one function, which n workers evaluate
    together, or with one worker the losses themselves.

    losses: functions as ngdiff.py takes them; worker k takes every n-th of them, from the k-th on.
    model: all its parameters that require a gradient get one from backward(). The shares are added
    in a fixed order: the same number of workers gives the same bits.
    """
    n = count(model)
    shares = [losses[k::n] for k in range(min(n, len(losses)))]
    params = [p for p in model.parameters() if p.requires_grad]
    return [partial(evaluate, shares, params)] if len(shares) > 1 else losses


def evaluate(shares, params):
    """The loss (0-dim tensor) whose shares are lists of functions."""
    if torch.is_grad_enabled():
        return Sum.apply(shares, *params)
    return sum(side_by_side(value, shares, len(shares)))


@torch.no_grad()
def value(share):
    """The sum of some losses, by forward passes only."""
    return sum(loss() for loss in share)


@torch.enable_grad()
def value_and_grad(params, share):
    """The sum of some losses, and its gradient: a list of tensors shaped as params."""
    total, grad = 0.0, [torch.zeros_like(p) for p in params]
    for loss in share:
        part = loss()
        # Not by backward(): all workers would add into the same p.grad, in any order.
        for g, new in zip(grad, torch.autograd.grad(part, params, allow_unused=True)):
            if new is not None:
                g += new
        total = total + part.detach()
    return total, grad


class Sum(torch.autograd.Function):
    """The sum of all shares, for a graph: each worker computes its gradient at once, together with
    the value, and backward() only hands over the sum."""

    @staticmethod
    def forward(ctx, shares, *params):
        (loss, ctx.grad), *others = side_by_side(partial(value_and_grad, params), shares,
                                                 len(shares))
        for value, grad in others:
            loss = loss + value
            for g, new in zip(ctx.grad, grad):
                g += new
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, factor):
        grad, ctx.grad = ctx.grad, None
        return None, *(g.mul_(factor) for g in grad)
