"""Reading published GPT-2 checkpoints, and what is refused. No published file is needed: random
weights are written as the hub's files hold them. test_model.py checks what is computed of them.
"""
import json
import math
import os
import re
import struct
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import numpy as np
import pytest
import tiktoken
import tiktoken_ext.openai_public as openai_public
import torch

import data
from harness import measuring, weights
from harness.weights import DTYPES, as_published, from_gpt2, initial_model, read_weights
from model import GPT, GPTConfig

V, T, C, H, LAYERS = 300, 32, 128, 2, 2
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def published():
    """Weights by their published names, c_* as (in, out)."""
    shapes = {"wte.weight": (V, C), "wpe.weight": (T, C), "ln_f.weight": (C,), "ln_f.bias": (C,)}
    for h in (f"h.{i}." for i in range(LAYERS)):
        for name, *shape in (("attn.c_attn", C, 3 * C), ("attn.c_proj", C, C), ("ln_1", C),
                             ("mlp.c_fc", C, 4 * C), ("mlp.c_proj", 4 * C, C), ("ln_2", C)):
            shapes |= {f"{h}{name}.weight": shape, f"{h}{name}.bias": shape[-1:]}
    g = torch.Generator().manual_seed(0)
    return {name: torch.randn(*shape, generator=g) for name, shape in shapes.items()}


def check_weights(model, weights):
    """The model's are those: c_* are (out, in) here."""
    for name, p in model.named_parameters():
        w = weights[name.removeprefix("transformer.")].float()
        assert torch.equal(p, w.transpose(0, -1) if ".c_" in name else w), name


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
    return pack(dict(reversed(header.items())), numbers, spaces)     # in any order


def write(path, weights):
    path = str(path)
    if path.endswith(".safetensors"):
        with open(path, "wb") as f:
            f.write(safetensors(weights))
    else:   # the hub's pytorch_model.bin is of the format from before torch 1.6
        torch.save(weights, path, _use_new_zipfile_serialization=path.endswith(".pt"))
    return path


@pytest.mark.parametrize("kind, prefix, dtype", [
    ("bin", "transformer.", "half"), ("pt", "", "bfloat16"), ("safetensors", "", "double"),
    ("pth", "module._orig_mod.", "float")])
def test_a_published_file_is_read_exactly(tmp_path, kind, prefix, dtype):
    """Whatever wrappers put before the names, with masks and head; into float32."""
    weights = {n: w.to(getattr(torch, dtype)) for n, w in published().items()}
    held = {prefix + n: w for n, w in weights.items()} | {
        prefix + "h.0.attn.bias": torch.ones(T, T).tril().view(1, 1, T, T).to(torch.uint8),
        prefix + "h.1.attn.masked_bias": torch.tensor(-1e4),
        "lm_head.weight": weights["wte.weight"]}
    before = torch.get_rng_state()
    model = from_gpt2(write(tmp_path / f"gpt2.{kind}", held))
    assert torch.equal(before, torch.get_rng_state()), "reading draws no random numbers"
    assert model.config == GPTConfig(V, T, LAYERS, H, C)
    check_weights(model, weights)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert len({p.data_ptr() for p in model.parameters()}) == 12 * LAYERS + 4, "none shares memory"


@pytest.mark.parametrize("spaces", [0, 1])
def test_safetensors_of_every_dtype_come_back_whatever_their_alignment(tmp_path, spaces):
    values = torch.tensor([[0, 1, -3], [100, 7, -128]])
    held = {name: values.to(dtype) for dtype, name in NAMES.items()} | {"scalar": torch.tensor(2.5)}
    (tmp_path / "a.safetensors").write_bytes(safetensors(held, spaces))
    got = read_weights(tmp_path / "a.safetensors")
    assert got.keys() == held.keys()
    for name, x in held.items():
        assert got[name].dtype == x.dtype and torch.equal(got[name], x), name


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


