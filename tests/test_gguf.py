"""GGUF files and the Llama family: what is read is what the format says, what is computed is what
the papers say, and a stranger's file is refused in one line. The file is written here.
"""
import json
import math
import pickle
import re
import struct
import tracemalloc

import numpy as np
import pytest
import torch

import train
from conftest import code_of, ready, refused, write_rows
from data import Example, collate, encode
from experiments import audit
from harness import gguf, names, weights
from harness.llama import Llama, LlamaConfig
from harness.weights import as_published, read_weights
from test_model import greedy_uncached
from test_weights import safetensors

C, INNER, LAYERS, H, G = 64, 96, 2, 4, 2
D = C // H
BYTES = {byte: letter for letter, byte in gguf.letters().items()}
MISSING = 4                     # the byte without a token
MERGES = ["i n", "Ġ t", "Ġt h", "Ġ Ġ", "Ċ Ċ", "1 9"]       # no text of digits becomes "19"
NORMAL = [BYTES[b] for b in range(256) if b != MISSING] + [m.replace(" ", "") for m in MERGES]
WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *NORMAL]
SAID = {
    "general.architecture": "llama", "general.alignment": 32, "general.languages": ["en"],
    "llama.block_count": LAYERS, "llama.context_length": 4096, "llama.embedding_length": C,
    "llama.feed_forward_length": INNER, "llama.attention.head_count": H,
    "llama.attention.head_count_kv": G, "llama.rope.freq_base": 1000.0,
    "llama.attention.layer_norm_rms_epsilon": 0.0625, "llama.rope.dimension_count": D,
    "llama.vocab_size": len(WORDS), "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": WORDS, "tokenizer.ggml.token_type": [3] * 3 + [1] * len(NORMAL),
    "tokenizer.ggml.merges": MERGES, "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": "{}"}
LETTERS = {bool: (7, "?"), int: (4, "I"), float: (6, "f")}


def text(s):
    raw = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(raw)) + raw


def value(x, typed=True):
    if isinstance(x, bytes):                   # as it is
        return x
    if isinstance(x, list):
        kind = 8 if isinstance(x[0], str) else LETTERS[type(x[0])][0]
        return struct.pack("<IIQ", 9, kind, len(x)) + b"".join(value(i, False) for i in x)
    kind, letter = (8, None) if isinstance(x, str) else LETTERS[type(x)]
    return struct.pack("<I", kind) * typed + (struct.pack("<" + letter, x) if letter else text(x))


def tensors():
    """{name: (type, shape, bytes)}, of all six types, of random numbers."""
    g, held = np.random.default_rng(0), {"token_embd": ("Q8_0", len(WORDS), C),
                                         "output_norm": ("F32", C)}
    for i in range(LAYERS):
        held |= {f"blk.{i}.{name}": of for name, of in {
            "attn_norm": ("F32", C), "attn_q": ("Q4_1", C, C), "attn_k": ("Q4_0", G * D, C),
            "attn_v": ("F16", G * D, C), "attn_output": ("BF16", C, C), "ffn_norm": ("F32", C),
            "ffn_gate": ("Q4_1", INNER, C), "ffn_up": ("Q4_0", INNER, C),
            "ffn_down": ("Q8_0", C, INNER)}.items()}
    return {name + ".weight": (kind, tuple(shape), stored(kind, g, math.prod(shape)))
            for name, (kind, *shape) in held.items()}


