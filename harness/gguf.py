"""GGUF files of Llama-type models: metadata, tensors and tokenizer. The format is described in
ggml's docs/gguf.md (github.com/ggml-org/ggml).

A file holds a head (keys with values, then each tensor's name, shape, type and place) and the
tensors' numbers. It may come from a stranger: each count, length and place is checked before it is
used. What is not known here and may change the model is refused by its name, not skipped.
"""
import math
import os
import struct
from functools import partial
from typing import NamedTuple

import numpy as np
import tiktoken
import torch

# A value's type: struct's letter. 8 is a text, 9 a list.
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
# A tensor's type: (its name, numbers in a block, bytes of a block).
KINDS = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
         8: ("Q8_0", 32, 34), 30: ("BF16", 1, 2)}
MOST = 2**20            # keys, tensors, or items of a list

# NUMBERS (above 0) and LISTS must be in a file. ONLY: keys with the values known here, None if the
# key may be missing. Other keys of "llama." are refused: they may change the model.
LLAMA, TOKENS = "llama.", "tokenizer.ggml."
NUMBERS = {LLAMA + "rope.freq_base": float, LLAMA + "attention.layer_norm_rms_epsilon": float} | {
    LLAMA + key: int for key in ("block_count", "context_length", "embedding_length",
                                 "feed_forward_length", "attention.head_count",
                                 "attention.head_count_kv")}
EOS = TOKENS + "eos_token_id"
LISTS = {TOKENS + "tokens": str, TOKENS + "token_type": int, TOKENS + "merges": str}
ONLY = {"general.architecture": ("llama",), TOKENS + "model": ("gpt2",),
        TOKENS + "pre": ("smollm",), TOKENS + "add_bos_token": (False, None),
        TOKENS + "add_space_prefix": (False, None), LLAMA + "rope.scaling.type": ("none", None)}
NORMAL, CONTROL = 1, 3      # types of a token

