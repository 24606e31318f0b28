"""NGDiff: unlearning by the normalized gradient difference, with an adaptive learning rate.

    theta <- theta - lr * d,        d = g_R / ||g_R||  -  g_F / ||g_F||

Jin, Bu, Vinzamuri, Ramakrishna, Chang, Cevher, Hong: "Unlearning as multi-task optimization"
(NAACL 2025, arXiv 2410.22086); the learning rate follows Bu and Xu, "Gradient descent with
generalized Newton's method" (ICLR 2025, arXiv 2407.02772).

    paper      here           meaning                                              unit
    theta      params         list of parameter tensors                            -
    L_R        loss_retain    mean next-token loss on the retain batch, kept low   nats per token
    L_F        loss_forget    the same on the forget batch, pushed up              nats per token
    g_R, g_F   grad_retain, grad_forget   their gradients, lists shaped as params  -
    ||g||      norm_retain, norm_forget   norm over all parameters at once         -
    g_R.g_F    dot            inner product over all parameters                    -
    d          direction      what is subtracted; any method here is d = a g_R - b g_F
    eta        lr             step size

The loop that calls these functions in order is `unlearn` in train.py.
Nothing here knows what a language model is. A loss comes as `parts`: a list of functions without
arguments whose scalar tensors add up to it (one a micro-batch; a single one for a whole batch).
"""
import math
from typing import NamedTuple

import torch

METHODS = ("ngdiff", "gdiff", "ga", "retain", "lossnorm", "pcgrad", "mgda", "npo")


class Stationary(Exception):
    """There is no direction to step along; the message says which of the reasons it is."""


# --------------------------------------------------------------------------- two gradients

def loss_and_grad(parts, params):
    """One task's loss (0-dim tensor) and its gradient (list of tensors shaped as params).

    The parts' gradients are summed, and nothing is normalised here: norms are taken once, of the
    whole batch's gradient. Cost: a forward and a backward pass a part, the activations of one.
    """
    loss = 0.0
    for p in params:
        p.grad = None
    for part in parts:
        value = part()
        # Summed in p.grad, tensor by tensor as the backward pass reaches it: autograd.grad would
        # make a second whole gradient for each further part. It stays there no longer than this.
        value.backward(inputs=params)
        loss = loss + value.detach()
    grad = [p.grad for p in params]
    for p in params:
        p.grad = None
    return loss, grad


@torch.no_grad()
def loss_only(parts):
    """One task's loss as a float, by a forward pass alone."""
    return float(sum(part() for part in parts))


class Five(NamedTuple):
    """All that a method needs to know to weigh the two gradients: five floats."""
    loss_retain: float
    loss_forget: float
    norm_retain: float
    norm_forget: float
    dot: float

    @property
    def cos(self):
        """Cosine of the angle between g_R and g_F; 0 where one of them is zero."""
        return self.dot / (self.norm_retain * self.norm_forget) if self.dot else 0.0


def five_numbers(loss_retain, grad_retain, loss_forget, grad_forget):
    """The five numbers of this step, summed up in float64 whatever the gradients' type.

    Raises FloatingPointError if one is not finite, naming all five. Cost: three reductions over
    the parameters and one transfer from the device; float64 copies of a million numbers at a time.
    """
    products = []
    for pair in zip(grad_retain, grad_forget):
        for r, f in zip(*(g.flatten().split(2**20) for g in pair)):
            r, f = r.double(), f.double()
            products += [r @ r, f @ f, r @ f]
    sums = torch.stack(products).view(-1, 3).sum(0)
    losses = torch.stack((torch.as_tensor(loss_retain), torch.as_tensor(loss_forget)))
    loss_R, loss_F, rr, ff, dot = torch.cat((losses.double().to(sums.device), sums)).tolist()
    five = Five(loss_R, loss_F, math.sqrt(rr), math.sqrt(ff), dot)
    if not all(map(math.isfinite, five)):
        raise FloatingPointError(", ".join(f"{k} {v:.6g}" for k, v in five._asdict().items()))
    return five


# --------------------------------------------------------------------------- directions

