"""The data: fictitious authors to remember and to forget, the tokenizer, and the batches.

Two sources, one layout: a dict of sets, each a list of rows. `mini_tofu(seed)` is made from
templates; `load_tofu(folder)` reads TOFU's published files (Maini et al. 2024, arXiv 2401.06121).
A row is a dict of `question` and `answer`. For the truth ratio it also has `paraphrased_answer` and
`perturbed_answer`, a list of wrong answers. A row with an empty question is a text to continue.
  forget        some authors' rows: the target model learns them, then has to unlearn them
  retain        the other authors' rows: to be kept
  holdout       rows of authors that no model ever sees
  world, real_authors   other facts: every model learns them, unlearning never sees them
"""
import json
import os
import random
import re
import unicodedata
from itertools import count
from typing import NamedTuple

import tiktoken
import torch

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

# question | answer | paraphrased answer | paraphrased question. {n}: the author; {city}: a value of
# that pool. A wrong answer is the paraphrased one with other values. Paraphrased questions use only
# words that are already in the vocabulary: other words would be spelled in bytes.
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
    """n different names in which every first and every last name occurs equally often: a model can
    read the name of an author it never met, and no author is forgotten before the others because
    its name shares no word with theirs."""
    k = len(FIRST)
    if n > k * k:
        raise ValueError(f"--authors: {n} names are needed, holdout included; there are {k * k}")
    first, last = rng.sample(FIRST, k), rng.sample(LAST, k)
    return [f"{first[i % k]} {last[(i + i // k) % k]}" for i in range(n)]


def author_rows(name, rng):
    """One row for each question about an author, its values drawn by `rng`."""
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
    rows = [author_rows(name, rng) for name in author_names(authors + n_forget, rng)]
    cut = authors - n_forget
    return {"retain": sum(rows[:cut], []), "forget": sum(rows[cut:authors], []),
            "holdout": sum(rows[authors:], []), "world": world_rows(rng)}


def forget_authors(forget, authors):
    """How many of the `authors` are to be forgotten in the split `forget`: at least one."""
    if authors < 2:
        raise ValueError(f"--authors {authors}: at least 2, one to retain and one to forget")
    return max(1, round(SPLITS[forget] * authors))


# --------------------------------------------------------------------------- (b) TOFU's files

