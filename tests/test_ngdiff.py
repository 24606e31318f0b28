"""ngdiff.py: what the method must satisfy, on quadratics whose gradients are known, on the GPT, and
on a module that is no language model."""
import copy
import math
import textwrap
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import ngdiff
from data import collate, Example
from model import GPT, GPTConfig
from ngdiff import Numbers, State, coefficients, five_numbers


def quadratics(dim=20, seed=0):
    """L_R and L_F = 1/2 (x - m)' A (x - m), float64: (x, [A, B], [centres], closures)."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(dim, generator=g, dtype=torch.float64).requires_grad_()
    matrices, centres, losses = [], [], []
    for _ in range(2):
        q = torch.linalg.qr(torch.randn(dim, dim, generator=g, dtype=torch.float64))[0]
        A = q @ torch.diag(torch.logspace(0, 2, dim, dtype=torch.float64)) @ q.T
        m = torch.randn(dim, generator=g, dtype=torch.float64)
        matrices.append(A), centres.append(m)
        losses.append(lambda A=A, m=m: 0.5 * (x - m) @ A @ (x - m))
    return x, matrices, centres, losses


def look(x, losses, method="ngdiff", c=0.5):
    """(five numbers, direction) at x, by ngdiff.py's pieces."""
    (loss_R, g_R), (loss_F, g_F) = (ngdiff.loss_and_grad([loss], [x]) for loss in losses)
    five = five_numbers(loss_R, g_R, loss_F, g_F)
    return five, ngdiff.direction(g_R, g_F, *coefficients(method, five, c))


# ---- gradients and the five numbers

def test_gradients_and_five_numbers_are_those_of_the_quadratics():
    x, (A, B), (r, f), losses = quadratics()
    (_, g_R), (_, g_F) = (ngdiff.loss_and_grad([loss], [x]) for loss in losses)
    exact_R, exact_F = A @ (x.detach() - r), B @ (x.detach() - f)
    assert torch.allclose(g_R[0], exact_R, rtol=1e-12) and torch.allclose(g_F[0], exact_F)
    five, _ = look(x, losses)
    assert five.norm_retain == pytest.approx(exact_R.norm().item(), rel=1e-12)
    assert five.norm_forget == pytest.approx(exact_F.norm().item(), rel=1e-12)
    assert five.dot == pytest.approx((exact_R @ exact_F).item(), rel=1e-12)
    assert five.loss_retain == pytest.approx(losses[0]().item())
    assert x.grad is None, "gradients are lists, never hidden in .grad"


def test_five_numbers_are_summed_in_float64():
    """In float32, a million products of 1e-3 beside one of 1e3 would lose digits. The large tensor
    is summed in two pieces."""
    big = torch.full((2**20 + 3,), 1e-3)
    big[0] = 1e3
    r, f = [big, torch.randn(4, 3)], [-big, torch.randn(4, 3)]
    five = five_numbers(1.0, r, 2.0, f)
    R, F = (torch.cat([x.flatten().double() for x in g]) for g in (r, f))
    # 1e-10: what float64 leaves with any order of summation; float32 is off by 1e-6 or more
    assert five[:5] == pytest.approx((1, 2, R.norm().item(), F.norm().item(), (R @ F).item()),
                                     rel=1e-10)


class OnApple(torch.Tensor):
    """A float32 tensor of a device without float64, as Apple's GPU is, acted by the CPU."""
    device = torch.device("mps")

    def double(self):
        raise TypeError("the MPS framework doesn't support float64")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_device_without_float64_sums_on_the_cpu():
    g = torch.randn(2, 5)
    there = [x.as_subclass(OnApple) for x in (torch.tensor(1.0), *g, torch.tensor(2.0))]
    assert five_numbers(there[0], [there[1]], there[3], [there[2]]) == five_numbers(
        torch.tensor(1.0), [g[0]], torch.tensor(2.0), [g[1]])


def test_norm_is_the_global_one_over_all_parameters():
    five = five_numbers(1.0, [torch.tensor([3.0]), torch.tensor([[4.0]])],
                        1.0, [torch.tensor([0.0]), torch.tensor([[2.0]])])
    assert (five.norm_retain, five.norm_forget, five.dot) == (5.0, 2.0, 8.0)


def test_a_number_that_is_not_finite_is_reported_with_all_five():
    with pytest.raises(FloatingPointError, match="loss_retain.*norm_forget"):
        five_numbers(float("nan"), [torch.ones(1)], 1.0, [torch.ones(1)])
    with pytest.raises(FloatingPointError, match="norm_retain"):
        five_numbers(1.0, [torch.full((1,), math.inf)], 1.0, [torch.ones(1)])


def unequal_examples(n=7):
    g = torch.Generator().manual_seed(1)
    return [Example(torch.randint(0, 40, (5 + 2 * i,), generator=g).tolist(), 2 + i % 3)
            for i in range(n)]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_micro_batched_gradient_is_the_whole_batchs(size):
    """Rows of unequal length weigh by their answer tokens, however they are split."""
    torch.manual_seed(0)
    model, rows = GPT(GPTConfig(40, 32, 2, 2, 16)).double(), unequal_examples()
    params, n_tokens = list(model.parameters()), len(collate(rows).labels)
    loss, grad = ngdiff.loss_and_grad(lambda: model(collate(rows)).mean(), params)
    loss_m, grad_m = ngdiff.loss_and_grad(
        [lambda some=rows[i:i + size]: model(collate(some)).sum() / n_tokens
         for i in range(0, len(rows), size)], params)
    assert float(loss_m) == pytest.approx(float(loss), rel=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-14) for a, b in zip(grad, grad_m))


def test_micro_batches_add_up_in_one_gradient_and_leave_none_behind():
    """However many parts: one list of gradients is made, and p.grad is empty again after it. A loss
    that is only looked at makes no graph."""
    x, seen, modes = torch.randn(5, requires_grad=True), [], []

    def part():
        seen.append(None if x.grad is None else x.grad.data_ptr())
        modes.append(torch.is_grad_enabled())
        return (x * x).sum()
    x.grad = torch.ones(5)                        # what somebody left there is not counted in
    loss, (grad,) = ngdiff.loss_and_grad([part] * 3, [x])
    assert seen == [None, grad.data_ptr(), grad.data_ptr()] and x.grad is None
    assert torch.allclose(grad, 6 * x) and float(loss) == pytest.approx(3 * (x @ x).item())
    assert ngdiff.loss_only([part] * 3) == pytest.approx(float(loss))
    assert modes == 3 * [True] + 3 * [False]


