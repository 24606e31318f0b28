"""Published GPT-2 weights, from a file to a model: .safetensors, .bin or .pt.

A file from a stranger can't run code: safetensors is read here byte by byte, the others by torch's
reader of tensors and plain values.
"""
import json
import math
import os
import pickle
import struct
import warnings

import torch

import data
from model import GPT, GPTConfig


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
    if wte.dim() != 2 or wpe.dim() != 2 or not wte.numel():
        raise ValueError(f"{path}: wte.weight, wpe.weight should be (V, C), (T, C)")
    if not torch.equal(weights.pop("lm_head.weight", wte), wte):
        raise ValueError(f"{path}: lm_head.weight is not wte.weight, to which GPT-2 ties it")
    (V, C), n_layer = wte.shape, len({n.split(".")[2] for n in weights if ".h." in n})
    with torch.device("meta"):    # shapes alone
        model = GPT(GPTConfig(V, len(wpe), n_layer or 1, heads(path, C), C))
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


def heads(path, C):
    """How many attention heads the model in `path` has: what the config.json beside it says, or
    else heads of 64, as in every published size. No weight's shape tells."""
    beside = os.path.join(os.path.dirname(path), "config.json")
    n_head = C / 64
    if os.path.isfile(beside):
        try:
            with open(beside, encoding="utf-8") as f:
                n_head = json.load(f)["n_head"]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ValueError(f"{beside}: no n_head to be read there ({e!r:.99})") from None
    if not isinstance(n_head, (int, float)) or n_head < 1 or n_head % 1 or C % n_head:
        raise ValueError(f"{path}: a width of {C} and {n_head} heads ({beside} may tell n_head)")
    return int(n_head)


def to_gpt2(model):
    """The model's weights, on the CPU, as published GPT-2 checkpoints hold them."""
    state = {n: w.cpu() for n, w in model.state_dict().items()}
    return {n: w.t().contiguous() if ".c_" in n and w.dim() == 2 else w for n, w in state.items()}


def initial_model(config, tokenizer, rows):
    """The model before training: random, the same for a seed, or the published one of --init."""
    longest, where = data.longest_row(tokenizer, rows)
    if not config.init:
        torch.manual_seed(config.seed)
        size = config.n_layer, config.n_head, config.n_embd
        return GPT(GPTConfig(tokenizer.n_vocab, longest, *size))
    model = from_gpt2(config.init)
    V, T = model.config.vocab_size, model.config.block_size
    if tokenizer.n_vocab != V or longest > T:
        raise ValueError(f"--init {config.init}: a vocabulary of {V} and a context of {T} tokens, "
                         f"but the data has {tokenizer.n_vocab} and {where} is {longest} long; "
                         "published weights go with --tokenizer gpt2")
    return model
