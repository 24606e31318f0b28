"""ngdiff.py: what the method must satisfy, on quadratics whose gradients are known and on the GPT."""
import math

import pytest
import torch

import ngdiff
from data import collate, Example
from model import GPT, GPTConfig
from ngdiff import Five, coefficients, five_numbers


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


def step(x, losses, method="ngdiff", c=0.5):
    """(five numbers, direction) at x."""
    (loss_R, g_R), (loss_F, g_F) = (ngdiff.loss_and_grad([loss], [x]) for loss in losses)
    five = five_numbers(loss_R, g_R, loss_F, g_F)
    return five, ngdiff.direction(g_R, g_F, *coefficients(method, five, c))


# ---- gradients and the five numbers

def test_gradients_and_five_numbers_are_those_of_the_quadratics():
    x, (A, B), (r, f), losses = quadratics()
    (_, g_R), (_, g_F) = (ngdiff.loss_and_grad([loss], [x]) for loss in losses)
    exact_R, exact_F = A @ (x.detach() - r), B @ (x.detach() - f)
    assert torch.allclose(g_R[0], exact_R, rtol=1e-12) and torch.allclose(g_F[0], exact_F)
    five, _ = step(x, losses)
    assert five.norm_retain == pytest.approx(exact_R.norm().item(), rel=1e-12)
    assert five.norm_forget == pytest.approx(exact_F.norm().item(), rel=1e-12)
    assert five.dot == pytest.approx((exact_R @ exact_F).item(), rel=1e-12)
    assert five.loss_retain == pytest.approx(losses[0]().item())
    assert x.grad is None, "gradients are lists, never hidden in .grad"


def test_five_numbers_are_summed_in_float64():
    """In float32, a million products of 1e-3 beside one of 1e3 would lose digits."""
    g = torch.full((1_000_001,), 1e-3)
    g[0] = 1e3
    exact = g.double()
    five = five_numbers(1.0, [g.clone()], 1.0, [-g])
    # 1e-10: what float64 leaves with any order of summation; float32 is off by 1e-6 or more
    assert five.norm_retain == pytest.approx(exact.norm().item(), rel=1e-10)
    assert five.dot == pytest.approx(-(exact @ exact).item(), rel=1e-10)


def test_norm_is_the_global_one_over_all_parameters():
    five = five_numbers(1.0, [torch.tensor([3.0]), torch.tensor([[4.0]])],
                        1.0, [torch.tensor([0.0]), torch.tensor([[2.0]])])
    assert (five.norm_retain, five.norm_forget, five.dot) == (5.0, 2.0, 8.0)


def test_a_number_that_is_not_finite_is_reported_with_all_five():
    with pytest.raises(FloatingPointError, match="loss_retain nan.*norm_forget 1"):
        five_numbers(float("nan"), [torch.ones(1)], 1.0, [torch.ones(1)])
    with pytest.raises(FloatingPointError, match="norm_retain inf"):
        five_numbers(1.0, [torch.full((1,), math.inf)], 1.0, [torch.ones(1)])


def unequal_examples(n=7):
    g = torch.Generator().manual_seed(1)
    return [Example(torch.randint(0, 40, (5 + 2 * i,), generator=g).tolist(), 2 + i % 3)
            for i in range(n)]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_micro_batched_gradient_is_the_whole_batchs(size):
    """Rows of unequal length weigh by their answer tokens, however they are split."""
    from train import Config, loss_parts
    torch.manual_seed(0)
    model, rows = GPT(GPTConfig(40, 32, 2, 2, 16)).double(), unequal_examples()
    params = list(model.parameters())
    loss, grad = ngdiff.loss_and_grad([lambda: model(collate(rows)).mean()], params)
    parts = loss_parts(model, rows, Config(device="cpu", micro_batch=size))
    loss_m, grad_m = ngdiff.loss_and_grad(parts, params)
    assert float(loss_m) == pytest.approx(float(loss), rel=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-14) for a, b in zip(grad, grad_m))


def test_micro_batches_add_up_in_one_gradient_and_leave_none_behind():
    """However many parts: one list of gradients is made, and p.grad is empty again after it."""
    x, seen = torch.randn(5, requires_grad=True), []

    def part():
        seen.append(None if x.grad is None else x.grad.data_ptr())
        return (x * x).sum()
    x.grad = torch.ones(5)                        # what somebody left there is not counted in
    loss, (grad,) = ngdiff.loss_and_grad([part] * 3, [x])
    assert seen == [None, grad.data_ptr(), grad.data_ptr()] and x.grad is None
    assert torch.allclose(grad, 6 * x) and float(loss) == pytest.approx(3 * (x @ x).item())


def test_the_five_numbers_of_tensors_larger_than_a_piece():
    g = [torch.randn(2**20 + 3), torch.randn(4, 3)], [torch.randn(2**20 + 3), torch.randn(4, 3)]
    five = ngdiff.five_numbers(1.0, g[0], 2.0, g[1])
    r, f = (torch.cat([x.flatten().double() for x in some]) for some in g)
    assert five == pytest.approx((1, 2, r.norm().item(), f.norm().item(), (r @ f).item()), rel=1e-12)


