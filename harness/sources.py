"""The data that --data names: built in, TOFU's folder, MUSE's folder, a file of rows, or texts.

Texts have the measures of MUSE (Shi et al. 2024, arXiv 2407.06460). A text is a row with an empty
question. They add two sets to those of data.py:
  retain_questions      on the texts: learned and kept with them
  forget_questions      on the texts: learned with them, but in no unlearning batch
"""
import os
import random
import re
import reprlib
import sys

import data
from harness import muse
from harness.processes import rank_and_size

SETS = ("retain", "forget", "holdout", "world")     # of a file of rows
TEXTS = SETS[:3]                                    # of a folder of texts
LONGEST = 100_000     # characters of a text: a model's context is as long as the longest row
MUSE_LONGEST = 10**7  # its documents are cut into windows

# The fields by which a set is measured, MEASURED for all others. Facts have a truth ratio by their
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
    for row in (row for some in rows.values() for row in some):
        check_row(row, MUSE_LONGEST if "verbmem" in rows else LONGEST)
    check_apart(rows)
    check_wrong_answers(rows)
    warn_of_rouge(rows)
    return {name: [{k: row[k] for k in USED.get(name, MEASURED) if k in row} for row in some]
            for name, some in rows.items()}


def says_what_to_forget(path):
    """Whether the data there has forget rows of its own, and no authors to take --forget of."""
    return os.path.isfile(path) or has_texts(path) or muse.is_folder(path)


def has_texts(folder):
    return any(os.path.exists(os.path.join(folder, name + ".txt")) for name in TEXTS)


def encode(tokenizer, rows, T):
    """The Examples to learn, of at most T tokens, by set."""
    if "verbmem" in rows:
        return muse.encode(tokenizer, rows, T)
    return {name: data.encode_rows(tokenizer, some) for name, some in rows.items()}


def longest(tokenizer, rows):
    """(length in tokens, name) of the longest question with any of its answers: the context that a
    model needs."""
    if "verbmem" in rows:
        return muse.WINDOW, "a window"
    return max((len(data.encode(tokenizer, question, answer).tokens), f"{name} row {i}")
               for name, some in rows.items() for i, row in enumerate(some, 1)
               for question in {row["question"], row.get("paraphrased_question", row["question"])}
               for answer in {row["answer"], row.get("paraphrased_answer", row["answer"]),
                              *row.get("perturbed_answer", ())})


# --------------------------------------------------------------------------- checks

def check_row(row, longest):
    """ValueError unless each field holds what it should: a text, or a list of wrong answers."""
    for field in MEASURED:
        content, is_list = row.get(field), field == "perturbed_answer"
        if field not in row or (field == "question" and not content):    # a text has no question
            continue
        where = row["where"] + f", field '{field}'" * bool(row["question"])
        if is_list and (not isinstance(content, list) or not content):
            raise ValueError(f"{where}: should be a list of texts, is {reprlib.repr(content)}")
        for text in content if is_list else [content]:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{where}: should be a text, is {reprlib.repr(text)}")
            if len(text) > longest:
                raise ValueError(f"{where}: has {len(text)} characters; at most {longest}: cut it")
            if half := re.search("[\ud800-\udfff]", text):
                raise ValueError(f"{where}: holds {half[0]!r}, one half of a character")
    right = {row["answer"], row.get("paraphrased_answer")}
    if both := right.intersection(row.get("perturbed_answer", ())):
        raise ValueError(f"{row['where']}, field 'perturbed_answer': {both.pop()[:40]!r} is the "
                         "right answer; list wrong ones")


def check_apart(rows):
    """ValueError for a row of forget or holdout that is in another set too: the retrained model, or
    every model, would know it. Retain rows and facts may repeat."""
    found = {}
    for name, some in rows.items():
        if "verbmem" in rows and name not in muse.RAW:
            continue                      # asked, not learned
        role = next((x for x in ("forget", "holdout") if name.startswith(x)), "retain")
        for row in some:
            text = tuple(" ".join(row[field].split()) for field in ASKED)
            first_role, first, where = found.setdefault(text, (role, name, row["where"]))
            if first_role != role:
                raise ValueError(f"{row['where']}: {' '.join(text).strip()[:40]!r} is in the set "
                                 f"{name}, and in {first} too ({where}): delete one of them")