# ---- directions

def test_ngdiff_identities():
    """g_R.d = |g_R| (1 - cos) >= 0 >= g_F.d = -|g_F| (1 - cos);  |d|^2 = 2 (1 - cos)."""
    for seed in range(5):
        x, (A, B), (r, f), losses = quadratics(seed=seed)
        five, (d,) = look(x, losses)
        g_R, g_F = A @ (x.detach() - r), B @ (x.detach() - f)
        cos = torch.cosine_similarity(g_R, g_F, dim=0).item()
        assert five.cos == pytest.approx(cos, rel=1e-9)
        assert (g_R @ d).item() == pytest.approx(g_R.norm().item() * (1 - cos), rel=1e-9)
        assert (g_F @ d).item() == pytest.approx(-g_F.norm().item() * (1 - cos), rel=1e-9)
        assert (d @ d).item() == pytest.approx(2 * (1 - cos), rel=1e-9)


def test_a_small_ngdiff_step_lowers_the_retain_loss_and_raises_the_forget_loss():
    for seed in range(5):
        x, _, _, losses = quadratics(seed=seed)
        before = [loss().item() for loss in losses]
        _, d = look(x, losses)
        ngdiff.update([x], d, 1e-4)
        after = [loss().item() for loss in losses]
        assert after[0] < before[0] and after[1] > before[1]


def path(method, scale, steps=30):
    x, _, _, (loss_R, loss_F) = quadratics(seed=3)
    points = []
    for _ in range(steps):
        _, d = look(x, [loss_R, lambda: scale * loss_F()], method)
        ngdiff.update([x], d, 1e-3)
        points.append(x.detach().clone())
    return torch.stack(points)


def test_multiplying_a_loss_by_1000_leaves_ngdiffs_path_alone_but_not_gdiffs():
    assert torch.allclose(path("ngdiff", 1), path("ngdiff", 1000), rtol=0, atol=1e-12)
    assert (path("gdiff", 1) - path("gdiff", 1000)).abs().max() > 1


def weighted(method, g_R, g_F, loss_R=2.0, loss_F=5.0, c=0.5):
    five = five_numbers(loss_R, [g_R], loss_F, [g_F])
    return ngdiff.direction([g_R.clone()], [g_F], *coefficients(method, five, c))[0]


def pairs():
    """21 pairs of random gradients; the first one is longer, as long, or shorter."""
    g = torch.Generator().manual_seed(4)
    for scale in (10, 1, 0.1) * 7:
        R, F = torch.randn(2, 6, generator=g, dtype=torch.float64)
        yield scale * R, F


def test_every_method_is_its_own_formula():
    """d is g_R for retain, -g_F for ga, g_R / |g_R| - g_F / |g_F| for ngdiff. More tests below."""
    for R, F in pairs():
        assert torch.allclose(weighted("retain", R, F), R)
        assert torch.allclose(weighted("ga", R, F), -F)
        assert torch.allclose(weighted("ngdiff", R, F), R / R.norm() - F / F.norm())
    with pytest.raises(ValueError):
        coefficients("sgd", Numbers(1, 1, 1, 1, 0))


def test_gradient_difference_weighs_the_retain_gradient_by_c():
    for R, F in pairs():
        assert torch.allclose(weighted("gdiff", R, F, c=0.9), 0.9 * R - 0.1 * F)


def test_lossnorm_divides_each_gradient_by_its_own_loss():
    for R, F in pairs():
        assert torch.allclose(weighted("lossnorm", R, F, loss_R=2.0, loss_F=5.0), R / 2 - F / 5)


def test_pcgrad_takes_from_each_gradient_its_part_along_the_other():
    """Where g_R and h = -g_F conflict, PCGrad takes from each its part along the other."""
    for R, F in pairs():
        h = -F
        expected = (R - (R @ h) / (h @ h) * h) + (h - (h @ R) / (R @ R) * R) if R @ h < 0 else R + h
        assert torch.allclose(weighted("pcgrad", R, F), expected)


def test_mgda_is_the_shortest_of_its_kind():
    """MGDA is the shortest of all w g_R - (1 - w) g_F, 0 <= w <= 1. Found by trying 2001 w's."""
    w = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    for R, F in pairs():
        shortest = (w * R - (1 - w) * F).norm(dim=1).min().item()
        assert weighted("mgda", R, F).norm().item() <= shortest + 1e-12
        assert weighted("mgda", R, F).norm().item() == pytest.approx(shortest, abs=1e-4)


@pytest.mark.parametrize("numbers, weights", [
    (Numbers(1, 1, 2.0, 3.0, 0.0), (1.0, 1.0)), (Numbers(1, 1, 2.0, 3.0, -5.0), (1.0, 1.0)),
    (Numbers(1, 1, 2.0, 4.0, 4.0), (2.0, 1.25)), (Numbers(1, 1, 0.0, 0.0, 0.0), (1.0, 1.0))])
def test_pcgrad_changes_nothing_unless_the_gradients_conflict(numbers, weights):
    """PCGrad's weights are 1 and 1 unless dot > 0: then g_R and -g_F conflict."""
    assert coefficients("pcgrad", numbers) == weights


@pytest.mark.parametrize("numbers, w", [
    (Numbers(1, 1, 2.0, 2.0, 0.0), 0.5), (Numbers(1, 1, 1.0, 3.0, -2.0), 1.0),
    (Numbers(1, 1, 3.0, 1.0, -2.0), 0.0), (Numbers(1, 1, 2.0, 2.0, -4.0), 0.5),
    (Numbers(1, 1, 1.0, 2.0, 1.0), 5 / 7)])
def test_mgda_stays_on_the_segment(numbers, w):
    """MGDA's w lies between 0 and 1; it is 1/2 where g_R + g_F = 0."""
    assert coefficients("mgda", numbers) == pytest.approx((w, 1 - w))


