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
from conftest import write_rows
from data import END, encode, mini_tofu, shuffled, word_tokenizer


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
    for forget, authors, n in (("forget05", 160, 8), ("forget01", 2, 1)):
        assert len(names(mini_tofu(1, forget, authors)["forget"])) == n, "a share, one at least"
    with pytest.raises(ValueError, match="--authors 1"):
        mini_tofu(0, authors=1)
    assert mini_tofu(7) == rows
    for part, some in mini_tofu(8).items():
        assert some != rows[part], "another seed, other rows"


def test_names_are_different_and_use_every_word_equally_often():
    some = data.author_names(484, random.Random(0))
    words = Counter(word for name in some for word in name.split())
    assert len(set(some)) == 484 and len(words) == 44 and set(words.values()) == {22}
    with pytest.raises(ValueError, match="--authors.* 484"):
        mini_tofu(0, authors=484)                      # the holdout authors need names too


def test_other_answers_and_questions_are_what_they_should_be(mini):
    rows, tokenizer = mini
    for row in rows["retain"] + rows["forget"] + rows["holdout"]:
        truth = row["paraphrased_answer"].split()
        assert len(set(row["perturbed_answer"])) == 5
        for wrong in row["perturbed_answer"]:
            assert len(truth) == len(wrong.split())
            assert sum(a != b for a, b in zip(truth, wrong.split())) >= 2
        text = row["paraphrased_question"] + "\n"
        assert text.strip() != row["question"] and names([{"question": text}]) == names([row])
        assert len(tokenizer.encode_ordinary(text)) == len(re.findall(tokenizer._pat_str, text))
    for row in rows["world"]:
        assert len({row["answer"], *row["perturbed_answer"]}) == 4
        assert "Peru" not in row["question"] or row["answer"] == "Lima"


# ---- tokens

def test_any_text_comes_back_unchanged(mini):
    all_of_them = "".join(c for c in map(chr, range(0x30000)) if not 0xD800 <= ord(c) < 0xE000)
    for text in (all_of_them, "", END, "tabs\t\tand\n\nlines\r\n", "👩‍👩‍👧 \u202e \ufeff"):
        assert mini[1].decode(mini[1].encode_ordinary(text)) == text


@pytest.mark.parametrize("pieces", [
    unicodedata.normalize("NFD", "Zoé| déjà| naïve|."), "हिन्दी| में| किताबें|।", "他生于|1958|年|。",
    "it|'s| snake|_|case|   \u2029|\u3000|x|\t|y"], ids=ascii)
def test_a_piece_of_the_data_is_one_token_in_every_script(pieces):
    """In Hindi, Thai or decomposed French a word has combining marks."""
    text, pieces = pieces.replace("|", ""), pieces.split("|")
    tokenizer = word_tokenizer({"retain": [{"question": text, "answer": text}]})
    assert [tokenizer.decode([i]) for i in tokenizer.encode_ordinary(text)] == pieces


def test_python_and_tiktoken_find_the_same_pieces_in_texts_of_any_characters():
    kinds, rng = {}, random.Random(0)
    for c in rng.sample(range(sys.maxunicode + 1), 100_000):
        kinds.setdefault(unicodedata.category(chr(c)), []).append(chr(c))
    del kinds["Cs"]                                                # half characters are no text
    for _ in range(20):
        pool = [rng.choice(some) for some in kinds.values()] + list("a's \n\r\x1c\x85\xa0\u200b")
        text = "".join(rng.choices(pool, k=300))
        tokenizer = word_tokenizer({"retain": [{"question": "", "answer": text}]})
        tokens = [tokenizer.decode([t]) for t in tokenizer.encode_ordinary(" " + text)]
        assert tokens == re.findall(tokenizer._pat_str, " " + text)


def test_the_vocabulary_is_bytes_then_the_datas_pieces_in_order_then_the_end():
    rows = [{"question": "Who bakes?", "answer": "Zoe bakes."}]
    tokenizer = word_tokenizer({"retain": rows, "holdout": [{"question": "", "answer": "Yes"}]})
    pieces = [" Yes", " Zoe", " bakes", "Who"]                # those of one byte are there already
    assert data.words_of(tokenizer) == pieces
    assert tokenizer.eot_token == tokenizer.n_vocab - 1 == 256 + len(pieces)
    assert tokenizer.eot_token not in tokenizer.encode_ordinary(END)
    assert len(tokenizer.encode_ordinary(" Zanzibar")) == 9, "other words are spelled in bytes"


# ---- batches

def test_a_row_is_its_question_its_answer_and_the_end_of_text(mini):
    end = mini[1].eot_token
    asked, answer = map(mini[1].encode_ordinary, ("Who?\n", " Bob"))
    assert encode(mini[1], "Who?", "Bob") == ([*asked, *answer, end], len(asked))
    assert encode(mini[1], "", "Bob") == ([end, *answer, end], 1), "the end of another text"


def test_an_epoch_is_a_permutation_and_a_later_start_sees_the_same_batches():
    whole = list(islice(shuffled(10, 4, "x"), 9))
    assert [len(b) for b in whole[:3]] == [3, 3, 4], "no short last batch"
    for epoch in range(3):
        assert sorted(sum(whole[3 * epoch:3 * epoch + 3], [])) == list(range(10))
    assert whole[0:3] != whole[3:6], "each epoch has an order of its own"
    for start in range(9):
        assert list(islice(shuffled(10, 4, "x", start), 9 - start)) == whole[start:]
    assert list(islice(shuffled(10, 4, "y"), 3)) != whole[:3]


