"""Reading published GPT-2 checkpoints, against GPT-2's formulas on weights in the published layout.

No published file is needed: random weights are written as the hub's files hold them, and the oracle
works on those arrays in numpy, so that it shares neither the reader nor the model.
"""
import json
import math
import os
import re
import struct
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import tiktoken
import tiktoken_ext.openai_public as openai_public
import torch

import data
from data import Example, collate
from harness import measuring, weights
from harness.checkpoint_files import DTYPES, read_weights
from harness.weights import from_gpt2, initial_model, to_gpt2
from model import GPT, GPTConfig

V, T, C, H, LAYERS = 300, 32, 128, 2, 2
TOKENS = np.random.default_rng(1).integers(0, V, T).tolist()
NAMES = {dtype: name for name, dtype in DTYPES.items()}


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


def pack(header, numbers, spaces=0):
    """The bytes of a .safetensors file. `spaces` after the header shift where the numbers begin."""
    text = json.dumps(header).encode() + b" " * spaces
    return struct.pack("<Q", len(text)) + text + numbers


def safetensors(weights, spaces=0):
    header, numbers = {"__metadata__": {"format": "pt"}}, b""
    for name, x in weights.items():
        raw = x.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": NAMES[x.dtype], "shape": list(x.shape),
                        "data_offsets": [len(numbers), len(numbers) + len(raw)]}
        numbers += raw
    return pack(header, numbers, spaces)


def write(path, weights):
    path = str(path)
    if path.endswith(".safetensors"):
        with open(path, "wb") as f:
            f.write(safetensors(weights))
    else:   # the hub's pytorch_model.bin is of the format from before torch 1.6
        torch.save(weights, path, _use_new_zipfile_serialization=path.endswith(".pt"))
    return path


def check_logits(model, weights):
    batch = collate([Example(TOKENS + [0], 1)])
    expected = oracle(weights, TOKENS)
    assert expected.std() > 0.2, "else layer norm's 1e-5 would say little"
    np.testing.assert_allclose(model.logits(batch).detach().numpy(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind, prefix, extras, dtype", [
    ("bin", "", "masks", "float"), ("bin", "transformer.", "masks and head", "half"),
    ("pt", "", "", "bfloat16"), ("safetensors", "", "head", "double"),
    ("safetensors", "transformer.", "masks and head", "float"),
    ("pth", "module._orig_mod.", "", "float"), ("pt", "_orig_mod.transformer.", "", "half")])
def test_a_published_file_gives_gpt2s_logits(tmp_path, kind, prefix, extras, dtype):
    """Whatever wrappers put before the names; other precisions are read exactly into float32."""
    weights = {n: w.to(getattr(torch, dtype)) for n, w in published().items()}
    held = {prefix + n: w for n, w in weights.items()}
    if "masks" in extras:
        held[prefix + "h.0.attn.bias"] = torch.ones(T, T).tril().view(1, 1, T, T).to(torch.uint8)
        held[prefix + "h.1.attn.masked_bias"] = torch.tensor(-1e4)
    if "head" in extras:
        held["lm_head.weight"] = weights["wte.weight"]
    before = torch.get_rng_state()
    model = from_gpt2(write(tmp_path / f"gpt2.{kind}", held))
    assert torch.equal(before, torch.get_rng_state()), "reading draws no random numbers"
    assert model.config == GPTConfig(V, T, LAYERS, H, C)
    check_logits(model, weights)


def test_the_model_read_is_float32_tied_and_can_be_trained(tmp_path):
    held = published()
    held["h.1.ln_2.weight"] = held["h.0.ln_2.weight"]                # one storage in a .pt
    model = from_gpt2(write(tmp_path / "gpt2.pt", held))
    assert model.lm_head.weight is model.transformer.wte.weight
    model(collate([Example(TOKENS, 1)])).mean().backward()
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous(), name
        assert p.grad is not None and p.grad.any() and p.untyped_storage().nbytes() == 4 * p.numel()
    assert len({p.data_ptr() for p in model.parameters()}) == 12 * LAYERS + 4, "none shares memory"
    assert model.state_dict().keys() == GPT(model.config).state_dict().keys()


