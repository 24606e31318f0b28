"""data.py: what is learned, what is labelled, what comes in which batch, and what is refused."""
import json
import random
import re
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


def test_more_authors_than_there_are_names_is_an_error():
    with pytest.raises(ValueError, match="--authors"):
        mini_tofu(0, authors=484)
    with pytest.raises(ValueError, match="--authors 1"):
        mini_tofu(0, authors=1)
    with pytest.raises(ValueError, match="--forget forget20"):
        mini_tofu(0, "forget20")


# ---- tokens

@pytest.mark.parametrize("text", [
    "Mara Velden was born in Lisbon.", " leading, trailing ", "tabs\t\tand\n\nlines\r\n", "",
    "naïve café — “quotes” … ½ ² Ⅷ", "日本語のテスト", "👩‍👩‍👧 🇳🇴", "a\u0301 \u200d \u202e \ufeff",
    "it's they'll", "snake_case __x__ 3.14 1,000", "\x00\x07\x7f",
    "ﷺ \U0001f9ff \U000e0001 \U0010ffff", END := "<|endoftext|>",
])
def test_any_text_comes_back_unchanged(mini, text):
    tokenizer = mini[1]
    assert tokenizer.decode(tokenizer.encode_ordinary(text)) == text


def test_every_code_point_comes_back_unchanged(mini):
    tokenizer = mini[1]
    for start in range(0, 0x30000, 0x800):
        text = "".join(map(chr, range(start, start + 0x800)))
        if not 0xD800 <= start < 0xE000:
            assert tokenizer.decode(tokenizer.encode_ordinary(text)) == text


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
    assert tokenizer.n_vocab == 256 + len(pieces) + 1


def test_the_longest_row_is_looked_for_among_all_questions_and_answers(mini):
    row = {"question": "Who?", "answer": "Bob."}
    size = lambda **fields: data.longest_row(
        mini[1], {"world": [row], "forget": [row, row | fields]})
    assert size() == (len(encode(mini[1], "Who?", "Bob.").tokens), "world row 1")
    for fields in ({"answer": "in " * 30}, {"paraphrased_answer": "in " * 30}, {
            "perturbed_answer": ["Zoe.", "in " * 30]}, {"paraphrased_question": "in " * 30}):
        length, where = size(**fields)
        assert where == "forget row 2" and length > 30
    both = size(paraphrased_question="in " * 30, perturbed_answer=["in " * 20])
    assert both[0] == len(encode(mini[1], "in " * 30, "in " * 20).tokens)


def test_a_paraphrased_question_asks_the_same_in_words_that_are_known(mini):
    rows, tokenizer = mini
    for part in ("retain", "forget", "holdout"):
        for row in rows[part]:
            text = row["paraphrased_question"] + "\n"
            assert text != row["question"] + "\n" and names([{"question": text}]) == names([row])
            assert len(tokenizer.encode_ordinary(text)) == len(re.findall(data.PIECES, text))


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


def test_gpt2_tokenizer_offline_says_what_to_do(monkeypatch):
    def no_network(name):
        raise ConnectionError("offline")
    monkeypatch.setattr(data.tiktoken, "get_encoding", no_network)
    with pytest.raises(ValueError, match="--tokenizer gpt2.*TIKTOKEN_CACHE_DIR"):
        data.gpt2_tokenizer()


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


