"""What --data names: the built-in data, TOFU's folder, a file of rows, or texts to forget.

Texts have the measures of MUSE (Shi et al. 2024, arXiv 2407.06460). A text is a row with an empty
question. Beside data.py's sets there are two more:
  retain_questions      on the texts: learned and kept with them
  forget_questions      on the texts: learned with them, but in no unlearning batch
"""
import os
import random
import re

import data
import metrics

TEXTS = ("retain", "forget", "holdout")     # the sets that are texts in a data set of texts


def load(config):
    """The sets of rows that --data names. ValueError on a mistake in a file."""
    path = config.data
    if path in ("", "muse"):
        make = mini_muse if path else data.mini_tofu
        return make(config.seed, config.forget, config.authors)
    if os.path.isfile(path):
        return load_file(path)
    if not os.path.isdir(path):
        raise ValueError(f"--data {path}: no such folder or file")
    return load_texts(path) if has_texts(path) else \
        data.load_tofu(path, config.forget, config.authors)


def says_what_to_forget(path):
    """Whether what lies there counts no authors of which --forget could take a share."""
    return os.path.isfile(path) or has_texts(path)


def has_texts(folder):
    return any(os.path.exists(os.path.join(folder, name + ".txt")) for name in TEXTS)


# --------------------------------------------------------------------------- one file of rows

SETS = ("retain", "forget", "holdout", "world")


def load_file(path):
    """Sets of rows from one JSON lines file, whose rows say `"set": "forget"`, retain, holdout or
    world. Wrong answers and paraphrases may be absent; what is measured with them is then too."""
    rows = {}
    for i, row in enumerate(data.read_rows(path, ("set", "question", "answer")), 1):
        where = f"{path}, line {i}"
        if row["set"] not in SETS:
            raise ValueError(f"{where}: set '{row['set']}': choose one of {', '.join(SETS)}")
        optional = ("paraphrased_answer", "paraphrased_question", "perturbed_answer")
        data.check_row(row, [k for k in optional if k in row], where)
        if row["set"] != "world" and "perturbed_answer" in row:     # the truth ratio needs both
            data.check_row(row, ["paraphrased_answer"], where)
        rows.setdefault(row["set"], []).append(row)
    if missing := [name for name in ("retain", "forget") if name not in rows]:
        raise ValueError(f"{path}: no row says \"set\": \"{missing[0]}\"")
    return {name: rows[name] for name in SETS if name in rows}


# --------------------------------------------------------------------------- texts

def text_row(text):
    return {"question": "", "answer": text}


def plain(rows):
    return [{field: row[field] for field in ("question", "answer")} for row in rows]


def mini_muse(seed, forget="forget10", authors=160):
    """A text on each author of `mini_tofu(seed)`, and the questions on what it says.

    A text tells the author's facts in an order of its own, each in the answer's words or in its
    paraphrase's. So a model that knows every fact still can't say how the text goes on.
    """
    tofu, n = data.mini_tofu(seed, forget, authors), len(data.QUESTIONS)
    rng = random.Random(f"passages {seed}")                # apart: the facts are mini-TOFU's

    def texts(rows):
        sentences = [row[rng.choice(("answer", "paraphrased_answer"))] for row in rows]
        return [text_row(" ".join(rng.sample(sentences[i:i + n], n)))
                for i in range(0, len(rows), n)]

    return {**{name: texts(tofu[name]) for name in TEXTS},
            **{name + "_questions": plain(tofu[name]) for name in ("retain", "forget")},
            "world": tofu["world"]}


def load_texts(folder):
    """Texts from `folder`: forget.txt, retain.txt and holdout.txt, parted by blank lines; questions
    on them from forget_questions.json and retain_questions.json, both or neither. ValueError names
    file and place of what is missing or not to be measured, and of a text that is in two files."""
    rows = {name: read_texts(os.path.join(folder, name + ".txt")) for name in TEXTS}
    found_in = {}
    for name, some in rows.items():
        for i, row in enumerate(some, 1):
            first = found_in.setdefault(row["answer"], name)
            if first != name:
                raise ValueError(f"{os.path.join(folder, name)}.txt, text {i}: "
                                 f"'{row['answer'][:40]}' is in {first}.txt too; leave it in one "
                                 "of them")
    paths = {name + "_questions": os.path.join(folder, name + "_questions.json")
             for name in ("retain", "forget")}
    if any(map(os.path.exists, paths.values())):           # one alone: the other can't be read
        for name, path in paths.items():
            rows[name] = plain(data.read_rows(path, ("question", "answer")))
    return rows


def read_texts(path):
    """The texts of one file, as rows."""
    texts = re.split(r"\n\s*\n", "\n".join(data.read_lines(path)))
    texts = [" ".join(text.split()) for text in texts if text.strip()]
    if not texts:
        raise ValueError(f"{path}: no texts")
    for i, text in enumerate(texts, 1):
        if len(re.findall("[a-z0-9]+", text.lower())) < 2:          # those that ROUGE-L counts
            raise ValueError(f"{path}, text {i}: '{text[:40]}' has not two words in a-z or 0-9, "
                             "one to begin with and one to go on")
    return [text_row(text) for text in texts]


def measure_texts(model, tokenizer, rows):
    """What a model does on texts: as `metrics.measure`, but prompted with the first half of each
    text's tokens (rounded down) and asked for as many as the second half has. `verbmem` is MUSE's,
    which prompts with a fixed number of tokens."""
    examples = data.encode_rows(tokenizer, rows)
    cut = [len(e.tokens) // 2 for e in examples]
    gold = [e.tokens[n:-1] for e, n in zip(examples, cut)]
    generated = metrics.generate(model, tokenizer, [e.tokens[:n] for e, n in zip(examples, cut)],
                                 max(map(len, gold)))
    text = lambda some: [tokenizer.decode(ids).strip() for ids in some]
    out = metrics.measure_losses(model, examples)
    out["prompts"] = text(e.tokens[1:n] for e, n in zip(examples, cut))
    out["gold"] = text(gold)
    out["answers"] = text(ids[:len(g)] for ids, g in zip(generated, gold))
    return out | {"verbmem": metrics.muse_mem(out["answers"], out["gold"])}