@pytest.mark.parametrize("spaces", [0, 1, 4])
def test_safetensors_of_every_dtype_come_back_whatever_their_alignment(tmp_path, spaces):
    values = torch.tensor([[0, 1, -3], [100, 7, -128]])
    held = {name: values.to(dtype) for dtype, name in NAMES.items()} | {"scalar": torch.tensor(2.5)}
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors(held, spaces))
    got = read_weights(path)
    assert got.keys() == held.keys()
    for name, x in held.items():
        assert got[name].dtype == x.dtype and torch.equal(got[name], x), name


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


FOUR = b"\x01\x02\x03\x04"
BAD_SAFETENSORS = {
    "empty": b"", "shorter than a length": b"\x01\x00",
    "header beyond any memory": struct.pack("<Q", 2**64 - 1) + b"{}",
    "a download that stopped in the header": pack({"w": entry()}, FOUR)[:30],
    "not JSON": struct.pack("<Q", 4) + b"spam", "not UTF-8": struct.pack("<Q", 4) + b'"\xff\xfe"',
    "nested without end": struct.pack("<Q", 100_000) + b"[" * 100_000, "a list": pack([1], b""),
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\n",
    "overlap, and as large a hole": pack({"w": entry(), "v": entry(offsets=[2, 6])}, FOUR * 2),
    "the same place twice": pack({"w": entry(), "v": entry()}, FOUR * 2),
    "ten thousand in one place": pack({str(i): entry() for i in range(10_000)}, FOUR),
    "hole at the start": pack({"w": entry(offsets=[1, 5])}, FOUR * 2),
    "bytes over": pack({"w": entry()}, FOUR + b"\x00"), "bytes and no tensor": pack({}, FOUR),
    **{f"'w': {odd}": pack({"w": odd}, FOUR) for odd in (
        3, {"shape": [4], "data_offsets": [0, 4]}, {"dtype": "U8", "data_offsets": [0, 4]},
        entry("F7"), entry(["U8"]), entry("F32"), entry(shape=4), entry(shape=[-2, -2]),
        entry(shape=[4.0]), entry(shape=[True, 4]), entry(shape=[5]),
        entry(shape=[0], offsets=[0, 0]), entry(offsets=[0]), entry(offsets=["0", "4"]),
        entry(offsets=[-4, 0]), entry(offsets=[4, 0]), entry(offsets=[1, 5]))},
    "'w', a download that stopped": pack({"w": entry()}, FOUR)[:-1]}


@pytest.mark.parametrize("case", BAD_SAFETENSORS)
def test_a_bad_safetensors_file_is_refused_before_a_number_is_read(tmp_path, monkeypatch, case):
    (tmp_path / "odd.safetensors").write_bytes(BAD_SAFETENSORS[case])
    monkeypatch.setattr(torch, "frombuffer", lambda *_, **__: pytest.fail("a number is read"))
    with pytest.raises(ValueError, match=r"odd\.safetensors" + ".*'w'" * ("'w'" in case)):
        read_weights(tmp_path / "odd.safetensors")


def test_the_reader_takes_the_file_that_the_bad_ones_are_made_from(tmp_path):
    """The tensors need not be listed in the order in which they lie."""
    header = {"v": entry(shape=[2, 2], offsets=[4, 8]), "w": entry()}
    (tmp_path / "a.safetensors").write_bytes(pack(header, FOUR + FOUR[::-1]))
    got = {name: w.tolist() for name, w in read_weights(tmp_path / "a.safetensors").items()}
    assert got == {"w": [1, 2, 3, 4], "v": [[4, 3], [2, 1]]}


@pytest.mark.parametrize("held", [
    [torch.ones(2)], {"model": {"w": torch.ones(2)}}, {"w": 1.0}, {"w": None}, torch.ones(2), "w",
    None, {"w": torch.ones(2), "epoch": 3}, torch.nn.Linear(2, 2)], ids=lambda x: str(x)[:20])
@pytest.mark.parametrize("kind", ["bin", "pt"])
def test_a_pickle_of_anything_but_named_tensors_is_refused(tmp_path, kind, held):
    with pytest.raises(ValueError, match=rf"odd\.{kind}"):
        read_weights(write(tmp_path / f"odd.{kind}", held))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["bin", "pt"])
def test_a_damaged_pickle_is_refused_wherever_it_is_cut_or_changed(tmp_path, kind):
    """120 files: a ValueError with the file's name or, if only numbers changed, tensors."""
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
    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("kind", ["bin", "pt"])
