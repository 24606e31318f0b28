"""Workers: threads that share a batch's micro-batches, see harness/workers.py."""
import threading
import time
from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import CheckpointFunction

import data
import ngdiff
import train
from conftest import spy
from harness import measuring, workers
from model import GPT, GPTConfig
from train import Config

CPU = Config(device="cpu")


def setup(n_rows=24, threads=2):
    """A small model and rows of unequal length."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    lengths = torch.randint(6, 16, (n_rows,)).tolist()
    rows = [data.Example(torch.randint(40, (n,)).tolist(), n // 2) for n in lengths]
    return GPT(GPTConfig(40, 16, 2, 2, 16)), rows


def losses_of(model, rows, config=CPU):
    return train.loss_functions(model, train.micro_batches(rows, config), config)


def unlearned(n):
    """(numbers of ten unlearning steps, weights after them) with n workers."""
    model, rows = setup(96, n)
    params, state, found = list(model.parameters()), ngdiff.State(lr=0.05, step=1), []
    for _ in range(10):
        numbers = ngdiff.step(losses_of(model, rows[:64]), losses_of(model, rows[64:]), params,
                              state, lazy=3)
        found += numbers[:6]
    return found, params


def test_ten_steps_do_not_depend_on_the_number_of_workers():
    """Beyond rounding. The same number of workers gives the same bits."""
    one, alone = unlearned(1)
    for n in (2, 4, 8):
        (first, p), (again, q) = unlearned(n), unlearned(n)
        assert first == again and all(map(torch.equal, p, q)), f"{n} workers"
        assert first == pytest.approx(one, rel=1e-5) and first != one, "they were at work"
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(p, alone))


def test_shares_are_equal_and_hold_every_row_once():
    _, rows = setup(200, threads=4)
    batches = train.micro_batches(rows, CPU)
    n_tokens = sum(len(batch.rows.labels) for batch in batches)
    assert len(batches) % 4 == 0 and n_tokens == batches[0].n_tokens
    work = [sum(batch.rows.tokens.numel() for batch in batches[k::4]) for k in range(4)]
    assert max(work) < 1.1 * min(work)
    assert len(train.micro_batches(rows[:20], CPU)) == 2, "not fewer than 8 rows a worker"


def test_with_one_worker_each_micro_batch_is_a_loss_as_it_is():
    """With one thread, on a GPU ("meta" stands for it), for a large model, with --micro_batch."""
    model, rows = setup()
    assert len(losses_of(model, rows)) == 1
    assert len(losses_of(model, rows, replace(CPU, micro_batch=10))) == 3
    for n, layer in ((2, torch.nn.Linear(4096, 4096)), (1, torch.nn.Linear(3, 3)),
                     (2, torch.nn.Linear(3, 3, device="meta"))):
        torch.set_num_threads(n)
        losses = workers.shared(lambda *args: args, layer, [0, 1, 2], "rest")
        assert [loss() for loss in losses] == [(layer, i, "rest") for i in range(3)]


def test_every_worker_has_a_share_of_the_threads_and_the_caller_keeps_its_own():
    torch.set_num_threads(5)
    barrier = threading.Barrier(2)

    def look(job):
        barrier.wait(300)                         # both at once
        return torch.get_num_threads()
    assert workers.side_by_side(look, [0, 1], 2) == [2, 2] and torch.get_num_threads() == 5


def test_a_worker_keeps_its_threads_when_another_asks_for_more_before_it_begins():
    """Or its first operations are split otherwise: other bits, now and then."""
    ours, other = (workers.pool.__wrapped__(1, n) for n in (1, 3))
    for pool in ours, other:                               # in turn: they begin, without torch
        pool.submit(int).result()
    assert [pool.submit(torch.get_num_threads).result() for pool in (ours, other)] == [1, 3]


def test_an_error_in_a_worker_comes_out_and_no_thread_is_left_at_work():
    torch.set_num_threads(2)
    model, ended, both = torch.nn.ParameterList([torch.ones(3)]), [], threading.Barrier(2)

    def loss(model, batch):
        both.wait(300)                            # what has not begun would be cancelled
        if batch == "bad":
            raise FloatingPointError("loss inf")
        time.sleep(0.05)                          # meanwhile the other one has failed
        ended.append(batch)
        return (model[0] ** 2).sum()
    for mode in (torch.enable_grad, torch.no_grad):
        for batches in (["bad", "good"], ["good", "bad"]):
            with mode(), pytest.raises(FloatingPointError, match="loss inf"):
                workers.shared(loss, model, batches)[0]()
            assert ended.pop() == "good" and not ended
    value, (grad,) = ngdiff.loss_and_grad(workers.shared(loss, model, "ab"), [model[0]])
    assert float(value) == 6 and grad.tolist() == [4, 4, 4]


def test_workers_make_a_graph_only_where_gradients_are_asked_for(monkeypatch):
    model, rows = setup()
    modes = spy(monkeypatch, train, "mean_loss", lambda *_: torch.is_grad_enabled())
    loss, = workers.shared(train.mean_loss, model, train.micro_batches(rows, CPU), CPU)
    with torch.no_grad():
        assert not loss().requires_grad
    assert loss().requires_grad and modes == [False, False, True, True]


def test_parameters_of_every_kind_get_the_gradient_of_all_shares():
    """Autograd hands out one tensor for a and b, and an expanded one for c; d is seen only through
    a reentrant checkpoint; e is frozen, f out of reach. No worker leaves a trace."""
    torch.set_num_threads(2)
    model = torch.nn.ParameterDict({name: torch.ones(2) for name in "abcdef"})
    model["e"].requires_grad_(False)

    def loss(model, factor):
        a, b, c, d, e, _ = model.values()
        seen = CheckpointFunction.apply(lambda x: x * d, True, torch.ones(2, requires_grad=True))
        assert not e.requires_grad
        return factor * ((a + b + e).prod() + c.sum() + seen.sum())
    total = 2 * workers.shared(loss, model, [1, 2, 3])[0]()
    assert all(p.grad is None for p in model.values())
    total.backward()
    assert total.item() == 2 * 6 * 13
    grad = [p.grad if p.grad is None else p.grad.tolist() for p in model.values()]
    assert grad == [[36, 36], [36, 36], [12, 12], [12, 12], None, None]


def test_measured_losses_do_not_depend_on_the_number_of_workers():
    found = [measuring.token_losses(*setup(70, n)) for n in (1, 2, 4)]
    lengths = [len(e.tokens) - e.n_prompt for e in setup(70)[1]]
    for losses in found:
        assert list(map(len, losses)) == lengths
        assert all(x == pytest.approx(y, rel=1e-5) for x, y in zip(losses, found[0]))
