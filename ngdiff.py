"""NGDiff: unlearning by the normalized gradient difference, with an adaptive learning rate.

    theta <- theta - lr d,        d = g_R / ||g_R||  -  g_F / ||g_F||

Jin, Bu, Vinzamuri, Ramakrishna, Chang, Cevher, Hong: "Unlearning as multi-task optimization"
(NAACL 2025, arXiv 2410.22086). The learning rate follows Bu and Xu, "Gradient descent with
generalized Newton's method" (ICLR 2025, arXiv 2407.02772).

    paper      here                       meaning                                     unit
    theta      params                     list of parameter tensors                   -
    L_R        loss_retain                loss on the retain batch, to be kept low    nats per token
    L_F        loss_forget                loss on the forget batch, to be raised      nats per token
    g_R, g_F   grad_retain, grad_forget   their gradients, lists shaped as params     -
    ||g||      norm_retain, norm_forget   norm over all parameters at once            -
    g_R.g_F    dot                        inner product over all parameters           -
    d          direction                  what is subtracted; always a g_R - b g_F    -
    eta        lr                         learning rate                               -

This file knows nothing of language models. To unlearn any module, put it in eval mode (AutoLR
compares losses, so dropout must be off), then:

    state = ngdiff.State()
    for retain, forget in batches:
        ngdiff.step(lambda: loss(retain), lambda: loss(forget), model.parameters(), state,
                    memory=0.9, budget=0.03, probe_on=lambda: loss(watched))

watched: some retain rows, the same at every step. Without the second line this is the paper's
algorithm as printed. It works on large batches of a small model. On batches of a few rows its
learning rate ruins the model (theory/noise.py).

A loss is a function without arguments that returns a scalar tensor, or a list of such functions
whose values add up to it: micro-batches, each a sum divided by the whole batch's size.
"""
import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist

METHODS = ("ngdiff", "gdiff", "ga", "retain", "lossnorm", "pcgrad", "mgda")
FITS_AT_START = 60       # AutoLR's first step makes at most this many fits
LR_RANGE = 1e-10, 1e4    # AutoLR's learning rates stay within


class Stationary(Exception):
    """The method has no direction at this point; the message says why."""


# --------------------------------------------------------------------------- one step

@dataclass
class State:
    """What a run carries from step to step, besides the parameters: plain numbers and tensors."""
    lr: float = 0.01       # learning rate of the last step; before the first one, AutoLR's guess
    step: int = 0          # steps taken
    adam: bool = False     # precondition d as Adam does
    m: list = None         # Adam's two moments, lists shaped as the parameters that move
    v: list = None
    moving: list = None    # and the positions of these parameters among all given to step
    mean: list = None      # with `memory`, the running mean of g_R
    watched: float = None  # the loss that AutoLR looks at, before the first step


class Numbers(NamedTuple):
    """What one step saw and did. None: not known yet, or AutoLR made no fit."""
    loss_retain: float     # before the step
    loss_forget: float
    norm_retain: float
    norm_forget: float
    dot: float
    lr: float = None       # of this step
    fits: int = None       # how often AutoLR fitted the parabola; then the last fit, see `Fit`
    status: str = None
    probed: float = None
    slope: float = None
    curvature: float = None
    watched: float = None  # before the fit: the loss that AutoLR looks at,
    room: float = None     # and with a budget, by how many nats it may still rise

    @property
    def cos(self):
        """Cosine of the angle between g_R and g_F; 0 if one of them is zero."""
        product = self.norm_retain * self.norm_forget
        return self.dot / product if product else 0.0


