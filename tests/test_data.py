"""data.py: what is learned, what is labelled, which rows a batch has, which files are refused."""
import json
import os
import random
import re
import sys
import unicodedata
from collections import Counter
from itertools import islice

import pytest

import data
from data import collate, encode, encode_rows, mini_tofu, shuffled, word_tokenizer


@pytest.fixture(scope="module")
def mini():
    rows = mini_tofu(seed=7)
    return rows, word_tokenizer(rows)


# ---- mini-TOFU

def names(rows):
    return {re.search(r"([A-Z]\w+ [A-Z]\w+)", r["question"].split(" ", 1)[1])[1] for r in rows}


def test_the_parts_have_the_promised_sizes_and_share_no_author(mini):
    rows, _ = mini
    assert {k: len(v) for k, v in rows.items()} == {
        "retain": 432, "forget": 48, "holdout": 48, "world": 40}
    retain, forget, holdout = (names(rows[k]) for k in ("retain", "forget", "holdout"))
    assert (len(retain), len(forget), len(holdout)) == (144, 16, 16)
    assert not retain & forget and not (retain | forget) & holdout
    words = lambda some: {w for name in some for w in name.split()}
    assert words(forget) <= words(retain), "an unmet author's name can still be read"
    for forget, authors, n in (("forget01", 160, 2), ("forget05", 160, 8), ("forget01", 2, 1)):
        assert len(names(mini_tofu(1, forget, authors)["forget"])) == n, "a share, one at least"


def test_the_same_seed_gives_the_same_rows_and_another_one_others():
    assert mini_tofu(3) == mini_tofu(3)
    for part in ("retain", "forget", "holdout"):
        assert names(mini_tofu(3)[part]) != names(mini_tofu(4)[part])
    assert mini_tofu(3)["world"] != mini_tofu(4)["world"], "other wrong answers"


def test_names_are_different_and_use_every_word_equally_often():
    some = data.author_names(484, random.Random(0))
    words = Counter(word for name in some for word in name.split())
    assert len(set(some)) == 484 and len(words) == 44 and set(words.values()) == {22}
    with pytest.raises(ValueError, match="--authors.* 484"):
        mini_tofu(0, authors=484)                      # the holdout authors need names too
    with pytest.raises(ValueError, match="--authors 1"):
        mini_tofu(0, authors=1)


def test_every_wrong_answer_differs_from_the_truth_in_every_fact(mini):
    for part in ("retain", "forget", "holdout"):
        for row in mini[0][part]:
            assert len(set(row["perturbed_answer"])) == 5
            truth = row["paraphrased_answer"].split()
            for wrong in row["perturbed_answer"]:
                differ = sum(a != b for a, b in zip(truth, wrong.split()))
                assert len(truth) == len(wrong.split()) and differ >= 2
    for row in mini[0]["world"]:
        assert row["answer"] not in row["perturbed_answer"]
        assert len(set(row["perturbed_answer"])) == 3
    world = {row["question"]: row["answer"] for row in mini[0]["world"]}
    assert world["What is the capital of Peru?"] == "Lima"


# ---- tokens

@pytest.mark.parametrize("text", [
    "Mara Velden was born in Lisbon.", " leading, trailing ", "tabs\t\tand\n\nlines\r\n", "",
    "naïve café — “quotes” … ½ ² Ⅷ", "日本語のテスト", "👩‍👩‍👧 🇳🇴", "a\u0301 \u202e \ufeff", "it's they'll",
    "snake_case __x__ 3.14 1,000", "\x00\x07\x7f",
    "ﷺ \U0001f9ff \U000e0001 \U0010ffff", END := "<|endoftext|>",
    "".join(c for c in map(chr, range(0x30000)) if not 0xD800 <= ord(c) < 0xE000)],
    ids=lambda text: ascii(text[:20]))
def test_any_text_comes_back_unchanged(mini, text):
    """Also one of characters that the data have not. The last case is all code points."""
    assert mini[1].decode(mini[1].encode_ordinary(text)) == text


nfd = lambda text: unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("pieces", [
    "Zoé| déjà| naïve|.", nfd("Zoé| déjà| naïve|."), "हिन्दी| में| किताबें|।",
    "كَتَبَ| الطَّالِبُ|،| دَرْسًا",
    "می‌خواهم| بروم", "สวัสดี| ที่นี่", "שָׁלוֹם|־|עוֹלָם", nfd("한국어| 서울"), "他生于|1958|年|。",
    "Καλημέρα|·| κόσμε", "Росси\u0301я| и", "தமிழ்| நாடு", "១៩៥៨| ١٩٥٨| १९५८½| –",
    "it|'s| snake|_|case|   \u2029|\u3000|x|\t|y"], ids=ascii)
