"""Micro-batches side by side: each worker, a Python thread, evaluates its share of a loss.

The operations of a small model are too small for torch to split them well over several threads.
So the rows are split instead: a worker takes some of the micro-batches, and no thread waits inside
an operation. ngdiff.py does not see this: `shared` makes one loss function of many.
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
    as many as torch has threads, and MOST at most. Each holds a gradient in memory."""
    params = list(model.parameters())
    many = params[0].device.type == "cpu" and sum(p.numel() for p in params) <= LARGE
    return min(torch.get_num_threads(), MOST) if many else 1


@cache
def pool(n, threads):
    """n Python threads with `threads` torch threads each."""
    return ThreadPoolExecutor(n, "worker", set_threads, (threads,))


def set_threads(n):
    """Give this Python thread n torch threads. At a thread's first operation torch resets its
    number to the last one set in any thread; get_num_threads counts as that operation."""
    torch.get_num_threads()
    torch.set_num_threads(n)


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

def shared(loss, model, batches, *rest, one=False):
    """Functions, as ngdiff.py takes them, that add up to loss(model, batch, *rest) over all
    batches: one function that all workers evaluate together; or, with one worker (if `one` or
    `count` says so), a function for each batch.

    Worker k takes every n-th batch, from the k-th on. The shares are added in a fixed order: the
    same number of workers gives the same bits.
    """
    n = 1 if one else min(count(model), len(batches))
    if n <= 1:
        return [partial(loss, model, batch, *rest) for batch in batches]
    return [partial(evaluate, loss, model, [batches[k::n] for k in range(n)], rest)]


def evaluate(loss, model, shares, rest):
    """The loss (0-dim tensor) of all shares, which are lists of batches."""
    if torch.is_grad_enabled():
        return Sum.apply(loss, model, shares, rest, *model.parameters())
    return sum(side_by_side(partial(value, loss, model, rest), shares, len(shares)))


@torch.no_grad()
def value(loss, model, rest, share):
    """The loss of one share, by forward passes only."""
    return sum(loss(model, batch, *rest) for batch in share)


@torch.enable_grad()
def value_and_grad(loss, model, rest, share):
    """The loss of one share, and its gradient: a tensor, or None, for each parameter."""
    # backward() adds into p.grad, so each worker needs a p of its own. (autograd.grad would need
    # none, but it does not see parameters in a reentrant checkpoint.)
    own = {p: torch.nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    model, total = twin(model, own), 0.0
    for batch in share:
        part = loss(model, batch, *rest)
        part.backward()
        total = total + part.detach()
    return total, [p.grad for p in own.values()]


def twin(module, own):
    """A module like this one, with own[p] in place of each parameter p; all else is the same."""
    new = object.__new__(type(module))
    vars(new).update(
        vars(module), _parameters={k: own.get(p) for k, p in module._parameters.items()},
        _modules={k: child and twin(child, own) for k, child in module._modules.items()})
    return new


class Sum(torch.autograd.Function):
    """The sum of all shares, for a graph: each worker computes its gradient at once, together with
    the value, and backward() only hands over their sum."""

    @staticmethod
    def forward(ctx, loss, model, shares, rest, *params):
        found = side_by_side(partial(value_and_grad, loss, model, rest), shares, len(shares))
        total, ctx.grad = found[0]
        for part, grad in found[1:]:
            total = total + part
            for i, new in enumerate(grad):
                if new is not None:
                    ctx.grad[i] = new if ctx.grad[i] is None else ctx.grad[i].add_(new)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, factor):
        grad, ctx.grad = ctx.grad, None
        return None, None, None, None, *(g if g is None else g.mul_(factor) for g in grad)