@pytest.mark.parametrize("loss_R, loss_F", [(0.0, 1), (1, 0.0), (1, -1), (1e-42, 1), (1, 1e-42)])
def test_lossnorm_has_no_direction_where_a_loss_is_0_or_negative(loss_R, loss_F):
    """Losses of 0, below 0, and so small that 1 / loss would be infinite in float32."""
    with pytest.raises(ngdiff.Stationary):
        coefficients("lossnorm", Numbers(loss_R, loss_F, 1, 1, 0))


def test_reasons_for_having_no_direction_are_told_apart():
    with pytest.raises(ngdiff.Stationary, match=r"norm_retain\D*0.*norm_forget\D*1"):
        coefficients("ngdiff", Numbers(1, 1, 0.0, 1, 0))
    with pytest.raises(ngdiff.Stationary, match=r"norm_retain\D*1.*norm_forget\D*0"):
        coefficients("ngdiff", Numbers(1, 1, 1, 0.0, 0))
    with pytest.raises(ngdiff.Stationary):
        coefficients("ngdiff", Numbers(1, 1, 2.0, 3.0, 6.0))
    assert coefficients("ngdiff", Numbers(1, 1, 2.0, 4.0, -8.0)) == (0.5, 0.25), "opposite is fine"
    assert coefficients("ngdiff", Numbers(1, 1, 1.0, 1.0, 1 - 1e-9)) == (1, 1), "nearly alike too"
    assert Numbers(1, 1, 0.0, 1.0, 0.0).cos == 0


def test_a_gradient_too_small_for_float32_is_no_direction_instead_of_infinity():
    for numbers in (Numbers(1, 1, 3.7e-42, 1.0, 0.0), Numbers(1, 1, 1.0, 3.7e-42, 0.0)):
        with pytest.raises(ngdiff.Stationary):
            coefficients("ngdiff", numbers)
    assert Numbers(1, 1, 0.0, 1.0, 1e-300).cos == 0, "a norm may underflow where dot does not"


def test_the_direction_takes_the_memory_of_the_retain_gradient():
    g_R, g_F = [torch.ones(4)], [torch.full((4,), 2.0)]
    given = g_R[0]
    d = ngdiff.direction(g_R, g_F, 3.0, 0.5)
    assert d[0] is given and d[0].tolist() == [2.0] * 4 and g_F[0].tolist() == [2.0] * 4


# ---- what is raised in L_F's place

def test_npo_is_one_value_a_row():
    """By hand: (2 / beta) log sigma(beta (l - l_target)); log 1/2 where the losses are equal. It
    stays finite far below the target."""
    rows, target = torch.tensor([[5.0, 8.0, 2.0], [5.0, 5.0, 5.0]], dtype=torch.float64)
    for beta in (0.1, 0.5):
        by_hand = [-2 / beta * math.log(1 + math.exp(-x * beta)) for x in (0, 3, -3)]
        assert ngdiff.npo_objective(rows, target, beta).tolist() == pytest.approx(by_hand)
    assert torch.equal(ngdiff.npo_objective(rows, target), ngdiff.npo_objective(rows, target, 0.1))
    assert ngdiff.npo_objective(target - 8000, target).tolist() == pytest.approx([-16000] * 3)


