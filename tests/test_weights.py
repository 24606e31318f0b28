"""Reading published GPT-2 checkpoints, against GPT-2's formulas on weights in the published layout.

No published file is needed: random weights are written as the hub's files hold them, and the oracle
works on those arrays in numpy, so that it shares neither the reader nor the model.
"""
import json
import math
import os
import struct

import numpy as np
import pytest
import torch

from data import Example, collate
from harness.weights import from_gpt2, heads, read_weights, to_gpt2
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
    weights["ln_f.bias"] = torch.zeros(1).expand(C)
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


@pytest.mark.parametrize("name", ["gpt2.h5", "gpt2", "gpt2.safetensors.index.json", "away.bin",
                                  "away.safetensors", "folder.pt", "folder.safetensors"])
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


# ---- the number of heads, which no weight tells, and the way back

@pytest.mark.parametrize("content, n_head", [
    (None, 2), ({"n_head": 4}, 4), ({"n_head": 128}, 128), ({}, None), ({"n_head": 3}, None),
    ({"n_head": 0}, None), ({"n_head": "2"}, None), ([], None)])
def test_heads_are_what_the_config_beside_the_file_says_or_else_of_64(tmp_path, content, n_head):
    if content is not None:
        (tmp_path / "config.json").write_text(json.dumps(content), "utf-8")
    path = str(tmp_path / "gpt2.bin")
    if n_head:
        assert heads(path, 128) == n_head
    else:
        with pytest.raises(ValueError, match="n_head"):
            heads(path, 128)


def test_a_model_written_and_read_back_is_the_same_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    model = GPT(GPTConfig(V, T, LAYERS, 4, C))
    torch.save(to_gpt2(model), tmp_path / "model.pt")
    (tmp_path / "config.json").write_text('{"n_head": 4}', "utf-8")
    back = from_gpt2(str(tmp_path / "model.pt"))
    assert back.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), back.parameters()))
    assert to_gpt2(model)["transformer.h.0.attn.c_attn.weight"].shape == (C, 3 * C)
