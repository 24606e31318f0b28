"""Files of weights: the tensors in a .safetensors, .bin, .pt or .pth file, by name.

A file from a stranger can't run code, nor fill the memory: safetensors is read here byte by byte,
the others by torch's reader of tensors and plain values.
"""
import json
import math
import os
import pickle
import re
import struct
import warnings

import torch

DTYPES = dict(F64=torch.double, F32=torch.float, F16=torch.half, BF16=torch.bfloat16,
              I64=torch.long, I32=torch.int, I16=torch.short, I8=torch.int8,
              U8=torch.uint8, BOOL=torch.bool)         # as safetensors spells them
KINDS = (".safetensors", ".bin", ".pt", ".pth")


def read_weights(path):
    """The CPU tensors in the file, by name. Runs no code that is in it. ValueError names the file
    if it is missing, damaged or something else."""
    if not os.path.isfile(path) or not str(path).endswith(KINDS):
        raise ValueError(f"{path}: should be one file of weights: {', '.join(KINDS)}")
    try:
        return read_safetensors(path) if str(path).endswith(KINDS[0]) else read_saved(path)
    except OSError as e:
        raise ValueError(f"{path}: can't be read ({e.strerror})") from None


# --------------------------------------------------------------------------- .safetensors

def read_safetensors(path):
    """The tensors of a .safetensors file (github.com/huggingface/safetensors): 8 bytes with the
    length of the header, the header in JSON, the numbers. All places in the file are checked before
    a number is read: no byte belongs to two tensors."""
    with open(path, "rb") as f:
        size, length = os.path.getsize(path) - 8, int.from_bytes(f.read(8), "little")
        try:
            header = {**json.loads(f.read(length if length <= size else 0))}
        except (ValueError, TypeError, RecursionError) as e:
            raise ValueError(f"{path}: cut short, or no safetensors file ({e!s:.99})") from None
        header.pop("__metadata__", None)
        check_places(path, header, size - length)
        weights = {}
        for name, entry in header.items():
            i, j = entry["data_offsets"]
            f.seek(8 + length + i)
            f.readinto(data := bytearray(j - i))      # a memory map may have them unaligned
            numbers = torch.frombuffer(data, dtype=DTYPES[entry["dtype"]])
            weights[name] = numbers.view(entry["shape"])
    return weights


def check_places(path, header, size):
    """ValueError unless the header's tensors fill the `size` bytes of numbers, none overlapping."""
    begins, ends = [], []
    for name, entry in header.items():
        match entry:
            case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(i), int(j)]} if (
                    kind in DTYPES and all(type(n) is int and n > 0 for n in shape) and
                    math.prod(shape) * DTYPES[kind].itemsize == j - i and 0 <= i < j <= size):
                begins.append(i)
                ends.append(j)
            case _:
                raise ValueError(f"{path}: {name!r:.99}: odd dtype, shape or place: {entry!s:.99}")
    # Each tensor begins where another ends, the first at 0, and the last ends the file.
    if sorted((0, *ends)) != sorted((*begins, size)):
        raise ValueError(f"{path}: its tensors overlap, or bytes belong to none")


# --------------------------------------------------------------------------- torch.save's

def read_saved(path):
    """The tensors in a file of torch.save's, by name, if all are plain and none is larger than the
    file (an expanded one is)."""
    try:
        with warnings.catch_warnings(action="ignore"):   # of torch's, about odd files
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AssertionError,
            AttributeError, struct.error, pickle.UnpicklingError) as e:   # all met, in bad files
        code = re.search(r"GLOBAL ([\w.]{1,99})", str(e))
        what = f"asks for {code[1]}, so for code" if code else f"damaged ({type(e).__name__})"
        raise ValueError(f"{path}: {what}; write it with torch.save(model.state_dict(), FILE)"
                         ) from None
    if not isinstance(weights, dict):
        raise ValueError(f"{path}: a {type(weights).__name__}, no dict of tensors")
    for name, w in weights.items():
        if (not torch.is_tensor(w) or w.is_nested or w.layout != torch.strided or
                w.device.type != "cpu" or w.dtype not in DTYPES.values()):
            raise ValueError(f"{path}: {name!r:.99} is no plain tensor; save the model's "
                             "state_dict() only")
    if (need := sum(w.nbytes for w in weights.values())) > 2 * os.path.getsize(path) + 2**20:
        raise ValueError(f"{path}: its tensors share memory: written out, {need:.2g} bytes")
    return {str(n): w.detach() for n, w in weights.items()}