def test_code_in_a_pickle_is_not_run(tmp_path, kind):
    trap = Trap()
    trap.folder = str(tmp_path / "sprung")
    path = write(tmp_path / f"trap.{kind}", published() | {"h.0.attn.bias": trap})
    with pytest.raises(ValueError, match="trap.*mkdir.*code"):
        from_gpt2(path)
    assert not os.path.exists(trap.folder)
    torch.load(path, weights_only=False)
    assert os.path.exists(trap.folder), "else the trap would show nothing"


@pytest.mark.parametrize("name", [
    "gpt2.h5", "gpt2", "away.bin", "away.safetensors", "folder.pt", "model.safetensors.index.json"])
def test_other_files_and_none_are_refused_with_the_kinds_that_are_read(tmp_path, name):
    if "folder" in name:
        (tmp_path / name).mkdir()
    elif "away" not in name:
        (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(ValueError, match=rf"{name}.*\.safetensors.*\.bin.*\.pt"):
        from_gpt2(tmp_path / name)


def with_number(value):
    return lambda x: torch.cat([x.flatten()[:-1], torch.tensor([value])]).view(x.shape)


@pytest.mark.parametrize("change, named", [         # None: deleted; a function of what is there
    ({"h.1.mlp.c_fc.bias": None}, r"1 .*h\.1\.mlp\.c_fc"), ({"wte.weight": None}, r"wte\.weight"),
    ({"wpe.weight": None}, r"wpe\.weight"),
    ({n: None for n in published() if n.startswith("h.0")}, r"24.*h\.0\."),       # a whole layer
    ({n: None for n in published() if n.startswith("h.")}, r"12.*h\.0\."),
    ({"h.0.ln_3.bias": torch.ones(C)}, r"1 .*ln_3"), ({"n": torch.ones(1).long()}, r"1 .*r\.n"),
    ({"module.transformer.wte.weight": torch.ones(V, C)}, "twice"),
    ({"h.99999999.ln_1.bias": torch.ones(C)}, r"13.*h\.2\."),
    ({f"h.{i}.x": torch.ones(1) for i in range(2, 400)}, "missing"),    # layers only in name
    ({"h.0.attn.c_attn.lora_A": torch.ones(2, 2)}, "lora_A.*PEFT"),
    ({"h.0.attn.c_attn.weight": lambda x: x.T}, r"1 .*h\.0\.attn\.c_attn.*nanoGPT"),
    ({"ln_f.weight": lambda x: x[:-1]}, r"1 .*ln_f\.weight"),
    ({"h.1.attn.c_proj.weight": lambda x: x[None]}, r"1 .*c_proj"),
    ({"h.1.mlp.c_proj.weight": lambda x: x[0, 0]}, r"1 .*c_proj"),
    ({"wpe.weight": lambda x: x[:, :64]}, r"1 .*wpe\.weight"),
    ({"wte.weight": lambda x: x[:, 0]}, r"wte\.weight"),
    ({"wte.weight": lambda x: x[:, :100]}, "100"),                       # which 64 does not divide
    ({"wte.weight": lambda x: x[:, :0]}, r"wte\.weight"),
    ({"h.1.ln_1.bias": lambda x: x.int()}, r"1 .*h\.1\.ln_1\.bias"),
    ({"lm_head.weight": torch.ones(V, C)}, r"lm_head\.weight"),
    ({"lm_head.weight": torch.ones(V, C - 1)}, r"lm_head\.weight"),
    ({"h.1.ln_2.weight": with_number(math.nan)}, r"1.*h\.1\.ln_2"),
    ({"h.0.mlp.c_fc.weight": with_number(-math.inf)}, r"1.*h\.0\.mlp\.c_fc"),
    ({"ln_f.bias": lambda x: with_number(1e300)(x.double())}, r"1.*ln_f\.bias")])
def test_weights_that_are_not_gpt2s_are_refused_by_name(tmp_path, change, named):
    held = published()
    for name, new in change.items():
        held[name] = new(held[name]) if callable(new) and not torch.is_tensor(new) else new
    held = {name: w for name, w in held.items() if w is not None}
    with pytest.raises(ValueError, match=rf"odd\.bin.*{named}") as caught:
        from_gpt2(write(tmp_path / "odd.bin", held))
    assert len(str(caught.value)) < 350 + len(str(tmp_path)), "a few names and a count"


# ---- config.json

PLAIN = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_head": H, "n_layer": LAYERS,
         "n_embd": C, "n_positions": T, "n_ctx": T, "vocab_size": V, "n_inner": None,
         "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05, "scale_attn_weights": True,
         "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
         "tie_word_embeddings": True, "add_cross_attention": False, "attn_pdrop": 0.1}