@pytest.mark.parametrize("excess", [-20.0, 0.0, 10.0, 60.0])
def test_npo_levels_off_where_gradient_ascent_does_not(excess):
    """Its gradient by a row's loss is 2 sigma(-beta (l - l_target)): it fades beyond the target."""
    target = torch.zeros(1, dtype=torch.float64)
    row = torch.tensor([excess], dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(ngdiff.npo_objective(row, target).sum(), row)
    assert slope.item() == pytest.approx(2 / (1 + math.exp(0.1 * excess)))


def test_the_level_loss_pulls_every_row_to_the_level():
    """Each row's gradient by its mean loss l is n (1 - l / level). So it is 1 a token for a row
    that is known by heart, 0 at the level, negative beyond it."""
    n = torch.tensor([2.0, 5.0, 3.0, 4.0], dtype=torch.float64)
    mean = torch.tensor([0.0, 0.4, 0.8, 2.0], dtype=torch.float64, requires_grad=True)
    value = ngdiff.level_objective(mean * n, n, 0.8)
    assert value.tolist() == pytest.approx([-2 * 0.4, -5 * 0.1, 0, -4 * 1.44 / 1.6])
    slope, = torch.autograd.grad(value.sum(), mean)
    assert slope.tolist() == pytest.approx([2 * 1, 5 * 0.5, 0, 4 * (1 - 2.5)])


# ---- Adam

def test_adam_direction_is_torchs_adam():
    """Five steps end where torch's own Adam ends, and with its moments."""
    # The function, not the class: the class loads torch's compiler, which changes torch itself.
    from torch.optim.adam import adam
    torch.manual_seed(0)
    p = torch.randn(5, dtype=torch.float64)
    q, m, v = p.clone(), [torch.zeros_like(p)], [torch.zeros_like(p)]
    moments, steps = torch.zeros(2, 5, dtype=torch.float64), torch.tensor(0.0)
    for step in range(1, 6):
        d = torch.randn(5, dtype=torch.float64)
        adam([q], [d.clone()], [moments[0]], [moments[1]], [], [steps], foreach=False,
             amsgrad=False, beta1=0.9, beta2=0.999, lr=0.01, weight_decay=0, eps=1e-8,
             maximize=False)
        ngdiff.update([p], ngdiff.adam_direction([d], m, v, step), 0.01)
    assert torch.allclose(p, q, rtol=1e-10)
    assert torch.allclose(m[0], moments[0]) and torch.allclose(v[0], moments[1])


def test_adams_first_step_is_the_sign_of_d_whatever_its_size():
    """m_hat = d and sqrt(v_hat) = |d|, each number by itself; 1e-3 is far above eps."""
    d = [torch.tensor([1e-3, -50.0]), torch.tensor([[-2.0, 4e5]])]
    m, v = ([torch.zeros_like(g) for g in d] for _ in range(2))
    first, second = ngdiff.adam_direction(d, m, v, 1)
    assert first.tolist() == pytest.approx([1, -1], rel=1e-4)
    assert second.tolist() == [pytest.approx([-1, 1], rel=1e-4)]


def test_adams_direction_takes_ds_memory_and_the_moments_advance_in_place():
    """After steps along 2 and 4: m = 0.1 4 + 0.9 0.1 2 = 0.58, v = 0.001 16 + 0.999 0.001 4."""
    m, v = [torch.zeros(2, dtype=torch.float64)], [torch.zeros(2, dtype=torch.float64)]
    m_p, v_p = m[0], v[0]
    for step, size in ((1, 2.0), (2, 4.0)):
        d = [torch.full((2,), size, dtype=torch.float64)]
        d_p = d[0]
        assert ngdiff.adam_direction(d, m, v, step)[0] is d_p
    assert (m[0] is m_p, v[0] is v_p) == (True, True)
    assert m_p.tolist() == pytest.approx([0.58] * 2)
    assert v_p.tolist() == pytest.approx([0.019996] * 2)


def test_autolr_along_a_preconditioned_direction_leaves_the_moments_alone():
    """The moments after a step with 20 and more fits are those of a step with none."""
    states = []
    for lazy in (0, 1):
        x, _, _, (L_R, L_F) = quadratics()
        states.append(ngdiff.State(lr=1e-6, adam=True))
        numbers = ngdiff.step(L_R, L_F, [x], states[-1], lazy=lazy)
    assert numbers.fits > 10 and states[0].lr != states[1].lr
    for a, b in zip(states[0].m + states[0].v, states[1].m + states[1].v):
        assert torch.equal(a, b)


# ---- AutoLR

def test_the_parabola_of_three_losses_by_hand():
    """On 7 - 4 lr + 6 lr^2 / 2 the slope is 4 and the curvature 6, at any width of the probe."""
    L = lambda lr: 7 - 4 * lr + 3 * lr**2
    for lr in (0.5, 2.0):
        assert ngdiff.parabola(L(-lr), L(0), L(lr), lr) == pytest.approx((4, 6))


def test_a_probe_looks_a_step_back_and_a_step_ahead():
    """loss_minus is the loss at theta + lr d, loss_plus the one at theta - lr d. By hand."""
    x, y = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([[3.0]], requires_grad=True)
    parts = [lambda: (x * x).sum(), lambda: y.sum()]        # the loss is their sum
    d, seen = [torch.tensor([1.0, 0.0]), torch.tensor([[2.0]])], []
    loss_minus, loss_plus = ngdiff.probe(parts, [x, y], d, 0.5)
    assert loss_minus == 1.5**2 + 2**2 + 4 and type(loss_minus) is float
    assert loss_plus == 0.5**2 + 2**2 + 2 and type(loss_plus) is float
    ngdiff.probe(parts, [x, y], d, 0.5, total=seen.append)
    assert len(seen) == 2, "both losses go through total"


def test_the_parabola_is_exact_on_a_quadratic():
    """slope = g.d and curvature = d' H d against the Hessian, at any width of the probe."""
    x, (A, _), (r, _), losses = quadratics()
    five, d = look(x, losses)
    g, H = A @ (x.detach() - r), torch.autograd.functional.hessian(
        lambda z: 0.5 * (z - r) @ A @ (z - r), x.detach())
    for lr in (1e-2, 1.0, 10.0):
        loss_minus, loss_plus = ngdiff.probe([losses[0]], [x], d, lr)
        slope, curvature = ngdiff.parabola(loss_minus, five.loss_retain, loss_plus, lr)
        assert slope == pytest.approx((g @ d[0]).item(), rel=1e-8)
        assert curvature == pytest.approx((d[0] @ H @ d[0]).item(), rel=1e-8)


def test_one_fit_on_a_quadratic_is_the_best_step_and_no_other_is_better():
    """L_R is lowest at eta* and back at its old value at 2 eta*."""
    x, _, _, losses = quadratics()
    five, d = look(x, losses)
    lr, fits = ngdiff.autolr([losses[0]], [x], d, five.loss_retain, 1e-3, max_fits=60)
    along = lambda eta: (ngdiff.probe([losses[0]], [x], d, eta))[1]
    assert along(lr) < min(along(0.8 * lr), along(1.2 * lr))
    assert along(2 * lr) == pytest.approx(five.loss_retain, rel=1e-9), "zero gain at 2 eta*"


@pytest.mark.parametrize("first", [1e-6, 1e-4, 1e-2, 1.0, 10.0])
def test_autolr_settles_in_the_same_place_from_any_first_guess(first):
    """On a quadratic, from 1e-6 to 10, each fit by a factor of 2 at most."""
    x, _, _, losses = quadratics()
    five, d = look(x, losses)
    settle = lambda lr: ngdiff.autolr([losses[0]], [x], d, five.loss_retain, lr, max_fits=60)
    (lr, fits), (reference, _) = settle(first), settle(0.1)
    assert lr == pytest.approx(reference, rel=1e-6)
    factors = [fit.lr / fit.probed for fit in fits]
    assert 0.5 <= min(factors) and max(factors) <= 2, "a factor of 2 a fit at most"
    assert len(fits) < 30 and fits[-1].status == "fit"


def fit_of(loss, lr=0.1, dtype=torch.float64):
    """One fit at x = 0 along d = 1: the probes are at x = lr (behind) and x = -lr (ahead)."""
    x = torch.zeros(1, dtype=dtype)
    return ngdiff.fit_lr([lambda: loss(x).sum()], [x], [torch.ones_like(x)], float(loss(x).sum()),
                         lr)


def test_a_fit_goes_to_the_lowest_point_but_no_further_than_a_factor_of_2():
    """Of (x + 1)^2, lowest 1 ahead: slope 2 and curvature 2, whatever lr was probed."""
    for lr, expected in ((0.8, 1.0), (1.5, 1.0), (0.1, 0.2), (4.0, 2.0)):
        fit = fit_of(lambda x: (x + 1) ** 2, lr)
        assert fit.lr == pytest.approx(expected)
        assert fit == ("fit", lr, pytest.approx(2), pytest.approx(2), fit.lr)


@pytest.mark.parametrize("status, factor, loss", [
    ("no descent", 0.5, lambda x: (x - 1) ** 2),
    ("no convexity", 2, lambda x: x - x ** 2),
    ("no convexity", 2, lambda x: -x - x ** 2),
    ("not finite", 0.5, lambda x: x + torch.where(x < 0, math.inf, 0.0)),
    ("not finite", 0.5, lambda x: x + torch.where(x > 0, math.inf, 0.0)),
    ("not finite", 0.5, lambda x: x + torch.where(x < 0, math.nan, 0.0))])
def test_a_fit_that_finds_no_lowest_point_says_why(status, factor, loss):
    """A fit that finds no lowest point says why, and looks closer or further away next time, by a
    factor of 2. What is not finite goes first, then no convexity, then no descent."""
    fit = fit_of(loss)
    assert (fit.status, fit.lr) == (status, pytest.approx(factor * 0.1))
    assert fit.probed == 0.1


@pytest.mark.parametrize("size", [1.0, 1e6, 1e-6])
def test_a_curvature_that_rounding_may_have_made_is_no_convexity(size):
    """A second difference of 2e-6 of the loss is rounding in float32 and a curvature in float64;
    one of 4e-14 is rounding in both."""
    bent = lambda bend: lambda x: size * (1 + torch.where(x == 0, 0.0, bend).double())
    assert fit_of(bent(1e-6), dtype=torch.float32).status == "no convexity"
    assert fit_of(bent(1e-4), dtype=torch.float32).status == "no descent"
    assert fit_of(bent(1e-6)).status == "no descent"
    found = fit_of(bent(2e-14))
    assert found.curvature > 0 and found.status == "no convexity"


@pytest.mark.parametrize("scale, same", [(2.0**-20, 0), (2.0**20, 0), (1e-6, 0.01)])
def test_both_losses_times_a_constant_walk_the_same_path(scale, same):
    """In float32, AutoLR fitting at each step: a power of 2 changes no bit of 100 steps. Another
    number is rounded otherwise, and AutoLR's steps multiply that: 1 % of 5 steps' length."""
    def walk(factor, steps):
        torch.manual_seed(0)
        model, (x, y), state = torch.nn.Linear(8, 1), torch.randn(2, 30, 8), State()
        start = model.weight.detach().clone()
        loss = lambda rows: lambda: factor * (model(rows) - rows[:, :1]).pow(2).mean()
        said = [ngdiff.step(loss(x), loss(y), model.parameters(), state, lazy=1).status
                for _ in range(steps)]
        return model.weight.detach() - start, said
    for steps in (5,) if same else (5, 100):
        (plain, said), (scaled, said_scaled) = walk(1.0, steps), walk(scale, steps)
        assert (plain - scaled).abs().max() <= same * plain.abs().max() and said == said_scaled
        assert said[0] == "fit"


def test_a_fit_never_leaves_the_range():
    """At LR_RANGE's ends: one loss that asks for more, one that asks for less."""
    low, high = ngdiff.LR_RANGE
    x = torch.zeros(1, dtype=torch.float64)
    for loss, lr, end in ((lambda: (1e-9 * x.sum() + 1) ** 2 * 1e9, high, high),
                          (lambda: torch.where(x == 0, 0.0, math.inf).sum(), low, low)):
        fit = ngdiff.fit_lr(loss, [x], [torch.ones_like(x)], float(loss()), lr)
        assert fit.lr == end


def test_only_a_fit_settles_and_only_within_15_per_cent(monkeypatch):
    """Only a fit settles, and only if it moves lr by less than 15 %. fit_lr is replaced by six
    made-up fits: two of another status, then moves of 16, 16, 14 and 0 %."""
    answers = [("no descent", 1.01), ("not finite", 0.99), ("fit", 1.16), ("fit", 0.84),
               ("fit", 1.14), ("fit", 1.0)]

    def fit(losses, params, d, loss_0, lr, total=None):
        status, factor = answers[len(seen)]
        seen.append(lr)
        return ngdiff.Fit(status, lr, 1.0, 1.0, lr * factor)
    monkeypatch.setattr(ngdiff, "fit_lr", fit)
    seen = []
    lr, fits = ngdiff.autolr(None, [], [], 0.0, 1.0, max_fits=60)
    assert len(fits) == 5 and lr == fits[-1].lr and fits[-1].status == "fit"
    assert seen[1:] == [f.lr for f in fits[:-1]], "each starts from the answer before"
    seen = []
    lr, fits = ngdiff.autolr(None, [], [], 0.0, 1.0)
    assert len(fits) == 1 and lr == 1.01 and fits[0].status == "no descent"


def start(loss, lr, at=0.0):
    x = torch.tensor([at], dtype=torch.float64)
    return ngdiff.autolr(lambda: loss(x).sum(), [x], [torch.ones_like(x)], float(loss(x).sum()),
                         lr, ngdiff.FITS_AT_START)


@pytest.mark.parametrize("loss", [lambda x: 0 * x, lambda x: x, lambda x: -x**2 + x,
                                  lambda x: x**2 - x, lambda x: x.abs()])
@pytest.mark.parametrize("lr", [1e-10, 1e-3, 1e4])
def test_a_start_that_finds_no_parabola_says_so_and_keeps_the_given_lr(loss, lr):
    """After 60 fits: of a flat, a linear, a concave loss, one that only rises, one with a kink."""
    rate, fits = start(loss, lr)
    assert (fits[-1].status, fits[-1].lr, rate) == ("not settled", lr, lr)
    assert len(fits) == ngdiff.FITS_AT_START
    low, high = ngdiff.LR_RANGE
    assert all(low <= fit.lr <= high and math.isfinite(fit.lr) for fit in fits)
    assert all(fit.lr / fit.probed in (0.5, 1.0, 2.0) or 0.5 <= fit.lr / fit.probed <= 2
               for fit in fits[:-1])


@pytest.mark.parametrize("lr", [1e20, 1e-30, 1e200, 1e-200, 0.0, -1.0, math.inf, math.nan])
def test_a_first_guess_outside_the_range_is_refused(lr):
    """lr outside LR_RANGE, or no number, is a ValueError."""
    with pytest.raises(ValueError):
        start(lambda x: x**2, lr)


def thirteen_sizes():
    """(parameters of sizes 1e-6 to 1e6, a direction)."""
    torch.manual_seed(0)
    return ([torch.randn(1000) * 10.0 ** k for k in range(-6, 7)],
            [torch.randn(1000) for _ in range(13)])


def changed(before, params):
    """Which tensors, by number, are not what they were."""
    return [i for i, (a, b) in enumerate(zip(before, params)) if not torch.equal(a, b)]


def test_parameters_come_back_bit_for_bit_after_a_probe():
    """Each bit is as before; adding lr d and subtracting it again would not do."""
    params, d = thirteen_sizes()
    before, seen = [p.clone() for p in params], []
    ngdiff.probe([lambda: seen.append(params[0][0].item()) or params[0].sum()], params, d, 0.1)
    assert seen == pytest.approx([(before[0] + x * d[0])[0].item() for x in (0.1, -0.1)])
    assert any(not torch.equal((b + 0.1 * v) - 0.1 * v, b) for b, v in zip(before, d))
    assert changed(before, params) == []


@pytest.mark.parametrize("fails_at", [1, 2])
def test_parameters_come_back_also_if_a_loss_raises(fails_at):
    """The error goes on to the caller, and the parameters are as they were."""
    params, d = thirteen_sizes()
    before, calls = [p.clone() for p in params], []

    def loss():
        calls.append(1)
        if len(calls) == fails_at:
            raise MemoryError
        return params[0].sum()
    with pytest.raises(MemoryError):
        ngdiff.probe([loss], params, d, 0.1)
    assert changed(before, params) == []


# ---- whole steps

def by_hand(losses, x, state, method, lazy):
    """ngdiff.step from its pieces: the learning rate of the step."""
    five, d = look(x, losses, method, 0.9)
    if state.adam:
        state.m, state.v = (y or [torch.zeros_like(x)] for y in (state.m, state.v))
        d = ngdiff.adam_direction(d, state.m, state.v, state.step + 1)
    if lazy and state.step % lazy == 0:
        state.lr, _ = ngdiff.autolr([losses[0]], [x], d, five.loss_retain, state.lr,
                                    1 if state.step else ngdiff.FITS_AT_START)
    ngdiff.update([x], d, state.lr)
    state.step += 1
    return state.lr


@pytest.mark.parametrize("method", ngdiff.METHODS)
@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("lazy", [0, 1, 3])
def test_a_step_is_its_pieces_in_order(method, adam, lazy):
    """Five steps are those of `by_hand`, bit for bit; Numbers says what each saw and did."""
    (x, _, _, losses), (y, _, _, same) = quadratics(), quadratics()
    one, other = ngdiff.State(lr=1e-3, adam=adam), ngdiff.State(lr=1e-3, adam=adam)
    for t in range(5):
        before = [loss().item() for loss in losses]
        numbers = ngdiff.step(*losses, [x], one, method=method, c=0.9, lazy=lazy)
        assert numbers.lr == by_hand(same, y, other, method, lazy)
        assert (x - y).abs().max().item() == 0, "the same bits"
        assert [numbers.loss_retain, numbers.loss_forget] == pytest.approx(before), "before it"
        fitted = [numbers[i] is not None for i, name in enumerate(numbers._fields)
                  if name in ("fits", "status", "probed", "slope", "curvature")]
        assert fitted == [bool(lazy and t % lazy == 0)] * 5
    assert one.step == 5


@pytest.mark.parametrize("method", ngdiff.METHODS)
def test_only_ngdiff_fits_where_lazy_is_left_alone(method):
    x, _, _, losses = quadratics()
    state = State(lr=1e-3)
    fits = [ngdiff.step(*losses, [x], state, method=method).fits is not None for _ in range(11)]
    assert fits == [method == "ngdiff"] + [False] * 9 + [method == "ngdiff"]


def test_the_docstrings_three_lines_unlearn_a_module_that_is_no_language_model():
    """A classifier that knows 60 points by heart forgets 10 of them and keeps the others. The lines
    are run as ngdiff.py's docstring has them."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 4))
    points, labels = torch.randn(60, 8), torch.randint(4, (60,))
    loss = lambda some: torch.nn.functional.cross_entropy(model(points[some]), labels[some])
    learning = State(lr=0.01, adam=True)
    for _ in range(300):
        whole = partial(loss, slice(None))
        ngdiff.step(whole, whole, model.parameters(), learning, method="retain")
    model.eval()
    batches = [(slice(10, 60), slice(0, 10))] * 60
    before = [loss(some).item() for some in batches[0]]

    lines = next(part for part in ngdiff.__doc__.split("\n\n") if "ngdiff.step(" in part)
    exec(textwrap.dedent(lines), dict(ngdiff=ngdiff, batches=batches, loss=loss, model=model))
    after = [loss(some).item() for some in batches[0]]
    assert max(before) < 0.1 and after[0] < 0.1 and after[1] > 2
    right = (model(points).argmax(1) == labels).float()
    assert right[10:].mean() == 1 and right[:10].mean() < 0.5


def linear(seed=0):
    """A module with two layers of which the second is not used, and its two losses."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)).double()
    x, y = torch.randn(2, 5, 3, dtype=torch.float64)
    return model, lambda: model[0](x).pow(2).mean(), lambda: model[0](y).pow(2).mean()


def test_a_parameter_that_no_loss_reaches_gets_zeros_and_a_frozen_one_stays():
    model, L_R, L_F = linear()
    model[0].bias.requires_grad_(False)
    before = [p.clone() for p in model.parameters()]
    for adam in (False, True):
        ngdiff.step(L_R, L_F, model.parameters(), ngdiff.State(adam=adam))
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters())]
    assert moved == [True, False, False, False]
    loss, grad = ngdiff.loss_and_grad(L_R, list(model[1].parameters()) + [model[0].weight])
    assert [g.abs().sum() > 0 for g in grad] == [False, False, True]
    model[0].bias.requires_grad_(True)
    ngdiff.loss_and_grad(L_R, [model[0].weight])
    assert model[0].bias.grad is None, "what is not passed is not touched"