@pytest.mark.parametrize("name, line, text, named", [
    ("retain90", 3, '{"question": "half', r"retain90.json\D*3\b"),
    ("holdout10", 2, '{"question": "no answer?"}', r"holdout10.json\D*2\b.*answer"),
    ("forget10_perturbed", 1, '{"question": "q", "answer": "a", "perturbed_answer": []}',
     r"forget10_perturbed.json\D*1\b.*perturbed_answer"),
    ("forget10_perturbed", 4, '{"question": "q", "answer": "a", "perturbed_answer": ["b"]}',
     r"forget10_perturbed.json\D*4\b.*paraphrased_answer"),
    ("retain90", 1, '{"question": "q", "answer": " "}', r"retain90.json\D*1\b.*answer"),
    ("retain90", 5, '["a", "list"]', r"retain90.json\D*5\b.*question"),
    ("retain90", 5, '{"question": 3, "answer": "a"}', r"retain90.json\D*5\b.*question"),
    ("retain90", 5, '{"question": ["q"], "answer": "a"}', r"retain90.json\D*5\b.*question"),
    ("retain90", 7, "", r"retain90.json\D*7\b"),
    ("world_facts_perturbed", 2, '{"question": "q", "answer": "a", "perturbed_answer": ["b"], '
     '"paraphrased_answer": ""}', r"world_facts_perturbed.json\D*2\b.*paraphrased_answer"),
    ("retain90", 150, '{"question": "q", "answer": "a", "perturbed_answer": "b"}',
     r"retain90.json\D*150\b.*perturbed_answer"),
    ("forget10_perturbed", 2, '{"question": "q", "answer": "a", "perturbed_answer": ["b", " "]}',
     r"forget10_perturbed.json\D*2\b.*perturbed_answer"),
    *[(name, 2, '{"question": "q", "answer": "a"}', rf"{name}.json\D*2\b.*perturbed_answer")
      for name in ("retain_perturbed", "world_facts_perturbed", "real_authors_perturbed")],
    ("retain_perturbed", 3, '{"question": "q", "answer": "a", "perturbed_answer": ["b"]}',
     r"retain_perturbed.json\D*3\b.*paraphrased_answer"),
])
def test_a_broken_row_is_named_by_file_and_line(tmp_path, name, line, text, named):
    path = write_tofu(tmp_path) / f"{name}.json"
    lines = path.read_text("utf-8").splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=named):
        data.load_tofu(str(tmp_path), "forget10", 10)


@pytest.mark.parametrize("name", [
    "retain90", "retain_perturbed", "forget10_perturbed", "holdout10", "world_facts_perturbed",
    "real_authors_perturbed"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"])
def test_a_file_that_is_missing_empty_or_no_text_is_named(tmp_path, name, content):
    path = write_tofu(tmp_path) / f"{name}.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.json"):
        data.load_tofu(str(tmp_path), "forget10", 10)


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(tmp_path):
    path = write_tofu(tmp_path) / "retain90.json"
    rows = data.load_tofu(str(tmp_path), "forget10", 10)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert data.load_tofu(str(tmp_path), "forget10", 10) == rows


def rewrite(path, change):
    """The rows of a file again, each as `change(i, row)` has it, in one JSON array."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    path.write_text(json.dumps([change(i, row) for i, row in enumerate(rows)]), "utf-8")


def test_tofu_without_a_retain_row_to_measure_is_an_error(tmp_path):
    """Not a missing line in the table. One row that is found is enough."""
    path = write_tofu(tmp_path) / "retain_perturbed.json"
    rewrite(path, lambda i, row: row | {"answer": f"{row['answer']}!"} if i else row)
    got = data.load_tofu(str(tmp_path), "forget10", 10)
    assert [i for i, r in enumerate(got["retain"]) if "perturbed_answer" in r] == [0]
    path.write_text(json.dumps(json.loads(path.read_text("utf-8"))[1:]), "utf-8")
    with pytest.raises(ValueError, match="retain_perturbed.json.*retain90.json"):
        data.load_tofu(str(tmp_path), "forget10", 10)


def test_a_row_of_tofu_knows_where_it_stands(tmp_path):
    write_tofu(tmp_path)
    rewrite(tmp_path / "holdout10.json", lambda i, row: row)
    got = data.load_tofu(str(tmp_path), "forget10", 10)
    for name, i, where in (("forget", 2, "forget10_perturbed.json, line 3"),
                           ("retain", 2, "retain_perturbed.json, line 3"),
                           ("retain", 99, "retain90.json, line 100"),
                           ("holdout", 2, "holdout10.json, item 3")):
        assert got[name][i]["where"] == str(tmp_path / where)
