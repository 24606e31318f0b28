"""What --data names: the built-in data, TOFU's folder, a file of rows, or texts to forget.

Texts have the measures of MUSE (Shi et al. 2024, arXiv 2407.06460). A text is a row with an empty
question. Beside data.py's sets there are two more:
  retain_questions      on the texts: learned and kept with them
  forget_questions      on the texts: learned with them, but in no unlearning batch
"""
import os
import random
import re
import sys
from functools import cache
from multiprocessing import parent_process

import data
import metrics
from harness import measuring, muse
from harness.processes import rank_and_size
from harness.rows import check_text, read_rows, read_text

TEXTS = ("retain", "forget", "holdout")     # the sets that are texts in a data set of texts

# The fields that a set is measured by, MEASURED for all others. Facts have a truth ratio by their
# plain answer, as in TOFU.
ASKED = ("question", "answer")
FACTS = (*ASKED, "perturbed_answer")
MEASURED = (*FACTS, "paraphrased_answer", "paraphrased_question")
USED = {"world": FACTS, "real_authors": FACTS, "holdout": ASKED, "retain_questions": ASKED,
        "forget_questions": ASKED}


def load(config):
    """The sets of rows that --data names. ValueError on a mistake in a file."""
    path = config.data
    if path in ("", "muse"):
        make = mini_muse if path else data.mini_tofu
        return make(config.seed, config.forget, config.authors)
    if not os.path.exists(path):
        raise ValueError(f"--data {path}: no such folder or file")
    if not os.path.isdir(path):
        rows = load_file(path)
    elif muse.is_folder(path):
        rows = muse.load(path, config.documents)
    elif has_texts(path):
        rows = load_texts(path)
    else:
        rows = data.load_tofu(path, config.forget, config.authors)
    check_apart(rows)
    check_wrong_answers(rows)
    warn_of_rouge(rows)
    return {name: [{k: row[k] for k in USED.get(name, MEASURED) if k in row} for row in some]
            for name, some in rows.items()}


def says_what_to_forget(path):
    """Whether what lies there counts no authors of which --forget could take a share."""
    return os.path.isfile(path) or has_texts(path) or muse.is_folder(path)


def has_texts(folder):
    return any(os.path.exists(os.path.join(folder, name + ".txt")) for name in TEXTS)


# --------------------------------------------------------------------------- checks of all sets

def encode(tokenizer, rows, T):
    """What is learned, by set: lists of Examples of at most T tokens."""
    if "verbmem" in rows:
        return muse.encode(tokenizer, rows, T)
    return {name: data.encode_rows(tokenizer, some) for name, some in rows.items()}


def longest(tokenizer, rows):
    """(the context that a model needs, name of what needs it)."""
    return (muse.WINDOW, "a window") if "verbmem" in rows else data.longest_row(tokenizer, rows)


def check_apart(rows):
    """ValueError for a row of forget or holdout that is in another set too: the retrained model,
    or every model, would know it. In retain and the facts a row may recur."""
    found = {}
    for name, some in rows.items():
        if "verbmem" in rows and name not in muse.RAW:
            continue                      # asked, not learned
        role = next((x for x in ("forget", "holdout") if name.startswith(x)), "retain")
        for row in some:
            text = tuple(" ".join(row[field].split()) for field in ("question", "answer"))
            first_role, first, where = found.setdefault(text, (role, name, row["where"]))
            if first_role != role:
                raise ValueError(f"{row['where']}: {' '.join(text).strip()[:40]!r} is in the set "
                                 f"{name}, and in {first} too ({where}): leave it in one of them")


def check_wrong_answers(rows):
    """ValueError unless every set that has a truth ratio has a row with wrong answers, or none has:
    else the table would lack model_utility or forget_quality, and not say why."""
    have = {name: [row for row in rows[name] if "perturbed_answer" in row]
            for name in ("forget", "retain", "world", "real_authors") if name in rows}
    for row in have.get("forget", []) + have.get("retain", []):
        if "paraphrased_answer" not in row:
            raise ValueError(f"{row['where']}: field 'paraphrased_answer' is missing; the truth "
                             "ratio compares wrong answers with it")
    first = next((row["where"] for some in have.values() for row in some), None)
    if first and (lacking := [name for name, some in have.items() if not some]):
        raise ValueError(f"{first} has perturbed_answer, but no row of the set {lacking[0]} has: "
                         "give some rows of every set wrong answers (holdout needs none), or none")