def step(retain, forget, params, state, *, method="ngdiff", c=0.5, lazy=None, probe_on=None,
         total=None, memory=0.0, budget=None, approach=None):
    """One step of the paper's "Algorithm 1", or of another method: moves `params` in place.

    retain, forget: the losses, as the top of this file says; each must be deterministic. Enter
    autocast inside a loss, not around step. params: any iterable; a parameter that requires no
    gradient stays as it is. state: a State, updated. method, c: see `coefficients`. lazy: AutoLR
    fits every `lazy` steps, 0: never; None: 10 with ngdiff and 0 with every other method.
    probe_on: another retain loss for AutoLR: of other rows, or in float32 if the passes run in
    bfloat16, which is too coarse for a fit. total: with several processes, which share every loss:
    total(tensors) must sum each tensor over them, in place. memory: see `running_mean`. budget: in
    nats, see `fit_budget`. approach: the step goes at most this share of `way`; None: no limit.

    Returns Numbers. Raises Stationary if there is no direction, FloatingPointError if a loss or a
    gradient is not finite, ValueError if it cannot use an argument. Parameters and state are then
    as before; only if a loss fails in a probe, state may have changed. .grad is emptied. Cost: both
    losses forward and backward; two forward passes a fit (three on probe_on), one more at first.
    """
    given, retain, forget = list(dict.fromkeys(params)), as_list(retain), as_list(forget, "forget")
    params, watched = movable(given), retain if probe_on is None else as_list(probe_on, "probe_on")
    lazy = 10 * (method == "ngdiff") if lazy is None else lazy
    check_arguments(state, given, total, lazy, memory, budget, probe_on)
    loss_retain, grad_retain = loss_and_grad(retain, params, total)
    loss_forget, grad_forget = loss_and_grad(forget, params, total, "forget")
    grad_retain = running_mean(state.mean, grad_retain, memory)
    numbers = five_numbers(loss_retain, grad_retain, loss_forget, grad_forget)
    a, b = coefficients(method, numbers, c)
    check_approach(approach, numbers)
    fit = lazy and state.step % lazy == 0
    if fit:
        loss_0 = numbers.loss_retain if probe_on is None else loss_only(watched, total, "probe_on")
        room = before_fit(state, watched, params, loss_0, budget, total)
    remember(state, grad_retain, given, memory)
    d = direction(grad_retain, grad_forget, a, b)
    if state.adam:
        d = adam_direction(d, *moments(state, given), state.step + 1)
    most = math.inf if approach is None else approach * way(numbers.loss_forget, grad_forget, d)
    del grad_retain, grad_forget                  # d reuses grad_retain's memory
    if fit:
        state.lr, fits = autolr(watched, params, d, loss_0, state.lr, total=total, steps=lazy,
                                max_fits=1 if state.step else FITS_AT_START, room=room)
        numbers = numbers._replace(**fits[-1]._asdict(), fits=len(fits), watched=loss_0, room=room)
    update(params, d, lr := min(state.lr, most))
    state.step += 1
    return numbers._replace(lr=lr)


# --------------------------------------------------------------------------- two gradients

def loss_and_grad(losses, params, total=None, name="retain"):
    """One task's loss (0-dim tensor) and its gradient (list of tensors shaped as params).

    losses: a function, or a list of functions whose gradients are summed; norms are taken later,
    of the sum. A parameter that the loss does not reach gets zeros. The parameters' .grad is
    emptied before and after; a parameter outside params that requires a gradient collects one.
    total: see `step`. ValueError, with `name`, if a loss depends on no parameter or is no scalar;
    torch's UserWarning, raised, if checkpoint(..., use_reentrant=True) would lose gradients.
    Not for two threads at once: they would share the warning filters and the parameters' .grad.
    """
    loss = 0.0
    for p in params:
        p.grad = None
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "None of the inputs have requires_grad")
        for part in as_list(losses, name):
            value = evaluate(part, name)
            if not value.requires_grad:
                raise ValueError(f"{name}: a loss depends on no parameter (under no_grad?)")
            # Each part adds into p.grad: one gradient is held. Not by autograd.grad or by
            # backward(inputs=params): these do not see parameters in a reentrant checkpoint.
            value.backward()
            loss = loss + value.detach()
    grad = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in params]
    for p in params:
        p.grad = None
    if total:
        total([loss, *grad])
    return loss, grad


@torch.no_grad()
def loss_only(losses, total=None, name="retain"):
    """One task's loss as a float, by forward passes only. Arguments as in `loss_and_grad`."""
    loss = sum(evaluate(part, name) for part in as_list(losses, name))
    if total:
        total([loss])
    return float(loss)


