"""Workers: threads that share a batch's micro-batches, see harness/workers.py."""
import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

import data
import ngdiff
import train
from harness import measuring, workers
from model import GPT, GPTConfig
from train import Config

CPU = Config(device="cpu")


@pytest.fixture
def threads():
    """A function that sets the number of torch's threads, and so of workers, for this test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def setup(n_rows=24):
    """A small model and rows of unequal length."""
    torch.manual_seed(0)
    lengths = torch.randint(6, 16, (n_rows,)).tolist()
    rows = [data.Example(torch.randint(40, (n,)).tolist(), n // 2) for n in lengths]
    return GPT(GPTConfig(40, 16, 2, 2, 16)), rows


def losses_of(model, rows, config=CPU):
    return train.loss_functions(model, train.micro_batches(rows, config), config)


def trained(n):
    """(losses of ten training steps, weights after them) with n workers."""
    torch.set_num_threads(n)
    (model, rows), losses = setup(32), []
    params = list(model.parameters())
    for _ in range(10):
        loss, grad = ngdiff.loss_and_grad(losses_of(model, rows), params)
        ngdiff.update(params, grad, 0.3)
        losses.append(float(loss))
    return losses, params


def unlearned(n):
    """(numbers of ten unlearning steps, weights after them) with n workers."""
    torch.set_num_threads(n)
    model, rows = setup(96)
    params, state, found = list(model.parameters()), ngdiff.State(lr=0.05, step=1), []
    for _ in range(10):
        numbers = ngdiff.step(losses_of(model, rows[:64]), losses_of(model, rows[64:]), params,
                              state, lazy=3)
        found += numbers[:5] + (numbers.lr,)
    return found, params


@pytest.mark.parametrize("run", [trained, unlearned])
def test_ten_steps_do_not_depend_on_the_number_of_workers(threads, run):
    """Beyond rounding. The same number of workers gives the same bits."""
    (one, p), (two, q) = run(1), run(2)
    assert one == pytest.approx(two, rel=1e-5) and one != two, "two workers were at work"
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(p, q))
    for n in (2, 4, 8):
        (first, p), (again, q) = run(n), run(n)
        assert first == again and first == pytest.approx(one, rel=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(p, q)), f"{n} workers"


def test_shares_are_equal_and_hold_every_row_once(threads):
    threads(4)
    _, rows = setup(200)
    batches = train.micro_batches(rows, CPU)
    sizes = [len(b.labels) for b in (batch.rows for batch in batches)]
    assert len(batches) % 4 == 0 and sum(sizes) == batches[0].n_tokens
    work = [sum(batch.rows.tokens.numel() for batch in batches[k::4]) for k in range(4)]
    assert max(work) < 1.1 * min(work)
    assert len(train.micro_batches(rows[:20], CPU)) == 2, "not fewer than 8 rows a worker"


def test_one_worker_has_the_losses_as_they_are(threads):
    """With one thread, on a GPU ("meta" stands for it), for a large model, with --micro_batch."""
    threads(2)
    model, rows = setup()
    assert len(losses_of(model, rows)) == 1
    assert len(losses_of(model, rows, replace(CPU, micro_batch=10))) == 3
    losses = [lambda: torch.ones(())] * 3
    assert workers.shared(losses, torch.nn.Linear(4096, 4096)) is losses
    assert workers.shared(losses, torch.nn.Linear(3, 3, device="meta")) is losses
    threads(1)
    assert workers.shared(losses, model) is losses


def test_every_worker_has_a_share_of_the_threads_and_the_caller_keeps_its_own(threads):
    threads(5)
    barrier = threading.Barrier(2)

    def look(job):
        barrier.wait(10)                          # both at once
        return torch.get_num_threads()
    assert workers.side_by_side(look, [0, 1], 2) == [2, 2] and torch.get_num_threads() == 5


def test_an_error_in_a_worker_comes_out_and_no_thread_is_left_at_work(threads):
    threads(2)
    model, ended = torch.nn.ParameterList([torch.ones(3)]), []

    def good():
        time.sleep(0.05)                          # the other one has failed
        ended.append("good")
        return (model[0] ** 2).sum()

    def bad():
        raise FloatingPointError("loss inf")
    for mode in (torch.enable_grad, torch.no_grad):
        for losses in ([bad, good], [good, bad]):
            with mode(), pytest.raises(FloatingPointError, match="loss inf"):
                workers.shared(losses, model)[0]()
    assert ended == 4 * ["good"]
    loss, (grad,) = ngdiff.loss_and_grad(workers.shared([good, good], model), [model[0]])
    assert float(loss) == 6 and grad.tolist() == [4, 4, 4]


def test_a_probe_restores_the_parameters_and_makes_no_graph(threads):
    threads(2)
    model, rows = setup()
    params, modes = list(model.parameters()), []

    def watched(loss):
        modes.append(torch.is_grad_enabled())
        return loss()
    one = losses_of(model, rows, replace(CPU, micro_batch=12))
    two = workers.shared([partial(watched, loss) for loss in one], model)
    before, d = [p.detach().clone() for p in params], [torch.ones_like(p) for p in params]
    assert ngdiff.probe(two, params, d, 0.01) == pytest.approx(
        ngdiff.probe(one, params, d, 0.01), rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(params, before))
    with torch.no_grad():
        assert not two[0]().requires_grad
    assert modes == 6 * [False]
    assert two[0]().requires_grad and modes[6:] == 2 * [True]


def test_parameters_that_share_a_gradient_and_those_out_of_reach(threads):
    """Autograd hands out one tensor for a and b, and an expanded one for c; frozen stays frozen."""
    threads(2)
    model = torch.nn.ParameterDict({k: torch.ones(2) for k in ("a", "b", "c", "unused", "frozen")})
    model["frozen"].requires_grad_(False)
    part = lambda: (model["a"] + model["b"] + model["frozen"]).prod() + model["c"].sum()
    loss = 2 * workers.shared([part] * 3, model)[0]()
    loss.backward()
    assert loss.item() == 66
    grad = {k: p.grad if p.grad is None else p.grad.tolist() for k, p in model.items()}
    assert grad == {"a": [18, 18], "b": [18, 18], "c": [6, 6], "unused": [0, 0], "frozen": None}


def test_measured_losses_do_not_depend_on_the_number_of_workers(threads):
    model, rows = setup(70)
    found = []
    for n in (1, 2, 4):
        threads(n)
        found.append(measuring.token_losses(model, rows))
        assert all(len(x) == len(e.tokens) - e.n_prompt for x, e in zip(found[-1], rows))
        assert all(x == pytest.approx(y, rel=1e-5) for x, y in zip(found[-1], found[0]))