def coefficients(method, five, c=0.5):
    """The weights (a, b) of `d = a g_R - b g_F`, one line a method.

    method: one of METHODS; c: gdiff's weight on the retain task, 0..1. npo is gradient difference
    with another objective in L_F's place (`npo_objective`), so its weights are those of c = 1/2.
    Raises Stationary where ngdiff or lossnorm would divide by zero, or ngdiff's d is zero.
    """
    loss_R, loss_F, norm_R, norm_F, dot = five
    if method == "ngdiff":
        check_direction(five)
        return 1 / norm_R, 1 / norm_F
    if method == "gdiff":
        return c, 1 - c
    if method == "npo":
        return 0.5, 0.5
    if method == "ga":                       # gradient ascent on the forget loss
        return 0.0, 1.0
    if method == "retain":                   # plain fine-tuning on the retain set
        return 1.0, 0.0
    if method == "lossnorm":
        if min(loss_R, loss_F) <= 0:
            raise Stationary(f"lossnorm divides by the losses, {loss_R:.6g} and {loss_F:.6g}")
        return 1 / loss_R, 1 / loss_F
    if method == "pcgrad":
        # g_R and -g_F conflict where dot > 0. Each then loses its component along the other:
        # g_R - (dot / ||g_F||^2) g_F  and  -g_F + (dot / ||g_R||^2) g_R, summed. (Yu et al. 2020)
        return (1 + dot / norm_R**2, 1 + dot / norm_F**2) if dot > 0 else (1.0, 1.0)
    if method == "mgda":
        # The shortest vector a g_R - (1 - a) g_F: its derivative in a is zero. (Desideri 2012)
        length2 = norm_R**2 + norm_F**2 + 2 * dot            # ||g_R + g_F||^2
        a = (norm_F**2 + dot) / length2 if length2 > 0 else 0.5
        a = min(max(a, 0.0), 1.0)
        return a, 1 - a
    raise ValueError(f"method {method!r}: choose one of {', '.join(METHODS)}")


def check_direction(five):
    """Tell apart the three ways in which the normalized difference does not exist."""
    for name in ("norm_retain", "norm_forget"):
        if getattr(five, name) == 0:
            raise Stationary(f"{name} is exactly 0: that task's gradient has no direction")
    if five.cos > 1 - 1e-15:                 # what float64 leaves of 1 - cos
        raise Stationary("g_R and g_F are parallel: d = 0, the point is Pareto stationary")


def direction(grad_retain, grad_forget, a, b):
    """d = a g_R - b g_F, written over grad_retain (no third list of gradients is made)."""
    # The minus sign of forgetting: the one place where L_F is turned from falling to rising.
    for g_R, g_F in zip(grad_retain, grad_forget):
        g_R.mul_(a).sub_(g_F, alpha=b)
    return grad_retain


def npo_objective(loss_rows, loss_rows_target, beta=0.1):
    """What negative preference optimization raises in L_F's place (Zhang et al. 2024).

    loss_rows, loss_rows_target (B,): each row's summed loss in nats, under the model and under
    the frozen target model. Returns the rows' values (B,), of which the batch takes the mean. It
    levels off as a row's loss passes the target's: that is how it tames gradient ascent.
    """
    # (2 / beta) log sigma(beta (l(x) - l_target(x)))
    return 2 / beta * torch.nn.functional.logsigmoid(beta * (loss_rows - loss_rows_target))


# --------------------------------------------------------------------------- the update

@torch.no_grad()
def update(params, d, lr):
    """theta <- theta - lr d, in place."""
    for p, d_p in zip(params, d):
        p.sub_(d_p, alpha=lr)


def adam_state(params):
    """Adam's two moments and its step counter, all zero."""
    return {"m": [torch.zeros_like(p) for p in params],
            "v": [torch.zeros_like(p) for p in params], "step": 0}


@torch.no_grad()
def adam_direction(d, state, beta1=0.9, beta2=0.999, eps=1e-8):
    """Adam's preconditioning of d (Kingma and Ba 2015), written over d; the moments advance once.

    Called once a step and before AutoLR, which then fits along the very vector that is applied.
    """
    state["step"] += 1
    for g, m, v in zip(d, state["m"], state["v"]):
        m.lerp_(g, 1 - beta1)                                # m <- beta1 m + (1 - beta1) g
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)        # v <- beta2 v + (1 - beta2) g^2
        m_hat = m / (1 - beta1 ** state["step"])
        torch.div(m_hat, (v / (1 - beta2 ** state["step"])).sqrt_().add_(eps), out=g)
    return d


