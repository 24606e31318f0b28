#!/usr/bin/env bash
# verbatim-llm 0.2.0 (transformers 5.24.0): TokenSwapProcessor, which takes the probabilities of
# common words from an auxiliary model, handed to `generate` for one prompt after the other.
# Expected: each prompt's answer is the one that a new processor gives.
# Instead:  the processor keeps the auxiliary model's cache of the first prompt and its answer. For
#           the next prompt that model reads the old text and the new prompt's last token only: the
#           common words' probabilities are those of another text, and nothing warns.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 transformers==5.24.0 \
    verbatim-llm==0.2.0
HF_HUB_OFFLINE=1 v/bin/python -W ignore - <<'PY' 2> /dev/null
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from verbatim_llm import TokenSwapProcessor

words = "the of a in she he to and was ann leo born wrote novel town year oslo lima".split()
inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="the"))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)

def make(seed):
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=len(words), n_positions=64, n_embd=32, n_layer=2, n_head=2,
        initializer_range=.3, bos_token_id=None, eos_token_id=None, pad_token_id=0)).eval()

model, auxiliary = make(0), make(1)
processor = lambda: TokenSwapProcessor(auxiliary, tokenizer, grammar_words=words[:9])

def answer(prompt, swap):
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    got = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8,
                         do_sample=False, logits_processor=[swap], output_scores=True,
                         return_dict_in_generate=True)
    return tokenizer.decode(got.sequences[0, ids.shape[1]:]), got.scores[0].softmax(-1)[0]

first, second = "ann was born in", "leo wrote a novel and"
kept, moved = processor(), {}
for prompt in (first, second):
    text, probs = answer(prompt, kept)
    new_text, new_probs = answer(prompt, processor())
    moved[prompt] = float((probs - new_probs).abs().sum() / 2)
    print(f"{prompt!r}\n  kept processor: {text}\n  new processor:  {new_text}\n"
          f"  probability moved in the first token: {moved[prompt]:.3f}")
assert moved[first] == 0 and moved[second] > .02, moved
kept = processor()
answer(first, kept)
kept.first_call, kept.aux_past_kv = True, None
assert torch.equal(answer(second, kept)[1], answer(second, processor())[1])
print("with first_call set back to True: the same as a new processor")
PY