FOUR = b"\x01\x02\x03\x04"
BAD_SAFETENSORS = {
    "empty": b"", "header beyond any memory": struct.pack("<Q", 2**64 - 1) + b"{}",
    "not UTF-8": struct.pack("<Q", 4) + b'"\xff\xfe"', "a list": pack([1], b""),
    "nested without end": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "overlap, and as large a hole": pack({"w": entry(), "v": entry(offsets=[2, 6])}, FOUR * 2),
    "hole at the start": pack({"w": entry(offsets=[1, 5])}, FOUR * 2),
    "bytes over": pack({"w": entry()}, FOUR + b"\x00"),
    **{f"'w': {odd}": pack({"w": odd}, FOUR) for odd in (
        3, {"dtype": "U8", "data_offsets": [0, 4]}, entry("F7"), entry(["U8"]), entry("F32"),
        entry(shape=4), entry(shape=[-2, -2]), entry(shape=[4.0]), entry(offsets=[0]),
        entry(shape=[0], offsets=[0, 0]), entry(offsets=["0", "4"]), entry(offsets=[-4, 0]))},
    "'w', a download that stopped": pack({"w": entry()}, FOUR)[:-1]}


@pytest.mark.parametrize("case", BAD_SAFETENSORS)
def test_a_bad_safetensors_file_is_refused_before_a_number_is_read(tmp_path, monkeypatch, case):
    (tmp_path / "odd.safetensors").write_bytes(BAD_SAFETENSORS[case])
    monkeypatch.setattr(torch, "frombuffer", lambda *_, **__: pytest.fail("a number is read"))
    with pytest.raises(ValueError, match=r"odd\.safetensors" + ".*'w'" * ("'w'" in case)):
        read_weights(tmp_path / "odd.safetensors")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("held", [
    lambda: [torch.ones(2)], lambda: torch.ones(2), lambda: torch.nn.Linear(2, 2),
    *[lambda odd=odd: {"w": odd()} for odd in (
        lambda: None, lambda: {"w": torch.ones(2)}, lambda: torch.zeros(1).expand(2**40),
        lambda: torch.eye(4).to_sparse(), lambda: torch.empty(2**20, 2**20, device="meta"),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.ones(4).to(torch.float8_e4m3fn), lambda: torch.ones(4) * 1j)]])
def test_a_pickle_of_anything_but_plain_named_tensors_is_refused(tmp_path, held):
    with pytest.raises(ValueError, match=r"odd\.pt"):
        read_weights(write(tmp_path / "odd.pt", held()))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["bin", "pt"])
def test_a_damaged_pickle_is_refused_wherever_it_is_cut_or_changed(tmp_path, kind):
    """If only numbers changed, it is tensors."""
    path = tmp_path / f"odd.{kind}"
    write(path, {f"h.{i}": torch.randn(3) for i in range(4)})
    raw, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(50):
        path.write_bytes(raw[:rng.integers(len(raw))])
        with pytest.raises(ValueError, match=path.name):
            read_weights(path)
        odd = bytearray(raw)
        odd[rng.integers(min(len(raw), 900))] = rng.integers(256)
        path.write_bytes(odd)
        with suppress(ValueError):
            read_weights(path)


@pytest.mark.parametrize("kind", ["bin", "pt"])
def test_code_in_a_pickle_is_not_run(tmp_path, kind):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)
    path = write(tmp_path / f"trap.{kind}", published() | {"h.0.attn.bias": Trap()})
    with pytest.raises(ValueError, match="trap.*mkdir.*code"):
        from_gpt2(path)
    assert not (tmp_path / "sprung").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "sprung").exists(), "else the trap would show nothing"


@pytest.mark.parametrize("name, said", [
    ("model.safetensors.index.json", r"\.safetensors.*\.bin.*\.pt"), ("away.bin", "no such file")])