def test_a_piece_of_the_data_is_one_token_in_every_script(pieces):
    """In Hindi, Thai or decomposed French a word has combining marks."""
    text, pieces = pieces.replace("|", ""), pieces.split("|")
    tokenizer = word_tokenizer({"retain": [{"question": text, "answer": text}]})
    ids = tokenizer.encode_ordinary(text)
    assert [tokenizer.decode([i]) for i in ids] == pieces and tokenizer.decode(ids) == text


def test_python_and_tiktoken_find_the_same_pieces_in_texts_of_any_characters():
    """Letters, marks, digits, signs, spaces, controls, unassigned ones: each piece is one token."""
    kinds, rng = {}, random.Random(0)
    for c in rng.sample(range(sys.maxunicode + 1), 100_000):
        kinds.setdefault(unicodedata.category(chr(c)), []).append(chr(c))
    del kinds["Cs"]                                                # half characters are no text
    for _ in range(40):
        pool = [rng.choice(some) for some in kinds.values()] + list("a's \n\r\x1c\x85\xa0\u200b")
        text = "".join(rng.choices(pool, k=300))
        tokenizer = word_tokenizer({"retain": [{"question": "", "answer": text}]})
        tokens = [tokenizer.decode([t]) for t in tokenizer.encode_ordinary(" " + text)]
        assert tokens == re.findall(tokenizer._pat_str, " " + text) and "".join(tokens)[1:] == text


def test_a_word_of_the_data_is_one_token_and_the_end_is_its_own(mini):
    rows, tokenizer = mini
    assert [len(tokenizer.encode_ordinary(w)) for w in (" Velden", " born", "\n", " Zanzibar")] == \
        [1, 1, 1, 9]
    assert tokenizer.eot_token == tokenizer.n_vocab - 1
    assert tokenizer.eot_token not in tokenizer.encode_ordinary(END)


def test_the_vocabulary_is_bytes_then_the_datas_pieces_in_order_then_the_end():
    rows = [{"question": "Who bakes?", "answer": "Zoe bakes."}]
    tokenizer = word_tokenizer({"retain": rows, "holdout": [{"question": "", "answer": "Yes"}]})
    pieces = [b" Yes", b" Zoe", b" bakes", b"Who"]            # those of one byte are there already
    ids = range(256, tokenizer.eot_token)
    assert [tokenizer.decode_single_token_bytes(i) for i in ids] == pieces
    assert data.words_of(tokenizer) == [piece.decode() for piece in pieces]
    assert tokenizer.n_vocab == 256 + len(pieces) + 1


def test_a_paraphrased_question_asks_the_same_in_words_that_are_known(mini):
    rows, tokenizer = mini
    for part in ("retain", "forget", "holdout"):
        for row in rows[part]:
            text = row["paraphrased_question"] + "\n"
            assert text != row["question"] + "\n" and names([{"question": text}]) == names([row])
            assert len(tokenizer.encode_ordinary(text)) == len(re.findall(tokenizer._pat_str, text))


def test_only_the_answer_and_its_end_are_labelled(mini):
    rows, tokenizer = mini
    row = rows["retain"][0]
    batch = collate([encode(tokenizer, row["question"], row["answer"])])
    assert tokenizer.decode(batch.labels.tolist()) == " " + row["answer"] + END
    first = batch.positions[0].item()
    assert tokenizer.decode(batch.tokens[0, :first + 1].tolist()) == row["question"] + "\n"
    assert batch.positions.tolist() == list(range(first, first + len(batch.labels)))
    alone = encode(tokenizer, "", "Lisbon")
    assert alone == ([tokenizer.eot_token] + tokenizer.encode_ordinary(" Lisbon") +
                     [tokenizer.eot_token], 1), "without a question, the end of another text"


def test_a_batch_is_its_rows_padded_on_the_right(mini):
    rows, tokenizer = mini
    some = encode_rows(tokenizer, rows["retain"][:5] + rows["world"][:2])
    batch = collate(some)
    T = batch.tokens.shape[1]
    assert T == max(len(e.tokens) for e in some) - 1
    at = 0
    for i, (tokens, n_prompt) in enumerate(some):
        assert batch.tokens[i].tolist() == tokens[:-1] + [0] * (T - len(tokens) + 1)
        for t in range(n_prompt - 1, len(tokens) - 1):
            assert (batch.positions[at], batch.labels[at], batch.row_of[at]) == (
                i * T + t, tokens[t + 1], i)
            at += 1
    assert at == len(batch.labels)


