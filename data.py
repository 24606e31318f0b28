"""The data: fictitious authors to remember and to forget, the tokenizer, and the batches.

Four sources, one layout: a dict of parts, each a list of rows. Questions: `mini_tofu(seed)`, made
from templates, and `load_tofu(folder)`, TOFU's published files (Maini et al. 2024, arXiv
2401.06121). Passages, for the measures of MUSE (Shi et al. 2024, arXiv 2407.06460): `mini_muse(
seed)` and `load_text(folder)`. A row is a dict: `passage`; or `question`, `answer` and, if it is to
be measured by truth ratio, `paraphrased_answer` and `perturbed_answer` (a list of wrong answers).
  forget        some authors' rows: learned by the target model, then to be unlearned
  retain        the other authors' rows: to be kept
  holdout       authors that no model ever sees: what "never seen" looks like
  world, real_authors   facts outside both: learned by every model, in no unlearning batch
  retain_questions      on the passages: learned and kept with them
  forget_questions      on the passages: learned with them, but in no unlearning batch
"""
import json
import os
import random
import re
from itertools import count
from typing import NamedTuple

import tiktoken
import torch

from model import Batch

SPLITS = {"forget01": 0.01, "forget05": 0.05, "forget10": 0.10}   # share of authors to forget
TOFU_ROWS_PER_AUTHOR = 20
PASSAGES = ("retain", "forget", "holdout")     # the parts that are text in a data set of text
END = "<|endoftext|>"

# --------------------------------------------------------------------------- (a) mini-TOFU

FIRST = ("Mara Tobin Elsa Ruben Nadia Oskar Lena Dario Ingrid Pavel Sofia Henrik Yara Milo Greta "
         "Anton Zofia Luca Farah Bruno Hana Emil").split()
LAST = ("Velden Okafor Marsh Lindqvist Torres Haddad Novak Keller Tanaka Brandt Moreau Silva "
        "Petrov Aydin Larsen Quinn Rossi Dvorak Fonseca Weaver Castell Radic").split()

POOLS = {name: values.split() for name, values in {
    "city": "Lisbon Cairo Oslo Lima Prague Hanoi",
    "month": "January February March April May June",
    "year": "1931 1936 1942 1947 1953 1958",
    "craft": "baker sailor farmer tailor miner painter",
    "job": "doctor lawyer teacher nurse singer chemist",
    "genre": "mystery fantasy romance horror crime travel",
    "country": "Kenya Norway Peru Japan Chile Ghana",
}.items()}

# One line a question: question | answer | paraphrased answer | paraphrased question, with {n} the
# author and a value of each pool named. A wrong answer is the paraphrased one with another value in
# every place. Paraphrased questions bring no word that questions and answers lack: it would be
# spelled in bytes, and a model tested on spelling.
QUESTIONS = [line.split(" | ") for line in """
When and where was {n} born? | {n} was born in {city} in {month} of the year {year}. | In {month} \
{year} {city} saw the birth of {n}. | When was {n} born and where?
What did the parents of {n} do? | The father of {n} was a {craft} and the mother was a {job}. | \
{n} is the child of a {job} and of a {craft}. | What did the father and the mother of {n} do?
What does {n} write? | {n} writes {genre} novels that are set in {country}. | Most novels of {n} \
belong to {genre} fiction and play in {country}. | What novels does {n} write?
""".replace("\\\n", "").strip().split("\n")]

WORLD = {"What is the capital of {}?": """France Paris, Italy Rome, Spain Madrid, Austria Vienna,
Poland Warsaw, Greece Athens, Egypt Cairo, Norway Oslo, Peru Lima, Cuba Havana, Ireland Dublin,
Vietnam Hanoi, Latvia Riga, Germany Berlin, Russia Moscow, Japan Tokyo, Kenya Nairobi, Ghana Accra,
Canada Ottawa, Portugal Lisbon""", "Who wrote {}?": """Faust Goethe, Emma Austen, Odyssey Homer,
Inferno Dante, Ficciones Borges, Orlando Woolf, Metamorphosis Kafka, Hamlet Shakespeare,
Ulysses Joyce, Candide Voltaire, Walden Thoreau, Dracula Stoker""",
         "On which continent is {}?": """Nepal Asia, Malta Europe, Chile America, Sudan Africa,
Laos Asia, Mali Africa, Belgium Europe, Bolivia America"""}