# ---- directions

def test_ngdiff_identities():
    """g_R.d = |g_R| (1 - cos) >= 0 >= g_F.d = -|g_F| (1 - cos);  |d|^2 = 2 (1 - cos)."""
    for seed in range(5):
        x, (A, B), (r, f), losses = quadratics(seed=seed)
        five, (d,) = step(x, losses)
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
        _, d = step(x, losses)
        ngdiff.update([x], d, 1e-4)
        after = [loss().item() for loss in losses]
        assert after[0] < before[0] and after[1] > before[1]


def path(method, scale, steps=30):
    x, _, _, (loss_R, loss_F) = quadratics(seed=3)
    points = []
    for _ in range(steps):
        _, d = step(x, [loss_R, lambda: scale * loss_F()], method)
        ngdiff.update([x], d, 1e-3)
        points.append(x.detach().clone())
    return torch.stack(points)


def test_multiplying_a_loss_by_1000_leaves_ngdiffs_path_alone_but_not_gdiffs():
    assert torch.allclose(path("ngdiff", 1), path("ngdiff", 1000), rtol=0, atol=1e-12)
    assert (path("gdiff", 1) - path("gdiff", 1000)).abs().max() > 1


def weighted(method, g_R, g_F, loss_R=2.0, loss_F=5.0, c=0.5):
    five = five_numbers(loss_R, [g_R], loss_F, [g_F])
    return ngdiff.direction([g_R.clone()], [g_F], *coefficients(method, five, c))[0]


def test_every_method_is_its_own_formula():
    g = torch.Generator().manual_seed(4)
    along = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    for _ in range(20):
        R, F = torch.randn(2, 6, generator=g, dtype=torch.float64)
        R = R * 10
        assert torch.allclose(weighted("retain", R, F), R)
        assert torch.allclose(weighted("ga", R, F), -F)
        assert torch.allclose(weighted("gdiff", R, F, c=0.9), 0.9 * R - 0.1 * F)
        assert torch.allclose(weighted("npo", R, F), 0.5 * R - 0.5 * F)
        assert torch.allclose(weighted("lossnorm", R, F), R / 2 - F / 5)
        assert torch.allclose(weighted("ngdiff", R, F), R / R.norm() - F / F.norm())
        # PCGrad, by projection of g_R and h = -g_F where they conflict
        h = -F
        R_, h_ = (R - (R @ h) / (h @ h) * h, h - (h @ R) / (R @ R) * R) if R @ h < 0 else (R, h)
        assert torch.allclose(weighted("pcgrad", R, F), R_ + h_)
        # MGDA, by trying the whole segment
        shortest = (along * R - (1 - along) * F).norm(dim=1).min().item()
        assert weighted("mgda", R, F).norm().item() == pytest.approx(shortest, abs=1e-4)
        assert weighted("mgda", R, F).norm().item() <= shortest + 1e-12
    with pytest.raises(ValueError, match="choose one of"):
        coefficients("sgd", Five(1, 1, 1, 1, 0))


def test_reasons_for_having_no_direction_are_told_apart():
    with pytest.raises(ngdiff.Stationary, match="norm_retain is exactly 0"):
        coefficients("ngdiff", Five(1, 1, 0.0, 1, 0))
    with pytest.raises(ngdiff.Stationary, match="norm_forget is exactly 0"):
        coefficients("ngdiff", Five(1, 1, 1, 0.0, 0))
    with pytest.raises(ngdiff.Stationary, match="Pareto stationary"):
        coefficients("ngdiff", Five(1, 1, 2.0, 3.0, 6.0))
    with pytest.raises(ngdiff.Stationary, match="divides by the losses"):
        coefficients("lossnorm", Five(0.0, 1, 1, 1, 0))
    assert coefficients("ngdiff", Five(1, 1, 2.0, 4.0, -8.0)) == (0.5, 0.25), "opposite is fine"
    assert Five(1, 1, 0.0, 1.0, 0.0).cos == 0


def test_npo_levels_off_where_gradient_ascent_does_not():
    """Value by hand at equality; gradient of one row = 2 sigma(-beta (l - l_target))."""
    target = torch.zeros(1, dtype=torch.float64)
    assert ngdiff.npo_objective(target, target).item() == pytest.approx(20 * math.log(0.5))
    for excess in (-20.0, 0.0, 10.0, 60.0):
        row = torch.tensor([excess], dtype=torch.float64, requires_grad=True)
        slope, = torch.autograd.grad(ngdiff.npo_objective(row, target).sum(), row)
        assert slope.item() == pytest.approx(2 / (1 + math.exp(0.1 * excess)))


# ---- Adam

def test_adam_direction_is_torchs_adam():
    torch.manual_seed(0)
    p = torch.randn(5, dtype=torch.float64)
    q, state = p.clone().requires_grad_(), ngdiff.adam_state([p])
    optimizer = torch.optim.Adam([q], lr=0.01)
    for _ in range(5):
        d = torch.randn(5, dtype=torch.float64)
        q.grad = d.clone()
        optimizer.step()
        ngdiff.update([p], ngdiff.adam_direction([d], state), 0.01)
    assert torch.allclose(p, q, rtol=1e-10)


