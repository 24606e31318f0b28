"""GPT-2's transformer (Radford et al. 2019), small enough to read in one sitting.

Learned positions, pre-norm blocks, GELU (tanh form), output head tied to the token embedding; the
parameters carry the names of the published GPT-2 checkpoints, which `from_gpt2` reads. Two things
differ from the usual file, and both are for speed only:
  - logits are computed for the labelled positions alone (an unlabelled one enters no loss), and the
    last block's MLP too runs on those positions alone;
  - `generate` answers many prompts of different lengths at once, with a key/value cache.

Letters: B rows in a batch, T tokens a row, M labelled positions in the batch, C n_embd, H n_head,
D = C / H, V vocabulary size.
"""
import json
import math
import os
import pickle
import struct
import warnings
from dataclasses import dataclass
from typing import NamedTuple

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


class Batch(NamedTuple):
    """Rows of token ids, padded on the right, and where their labels stand.

    tokens (B, T) int64; positions (M,) int64, the labelled places in the flattened (B*T) batch;
    labels (M,) int64, the token that follows each of them; rows (M,) int64, the row each is in.
    The places are found once, on the CPU, when the batch is made: searching a mask for them in
    the forward pass would make a GPU wait.
    """
    tokens: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor

    def to(self, device):
        if str(device).startswith("cuda"):   # from pinned memory, while the CPU goes on
            return Batch(*(x.pin_memory().to(device, non_blocking=True) for x in self))
        return Batch(*(x.to(device) for x in self))


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
        if cache is not None:                                     # cache (2, B, H, Tmax, D)
            cache[0, :, :, start:start + T], cache[1, :, :, start:start + T] = k, v
            k, v = cache[:, :, :, :start + T]                     # all keys and values so far
        # A single new token may look at everything before it; several start from an empty cache.
        # (Spelled out, for a compiled T > 1 is no bool.)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True if T > 1 else False)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

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
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(config.vocab_size, config.n_embd),
            wpe=nn.Embedding(config.block_size, config.n_embd),
            h=nn.ModuleList(Block(config) for _ in range(config.n_layer)),
            ln_f=nn.LayerNorm(config.n_embd)))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight         # tied: one tensor, two uses
        for name, p in self.named_parameters():                   # GPT-2's initialisation
            if p.dim() > 1:
                # Each block adds twice to the residual stream: its scale is divided out.
                deep = math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 1.0
                nn.init.normal_(p, std=0.02 / deep)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def hidden(self, tokens, positions=None, cache=None, start=0):
        """Last block's output, (M, C) at `positions`, or (B, T, C) where that is None."""
        T, t = tokens.shape[1], self.transformer
        if start + T > self.config.block_size:
            raise ValueError(f"{start + T} tokens, but the context holds {self.config.block_size}")
        x = t.wte(tokens) + t.wpe.weight[start:start + T]         # (B, T, C)
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
    def generate(self, prompts, max_new, stop):
        """Greedy continuations of `prompts` (lists of token ids, any lengths), as lists of ids.

        Each ends before the token `stop`, after `max_new` tokens, or where the context is full.
        All rows walk along the same positions: where a row still has prompt left its next token
        is read from there, and is the model's choice after that. So nothing is padded on the left
        and nothing masked, and a batch gives what each prompt gives alone. Cost: one pass over
        the shortest prompt, then one pass of a single token a row for each further position.
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
        cache = torch.empty(c.n_layer, 2, B, c.n_head, T, c.n_embd // c.n_head,
                            device=device, dtype=dtype)
        done = ends <= lengths                                    # no room for a single token
        start, t = 0, min(map(len, prompts))
        while t < T and not done.all():
            x = self.hidden(tokens[:, start:t], cache=cache, start=start)[:, -1]      # (B, C)
            choice = self.lm_head(x).argmax(-1)                   # (B,)
            free = (t >= lengths) & ~done                         # past the prompt, still talking
            tokens[:, t] = torch.where(free, choice, tokens[:, t])
            done |= free & (choice == stop) | (t + 1 >= ends)
            start, t = t, t + 1
        out = [row[n:e] for row, n, e in zip(tokens.tolist(), lengths.tolist(), ends.tolist())]
        return [row[:row.index(stop)] if stop in row else row for row in out]


def read_safetensors(path):
    """The tensors of a .safetensors file (github.com/huggingface/safetensors), by name."""
    dtypes = dict(F64=torch.double, F32=torch.float, F16=torch.half, BF16=torch.bfloat16,
                  I64=torch.long, I32=torch.int, I16=torch.short, I8=torch.int8,
                  U8=torch.uint8, BOOL=torch.bool)
    with open(path, "rb") as f:   # 8 bytes: the header's length; the header, in JSON; the numbers
        size, length = os.path.getsize(path) - 8, int.from_bytes(f.read(8), "little")
        try:
            header = {**json.loads(f.read(length if length <= size else 0))}
        except (ValueError, TypeError, RecursionError) as e:
            raise ValueError(f"{path}: cut short, or no safetensors file ({e})") from None
        header.pop("__metadata__", None)
        weights, spans, size = {}, [], size - length              # from here, bytes of numbers
        for name, entry in header.items():
            match entry:
                case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(i), int(j)]} if (
                        kind in dtypes and all(type(n) is int and n > 0 for n in shape) and
                        math.prod(shape) * dtypes[kind].itemsize == j - i and 0 <= i < j <= size):
                    f.seek(8 + length + i)
                    f.readinto(data := bytearray(j - i))  # a memory map may have them unaligned
                    weights[name] = torch.frombuffer(data, dtype=dtypes[kind]).view(shape)
                    spans.append((i, j))
                case _:
                    raise ValueError(f"{path}: {name!r}: odd dtype, shape or place: {entry!s:.99}")
    # Each tensor begins where another ends, the first at 0, and the last ends the file.
    if sorted([0] + [j for _, j in spans]) != sorted([i for i, _ in spans] + [size]):
        raise ValueError(f"{path}: its tensors overlap, or leave bytes over")
    return weights


def load_saved(path):
    """What torch.save wrote to `path`, tensors and plain values only: a stranger's file can't run
    code. ValueError if it is damaged."""
    try:
        with warnings.catch_warnings(action="ignore"):   # of torch's, about odd files
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AssertionError,
            AttributeError, struct.error, pickle.UnpicklingError) as e:   # all met, in bad files
        raise ValueError(f"{path}: damaged, or no checkpoint at all "
                         f"({type(e).__name__})") from None


def read_weights(path):
    """The CPU tensors in a .safetensors, .bin or .pt file, by name; runs no code that is in it.

    ValueError, naming the file, if it is missing, damaged or holds something else.
    """
    kind = os.path.splitext(path)[1]
    if kind not in (".safetensors", ".bin", ".pt") or not os.path.isfile(path):
        raise ValueError(f"{path}: no such file, or none of .safetensors, .bin and .pt")
    if kind == ".safetensors":
        return read_safetensors(path)
    weights = load_saved(path)
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise ValueError(f"{path}: not a dict of tensors")
    return {str(n): w.detach() for n, w in weights.items()}


def from_gpt2(path):
    """The GPT in a published GPT-2 checkpoint (any size, names as on the hub), float32 on the CPU.

    ValueError names the file and what in it is missing, unknown, of another shape or not finite.
    Memory: the weights as read and a few of the largest, for each is let go once copied.
    """
    weights = read_weights(path)
    if "wte.weight" in weights:   # files come with and without the prefix
        weights = {"transformer." * (n != "lm_head.weight") + n: w for n, w in weights.items()}
    # GPT-2's layers c_* are "Conv1D", (in, out) where nn.Linear has (out, in). Masks are left out.
    weights = {n: w.transpose(0, -1) if ".c_" in n else w for n, w in weights.items()
               if not n.endswith((".attn.bias", ".attn.masked_bias"))}
    wte, wpe = (weights.get(f"transformer.{n}.weight", torch.empty(0)) for n in ("wte", "wpe"))
    if wte.dim() != 2 or wpe.dim() != 2 or wte.shape[1] % 64 or not wte.numel():
        raise ValueError(f"{path}: wte.weight, wpe.weight should be (V, C), (T, C), C = 64 n_head")
    if not torch.equal(weights.pop("lm_head.weight", wte), wte):
        raise ValueError(f"{path}: lm_head.weight is not wte.weight, to which GPT-2 ties it")
    (V, C), n_layer = wte.shape, len({n.split(".")[2] for n in weights if ".h." in n})
    with torch.device("meta"):    # shapes alone; heads of 64 in every published size
        model = GPT(GPTConfig(V, len(wpe), n_layer or 1, C // 64, C))
    want = {n: p.shape for n, p in model.named_parameters()}
    have = {n: w.is_floating_point() and w.shape for n, w in weights.items()}
    if wrong := sorted(n for n in want | have if want.get(n) != have.get(n)):
        raise ValueError(f"{path}: {len(wrong)} weights missing, unknown or misshapen: {wrong[:3]}")
    state = {n: torch.empty(shape).copy_(weights.pop(n)) for n, shape in want.items()}
    if bad := [n for n, w in state.items() if not w.isfinite().all()]:
        raise ValueError(f"{path}: {len(bad)} weights hold NaN or infinity: {bad[:3]}")
    model.load_state_dict(state, strict=False, assign=True)
    model.lm_head.weight = model.transformer.wte.weight       # tied anew: `assign` parts the two
    return model