def test_another_file_and_none_are_refused(tmp_path, name, said):
    (tmp_path / "model.safetensors.index.json").touch()
    with pytest.raises(ValueError, match=f"{name}.*{said}"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("change, named", [         # None: deleted; a function of what is there
    ({"h.1.mlp.c_fc.bias": None}, r"1 .*h\.1\.mlp\.c_fc"), ({"wte.weight": None}, r"wte\.weight"),
    ({n: None for n in published() if n.startswith("h.0")}, r"24.*h\.0\."),       # a whole layer
    ({"module.transformer.wte.weight": torch.ones(V, C)}, "twice"),
    ({f"h.{i}.x": torch.ones(1) for i in range(2, 400)}, "missing"),    # layers only in name
    ({"h.0.attn.c_attn.lora_A": torch.ones(2, 2)}, "lora_A.*PEFT"),
    ({"h.0.attn.c_attn.weight": lambda x: x.T}, r"1 .*h\.0\.attn\.c_attn.*nanoGPT"),
    ({"h.1.mlp.c_proj.weight": lambda x: x[0, 0]}, r"1 .*c_proj"),
    ({"wte.weight": lambda x: x[:, 0]}, r"wte\.weight"),
    ({"wte.weight": lambda x: x[:, :100]}, "100"),                       # which 64 does not divide
    ({"wte.weight": lambda x: x[:, :0]}, r"wte\.weight"),
    ({"h.1.ln_1.bias": lambda x: x.int()}, r"1 .*h\.1\.ln_1\.bias"),
    ({"lm_head.weight": torch.ones(V, C)}, r"lm_head\.weight"),
    ({"h.1.ln_2.weight": lambda x: x + math.nan}, r"1.*h\.1\.ln_2"),
    ({"ln_f.bias": lambda x: x.double() * 1e300}, r"1.*ln_f\.bias")])
def test_weights_that_are_not_gpt2s_are_refused_by_name(tmp_path, change, named):
    held = published()
    for name, new in change.items():
        held[name] = new(held[name]) if callable(new) and not torch.is_tensor(new) else new
    held = {name: w for name, w in held.items() if w is not None}
    with pytest.raises(ValueError, match=rf"odd\.bin.*{named}") as caught:
        from_gpt2(write(tmp_path / "odd.bin", held))
    assert len(str(caught.value)) < 350 + len(str(tmp_path)), "a few names and a count"


PLAIN = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_head": H, "n_layer": LAYERS,
         "n_embd": C, "n_positions": T, "vocab_size": V, "activation_function": "gelu_new",
         "layer_norm_epsilon": 1e-05, "tie_word_embeddings": True, "attn_pdrop": 0.1}


def write_config(folder, said):
    (folder / "config.json").write_text(json.dumps(said), "utf-8")


@pytest.mark.parametrize("other", [
    {"activation_function": "gelu_pytorch_tanh"}, {"activation_function": "gelu_fast"},
    {"n_inner": 4 * C}, {"torch_dtype": "float16", "n_layer": None}], ids=str)
def test_a_config_that_says_what_model_py_computes_is_taken_without_a_word(tmp_path, capsys, other):
    write_config(tmp_path, PLAIN | other)
    check_weights(from_gpt2(write(tmp_path / "gpt2.bin", published())), published())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("said, named", [
    *[({field: value}, rf"{field}.*{re.escape(str(value))}") for field, value in (
        ("scale_attn_weights", False), ("scale_attn_by_inverse_layer_idx", True),
        ("activation_function", "gelu"), ("layer_norm_epsilon", 1e-6), ("model_type", "gpt_neo"),
        ("add_cross_attention", True), ("tie_word_embeddings", False), ("architectures", [["x"]]),
        ("n_inner", C), ("n_layer", LAYERS + 1), ("n_embd", 2 * C), ("vocab_size", V + 1),
        ("n_positions", T - 1), ("n_ctx", 1024), ("n_head", None), ("n_head", 3), ("n_head", "2"))],
    (3, ""), ("[" * 100_000, ""), ("\xff", "")], ids=lambda x: str(x)[:30])
