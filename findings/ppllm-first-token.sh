#!/usr/bin/env bash
# ppllm 0.2.3 (transformers 5.24.0): the perplexity of two short texts under a model that gives each
# of 50 words the probability 1/50.
# Expected: 50 for every text and tokenizer. The first word has no loss unless a token stands before
#           it, so without one the sum of losses is divided by one word less.
# Instead:  it is divided by all words if the tokenizer only knows a beginning-of-text token, though
#           it does not put it there, as GPT-2's: 7.1 for a text of two words, 37 for 13. And
#           all_indices, which names each loss's text, is wrong for batches of two texts or more.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 transformers==5.24.0 datasets==5.2.0 \
    jsonargparse==4.52.0
v/bin/pip install -q --no-compile --no-deps ppllm==0.2.3            # vllm is not needed here
HF_HUB_OFFLINE=1 TQDM_DISABLE=1 v/bin/python -W ignore - <<'PY'
import torch
from ppllm.ppl import LoaderKwargs, compute_metrics, compute_ppl
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

def tokenizer(known, put):
    vocab = {name: i for i, name in enumerate(["<s>", "<pad>", *(f"w{i}" for i in range(48))])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if put:
        inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    names = {"bos_token": "<s>"} if known else {}
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", **names)

model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=8, n_layer=1, n_head=2))
for weight in model.parameters():
    torch.nn.init.zeros_(weight)                                    # all 50 words alike
short, long = "w1 w2", " ".join(f"w{i}" for i in range(13))
found = {}
for name, known, put in (("no such token", False, False), ("known and put there", True, True),
                         ("known only (GPT-2)", True, False)):
    for text in (short, long):
        got = compute_ppl([{"text": text}], model.eval(), tokenizer(known, put),
                          loader_kwargs=LoaderKwargs(batch_size=1, num_workers=0))
        keys = ("total_losses", "total_chars", "total_tokens")
        found[name, text] = compute_metrics(**{key: got[key] for key in keys})["ppl"]
        print(f"beginning of text {name:20} {len(text.split()):2} words: "
              f"perplexity {found[name, text]:.2f}")
values = [round(value, 1) for value in found.values()]
assert values == [50, 50, 50, 50, 7.1, 37], values

texts = [{"text": f"w{i} w2 w3"} for i in range(4)]
got = compute_ppl(texts, model, tokenizer(False, False),
                  loader_kwargs=LoaderKwargs(batch_size=2, num_workers=0))
counts = torch.bincount(got["all_indices"], minlength=4).tolist()
print("four texts of three words, two in a batch: losses of each text (2 each expected):", counts)
assert sorted(counts) == [0, 2, 2, 4], counts
PY