def check_wrong_answers(rows):
    """ValueError if some sets that have a truth ratio have wrong answers and some have none: the
    table would lack model_utility or forget_quality, and not say why."""
    have = {name: [row for row in rows[name] if "perturbed_answer" in row]
            for name in ("forget", "retain", "world", "real_authors") if name in rows}
    for row in have.get("forget", []) + have.get("retain", []):
        if "paraphrased_answer" not in row:
            raise ValueError(f"{row['where']}: field 'paraphrased_answer' is missing; the truth "
                             "ratio compares wrong answers with it")
    first = next((row["where"] for some in have.values() for row in some), None)
    if first and (lacking := [name for name, some in have.items() if not some]):
        raise ValueError(f"{first} has perturbed_answer, but no row of the set {lacking[0]} has: "
                         "give wrong answers to rows of all these sets, or of none: "
                         f"{', '.join(have)}")


def warn_of_rouge(rows):
    """Say on stderr, in the first process, how many answers have no word that ROUGE-L counts."""
    unseen = [row["where"] for name, some in rows.items() if name != "holdout" for row in some
              if not re.search("[a-z0-9]", row["answer"].lower())]
    if unseen and rank_and_size()[0] == 0:
        print(f"warning: {unseen[0]}: the answer has no letter a-z and no digit, so ROUGE-L, "
              f"VerbMem and KnowMem are 0 for it, and for {len(unseen) - 1} more", file=sys.stderr)


# --------------------------------------------------------------------------- files

def load_file(path):
    """Sets of rows from one file, whose rows say `"set": "forget"`, retain, holdout or world.
    Without wrong answers and paraphrases there are no measures that need them."""
    rows = {name: [] for name in SETS}
    for row in data.read_rows(path):
        if row.get("set") not in SETS:
            raise ValueError(f"{row['where']}, field 'set': {reprlib.repr(row.get('set'))}; choose "
                             f"one of {', '.join(SETS)}")
        rows[row["set"]].append(row)
    for name in ("retain", "forget"):
        if not rows[name]:
            raise ValueError(f"{path}: no row says \"set\": \"{name}\"")
    return {name: some for name, some in rows.items() if some}


def text_row(text):
    return {"question": "", "answer": text}


def load_texts(folder):
    """Texts from forget.txt, retain.txt and holdout.txt, separated by blank lines, and questions on
    them from forget_questions.json and retain_questions.json: both files or neither."""
    rows = {}
    for name in TEXTS:
        path = os.path.join(folder, name + ".txt")
        texts = [text for text in re.split(r"\n\s*\n", data.read_text(path)) if text.strip()]
        if not texts:
            raise ValueError(f"{path}: no texts")
        rows[name] = [text_row(" ".join(text.split())) | {"where": f"{path}, text {i}"}
                      for i, text in enumerate(texts, 1)]
    paths = {name + "_questions": os.path.join(folder, name + "_questions.json")
             for name in ("retain", "forget")}
    if any(map(os.path.exists, paths.values())):           # only one: reading the other fails
        rows |= {name: data.read_rows(path) for name, path in paths.items()}
    return rows


# --------------------------------------------------------------------------- texts

def plain(rows):
    return [{field: row[field] for field in ASKED} for row in rows]


def mini_muse(seed, forget="forget10", authors=160):
    """A text on each author of `mini_tofu(seed)`, and the questions about it.

    A text tells the author's facts in random order, each in the words of the answer or of its
    paraphrase. So a model that knows every fact still can't tell how the text continues.
    """
    tofu, n = data.mini_tofu(seed, forget, authors), len(data.QUESTIONS)
    rng = random.Random(f"passages {seed}")                # not the seed of mini-TOFU's facts

    def texts(rows):
        sentences = [row[rng.choice(("answer", "paraphrased_answer"))] for row in rows]
        return [text_row(" ".join(rng.sample(sentences[i:i + n], n)))
                for i in range(0, len(rows), n)]

    return {**{name: texts(tofu[name]) for name in TEXTS},
            **{name + "_questions": plain(tofu[name]) for name in ("retain", "forget")},
            "world": tofu["world"]}
