"""ngdiff.py: what the method must satisfy, on quadratics whose gradients are known, on the GPT, and
on a module that is no language model."""
import copy
import math
import textwrap
from functools import partial

import pytest
import torch
from torch.optim.adam import adam       # the class Adam would load torch's compiler
from torch.utils.checkpoint import CheckpointFunction

import ngdiff
from data import collate, Example
from model import GPT, GPTConfig
from ngdiff import Numbers, State, coefficients, five_numbers


def quadratics(seed=0, dim=20):
    """L_R and L_F = 1/2 (x - m)' A (x - m), float64: (x, both, their gradients at x, both A)."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x, losses, grads, matrices = draw(dim).requires_grad_(), [], [], []
    for _ in range(2):
        q, _ = torch.linalg.qr(draw(dim, dim))
        A = q @ torch.diag(torch.logspace(0, 2, dim, dtype=torch.float64)) @ q.T
        m = draw(dim)
        losses.append(lambda A=A, m=m: 0.5 * (x - m) @ A @ (x - m))
        grads.append(A @ (x.detach() - m)), matrices.append(A)
    return x, losses, grads, matrices


def look(x, losses, method="ngdiff", c=0.5):
    """(five numbers, direction) at x, by ngdiff.py's pieces."""
    (loss_R, g_R), (loss_F, g_F) = (ngdiff.loss_and_grad([loss], [x]) for loss in losses)
    five = five_numbers(loss_R, g_R, loss_F, g_F)
    return five, ngdiff.direction(g_R, g_F, *coefficients(method, five, c))


# ---- gradients and the five numbers

def test_gradients_and_five_numbers_are_those_of_the_quadratics():
    x, losses, (R, F), _ = quadratics()
    (_, (g_R,)), (_, (g_F,)) = (ngdiff.loss_and_grad([loss], [x]) for loss in losses)
    assert torch.allclose(g_R, R, rtol=1e-12) and torch.allclose(g_F, F, rtol=1e-12)
    expected = losses[0](), losses[1](), R.norm(), F.norm(), R @ F
    assert look(x, losses)[0][:5] == pytest.approx([y.item() for y in expected])
    assert x.grad is None, "gradients are lists, never hidden in .grad"


def test_five_numbers_are_summed_in_float64():
    """In float32, a million products of 1e-3 beside one of 1e3 would lose digits. The large tensor
    is summed in two pieces."""
    big = torch.full((2**20 + 3,), 1e-3)
    big[0] = 1e3
    r, f = [big, torch.randn(4, 3)], [-big, torch.randn(4, 3)]
    R, F = (torch.cat([x.flatten().double() for x in g]) for g in (r, f))
    # 1e-10: what float64 leaves with any order of summation; float32 is off by 1e-6 or more
    assert five_numbers(1.0, r, 2.0, f)[:5] == pytest.approx(
        (1, 2, R.norm().item(), F.norm().item(), (R @ F).item()), rel=1e-10)


class OnApple(torch.Tensor):
    """A tensor of Apple's GPU, which has no float64; acted by the CPU."""
    device, double = torch.device("mps"), None

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_device_without_float64_sums_on_the_cpu():
    here = torch.tensor(1.0), torch.randn(5), torch.tensor(2.0), torch.randn(5)
    five = lambda L_R, g_R, L_F, g_F: five_numbers(L_R, [g_R], L_F, [g_F])
    assert five(*(x.as_subclass(OnApple) for x in here)) == five(*here)


def test_norm_is_the_global_one_over_all_parameters():
    five = five_numbers(1.0, [torch.tensor([3.0]), torch.tensor([[4.0]])],
                        1.0, [torch.tensor([0.0]), torch.tensor([[2.0]])])
    assert (five.norm_retain, five.norm_forget, five.dot) == (5.0, 2.0, 8.0)


def test_a_number_that_is_not_finite_is_reported_with_all_five():
    for loss, g in ((math.nan, torch.ones(1)), (1.0, torch.full((1,), math.inf))):
        with pytest.raises(FloatingPointError, match="loss_retain.*norm_retain.*norm_forget"):
            five_numbers(loss, [g], 1.0, [torch.ones(1)])


@pytest.mark.parametrize("size", [1, 3, 7])
def test_micro_batched_gradient_is_the_whole_batchs(size):
    """Rows of unequal length weigh by their answer tokens, however they are split."""
    torch.manual_seed(1)
    model = GPT(GPTConfig(40, 32, 2, 2, 16)).double()
    rows = [Example(torch.randint(0, 40, (5 + 2 * i,)).tolist(), 2 + i % 3) for i in range(7)]
    params, n_tokens = list(model.parameters()), len(collate(rows).labels)
    loss, grad = ngdiff.loss_and_grad(lambda: model(collate(rows)).mean(), params)
    parts = [rows[i:i + size] for i in range(0, len(rows), size)]
    loss_m, grad_m = ngdiff.loss_and_grad(
        [lambda some=some: model(collate(some)).sum() / n_tokens for some in parts], params)
    assert float(loss_m) == pytest.approx(float(loss), rel=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-14) for a, b in zip(grad, grad_m))


def test_micro_batches_add_up_in_one_gradient():
    x, seen, modes = torch.randn(5, requires_grad=True), [], []

    def part():
        seen.append(None if x.grad is None else x.grad.data_ptr())
        modes.append(torch.is_grad_enabled())
        return (x * x).sum()
    loss, (grad,) = ngdiff.loss_and_grad([part] * 3, [x])
    assert seen == [None, grad.data_ptr(), grad.data_ptr()]
    assert torch.allclose(grad, 6 * x) and float(loss) == pytest.approx(3 * (x @ x).item())
    assert ngdiff.loss_only([part] * 3) == pytest.approx(float(loss))
    assert modes == 3 * [True] + 3 * [False]


# ---- directions

