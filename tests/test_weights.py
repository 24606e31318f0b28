"""Reading published GPT-2 checkpoints, against GPT-2's formulas on weights in the published layout.

No published file is needed: random weights are written as the hub's files hold them, and the oracle
works on those arrays in numpy, so that it shares neither the reader nor the model.
"""
import json
import math
import multiprocessing
import os
import re
import struct

import numpy as np
import pytest
import tiktoken
import tiktoken_ext.openai_public as openai_public
import torch

import data
import train
from data import Example, collate
from harness import flags, measuring
from harness.checkpoint_files import read_weights
from harness.weights import from_gpt2, heads, initial_model, to_gpt2
from model import GPT, GPTConfig

V, T, C, H, LAYERS = 300, 32, 128, 2, 2
TOKENS = np.random.default_rng(1).integers(0, V, T).tolist()
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
         torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
         torch.uint8: "U8", torch.bool: "BOOL"}


def published():
    """Weights by their published names, c_* as (in, out), of sizes at which every term is felt.

    What c_proj adds is small, so that the residual stream stays where layer norm's 1e-5 counts.
    """
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape, std: torch.randn(*shape, generator=g) * std
    w = {"wte.weight": draw(V, C, std=0.02), "wpe.weight": draw(T, C, std=0.01)}
    for i in range(LAYERS):
        for name, n_in, n_out in (("attn.c_attn", C, 3 * C), ("attn.c_proj", C, C),
                                  ("mlp.c_fc", C, 4 * C), ("mlp.c_proj", 4 * C, C)):
            std = 0.005 if "c_proj" in name else 0.15
            w[f"h.{i}.{name}.weight"] = draw(n_in, n_out, std=std)
            w[f"h.{i}.{name}.bias"] = draw(n_out, std=std)
    for name in ["ln_f"] + [f"h.{i}.ln_{j}" for i in range(LAYERS) for j in (1, 2)]:
        w[name + ".weight"], w[name + ".bias"] = 1 + draw(C, std=0.1), draw(C, std=0.1)
    return w


