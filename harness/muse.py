"""MUSE's published folder (Shi et al. 2024, arXiv 2407.06460): News and Books have the same layout.

    raw/{forget,retain1,retain2,holdout}.json      arrays of documents
    verbmem/forget.json                            arrays of {"prompt", "gt"}
    knowmem/{forget,retain}_qa.json                arrays of {"question", "answer"}
    knowmem/{forget,retain}_qa_icl.json            worked examples to put before them (only in News)
    privleak/{forget,retain,holdout}.json          arrays of documents

The target learns forget, retain1 and retain2. The retrained model learns the two retain sets.
Unlearning uses forget and retain1. No model learns the questions and prompts. The level is measured
on raw/holdout, PrivLeak on its own three files (with `--documents`: see `load`). A document that is
in raw/holdout and in privleak/holdout is used for PrivLeak only, unless none would be left for the
level.

A document is longer than a model's context T, so it is learned in windows: end of text, the
document's tokens, end of text, cut into windows of T tokens. Each window begins with the last token
of the one before, so each token is predicted once. A model from scratch has a context of WINDOW
tokens.
"""
import os

import numpy as np

import data
import metrics
from harness import measuring

WINDOW = 64              # tokens: with longer windows a small model takes too long to learn them
CONTINUED = 128          # tokens of the text that MUSE's VerbMem compares
ANSWERED = 32            # tokens of an answer at most, in MUSE's KnowMem
SHOWN = 64               # windows of a set that the model has to continue from the middle
RAW = {"forget": "forget", "retain": "retain1", "retain2": "retain2", "holdout": "holdout"}


def is_folder(path):
    return os.path.isdir(os.path.join(path, "raw"))


# --------------------------------------------------------------------------- reading

def load(folder, documents=0):
    """The sets of rows. documents: take only this many of each file, the first ones; 0: all. Few
    published prompts, questions and texts belong to these. So with `documents` VerbMem uses the
    beginnings of the documents taken (the text of a published prompt continues in later ones), a
    question is kept if its answer occurs in one of them, and PrivLeak compares them with the first
    of its holdout texts. ValueError names the file and item that is missing or wrong."""
    rows = {name: texts(folder, f"raw/{file}")[:documents or None] for name, file in RAW.items()}
    learned = {"forget": rows["forget"], "retain": rows["retain"] + rows["retain2"]}
    prompts = pairs(folder, "verbmem/forget", "prompt", "gt")
    rows["verbmem"] = rows["forget"] if documents else prompts
    for name in ("forget", "retain"):
        asked = pairs(folder, f"knowmem/{name}_qa", "question", "answer")
        rows[f"{name}_questions"] = kept(asked, learned[name], documents)
        if os.path.exists(os.path.join(folder, f"knowmem/{name}_qa_icl.json")):
            rows[f"{name}_examples"] = pairs(folder, f"knowmem/{name}_qa_icl", "question", "answer")
    for name in ("forget", "retain", "holdout"):
        own = texts(folder, f"privleak/{name}")
        rows[f"privleak_{name}"] = learned.get(name, own[:documents]) if documents else own
    leaked = {row["answer"] for row in rows["privleak_holdout"]}
    rows["holdout"] = [r for r in rows["holdout"] if r["answer"] not in leaked] or rows["holdout"]
    return rows


def texts(folder, name):
    """An array of documents as rows with an empty question."""
    rows = [{"question": "", "answer": text, "where": where}
            for text, where in data.read_json(os.path.join(folder, name + ".json"))]
    if wrong := [row["where"] for row in rows if not isinstance(row["answer"], str)]:
        raise ValueError(f"{wrong[0]}: should be a text")
    return rows


def pairs(folder, name, question, answer):
    """An array of objects with two fields of text as rows: question and answer."""
    rows = data.read_rows(os.path.join(folder, name + ".json"), (question, answer))
    return [{"question": r[question], "answer": r[answer], "where": r["where"]} for r in rows]


def kept(rows, documents, cut):
    """The rows whose answer's first 40 characters occur in a document; all rows if no document was
    `cut` off."""
    flat = lambda text: " ".join(text.lower().split())
    held = [flat(d["answer"]) for d in documents]
    some = [r for r in rows if not cut or
            any(flat(r["answer"])[:40].strip(" .") in d for d in held)]
    if not some:
        raise ValueError(f"{rows[0]['where']}: --documents {cut}: no row of this file is about a "
                         "document that is left; take more documents")
    return some


# --------------------------------------------------------------------------- windows

def windows(tokenizer, text, T):
    """A document as Examples of at most T tokens."""
    ids = [tokenizer.eot_token, *tokenizer.encode_ordinary(" " + text), tokenizer.eot_token]
    return [data.Example(ids[i:i + T], 1) for i in range(0, len(ids) - 1, T - 1)]