def five_numbers(loss_retain, grad_retain, loss_forget, grad_forget):
    """Numbers with its first five fields set, summed in float64 whatever the gradients' type.

    Losses: floats or 0-dim tensors; gradients: lists of tensors. FloatingPointError, which shows
    all five, if one is not finite. Cost: three reductions over the parameters, three transfers.
    """
    products = []
    for pair in zip(grad_retain, grad_forget):
        for pieces in zip(*(g.flatten().split(2**20) for g in pair)):   # few float64 copies
            # Apple's "mps" has no float64.
            r, f = ((x.cpu() if x.device.type == "mps" else x).double() for x in pieces)
            products += [r @ r, f @ f, r @ f]
    rr, ff, dot = torch.stack(products).view(-1, 3).sum(0).tolist()
    five = Numbers(float(loss_retain), float(loss_forget), math.sqrt(rr), math.sqrt(ff), dot)
    if not all(map(math.isfinite, five[:5])):
        raise FloatingPointError(", ".join(f"{k} {v:.6g}" for k, v in zip(five._fields, five[:5])))
    return five


# --------------------------------------------------------------------------- directions

def coefficients(method, numbers, c=0.5):
    """The weights (a, b) of d = a g_R - b g_F. c: gdiff's weight on the retain task, 0 to 1.

        ngdiff     1 / ||g_R||,  1 / ||g_F||
        gdiff      c,  1 - c                  gradient difference; the paper's c: 0.1, 0.5, 0.9
        ga         0,  1                      gradient ascent on the forget loss
        retain     1,  0                      fine-tuning on the retain set
        lossnorm   1 / L_R,  1 / L_F
        pcgrad     1 + dot / ||g_R||^2,  1 + dot / ||g_F||^2;  if dot <= 0:  1,  1
        mgda       w,  1 - w,  w = (||g_F||^2 + dot) / ||g_R + g_F||^2, cut to 0 .. 1: the
                   shortest such d;  if g_R + g_F = 0:  1/2,  1/2

    pcgrad (Yu et al. 2020): g_R and -g_F conflict if dot > 0; then each loses its component along
    the other, and the two are summed. mgda: Desideri 2012.
    Raises Stationary if ngdiff or lossnorm would divide by 0 (or by a negative loss) or if g_R and
    g_F point in the same direction, which makes ngdiff's d 0; ValueError for another method.
    """
    loss_R, loss_F, norm_R, norm_F, dot = numbers[:5]
    if method == "ngdiff":
        if min(norm_R, norm_F) < 1e-38:      # 1 / norm would be infinite in float32
            raise Stationary(f"norm_retain {norm_R:.6g}, norm_forget {norm_F:.6g}: a gradient of 0 "
                             "has no direction")
        if numbers.cos > 1 - 1e-15:          # what float64 leaves of 1 - cos
            raise Stationary("g_R and g_F point in the same direction: d = 0, Pareto stationary")
        return 1 / norm_R, 1 / norm_F
    if method == "gdiff":
        return c, 1 - c
    if method in ("ga", "retain"):
        return (0.0, 1.0) if method == "ga" else (1.0, 0.0)
    if method == "lossnorm":
        if min(loss_R, loss_F) < 1e-38:
            raise Stationary(f"lossnorm divides by the losses, {loss_R:.6g} and {loss_F:.6g}")
        return 1 / loss_R, 1 / loss_F
    if method == "pcgrad":
        return (1 + dot / norm_R**2, 1 + dot / norm_F**2) if dot > 0 else (1.0, 1.0)
    if method == "mgda":
        length2 = norm_R**2 + norm_F**2 + 2 * dot            # ||g_R + g_F||^2
        w = min(max((norm_F**2 + dot) / length2, 0.0), 1.0) if length2 > 0 else 0.5
        return w, 1 - w
    raise ValueError(f"method {method!r}: choose one of {', '.join(METHODS)} (npo: gdiff "
                     "with c=0.5 and the mean of npo_objective as the forget loss)")


def direction(grad_retain, grad_forget, a, b):
    """d = a g_R - b g_F, written over grad_retain, which is returned: no third list is made."""
    # The minus sign of forgetting: only here does L_F turn from falling to rising.
    for g_R, g_F in zip(grad_retain, grad_forget):
        g_R.mul_(a).sub_(g_F, alpha=b)
    return grad_retain