def oracle(weights, tokens):
    """Logits (T, V) of one row in float64, by the formulas of the published code."""
    w = {name: x.double().numpy() for name, x in weights.items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return x * w[name + ".weight"] + w[name + ".bias"]

    conv1d = lambda x, name: x @ w[name + ".weight"] + w[name + ".bias"]
    x = w["wte.weight"][tokens] + w["wpe.weight"][:len(tokens)]
    for i in range(LAYERS):
        q, k, v = np.split(conv1d(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn"), 3, axis=-1)
        heads = []
        for q, k, v in zip(*(np.split(a, H, axis=-1) for a in (q, k, v))):
            scores = q @ k.T / math.sqrt(C // H)
            scores[np.triu_indices(len(tokens), 1)] = -np.inf
            p = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(p / p.sum(-1, keepdims=True) @ v)
        x = x + conv1d(np.concatenate(heads, -1), f"h.{i}.attn.c_proj")
        y = conv1d(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        y = 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + conv1d(y, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T


def masks():
    """What older files hold besides: the causal mask and the number put in masked places."""
    out = {}
    for i in range(LAYERS):
        out[f"h.{i}.attn.bias"] = torch.ones(T, T).tril().view(1, 1, T, T).to(torch.uint8)
        out[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    return out


def safetensors(weights, spaces=0):
    """The bytes of a .safetensors file. `spaces` after the header shift where the numbers begin."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, x in weights.items():
        raw = x.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": NAMES[x.dtype], "shape": list(x.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return pack(header, data, spaces)


def pack(header, data, spaces=0):
    text = json.dumps(header).encode() + b" " * spaces
    return struct.pack("<Q", len(text)) + text + data


def write(path, weights):
    path = str(path)
    if path.endswith(".safetensors"):
        with open(path, "wb") as f:
            f.write(safetensors(weights))
    else:   # the hub's pytorch_model.bin is of the format from before torch 1.6
        torch.save(weights, path, _use_new_zipfile_serialization=path.endswith(".pt"))
    return path


def logits(model, tokens):
    return model.logits(collate([Example(list(tokens) + [0], 1)])).detach().numpy()


@pytest.mark.parametrize("kind", ["bin", "pt", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("extras", ["none", "masks", "masks and head"])
def test_a_published_file_gives_gpt2s_logits(tmp_path, kind, prefix, extras):
    weights = published()
    held = {prefix + n: w for n, w in (weights | (masks() if extras != "none" else {})).items()}
    if "head" in extras:
        held["lm_head.weight"] = weights["wte.weight"]
    model = from_gpt2(write(tmp_path / f"gpt2.{kind}", held))
    assert model.config == GPTConfig(V, T, LAYERS, H, C)
    expected = oracle(weights, TOKENS)
    assert expected.std() > 0.2, "else 1e-5 would say little"
    np.testing.assert_allclose(logits(model, TOKENS), expected, atol=1e-5, rtol=0)


def test_the_model_read_is_float32_tied_and_can_be_trained(tmp_path):
    before = torch.get_rng_state()
    model = from_gpt2(write(tmp_path / "gpt2.pt", published()))
    assert torch.equal(before, torch.get_rng_state()), "reading draws no random numbers"
    assert model.lm_head.weight is model.transformer.wte.weight
    model(collate([Example(TOKENS, 1)])).mean().backward()
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous(), name
        assert p.grad is not None and p.grad.any(), name
    assert model.state_dict().keys() == GPT(model.config).state_dict().keys()


def test_parameters_do_not_share_memory_even_where_the_files_tensors_do(tmp_path):
    weights = published()
    weights["h.1.ln_2.weight"] = weights["h.0.ln_2.weight"]     # one storage in a .pt
    model = from_gpt2(write(tmp_path / "gpt2.pt", weights))
    places = {p.data_ptr() for p in model.parameters()}
    assert len(places) == 12 * LAYERS + 4
    assert all(p.untyped_storage().nbytes() == 4 * p.numel() for p in model.parameters())


def test_generation_follows_the_formulas_greedily(tmp_path):
    model, weights = from_gpt2(write(tmp_path / "gpt2.bin", published())), published()
    prompts, expected = [TOKENS[:4], TOKENS[:9]], []
    for prompt in prompts:
        row = list(prompt)
        for _ in range(12):
            row.append(int(oracle(weights, row)[-1].argmax()))
        expected.append(row[len(prompt):])
    stop = min(set(range(V)) - {token for row in expected for token in row})    # never chosen
    assert model.generate(prompts, 12, stop) == expected
    assert len(set(expected[0])) > 3, "a walk that stands still would show nothing"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_other_precisions_are_read_exactly_into_float32(tmp_path, kind, dtype):
    weights = {n: w.to(dtype) for n, w in published().items()}
    model = from_gpt2(write(tmp_path / f"gpt2.{kind}", weights))
    assert next(model.parameters()).dtype == torch.float32
    np.testing.assert_allclose(logits(model, TOKENS), oracle(weights, TOKENS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("spaces", range(8))
def test_safetensors_of_every_dtype_come_back_whatever_their_alignment(tmp_path, spaces):
    values = torch.tensor([[0, 1, -3], [100, 7, -128]])
    held = {name: values.to(dtype) for dtype, name in NAMES.items()} | {"scalar": torch.tensor(2.5)}
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors(held, spaces))
    got = read_weights(path)
    assert got.keys() == held.keys()
    for name, x in held.items():
        assert got[name].dtype == x.dtype and torch.equal(got[name], x), name


def test_safetensors_need_not_be_listed_in_the_order_they_lie_in(tmp_path):
    header = {"b": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]},
              "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    (tmp_path / "a.safetensors").write_bytes(pack(header, b"\x05\x06\x07"))
    got = read_weights(tmp_path / "a.safetensors")
    assert {name: x.tolist() for name, x in got.items()} == {"a": [5], "b": [6, 7]}


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


FOUR = b"\x01\x02\x03\x04"
BAD_SAFETENSORS = {
    "empty": (b"", ""),
    "shorter than a length": (b"\x01\x00", ""),
    "header beyond the file": (struct.pack("<Q", 1000) + b"{}", ""),
    "header beyond any memory": (struct.pack("<Q", 2**64 - 1) + b"{}", ""),
    "a download that stopped in the header": (pack({"w": entry()}, FOUR)[:30], ""),
    "not JSON": (struct.pack("<Q", 4) + b"spam", ""),
    "not UTF-8": (struct.pack("<Q", 4) + b'"\xff\xfe"', ""),
    "nested without end": (struct.pack("<Q", 100_000) + b"[" * 100_000, ""),
    "a list": (pack([1], b""), ""),
    "a pointer of git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", ""),
    "a download that stopped": (pack({"w": entry()}, FOUR)[:-1], "'w'"),
    "no object": (pack({"w": 3}, FOUR), "'w'"),
    "no dtype": (pack({"w": {"shape": [4], "data_offsets": [0, 4]}}, FOUR), "'w'"),
    "unknown dtype": (pack({"w": entry("F7")}, FOUR), "'w'.*F7"),
    "dtype of another type": (pack({"w": entry(["U8"])}, FOUR), "'w'"),
    "no shape": (pack({"w": {"dtype": "U8", "data_offsets": [0, 4]}}, FOUR), "'w'"),
    "shape no list": (pack({"w": entry(shape=4)}, FOUR), "'w'"),
    "negative shape": (pack({"w": entry(shape=[-2, -2])}, FOUR), "'w'"),
    "fractional shape": (pack({"w": entry(shape=[4.0])}, FOUR), "'w'"),
    "nothing in it": (pack({"w": entry(shape=[0], offsets=[0, 0])}, b""), "'w'"),
    "shape too large": (pack({"w": entry(shape=[5])}, FOUR), "'w'"),
    "dtype too wide": (pack({"w": entry("F32")}, FOUR), "'w'"),
    "offsets one": (pack({"w": entry(offsets=[0])}, FOUR), "'w'"),
    "offsets words": (pack({"w": entry(offsets=["0", "4"])}, FOUR), "'w'"),
    "offsets negative": (pack({"w": entry(offsets=[-4, 0])}, FOUR), "'w'"),
    "offsets backwards": (pack({"w": entry(offsets=[4, 0])}, FOUR), "'w'"),
    "offsets beyond the end": (pack({"w": entry(offsets=[1, 5])}, FOUR), "'w'"),
    "overlap": (pack({"w": entry(), "v": entry(shape=[2], offsets=[1, 3])}, FOUR), ""),
    "overlap, and as large a hole": (
        pack({"w": entry(), "v": entry(offsets=[2, 6])}, FOUR * 2), ""),
    "the same place twice": (pack({"w": entry(), "v": entry()}, FOUR * 2), ""),
    "hole at the start": (pack({"w": entry(offsets=[1, 5])}, FOUR * 2), ""),
    "bytes over": (pack({"w": entry()}, FOUR + b"\x00"), ""),
    "bytes and no tensor": (pack({}, FOUR), ""),
}


@pytest.mark.parametrize("case", BAD_SAFETENSORS)
def test_a_malformed_safetensors_file_is_refused_by_name(tmp_path, case):
    raw, tensor = BAD_SAFETENSORS[case]
    (tmp_path / "odd.safetensors").write_bytes(raw)
    with pytest.raises(ValueError, match=rf"odd\.safetensors.*{tensor}"):
        read_weights(tmp_path / "odd.safetensors")


def test_the_reader_takes_the_file_that_the_bad_ones_are_made_from(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(pack({"w": entry()}, FOUR))
    assert read_weights(tmp_path / "a.safetensors")["w"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("held", [
    [torch.ones(2)], {"model": {"w": torch.ones(2)}}, {"w": 1.0}, {"w": None}, torch.ones(2), "w",
    None], ids=str)
@pytest.mark.parametrize("kind", ["bin", "pt"])
def test_a_pickle_of_anything_but_named_tensors_is_refused(tmp_path, kind, held):
    with pytest.raises(ValueError, match=rf"odd\.{kind}"):
        read_weights(write(tmp_path / f"odd.{kind}", held))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["bin", "pt"])
def test_a_damaged_pickle_is_refused_wherever_it_is_cut_or_changed(tmp_path, kind):
    """120 files: a ValueError with the file's name or, where numbers alone changed, tensors."""
    path = write(tmp_path / f"odd.{kind}", {f"h.{i}": torch.randn(3) for i in range(4)})
    with open(path, "rb") as f:
        raw, rng, refused = f.read(), np.random.default_rng(0), 0
    for i in range(120):
        odd = bytearray(raw)
        if i % 2:
            odd = odd[:rng.integers(len(odd))]
        else:
            odd[rng.integers(min(len(odd), 900))] = rng.integers(256)
        with open(path, "wb") as f:
            f.write(odd)
        try:
            read_weights(path)
        except ValueError as e:
            assert path in str(e)
            refused += 1
    assert refused >= 60, "every shortened file, at least"


class Trap:
    """Unpickled in the usual way, makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("kind", ["bin", "pt"])
def test_code_in_a_pickle_is_not_run(tmp_path, kind):
    folder = str(tmp_path / "sprung")
    path = write(tmp_path / f"trap.{kind}", published() | {"h.0.attn.bias": Trap(folder)})
    with pytest.raises(ValueError, match="trap"):
        from_gpt2(path)
    assert not os.path.exists(folder)
    torch.load(path, weights_only=False)
    assert os.path.exists(folder), "the trap should work where it is let to"


@pytest.mark.parametrize("name", ["gpt2.h5", "gpt2", "away.bin", "away.safetensors", "folder.pt",
                                  "folder.safetensors"])
def test_other_files_and_none_are_refused_with_the_kinds_that_are_read(tmp_path, name):
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    elif name.startswith("gpt2"):
        (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(ValueError, match=rf"{name}.*\.safetensors.*\.bin.*\.pt"):
        from_gpt2(tmp_path / name)


def changed(name, change):
    return lambda w: w.update({name: change(w[name])})


def with_number(value):
    def change(x):
        x = x.clone()
        x.view(-1)[5] = value
        return x
    return change


BAD_WEIGHTS = {
    "one missing": (lambda w: w.pop("h.1.mlp.c_fc.bias"), r"h\.1\.mlp\.c_fc"),
    "a whole layer missing": (
        lambda w: [w.pop(n) for n in list(w) if n.startswith("h.0.")], r"24.*h\.0\."),
    "no layers": (
        lambda w: [w.pop(n) for n in list(w) if n.startswith("h.")], r"12.*h\.0\."),
    "no token embedding": (lambda w: w.pop("wte.weight"), r"wte\.weight"),
    "no position embedding": (lambda w: w.pop("wpe.weight"), r"wpe\.weight"),
    "one too many": (lambda w: w.update({"h.0.ln_3.bias": torch.ones(C)}), r"1 .*ln_3"),
    "integers too many": (lambda w: w.update({"steps": torch.ones(1).long()}), r"1 .*steps"),
    "two namings at once": (
        lambda w: w.update({"transformer.wte.weight": w["wte.weight"]}), r"transformer.wte"),
    "half of a naming": (
        lambda w: w.update({"transformer.ln_f.bias": w.pop("ln_f.bias")}), r"2 .*ln_f\.bias"),
    "layer far away": (
        lambda w: w.update({"h.99999999.ln_1.bias": torch.ones(C)}), r"13.*h\.2\."),
    "(out, in) as nn.Linear": (
        changed("h.0.attn.c_attn.weight", lambda x: x.T), r"1 .*h\.0\.attn\.c_attn\.weight"),
    "a wrong width": (changed("ln_f.weight", lambda x: x[:-1]), r"1 .*ln_f\.weight"),
    "three dimensions": (changed("h.1.attn.c_proj.weight", lambda x: x[None]), r"1 .*c_proj"),
    "no dimension": (changed("h.1.mlp.c_proj.weight", lambda x: x[0, 0]), r"1 .*c_proj"),
    "positions of another width": (changed("wpe.weight", lambda x: x[:, :64]), r"1 .*wpe\.weight"),
    "embedding of one dimension": (changed("wte.weight", lambda x: x[:, 0]), r"wte\.weight"),
    "a width that 64 does not divide": (
        changed("wte.weight", lambda x: x[:, :100]), "100"),
    "an empty embedding": (changed("wte.weight", lambda x: x[:, :0]), r"wte\.weight"),
    "whole numbers": (changed("h.1.ln_1.bias", lambda x: x.int()), r"1 .*h\.1\.ln_1\.bias"),
    "a head of its own": (
        lambda w: w.update({"lm_head.weight": w["wte.weight"] + 1}), r"lm_head\.weight"),
    "a head of another size": (
        lambda w: w.update({"lm_head.weight": w["wte.weight"][:-1]}), r"lm_head\.weight"),
    "a NaN": (changed("h.1.ln_2.weight", with_number(math.nan)), r"1.*h\.1\.ln_2"),
    "an infinity": (changed("h.0.mlp.c_fc.weight", with_number(-math.inf)), r"1.*h\.0\.mlp\.c_fc"),
    "beyond float32": (
        changed("ln_f.bias", lambda x: with_number(1e300)(x.double())), r"1.*ln_f\.bias"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_are_not_gpt2s_are_refused_by_name(tmp_path, case):
    spoil, named = BAD_WEIGHTS[case]
    weights = published()
    spoil(weights)
    with pytest.raises(ValueError, match=rf"odd\.bin.*{named}") as caught:
        from_gpt2(write(tmp_path / "odd.bin", weights))
    assert len(str(caught.value)) < 300 + len(str(tmp_path)), "a few names and a count"


@pytest.mark.parametrize("sizes, n_parameters", [
    ((12, 12, 768), 124_439_808), ((24, 16, 1024), 354_823_168),
    ((36, 20, 1280), 774_030_080), ((48, 25, 1600), 1_557_611_200)])
def test_the_four_published_sizes_have_their_number_of_parameters(sizes, n_parameters):
    with torch.device("meta"):
        gpt = GPT(GPTConfig(50257, 1024, *sizes))
    assert sum(p.numel() for p in gpt.parameters()) == n_parameters
    assert sizes[1] == sizes[2] // 64, "the rule by which n_head is inferred"


# ---- config.json

PLAIN = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_head": H, "n_layer": LAYERS,
         "n_embd": C, "n_positions": T, "n_ctx": T, "vocab_size": V, "n_inner": None,
         "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05, "scale_attn_weights": True,
         "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
         "tie_word_embeddings": True, "add_cross_attention": False, "attn_pdrop": 0.1}


def write_config(folder, said):
    (folder / "config.json").write_text(json.dumps(said), "utf-8")


@pytest.mark.parametrize("other", [
    {}, {"activation_function": "gelu_pytorch_tanh"}, {"activation_function": "gelu_fast"},
    {"reorder_and_upcast_attn": True}, {"n_inner": 4 * C}, {"architectures": ["GPT2Model"]},
    {"torch_dtype": "float16"}], ids=str)
def test_a_config_that_says_what_model_py_computes_is_taken_without_a_word(tmp_path, capsys, other):
    write_config(tmp_path, PLAIN | other)
    model = from_gpt2(write(tmp_path / "gpt2.bin", published()))
    expected = oracle(published(), TOKENS)
    np.testing.assert_allclose(logits(model, TOKENS), expected, atol=1e-5, rtol=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("field, value", [
    ("scale_attn_weights", False), ("scale_attn_by_inverse_layer_idx", True),
    ("activation_function", "relu"), ("activation_function", "gelu"), ("layer_norm_epsilon", 1e-6),
    ("add_cross_attention", True), ("tie_word_embeddings", False), ("model_type", "gpt_neo"),
    ("architectures", ["GPT2ForQuestionAnswering"]), ("architectures", [["x"]]), ("n_inner", C),
    ("n_layer", LAYERS + 1), ("n_embd", 2 * C), ("vocab_size", V + 1), ("n_positions", T - 1),
    ("n_ctx", 1024), ("n_layer", "2"), ("n_layer", None), ("n_head", None), ("n_head", 3),
    ("n_head", 0), ("n_head", "2"), ("n_head", [2])], ids=str)
def test_a_config_that_says_other_is_refused_by_field_and_value(tmp_path, capsys, field, value):
    write_config(tmp_path, PLAIN | {field: value})
    path = write(tmp_path / "gpt2.bin", published())
    shown = "" if value is None else re.escape(str(value))
    with pytest.raises(ValueError, match=rf"(?s){field}.*{shown}") as caught:
        from_gpt2(path)
    assert "config.json" in str(caught.value) and capsys.readouterr().out == ""


def test_a_file_without_its_last_layer_is_refused_by_what_config_json_says(tmp_path):
    weights = {n: w for n, w in published().items() if not n.startswith(f"h.{LAYERS - 1}.")}
    write_config(tmp_path, PLAIN)
    with pytest.raises(ValueError, match=rf"n_layer.*{LAYERS}.*{LAYERS - 1}"):
        from_gpt2(write(tmp_path / "gpt2.bin", weights))


@pytest.mark.parametrize("content", ["", "[]", "3", "{", "[" * 100_000, "\xff"],
                         ids=lambda s: s[:2])
def test_a_config_that_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content, "latin-1")
    with pytest.raises(ValueError, match="config.json"):
        from_gpt2(write(tmp_path / "gpt2.bin", published()))


def test_without_a_config_one_line_says_what_is_assumed(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "gpt2.bin", published())
    from_gpt2(path)
    line, = capsys.readouterr().out.splitlines()
    assert path in line and "config.json" in line
    for said in (f"n_head {H}", f"n_layer {LAYERS}", "gelu_new", "1e-5"):
        assert said in line
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "the command")
    from_gpt2(path)
    assert capsys.readouterr().out == "", "the processes of the trainings do not repeat it"


@pytest.mark.parametrize("said, n_head", [(None, 2), ({"n_head": 4}, 4), ({"n_head": 128}, 128)])
def test_heads_are_what_the_config_says_or_else_of_64(said, n_head):
    assert heads("gpt2.bin", 128, said) == n_head


# ---- other kinds of files

@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.",
                                    "_orig_mod.module.transformer.", "module.transformer."])
def test_what_wrappers_put_before_the_names_is_taken_off(tmp_path, prefix):
    weights = published()
    held = {prefix + n: w for n, w in weights.items()}
    held[prefix.removesuffix("transformer.") + "lm_head.weight"] = weights["wte.weight"]
    model = from_gpt2(write(tmp_path / "gpt2.safetensors", held))
    plain = from_gpt2(write(tmp_path / "plain.safetensors", weights))
    assert all(map(torch.equal, model.parameters(), plain.parameters()))
    with pytest.raises(ValueError, match="twice.*module"):
        from_gpt2(write(tmp_path / "odd.bin", held | {"wte.weight": weights["wte.weight"]} if
                        "transformer" not in prefix else
                        held | {"transformer.wte.weight": weights["wte.weight"]}))


OTHER_KINDS = {      # name: (content: weights, or None for a folder; what the message must name)
    "model-00001-of-00003.safetensors": (published(), "3 files.*save_pretrained"),
    "pytorch_model-00002-of-00002.bin": (published(), "2 files.*save_pretrained"),
    "model.safetensors.index.json": ({}, "save_pretrained"),
    "pytorch_model.bin.index.json": ({}, "save_pretrained"),
    "folder": (None, "folder.*inside.bin"),
    "adapter_model.safetensors": (published(), "PEFT.*merge_and_unload"),
    "adapter_config.json": ({}, "PEFT.*merge_and_unload"),
    "renamed.safetensors": ({"base_model.model.h.0.attn.c_attn.lora_A.weight": torch.ones(2, 2)},
                            "PEFT.*merge_and_unload"),
    "ckpt.pt": ({"model": published(), "model_args": {"n_layer": 2}, "iter_num": 5},
                "nanoGPT.*transposed"),
    "model.pt": (torch.nn.Linear(2, 2), r"Linear.*state_dict\(\)"),
    "best.pth": ({"epoch": 3, "state_dict": published()}, r"epoch.*int.*state_dict\(\)"),
    "last.bin": ({"state_dict": published()}, r"state_dict.*dict.*state_dict\(\)"),
}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_another_kind_of_file_gets_a_message_of_its_own(tmp_path, name):
    content, named = OTHER_KINDS[name]
    if content is None:
        (tmp_path / name).mkdir()
        write(tmp_path / name / "inside.bin", published())
    else:
        write(tmp_path / name, content)
    with pytest.raises(ValueError, match=rf"(?s){re.escape(name)}.*{named}") as caught:
        from_gpt2(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_the_folder_of_an_adapter_is_called_one(tmp_path):
    write(tmp_path / "adapter_config.json", {})
    with pytest.raises(ValueError, match="PEFT.*merge_and_unload"):
        from_gpt2(str(tmp_path))


def test_a_single_shard_and_a_pth_are_whole_files(tmp_path):
    for name in ("model-00001-of-00001.safetensors", "model.pth"):
        assert from_gpt2(write(tmp_path / name, published())).config.n_layer == LAYERS


# ---- odd containers

ODD_TENSORS = {
    "expanded": lambda: torch.zeros(1).expand(2**40),
    "expanded by the row": lambda: torch.zeros(1, C).expand(2**30, C),
    "sparse": lambda: torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1),
                                              (2**20, 2**20)),
    "sparse_csr": lambda: torch.eye(4).to_sparse_csr(),
    "meta": lambda: torch.empty(2**20, 2**20, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
    "float8": lambda: torch.ones(4).to(torch.float8_e4m3fn),
    "complex": lambda: torch.ones(4, dtype=torch.complex64),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ["wte.weight", "h.0.attn.bias", "lm_head.weight"])
@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_an_odd_tensor_is_refused_before_anything_is_made_of_it(tmp_path, kind, place):
    path = write(tmp_path / "odd.pt", published() | {place: ODD_TENSORS[kind]()})
    with pytest.raises(ValueError, match=rf"odd\.pt: {place} is ") as caught:
        from_gpt2(path)
    assert "\n" not in str(caught.value)


def test_tensors_that_are_one_memory_many_times_are_refused(tmp_path):
    block = torch.zeros(2**20)
    path = write(tmp_path / "odd.pt", {f"h.{i}.attn.bias": block[:] for i in range(99)})
    with pytest.raises(ValueError, match=r"odd\.pt.*share"):
        read_weights(path)


def test_no_number_is_read_of_ten_thousand_tensors_in_one_place(tmp_path, monkeypatch):
    one = {"dtype": "U8", "shape": [1000], "data_offsets": [0, 1000]}
    path = tmp_path / "odd.safetensors"
    path.write_bytes(pack({str(i): one for i in range(10_000)}, bytes(1000)))
    monkeypatch.setattr(torch, "frombuffer", lambda *_, **__: pytest.fail("a number is read"))
    with pytest.raises(ValueError, match=r"odd\.safetensors.*overlap"):
        read_weights(path)


def test_layers_in_name_alone_are_not_built(tmp_path, monkeypatch):
    built, real = [], GPT.__init__
    monkeypatch.setattr(GPT, "__init__", lambda self, size: built.append(size.n_layer) or
                        real(self, size))
    weights = published() | {f"h.{i}.x": torch.ones(1) for i in range(2, 400)}
    with pytest.raises(ValueError, match="odd.bin.*missing, unknown"):
        from_gpt2(write(tmp_path / "odd.bin", weights))
    assert max(built) < 50


# ---- the vocabulary, the tokenizer, --init's own defaults

ROWS = {name: [{"question": "Who?", "answer": f"{name} {i}"} for i in range(3)]
        for name in ("retain", "forget")}


@pytest.mark.parametrize("more, tokenizer, fine", [
    (0, "gpt2", True), (1, "gpt2", True), (47, "gpt2", True), (-1, "gpt2", False),
    (0, "words", True), (1, "words", False), (-1, "words", False)])
def test_a_padded_vocabulary_goes_with_gpt2s_tokenizer_a_smaller_one_with_none(
        tmp_path, more, tokenizer, fine):
    words = data.word_tokenizer(ROWS)      # stands for either
    torch.manual_seed(0)
    held = to_gpt2(GPT(GPTConfig(words.n_vocab + more, T, 1, 1, 64)))
    config = train.Config(init=write(tmp_path / "gpt2.bin", held), tokenizer=tokenizer)
    if fine:
        model = initial_model(config, words, ROWS)
        assert torch.equal(model.lm_head.weight, held["transformer.wte.weight"]), "every row stays"
    else:
        with pytest.raises(ValueError, match=rf"--init .*{words.n_vocab + more}.*{words.n_vocab}"):
            initial_model(config, words, ROWS)


def test_a_token_that_the_tokenizer_lacks_has_no_text():
    words = data.word_tokenizer(ROWS)
    torch.manual_seed(0)
    model = GPT(GPTConfig(words.n_vocab + 1, T, 1, 1, 64))
    with torch.no_grad():
        model.transformer.wte.weight[-1] = 50 * model.hidden(torch.tensor([[5, 6]]))[0, -1]
    assert words.n_vocab in model.generate([[5, 6]], 8, words.eot_token)[0]
    ids, = measuring.generate(model, words, [[5, 6]], 8)
    assert words.n_vocab not in ids and isinstance(words.decode(ids), str)


def test_offline_the_message_names_the_files_that_tiktoken_looks_for(tmp_path, monkeypatch):
    def no_network(address):
        raise ConnectionError("offline")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "read_file", no_network)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    with pytest.raises(ValueError, match="--tokenizer gpt2.*TIKTOKEN_CACHE_DIR") as caught:
        data.gpt2_tokenizer()
    # Any content will do for tiktoken to keep it, but not for an encoding.
    monkeypatch.setattr(tiktoken.load, "read_file", lambda address: b"{}")
    monkeypatch.setattr(tiktoken.load, "check_hash", lambda *_: True)
    with pytest.raises(AssertionError):
        openai_public.gpt2()
    looked_for = sorted(p.name for p in tmp_path.iterdir())
    assert looked_for == sorted(data.GPT2_FILES.values()) and len(looked_for) == 2
    assert all(name in str(caught.value) for name in (*looked_for, *data.GPT2_FILES))


def test_files_of_other_content_are_as_good_as_none(monkeypatch):
    def mismatch(name):
        raise ValueError("Hash mismatch for data downloaded")
    monkeypatch.setattr(data.tiktoken, "get_encoding", mismatch)
    with pytest.raises(ValueError, match="--tokenizer gpt2"):
        data.gpt2_tokenizer()


def test_init_has_a_gentler_training_by_default_and_given_flags_win(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parse = lambda *argv: flags.parse(train.Config, list(argv), train.__doc__)
    plain, init = parse(), parse("--init", "gpt2.bin")
    assert init.train_lr < plain.train_lr and init.weight_decay < plain.weight_decay
    given = parse("--init", "gpt2.bin", "--train_lr", "3e-3", "--weight_decay", "0.3")
    assert (given.train_lr, given.weight_decay) == (plain.train_lr, plain.weight_decay)
    assert parse("--init", "").train_lr == plain.train_lr
    assert parse("--init", "gpt2.bin", "--data", str(tmp_path)).authors == 200


def test_help_says_inits_defaults(capsys):
    with pytest.raises(SystemExit):
        flags.parse(train.Config, ["--help"], train.__doc__)
    text = " ".join(capsys.readouterr().out.split())
    assert "0.003, 0.0001 with --init" in text and "0.3, 0.01 with --init" in text


# ---- the way back

@pytest.mark.parametrize("kind", ["bin", "pt", "pth", "safetensors"])
@pytest.mark.parametrize("size", [(V, T, LAYERS, 4, C), (V + 47, 8, 1, 1, 32)], ids=str)
def test_a_model_written_and_read_back_is_the_same_bit_for_bit(tmp_path, size, kind):
    torch.manual_seed(0)
    model = GPT(GPTConfig(*size))
    write_config(tmp_path, {"n_head": size[3], "n_layer": size[2]})
    held = to_gpt2(model)
    back = from_gpt2(write(tmp_path / f"model.{kind}", held))
    assert back.config == model.config
    again = to_gpt2(back)
    assert again.keys() == held.keys() and all(torch.equal(again[n], held[n]) for n in held)
    assert all(map(torch.equal, model.parameters(), back.parameters()))
    C = size[4]
    assert held["transformer.h.0.attn.c_attn.weight"].shape == (C, 3 * C), "the plain layout"