@pytest.mark.parametrize("seed", range(3))
def test_ngdiff_identities(seed):
    """g_R.d = |g_R| (1 - cos) >= 0 >= g_F.d = -|g_F| (1 - cos);  |d|^2 = 2 (1 - cos)."""
    x, losses, (g_R, g_F), _ = quadratics(seed)
    five, (d,) = look(x, losses)
    cos = torch.cosine_similarity(g_R, g_F, dim=0).item()
    assert five.cos == pytest.approx(cos, rel=1e-9)
    assert [float(y @ d) for y in (g_R, g_F, d)] == pytest.approx(
        [y * (1 - cos) for y in (g_R.norm().item(), -g_F.norm().item(), 2)], rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_small_ngdiff_step_lowers_the_retain_loss_and_raises_the_forget_loss(seed):
    x, losses, *_ = quadratics(seed)
    before = [loss().item() for loss in losses]
    ngdiff.update([x], look(x, losses)[1], 1e-4)
    assert losses[0]().item() < before[0] and losses[1]().item() > before[1]


def test_multiplying_a_loss_by_1000_leaves_ngdiffs_path_alone_but_not_gdiffs():
    def end(method, scale):
        x, (L_R, L_F), *_ = quadratics(3)
        for _ in range(30):
            ngdiff.update([x], look(x, [L_R, lambda: scale * L_F()], method)[1], 1e-3)
        return x.detach()
    assert torch.allclose(end("ngdiff", 1), end("ngdiff", 1000), rtol=0, atol=1e-12)
    assert (end("gdiff", 1) - end("gdiff", 1000)).abs().max() > 1


def pairs(method, loss_R=2.0, loss_F=5.0, c=0.5):
    """21 times (g_R, g_F, d) of random gradients; g_R is longer, as long, or shorter."""
    g = torch.Generator().manual_seed(4)
    for scale in (10, 1, 0.1) * 7:
        R, F = torch.randn(2, 6, generator=g, dtype=torch.float64)
        R = scale * R
        a, b = coefficients(method, five_numbers(loss_R, [R], loss_F, [F]), c)
        yield R, F, ngdiff.direction([R.clone()], [F], a, b)[0]


@pytest.mark.parametrize("method, formula", [
    ("retain", lambda R, F: R), ("ga", lambda R, F: -F),
    ("ngdiff", lambda R, F: R / R.norm() - F / F.norm())])
def test_every_method_is_its_own_formula(method, formula):
    assert all(torch.allclose(d, formula(R, F)) for R, F, d in pairs(method))


def test_gradient_difference_weighs_the_retain_gradient_by_c():
    assert all(torch.allclose(d, 0.9 * R - 0.1 * F) for R, F, d in pairs("gdiff", c=0.9))


def test_lossnorm_divides_each_gradient_by_its_own_loss():
    assert all(torch.allclose(d, R / 2 - F / 5) for R, F, d in pairs("lossnorm", 2.0, 5.0))


def test_pcgrad_takes_from_each_gradient_its_part_along_the_other():
    """Where g_R and h = -g_F conflict, PCGrad takes from each its part along the other."""
    for R, h, d in ((R, -F, d) for R, F, d in pairs("pcgrad")):
        expected = (R - (R @ h) / (h @ h) * h) + (h - (h @ R) / (R @ R) * R) if R @ h < 0 else R + h
        assert torch.allclose(d, expected)


def test_mgda_is_the_shortest_of_its_kind():
    """MGDA is the shortest of all w g_R - (1 - w) g_F, 0 <= w <= 1. Found by trying 2001 w's."""
    w = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    for R, F, d in pairs("mgda"):
        shortest = (w * R - (1 - w) * F).norm(dim=1).min().item()
        assert shortest - 1e-4 < d.norm().item() <= shortest + 1e-12


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


@pytest.mark.parametrize("norm_R, norm_F, dot, words", [
    (0.0, 1, 0, r"norm_retain\D*0.*norm_forget\D*1"),
    (1, 0.0, 0, r"norm_retain\D*1.*norm_forget\D*0"), (2.0, 3.0, 6.0, "same direction")])
def test_reasons_for_having_no_direction_are_told_apart(norm_R, norm_F, dot, words):
    with pytest.raises(ngdiff.Stationary, match=words):
        coefficients("ngdiff", Numbers(1, 1, norm_R, norm_F, dot))
    assert coefficients("ngdiff", Numbers(1, 1, 2.0, 4.0, -8.0)) == (0.5, 0.25), "opposite is fine"
    assert coefficients("ngdiff", Numbers(1, 1, 1.0, 1.0, 1 - 1e-9)) == (1, 1), "nearly alike too"


@pytest.mark.parametrize("norms", [(3.7e-42, 1.0), (1.0, 3.7e-42)])
def test_a_gradient_too_small_for_float32_is_no_direction_instead_of_infinity(norms):
    with pytest.raises(ngdiff.Stationary):
        coefficients("ngdiff", Numbers(1, 1, *norms, 0.0))
    assert Numbers(1, 1, 0.0, 1.0, 1e-300).cos == 0, "a norm may underflow where dot does not"


def test_the_direction_takes_the_memory_of_the_retain_gradient():
    g_R, g_F = torch.ones(4), torch.full((4,), 2.0)
    d, = ngdiff.direction([g_R], [g_F], 3.0, 0.5)
    assert d is g_R and d.tolist() == [2.0] * 4 and g_F.tolist() == [2.0] * 4


# ---- what is raised in L_F's place

@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_npo_is_one_value_a_row(beta):
    """By hand: (2 / beta) log sigma(beta (l - l_target)). It stays finite far below the target."""
    rows, target = torch.tensor([[5.0, 8.0, 2.0], [5.0, 5.0, 5.0]], dtype=torch.float64)
    by_hand = [-2 / beta * math.log(1 + math.exp(-x * beta)) for x in (0, 3, -3)]
    assert ngdiff.npo_objective(rows, target, beta).tolist() == pytest.approx(by_hand)
    assert torch.equal(ngdiff.npo_objective(rows, target), ngdiff.npo_objective(rows, target, 0.1))
    assert ngdiff.npo_objective(target - 8000, target).tolist() == pytest.approx([-16000] * 3)


def test_npo_levels_off_where_gradient_ascent_does_not():
    """Its gradient by a row's loss is 2 sigma(-beta (l - l_target)): it fades beyond the target."""
    excess = (-20.0, 0.0, 10.0, 60.0)
    rows = torch.tensor(excess, dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(ngdiff.npo_objective(rows, torch.zeros_like(rows)).sum(), rows)
    assert slope.tolist() == pytest.approx([2 / (1 + math.exp(0.1 * x)) for x in excess])


def test_the_level_loss_pulls_every_row_to_its_own_level():
    """The pull on log l is n log(level / l). A row without any loss has none."""
    n = torch.tensor([2.0, 5.0, 3.0, 4.0], dtype=torch.float64)
    levels = torch.tensor([0.8, 0.4, 0.8, 0.5], dtype=torch.float64)
    log_l = (levels * torch.tensor([1e-3, 1e-3, 1.0, 4.0])).log().requires_grad_()
    value = ngdiff.level_objective(log_l.exp() * n, n, levels)
    far = [math.log(1e-3), math.log(1e-3), 0, math.log(4)]
    assert value.tolist() == pytest.approx([-k * x**2 / 2 for k, x in zip(n.tolist(), far)])
    slope, = torch.autograd.grad(value.sum(), log_l)
    assert slope.tolist() == pytest.approx([-k * x for k, x in zip(n.tolist(), far)])
    rows = torch.tensor([0.0, 1e-9, 1.0], requires_grad=True)
    value = ngdiff.level_objective(rows, torch.ones(3), torch.full((3,), 0.5))
    assert value[:2].tolist() == pytest.approx([-math.log(5e6)**2 / 2] * 2)
    slope, = torch.autograd.grad(value.sum(), rows)
    assert slope[:2].tolist() == [0, 0] and slope[2] < 0


def test_the_level_of_a_token_pulls_on_its_margin_by_the_distance_in_log_odds():
    """Alike on unlikely tokens and on those known by heart; by 0 at the level, back beyond it."""
    far = torch.tensor([-3.0, -3.0, 0.0, 2.0], dtype=torch.float64)
    u = torch.tensor([-9.0, 4.0, 1.0, 12.0], dtype=torch.float64, requires_grad=True)
    margins = torch.tensor([-9.0, 3.0, 7.0, 0.0], dtype=torch.float64, requires_grad=True)
    levels = (u.detach() - far).exp().log1p()
    value = ngdiff.token_level_objective(u.exp().log1p(), margins, levels)
    assert value.tolist() == pytest.approx([-4.5, -4.5, 0, -2])
    by_loss, by_margin = torch.autograd.grad(value.sum(), (u, margins), allow_unused=True)
    assert by_loss is None and by_margin.tolist() == pytest.approx((-far).tolist())
    tiny = torch.tensor([[0.0, 1e-9, 1.0], [1.0, 2.0, 3.0], [0.5, 0.5, 0.0]])
    value = ngdiff.token_level_objective(*tiny)
    assert value.tolist() == pytest.approx([-123.015, -123.015, -138.768], abs=1e-3)


@pytest.mark.parametrize("adam", [False, True])
def test_approach_is_the_share_of_the_way_that_a_step_goes_at_most(adam):
    """On -x^2 / 2, whose distance x falls as the parameter does: to the end with share 1. Adam's
    first d is longer, and the step is as long. state.lr stays."""
    def step(lr, approach, sign=-1):
        state, p = State(lr=lr, adam=adam), torch.tensor([2.0, 8.0], requires_grad=True)
        numbers = ngdiff.step(lambda: p[0], lambda: sign * p[1]**2 / 2, [p], state, method="ga",
                              approach=approach)
        return numbers.lr * (1 if adam else 8), p[1].item(), state.lr
    for share in 1, 0.25, 1e-3:
        assert step(50.0, share) == (pytest.approx(8 * share, rel=1e-4),
                                     pytest.approx(8 - 8 * share, abs=1e-4), 50)
    assert step(1e-3, 1)[0] == 1e-3 * (1 if adam else 8), "no further than lr says"
    with pytest.raises(ValueError, match="approach"):
        step(50.0, 1, sign=1)
    assert ngdiff.way(0.0, [torch.ones(2)], [torch.ones(2)]) == 0
    assert ngdiff.way(-1.0, [torch.ones(2)], [torch.tensor([1.0, -1.0])]) == math.inf


# ---- Adam

def test_adam_direction_is_torchs_adam():
    torch.manual_seed(0)
    p, zeros = torch.randn(5, dtype=torch.float64), torch.zeros(4, 5, dtype=torch.float64)
    q, (m, v, m_torch, v_torch), steps = p.clone(), zeros, torch.tensor(0.0)
    for step in range(1, 6):
        d = torch.randn(5, dtype=torch.float64)
        adam([q], [d.clone()], [m_torch], [v_torch], [], [steps], foreach=False, amsgrad=False,
             beta1=0.9, beta2=0.999, lr=0.01, weight_decay=0, eps=1e-8, maximize=False)
        ngdiff.update([p], ngdiff.adam_direction([d], [m], [v], step), 0.01)
    assert torch.allclose(p, q, rtol=1e-10)
    assert torch.allclose(m, m_torch) and torch.allclose(v, v_torch)


def test_adams_first_step_is_the_sign_of_d_whatever_its_size():
    """m_hat = d and sqrt(v_hat) = |d|, each number by itself."""
    d = [torch.tensor([1e-3, -50.0]), torch.tensor([[-2.0, 4e5]])]
    m, v = ([torch.zeros_like(g) for g in d] for _ in range(2))
    first, second = ngdiff.adam_direction(d, m, v, 1)
    assert first.tolist() == pytest.approx([1, -1], rel=1e-4)
    assert second.tolist() == [pytest.approx([-1, 1], rel=1e-4)]


def test_adams_direction_takes_ds_memory_and_the_moments_advance_in_place():
    """After steps along 2 and 4: m = 0.1 4 + 0.9 0.1 2 = 0.58, v = 0.001 16 + 0.999 0.001 4."""
    m, v = torch.zeros(2, 1, dtype=torch.float64)
    for step, size in ((1, 2.0), (2, 4.0)):
        d = torch.tensor([size], dtype=torch.float64)
        assert ngdiff.adam_direction([d], [m], [v], step)[0] is d
    assert (m.item(), v.item()) == pytest.approx((0.58, 0.019996))


def test_autolr_along_a_preconditioned_direction_leaves_the_moments_alone():
    """The moments after a step with 10 and more fits are those of a step with none."""
    found = []
    for lazy in (0, 1):
        (x, losses, *_), state = quadratics(), State(lr=1e-6, adam=True)
        numbers = ngdiff.step(*losses, [x], state, lazy=lazy)
        found.append(torch.stack(state.m + state.v))
    assert numbers.fits > 10 and torch.equal(*found)


# ---- AutoLR

@pytest.mark.parametrize("lr", [0.5, 2.0])
def test_the_parabola_of_three_losses_by_hand(lr):
    """On 7 - 4 lr + 6 lr^2 / 2 the slope is 4 and the curvature 6, at any width of the probe."""
    L = lambda lr: 7 - 4 * lr + 3 * lr**2
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


@pytest.mark.parametrize("lr", [1e-2, 1.0, 10.0])
def test_the_parabola_is_exact_on_a_quadratic(lr):
    """slope = g.d and curvature = d' A d, at any width of the probe."""
    x, losses, (g_R, _), (A, _) = quadratics()
    five, (d,) = look(x, losses)
    loss_minus, loss_plus = ngdiff.probe([losses[0]], [x], [d], lr)
    assert ngdiff.parabola(loss_minus, five.loss_retain, loss_plus, lr) == pytest.approx(
        ((g_R @ d).item(), (d @ A @ d).item()), rel=1e-8)


def settle(first, max_fits=60):
    """(AutoLR's answer from a first guess on L_R along d, L_R as a function of lr)."""
    x, (L_R, L_F), *_ = quadratics()
    five, d = look(x, [L_R, L_F])
    along = lambda lr: ngdiff.probe(L_R, [x], d, lr)[1] if lr else five.loss_retain
    return ngdiff.autolr(L_R, [x], d, five.loss_retain, first, max_fits), along


def test_one_fit_on_a_quadratic_is_the_best_step_and_no_other_is_better():
    (lr, _), along = settle(1e-3)
    assert along(lr) < min(along(0.8 * lr), along(1.2 * lr))
    assert along(2 * lr) == pytest.approx(along(0), rel=1e-9), "zero gain at 2 eta*"


@pytest.mark.parametrize("first", [1e-6, 1e-4, 1e-2, 1.0, 10.0])
def test_autolr_settles_in_the_same_place_from_any_first_guess(first):
    (lr, fits), ((reference, _), _) = settle(first)[0], settle(0.1)
    assert lr == pytest.approx(reference, rel=1e-6)
    assert all(0.5 <= fit.lr / fit.probed <= 2 for fit in fits), "a factor of 2 a fit at most"
    assert len(fits) < 30 and fits[-1].status == "fit"


def on_a_line(loss, at=0.0, dtype=torch.float64):
    """What a fit takes: a loss's functions, x, d = 1 and the loss at x. Ahead is x - lr."""
    x = torch.full((1,), at, dtype=dtype)
    return [lambda: loss(x).sum()], [x], [torch.ones_like(x)], float(loss(x).sum())


def fit_of(loss, lr=0.1, dtype=torch.float64):
    return ngdiff.fit_lr(*on_a_line(loss, dtype=dtype), lr)


@pytest.mark.parametrize("lr, expected", [(0.8, 1.0), (1.5, 1.0), (0.1, 0.2), (4.0, 2.0)])
def test_a_fit_goes_to_the_lowest_point_but_no_further_than_a_factor_of_2(lr, expected):
    """Of (x + 1)^2, lowest 1 ahead: slope 2 and curvature 2, whatever lr was probed."""
    fit = fit_of(lambda x: (x + 1) ** 2, lr)
    assert fit == ("fit", lr, pytest.approx(2), pytest.approx(2), pytest.approx(expected))


@pytest.mark.parametrize("status, factor, loss", [
    ("no descent", 0.5, lambda x: (x - 1) ** 2),
    ("no convexity", 2, lambda x: x - x ** 2),
    ("no convexity", 2, lambda x: -x - x ** 2),
    ("not finite", 0.5, lambda x: x + torch.where(x < 0, math.inf, 0.0)),
    ("not finite", 0.5, lambda x: x + torch.where(x > 0, math.inf, 0.0)),
    ("not finite", 0.5, lambda x: x + torch.where(x < 0, math.nan, 0.0))])
def test_a_fit_that_finds_no_lowest_point_says_why(status, factor, loss):
    """It looks closer or further away next time, by a factor of 2."""
    fit = fit_of(loss)
    assert (fit.status, fit.probed, fit.lr) == (status, 0.1, pytest.approx(factor * 0.1))


@pytest.mark.parametrize("size", [1.0, 1e6, 1e-6])
@pytest.mark.parametrize("bend, dtype, status", [
    (1e-6, torch.float32, "no convexity"), (1e-4, torch.float32, "no descent"),
    (1e-6, torch.float64, "no descent"), (2e-14, torch.float64, "no convexity")])
def test_a_curvature_that_rounding_may_have_made_is_no_convexity(size, bend, dtype, status):
    """A second difference of 2e-6 of the loss is rounding in float32, one of 4e-14 in float64."""
    fit = fit_of(lambda x: size * (1 + torch.where(x == 0, 0.0, bend).double()), dtype=dtype)
    assert fit.curvature > 0 and fit.status == status


@pytest.mark.parametrize("end, loss", [
    (ngdiff.LR_RANGE[0], lambda x: torch.where(x == 0, 0.0, math.inf)),
    (ngdiff.LR_RANGE[1], lambda x: (1e-9 * x + 1) ** 2 * 1e9)])
def test_a_fit_never_leaves_the_range(end, loss):
    """One loss asks for less, one for more."""
    assert fit_of(loss, end).lr == end


@pytest.mark.parametrize("max_fits, n, lr_after", [
    (60, 6, 1.01 * 1.02 * 1.16 * 1.5 * 0.84 * 1.14), (1, 1, 1.01)])
def test_only_a_fit_settles_and_only_within_15_per_cent(monkeypatch, max_fits, n, lr_after):
    """Made-up fits: two of another status, then moves of 16, 50, 16, 14 and 0 %."""
    answers = iter([("no descent", 1.01), ("not finite", 1.02), ("fit", 1.16), ("fit", 1.5),
                    ("fit", 0.84), ("fit", 1.14), ("fit", 1.0)])

    def fit(losses, params, d, loss_0, lr, total=None):
        status, factor = next(answers)
        return ngdiff.Fit(status, lr, 1.0, 1.0, lr * factor)
    monkeypatch.setattr(ngdiff, "fit_lr", fit)
    lr, fits = ngdiff.autolr(None, [], [], 0.0, 1.0, max_fits=max_fits)
    assert len(fits) == n and lr == fits[-1].lr == pytest.approx(lr_after)


@pytest.mark.parametrize("first", [1e-6, 0.9, 10.0])
@pytest.mark.parametrize("loss, room, best", [
    (lambda x: x + x ** 8, None, 0.5 ** (1 / 7)),    # slope 1, curvature 2 lr^6
    (lambda x: x ** 8, 1.0, 1.0)])                   # slope 0, the same curvature
def test_fits_that_send_lr_back_and_forth_meet_in_the_middle(first, loss, room, best):
    """As on TOFU: a fit at too small an lr asks for far too much, and that one for too little."""
    lr, fits = ngdiff.autolr(*on_a_line(loss), first, ngdiff.FITS_AT_START, room=room)
    assert fits[-1].status == "fit" and lr == pytest.approx(best, rel=0.15) and len(fits) < 35
    assert all(0.25 <= fit.lr / fit.probed <= 4 for fit in fits)


@pytest.mark.parametrize("loss", [lambda x: 0 * x, lambda x: x, lambda x: -x**2 + x,
                                  lambda x: x**2 - x, lambda x: x.abs()])
@pytest.mark.parametrize("lr", [1e-10, 1e-3, 1e4])
def test_a_start_that_finds_no_parabola_says_so_and_keeps_the_given_lr(loss, lr):
    """Of a flat, a linear, a concave loss, one that only rises, one with a kink."""
    rate, fits = ngdiff.autolr(*on_a_line(loss), lr, ngdiff.FITS_AT_START)
    assert (fits[-1].status, fits[-1].lr, rate) == ("not settled", lr, lr)
    assert len(fits) == ngdiff.FITS_AT_START
    low, high = ngdiff.LR_RANGE
    assert all(low <= fit.lr <= high and 0.5 <= fit.lr / fit.probed <= 2 for fit in fits[:-1])


@pytest.mark.parametrize("lr", [1e20, 1e-30, 1e200, 1e-200, 0.0, -1.0, math.inf, math.nan])
def test_a_first_guess_outside_the_range_is_refused(lr):
    with pytest.raises(ValueError):
        ngdiff.autolr(*on_a_line(lambda x: x**2), lr, ngdiff.FITS_AT_START)


def thirteen_sizes():
    """(parameters of sizes 1e-6 to 1e6, their copies, a direction)."""
    torch.manual_seed(0)
    params = [torch.randn(1000) * 10.0 ** k for k in range(-6, 7)]
    return params, [p.clone() for p in params], [torch.randn(1000) for _ in params]


def test_parameters_come_back_bit_for_bit_after_a_probe():
    """Adding lr d and subtracting it again would not do."""
    (params, before, d), seen = thirteen_sizes(), []
    ngdiff.probe([lambda: seen.append(params[0][0].item()) or params[0].sum()], params, d, 0.1)
    assert seen == pytest.approx([(before[0] + x * d[0])[0].item() for x in (0.1, -0.1)])
    assert not all(map(torch.equal, [(b + 0.1 * v) - 0.1 * v for b, v in zip(before, d)], before))
    assert all(map(torch.equal, before, params))


@pytest.mark.parametrize("fails_at", [1, 2])
def test_parameters_come_back_also_if_a_loss_raises(fails_at):
    """The error goes on to the caller, and the parameters are as they were."""
    params, before, d = thirteen_sizes()
    found = [params[0].sum()] * (fails_at - 1)
    with pytest.raises(IndexError):
        ngdiff.probe([lambda: found.pop()], params, d, 0.1)
    assert all(map(torch.equal, before, params))


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
@pytest.mark.parametrize("lazy", [0, 1, 3, None])
def test_a_step_is_its_pieces_in_order(method, adam, lazy):
    """Eleven steps are those of `by_hand`, bit for bit; Numbers says what each saw and did."""
    (x, losses, *_), (y, same, *_) = quadratics(), quadratics()
    one, other = State(lr=1e-3, adam=adam), State(lr=1e-3, adam=adam)
    every = (10 if method == "ngdiff" else 0) if lazy is None else lazy
    for t in range(11):
        before = [loss().item() for loss in losses]
        numbers = ngdiff.step(*losses, [x], one, method=method, c=0.9, lazy=lazy)
        assert numbers.lr == by_hand(same, y, other, method, every)
        assert torch.equal(x, y)
        assert [numbers.loss_retain, numbers.loss_forget] == pytest.approx(before), "before it"
        fitted = {getattr(numbers, name) is not None
                  for name in ("fits", "status", "probed", "slope", "curvature")}
        assert fitted == {bool(every and t % every == 0)}
    assert one.step == 11


def test_the_docstrings_lines_unlearn_a_module_that_is_no_language_model():
    """A classifier that knows 60 points by heart forgets 10 of them and keeps the others."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 4))
    points, labels = torch.randn(60, 8), torch.randint(4, (60,))
    loss = lambda some: torch.nn.functional.cross_entropy(model(points[some]), labels[some])
    learning, whole = State(lr=0.01, adam=True), lambda: loss(slice(None))
    for _ in range(300):
        ngdiff.step(whole, whole, model.parameters(), learning, method="retain")
    retain, forget = slice(10, 60), slice(0, 10)
    assert max(loss(retain), loss(forget)) < 0.1
    lines = next(part for part in ngdiff.__doc__.split("\n\n") if "ngdiff.step(" in part)
    exec(textwrap.dedent(lines), dict(ngdiff=ngdiff, batches=[(retain, forget)] * 60, loss=loss,
                                      model=model, watched=slice(10, 42)))
    assert loss(retain) < 0.1 and loss(forget) > 2
    right = (model(points).argmax(1) == labels).float()
    assert right[retain].mean() == 1 and right[forget].mean() < 0.5


def linear():
    """A module with two layers of which the second is not used, and its two losses."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)).double()
    x, y = torch.randn(2, 5, 3, dtype=torch.float64)
    return model, lambda: model[0](x).pow(2).mean(), lambda: model[0](y).pow(2).mean()


def stepped(**options):
    """Numbers of one plain step on `linear`."""
    model, L_R, L_F = linear()
    return ngdiff.step(L_R, L_F, model.parameters(), State(), **options)


@pytest.mark.parametrize("adam", [False, True])
def test_a_parameter_that_no_loss_reaches_gets_zeros_and_a_frozen_one_stays(adam):
    model, L_R, L_F = linear()
    model[0].bias.requires_grad_(False)
    before = copy.deepcopy(model)
    ngdiff.step(L_R, L_F, model.parameters(), State(adam=adam))
    same = list(map(torch.equal, before.parameters(), model.parameters()))
    assert same == [False, True, True, True]
    loss, grad = ngdiff.loss_and_grad(L_R, list(model[1].parameters()) + [model[0].weight])
    assert [g.abs().sum() > 0 for g in grad] == [False, False, True]


def test_the_callers_grad_is_not_counted_in_and_is_emptied():
    model, L_R, L_F = linear()
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    assert ngdiff.step(L_R, L_F, model.parameters(), State()) == stepped()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("form", ["list", "twice", "generator", "probe_on"])
def test_a_parameter_given_twice_moves_once_and_a_generator_of_losses_is_not_used_up(form):
    model, L_R, L_F = linear()
    params = [*model.parameters()] * 2 if form == "twice" else model.parameters()
    retain = (loss for loss in [L_R]) if form == "generator" else [L_R]
    probe_on = (loss for loss in [L_R]) if form == "probe_on" else None
    numbers = ngdiff.step(retain, [L_F], params, State(), probe_on=probe_on)
    assert numbers == stepped() and numbers.norm_retain > 0


@pytest.mark.parametrize("probe_apart, budget", [(False, None), (True, None), (True, 0.01)])
def test_processes_that_share_every_loss_take_the_steps_of_one(probe_apart, budget):
    """Each of two has half of every loss, and `total`, which sums what both bring, doubles it."""
    torch.manual_seed(1)
    rows = torch.randn(3, 10, 3, dtype=torch.float64)
    layer, seen = torch.nn.Linear(3, 1).double(), []

    def steps(share, total=None):
        model, state = copy.deepcopy(layer), State()
        x, y, z = [lambda some=some: share * model(some).pow(2).mean() for some in rows]
        return [ngdiff.step(x, y, model.parameters(), state, lazy=1, total=total,
                            probe_on=z if probe_apart else None, memory=0.5 if budget else 0,
                            budget=budget) for _ in range(3)]
    double = lambda tensors: seen.append(len(tensors)) or [t.mul_(2) for t in tensors]
    assert steps(0.5, double) == steps(1.0)
    assert seen.count(3) == 6, "each loss with both gradients; other calls bring a loss only"


def test_autolr_looks_at_probe_on_and_at_nothing_else():
    """A constant more changes nothing; a steeper loss asks for a smaller rate, and d stays."""
    rates, places = [], []
    for steep in (None, 0.0, 150.0):
        x, (L_R, L_F), *_ = quadratics()
        begin = x.detach().clone()
        probe_on = None if steep is None else [
            L_R, lambda: 100 + steep * ((x - begin) ** 2).sum()]
        numbers = ngdiff.step(L_R, L_F, [x], State(lr=0.05), probe_on=probe_on)
        rates.append(numbers.lr), places.append((x.detach() - begin) / numbers.lr)
    assert rates[1] == pytest.approx(rates[0], rel=1e-9) and rates[2] < 0.9 * rates[0]
    assert torch.allclose(places[0], places[2], rtol=1e-6)


# ---- small batches: memory and a budget

def test_memory_takes_the_running_mean_in_the_retain_gradients_place():
    """m <- 0.75 m + 0.25 g_R, begun with the first g_R."""
    (x, (L_R, L_F), *_), state, mean = quadratics(), State(lr=0.01), None
    for _ in range(4):
        g_R, g_F = (torch.autograd.grad(loss(), x)[0] for loss in (L_R, L_F))
        mean = g_R if mean is None else 0.75 * mean + 0.25 * g_R
        before = x.detach().clone()
        numbers = ngdiff.step(L_R, L_F, [x], state, lazy=0, memory=0.75)
        assert (numbers.norm_retain, numbers.dot) == pytest.approx(
            (float(mean.norm()), float(mean @ g_F)))
        expected = before - 0.01 * (mean / mean.norm() - g_F / g_F.norm())
        assert torch.allclose(x.detach(), expected, rtol=1e-12)
        assert torch.allclose(state.mean[0], mean)


@pytest.mark.parametrize("slope, curvature, room", [
    (2.0, 3.0, 0.5), (-2.0, 3.0, 0.5), (0.0, 3.0, 0.5), (-2.0, 0.0, 0.5), (-2.0, -3.0, 0.5),
    (-1.0, 1e-12, 1e-3), (2.0, -3.0, 0.5), (2.0, 0.0, 0.5), (-0.1, -3.0, 0.5)])
def test_reach_is_the_first_place_at_which_the_parabola_has_risen_by_room(slope, curvature, room):
    found = ngdiff.reach(slope, curvature, room)
    xs = torch.linspace(0, min(found, 1e3), 10**4, dtype=torch.float64)[1:-1]
    assert (-slope * xs + curvature * xs**2 / 2 < room).all()
    if found < math.inf:
        assert -slope * found + curvature * found**2 / 2 == pytest.approx(room, rel=1e-6)


def test_a_budgets_fit_looks_as_far_ahead_as_the_steps_that_follow_it_go():
    """On x^4 from 1, at 1.5 and 0.5: the parabola depends on how far apart they are."""
    fit = ngdiff.fit_budget(*on_a_line(lambda x: x ** 4, 1.0), 0.05, 0.1, 10)
    assert fit == ("fit", 0.05, *map(pytest.approx, (5, 12.5, ngdiff.reach(5, 12.5, 0.1) / 10)))


@pytest.mark.parametrize("room, start, lr, status", [
    (-0.1, 1.0, 0.5, "no room"),       # the lowest place is 1 away: lr does not grow
    (-0.1, 0.3, 0.3, "no room"), (-0.1, 0.01, 0.125, "no room"),
    (-0.1, -1.0, 0.25, "no descent"), (0.0, 0.0, 0.25, "no descent"),
    (0.1, math.inf, 0.125, "not finite")])
def test_without_room_a_budgets_fit_goes_to_the_lowest_place_or_closer(room, start, lr, status):
    fit = ngdiff.fit_budget(*on_a_line(lambda x: x ** 2, start), 0.5, room, 1)
    assert (fit.status, fit.lr) == (status, pytest.approx(lr))


def test_a_budget_is_what_the_watched_loss_may_rise_by_in_all():
    """Of x^2 from 1 to 1.1 in two steps, with one fit; then no room is left."""
    x, state = torch.ones(1, dtype=torch.float64, requires_grad=True), State()
    step = lambda: ngdiff.step(lambda: -x.sum(), lambda: x.sum(), [x], state, memory=0.9, lazy=2,
                               budget=0.21, probe_on=lambda: (x ** 2).sum())
    first, _ = step(), step()
    assert (first.watched, first.room, x.item()) == pytest.approx((1, 0.21, 1.1))
    third = step()
    assert (third.watched, third.room) == pytest.approx((1.21, 0))


def test_a_first_step_that_does_not_settle_is_taken_at_the_given_lr():
    x, state = torch.zeros(2, dtype=torch.float64, requires_grad=True), State(lr=0.25)
    losses = lambda: x[0] + 1, lambda: x[1] + 1                                 # both linear
    numbers = ngdiff.step(*losses, [x], state)
    assert (numbers.status, numbers.fits) == ("not settled", ngdiff.FITS_AT_START)
    assert numbers.lr == state.lr == 0.25 and x.tolist() == [-0.25, 0.25]
    later = ngdiff.step(*losses, [x], state, lazy=1)
    assert (later.status, later.fits, later.lr) == ("no convexity", 1, 0.5), "one fit from then on"


def test_sparse_gradients_work():
    dense, rows = torch.nn.Embedding(7, 3), (torch.tensor([1, 2, 2]), torch.tensor([3, 1]))
    sparse = torch.nn.Embedding(7, 3, sparse=True, _weight=dense.weight.detach().clone())
    results = [ngdiff.step(*[lambda some=some: (e(some) ** 2).sum() for some in rows],
                           e.parameters(), State()) for e in (dense, sparse)]
    assert results[0] == results[1] and torch.equal(dense.weight, sparse.weight)


def test_a_reentrant_checkpoint_changes_nothing_or_is_refused():
    """It loses the gradients of its own parameters where no input requires a gradient."""
    def after_step(call, x):
        torch.manual_seed(0)
        block = torch.nn.Linear(4, 4)
        ngdiff.step(lambda: call(block, x).pow(2).mean(), lambda: call(block, -x).mean(),
                    block.parameters(), State())
        return block.weight
    # checkpoint(use_reentrant=True) is this; but it would load torch's compiler.
    checkpointed = lambda block, x: CheckpointFunction.apply(block, True, x)
    with pytest.raises(UserWarning, match="None of the inputs have requires_grad"):
        after_step(checkpointed, torch.ones(4))
    x = torch.ones(4, requires_grad=True)
    assert torch.equal(after_step(checkpointed, x), after_step(torch.nn.Linear.__call__, x))


# ---- what step refuses

def refused(error, words, retain, forget, params, state=None, **options):
    """step raises `error` with `words` in its message; parameters and state stay as they are."""
    state = state or State(adam=True)
    tensors = lambda: [x for x in (*params, *(state.m or ()), *(state.v or ()))
                       if torch.is_tensor(x) and not x.is_meta]
    before, was = [x.detach().clone() for x in tensors()], (state.lr, state.step)
    with pytest.raises(error, match=words):
        ngdiff.step(retain, forget, params, state, **options)
    assert (state.lr, state.step, len(tensors())) == (*was, len(before))
    assert all(map(torch.equal, before, tensors()))


def test_nothing_moves_where_a_step_is_refused():
    model, L_R, L_F = linear()
    params, nan = [*model.parameters()], lambda: L_R() * math.nan
    refused(ngdiff.Stationary, "same direction", L_R, L_R, params)
    refused(FloatingPointError, "loss_retain", nan, L_F, params)
    refused(FloatingPointError, "loss_forget", L_R, nan, params)
    refused(ValueError, "npo: gdiff with c=0.5", L_R, L_F, params, method="npo")
    refused(ValueError, "choose one of ngdiff", L_R, L_F, params, method="sgd")
    refused(ValueError, "lr 1e", L_R, L_F, params, State(lr=1e20, adam=True))
    state = State(adam=True)
    ngdiff.step(L_R, L_F, params, state)
    state.lr, state.step = 1e20, 10
    refused(ValueError, "lr 1e", L_R, L_F, params, state)


@pytest.mark.parametrize("name", ["retain", "forget", "probe_on"])
def test_a_loss_that_is_none_is_refused_by_its_name(name):
    model, L_R, L_F = linear()
    wrong = [("neither a function", x) for x in ([], L_R(), [L_R()], iter([]))] + [
        ("is tuple", lambda: (L_R(), 1)), ("is float", lambda: 1.0),
        (r"shape \[1\]", lambda: L_R()[None])]
    if name != "probe_on":
        wrong.append(("no parameter", lambda: L_R().detach()))
    for words, loss in wrong:
        given = {"retain": L_R, "forget": L_F, name: loss}
        refused(ValueError, f"^{name}: .*{words}", params=[*model.parameters()], **given)


X = torch.ones(3, requires_grad=True)


@pytest.mark.parametrize("words, given", [
    *((f"^{next(iter(given))} ", given) for given in (
        {"memory": 1.0}, {"memory": -0.1}, {"budget": math.nan}, {"budget": 0},
        {"budget": 0.1, "probe_on": None}, {"budget": 0.1, "lazy": 0},
        {"budget": 0.1, "method": "ga"})),
    *((f"^params: .*{words}", {"params": params}) for words, params in (
        ("none", []), ("none", [torch.ones(3)]), ("Tensor is no p", [X * 1]), ("no parameter", X),
        ("tuple is no parameter", [("weight", X)]),
        ("on one device", [X, torch.ones(3, device="meta", requires_grad=True)]),
        *(("must be float32", [torch.ones(3, dtype=dtype, requires_grad=True)])
          for dtype in (torch.bfloat16, torch.float16, torch.complex64))))])
def test_an_argument_that_step_cannot_use_is_refused_by_its_name(words, given):
    model, L_R, L_F = linear()
    refused(ValueError, words, L_R, L_F,
            **{"params": [*model.parameters()], "probe_on": L_R, **given})


@pytest.mark.parametrize("moving", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("share", [lambda a: a, lambda a: a[1:], lambda a: a.T])
def test_parameters_that_share_memory_are_refused(moving, share):
    a = torch.randn(4, 4)
    params = [p.detach().requires_grad_(so) for p, so in zip((share(a), a), moving)]
    loss = lambda: params[0].sum() + params[1].sum()
    refused(ValueError, "params: .*share memory", loss, loss, params)


def test_parameters_side_by_side_in_one_storage_are_moved():
    flat, frozen = torch.randn(10), torch.ones(2)
    params = [p.detach().requires_grad_(p is not frozen)
              for p in (flat[5:], flat[:5], flat[5:5], frozen, frozen)]
    ngdiff.step(lambda: params[0].sum(), lambda: params[1].sum(), params, State(), lazy=0)
    assert len(ngdiff.movable(params)) == 3


@pytest.mark.parametrize("now", [(0, 1, 2), (0, 1), (0, 2), (1,), (1, 3)])
@pytest.mark.parametrize("adam", [True, False])
def test_adams_moments_of_other_parameters_are_refused(now, adam):
    layers = [torch.randn(n, requires_grad=i in (1, 2)) for i, n in enumerate((3, 3, 3, 4))]
    losses = [lambda: sum((x @ x).sum() for x in layers), lambda: sum(x.sum() for x in layers)]
    state = State(adam=adam)
    for _ in range(2):
        ngdiff.step(*losses, layers, state, memory=0 if adam else 0.5)
    for i, x in enumerate(layers):
        x.requires_grad_(i in now)
    refused(ValueError, "params: what state keeps .Adam's moments", *losses, layers, state)


def test_several_processes_without_total_are_refused(monkeypatch):
    model, L_R, L_F = linear()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    refused(ValueError, "^total: None, but 2 processes", L_R, L_F, [*model.parameters()])
    stepped(total=lambda tensors: None)


@pytest.mark.parametrize("probe_apart", [False, True])
def test_a_loss_that_changes_from_call_to_call_is_refused_at_the_first_fit(probe_apart):
    """Where AutoLR compares nothing, it may; and by rounding, as a GPU's sums do, always."""
    torch.manual_seed(0)
    model, rows = torch.nn.Linear(8, 4), torch.randn(100, 8)
    params, loss = [*model.parameters()], lambda some: model(some).pow(2).mean()
    fixed, forget = (lambda: loss(rows)), (lambda: loss(-rows[:9]))
    batches = lambda: loss(rows[torch.randperm(100)[:50]])
    retain, probe_on = (fixed, batches) if probe_apart else (batches, None)
    refused(ValueError, "retain .or probe_on.: the loss is .*again", retain, forget, params,
            probe_on=probe_on)
    ngdiff.step(batches, batches, params, State(), probe_on=fixed)
    ngdiff.step(batches, batches, params, State(), method="gdiff")
    noisy = lambda: fixed() * (1 + 1e-6 * torch.rand(()))
    assert ngdiff.step(noisy, forget, params, State(lr=1e-3)).fits