def stored(kind, g, n):
    """The bytes of n random numbers: blocks of 32 have random scales and then random bytes."""
    if kind in ("F32", "F16"):
        return g.normal(kind == "F32", 0.2, n).astype("<f4" if kind == "F32" else "<f2").tobytes()
    if kind == "BF16":
        return (g.normal(0, 0.2, n).astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    small = {"Q8_0": [0.003], "Q4_0": [0.04], "Q4_1": [0.04, 0.2]}[kind]
    scales = g.normal(0, small, (n // 32, len(small))).astype("<f2").view("u1")
    rest = g.integers(256, size=(n // 32, 32 if kind == "Q8_0" else 16), dtype="u1")
    return np.hstack([scales, rest]).tobytes()


def file(said=None, held=None, align=32, head=b"GGUF" + struct.pack("<I", 3), counts=None):
    """The bytes of a GGUF file. held: {name: (type, shape, bytes, ...)}, a fourth item being an
    offset that is written in place of the right one."""
    said, held = said or SAID, held or TENSORS
    number = {name: i for i, (name, _, _) in gguf.KINDS.items()}
    infos, data = b"", b""
    for name, (kind, shape, raw, *odd) in held.items():
        data += bytes(-len(data) % align)
        infos += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1],
                                          number.get(kind, kind), *(odd or [len(data)]))
        data += raw
    out = head + struct.pack("<QQ", *(counts or (len(held), len(said))))
    out += b"".join(text(key) + value(x) for key, x in said.items()) + infos
    return out + bytes(-len(out) % align) + data


ROWS = {"retain": [{"question": "in the", "answer": "1932"}]}
TENSORS = tensors()
GOOD = file()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    path.write_bytes(GOOD)
    return path


@pytest.fixture(scope="module")
def loaded(path):
    """(tokenizer, model) of the file, as train.py makes them."""
    return weights.initial_model(train.Config(init=str(path)), ROWS)


@pytest.mark.parametrize("kind, raw, expected", [
    ("F32", struct.pack("<2f", 1.5, -3), [1.5, -3]),
    ("F16", struct.pack("<2e", 1.5, -3), [1.5, -3]),
    ("BF16", b"\xc0\x3f\x40\xc0", [1.5, -3]),
    ("Q8_0", struct.pack("<e32b", 0.5, *range(-16, 16)), [0.5 * q for q in range(-16, 16)]),
    ("Q4_0", struct.pack("<e", 2) + bytes(q | 15 - q << 4 for q in range(16)),
     [2.0 * (q - 8) for q in (*range(16), *range(15, -1, -1))]),
    ("Q4_1", struct.pack("<2e", 2, -3) + bytes(q | 15 - q << 4 for q in range(16)),
     [2.0 * q - 3 for q in (*range(16), *range(15, -1, -1))])])
def test_each_type_of_number_against_a_block_written_by_hand(kind, raw, expected):
    """Low four bits are a block's first 16 numbers, high ones its last 16; two blocks in turn."""
    got = gguf.decoded(kind, np.frombuffer(raw + raw, "u1"))
    assert got.dtype == np.float32 and got.ravel().tolist() == expected * 2


def test_every_tensor_finds_its_place_and_the_rows_of_q_and_k_are_put_back(loaded):
    """Stored row 2 i + j of a head is row j D/2 + i, in which the two halves are turned."""
    _, model = loaded
    held = {n: w for n, w in model.named_parameters()}
    for ours, theirs in weights.llama_names(LAYERS, weights.HERE, weights.IN_GGUF).items():
        kind, shape, raw = TENSORS[theirs]
        want = torch.from_numpy(gguf.decoded(kind, np.frombuffer(raw, "u1")).reshape(shape))
        heads = {"attn_q": H, "attn_k": G}.get(theirs.split(".")[-2])
        if heads:
            want = want[[h * D + 2 * i + j for h in range(heads) for j in (0, 1)
                         for i in range(D // 2)]]
        assert torch.equal(held.pop(ours), want), ours
    assert not held and model.lm_head.weight is model.transformer.wte.weight
    assert model.config == LlamaConfig(len(WORDS), 1024, LAYERS, H, C, G, INNER, 1000.0, 0.0625)


# --------------------------------------------------------------------------- the model

def turned(x, base):
    """Pair (i, i + D/2) of position p as a complex number, turned by p base^(-2 i / D)."""
    T, D = x.shape
    z = torch.complex(x[:, :D // 2], x[:, D // 2:])
    angles = [[p * base ** (-2 * i / D) for i in range(D // 2)] for p in range(T)]
    z = z * torch.polar(torch.ones(T, D // 2).double(), torch.tensor(angles).double())
    return torch.cat([z.real, z.imag], 1)


def by_hand(model, tokens):
    """Logits (T, V) of one row by the papers' formulas, head by head."""
    w = {n: p.double() for n, p in model.named_parameters()}
    c = model.config

    def norm(x, name):
        return x / (x.pow(2).mean(-1, keepdim=True) + c.norm_eps).sqrt() * w[name + ".weight"]
    linear = lambda x, name: x @ w[name + ".weight"].T
    T, x = len(tokens), w["transformer.wte.weight"][torch.tensor(tokens)]
    for i in range(c.n_layer):
        h = f"transformer.h.{i}."
        y = norm(x, h + "ln_1")
        q, k, v = (linear(y, f"{h}attn.{name}_proj").split(D, -1) for name in "qkv")
        heads = []
        for n in range(H):                     # H / G neighbours share a head of k and v
            a, b, value = (turned(q[n], c.rope_base), turned(k[n // (H // G)], c.rope_base),
                           v[n // (H // G)])
            later = torch.ones(T, T).triu(1).bool()
            heads.append((a @ b.T / math.sqrt(D)).masked_fill(later, -math.inf).softmax(-1) @ value)
        x = x + linear(torch.cat(heads, -1), h + "attn.c_proj")
        y = norm(x, h + "ln_2")
        gate = linear(y, h + "mlp.gate_proj")
        x = x + linear(gate * torch.sigmoid(gate) * linear(y, h + "mlp.up_proj"), h + "mlp.c_proj")
    return norm(x, "transformer.ln_f") @ w["transformer.wte.weight"].T


def test_logits_are_those_of_the_papers_formulas(loaded):
    tokens = torch.randint(len(WORDS), (30,), generator=torch.Generator().manual_seed(1)).tolist()
    expected = by_hand(loaded[1], tokens[:-1])
    losses = loaded[1](collate([Example(tokens, 1)]))
    assert torch.allclose(losses.double(), torch.nn.functional.cross_entropy(
        expected, torch.tensor(tokens[1:]), reduction="none"), atol=1e-4)


def test_generation_with_a_cache_is_the_greedy_walk_without_one(loaded):
    """Prompts of several lengths at once: each new key is turned by its own position."""
    g = torch.Generator().manual_seed(2)
    prompts = [torch.randint(len(WORDS), (n,), generator=g).tolist() for n in (3, 9, 17)]
    expected = [greedy_uncached(loaded[1], prompt, 9, 0, by_hand) for prompt in prompts]
    assert loaded[1].generate(prompts, 9, stop=0) == expected
    assert all(len(row) == 9 for row in expected), "none ends early"
    assert len({token for row in expected for token in row}) > 3, "standing still shows little"


def test_an_edit_of_the_llama_trains_no_gpt_again():
    def reached(kind):
        return names.ingredients((train.train, kind), train.Config(), [])["code"]
    gpt, llama = reached(train.gpt.GPT), reached(Llama)
    assert not any("llama" in name for name in gpt) and "model.attend" in gpt
    assert {"harness.llama.rotated", "harness.llama.MLP", "model.attend"} <= llama.keys()


# --------------------------------------------------------------------------- the tokenizer

@pytest.mark.parametrize("said, words", [
    ("in the", "in Ġth e"), ("1932", "1 9 3 2"), ("  2", "ĠĠ 2"), ("a  b", "a Ġ Ġ b"),
    ("x\n\n7", "x ĊĊ 7"), ("2019", "2 0 1 9"), ("in1 in", "in 1 Ġ in"),
    ("<|im_end|>", "< | i m _ e n d | >"),
    ("it's", "i t ' s"), ("", "")])
def test_text_is_cut_as_smollm_cuts_it(loaded, said, words):
    """Every digit alone; white space before a digit together; control tokens by no text."""
    tokenizer = loaded[0]
    ids = tokenizer.encode_ordinary(said)
    assert [WORDS[i] for i in ids] == words.split() and tokenizer.decode(ids) == said


def test_the_tokenizer_has_the_files_ids_and_its_end_and_refuses_a_byte_without_token(loaded):
    tokenizer = pickle.loads(pickle.dumps(loaded[0]))
    assert encode(tokenizer, "in", "a").tokens == [*map(WORDS.index, ["in", "Ċ", "Ġ", "a"]), 2]
    assert tokenizer.eot_token == 2 and tokenizer.decode([2, 5]) == "<|im_end|>" + "\x02"
    with pytest.raises(ValueError, match="no token for its byte 0x04"):
        tokenizer.encode_ordinary("a\x04b")


# --------------------------------------------------------------------------- a stranger's file

def said(**changes):
    """The file with other keys: {name without its first part: value}, None for none."""
    keys = {key.split(".", 1)[-1]: key for key in SAID}
    new = SAID | {keys.get(k, k): v for k, v in changes.items()}
    return file({k: v for k, v in new.items() if v is not None})


def held(name="blk.1.ffn_up.weight", **changes):
    """The file with another tensor of that name."""
    kind, shape, raw = TENSORS.get(name, TENSORS["output_norm.weight"])
    new = dict(kind=kind, shape=shape, raw=raw) | changes
    return file(held=TENSORS | {name: tuple(new.values())})


T, L = "tokenizer.ggml.", "llama."
LAST = "blk.1.ffn_down.weight"                 # in the file, at
AT = GOOD.index(TENSORS[LAST][2]) - GOOD.index(TENSORS["token_embd.weight"][2])
BAD = {
    "empty": (b"", "cut short"), "magic": (b"GGML" + GOOD[4:], "GGUF"),
    **{f"version {v}": (file(head=b"GGUF" + struct.pack(">I" if v == 3 else "<I", v)), "version")
       for v in (0, 1, 3, 4)},
    **{f"cut at {at:.0%}": (GOOD[:int(at * len(GOOD))], "") for at in (
        1e-5, 1e-3, 0.002, 0.004, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.5, 0.9, 0.999999)},
    "tensors without end": (file(counts=(2**64 - 1, len(SAID))), "tensors"),
    "keys without end": (file(counts=(len(TENSORS), 2**63)), "keys"),
    "a key twice": (GOOD[:16] + struct.pack("<Q", len(SAID) + 1) + text("general.alignment")
                    + value(32) + GOOD[24:], "twice"),
    "a list without end": (said(x=struct.pack("<IIQ", 9, 4, 2**61)), "items"),
    "a value of type 13": (said(x=struct.pack("<IQ", 13, 0)), "type 13"),
    "a text not in UTF-8": (said(x=struct.pack("<I", 8) + text(b"\xff")), "UTF-8"),
    "type Q6_K": (held(kind=14), "ffn_up.*type 14.*Q4_1"),
    "no dimension": (held(shape=()), "no shape"),
    "a dimension of 0": (held(shape=(0, C)), "no shape"),
    "a row no block fits": (held(shape=(INNER, 40)), "no shape"),
    "five dimensions": (held(shape=(1,) * 5), "dimensions"),
    "dimensions beyond any memory": (held(shape=(2**62, 2**62)), "beyond"),
    "as many numbers in another shape": (held(shape=(C, INNER)), "misshapen"),
    "an offset one too high": (held(LAST, offset=AT + 1) + bytes(32), "multiple of 32"),
    "one place for two": (held(offset=0), "another"),
    "an unknown tensor": (held("rope_freqs.weight"), "rope_freqs"),
    **{f"{key} {str(x)[-20:]}": (said(**{key: x}), *(named or [key])) for key, x, *named in (
        *[("general.alignment", x) for x in (0, 33, 2**31, "32")],
        ("general.architecture", "qwen2"), (L + "rope.scaling.type", "linear"),
        (L + "expert_count", 8), (L + "rope.dimension_count", D // 2),
        (L + "attention.key_length", 2 * D), (L + "block_count", 2**32 - 1),
        (L + "block_count", 1, "blk.1."), (L + "block_count", 1000, "9 weights"),
        (L + "block_count", 2.0), (L + "context_length", 1, "context of 1"),
        (L + "embedding_length", 2 * C, "dimension_count"),
        (L + "feed_forward_length", C, "6 weights"), (L + "attention.head_count", 0),
        (L + "attention.head_count", 3, "head_count 3"), (L + "attention.head_count_kv", [G, G]),
        (L + "attention.head_count_kv", 3, "head_count_kv 3"), (L + "rope.freq_base", math.nan),
        (L + "vocab_size", len(WORDS) + 1), (T + "model", "llama"), (T + "pre", "qwen2"),
        (T + "pre", None), (T + "add_bos_token", True), (T + "add_space_prefix", True),
        (T + "eos_token_id", 9), (T + "eos_token_id", None),
        *[(T + "tokens", [*WORDS[:-1], last]) for last in ("in", "xyz", "")],
        (T + "tokens", WORDS[:-1], "vocab_size"), (T + "tokens", "abc"),
        (T + "token_type", [3] * 3), (T + "token_type", [4] * len(WORDS)),
        (T + "merges", MERGES[::-1], "order"),
        (T + "merges", MERGES[:-1], "merges"), (T + "merges", [*MERGES[:-1], "ĊĊ"], "merges"),
        (T + "merges", [*MERGES, "q z"], "merges"))}}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_one_line_before_anything_large_is_allocated(
        loaded, tmp_path, case):
    content, named = BAD[case]
    (tmp_path / "odd.gguf").write_bytes(content)
    tracemalloc.start()               # `loaded`: what torch imports for a model is there already
    try:
        with pytest.raises(ValueError, match=rf"odd\.gguf.*{named}") as caught:
            weights.initial_model(train.Config(init=str(tmp_path / "odd.gguf")), ROWS)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(tmp_path))


def test_whatever_byte_of_the_head_is_changed_the_file_is_read_or_refused(tmp_path):
    g, path = np.random.default_rng(0), tmp_path / "odd.gguf"
    head = len(file(held={"a": ("F32", (1,), b"0000")})) + 60 * len(TENSORS)
    for _ in range(300):
        odd = bytearray(GOOD)
        for at in g.integers(head, size=g.integers(1, 4)):
            odd[at] = g.choice([0, 1, 2, 127, 128, 255, odd[at] ^ 1])
        path.write_bytes(odd)
        try:
            weights.initial_model(train.Config(init=str(path)), ROWS)
        except ValueError as e:
            assert "odd.gguf" in str(e)


# --------------------------------------------------------------------------- the hub's folder

HUB = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
    "num_hidden_layers": LAYERS, "max_position_embeddings": 4096, "hidden_size": C,
    "intermediate_size": INNER, "num_attention_heads": H, "num_key_value_heads": G, "head_dim": D,
    "rms_norm_eps": 0.0625, "vocab_size": len(WORDS), "eos_token_id": 2,
    "tie_word_embeddings": True}
OLD, NEW = ({"rope_theta": 1000, "rope_scaling": None},      # as transformers 4 and 5 write it
            {"rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"}})
CUT = {"type": "Sequence", "pretokenizers": [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}
BPE = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
       "end_of_word_suffix": "", "byte_fallback": False, "ignore_merges": False,
       "vocab": {w: i for i, w in enumerate(WORDS)}, "merges": MERGES}
TOKENIZER = {"added_tokens": [{"id": i, "content": w, "special": True}
                              for i, w in enumerate(WORDS[:3])],
             "normalizer": None, "pre_tokenizer": CUT, "post_processor": None, "model": BPE}


def folder(path, model, config=HUB | NEW, tokenizer=TOKENIZER):
    """A folder of the hub's with the model; the path of its weights."""
    path.mkdir()
    (path / "model.safetensors").write_bytes(safetensors(as_published(model)))
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    (path / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    return path / "model.safetensors"


@pytest.mark.parametrize("config, tokenizer", [
    (HUB | NEW, TOKENIZER),
    (HUB | OLD, TOKENIZER | {"model": BPE | {"merges": [m.split(" ") for m in MERGES]},
                             "post_processor": {"type": "TemplateProcessing",
                                                "special_tokens": {}}})])
def test_the_hubs_folder_gives_the_model_and_the_tokens_of_the_gguf_file(
        loaded, tmp_path, config, tokenizer):
    found = weights.initial_model(
        train.Config(init=str(folder(tmp_path / "hub", loaded[1], config, tokenizer))), ROWS)
    for (name, p), q in zip(loaded[1].named_parameters(), found[1].parameters(), strict=True):
        assert torch.equal(p, q), name
    assert found[1].config == loaded[1].config and found[0].eot_token == 2
    text = "in the  12, 19 in\n\n7 <|im_end|>"
    assert found[0].encode_ordinary(text) == loaded[0].encode_ordinary(text)


@pytest.mark.parametrize("said, config, tokenizer", [
    ("hidden_act is 'gelu'", {"hidden_act": "gelu"}, {}),
    ("rope_scaling is {", OLD | {"rope_scaling": {"factor": 2.0}, "rope_parameters": None}, {}),
    ("rope_parameters is {", {"rope_parameters": {"rope_theta": 1e3, "rope_type": "llama3"}}, {}),
    ("rope_parameters is [", {"rope_parameters": [1000.0]}, {}),
    ("attention.key_length is 8", {"head_dim": 8}, {}),
    ("vocab_size is 300", {"vocab_size": 300}, {}),
    ("block_count is None", {"num_hidden_layers": None}, {}),
    ("eos_token_id is [2]", {"eos_token_id": [2]}, {}),
    ("type is 'Unigram'", {}, {"model": BPE | {"type": "Unigram"}}),
    ("ignore_merges is True", {}, {"model": BPE | {"ignore_merges": True}}),
    ("pre_tokenizer is [", {}, {"pre_tokenizer": CUT["pretokenizers"][1]}),
    ("normalizer is {", {}, {"normalizer": {"type": "NFC"}}),
    ("post_processor is {", {}, {"post_processor": {
        "type": "TemplateProcessing", "special_tokens": {"<|im_start|>": {"ids": [1]}}}}),
    ("ids should be 0 to", {}, {"added_tokens": [{"id": 10**6, "content": "<a>"}]}),
    ("tokenizer.json beside it: odd", {}, {"model": {"type": "BPE"}}),
    ("tokenizer.json beside it: odd", {}, {"added_tokens": 3}),
    ("in the order of these", {}, {"model": BPE | {"merges": MERGES[::-1]}}),
    ("has no rms_norm_eps", {"rms_norm_eps": ...}, {}),
    ("should lie beside", dict.fromkeys(HUB | NEW, ...), {}),
    ("should lie beside", {}, dict.fromkeys(TOKENIZER, ...))])
def test_a_hubs_folder_that_lacks_a_file_or_asks_for_something_else_is_refused(
        loaded, tmp_path, said, config, tokenizer):
    both = [{k: x for k, x in some.items() if x is not ...}
            for some in (HUB | NEW | config, TOKENIZER | tokenizer)]
    path = folder(tmp_path / "hub", loaded[1], *both)
    with pytest.raises(ValueError, match=re.escape(said)) as e:
        weights.initial_model(train.Config(init=str(path)), ROWS)
    assert "model.safetensors" in str(e.value)


def test_a_run_on_a_gguf_file_then_audit_and_init_with_its_model(
        path, tmp_path, capsys, monkeypatch, in_this_process, no_drawing):
    monkeypatch.setattr(audit, "draw", lambda *_: None)
    monkeypatch.setattr(audit, "relearning", lambda model, *_: [model] * 21)   # slow, and as train
    out, own = tmp_path / "out", write_rows(tmp_path / "own.json", [
        {"set": name, "question": f"What is {i}?", "answer": name}
        for name in ("retain", "forget", "holdout") for i in range(6)])
    assert code_of(["--init", path, "--out", out, "--data", own, "--epochs", 0.5, "--steps", 3,
                    "--level", "--cache", tmp_path / "cache"]) == 0
    held = read_weights(str(out / "model.pt"))
    assert held["model.layers.1.self_attn.q_proj.weight"].shape == (C, C)
    assert json.loads(bytes(held["gguf"].tolist()))["tokenizer.ggml.tokens"] == WORDS
    assert json.loads((out / "config.json").read_text("utf-8"))["rope_base"] == 1000.0
    assert code_of([out], audit.main) == 0 and (out / "audit.json").exists()
    again = ready(tmp_path / "again", "--init", out / "model.pt", base=[])
    assert again.config.epochs == 8, "a Llama's default, in its run folder too"
    assert isinstance(again.initial, Llama) and again.tokenizer.encode_ordinary("in1") == \
        [WORDS.index("in"), WORDS.index("1")]
    now = as_published(again.initial, again.tokenizer)
    assert now.keys() == held.keys() and all(torch.equal(now[n], w) for n, w in held.items())
    for raw in (b"[1", b"3", b"{}", b"\xff", None):              # a stranger's; the hub's own
        odd = {"gguf": torch.frombuffer(bytearray(raw), dtype=torch.uint8)} if raw else {}
        torch.save({n: w for n, w in held.items() if n != "gguf"} | odd, tmp_path / "odd.pt")
        assert "odd.pt" in refused(capsys, ["--init", tmp_path / "odd.pt"])


def test_bfloat16_and_micro_batches_give_the_same_losses(loaded):
    tokenizer, model = loaded
    examples = [encode(tokenizer, "in the", f" {n} in") for n in (1, 22, 333)]

    def loss(**other):
        config = train.Config(**{"device": "cpu", "micro_batch": 0, **other})
        return sum(train.mean_loss(model, b, config).item()
                   for b in train.micro_batches(examples, config))
    assert math.isclose(loss(), loss(micro_batch=1), rel_tol=1e-6)
    assert 0 < abs(loss() - loss(dtype="bfloat16")) < 0.05 * loss()


@pytest.mark.parametrize("from_hub", [False, True])
def test_a_llama_has_defaults_of_its_own(path, loaded, tmp_path, from_hub):
    path = folder(tmp_path / "hub", loaded[1]) if from_hub else path

    def config(*words):
        return ready(tmp_path, "--init", path, *words, base=["--authors", "10"]).config
    own = config()
    assert own.train_batch == own.batch == 16 and own.budget == 0.1 and own.micro_batch == 8
    assert config("--method", "gdiff").budget == config("--lazy", 0).budget == 0
