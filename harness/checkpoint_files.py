"""Files of weights: the tensors in a .safetensors, .bin, .pt or .pth file, by name.

A file from a stranger can't run code, nor fill the memory: safetensors is read here byte by byte,
the others by torch's reader of tensors and plain values. A file of another kind gets a message that
says what it is and what to do.
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
MERGE = ("with transformers, AutoModelForCausalLM.from_pretrained(its folder).save_pretrained(out) "
         "writes one file")
ADAPTER = ("PEFT's adapter, which changes a model and is none: peft's PeftModel.from_pretrained("
           "model, its folder).merge_and_unload().save_pretrained(out) writes the changed model")


def read_weights(path):
    """The CPU tensors in the file, by name; runs no code that is in it.

    ValueError, naming the file, if it is missing, damaged or holds something else.
    """
    path = str(path)
    if refused := other_kind(path):
        raise ValueError(f"{path}: {refused}")
    weights = read_safetensors(path) if path.endswith(".safetensors") else read_saved(path)
    if odd := [n for n in weights if "lora_" in n or n.startswith("base_model.")]:
        raise ValueError(f"{path}: {odd[0]} belongs to {ADAPTER}")
    return weights


def other_kind(path):
    """What the path is, if no file of weights, and what to do; "" if it may be one."""
    name = os.path.basename(os.path.normpath(path))
    shard = re.search(r"-\d+-of-(\d+)\.", name)
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "adapter_config.json")):
            return f"the folder of {ADAPTER}"
        inside = sorted(n for n in os.listdir(path) if n.endswith((*KINDS, ".index.json")))
        there = f"there: {', '.join(inside):.200}" if inside else f"one of {', '.join(KINDS)}"
        return f"a folder: name the file in it that holds the weights, {there}"
    if re.match("adapter_(model|config)", name):
        return ADAPTER
    if name.endswith(".index.json"):
        return f"lists the files that a model was cut into, and holds no weights: {MERGE}"
    if shard and int(shard[1]) > 1:
        return f"one of the {int(shard[1])} files that a model was cut into: {MERGE}"
    if not os.path.isfile(path) or not name.endswith(KINDS):
        return f"no such file, or none of {', '.join(KINDS)}"
    return "" if os.access(path, os.R_OK) else "may not be read by you"


# --------------------------------------------------------------------------- .safetensors

def read_safetensors(path):
    """The tensors of a .safetensors file (github.com/huggingface/safetensors), by name. No number
    is read before all places in the file are checked: no byte belongs to two tensors."""
    with open(path, "rb") as f:   # 8 bytes: the header's length; the header, in JSON; the numbers
        size, length = os.path.getsize(path) - 8, int.from_bytes(f.read(8), "little")
        try:
            header = {**json.loads(f.read(length if length <= size else 0))}
        except (ValueError, TypeError, RecursionError) as e:
            raise ValueError(f"{path}: cut short, or no safetensors file ({e!s:.99})") from None
        header.pop("__metadata__", None)
        places = check_places(path, header, size - length)
        weights = {}
        for name, (i, j) in places.items():
            f.seek(8 + length + i)
            f.readinto(data := bytearray(j - i))      # a memory map may have them unaligned
            kind, shape = header[name]["dtype"], header[name]["shape"]
            weights[name] = torch.frombuffer(data, dtype=DTYPES[kind]).view(shape)
    return weights


def check_places(path, header, size):
    """Where each tensor lies in the `size` bytes of numbers: {name: (begin, end)}."""
    places = {}
    for name, entry in header.items():
        match entry:
            case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(i), int(j)]} if (
                    kind in DTYPES and all(type(n) is int and n > 0 for n in shape) and
                    math.prod(shape) * DTYPES[kind].itemsize == j - i and 0 <= i < j <= size):
                places[name] = i, j
            case _:
                raise ValueError(f"{path}: {name!r:.99}: odd dtype, shape or place: {entry!s:.99}")
    # Each tensor begins where another ends, the first at 0, and the last ends the file.
    begins, ends = zip(*places.values()) if places else ((), ())
    if sorted((0, *ends)) != sorted((*begins, size)):
        raise ValueError(f"{path}: its tensors overlap, or leave bytes over")
    return places


# --------------------------------------------------------------------------- torch.save's

def load_saved(path):
    """What torch.save wrote to `path`, tensors and plain values only: a stranger's file can't run
    code. ValueError if it is damaged."""
    try:
        with warnings.catch_warnings(action="ignore"):   # of torch's, about odd files
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AssertionError,
            AttributeError, struct.error, pickle.UnpicklingError) as e:   # all met, in bad files
        if code := re.search(r"Unsupported global: GLOBAL ([\w.]{1,99})", str(e)):
            raise ValueError(
                f"{path}: asks for {code[1]}, so for code: a whole model was saved there, or the "
                "file is damaged. Where it was made: torch.save(model.state_dict(), FILE)"
            ) from None
        raise ValueError(f"{path}: damaged, or no checkpoint at all "
                         f"({type(e).__name__})") from None


def read_saved(path):
    """The tensors in a file of torch.save's, by name, once each is known to be a plain one."""
    weights = load_saved(path)
    if not isinstance(weights, dict):
        raise ValueError(f"{path}: a {type(weights).__name__}, no dict of tensors")
    if "model_args" in weights and "model" in weights:
        raise ValueError(
            f"{path}: nanoGPT's checkpoint, of another model: its GELU is exact, GPT-2's is the "
            "tanh form, and its c_*.weight are (out, in). If you trained it with the tanh form, "
            "save checkpoint[\"model\"] alone, each c_*.weight transposed")
    for name, w in weights.items():
        if not torch.is_tensor(w):
            raise ValueError(f"{path}: {name!s:.99} is no tensor but a {type(w).__name__}; save "
                             "the model's state_dict() alone")
        if odd := oddity(w):
            raise ValueError(f"{path}: {name!s:.99} is {odd}; save plain tensors")
    if (need := sum(w.nbytes for w in weights.values())) > 2 * os.path.getsize(path) + 2**20:
        raise ValueError(f"{path}: its tensors share memory: written out, {need:.2g} bytes")
    return {str(n): w.detach() for n, w in weights.items()}


def oddity(w):
    """What makes a tensor other than a block of numbers in memory, in words; "" if nothing does."""
    if w.is_nested or w.layout != torch.strided:
        return "nested" if w.is_nested else f"of the layout {w.layout}"
    if w.device.type != "cpu":
        return f"of the device {w.device}, without numbers"
    if w.dtype not in DTYPES.values():
        return f"of the dtype {w.dtype}"
    return "expanded: larger than what is saved" if w.nbytes > w.untyped_storage().nbytes() else ""
