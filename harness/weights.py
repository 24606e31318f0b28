"""Published GPT-2 weights, from a file to a model and back."""
import json
import multiprocessing
import os
import re

import torch

from harness import sources
from harness.checkpoint_files import read_weights
from model import GPT, GPTConfig

# The fields of config.json that change what a GPT-2 computes, and their values for what model.py
# computes. The three activations are one formula. A field that is missing or null has the first.
COMPUTED = dict(
    model_type=("gpt2",), architectures=(["GPT2LMHeadModel"], ["GPT2Model"]),
    activation_function=("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), layer_norm_epsilon=(1e-5,),
    scale_attn_weights=(True,), scale_attn_by_inverse_layer_idx=(False,),
    add_cross_attention=(False,), tie_word_embeddings=(True,))


def from_gpt2(path):
    """The GPT in a published GPT-2 checkpoint (any size, names as on the hub), float32 on the CPU.

    ValueError names the file and what in it is missing, unknown, of another shape or not finite, or
    the field of the config.json beside it that says other than file or model.py.
    Memory: the weights as read and a few of the largest, for each is let go once copied.
    """
    weights = plain_names(path, read_weights(path))
    # GPT-2's layers c_* are "Conv1D", (in, out) where nn.Linear has (out, in). Masks are left out.
    weights = {n: w.transpose(0, -1) if ".c_" in n else w for n, w in weights.items()
               if not n.endswith((".attn.bias", ".attn.masked_bias"))}
    wte, wpe = (weights.get(f"transformer.{n}.weight", torch.empty(0)) for n in ("wte", "wpe"))
    if wte.dim() != 2 or wpe.dim() != 2 or not wte.numel():
        raise ValueError(f"{path}: wte.weight, wpe.weight should be (V, C), (T, C)")
    (V, C), n_layer = wte.shape, len({n.split(".")[2] for n in weights if ".h." in n})
    n_layer = max(1, min(n_layer, len(weights) // 12 + 1))   # a layer has 12: names alone make none
    said = config_beside(path)
    size = GPTConfig(V, len(wpe), n_layer, heads(path, C, said), C)
    check_config(path, size, said)
    if not torch.equal(weights.pop("lm_head.weight", wte), wte):
        raise ValueError(f"{path}: lm_head.weight is not wte.weight, to which GPT-2 ties it")
    model = filled(path, weights, size)
    if said is None and multiprocessing.parent_process() is None:   # the trainings' processes: no
        print(f"{path}: no config.json beside it, so assumed: n_head {size.n_head} (heads of 64), "
              f"n_layer {n_layer} (all that the model has), gelu_new, layer norm's epsilon 1e-5")
    return model


def plain_names(path, weights):
    """The weights under the names that model.py has. Files come with and without "transformer.";
    wrappers of the model put more before it."""
    out = {re.sub(r"^((module|_orig_mod)\.)+", "", n): w for n, w in weights.items()}
    if len(out) < len(weights):
        raise ValueError(f"{path}: some weights are there twice, with module. or _orig_mod. before "
                         "their names and without")
    if "wte.weight" in out:
        out = {"transformer." * (n != "lm_head.weight") + n: w for n, w in out.items()}
    return out


def filled(path, weights, size):
    """The model of that size with these weights, which are let go one by one."""
    with torch.device("meta"):    # shapes alone
        model = GPT(size)
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


# --------------------------------------------------------------------------- config.json

def beside(path):
    return os.path.join(os.path.dirname(path), "config.json")


def config_beside(path):
    """What the config.json beside the weights says, a dict; None if there is none."""
    if not os.path.isfile(beside(path)):
        return None
    try:
        with open(beside(path), encoding="utf-8") as f:
            said = {**json.load(f)}
    except (OSError, ValueError, TypeError, RecursionError) as e:
        raise ValueError(f"{beside(path)}: no JSON object to be read ({e!s:.99})") from None
    if missing := [k for k in ("n_head", "n_layer") if said.get(k) is None]:
        raise ValueError(f"{beside(path)}: {missing[0]} is missing: the weights do not tell it")
    return said


def heads(path, C, said):
    """How many attention heads the model in `path` has: what config.json says or else heads of 64,
    as in every published size. No weight's shape tells."""
    n = C / 64 if said is None else said["n_head"]
    if not isinstance(n, (int, float)) or n < 1 or n % 1 or C % n:
        raise ValueError(f"{path}: n_head {n!s:.99} for a width of {C}; {beside(path)} should say "
                         "n_head, and the width be a multiple of it")
    return int(n)


def check_config(path, size, said):
    """ValueError if what config.json says, if anything, is not what model.py computes from weights
    of these shapes."""
    shapes = dict(n_layer=size.n_layer, n_embd=size.n_embd, vocab_size=size.vocab_size,
                  n_positions=size.block_size, n_ctx=size.block_size, n_inner=4 * size.n_embd)
    for field, values in (COMPUTED | {k: (v,) for k, v in shapes.items()}).items():
        if said and said.get(field) not in (*values, None):
            raise ValueError(f"{beside(path)}: {field} is {said[field]!s:.99}; " + (
                f"{path} has {values[0]}" if field in shapes and field != "n_inner" else
                f"model.py computes GPT-2 with {values[0]} alone"))


# --------------------------------------------------------------------------- back, and into a run

def to_gpt2(model):
    """The model's weights, on the CPU, as published GPT-2 checkpoints hold them."""
    state = {n: w.cpu() for n, w in model.state_dict().items()}
    return {n: w.t().contiguous() if ".c_" in n and w.dim() == 2 else w for n, w in state.items()}


def initial_model(config, tokenizer, rows):
    """The model before training: random, the same for a seed, or the published one of --init.
    GPT-2's vocabulary is often padded (to 50304, or by one token): the rows after the tokenizer's
    stay, so that the logits are the published ones."""
    longest, where = sources.longest(tokenizer, rows)
    if not config.init:
        torch.manual_seed(config.seed)
        size = config.n_layer, GPTConfig.n_head, config.n_embd
        return GPT(GPTConfig(tokenizer.n_vocab, longest, *size))
    model = from_gpt2(config.init)
    V, T = model.config.vocab_size, model.config.block_size
    padded = V > tokenizer.n_vocab
    if not (tokenizer.n_vocab == V or padded) or longest > T:
        raise ValueError(f"--init {config.init}: a vocabulary of {V} and a context of {T} tokens, "
                         f"but the data has {tokenizer.n_vocab} and {where} is {longest} long; "
                         "published weights go with --tokenizer gpt2")
    return model