def test_a_config_that_says_other_is_refused_by_field_and_value(tmp_path, said, named):
    said = json.dumps(PLAIN | said) if isinstance(said, dict) else str(said)
    (tmp_path / "config.json").write_text(said, "latin-1")
    with pytest.raises(ValueError, match=rf"(?s){named}") as caught:
        from_gpt2(write(tmp_path / "gpt2.bin", published()))
    assert "config.json" in str(caught.value)


def test_without_a_config_one_line_says_what_is_assumed(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "gpt2.bin", published())
    from_gpt2(path)
    line, = capsys.readouterr().out.splitlines()
    assert all(said in line for said in (
        path, "config.json", f"n_head {H}", f"n_layer {LAYERS}", "gelu_new", "1e-5"))
    monkeypatch.setattr(weights, "rank_and_size", lambda: (1, 2))
    from_gpt2(path)
    assert not capsys.readouterr().out, "only the first process of several says it"


ROWS = {name: [{"question": "Who?", "answer": f"{name} {i}"} for i in range(3)]
        for name in ("retain", "forget")}
WORDS = data.word_tokenizer(ROWS)
GPT2 = tiktoken.Encoding("gpt2", pat_str=WORDS._pat_str, mergeable_ranks=WORDS._mergeable_ranks,
                         special_tokens=WORDS._special_tokens)      # stands for GPT-2's


def start(path, rows=ROWS):
    """The model before training that --init names, for data of these rows."""
    return initial_model(SimpleNamespace(init=str(path)), rows)[1]


@pytest.mark.parametrize("more, name, fine", [
    (0, "gpt2", True), (47, "gpt2", True), (-1, "gpt2", False), (1, "words", False)])
def test_only_with_gpt2s_tokenizer_the_vocabulary_may_be_padded(tmp_path, monkeypatch, more, name,
                                                                fine):
    monkeypatch.setattr(weights, "gpt2_tokenizer", lambda: GPT2)
    model = GPT(GPTConfig(WORDS.n_vocab + more, T, 1, 1, 64))
    write_config(tmp_path, {"n_head": 1})
    path = write(tmp_path / "gpt2.bin", as_published(model, WORDS if name == "words" else None))
    said = f"--init .*{WORDS.n_vocab + more}.*{WORDS.n_vocab}"
    with nullcontext() if fine else pytest.raises(ValueError, match=said):
        assert all(map(torch.equal, start(path).parameters(), model.parameters())), "every row"


def test_a_model_brings_its_words_along_and_refuses_data_with_others(tmp_path):
    others = {k: [r | {"question": "Whö?"} for r in some] for k, some in ROWS.items()}
    other = data.word_tokenizer(others)
    model = GPT(GPTConfig(WORDS.n_vocab, T, 1, 1, 64))
    write_config(tmp_path, {"n_head": 1})
    path = write(tmp_path / "model.pt", held := as_published(model, other))
    assert json.loads(bytes(held["words"].tolist())) == data.words_of(other)
    assert "words" not in as_published(model, GPT2)
    assert other.n_vocab == WORDS.n_vocab and start(path, others)
    with pytest.raises(ValueError, match="model.pt.*not learned the data's word 'Who'"):
        start(path)
    fewer = {"forget": others["forget"][:1]}
    tokenizer, _ = initial_model(SimpleNamespace(init=str(path)), fewer)
    assert tokenizer.encode_ordinary("Whö? forget 2") == other.encode_ordinary("Whö? forget 2")
    for raw in (b"[1", b"3", b"[1]", b'["a"]', b'["ab", "ab"]', b"\xff\xff"):  # a stranger's
        held["words"] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        with pytest.raises(ValueError, match="odd.pt"):
            start(write(tmp_path / "odd.pt", held))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json"):
        start(path)                                 # the number of heads would be a guess


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