def warn_of_rouge(rows):
    """Say on stderr which answer ROUGE-L can't measure, the first one, and how many there are."""
    unseen = [row for name, some in rows.items() if name != "holdout" for row in some
              if not seen_by_rouge(row)]
    if unseen:
        note(f"warning: {unseen[0]['where']}: {unseen[0]['answer'][:40]!r}: ROUGE-L, VerbMem and "
             "KnowMem count words in a-z and 0-9 alone, so they will be 0, or nearly, for this "
             f"answer and {len(unseen) - 1} more, whatever a model says")


def seen_by_rouge(row):
    """Whether an answer is mostly of what `metrics.rouge_l` counts, and long enough: a text has a
    first half, which is given, and a second."""
    text = row["answer"].lower()
    counted, letters = re.findall("[a-z0-9]+", text), sum(map(str.isalnum, text))
    return len(counted) >= (1 if row["question"] else 2) and 2 * len("".join(counted)) >= letters


@cache          # once, however often a command reads the same data
def note(line):
    """A line on stderr, from the process that the user started and no other."""
    if parent_process() is None and rank_and_size()[0] == 0:
        print(line, file=sys.stderr)


# --------------------------------------------------------------------------- one file of rows

SETS = ("retain", "forget", "holdout", "world")


def load_file(path):
    """Sets of rows from one file, whose rows say `"set": "forget"`, retain, holdout or world. Wrong
    answers and paraphrases may be absent; what is measured with them is then too."""
    rows = {}
    for row in read_rows(path, ("set", *ASKED)):
        if row["set"] not in SETS:
            raise ValueError(f"{row['where']}, field 'set': {row['set'][:40]!r}; choose one of "
                             f"{', '.join(SETS)}")
        rows.setdefault(row["set"], []).append(row)
    if missing := [name for name in ("retain", "forget") if name not in rows]:
        raise ValueError(f"{path}: no row says \"set\": \"{missing[0]}\"")
    return {name: rows[name] for name in SETS if name in rows}


# --------------------------------------------------------------------------- texts

def text_row(text):
    return {"question": "", "answer": text}


def plain(rows):
    return [{field: row[field] for field in ASKED} for row in rows]


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
    file and place of what is missing or not to be used."""
    rows = {name: read_texts(os.path.join(folder, name + ".txt")) for name in TEXTS}
    paths = {name + "_questions": os.path.join(folder, name + "_questions.json")
             for name in ("retain", "forget")}
    if any(map(os.path.exists, paths.values())):           # one alone: the other can't be read
        for name, path in paths.items():
            rows[name] = read_rows(path, ASKED)
    return rows


def read_texts(path):
    """The texts of one file, as rows."""
    texts = [text for text in re.split(r"\n\s*\n", read_text(path)) if text.strip()]
    if not texts:
        raise ValueError(f"{path}: no texts")
    rows = []
    for i, text in enumerate(texts, 1):
        where = f"{path}, text {i}"
        check_text(text, where)
        rows.append(text_row(" ".join(text.split())) | {"where": where})
    return rows


def measure_texts(model, tokenizer, rows):
    """What a model does on texts: as `measuring.measure`, but prompted with the first half of each
    text's tokens (rounded down) and asked for as many as the second half has. `verbmem` is MUSE's,
    which prompts with a fixed number of tokens."""
    examples = data.encode_rows(tokenizer, rows)
    cut = [len(e.tokens) // 2 for e in examples]
    gold = [e.tokens[n:-1] for e, n in zip(examples, cut)]
    generated = measuring.generate(model, tokenizer, [e.tokens[:n] for e, n in zip(examples, cut)],
                                 max(map(len, gold)))
    text = lambda some: [tokenizer.decode(ids).strip() for ids in some]
    out = measuring.measure_losses(model, examples)
    out["prompts"] = text(e.tokens[1:n] for e, n in zip(examples, cut))
    out["gold"] = text(gold)
    out["answers"] = text(ids[:len(g)] for ids, g in zip(generated, gold))
    return out | {"verbmem": metrics.muse_mem(out["answers"], out["gold"])}