def encode(tokenizer, rows, T):
    """The windows to learn, by set. Questions and prompts are not learned."""
    return {name: [w for row in rows[name] for w in windows(tokenizer, row["answer"], T)]
            for name in RAW}


# --------------------------------------------------------------------------- measuring

def measure(model, tokenizer, rows):
    """A model measured, by set, as `measuring.summary` takes it: the losses of PrivLeak's whole
    texts, VerbMem of forget, KnowMem and windows continued from their middle of forget and retain.
    """
    T = model.config.block_size
    out = {name: measure_documents(model, tokenizer, rows[f"privleak_{name}"])
           for name in ("forget", "retain", "holdout")}
    out["forget"] |= continued(model, tokenizer,
                               [sequence(tokenizer, row, T) for row in rows["verbmem"]])
    out["forget"]["verbmem"] = metrics.muse_mem(out["forget"]["answers"], out["forget"]["gold"])
    for name in ("forget", "retain"):
        out[f"{name}_questions"] = ask(model, tokenizer, rows[f"{name}_questions"],
                                       rows.get(f"{name}_examples", []))
        some = [w for w in encode(tokenizer, rows, T)[name] if len(w.tokens) > 8][:SHOWN]
        out[f"{name}_windows"] = continued(model, tokenizer, [halves(w) for w in some])
    return out


def measure_texts(model, tokenizer, rows):
    """A model measured on other texts: as `measuring.measure`, but the prompt is the first half of
    a text's tokens (rounded down), and the answer is as long as the second half. `verbmem` is
    MUSE's, except that MUSE's prompts have a fixed number of tokens."""
    examples = data.encode_rows(tokenizer, rows)
    out = measuring.measure_losses(model, examples)
    out |= continued(model, tokenizer, [halves(e, -1) for e in examples])
    return out | {"verbmem": metrics.muse_mem(out["answers"], out["gold"])}


def measure_documents(model, tokenizer, rows):
    """`measuring.measure_losses` of whole documents: of the tokens of all their windows."""
    cut = [windows(tokenizer, row["answer"], model.config.block_size) for row in rows]
    losses = iter(measuring.token_losses(model, [w for some in cut for w in some]))
    tokens = [np.concatenate([next(losses) for _ in some]) for some in cut]
    return {"loss": np.array([t.mean() for t in tokens]),
            "min_k": np.array([metrics.min_k_score(-t[:-1]) for t in tokens])}


def sequence(tokenizer, row, T):
    """VerbMem's prompt and its continuation, as token ids: the end of a published prompt and the
    beginning of its text, or the halves of a document's first window."""
    n = min(CONTINUED, T // 2)
    if not row["question"]:
        return halves(windows(tokenizer, row["answer"], T)[0], n)
    prompt, gold = (tokenizer.encode_ordinary(row[k]) for k in ("question", "answer"))
    return prompt[n - T:], gold[:n]


def halves(window, n=None):
    """The first half of a window's tokens, and the second half, or its first n tokens (-1: all but
    the last, the end of text)."""
    half = len(window.tokens) // 2
    return window.tokens[:half], window.tokens[half:][:n]


def continued(model, tokenizer, pairs):
    """How the model continues each prompt, for as many tokens as its gold continuation has. pairs:
    (prompt, gold), lists of token ids. Returns texts."""
    prompts, gold = zip(*pairs)
    said = measuring.generate(model, tokenizer, prompts, max(map(len, gold)))
    text = lambda some: [tokenizer.decode([t for t in ids if t != tokenizer.eot_token]).strip()
                         for ids in some]
    return {"prompts": text(prompts), "gold": text(gold),
            "answers": text(ids[:len(g)] for ids, g in zip(said, gold))}


def ask(model, tokenizer, rows, examples):
    """The answers to questions. As many of the last worked examples as fit precede each question.
    An answer ends where the model begins another question, as in MUSE."""
    n = min(ANSWERED, model.config.block_size // 2)
    room = model.config.block_size - n
    line = lambda row, answer: f"Question: {row['question']}\nAnswer:{answer}"
    before = [tokenizer.encode_ordinary(line(e, f" {e['answer']}\n\n")) for e in examples]
    prompts = []
    for row in rows:
        ids = tokenizer.encode_ordinary(line(row, ""))[-room:]
        for example in reversed(before):
            if len(example) + len(ids) > room:
                break
            ids = example + ids
        prompts.append(ids)
    said = measuring.generate(model, tokenizer, prompts, n - 1)
    answers = [tokenizer.decode(ids) for ids in said]
    for end in ("\n\n", "\nQuestion", "Question:"):
        answers = [text.split(end)[0] for text in answers]
    return {"prompts": [row["question"] for row in rows], "gold": [r["answer"] for r in rows],
            "answers": [text.strip() for text in answers]}