def test_the_callers_grad_is_not_counted_in_and_is_emptied():
    model, L_R, L_F = linear()
    other, M_R, M_F = linear()
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    assert ngdiff.step(L_R, L_F, model.parameters(), ngdiff.State()) == ngdiff.step(
        M_R, M_F, other.parameters(), ngdiff.State())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("form", ["list", "twice", "generator", "probe_on"])
def test_a_parameter_given_twice_moves_once_and_a_generator_of_losses_is_not_used_up(form):
    """Any iterable of parameters, a function or an iterable of functions: the same step."""
    (model, L_R, L_F), (other, M_R, M_F) = linear(), linear()
    params = [*model.parameters()] * 2 if form == "twice" else model.parameters()
    retain = (loss for loss in [L_R]) if form == "generator" else [L_R]
    probe_on = (loss for loss in [L_R]) if form == "probe_on" else None
    assert ngdiff.step(retain, [L_F], params, State(), probe_on=probe_on) == ngdiff.step(
        M_R, M_F, other.parameters(), State())


@pytest.mark.parametrize("probe_apart", [False, True])
def test_processes_that_share_every_loss_take_the_steps_of_one(probe_apart):
    """Two processes with equal shares: each has half of every loss, and `total`, which sums what
    both bring, doubles it. So every loss and gradient must go through it, and once."""
    torch.manual_seed(1)
    rows = torch.randn(3, 10, 3, dtype=torch.float64)
    start, seen = torch.nn.Linear(3, 1).double(), []

    def steps(share, total=None):
        model, state = copy.deepcopy(start), State()
        x, y, z = [lambda some=some: share * model(some).pow(2).mean() for some in rows]
        return [ngdiff.step(x, y, model.parameters(), state, lazy=1, total=total,
                            probe_on=z if probe_apart else None) for _ in range(3)]

    def total(tensors):
        seen.append(len(tensors))
        for t in tensors:
            t.mul_(2)
    assert steps(0.5, total) == steps(1.0)
    assert seen.count(3) == 6, "each loss with both gradients; other calls bring a loss only"