def running_mean(mean, grad, memory):
    """g_R's replacement (ours, for small batches): m <- memory m + (1 - memory) g_R, written over
    grad. It averages noise out before the gradient is divided by its norm. mean: m of the step
    before, None at first; both lists of tensors. memory: 0 (g_R itself) to below 1."""
    for g, m in zip(grad, mean or ()):
        g.lerp_(m, memory)
    return grad


def npo_objective(loss_rows, loss_rows_target, beta=0.1):
    """The objective that negative preference optimization raises, not L_F (Zhang et al. 2024).

    loss_rows, loss_rows_target (B,): each row's summed loss in nats, under the model and under
    the frozen target model. Returns (B,): the batch's objective is their mean.
    """
    # (2 / beta) log sigma(beta (l(x) - l_target(x)))
    return 2 / beta * torch.nn.functional.logsigmoid(beta * (loss_rows - loss_rows_target))


def level_objective(loss_rows, n_tokens, levels):
    """The objective that the level loss raises in L_F's place (ours, not in the paper).

    loss_rows (B,): each row's summed loss, nats; n_tokens (B,): its answer tokens; levels (B,):
    the loss to which it is raised, nats per token: that of an unseen row. Returns (B,): the batch's
    objective is their sum divided by its number of answer tokens.

    The distance is measured in logarithms. The gradient of a row that is known by heart is about as
    small as its loss l(x). Here it is multiplied by log(B_x / l(x)) / l(x), so in log l(x) all rows
    move alike. A row beyond its level comes back down. A loss below 1e-7 counts as 1e-7, and stays.
    """
    # -n_x (log l(x) - log B_x)^2 / 2,  l(x) = loss_rows / n_x,  B_x = levels
    return -n_tokens * ((loss_rows / n_tokens).clamp(min=1e-7) / levels).log()**2 / 2


def token_level_objective(losses, margins, levels):
    """The same with a level for each token (ours): losses, levels (M,), nats; margins (M,): the
    likeliest other token's logit minus the right one's. Returns (M,): the batch's objective is
    their mean.

    The distance is measured in a token's log-odds u = log(exp(l) - 1) of being wrong. Any step
    moves l in proportion to 1 - exp(-l), so above 1 nat log l would hardly move, but in u all
    tokens move alike. Losses and levels below 1e-7 count as 1e-7.

    The gradient is the margin's in place of u's: what the right token loses goes to the likeliest
    other one. By u's own gradient it goes to many, also to words that make no sentence there.
    """
    # -(u(l) - u(B))^2 / 2
    u, u_level = (l.detach().clamp(min=1e-7).expm1().log() for l in (losses, levels))
    return -(u - u_level + margins - margins.detach())**2 / 2


def way(objective, grad_forget, d):
    """The lr at which a step along d would change the distance x from the levels by x, if x went on
    changing as at lr = 0. objective: the level loss, -x^2 / 2; grad_forget: its gradient."""
    # d does not shrink near the levels: at a fixed lr the rows would overshoot them. The slope of
    # the objective is -x dx/dlr, so x / |dx/dlr| = x^2 / |slope|.
    slope = abs(five_numbers(0.0, d, 0.0, grad_forget).dot)
    return -2 * objective / slope if slope else math.inf


@torch.no_grad()
def update(params, d, lr):
    """theta <- theta - lr d, in place."""
    for p, d_p in zip(params, d):
        p.sub_(d_p, alpha=lr)


@torch.no_grad()
def adam_direction(d, m, v, step, beta1=0.9, beta2=0.999, eps=1e-8):
    """Adam's preconditioning of d (Kingma and Ba 2015), written over d.

    d, m, v: lists shaped as the parameters; the moments m and v (zeros before step 1) advance in
    place. step: counts from 1. AutoLR comes later and fits along the vector that is applied.
    """
    for g, m_p, v_p in zip(d, m, v):
        m_p.lerp_(g, 1 - beta1)                              # m <- beta1 m + (1 - beta1) g
        v_p.mul_(beta2).addcmul_(g, g, value=1 - beta2)      # v <- beta2 v + (1 - beta2) g^2
        m_hat = m_p / (1 - beta1**step)
        torch.div(m_hat, (v_p / (1 - beta2**step)).sqrt_().add_(eps), out=g)
    return d


# --------------------------------------------------------------------------- AutoLR