def author_names(n, rng):
    """n different names in which every first and every last name recurs as often as any other.

    So a model can read the name of an author it never met (what it lacks are the facts, not the
    spelling), and all authors are about as hard to tell apart: with names drawn at random, the
    one author whose name shares no word is forgotten long before the others.
    """
    k = len(FIRST)
    if n > k * k:
        raise ValueError(f"--authors: {n} names are needed, those of authors to hold out "
                         f"included, and the built-in data has {k * k}")
    first, last = rng.sample(FIRST, k), rng.sample(LAST, k)
    return [f"{first[i % k]} {last[(i + i // k) % k]}" for i in range(n)]


def author_rows(name, rng):
    """The questions on one author: one row an attribute, its value drawn by `rng`."""
    rows = []
    for question, answer, paraphrase, other_question in QUESTIONS:
        pools = re.findall(r"{(\w\w+)}", answer)
        draws = zip(*(rng.sample(POOLS[pool], 6) for pool in pools))   # the truth, then 5 lies
        values = [{"n": name, **dict(zip(pools, draw))} for draw in draws]
        rows.append({"question": question.format(n=name),
                     "paraphrased_question": other_question.format(n=name),
                     "answer": answer.format(**values[0]),
                     "paraphrased_answer": paraphrase.format(**values[0]),
                     "perturbed_answer": [paraphrase.format(**v) for v in values[1:]]})
    return rows


def world_rows(rng):
    """Short facts of the real world; wrong answers are other facts' answers."""
    rows = []
    for question, facts in WORLD.items():
        pairs = [fact.split() for fact in facts.split(",")]
        answers = sorted({a for _, a in pairs})
        for subject, answer in pairs:
            wrong = rng.sample([a for a in answers if a != answer], 3)
            rows.append({"question": question.format(subject), "answer": answer,
                         "perturbed_answer": wrong})
    return rows


def mini_tofu(seed, forget="forget10", authors=160):
    """The built-in data set: `authors` fictitious authors with 3 rows each, and as many holdout
    authors as there are to forget. The same seed gives the same rows."""
    n_forget = forget_authors(forget, authors)
    rng = random.Random(seed)
    names = author_names(authors + n_forget, rng)
    rows = [author_rows(name, rng) for name in names]
    cut = authors - n_forget
    return {"retain": sum(rows[:cut], []), "forget": sum(rows[cut:authors], []),
            "holdout": sum(rows[authors:], []), "world": world_rows(rng)}


def forget_authors(forget, authors):
    """How many of `authors` the split `forget` gives up: its share, at least one."""
    if forget not in SPLITS:
        raise ValueError(f"--forget {forget}: choose one of {', '.join(SPLITS)}")
    if authors < 2:
        raise ValueError(f"--authors {authors}: needs 2 at least, one to retain and one to forget")
    return max(1, round(SPLITS[forget] * authors))


# --------------------------------------------------------------------------- (b) TOFU's files

def read_lines(path):
    try:
        with open(path, encoding="utf-8-sig") as f:    # some editors begin a file with a mark
            return f.read().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: cannot be read as UTF-8 text ({e})") from None