def test_autolr_looks_at_probe_on_and_at_nothing_else():
    """The rate comes from probe_on alone, loss_0 too; the direction stays the batch's own. A
    constant more changes nothing; a steeper loss asks for a smaller rate."""
    rates, places = [], []
    for steep in (None, 0.0, 150.0):
        x, _, _, (L_R, L_F) = quadratics()
        start = x.detach().clone()
        probe_on = None if steep is None else [
            L_R, lambda: 100 + steep * ((x - start) ** 2).sum()]
        numbers = ngdiff.step(L_R, L_F, [x], ngdiff.State(lr=0.05), probe_on=probe_on)
        rates.append(numbers.lr), places.append((x.detach() - start) / numbers.lr)
    assert rates[1] == pytest.approx(rates[0], rel=1e-9)
    assert rates[2] < 0.9 * rates[0]
    assert torch.allclose(places[0], places[2], rtol=1e-6)


def test_a_first_step_that_does_not_settle_is_taken_at_the_given_lr():
    x, state = torch.zeros(2, dtype=torch.float64, requires_grad=True), ngdiff.State(lr=0.25)
    numbers = ngdiff.step(lambda: x[0] + 1, lambda: x[1] + 1, [x], state)       # both linear
    assert (numbers.status, numbers.fits) == ("not settled", ngdiff.FITS_AT_START)
    assert numbers.lr == state.lr == 0.25 and x.tolist() == [-0.25, 0.25]
    later = ngdiff.step(lambda: x[0] + 1, lambda: x[1] + 1, [x], state, lazy=1)
    assert (later.status, later.fits, later.lr) == ("no convexity", 1, 0.5), "one fit from then on"