def parabola(loss_minus, loss_0, loss_plus, lr):
    """(slope, curvature) of L_R along d, from three losses ("Algorithm 1").

    loss_plus = L_R(theta - lr d), a step ahead; loss_minus = L_R(theta + lr d), a step back. So
    L_R(theta - lr d) = loss_0 - slope lr + curvature lr^2 / 2, lowest at slope / curvature.
    slope = g_R.d (nats per unit of lr) is positive if a step lowers L_R; curvature = d.H_R d,
    H_R the Hessian. Both are exact if L_R is quadratic, and otherwise off by O(lr^2).
    """
    slope = (loss_minus - loss_plus) / (2 * lr)
    curvature = (loss_plus - 2 * loss_0 + loss_minus) / lr**2
    return slope, curvature


@torch.no_grad()
def probe(losses, params, d, lr, total=None):
    """(loss_minus, loss_plus): floats, the loss at theta + lr d and at theta - lr d.

    The parameters come back bit for bit, also if a loss raises: from a copy, because adding and
    subtracting is not exact. Cost: two forward passes and one copy of the parameters.
    """
    saved, probed = [p.detach().clone() for p in params], []
    try:
        for alpha in (-lr, lr):
            for p, d_p, s in zip(params, d, saved):
                torch.sub(s, d_p, alpha=alpha, out=p)
            probed.append(loss_only(losses, total))
    finally:
        for p, s in zip(params, saved):
            p.copy_(s)
    return probed


class Fit(NamedTuple):
    """One fit of the parabola."""
    status: str        # what it found, see `fit_lr` and `autolr`
    probed: float      # the lr that it was given: its probes stand there, or see `fit_budget`
    slope: float
    curvature: float
    lr: float          # to use next


def fit_lr(losses, params, d, loss_0, lr, total=None):
    """One AutoLR fit: the lr that lowers L_R most along d, from L_R at -lr, 0 and +lr.

    loss_0: L_R(theta), on the same batch. Returns a Fit. Cost: two forward passes.

        status          the first that holds                  next lr, within LR_RANGE
        not finite      slope or curvature infinite or NaN    lr/2
        no convexity    curvature <= 0, or lost in rounding   2 lr: look further away
        no descent      slope <= 0                            lr/2: look closer
        fit             none of these                         slope / curvature, within lr/2 .. 2 lr
    """
    # DIFFERS: the paper takes slope / curvature as it is. A parabola says little about places far
    # from its three points, so one fit changes lr by at most a factor of 2.
    low, high = max(lr / 2, LR_RANGE[0]), min(lr * 2, LR_RANGE[1])
    loss_minus, loss_plus = probe(losses, params, d, lr, total)
    slope, curvature = parabola(loss_minus, loss_0, loss_plus, lr)
    if not math.isfinite(slope + curvature):
        return Fit("not finite", lr, slope, curvature, low)
    if curvature * lr**2 <= rounding(params, loss_minus, loss_0, loss_plus):
        return Fit("no convexity", lr, slope, curvature, high)
    if slope <= 0:
        # NGDiff's exact slope, ||g_R|| (1 - cos), is never negative: the probes were too far off.
        return Fit("no descent", lr, slope, curvature, low)
    best = slope / curvature                                 # eta* = (g_R . d) / (d . H_R d)
    return Fit("fit", lr, slope, curvature, min(max(best, low), high))


def fit_budget(losses, params, d, loss_0, lr, room, steps, total=None):
    """One fit with a budget (ours): the lr at which `steps` steps along d raise the watched loss by
    `room` nats. steps: as many as follow until the next fit; the probes stand at steps * lr. d's
    length must be bounded, as ngdiff's is; gdiff's grows with the forget gradient.

        status          the first that holds                  next lr, within LR_RANGE
        not finite      slope or curvature infinite or NaN    lr/4
        fit             room > 0                              within lr/4 .. 4 lr, the first place
                                                              at which the parabola has risen by
                                                              room, divided by steps
        no room         slope > 0 and curvature > 0           slope / curvature, within lr/4 .. lr
        no descent      none of these                         lr/2
    """
    # Why not lowest L_R? At a memorised minimum d lowers L_R by noise only, so the best lr for L_R
    # is 0, and nothing would be forgotten. Why `steps` ahead? The lr is used that many times.
    far = steps * lr
    loss_minus, loss_plus = probe(losses, params, d, far, total)
    slope, curvature = parabola(loss_minus, loss_0, loss_plus, far)
    status, best = "no descent", lr / 2
    if not all(map(math.isfinite, (slope, curvature))):
        status, best = "not finite", lr / 4
    elif room > 0:
        status, best = "fit", reach(slope, curvature, room) / steps
    elif slope > 0 and curvature > 0:
        status, best = "no room", min(slope / curvature, lr)
    best = min(max(best, lr / 4, LR_RANGE[0]), lr * 4, LR_RANGE[1])
    return Fit(status, lr, slope, curvature, best)


