"""A Llama's folder as the Hugging Face hub has it: what config.json and tokenizer.json say, under
the keys of a GGUF file. gguf.py checks them and makes the tokenizer. The weights lie beside them.
"""
import json
import os

import data
from harness.gguf import CONTROL, EOS, LLAMA, NORMAL, TOKENS

# A key of GGUF's, and config.json's field that means the same.
FIELDS = {LLAMA + "block_count": "num_hidden_layers",
          LLAMA + "context_length": "max_position_embeddings",
          LLAMA + "embedding_length": "hidden_size",
          LLAMA + "feed_forward_length": "intermediate_size",
          LLAMA + "attention.head_count": "num_attention_heads",
          LLAMA + "attention.head_count_kv": "num_key_value_heads",
          LLAMA + "attention.layer_norm_rms_epsilon": "rms_norm_eps",
          EOS: "eos_token_id"}
# gguf.PATTERN in tokenizer.json's words: each digit is a piece; between digits GPT-2's way.
CUT = [{"type": "Digits", "individual_digits": True},
       {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]
ADDS_NONE = "ByteLevel", "TemplateProcessing"    # post-processors, if they name no token


def is_llama(path):
    """Whether a Llama is in this file of weights: a .gguf, or config.json beside it says so."""
    return path.endswith(".gguf") or beside(path, "config.json").get("model_type") == "llama"


def beside(path, name):
    """The JSON object in the file `name` beside `path`; {} if there is no such file."""
    path = os.path.join(os.path.dirname(path), name)
    try:
        return {**json.loads(data.read_text(path))} if os.path.exists(path) else {}
    except (ValueError, TypeError, RecursionError) as e:
        raise ValueError(f"{path}: should be a JSON object ({e!s:.99})") from None


def said(path):
    """The keys, as `gguf.checked` takes them, of the Llama whose weights are in the file `path`.
    ValueError for a model or a tokenizer that is not known here."""
    config, words = beside(path, "config.json"), beside(path, "tokenizer.json")
    if not config or not words:
        raise ValueError(f"{path}: a Llama's weights: config.json and tokenizer.json should lie "
                         "beside them (or give its .gguf file)")
    # transformers 5 writes rope_parameters in place of rope_theta and rope_scaling.
    turn = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 1e4),
                                             "rope_type": "default"}
    base = turn.get("rope_theta") if type(turn) is dict else None
    only = {"model_type": "llama", "hidden_act": "silu", "rope_scaling": None,
            "rope_parameters": {"rope_theta": base, "rope_type": "default"}}
    check(path, "config.json", config | {"rope_parameters": turn}, only)
    config = {"num_key_value_heads": config.get("num_attention_heads")} | config
    if missing := [field for field in FIELDS.values() if field not in config]:
        raise ValueError(f"{path}: config.json beside it has no {missing[0]}")
    return {key: config[field] for key, field in FIELDS.items()} | tokenizer(path, words) | {
        "general.architecture": "llama", LLAMA + "vocab_size": config.get("vocab_size"),
        LLAMA + "attention.key_length": config.get("head_dim"),
        LLAMA + "rope.freq_base": float(base) if type(base) is int else base}


def check(path, name, found, only):
    """ValueError if a field of `only` has another value in `found`. A missing one is right."""
    for field, x in only.items():
        if found.get(field, x) != x:
            raise ValueError(f"{path}: {name} beside it: {field} is {found[field]!r:.99}; known "
                             f"here is {x!r}")


def tokenizer(path, words):
    """The keys of a tokenizer.json: byte-level BPE that cuts text as CUT says and adds no token."""
    try:
        model, cut, after = words["model"], words["pre_tokenizer"], words.get("post_processor")
        cut = [{k: x for k, x in part.items() if k != "trim_offsets"}
               for part in cut.get("pretokenizers", [cut])]
        added = {token["content"]: token["id"] for token in words["added_tokens"]}
        ids = model["vocab"] | added
        tokens = sorted(ids, key=ids.get)
        merges = [m if type(m) is str else " ".join(m) for m in model["merges"]]
        adds = after and (after["type"] not in ADDS_NONE or after.get("special_tokens"))
    except (LookupError, TypeError, AttributeError) as e:
        raise ValueError(f"{path}: tokenizer.json beside it: odd ({e!r:.99})") from None
    asked = {**model, "pre_tokenizer": cut, "normalizer": words.get("normalizer"),
             "post_processor": after if adds else None}
    check(path, "tokenizer.json", {k: x or None for k, x in asked.items()}, {
        "type": "BPE", "pre_tokenizer": CUT, "normalizer": None, "post_processor": None,
        "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "ignore_merges": None})
    if [ids[t] for t in tokens] != [*range(len(tokens))]:
        raise ValueError(f"{path}: tokenizer.json beside it: the ids should be 0 to "
                         f"{len(tokens) - 1}, each once")
    return {TOKENS + "model": "gpt2", TOKENS + "pre": "smollm", TOKENS + "tokens": tokens,
            TOKENS + "token_type": [CONTROL if t in added else NORMAL for t in tokens],
            TOKENS + "merges": merges}
