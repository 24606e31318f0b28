"""model.py against GPT-2's published formulas, and against what its shortcuts must not change."""
import math

import pytest
import torch
import torch.nn.functional as F

from conftest import elsewhere, spy
from data import Example, collate
from model import GPT, GPTConfig


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(vocab_size=60, block_size=24, n_layer=3, n_head=2, n_embd=16)).double()
    for p in gpt.parameters():   # away from the initialisation, where everything is nearly 0
        torch.nn.init.normal_(p, std=0.3)
    return gpt


def examples(n=6):
    g = torch.Generator().manual_seed(2)
    return [Example(torch.randint(0, 60, (6 + 3 * i,), generator=g).tolist(), 2 + i)
            for i in range(n)]


def by_hand(model, tokens):
    """Logits (T, V) of one row by GPT-2's formulas, with an explicit mask and explicit heads."""
    w = {k.removeprefix("transformer."): v for k, v in model.named_parameters()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * \
            w[name + ".weight"] + w[name + ".bias"]
    linear = lambda x, name: x @ w[name + ".weight"].T + w[name + ".bias"]
    T, H = len(tokens), model.config.n_head
    x = w["wte.weight"][torch.tensor(tokens)] + w["wpe.weight"][:T]
    for i in range(model.config.n_layer):
        h = f"h.{i}."
        q, k, v = linear(norm(x, h + "ln_1"), h + "attn.c_attn").chunk(3, -1)
        heads = []
        for q, k, v in zip(q.chunk(H, -1), k.chunk(H, -1), v.chunk(H, -1)):
            scores = (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(
                torch.ones(T, T).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(-1) @ v)
        x = x + linear(torch.cat(heads, -1), h + "attn.c_proj")
        y = linear(norm(x, h + "ln_2"), h + "mlp.c_fc")
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + linear(y, h + "mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T


def test_losses_are_gpt2s_on_every_labelled_position_and_no_other(model):
    expected = [F.cross_entropy(by_hand(model, tokens[:-1])[n_prompt - 1:],
                                torch.tensor(tokens[n_prompt:]), reduction="none")
                for tokens, n_prompt in examples()]
    assert torch.allclose(model(collate(examples())), torch.cat(expected), rtol=1e-9)


def test_losses_measured_piece_by_piece_are_the_same(model):
    batch, seen = collate(examples()), []
    hook = model.lm_head.register_forward_hook(lambda _, x, y: seen.append(y.numel()))
    for piece in (1, 60, 400, 10**6):
        losses = model.token_losses(batch, piece)
        assert torch.allclose(losses, model(batch), rtol=1e-12) and not losses.requires_grad
        assert max(seen[:-1]) <= max(piece, 60), "60 words: one position at least"
        seen.clear()
    hook.remove()


def test_no_position_sees_a_later_token(model):
    """And each one sees all earlier tokens."""
    tokens = torch.randint(0, 60, (1, 12), generator=torch.Generator().manual_seed(3))
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 60
    differ = (model.hidden(tokens) != model.hidden(changed))[0].any(-1)
    assert differ.tolist() == [False] * 7 + [True] * 5


@pytest.mark.parametrize("ends", [range(1, 13), range(5, 13), (12,), (3, 5, 12)])
def test_a_cache_gives_the_same_as_the_whole_row_at_once(model, ends):
    """The cache then holds the keys and values of the whole row."""
    attention = model.transformer.h[0].attn
    x = torch.randn(2, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    cache = torch.full((2, 2, 2, 15, 8), math.nan, dtype=torch.float64)
    parts = [attention(x[:, a:b], cache, a) for a, b in zip((0, *ends), ends)]
    near = torch.isclose(torch.cat(parts, 1), attention(x), rtol=1e-9).all(-1).all(0)
    assert near.logical_not().nonzero().flatten().tolist() == [], "positions that differ"
    _, keys, values = attention.c_attn(x).view(2, 12, 3, 2, 8).permute(2, 0, 3, 1, 4)
    assert torch.allclose(cache[:, :, :, :12], torch.stack([keys, values]), rtol=1e-9)
    assert cache[:, :, :, 12:].isnan().all(), "nothing behind the row's last token"


def greedy_uncached(model, prompt, max_new, stop, logits=by_hand):
    tokens = list(prompt)
    while len(tokens) < min(len(prompt) + max_new, model.config.block_size):
        token = int(logits(model, tokens)[-1].argmax())
        if token == stop:
            break
        tokens.append(token)
    return tokens[len(prompt):]


def test_batched_cached_generation_is_the_greedy_walk_of_each_prompt_alone(model):
    """The head, which takes most of the time at 50,257 tokens, is asked for chosen tokens only."""
    prompts, asked = [e.tokens[:n] for e, n in zip(examples(), (1, 5, 3, 12, 9, 21))], []
    stop = greedy_uncached(model, prompts[1], 8, None)[4]       # a token that will be met
    expected = [greedy_uncached(model, p, 10, stop) for p in prompts]
    hook = model.lm_head.register_forward_hook(lambda _, x, y: asked.append(len(x[0])))
    assert model.generate(prompts, 10, stop) == expected
    hook.remove()
    assert [model.generate([p], 10, stop)[0] for p in prompts] == expected
    assert len({len(e) for e in expected}) > 1, "rows should end at different places here"
    room = [min(10, model.config.block_size - len(p)) for p in prompts]
    assert sum(asked) == sum(len(e) + (len(e) < n) for e, n in zip(expected, room))


def test_generation_passes_each_position_through_the_model_once(model, monkeypatch):
    """One pass over the shortest prompt, then one token a row for each further position."""
    passes = spy(monkeypatch, model, "hidden", lambda tokens, *_, **k: tokens.shape)
    model.generate([[7, 8, 9], [1, 2, 3, 4, 5]], 4, stop=59)         # to 9 tokens, none is 59
    assert passes == [(2, 3)] + 5 * [(2, 1)]
    passes.clear()
    model.generate([[7, 8, 9]], 0, stop=59)
    assert passes == [], "no room for a new token"


def test_generation_stays_in_the_context(model):
    full = list(range(27))
    assert model.generate([full[:24], full[:22]], 10, stop=59) == \
        [[], greedy_uncached(model, full[:22], 10, 59)]
    for prompts, words in (([full[:25], full[:2]], "25.*24"), ([[1], []], "prompt")):
        with pytest.raises(ValueError, match=words):
            model.generate(prompts, 1, stop=59)
    with pytest.raises(ValueError, match="25.*24"):
        model.hidden(torch.zeros(1, 25, dtype=torch.long))


def test_parameters_have_gpt2s_names_and_the_head_is_the_embedding():
    config = GPTConfig(50257, 1024, 12, 12, 768)
    with torch.device("meta"):
        gpt = GPT(config)
    layers = [f"h.{i}.{m}" for i in range(12) for m in (
        "ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")]
    assert {name.removeprefix("transformer.") for name, _ in gpt.named_parameters()} == {
        "wte.weight", "wpe.weight", *(f"{x}.{k}" for x in (*layers, "ln_f")
                                      for k in ("weight", "bias"))}
    assert sum(p.numel() for p in gpt.parameters()) == 124_439_808, "GPT-2 small"
    assert gpt.lm_head.weight is gpt.transformer.wte.weight
    with pytest.raises(ValueError, match="n_embd 10.*n_head 4"):
        GPT(GPTConfig(10, 10, 1, 4, 10))


@elsewhere
def test_the_model_compiles_whole_for_batches_of_any_shape():
    """An `is_causal` that depends on T would break the graph."""
    model = GPT(GPTConfig(60, 32, 1, 2, 16))
    compiled = torch.compile(model.forward, dynamic=True, fullgraph=True, backend="eager")
    for lengths in ((9, 6), (12, 5, 7)):
        batch = collate([Example(torch.randint(60, (n,)).tolist(), 3) for n in lengths])
        assert torch.allclose(compiled(batch), model(batch), atol=1e-6)