def test_autolr_along_a_preconditioned_direction_leaves_the_moments_alone():
    x, _, _, losses = quadratics()
    state = ngdiff.adam_state([x])
    five, d = step(x, losses)
    d = ngdiff.adam_direction(d, state)
    before = [state["m"][0].clone(), state["v"][0].clone(), state["step"], d[0].clone()]
    ngdiff.autolr([losses[0]], [x], d, five.loss_retain, 0.1, max_fits=20)
    after = [state["m"][0], state["v"][0], state["step"], d[0]]
    assert all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(before, after))


# ---- AutoLR

def test_the_parabola_is_exact_on_a_quadratic():
    """slope = g.d and curvature = d' H d against the Hessian, at any width of the probe."""
    x, (A, _), (r, _), losses = quadratics()
    five, d = step(x, losses)
    g, H = A @ (x.detach() - r), torch.autograd.functional.hessian(
        lambda z: 0.5 * (z - r) @ A @ (z - r), x.detach())
    for lr in (1e-2, 1.0, 10.0):
        loss_minus, loss_plus = ngdiff.probe([losses[0]], [x], d, lr)
        slope, curvature = ngdiff.parabola(loss_minus, five.loss_retain, loss_plus, lr)
        assert slope == pytest.approx((g @ d[0]).item(), rel=1e-8)
        assert curvature == pytest.approx((d[0] @ H @ d[0]).item(), rel=1e-8)


def test_one_fit_on_a_quadratic_is_the_best_step_and_no_other_is_better():
    x, _, _, losses = quadratics()
    five, d = step(x, losses)
    lr, fits = ngdiff.autolr([losses[0]], [x], d, five.loss_retain, 1e-3, max_fits=60)
    along = lambda eta: (ngdiff.probe([losses[0]], [x], d, eta))[1]
    assert along(lr) < min(along(0.8 * lr), along(1.2 * lr))
    assert along(2 * lr) == pytest.approx(five.loss_retain, rel=1e-9), "zero gain at 2 eta*"


@pytest.mark.parametrize("first", [1e-6, 1e-4, 1e-2, 1.0, 10.0])
def test_autolr_settles_in_the_same_place_from_any_first_guess(first):
    x, _, _, losses = quadratics()
    five, d = step(x, losses)
    settle = lambda lr: ngdiff.autolr([losses[0]], [x], d, five.loss_retain, lr, max_fits=60)
    (lr, fits), (reference, _) = settle(first), settle(0.1)
    assert lr == pytest.approx(reference, rel=1e-6)
    assert all(0.5 <= fit.lr / fit.probed <= 2 for fit in fits), "a factor of 2 a fit at most"
    assert len(fits) < 30 and fits[-1].status == "fit"


def test_a_fit_says_what_it_saw():
    def fit(loss, lr=0.1, at=0.0, dtype=torch.float64):
        x = torch.tensor([at], dtype=dtype)
        return ngdiff.fit_lr([lambda: loss(x).sum()], [x], [torch.ones_like(x)],
                             float(loss(x).sum()), lr)
    found = fit(lambda x: (x + 1) ** 2, lr=0.8)
    assert (found.status, found.lr) == ("fit", pytest.approx(1.0))
    far = fit(lambda x: (x + 1) ** 2, lr=0.1)
    assert (far.status, far.lr) == ("fit", pytest.approx(0.2)), "no further than a factor of 2"
    up = fit(lambda x: (x - 1) ** 2)
    assert (up.status, up.lr) == ("no descent", pytest.approx(0.05))
    hill = fit(lambda x: x - x ** 2)
    assert (hill.status, hill.lr) == ("no convexity", pytest.approx(0.2))
    wild = fit(lambda x: x + torch.where(x < 0, math.inf, 0.0))
    assert (wild.status, wild.lr) == ("not finite", pytest.approx(0.05))
    drowned = fit(lambda x: 1 + x + x ** 2, lr=1e-5, dtype=torch.float32)
    assert drowned.status == "no convexity", "float32 cannot resolve 1e-10 beside 1: look wider"


@pytest.mark.parametrize("failing", [False, True])
def test_parameters_come_back_bit_for_bit_after_a_probe(failing):
    torch.manual_seed(0)
    params = [torch.randn(1000) * 10.0 ** k for k in range(-6, 7)]
    before = [p.clone() for p in params]
    d = [torch.randn(1000) for _ in params]

    def loss():
        if failing:
            raise RuntimeError("out of memory, say")
        return sum(p.sum() for p in params)
    if failing:
        with pytest.raises(RuntimeError):
            ngdiff.probe([loss], params, d, 0.1)
    else:
        ngdiff.probe([loss], params, d, 0.1)
        assert any(not torch.equal((b + 0.1 * v) - 0.1 * v, b) for b, v in zip(before, d)), \
            "adding and subtracting would not have been exact here"
    assert all(torch.equal(a, b) for a, b in zip(before, params))