# smollm's way of cutting text into pieces: each digit is a piece; between digits GPT-2's way.
PATTERN = (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+")


class Stored(NamedTuple):
    """A tensor as it lies in the file."""
    kind: str
    shape: torch.Size
    raw: np.ndarray       # its bytes
    heads: int            # of attn_q and attn_k, whose rows are interleaved; else 0

    is_floating_point = lambda self: True

    def float(self):
        """The tensor."""
        w = torch.from_numpy(decoded(self.kind, self.raw)).view(self.shape)
        if self.heads:    # row 2 i + j of a head is row j D/2 + i here, where halves are turned
            rows, width = self.shape
            w = w.view(self.heads, -1, 2, width).transpose(1, 2).reshape(rows, width)
        return w


def decoded(kind, raw):
    """The numbers in the bytes `raw`, float32. A block of 32 is a half d, in Q4_1 a half m too,
    and 32 signed bytes or 16 bytes: their low four bits are the first 16 numbers."""
    if kind in ("F32", "F16"):
        return raw.view("<f4" if kind == "F32" else "<f2").astype("f4")
    if kind == "BF16":    # the upper half of a float32
        return (raw.view("<u2").astype("u4") << 16).view("f4")
    head = {"Q8_0": 2, "Q4_0": 2, "Q4_1": 4}[kind]
    blocks = raw.reshape(-1, head + (32 if kind == "Q8_0" else 16))
    half, q = blocks[:, :head].view("<f2").astype("f4"), blocks[:, head:]      # (n, 1 or 2)
    if kind == "Q8_0":
        return half * q.view("i1")
    q = np.concatenate([q & 15, q >> 4], 1).astype("f4")                      # (n, 32)
    return half[:, :1] * (q - 8 if kind == "Q4_0" else q) + (half[:, 1:] if kind == "Q4_1" else 0)


# --------------------------------------------------------------------------- the head

class Reader:
    """Values one after the other from the bytes of a file."""

    def __init__(self, path):
        self.path, self.at = path, 0
        self.raw = np.memmap(path, "u1", "r") if os.path.getsize(path) else np.empty(0, "u1")

    def bytes(self, n):
        if n > len(self.raw) - self.at:
            raise ValueError(f"{self.path}: cut short, or no GGUF file: at byte {self.at} {n} more "
                             f"should follow; {len(self.raw) - self.at} do")
        self.at += n
        return self.raw[self.at - n:self.at]

    def number(self, letter):
        return struct.unpack("<" + letter, self.bytes(struct.calcsize("<" + letter)))[0]

    def count(self, letter, what, most=MOST):
        if (n := self.number(letter)) > most:
            raise ValueError(f"{self.path}: {n} {what}: at most {most} are read")
        return n

    def text(self):
        content = self.bytes(self.number("Q")).tobytes()
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{self.path}: not UTF-8: {content!r:.60}") from None

    def value(self, key):
        """The value of a key: a number, a text or a list of them. A list that nobody needs is
        skipped."""
        kind, n = self.number("I"), None
        if kind == LIST:
            kind, n = self.number("I"), self.count("Q", f"items of {key!r:.60}")
        if kind != TEXT and kind not in SCALARS:
            raise ValueError(f"{self.path}: {key!r:.60} has a value of type {kind}, or a list of "
                             "lists: not known here")
        read = self.text if kind == TEXT else partial(self.number, SCALARS[kind])
        if n is None:
            return read()
        items = (read() for _ in range(n))
        return list(items) if key in LISTS else sum(0 for _ in items)

    def pairs(self, n, what, read):
        """{text: read(text)} of n texts, each followed by its value."""
        found = {}
        for _ in range(n):
            if (name := self.text()) in found:
                raise ValueError(f"{self.path}: the {what} {name!r:.60} is there twice")
            found[name] = read(name)
        return found

    def place(self, name):
        """(name of the type, shape, offset, size in bytes) of a tensor."""
        dims = [self.number("Q") for _ in range(self.count("I", f"dimensions of {name!r:.60}", 4))]
        kind, offset = self.number("I"), self.number("Q")
        if kind not in KINDS:
            raise ValueError(f"{self.path}: {name!r:.60} is of GGUF's type {kind}; read are "
                             + ", ".join(f"{i} ({name})" for i, (name, _, _) in KINDS.items()))
        kind, per_block, size = KINDS[kind]
        if not dims or 0 in dims or dims[0] % per_block:
            raise ValueError(f"{self.path}: {name!r:.60}: {dims} is no shape for {kind}")
        return kind, dims[::-1], offset, math.prod(dims) // per_block * size


def read(path):
    """{name: Stored} of a file, and "gguf": its keys on model and tokenizer. ValueError if it is
    damaged, or asks for something that is not done here."""
    file = Reader(path)
    if file.bytes(4).tobytes() != b"GGUF" or file.number("I") not in (2, 3):
        raise ValueError(f"{path}: no GGUF file of version 2 or 3, little-endian")
    n_tensors, n_keys = file.count("Q", "tensors"), file.count("Q", "keys")
    said = checked(path, found := file.pairs(n_keys, "key", file.value))
    places = file.pairs(n_tensors, "tensor", file.place)
    align = found.get("general.alignment", 32)
    if type(align) is not int or not 8 <= align <= 2**16 or align % 8:
        raise ValueError(f"{path}: general.alignment {align!r:.60}")
    begin, end = -(-file.at // align) * align, 0
    for name, (_, _, offset, size) in sorted(places.items(), key=lambda item: item[1][2]):
        if offset % align or offset < end or offset + size > len(file.raw) - begin:
            raise ValueError(f"{path}: {name!r:.60}: its {size} bytes at {offset} lie in another "
                             f"tensor, beyond the file's end, or not on a multiple of {align}")
        end = offset + size
    heads = {"attn_q": said[LLAMA + "attention.head_count"],
             "attn_k": said[LLAMA + "attention.head_count_kv"]}
    return {"gguf": said} | {
        name: Stored(kind, torch.Size(shape), file.raw[begin + at:begin + at + size],
                     heads.get(name.split(".")[-2], 0) if "." in name else 0)
        for name, (kind, shape, at, size) in places.items()}


def checked(path, found):
    """The needed ones of a file's keys and values. ValueError names a key that is missing, of
    another type, out of bounds, or not known."""
    for key, kind in NUMBERS.items():
        if type(x := found.get(key)) is not kind or not 0 < x < 2**30:
            raise ValueError(f"{path}: {key} is {x!r:.60}; should be of type {kind.__name__}, "
                             "above 0 and below 2^30")
    for key, kind in LISTS.items():
        if type(x := found.get(key)) is not list or not all(type(item) is kind for item in x):
            raise ValueError(f"{path}: {key} should be a list of {kind.__name__}")
    C, H, G = (found[LLAMA + key] for key in ("embedding_length", "attention.head_count",
                                             "attention.head_count_kv"))
    if C % (2 * H) or H % G:
        raise ValueError(f"{path}: attention.head_count {H} for a width of {C}, and "
                         f"head_count_kv {G}: no even width of a head, or no even groups")
    only = ONLY | {LLAMA + "vocab_size": (len(found[TOKENS + "tokens"]), None)} | {
        LLAMA + key: (C // H, None) for key in ("rope.dimension_count", "attention.key_length",
                                                "attention.value_length")}
    for key in only.keys() | {key for key in found if key.startswith(LLAMA)} - NUMBERS.keys():
        if (x := found.get(key)) not in only.get(key, ()):
            known = only[key][0] if key in only else "no such key"
            raise ValueError(f"{path}: {key!s:.80} is {x!r:.60}; known here is {known!r}")
    return {key: found[key] for key in (*NUMBERS, *LISTS, *ONLY, EOS) if key in found}


# --------------------------------------------------------------------------- the tokenizer

def letters():
    """{visible character: byte}: GPT-2's way to write bytes as text."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): b for i, b in enumerate(others)}


class Vocabulary(tiktoken.Encoding):
    """The tokenizer that a file describes, with the file's ids. tiktoken wants all 256 bytes: those
    without a token get ids after the vocabulary, and text with such a byte is refused."""

    def __init__(self, said, path="tokenizer"):
        self.said, tokens, types = said, said[TOKENS + "tokens"], said[TOKENS + "token_type"]
        if len(types) != len(tokens) or not {*types} <= {NORMAL, CONTROL}:
            raise ValueError(f"{path}: {TOKENS}token_type should be {NORMAL} or {CONTROL} for each "
                             f"of {len(tokens)} tokens")
        special = {t: i for i, (t, kind) in enumerate(zip(tokens, types)) if kind == CONTROL}
        ids = {t: i for i, (t, kind) in enumerate(zip(tokens, types)) if kind == NORMAL}
        pairs, byte_of = [m.split(" ") for m in said[TOKENS + "merges"]], letters()
        ranks = [ids.get("".join(pair), -1) for pair in pairs]
        if (len(ids) + len(special) < len(tokens) or -1 in ranks or ranks != sorted({*ranks}) or
                any(len(pair) != 2 or "" in pair or not ids.keys() >= {*pair} for pair in pairs) or
                ids.keys() - map("".join, pairs) - byte_of.keys()):
            raise ValueError(f"{path}: {TOKENS}tokens should be different, each a byte or the "
                             "result of one of the merges, with ids in the order of these")
        if type(end := said.get(EOS)) is not int or end not in special.values():
            raise ValueError(f"{path}: {EOS} is {end!r:.60}: no control token's")
        ranks = {bytes(byte_of[c] for c in t): i for t, i in ids.items()}
        missing = [bytes([b]) for b in range(256) if bytes([b]) not in ranks]
        ranks |= {byte: len(tokens) + i for i, byte in enumerate(missing)}
        super().__init__("gguf", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)

    @property
    def eot_token(self):
        return self.said[EOS]

    def encode_ordinary(self, text):
        ids = super().encode_ordinary(text)
        if max(ids, default=0) >= (n := len(self.said[TOKENS + "tokens"])):
            byte = self.decode_single_token_bytes(next(i for i in ids if i >= n))[0]
            raise ValueError(f"{text!r:.60}: the model has no token for its byte {byte:#04x}")
        return ids

    def __reduce__(self):
        return Vocabulary, (self.said,)