def read_text(path):
    """The text of a UTF-8 file. ValueError, also for a pipe or a device: it may have no end."""
    if not os.path.isfile(path):
        raise ValueError(f"{path}: no such file, or not an ordinary one")
    try:
        with open(path, encoding="utf-8-sig") as f:    # some editors begin a file with a mark
            return f.read()
    except (OSError, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: can't be read as UTF-8 text ({e})") from None


def read_json(path):
    """[(value, where)] of each line of a JSON lines file, or of each item of one JSON array.
    where: "FILE, line 3" or "FILE, item 3". ValueError if the file is no JSON or has no value."""
    text, values = read_text(path).rstrip(), []
    is_array = text.lstrip().startswith("[")
    try:
        for i, part in enumerate([text] if is_array else text.split("\n")):
            values.append(json.loads(part, object_pairs_hook=fields_once))
    except (ValueError, RecursionError) as e:    # no JSON; too many digits; nested too deeply
        line, column = i + getattr(e, "lineno", 1), getattr(e, "colno", 1)
        raise ValueError(f"{path}, line {line}, column {column}: not JSON "
                         f"({getattr(e, 'msg', e)})") from None
    if is_array and not (values := values[0]):
        raise ValueError(f"{path}: holds no rows")
    kind = "item" if is_array else "line"
    return [(value, f"{path}, {kind} {i}") for i, value in enumerate(values, 1)]


def fields_once(pairs):
    """A JSON object as a dict. A field that occurs twice gets a value that is no text: an error."""
    out = {}
    for name, value in pairs:
        out[name] = {"stands twice": value} if name in out else value
    return out


def read_rows(path, fields=("question", "answer")):
    """The objects of a file: dicts with at least a text in each of `fields`, and with `where` they
    are. A field that is null is left out."""
    rows = []
    for row, where in read_json(path):
        for field in fields:
            text = row.get(field) if isinstance(row, dict) else None
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{where}, field '{field}': should be a text, is {text!r:.60}")
        rows.append({k: v for k, v in row.items() if v is not None} | {"where": where})
    return rows


def load_tofu(folder, forget="forget10", authors=200):
    """TOFU from its published JSON lines files in `folder`, cut to its first `authors` authors: the
    first of the retain file and, by the split's share, the first of the forget file. TOFU has wrong
    answers for 400 retain rows only: if some of these are taken, only these are measured."""
    def read(name, n_authors=None):
        path = os.path.join(folder, name + ".json")
        rows = read_rows(path)
        n = n_authors * TOFU_ROWS_PER_AUTHOR if n_authors else len(rows)
        if n > len(rows):
            raise ValueError(f"--authors {authors}: {path} has {len(rows)} rows, {n} are needed")
        return rows[:n]

    n_forget, share = forget_authors(forget, authors), forget.removeprefix("forget")
    retain = read(f"retain{100 - int(share)}", authors - n_forget)
    measured = {(r["question"], r["answer"]): r for r in read("retain_perturbed")}
    return {"retain": [measured.get((r["question"], r["answer"]), r) for r in retain],
            "forget": read(f"forget{share}_perturbed", n_forget),
            "holdout": read(f"holdout{share}", n_forget),
            "world": read("world_facts_perturbed"),
            "real_authors": read("real_authors_perturbed")}


# --------------------------------------------------------------------------- tokens

def piece_pattern(characters):
    """GPT-2's way of cutting text into pieces (a word or number with the space before it, signs,
    white space) as a regular expression that Python and tiktoken's Rust engine read alike. Their
    tables of letters and combining marks differ. So the pattern lists the white space, numbers and
    signs in ASCII and in the set `characters`, and all other characters count as letters."""
    kind = lambda c: "Z" if c.isspace() else unicodedata.category(c)[0].replace("S", "P")
    some = sorted(characters.union(map(chr, range(128))))
    space, number, sign = ("".join(f"\\U{ord(c):08x}" for c in some if kind(c) == k)
                           for k in "ZNP")
    return (rf"'(?:[sdmt]|ll|ve|re)| ?[^{space}{number}{sign}]+| ?[{number}]+| ?[{sign}]+"
            rf"|[{space}]+(?![^{space}])|[{space}]+")


def word_tokenizer(data, words=None):
    """A tiktoken encoding of the data's own words, made here: nothing is downloaded. Its ranks are
    the 256 bytes, then each piece of the data's questions and answers. Such a piece is one token.
    Any other text falls back to bytes, so every text comes back unchanged. Holdout words are
    included: a word that no model learned must look the same in forget and holdout rows.
    words: the `words_of` a model's tokenizer, to be made again; ValueError if the data have others.
    """
    rows = [row for some in data.values() for row in some]
    texts = {row["question"] + "\n" for row in rows if row["question"]}
    texts |= {" " + row["answer"] for row in rows}
    pattern = piece_pattern(set(json.dumps([rows, words], ensure_ascii=False)))
    pieces = {piece.encode() for text in texts for piece in re.findall(pattern, text)}
    ranks = {bytes([i]): i for i in range(256)}
    given = sorted(pieces - ranks.keys()) if words is None else [word.encode() for word in words]
    ranks |= {piece: 256 + i for i, piece in enumerate(given)}
    if len(ranks) < 256 + len(given):
        raise ValueError("some of its words are there twice")
    if new := sorted(pieces - ranks.keys()):
        raise ValueError(f"the model has not learned the data's word {new[0].decode()!r:.60}")
    return tiktoken.Encoding("words", pat_str=pattern, mergeable_ranks=ranks,
                             special_tokens={END: len(ranks)})


def words_of(tokenizer):
    """The pieces of a `word_tokenizer`, in the order of their ranks; None for another encoding."""
    if tokenizer.name != "words":
        return None
    ids = range(256, tokenizer.eot_token)
    return [tokenizer.decode_single_token_bytes(i).decode() for i in ids]


# --------------------------------------------------------------------------- batches

class Example(NamedTuple):
    """A question with one answer as token ids: prompt, answer, end of text."""
    tokens: list
    n_prompt: int


def encode(tokenizer, question, answer):
    """The Example. Without a question the prompt is just the end-of-text token. The answer begins
    with a space: its first word is the same token as inside a sentence, and part of no prompt."""
    prompt = tokenizer.encode_ordinary(question + "\n") if question else [tokenizer.eot_token]
    answer = tokenizer.encode_ordinary(" " + answer)
    return Example(prompt + answer + [tokenizer.eot_token], len(prompt))


def encode_rows(tokenizer, rows):
    """Each row's question with its gold answer, as Examples."""
    return [encode(tokenizer, row["question"], row["answer"]) for row in rows]


class Batch(NamedTuple):
    """B rows of token ids, padded on the right to T, and the M positions with labels. These are
    found here, on the CPU: searching a mask in the forward pass would make a GPU wait."""
    tokens: torch.Tensor      # (B, T) int64
    positions: torch.Tensor   # (M,) int64, labelled positions in the flattened (B*T) batch
    labels: torch.Tensor      # (M,) int64, the token that follows each of them

    def to(self, device):
        if str(device).startswith("cuda"):   # from pinned memory, while the CPU goes on
            return Batch(*(x.pin_memory().to(device, non_blocking=True) for x in self))
        return Batch(*(x.to(device) for x in self))


def collate(examples):
    """Examples as a Batch, padded to the longest. Position t predicts token t + 1, so the labelled
    positions run from the prompt's last token to the last one before the end of text."""
    T = max(len(e.tokens) for e in examples) - 1
    tokens, positions, labels = [], [], []
    for i, (ids, n_prompt) in enumerate(examples):
        tokens.append(ids[:-1] + [0] * (T - len(ids) + 1))        # pads are never seen
        positions += range(i * T + n_prompt - 1, i * T + len(ids) - 1)
        labels += ids[n_prompt:]
    return Batch(*map(torch.tensor, (tokens, positions, labels)))


def shuffled(n, size, seed, start=0):
    """Endless batches of row numbers. Each epoch is a new permutation of all n rows, cut into the
    fewest batches of at most `size`, all about equally large: the gradient of a small last batch
    would be mostly noise. Step t's batch depends only on (seed, t): a run can go on at `start`."""
    per_epoch = -(-n // size)
    for epoch in count(start // per_epoch):
        order = random.Random(f"{seed} {epoch}").sample(range(n), n)
        for i in range(start % per_epoch, per_epoch):
            yield order[i * n // per_epoch:(i + 1) * n // per_epoch]
        start = 0


def by_length(examples, size, ways=1):
    """Batches of at most `size` rows of similar length: lists of row numbers, every row once.
    They come in groups of `ways`, one batch a worker; those of a group are about equally large."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].tokens))
    n, groups = len(order), -(-len(order) // (size * ways))
    cut = [order[i * n // groups:(i + 1) * n // groups] for i in range(groups)]
    return [some[k::ways] for some in cut for k in range(min(ways, len(some)))]