def write_config(folder, said):
    (folder / "config.json").write_text(json.dumps(said), "utf-8")


@pytest.mark.parametrize("other", [
    {"activation_function": "gelu_pytorch_tanh"}, {"activation_function": "gelu_fast"},
    {"reorder_and_upcast_attn": True}, {"n_inner": 4 * C}, {"architectures": ["GPT2Model"]},
    {"torch_dtype": "float16", "n_layer": None}], ids=str)
def test_a_config_that_says_what_model_py_computes_is_taken_without_a_word(tmp_path, capsys, other):
    write_config(tmp_path, PLAIN | other)
    check_logits(from_gpt2(write(tmp_path / "gpt2.bin", published())), published())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("field, value", [
    ("scale_attn_weights", False), ("scale_attn_by_inverse_layer_idx", True),
    ("activation_function", "relu"), ("activation_function", "gelu"), ("layer_norm_epsilon", 1e-6),
    ("add_cross_attention", True), ("tie_word_embeddings", False), ("model_type", "gpt_neo"),
    ("architectures", ["GPT2ForQuestionAnswering"]), ("architectures", [["x"]]), ("n_inner", C),
    ("n_layer", LAYERS + 1), ("n_embd", 2 * C), ("vocab_size", V + 1), ("n_positions", T - 1),
    ("n_ctx", 1024), ("n_layer", "2"), ("n_head", None), ("n_head", 3),
    ("n_head", 0), ("n_head", "2"), ("n_head", [2])], ids=str)
def test_a_config_that_says_other_is_refused_by_field_and_value(tmp_path, capsys, field, value):
    write_config(tmp_path, PLAIN | {field: value})
    path = write(tmp_path / "gpt2.bin", published())
    shown = "" if value is None else re.escape(str(value))
    with pytest.raises(ValueError, match=rf"(?s){field}.*{shown}") as caught:
        from_gpt2(path)
    assert "config.json" in str(caught.value) and capsys.readouterr().out == ""


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
    assert all(said in line for said in (
        path, "config.json", f"n_head {H}", f"n_layer {LAYERS}", "gelu_new", "1e-5"))
    monkeypatch.setattr(weights, "rank_and_size", lambda: (1, 2))
    from_gpt2(path)
    assert capsys.readouterr().out == "", "only the first process of several says it"


# ---- odd tensors

ODD_TENSORS = (
    lambda: torch.zeros(1).expand(2**40), lambda: torch.zeros(2**20)[None].expand(99, -1),
    lambda: torch.eye(4).to_sparse(), lambda: torch.eye(4).to_sparse_csr(),
    lambda: torch.empty(2**20, 2**20, device="meta"),
    lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
    lambda: torch.ones(4).to(torch.float8_e4m3fn), lambda: torch.ones(4, dtype=torch.complex64))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", ODD_TENSORS)
def test_an_odd_tensor_is_refused_before_anything_is_made_of_it(tmp_path, make):
    for place in ("wte.weight", "h.0.attn.bias", "lm_head.weight", "words"):
        path = write(tmp_path / "odd.pt", published() | {place: make()})
        with pytest.raises(ValueError, match=rf"odd\.pt: .*('{place}' is no plain|memory)") as caught:
            from_gpt2(path)
        assert "\n" not in str(caught.value)


# ---- the vocabulary and the words

ROWS = {name: [{"question": "Who?", "answer": f"{name} {i}"} for i in range(3)]
        for name in ("retain", "forget")}
WORDS = data.word_tokenizer(ROWS)
GPT2 = tiktoken.Encoding("gpt2", pat_str=WORDS._pat_str, mergeable_ranks=WORDS._mergeable_ranks,
                         special_tokens=WORDS._special_tokens)      # stands for GPT-2's


def start(path, rows=ROWS):
    """The model before training that --init names, for data of these rows."""
    return initial_model(SimpleNamespace(init=str(path)), rows)[1]


@pytest.mark.parametrize("more, name, fine", [
    (0, "gpt2", True), (1, "gpt2", True), (47, "gpt2", True), (-1, "gpt2", False),
    (0, "words", True), (1, "words", False), (-1, "words", False)])