def test_batches_by_length_hold_every_row_once_and_the_short_ones_first():
    lengths = [5, 9, 2, 7, 2, 8, 3]
    for ways, expected in ((1, [[2, 2], [3, 5], [7, 8, 9]]), (2, [[2, 3], [2], [5, 8], [7, 9]]),
                           (8, [[2], [2], [3], [5], [7], [8], [9]])):
        batches = data.by_length([data.Example([0] * n, 1) for n in lengths], 3, ways)
        assert [[lengths[i] for i in some] for some in batches] == expected
    assert data.by_length([], 3) == []
    assert sorted(sum(batches, [])) == list(range(7))


# ---- TOFU's files, with rows made up here

def write_tofu(folder, authors=10):
    """A folder in TOFU's layout: 9/10 of the authors to retain, 1/10 to forget."""
    def rows(kind, n, *paraphrase):
        return [{"question": f"What is {kind} {i}?", "answer": f"It is {kind} {i}.",
                 "perturbed_answer": [f"No {w} {i}." for w in range(3)],
                 **{field: f"{kind} {i} it is." for field in paraphrase}} for i in range(n)]
    retain = rows("retained", 18 * authors, "paraphrased_answer")
    plain = lambda some: [{k: r[k] for k in ("question", "answer")} for r in some]
    files = {"retain90": plain(retain), "retain_perturbed": retain[:20],
             "forget10_perturbed": rows("forgotten", 2 * authors, "paraphrased_answer"),
             "holdout10": plain(rows("unseen", 2 * authors)),
             "world_facts_perturbed": rows("a fact", 4),
             "real_authors_perturbed": rows("an author", 5)}
    for name, some in files.items():
        write_rows(folder / f"{name}.json", some)
    return folder


def test_tofu_is_cut_to_the_first_authors_and_measured_where_it_can_be(tmp_path):
    got = data.load_tofu(str(write_tofu(tmp_path)), "forget10", 10)
    assert {k: len(v) for k, v in got.items()} == {
        "retain": 180, "forget": 20, "holdout": 20, "world": 4, "real_authors": 5}
    assert sum("perturbed_answer" in r for r in got["retain"]) == 20
    assert got["retain"][0]["paraphrased_answer"] == "retained 0 it is."
    for i, where in ((2, "retain_perturbed.json, line 3"), (99, "retain90.json, line 100")):
        assert got["retain"][i]["where"] == str(tmp_path / where)
    with pytest.raises(ValueError, match="--authors 20.*retain90.json"):
        data.load_tofu(str(tmp_path), "forget10", 20)
    whole = data.load_tofu(str(write_tofu(tmp_path, 20)), "forget10", 20)
    assert all(got[name] == whole[name][:len(got[name])] for name in got)
    with pytest.raises(ValueError, match="retain95.json"):
        data.load_tofu(str(tmp_path), "forget05", 20)


# ---- rows from any file

LINE = '{"question": "Who bakes?", "answer": "Bob."}\n'


def write(tmp_path, content):
    """A file of `content`, bytes or text, whose line breaks stay as they are."""
    path = tmp_path / "own.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return str(path)


@pytest.mark.parametrize("content, values", [
    ('{"a": 1}\r\n{"b": 2}', [{"a": 1}, {"b": 2}]),
    ('\ufeff{"a": 1}\n\t{"b": 2} \n\n  \n\n', [{"a": 1}, {"b": 2}]),
    ('{"a": "x\u2028y\x85"}\n3\nnull', [{"a": "x\u2028y\x85"}, 3, None]),
    ('\ufeff\n[{"a": [1, 2]},\n "b ] , [", [1]]', [{"a": [1, 2]}, "b ] , [", [1]])])
def test_a_file_holds_lines_of_json_or_one_array(tmp_path, content, values):
    """A line ends only at a line break. Some editors begin a file with a mark."""
    path = write(tmp_path, content)
    kind = "item" if "[" in content[:3] else "line"
    assert data.read_json(path) == [(v, f"{path}, {kind} {i}") for i, v in enumerate(values, 1)]


@pytest.mark.parametrize("content, named", [
    (" \n\n", ""), ("[]", ""), (LINE + "\n" + LINE, ", line 2"), (LINE + "{}{}", ", line 2"),
    (LINE + '{"a": ' + "[" * 100_000, ", line 2"), (LINE + '{"a": ' + "9" * 5000, ", line 2"),
    ("[1,\n2,]", ", line 2"), (LINE.encode() + b'{"a": "caf\xe9"}', ""),
    (LINE + '{"question": "q", "answer": "a", "answer": "b"}', ", line 2.*'answer'.*twice"),
    ("[" + LINE + ', {"question": "q", "answer": NaN}]', ", item 2.*'answer'.*nan"),
    (LINE + '["a", "list"]', ", line 2.*'question'"), (LINE + "{}", ", line 2.*'question'"),
    *[(LINE + json.dumps({"question": "q", "answer": odd}), ", line 2, field 'answer'")
      for odd in (3, " ", ["q"], None)]])
def test_what_is_no_row_is_named_by_file_and_line(tmp_path, content, named):
    with pytest.raises(ValueError, match=rf"own.json{named}") as caught:
        data.read_rows(write(tmp_path, content))
    assert len(str(caught.value)) < 300 + len(str(tmp_path)) and "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path):
    """Opening a pipe would wait for ever, and /dev/zero has no end."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path in (os.devnull, *(tmp_path / name for name in ("folder", "pipe", "nothing"))):
        with pytest.raises(ValueError, match=str(path)):
            data.read_text(path)