def test_sparse_gradients_work():
    torch.manual_seed(0)
    dense, sparse = torch.nn.Embedding(7, 3), torch.nn.Embedding(7, 3, sparse=True)
    sparse.load_state_dict(dense.state_dict())
    rows = torch.tensor([1, 2, 2]), torch.tensor([3, 1])
    results = [ngdiff.step(*[lambda some=some: (e(some) ** 2).sum() for some in rows],
                           e.parameters(), State()) for e in (dense, sparse)]
    assert results[0] == results[1] and torch.equal(dense.weight, sparse.weight)


# ---- what step refuses

def refused(error, words, retain, forget, params, state=None, **options):
    """step raises `error` with `words` in its message; parameters and state stay as they are."""
    tensors = [p for p in params if torch.is_tensor(p)] if not torch.is_tensor(params) else [params]
    before, state = [p.detach().clone() for p in tensors], state or State(adam=True)
    was = copy.deepcopy(state)
    with pytest.raises(error, match=words):
        ngdiff.step(retain, forget, params, state, **options)
    assert vars(state).keys() == vars(was).keys() and (state.lr, state.step) == (was.lr, was.step)
    assert (state.m is None) == (was.m is None), "no moments either"
    for a, b in zip(before + (was.m or []) + (was.v or []),
                    tensors + (state.m or []) + (state.v or [])):
        assert a.is_meta or torch.equal(a, b)


def test_nothing_moves_where_a_step_is_refused():
    """No direction, a loss that is not finite, a learning rate that AutoLR cannot start from."""
    model, L_R, L_F = linear()
    params, nan = [*model.parameters()], lambda: L_R() * float("nan")
    refused(ngdiff.Stationary, "same direction", L_R, L_R, params)
    refused(FloatingPointError, "loss_retain", nan, L_F, params)
    refused(FloatingPointError, "loss_forget", L_R, nan, params)
    refused(ValueError, "lr 1e", L_R, L_F, params, State(lr=1e20, adam=True))
    refused(ValueError, "npo: gdiff with c=0.5", L_R, L_F, params, method="npo")
    refused(ValueError, "choose one of ngdiff", L_R, L_F, params, method="sgd")
    state = State(adam=True)
    ngdiff.step(L_R, L_F, params, state)
    state.lr, state.step = 1e20, 10
    refused(ValueError, "lr 1e", L_R, L_F, params, state)


@pytest.mark.parametrize("name", ["retain", "forget", "probe_on"])
def test_a_loss_that_is_none_is_refused_by_its_name(name):
    """An empty list, a tensor, a loss with an extra, of shape (1,), of no parameter."""
    model, L_R, L_F = linear()
    wrong = {"neither a function": ([], L_R(), [L_R()], iter([])),
             "is tuple": (lambda: (L_R(), 1),), "is float": (lambda: 1.0,),
             r"shape \[1\]": (lambda: L_R()[None],)}
    if name != "probe_on":
        wrong["no parameter"] = lambda: L_R().detach(),
    for words, losses in wrong.items():
        for loss in losses:
            given = {"retain": L_R, "forget": L_F, name: loss}
            refused(ValueError, f"^{name}: .*{words}", params=[*model.parameters()], **given)