def test_only_with_gpt2s_tokenizer_the_vocabulary_may_be_padded(tmp_path, monkeypatch, more, name,
                                                                fine):
    monkeypatch.setattr(weights, "gpt2_tokenizer", lambda: GPT2)
    model = GPT(GPTConfig(WORDS.n_vocab + more, T, 1, 1, 64))
    held = to_gpt2(model, WORDS if name == "words" else None)
    path, named = write(tmp_path / "gpt2.bin", held), f"{WORDS.n_vocab + more}.*{WORDS.n_vocab}"
    with nullcontext() if fine else pytest.raises(ValueError, match=f"--init .*{named}"):
        model = start(path)
        assert torch.equal(model.lm_head.weight, held["transformer.wte.weight"]), "every row stays"


def test_a_model_brings_its_words_along_and_is_refused_with_others_of_the_same_number(tmp_path):
    others = {k: [{"question": "Whö?", "answer": r["answer"]} for r in some]
              for k, some in ROWS.items()}
    other = data.word_tokenizer(others)
    model = GPT(GPTConfig(WORDS.n_vocab, T, 1, 1, 64))
    path = write(tmp_path / "model.pt", held := to_gpt2(model, other))
    assert json.loads(bytes(held["words"].tolist())) == data.words_of(other)
    assert held.keys() - to_gpt2(model, GPT2).keys() == {"words"}
    assert other.n_vocab == WORDS.n_vocab and start(path, others)
    with pytest.raises(ValueError, match="model.pt.*'Whö' there and 'Who' here"):
        start(path)
    for raw in (b"[1", b"3", b"\xff\xff", b"{}"):                    # a stranger's
        odd = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        with pytest.raises(ValueError, match="odd.pt"):
            start(write(tmp_path / "odd.pt", held | {"words": odd}))


def test_a_token_that_the_tokenizer_lacks_has_no_text():
    torch.manual_seed(0)
    model = GPT(GPTConfig(WORDS.n_vocab + 1, T, 1, 1, 64))
    with torch.no_grad():
        model.transformer.wte.weight[-1] = 50 * model.hidden(torch.tensor([[5, 6]]))[0, -1]
    assert WORDS.n_vocab in model.generate([[5, 6]], 8, WORDS.eot_token)[0]
    ids, = measuring.generate(model, WORDS, [[5, 6]], 8)
    assert WORDS.n_vocab not in ids and isinstance(WORDS.decode(ids), str)


def test_offline_the_message_names_the_files_that_tiktoken_looks_for(tmp_path, monkeypatch):
    def no_network(address):
        raise ConnectionError("offline")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "read_file", no_network)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    with pytest.raises(ValueError, match="ConnectionError.*TIKTOKEN_CACHE_DIR") as caught:
        weights.gpt2_tokenizer()
    # Any content will do for tiktoken to keep it, but not for an encoding.
    monkeypatch.setattr(tiktoken.load, "read_file", lambda address: b"{}")
    monkeypatch.setattr(tiktoken.load, "check_hash", lambda *_: True)
    with pytest.raises(AssertionError):
        openai_public.gpt2()
    looked_for = sorted(p.name for p in tmp_path.iterdir())
    assert len(looked_for) == 2 and all(name in str(caught.value) for name in looked_for)


# ---- the way back

@pytest.mark.parametrize("kind", ["bin", "pt", "pth", "safetensors"])
def test_a_model_written_and_read_back_is_the_same_bit_for_bit(tmp_path, kind):
    for n_vocab, *size in ((V, T, LAYERS, 4, C), (V + 47, 8, 1, 1, 32)):
        model = GPT(GPTConfig(n_vocab, *size))
        write_config(tmp_path, {"n_head": size[2], "n_layer": size[1]})
        held = to_gpt2(model, WORDS)
        back = from_gpt2(write(tmp_path / f"model.{kind}", held), WORDS)
        assert back.config == model.config
        again = to_gpt2(back, WORDS)
        assert again.keys() == held.keys() and all(torch.equal(again[n], held[n]) for n in held)
        assert all(map(torch.equal, model.parameters(), back.parameters()))
        width = size[3]
        assert held["transformer.h.0.attn.c_attn.weight"].shape == (width, 3 * width), "(in, out)"
