"""GPT-2's transformer (Radford et al. 2019), small enough to read in one sitting.

Learned positions, pre-norm blocks, GELU (tanh form), output head tied to the token embedding. The
parameters have the names that published GPT-2 weights have. Two things differ from the usual file,
both for speed only:
  - logits, and the last block's MLP, are computed only at the labelled positions (an unlabelled
    one enters no loss);
  - `generate` answers many prompts of different lengths at once, with a key/value cache.

Letters: B rows in a batch, T tokens a row, M labelled positions in the batch, C n_embd, H n_head,
D = C / H, V vocabulary size.
"""
import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class GPTConfig:
    vocab_size: int
    block_size: int   # longest row, in tokens
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 128


def attend(q, k, v, cache, start):
    """Causal attention (B, T, H * D) of q (B, H, T, D) and k, v (B, G, T, D) at the positions from
    `start` on. cache (2, B, G, Tmax, D) or None: the k and v of all positions. G = H, but in
    llama.py each head of k and v serves H / G neighbouring heads of q."""
    B, H, T, D = q.shape
    if cache is not None:
        cache[0, :, :, start:start + T], cache[1, :, :, start:start + T] = k, v
        k, v = cache[:, :, :, :start + T]                         # all keys and values so far
    if k.shape[1] < H:
        k, v = (x.repeat_interleave(H // x.shape[1], 1) for x in (k, v))
    # One new token sees all keys, and needs no mask. is_causal counts from the first key, so
    # several tokens behind others need their own mask (T, start + T).
    mask = q.new_ones(T, start + T, dtype=torch.bool).tril(start) if start and T > 1 else None
    # (Spelled out because T > 1 is no bool when it is compiled.)
    causal = True if T > 1 and mask is None else False
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return y.transpose(1, 2).reshape(B, T, H * D)


class Attention(nn.Module):
    """Causal self-attention with H heads."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x, cache=None, start=0):
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                      # 3 x (B, H, T, D)
        return self.c_proj(attend(q, k, v, cache, start))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, norm, attn, mlp):
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = norm(), attn, norm(), mlp

    def forward(self, x, positions=None, cache=None, start=0):
        x = x + self.attn(self.ln_1(x), cache, start)             # (B, T, C)
        if positions is not None:                                 # keep only these: (M, C)
            x = x.flatten(0, 1).index_select(0, positions)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """The language model. `model(batch)` gives losses, `model.generate(prompts)` gives answers."""

    def __init__(self, config):
        super().__init__()
        if config.n_embd % config.n_head:
            raise ValueError(f"n_embd {config.n_embd} is not a multiple of n_head {config.n_head}")
        self.config = config
        self.transformer = nn.ModuleDict(self.parts(config))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight         # tied: one tensor, two uses
        for name, p in self.named_parameters():                   # GPT-2's initialisation
            if p.dim() > 1:
                # Each block adds twice to the residual stream, so these weights start smaller.
                deep = math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 1.0
                nn.init.normal_(p, std=0.02 / deep)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def parts(self, c):
        """The modules between tokens and head, by name (llama.py has others)."""
        norm = partial(nn.LayerNorm, c.n_embd)
        return dict(wte=nn.Embedding(c.vocab_size, c.n_embd),
                    wpe=nn.Embedding(c.block_size, c.n_embd),
                    h=nn.ModuleList(Block(norm, Attention(c), MLP(c)) for _ in range(c.n_layer)),
                    ln_f=norm())

    def embed(self, tokens, start):                               # (B, T, C)
        t = self.transformer
        return t.wte(tokens) + t.wpe.weight[start:start + tokens.shape[1]]

    def hidden(self, tokens, positions=None, cache=None, start=0):
        """Last block's output, (M, C) at `positions`, or (B, T, C) if that is None."""
        T, t = tokens.shape[1], self.transformer
        if start + T > self.config.block_size:
            raise ValueError(f"{start + T} tokens, but the context holds {self.config.block_size}")
        x = self.embed(tokens, start)
        for i, block in enumerate(t.h):
            last = i == len(t.h) - 1
            x = block(x, positions if last else None, None if cache is None else cache[i], start)
        return t.ln_f(x)

    def logits(self, batch):
        """Logits (M, V) at the labelled positions."""
        return self.lm_head(self.hidden(batch.tokens, batch.positions))

    def forward(self, batch):
        """Next-token losses (M,) in nats, one for each labelled position, row after row.

        The mean is L, in nats per answer token: `model(batch).mean()`.
        """
        return F.cross_entropy(self.logits(batch), batch.labels, reduction="none")

    @torch.no_grad()
    def token_losses(self, batch, piece=2**23):
        """The same losses as forward's, for measuring: `piece` logits at a time. At GPT-2's
        vocabulary all are a gigabyte, and allocating that is slower than filling it."""
        n = max(1, piece // self.config.vocab_size)
        x = self.hidden(batch.tokens, batch.positions)
        return torch.cat([F.cross_entropy(self.lm_head(rows), labels, reduction="none")
                          for rows, labels in zip(x.split(n), batch.labels.split(n))])

    @torch.no_grad()
    def generate(self, prompts, max_new, stop):
        """Greedy continuations of `prompts` (lists of token ids, any lengths), as lists of ids.

        Each ends before the token `stop`, after `max_new` tokens, or when the context is full.
        All rows move along the same positions. A row reads its next token from its prompt, and
        after the prompt's end the model chooses it. So nothing is padded on the left or masked,
        and a prompt's answer does not depend on the others in its batch. Cost: one pass over the
        shortest prompt, then one pass of a single token a row for each further position.
        """
        if not prompts or min(map(len, prompts)) == 0:
            raise ValueError("generate needs at least one prompt, and no empty one")
        if max(map(len, prompts)) > self.config.block_size:
            raise ValueError(f"a prompt of {max(map(len, prompts))} tokens, but the context holds "
                             f"{self.config.block_size}")
        device, dtype = self.lm_head.weight.device, self.lm_head.weight.dtype
        ends = torch.tensor([min(len(p) + max_new, self.config.block_size) for p in prompts])
        lengths = torch.tensor([len(p) for p in prompts])
        B, T, c = len(prompts), int(ends.max()), self.config
        tokens = torch.full((B, T), stop)                         # (B, T), filled from the left
        for row, prompt in zip(tokens, prompts):
            row[:len(prompt)] = torch.tensor(prompt)
        tokens, lengths, ends = tokens.to(device), lengths.to(device), ends.to(device)
        G = getattr(c, "n_kv_head", c.n_head)                     # llama.py's are fewer
        cache = torch.empty(c.n_layer, 2, B, G, T, c.n_embd // c.n_head, device=device, dtype=dtype)
        done = ends <= lengths                                    # no room for a single token
        start, t = 0, min(map(len, prompts))
        while t < T and not done.all():
            x = self.hidden(tokens[:, start:t], cache=cache, start=start)[:, -1]      # (B, C)
            free = ((t >= lengths) & ~done).nonzero().squeeze(1)  # past the prompt, still talking
            # No other row needs the head, which takes most of the time if V is 50,257.
            tokens[free, t] = self.lm_head(x[free]).argmax(-1)
            done |= (tokens[:, t] == stop) & (t >= lengths) | (t + 1 >= ends)
            start, t = t, t + 1
        out = [row[n:e] for row, n, e in zip(tokens.tolist(), lengths.tolist(), ends.tolist())]
        return [row[:row.index(stop)] if stop in row else row for row in out]