def reach(slope, curvature, room):
    """The first x > 0 at which the parabola -slope x + curvature x^2 / 2 has risen to `room` > 0;
    infinite if it never does."""
    squared = slope**2 + 2 * curvature * room
    if squared < 0 or (curvature <= 0 and slope >= 0):
        return math.inf
    # Of two equal forms the one without a difference of nearly equal numbers.
    root = math.sqrt(squared)
    return (slope + root) / curvature if slope > 0 else 2 * room / (root - slope)


def autolr(losses, params, d, loss_0, lr, max_fits=1, total=None, room=None, steps=1):
    """AutoLR: (learning rate for the next steps, list of the Fits that led to it).

    Fits by `fit_lr`, or with a budget, of which `room` is left, by `fit_budget`.

    max_fits > 1 (the first step, where lr is a guess): the fit is repeated from its own answer
    until this moves by less than 15 %, so that any first lr ends in the same place. A rate at which
    a fit asks for more is a lower bound, one at which it asks for less an upper one. An answer out
    of these bounds becomes their geometric mean. If no rate settles, the given lr is kept and the
    last Fit's status is "not settled". max_fits = 1: the only Fit's lr is taken, whatever
    its status. ValueError if lr is outside LR_RANGE.
    """
    check_lr(lr)
    guess, fits, low, high = lr, [], 0.0, math.inf
    while len(fits) < max_fits:
        fit = (fit_lr(losses, params, d, loss_0, lr, total) if room is None else
               fit_budget(losses, params, d, loss_0, lr, room, steps, total))
        low, high = lr if fit.lr > lr else low, lr if fit.lr < lr else high
        lr = fit.lr if low < fit.lr < high else math.sqrt(low * high)
        fits.append(fit := fit._replace(lr=lr))
        if fit.status == "fit" and abs(lr / fit.probed - 1) < 0.15:
            return lr, fits
    if max_fits > 1:
        lr, fits[-1] = guess, fit._replace(status="not settled", lr=guess)
    return lr, fits


# --------------------------------------------------------------------------- what step refuses

def movable(given):
    """The parameters that require a gradient, as a list. ValueError if there are none, if they are
    not all on one device and float32 or float64 (lower precision rounds small steps away), or if
    one shares memory with another parameter."""
    for p in given:
        if not torch.is_tensor(p) or not p.is_leaf:
            raise ValueError(f"params: {type(p).__name__} is no parameter; pass model.parameters() "
                             "or a list of leaf tensors")
    params = [p for p in given if p.requires_grad]
    found = {f"{p.dtype} on {p.device}" for p in params}
    if len({p.device for p in params}) != 1 or \
            {p.dtype for p in params} - {torch.float32, torch.float64}:
        raise ValueError("params: those that require a gradient must be float32 or float64, on one "
                         f"device, not {', '.join(sorted(found)) or 'none'} (for less: autocast)")
    end, owner = 0, None       # where the memory seen so far ends, and whose it is there
    for p in sorted((p for p in given if p.numel() and p.data_ptr()), key=torch.Tensor.data_ptr):
        if p.data_ptr() < end and (p.requires_grad or owner.requires_grad):
            raise ValueError(f"params: two, of shapes {[*owner.shape]} and {[*p.shape]}, share "
                             "memory and would count twice: make them one (b.weight = a.weight)")
        n = 1 + sum((size - 1) * stride for size, stride in zip(p.shape, p.stride()))
        if p.data_ptr() + n * p.element_size() > end:
            end, owner = p.data_ptr() + n * p.element_size(), p
    return params