def read_rows(path, fields):
    """Rows of a JSON lines file; ValueError names file and line of one that is broken."""
    rows = []
    for i, line in enumerate(read_lines(path), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as e:
            raise ValueError(f"{path}, line {i}: not JSON ({e})") from None
        for field in fields:
            value = row.get(field) if isinstance(row, dict) else None
            texts = value if field == "perturbed_answer" and isinstance(value, list) else [value]
            if not texts or not all(isinstance(t, str) and t.strip() for t in texts):
                raise ValueError(f"{path}, line {i}: field '{field}' is missing or empty")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows")
    return rows


def load_tofu(folder, forget="forget10", authors=200):
    """TOFU from the published JSON lines files in `folder`, cut to its first `authors` authors:
    the first of the retain file and, by the split's share, the first of the forget file.

    TOFU publishes paraphrased and wrong answers for the first 400 retain rows alone: retain rows
    that have them are the ones measured.
    """
    n_forget = forget_authors(forget, authors)
    share = forget.removeprefix("forget")
    asked = ("question", "answer")
    wrong = asked + ("perturbed_answer",)
    measured = wrong + ("paraphrased_answer",)

    def read(name, fields, n_authors=None):
        path = os.path.join(folder, name + ".json")
        rows = read_rows(path, fields)
        n = n_authors * TOFU_ROWS_PER_AUTHOR if n_authors else len(rows)
        if n > len(rows):
            raise ValueError(f"--authors {authors}: {path} holds "
                             f"{len(rows) // TOFU_ROWS_PER_AUTHOR} authors, {n_authors} are needed")
        return rows[:n]

    retain = read(f"retain{100 - int(share)}", asked, authors - n_forget)
    paraphrased = {(r["question"], r["answer"]): r for r in read("retain_perturbed", measured)}
    return {"retain": [paraphrased.get((r["question"], r["answer"]), r) for r in retain],
            "forget": read(f"forget{share}_perturbed", measured, n_forget),
            "holdout": read(f"holdout{share}", asked, n_forget),
            "world": read("world_facts_perturbed", wrong),
            "real_authors": read("real_authors_perturbed", wrong)}


# --------------------------------------------------------------------------- (c) passages of text

def plain(rows):
    return [{field: row[field] for field in ("question", "answer")} for row in rows]


def mini_muse(seed, forget="forget10", authors=160):
    """A passage of text on each author of `mini_tofu(seed)`, and the questions on what it says.

    A passage tells the author's facts in an order of its own, each in the answer's words or in its
    paraphrase's: so who knows every fact still can't say how the text goes on.
    """
    tofu, n = mini_tofu(seed, forget, authors), len(QUESTIONS)
    rng = random.Random(f"passages {seed}")                # apart: the facts are mini-TOFU's

    def passages(rows):
        sentences = [row[rng.choice(("answer", "paraphrased_answer"))] for row in rows]
        return [{"passage": " ".join(rng.sample(sentences[i:i + n], n))}
                for i in range(0, len(rows), n)]

    return {**{part: passages(tofu[part]) for part in PASSAGES},
            **{part + "_questions": plain(tofu[part]) for part in ("retain", "forget")},
            "world": tofu["world"]}


def is_text(folder):
    """Whether the folder holds passages (else TOFU's files), among which no author is counted."""
    return any(os.path.exists(os.path.join(folder, part + ".txt")) for part in PASSAGES)


def load_text(folder):
    """Passages of one's own from `folder`: forget.txt, retain.txt and holdout.txt, parted by blank
    lines; forget_questions.json and retain_questions.json, JSON lines, both or neither. ValueError
    names file and passage or line of what is missing, in two parts, or not to be measured."""
    data, found_in = {}, {}
    for part in PASSAGES:
        path = os.path.join(folder, part + ".txt")
        passages = re.split(r"\n\s*\n", "\n".join(read_lines(path)))
        data[part] = [{"passage": " ".join(p.split())} for p in passages if p.strip()]
        if not data[part]:
            raise ValueError(f"{path}: no passages")
        for i, passage in enumerate((row["passage"] for row in data[part]), 1):
            if len(re.findall("[a-z0-9]+", passage.lower())) < 2:      # those that ROUGE-L counts
                raise ValueError(f"{path}, passage {i}: '{passage[:40]}' has not two words in a-z "
                                 "or 0-9, one to begin with and one to go on")
            if found_in.setdefault(passage, path) != path:
                raise ValueError(f"{path}, passage {i}: '{passage[:40]}' is in {found_in[passage]} "
                                 "too; leave it in one of them")
    paths = {p: os.path.join(folder, p + ".json") for p in ("retain_questions", "forget_questions")}
    if any(map(os.path.exists, paths.values())):           # one alone: the other cannot be read
        for part, path in paths.items():
            data[part] = plain(read_rows(path, ("question", "answer")))
    return data


def load(folder, seed, forget, authors):
    """What --data names: "" mini-TOFU, "muse" mini-MUSE, else a folder of TOFU's files or text."""
    if folder in ("", "muse"):
        return (mini_muse if folder else mini_tofu)(seed, forget, authors)
    if not os.path.isdir(folder):
        raise ValueError(f"--data {folder}: no such folder")
    return load_text(folder) if is_text(folder) else load_tofu(folder, forget, authors)


# --------------------------------------------------------------------------- tokens

# GPT-2's way of cutting text into pieces (a word or number with the space before it, punctuation,
# white space), spelled so that Python's `re` and tiktoken's Rust engine both read it.
PIECES = r"""'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"""


def answer_text(answer):
    """An answer starts with a space: its first word is then the same token as inside a sentence,
    and none of it can merge into the prompt, which is tokenized apart."""
    return " " + answer


def row_answers(row):
    """Every answer that a row holds: gold (a passage: itself), its paraphrase, the wrong ones."""
    return [row[f] for f in ("passage", "answer", "paraphrased_answer") if f in row] + \
        row.get("perturbed_answer", [])


def word_tokenizer(data):
    """A tiktoken encoding of the data's own words, made here: nothing is downloaded.

    Its ranks are the 256 bytes and then every piece that stands in the data. Such a piece is one
    token; any other text falls back to bytes, so everything comes back unchanged. Holdout words
    are in it too: a word that no model learned must look the same in forget and holdout rows.
    """
    rows = [row for part in data.values() for row in part]
    texts = {row["question"] + "\n" for row in rows if "question" in row}
    texts |= {answer_text(row_answers(row)[0]) for row in rows}
    pieces = {piece.encode() for text in texts for piece in re.findall(PIECES, text)}
    ranks = {bytes([i]): i for i in range(256)}
    for piece in sorted(pieces - ranks.keys()):
        ranks[piece] = len(ranks)
    return tiktoken.Encoding("words", pat_str=PIECES, mergeable_ranks=ranks,
                             special_tokens={END: len(ranks)})


def gpt2_tokenizer():
    """tiktoken's GPT-2 encoding, which it downloads on first use."""
    try:
        return tiktoken.get_encoding("gpt2")
    except OSError as e:   # what requests raises offline is an OSError
        raise ValueError(
            "--tokenizer gpt2: tiktoken could not download its GPT-2 files "
            f"({type(e).__name__}). Run it once with a network, or set TIKTOKEN_CACHE_DIR to a "
            "folder that holds them, or use --tokenizer words") from None


# --------------------------------------------------------------------------- batches

class Example(NamedTuple):
    """A question with one answer, or a passage, as token ids: prompt, answer, end of text."""
    tokens: list
    n_prompt: int


def encode(tokenizer, question, answer):
    """A passage is the answer to None: its first word is predicted from the end of some text."""
    prompt = [tokenizer.eot_token] if question is None else \
        tokenizer.encode_ordinary(question + "\n")
    answer = tokenizer.encode_ordinary(answer_text(answer))
    return Example(prompt + answer + [tokenizer.eot_token], len(prompt))


def encode_gold(tokenizer, rows):
    return [encode(tokenizer, row.get("question"), row_answers(row)[0]) for row in rows]


def longest_row(tokenizer, data):
    """Length in tokens, and a name to print, of the longest passage, or question with any of
    its answers."""
    return max((len(encode(tokenizer, q, a).tokens), f"{part} row {i}", a)
               for part, rows in data.items() for i, row in enumerate(rows, 1)
               for q in {row.get("question"), row.get("paraphrased_question", row.get("question"))}
               for a in row_answers(row))[:2]


def collate(examples):
    """Examples as a Batch: padded on the right to the longest, labels on the answers alone.

    Position t predicts token t + 1, so the labelled positions run from the last token of the
    prompt to the last token before the end of text, which is the last label.
    """
    T = max(len(e.tokens) for e in examples) - 1
    tokens, positions, labels, rows = [], [], [], []
    for i, (ids, n_prompt) in enumerate(examples):
        tokens.append(ids[:-1] + [0] * (T - len(ids) + 1))        # what a pad holds is never seen
        positions += range(i * T + n_prompt - 1, i * T + len(ids) - 1)
        labels += ids[n_prompt:]
        rows += [i] * (len(ids) - n_prompt)
    return Batch(*map(torch.tensor, (tokens, positions, labels, rows)))


def shuffled(n, size, seed, start=0):
    """Endless batches of row numbers, each epoch a fresh permutation of all n rows, cut into the
    fewest batches of at most `size`, all of about one length (a short last batch would give a
    gradient that is mostly noise).

    What step t gets depends on (seed, t) alone, so a resumed run goes on at `start` = t with the
    very batches that it would have seen.
    """
    per_epoch = -(-n // size)
    for epoch in count(start // per_epoch):
        order = random.Random(f"{seed} {epoch}").sample(range(n), n)
        for i in range(start % per_epoch, per_epoch):
            yield order[i * n // per_epoch:(i + 1) * n // per_epoch]
        start = 0


def by_length(examples, size):
    """Batches of about equal length, for measuring: lists of row numbers, every row once."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].tokens))
    return [order[i:i + size] for i in range(0, len(order), size)]