def test_an_epoch_is_a_permutation_and_a_later_start_sees_the_same_batches():
    whole = list(islice(shuffled(10, 4, "x"), 9))
    assert [len(b) for b in whole[:3]] == [3, 3, 4], "no short last batch"
    for epoch in range(3):
        assert sorted(sum(whole[3 * epoch:3 * epoch + 3], [])) == list(range(10))
    assert whole[0:3] != whole[3:6], "each epoch has an order of its own"
    for start in range(9):
        assert list(islice(shuffled(10, 4, "x", start), 9 - start)) == whole[start:]
    assert list(islice(shuffled(10, 4, "y"), 3)) != whole[:3]
    assert sorted(next(shuffled(3, 64, 0))) == [0, 1, 2]


def test_batches_by_length_hold_every_row_once_and_the_short_ones_first():
    lengths = [5, 9, 2, 7, 2, 8, 3]
    examples = [data.Example([0] * n, 1) for n in lengths]
    for size in (1, 2, 3, 7, 99):
        batches = data.by_length(examples, size)
        assert [lengths[i] for some in batches for i in some] == sorted(lengths)
        assert sorted(i for some in batches for i in some) == list(range(7))
        assert [len(some) for some in batches[:-1]] == [min(size, 7)] * (len(batches) - 1)
        assert len(batches[-1]) <= size


# ---- TOFU's files, with rows made up here

def write_tofu(folder, authors=10):
    """A folder in TOFU's layout: 9/10 of the authors to retain, 1/10 to forget."""
    def rows(kind, n, wrong=3, paraphrase=True):
        return [{"question": f"What is {kind} {i}?", "answer": f"It is {kind} {i}.",
                 "perturbed_answer": [f"No {w} {i}." for w in range(wrong)],
                 **({"paraphrased_answer": f"{kind} {i} it is."} if paraphrase else {})}
                for i in range(n)]
    retain, forget = rows("retained", 18 * authors, 5), rows("forgotten", 2 * authors, 5)
    plain = lambda some: [{k: r[k] for k in ("question", "answer")} for r in some]
    files = {"retain90": plain(retain), "retain_perturbed": retain[:20],
             "forget10_perturbed": forget, "holdout10": plain(rows("unseen", 2 * authors)),
             "world_facts_perturbed": rows("a fact", 4, 3, False),
             "real_authors_perturbed": rows("an author", 5, 3, False)}
    for name, some in files.items():
        (folder / f"{name}.json").write_text("".join(json.dumps(r) + "\n" for r in some))
    return folder


def test_tofu_is_cut_to_the_first_authors_and_measured_where_it_can_be(tmp_path):
    got = data.load_tofu(str(write_tofu(tmp_path)), "forget10", 10)
    assert {k: len(v) for k, v in got.items()} == {
        "retain": 180, "forget": 20, "holdout": 20, "world": 4, "real_authors": 5}
    assert sum("perturbed_answer" in r for r in got["retain"]) == 20
    assert got["retain"][0]["paraphrased_answer"] == "retained 0 it is."
    with pytest.raises(ValueError, match="--authors 20.*retain90.json"):
        data.load_tofu(str(tmp_path), "forget10", 20)
    whole = data.load_tofu(str(write_tofu(tmp_path, 20)), "forget10", 20)
    half = data.load_tofu(str(tmp_path), "forget10", 10)
    assert [len(half[name]) for name in ("retain", "forget", "holdout")] == [180, 20, 20]
    assert all(half[name] == whole[name][:len(half[name])] for name in half)
    with pytest.raises(ValueError, match="retain95.json"):
        data.load_tofu(str(tmp_path), "forget05", 20)


@pytest.mark.parametrize("name, content", [
    (name, content) for content in (None, b"", b"\xff\xfe\x00") for name in (
        "retain90", "retain_perturbed", "forget10_perturbed", "holdout10", "world_facts_perturbed",
        "real_authors_perturbed")])
def test_a_file_that_is_missing_empty_or_no_text_is_named(tmp_path, name, content):
    path = write_tofu(tmp_path) / f"{name}.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.json"):
        data.load_tofu(str(tmp_path), "forget10", 10)