def places(given):
    """The positions, among the given parameters, of those that move."""
    return [i for i, p in enumerate(given) if p.requires_grad]


def remember(state, mean, given, memory):
    """With memory, keep a copy of the running mean: d is written over the mean itself."""
    if not memory:
        return
    if state.mean is None:
        state.mean, state.moving = [torch.empty_like(m) for m in mean], places(given)
    for kept, m in zip(state.mean, mean):
        kept.copy_(m)


def moments(state, given):
    """Adam's moments (m, v): lists shaped as the parameters that move, zeros at first."""
    if state.m is None:
        state.moving = places(given)
        state.m, state.v = ([torch.zeros_like(given[i]) for i in state.moving] for _ in range(2))
    return state.m, state.v


def as_list(losses, name="retain"):
    losses = [losses] if callable(losses) or torch.is_tensor(losses) else list(losses)
    if not losses or not all(map(callable, losses)):
        raise ValueError(f"{name}: neither a function that returns the loss nor a list of such "
                         "functions (but a tensor, an empty list, or an iterator already used up?)")
    return losses


def evaluate(part, name):
    """The value of one of a loss's functions, which must be a scalar tensor."""
    value = part()
    if not torch.is_tensor(value) or value.dim():
        kind = f"shape {[*value.shape]}" if torch.is_tensor(value) else type(value).__name__
        raise ValueError(f"{name}: the loss must be a scalar tensor, but is {kind}")
    return value


def check_arguments(state, given, total, lazy, memory, budget, probe_on):
    """ValueError for an argument that `step` cannot use. Moments and running mean are matched to
    parameters by shape and position: if you pass only those that move, another selection with the
    same shapes goes unnoticed."""
    n = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if n > 1 and total is None:              # without the sum the models would diverge
        raise ValueError(f"total: None, but {n} processes run, and step must sum their gradients "
                         "(if each has a run of its own: total=lambda tensors: None)")
    if not 0 <= memory < 1:
        raise ValueError(f"memory {memory:g}: must be from 0 to below 1")
    if budget is not None and (not budget > 0 or not lazy or probe_on is None):
        raise ValueError(f"budget {budget:g}: must be above 0; and AutoLR keeps it, on the rows "
                         "of probe_on: pass retain rows, the same at every step, and no lazy=0")
    kept, moving = state.m or state.mean, places(given)
    if kept and (state.moving != moving or
                 [x.shape for x in kept] != [given[i].shape for i in moving]):
        raise ValueError("params: what state keeps (Adam's moments, the running mean) belongs to "
                         "other parameters; start a new State after freezing or unfreezing one")


def check_approach(approach, numbers):
    """ValueError for an objective above 0: `way` needs one whose highest value is 0."""
    if approach is not None and numbers.loss_forget > 0:
        raise ValueError(f"approach: the forget objective is {numbers.loss_forget:g}, above 0")


def before_fit(state, watched, params, loss_0, budget, total):
    """The rest of the budget, or None without one; state keeps the first loss. ValueError if AutoLR
    cannot start from state.lr, or if the watched loss, evaluated again, is no longer loss_0: AutoLR
    compares losses."""
    check_lr(state.lr)
    if state.step == 0:
        again = loss_only(watched, total)
        if not abs(again - loss_0) <= rounding(params, loss_0, again):
            raise ValueError(f"retain (or probe_on): the loss is {loss_0:.8g}, evaluated again it "
                             f"is {again:.8g}: dropout, or a new batch at each call? (If passes "
                             "run in bfloat16: pass probe_on in float32.)")
        state.watched = loss_0
    return None if budget is None else state.watched + budget - loss_0


def check_lr(lr):
    if not LR_RANGE[0] <= lr <= LR_RANGE[1]:
        raise ValueError(f"lr {lr:g}: AutoLR starts from {LR_RANGE[0]:g} to {LR_RANGE[1]:g}")


def rounding(params, *losses):
    """How far losses can differ by rounding only: a share of them, so their unit is free. (Second
    differences were up to 51 eps times the loss, for one row known by heart.)"""
    return 256 * torch.finfo(params[0].dtype).eps * max(map(abs, losses))
