"""The Llama family's transformer (Touvron et al. 2023, arXiv 2302.13971). Read model.py first.

Tied head, loss and cached generation are model.py's. Four things differ in between:
  - RMSNorm: x / sqrt(mean(x^2) + eps) * weight; no mean is subtracted, nothing is added;
  - no position is added to a token: attention turns its queries and keys by angles that grow with
    the position, so that a product of the two depends on their distance only (Su et al. 2021,
    arXiv 2104.09864);
  - G heads of keys and values serve H heads of queries (Ainslie et al. 2023, arXiv 2305.13245);
  - SwiGLU: the MLP's inside is a product of two layers' outputs (Shazeer 2020, arXiv 2002.05202).
No layer has a bias.

Letters: as in model.py; G n_kv_head.
"""
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F

from model import GPT, Block, GPTConfig, attend


@dataclass
class LlamaConfig(GPTConfig):
    n_kv_head: int = 2
    n_inner: int = 384         # the MLP's width
    rope_base: float = 1e4     # the slowest pair of D turns by about 1 / rope_base a position
    norm_eps: float = 1e-5


def rotated(x, start, base):
    """x (B, H, T, D), at the positions from `start` on, with its two halves as T x D/2 points of a
    plane: at position p, pair i is turned by the angle p * base^(-2 i / D)."""
    T, D = x.shape[-2:]
    speed = base ** (-torch.arange(0, D, 2, device=x.device) / D)             # (D/2,)
    angle = torch.arange(start, start + T, device=x.device)[:, None] * speed  # (T, D/2) float32
    cos, sin, (a, b) = angle.cos(), angle.sin(), x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1).type_as(x)


class Attention(nn.Module):
    """Causal self-attention with H heads of queries and G heads of keys and values."""

    def __init__(self, config):
        super().__init__()
        self.base, self.D = config.rope_base, config.n_embd // config.n_head
        linear = partial(nn.Linear, bias=False)
        self.q_proj = linear(config.n_embd, config.n_embd)
        self.k_proj = linear(config.n_embd, config.n_kv_head * self.D)
        self.v_proj = linear(config.n_embd, config.n_kv_head * self.D)
        self.c_proj = linear(config.n_embd, config.n_embd)

    def forward(self, x, cache=None, start=0):
        q, k, v = (layer(x).unflatten(-1, (-1, self.D)).transpose(1, 2)      # (B, H or G, T, D)
                   for layer in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotated(q, start, self.base), rotated(k, start, self.base)
        return self.c_proj(attend(q, k, v, cache, start))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.n_embd, config.n_inner, bias=False)
        self.up_proj = nn.Linear(config.n_embd, config.n_inner, bias=False)
        self.c_proj = nn.Linear(config.n_inner, config.n_embd, bias=False)

    def forward(self, x):
        return self.c_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Llama(GPT):
    """model.GPT with other parts."""

    def parts(self, c):
        norm = partial(nn.RMSNorm, c.n_embd, eps=c.norm_eps)
        return dict(wte=nn.Embedding(c.vocab_size, c.n_embd),
                    h=nn.ModuleList(Block(norm, Attention(c), MLP(c)) for _ in range(c.n_layer)),
                    ln_f=norm())

    def embed(self, tokens, start):
        return self.transformer.wte(tokens)