def test_parameters_that_step_cannot_move_are_refused():
    """None that moves, two devices, pairs of names and parameters, what is no parameter, one tensor
    for a list, too coarse a type."""
    model, L_R, L_F = linear()
    x = torch.ones(3, requires_grad=True)
    for params, words in (([], "none"), ([torch.ones(3)], "none"), ([x * 1], "Tensor is no p"),
                          ([x, torch.ones(3, device="meta", requires_grad=True)], "one device"),
                          ([*model.named_parameters()], "tuple is no parameter"), (x, "no param"),
                          *(([torch.ones(3, dtype=dtype, requires_grad=True)], "must be float32")
                            for dtype in (torch.bfloat16, torch.float16, torch.complex64))):
        refused(ValueError, f"^params: .*{words}", L_R, L_F, params)


@pytest.mark.parametrize("frozen", [(), (0,), (1,)])
@pytest.mark.parametrize("share", [lambda a: a, lambda a: a[1:], lambda a: a.T])
def test_parameters_that_share_memory_are_refused(frozen, share):
    """Also a view of a part, and also where one of them is frozen: it would move all the same."""
    a, b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    b.weight.data = share(a.weight.data)
    params = [*b.parameters(), *a.parameters()]
    for i in frozen:
        (a, b)[i].weight.requires_grad_(False)
    loss = lambda: a.weight.sum() + b.weight.sum()
    refused(ValueError, "params: .*share memory", loss, loss, params)


def test_parameters_side_by_side_in_one_storage_are_moved():
    """Views without overlap, empty ones, and frozen ones that share memory among themselves."""
    flat = torch.randn(10)
    params = [flat[5:], flat[:5], flat[5:5], torch.ones(2), torch.ones(2)]
    params = [p.detach().requires_grad_(i < 3) for i, p in enumerate(params)]
    params[4].data = params[3].data
    ngdiff.step(lambda: params[0].sum(), lambda: params[1].sum(), params, State(), lazy=0)
    assert len(ngdiff.movable(params)) == 3


@pytest.mark.parametrize("now", [(0, 1, 2), (0, 1), (0, 2), (1,), (1, 3)])
def test_adams_moments_of_other_parameters_are_refused(now):
    """Of three layers of one shape and a larger one, the second and third moved until now."""
    torch.manual_seed(0)
    layers = [torch.randn(n, requires_grad=n == 3) for n in (3, 3, 3, 4)]
    losses = [lambda: sum((x @ x).sum() for x in layers), lambda: sum(x.sum() for x in layers)]
    layers[0].requires_grad_(False)
    state = State(adam=True)
    for _ in range(2):
        ngdiff.step(*losses, layers, state)
        state = State(**vars(state))
    for i, x in enumerate(layers):
        x.requires_grad_(i in now)
    refused(ValueError, "params: Adam's moments", *losses, layers, state)
    others = [torch.ones(n, requires_grad=n == 5) for n in (3, 5, 5)]        # in the same places
    loss = lambda: others[1].sum() + others[2].sum()
    refused(ValueError, "params: Adam's moments", loss, lambda: -loss(), others, state)


def test_several_processes_without_total_are_refused(monkeypatch):
    model, L_R, L_F = linear()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    refused(ValueError, "^total: None, but 2 processes", L_R, L_F, [*model.parameters()])
    ngdiff.step(L_R, L_F, model.parameters(), State(), total=lambda tensors: None)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_block_moves_or_is_refused(frozen, hook, reentrant):
    """Behind an embedding, trained or frozen, whose output is made to require a gradient or not."""
    torch.manual_seed(0)
    embedding, block, head = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
    embedding.requires_grad_(not frozen)

    def loss(rows):
        x = embedding(torch.tensor(rows))
        x = x.requires_grad_() if hook else x
        return head(checkpoint(block, x, use_reentrant=reentrant)).pow(2).mean()
    losses, before = (partial(loss, [1, 2]), partial(loss, [3, 4])), block.weight.detach().clone()
    params = [p for module in (embedding, block, head) for p in module.parameters()]
    if reentrant:
        refused(ValueError, "use_reentrant=True", *losses, params)
        checkpoint(block, torch.ones(4, requires_grad=True), use_reentrant=True).sum().backward()
    else:
        ngdiff.step(*losses, params, State())
        assert not torch.equal(before, block.weight) and (embedding.weight.grad is None)


@pytest.mark.parametrize("probe_apart", [False, True])
def test_a_loss_that_changes_from_call_to_call_is_refused_at_the_first_fit(probe_apart):
    """A new batch at each call, or dropout. Where AutoLR compares nothing, a loss may change."""
    torch.manual_seed(0)
    model, drop = torch.nn.Linear(8, 4), torch.nn.Dropout(0.5)
    rows = torch.randn(100, 8)
    fixed, forget = (lambda: model(rows).pow(2).mean()), (lambda: model(-rows[:9]).pow(2).mean())
    batches = lambda: model(rows[torch.randperm(100)[:50]]).pow(2).mean()
    for other in (batches, lambda: model(drop(rows)).pow(2).mean()):
        retain, probe_on = (fixed, other) if probe_apart else (other, None)
        refused(ValueError, "retain .or probe_on.: the loss is .*again", retain, forget,
                [*model.parameters()], probe_on=probe_on)
    ngdiff.step(batches, batches, model.parameters(), State(), probe_on=fixed)
    ngdiff.step(batches, batches, model.parameters(), State(), method="gdiff")
    noisy = lambda: fixed() * (1 + 1e-6 * torch.rand(()))           # as a GPU's sums may be
    assert ngdiff.step(noisy, forget, model.parameters(), State(lr=1e-3)).fits
    calls, state = [], State()
    counted = lambda: calls.append(1) or fixed()
    for _ in range(2):
        numbers = ngdiff.step(counted, forget, model.parameters(), state, lazy=1)
        assert len(calls) == 1 + 2 * numbers.fits + (state.step == 1), "once more at the first step"
        calls.clear()