# --------------------------------------------------------------------------- AutoLR

def parabola(loss_minus, loss_0, loss_plus, lr):
    """Slope and curvature at 0 of the parabola through (-lr, L-), (0, L0), (lr, L+).

    loss_plus = L_R(theta - lr d), loss_minus = L_R(theta + lr d). Exact where L_R is quadratic;
    elsewhere each is off by O(lr^2).
    """
    slope = (loss_minus - loss_plus) / (2 * lr)                       # = g_R . d
    curvature = (loss_plus - 2 * loss_0 + loss_minus) / lr**2         # = d . H_R d
    return slope, curvature


@torch.no_grad()
def probe(parts, params, d, lr):
    """(L-, L+): the loss at theta + lr d and at theta - lr d; theta comes back bit for bit.

    The parameters are restored from a copy, for adding and subtracting again is not exact in
    floating point. Cost: two forward passes and one copy of the parameters.
    """
    saved = [p.detach().clone() for p in params]
    losses = []
    try:
        for step in (-lr, lr):
            for p, d_p, s in zip(params, d, saved):
                torch.sub(s, d_p, alpha=step, out=p)
            losses.append(loss_only(parts))
    finally:
        for p, s in zip(params, saved):
            p.copy_(s)
    return losses


class Fit(NamedTuple):
    """One fit of the parabola: where it probed, what it found, and the lr that it proposes."""
    status: str      # "fit", "no convexity", "no descent" or "not finite"
    probed: float    # the lr of the two probes
    slope: float     # nats per unit of lr
    curvature: float
    lr: float        # to use next: slope / curvature, within a factor of `bound` of `probed`


def fit_lr(parts, params, d, loss_0, lr, bound=2.0):
    """One AutoLR fit: the lr that lowers L_R most along d, from L_R at -lr, 0 and +lr.

    loss_0 = L_R(theta), known from this step's own forward pass on the same parts. The answer is
    trusted only as far as a factor `bound` from where the loss was really measured: a parabola
    says little about a place far from its three points. Cost: two forward passes.
    """
    loss_minus, loss_plus = probe(parts, params, d, lr)
    slope, curvature = parabola(loss_minus, loss_0, loss_plus, lr)
    if not math.isfinite(slope + curvature):
        return Fit("not finite", lr, slope, curvature, lr / bound)         # far too wide
    # A loss is a difference of logits of order 1 and more, so its rounding error is eps times
    # that, even where the loss itself is tiny. A second difference below it is noise.
    noise = 4 * torch.finfo(params[0].dtype).eps * max(1.0, abs(loss_minus), abs(loss_plus))
    if curvature * lr**2 <= noise:
        return Fit("no convexity", lr, slope, curvature, lr * bound)       # look wider
    if slope <= 0:
        # NGDiff's slope is ||g_R|| (1 - cos) >= 0: the probes reach past where that holds.
        return Fit("no descent", lr, slope, curvature, lr / bound)         # look closer
    best = slope / curvature                                 # eta* = (g_R . d) / (d . H_R d)
    return Fit("fit", lr, slope, curvature, min(max(best, lr / bound), lr * bound))


def autolr(parts, params, d, loss_0, lr, max_fits=1, settled=0.15):
    """AutoLR: the learning rate for the next steps and the list of fits that led to it.

    With max_fits > 1 (the first step, where lr is a guess) the fit is repeated from its own
    answer until that moves by less than the share `settled`, so that any first lr ends in the
    same place. Cost: two forward passes a fit.
    """
    fits = []
    while len(fits) < max_fits:
        fits.append(fit_lr(parts, params, d, loss_0, lr))
        lr, fit = fits[-1].lr, fits[-1]
        if fit.status == "fit" and abs(lr / fit.probed - 1) < settled:
            break
    return lr, fits
