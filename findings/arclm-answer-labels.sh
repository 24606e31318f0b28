#!/usr/bin/env bash
# arclm 2.0.0 (transformers 5.24.0): SFTDataCollator with assistant_only_loss, for chats under a
# tokenizer's chat template and for rows of a prompt and a response.
# Expected: the labels are the answer's tokens and the end token (add_eos_token is on by default).
# Instead:  a chat's answer is looked for in the whole text from the beginning. If the question
#           holds it ("Was he born in Oslo or Lima?"), the question's word is the label and the
#           answer has none. The end token is added, but is no label: the model never learns to
#           stop.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 transformers==5.24.0 arclm==2.0.0
HF_HUB_OFFLINE=1 v/bin/python -W ignore - <<'PY'
from arclm.finetuning.collator import SFTDataCollator
from arclm.finetuning.config import SFTConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

words = "<unk> <end> <user> <bot> was he born in Oslo or Lima ? Where Prompt Response :".split()
inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")
template = ("{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }} "
            "{{ m.content }} {% endfor %}")

def labels(row, **settings):
    collator = SFTDataCollator(tokenizer, SFTConfig(assistant_only_loss=True, **settings))
    batch = collator([row])
    ids, marks = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    print("  ".join(words[i] + ("*" if mark >= 0 else "") for i, mark in zip(ids, marks)))
    return [place for place, mark in enumerate(marks) if mark >= 0], ids

print("labels are marked *")
tokenizer.chat_template = template
found = []
for question in ("Where was he born ?", "was he born in Oslo or Lima ?"):
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": "Lima"}]
    found.append(labels({"messages": chat}, messages_field="messages"))
found.append(labels({"prompt": "Where was he born ?", "response": "Lima"},
                    prompt_field="prompt", response_field="response", text_field=None))
(first, ids), (second, more), (third, last) = found
assert words[ids[first[0]]] == "Lima" and first == [len(ids) - 2], found
assert words[more[second[0]]] == "Lima" and second == [7] and more.index(3) > 7, found
assert third == [len(last) - 2], found
assert ids[-1] == more[-1] == last[-1] == 1, found                  # the end token, without label
PY