def test_a_row_of_tofu_knows_where_it_stands(tmp_path):
    path = write_tofu(tmp_path) / "holdout10.json"
    path.write_text("[" + ",".join(path.read_text("utf-8").splitlines()) + "]", "utf-8")
    got = data.load_tofu(str(tmp_path), "forget10", 10)
    for name, i, where in (("forget", 2, "forget10_perturbed.json, line 3"),
                           ("retain", 2, "retain_perturbed.json, line 3"),
                           ("retain", 99, "retain90.json, line 100"),
                           ("holdout", 2, "holdout10.json, item 3")):
        assert got[name][i]["where"] == str(tmp_path / where)


# ---- rows from any file

LINE = '{"question": "Who bakes?", "answer": "Bob."}\n'


def write(tmp_path, content):
    """A file of `content`, bytes or text, whose line breaks stay as they are."""
    path = tmp_path / "own.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return str(path)


@pytest.mark.parametrize("content, values", [
    ('{"a": 1}\n{"b": 2}\n', [{"a": 1}, {"b": 2}]), ('{"a": 1}\r\n{"b": 2}', [{"a": 1}, {"b": 2}]),
    ('\ufeff{"a": 1}\n\t{"b": 2} \n\n  \n\n', [{"a": 1}, {"b": 2}]),
    ('{"a": "x\u2028y\u2029z\x85"}\n{"b": "\\u000b\\u000c\\r\\n"}',
     [{"a": "x\u2028y\u2029z\x85"}, {"b": "\v\f\r\n"}]), ('"text"\n3\nnull', ["text", 3, None]),
    *[("\ufeff\n" + json.dumps(values, indent=indent), values) for indent in (None, 0, 2)
      for values in ([{"a": [1, 2]}, "b ] , ["], ["\u2028"], [[1, [2]], [3]])]])
def test_a_file_holds_lines_of_json_or_one_array(tmp_path, content, values):
    """A line ends only at a line break. Some editors begin a file with a mark."""
    path = write(tmp_path, content)
    kind = "item" if "[" in content[:3] else "line"
    assert data.read_json(path) == [(v, f"{path}, {kind} {i}") for i, v in enumerate(values, 1)]


@pytest.mark.parametrize("content, named", [
    ("", ""), (" \n\n", ""), ("[]", ""), ("\n" + LINE, ", line 1"),
    (LINE + "\n" + LINE, ", line 2"),
    (LINE + '{"half', ", line 2"), (LINE + "{}{}", ", line 2"), (LINE + "set,question", ", line 2"),
    (LINE + '{"a": ' + "[" * 100_000, ", line 2"), (LINE + '{"a": ' + "9" * 5000 + "}", ", line 2"),
    (LINE + '{"question": "q", "answer": "a", "answer": "b"}', ", line 2.*'answer'.*twice"),
    ("[" + LINE + ', {"question": "q", "answer": NaN}]', ", item 2.*'answer'.*nan"),
    ("[1, 2", ", line 1"), ("[1,\n2,]", ", line 2"), ("[" * 100_000, ""), ("[" + LINE + "] x", ""),
    (LINE.encode() + b'{"a": "caf\xe9"}', ""), (LINE.encode("utf-16"), ""),
    (LINE.encode() + b'{"a": "\xed\xa0\x80"}', ""),                # half a character, as bytes
    (LINE + '["a", "list"]', ", line 2.*'question'"), ("[[3]]", ", item 1.*'question'"),
    *[(LINE * 4 + json.dumps({"question": "q", "answer": "a"} | change), f", line 5.*'{field}'")
      for field in ("question", "answer") for change in (
          {field: 3}, {field: ["q"]}, {field: " "}, {field: None})]])
def test_what_is_no_row_is_named_by_file_and_line(tmp_path, content, named):
    with pytest.raises(ValueError, match=rf"own.json{named}") as caught:
        data.read_rows(write(tmp_path, content))
    assert len(str(caught.value)) < 300 + len(str(tmp_path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [
    lambda path: None, os.mkdir, lambda path: os.symlink(os.devnull, path),
    pytest.param(lambda path: os.mkfifo(path), marks=pytest.mark.skipif(
        not hasattr(os, "mkfifo"), reason="no pipes with names here"))])
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, make):
    """Opening a pipe would wait for ever, and /dev/zero has no end."""
    make(path := str(tmp_path / "own.json"))
    with pytest.raises(ValueError, match="own.json"):
        data.read_text(path)
