"""harness/sources.py: the data that --data names, and the files and rows that are refused."""
import json
import math
import re
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import data
from conftest import Stub, write_rows
from harness import measuring, muse, sources
from test_data import write_tofu


def load(path, forget="forget10", authors=160):
    return sources.load(SimpleNamespace(data=str(path), seed=7, forget=forget, authors=authors))


def refused(named):
    """An error that matches `named`, or with None no error."""
    return pytest.raises(ValueError, match=named) if named else nullcontext()


def test_seed_share_and_number_of_authors_reach_the_source(tmp_path):
    assert load("", "forget05", 40) == data.mini_tofu(7, "forget05", 40)
    assert load("muse", "forget05", 40) == sources.mini_muse(7, "forget05", 40)
    assert len(load(write_tofu(tmp_path), authors=5)["retain"]) == 4 * data.TOFU_ROWS_PER_AUTHOR
    with refused("retain95.json"):
        load(tmp_path, "forget05", 5)


def test_texts_tell_the_facts_that_their_questions_ask_for():
    muse, tofu, forms = load("muse"), load(""), set()
    for name in sources.TEXTS:
        assert name == "holdout" or muse[name + "_questions"] == sources.plain(tofu[name])
        for i, row in enumerate(muse[name]):
            rows = tofu[name][3 * i:3 * i + 3]
            told = [next((j, f) for j, r in enumerate(rows) for f in r if r[f] == sentence)
                    for sentence in re.findall(r"\w[^.]*\.", row["answer"])]
            assert sorted(j for j, _ in told) == [0, 1, 2], "each fact once, and of this author"
            assert {f for _, f in told} <= {"answer", "paraphrased_answer"}
            forms.add(tuple(told))
    assert len(forms) == 6 * 2**3, "every order and every wording occurs"
    assert sources.mini_muse(8)["forget"] != muse["forget"]


def test_the_longest_row_is_looked_for_among_all_questions_and_answers():
    row = {"question": "Who?", "answer": "Bob."}
    tokenizer = data.word_tokenizer({"forget": [row]})
    length = lambda *texts: len(data.encode(tokenizer, *texts).tokens)
    find = lambda **more: sources.longest(tokenizer, {"world": [row], "forget": [row, row | more]})
    assert find() == (length("Who?", "Bob."), "world row 1")
    assert find(answer="in " * 30) == (length("Who?", "in " * 30), "forget row 2")
    assert find(perturbed_answer=["Zoe.", "in " * 20], paraphrased_question="in " * 30) == (
        length("in " * 30, "in " * 20), "forget row 2")


def asked(name):
    return {"question": f"What is {name}?", "answer": f"It is {name}."}


def write_texts(folder, questions=True):
    """A folder of texts: two to retain, one to forget, one to hold out."""
    for name, text in {"retain": "Ann keeps bees\n in Lima.\n \t\nBob bakes bread.\n",
                       "forget": "\ufeffEve picks locks.",
                       "holdout": "\n\nZoe sails ships.\n\n "}.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        if questions and name != "holdout":
            (folder / f"{name}_questions.json").write_text(json.dumps(asked(name) | {
                "perturbed_answer": ["He."], "stray": 3}) + "\n")
    return folder


def test_texts_are_cut_at_blank_lines(tmp_path):
    texts = {name: [{"question": "", "answer": t} for t in some] for name, some in {
        "retain": ["Ann keeps bees in Lima.", "Bob bakes bread."],
        "forget": ["Eve picks locks."], "holdout": ["Zoe sails ships."]}.items()}
    assert load(write_texts(tmp_path, False)) == texts
    assert load(write_texts(tmp_path)) == {
        **texts, "retain_questions": [asked("retain")], "forget_questions": [asked("forget")]}


@pytest.mark.parametrize("name, content, named", [
    ("retain.txt", None, "retain.txt"), ("holdout.txt", b" \n\n", "holdout.txt"),
    ("holdout.txt", b"A b.\n\nEve picks\nlocks.", r"holdout.txt\D*2\b.*forget.txt\D*1\b"),
    ("retain.txt", b"Ann.\n\n" + b"a" * 100_001, r"retain.txt\D*2\b.*100001"),
    ("retain_questions.json", None, "retain_questions.json"),
    ("forget_questions.json", json.dumps(asked("retain")).encode(),
     r"forget_questions.json\D*1\b.*retain_questions.json\D*1\b")])
def test_a_text_that_cannot_be_used_is_named(tmp_path, name, content, named):
    path = write_texts(tmp_path) / name
    path.unlink() if content is None else path.write_bytes(content)
    with refused(named):
        load(tmp_path)


# ---- one file of rows

OWN = [{"set": "retain", "question": "Who bakes?", "answer": "Bob.",
        "paraphrased_answer": "It is Bob.", "perturbed_answer": ["Eve."]},
       {"set": "forget", "question": "Who picks locks?", "answer": "Eve.",
        "paraphrased_answer": "It is Eve.", "perturbed_answer": ["Bob.", "Zoe.", "Ann."],
        "paraphrased_question": "Who is it that picks locks?"},
       {"set": "world", "question": "Where is Lima?", "answer": "Peru",
        "perturbed_answer": ["Chile"]},
       {"set": "retain", "question": "Who sails?", "answer": "Zoe."},
       {"set": "holdout", "question": "Who rows?", "answer": "Max."}]


def changed(path, line, change):
    """OWN as a file, with `change` in one of its rows."""
    return write_rows(path, [row | change if i == line else row for i, row in enumerate(OWN, 1)])


def test_one_file_holds_all_sets_and_fields_by_which_none_is_measured_are_dropped(tmp_path):
    """Else wrong answers in one holdout row would leave the others out, a fact would be measured
    by its paraphrase, and whatever a stray field means elsewhere would happen here."""
    more = {"paraphrased_answer": "So it is.", "perturbed_answer": ["No."], "passage": "Some text.",
            "where": 3, "paraphrased_question": None}
    rows = load(write_rows(tmp_path / "own.jsonl", [more | row for row in OWN]))
    own = [{k: v for k, v in row.items() if k != "set"} for row in OWN]
    stands = {k: more[k] for k in ("paraphrased_answer", "perturbed_answer")}
    assert rows == {"retain": [own[0], stands | own[3]], "forget": [own[1]], "holdout": [own[4]],
                    "world": [own[2]]}


def test_files_and_texts_say_what_to_forget_and_tofu_does_not(tmp_path):
    says = lambda path: sources.says_what_to_forget(str(path))
    assert not says(write_tofu(tmp_path))
    (tmp_path / "holdout.txt").write_text("Zoe sails.", "utf-8")
    assert says(tmp_path) and says(write_rows(tmp_path / "retain.json", OWN[:1]))
    for path, named in ((tmp_path, "retain.txt"), (tmp_path / "nowhere", "--data .*nowhere"),
                        (tmp_path / "retain.json", "retain.json.*forget")):
        with refused(named):
            load(path)


@pytest.mark.parametrize("line, change, field", [
    (2, {"set": "forgot"}, "forgot"), (2, {"set": None}, "set"), (1, {"answer": " \n"}, "answer"),
    *[(2, {"paraphrased_answer": odd}, "paraphrased_answer") for odd in (3, " ", "\ud800", None)],
    *[(2, {"perturbed_answer": odd}, "perturbed_answer") for odd in ("b", [], ["a", " "], [3])],
    (2, {"answer": "a" * 100_001}, "answer.*100001"),
    (1, {"perturbed_answer": ["Eve.", "Bob."]}, "perturbed_answer.*'Bob.'"),
    (1, {"perturbed_answer": ["It is Bob."]}, "perturbed_answer.*'It is Bob.'"),
    (3, {"paraphrased_answer": ""}, "paraphrased_answer"),     # by which the set is not measured
    (4, {"perturbed_answer": ["Bob."]}, "paraphrased_answer")])
def test_a_row_that_cannot_be_used_is_named(tmp_path, line, change, field):
    with pytest.raises(ValueError, match=rf"own.jsonl\D*{line}\b.*{field}") as caught:
        load(changed(tmp_path / "own.jsonl", line, change))
    assert len(str(caught.value)) < 300 + len(str(tmp_path)), "one line, whatever the row holds"


@pytest.mark.parametrize("line, copied, apart", [
    (2, 1, False), (4, 2, False), (5, 1, False), (5, 3, False), (4, 1, True), (3, 1, True)])
def test_what_is_forgotten_or_held_out_is_in_no_other_set(tmp_path, line, copied, apart):
    """By question and answer, whatever the white space between the words."""
    copy = OWN[copied - 1]
    change = {"question": copy["question"].replace(" ", "  ") + "\n", "answer": copy["answer"],
              "perturbed_answer": ["Ann."], "paraphrased_answer": "Of course."}
    both = rf"own.jsonl, line ({line}\b.*line {copied}|{copied}\b.*line {line})\b"
    with refused(None if apart else both):
        load(changed(tmp_path / "own.jsonl", line, change))
    load(changed(tmp_path / "own.jsonl", line, change | {"answer": "Another answer."}))


@pytest.mark.parametrize("without, lacks", [
    ((1,), "retain"), ((2,), "forget"), ((3,), "world"), ((1, 2, 3), None)])
def test_every_measured_set_has_wrong_answers_or_none_has(tmp_path, without, lacks):
    """Else a line of the table would be missing, and nothing would say why."""
    path = write_rows(tmp_path / "own.jsonl", [
        row | {"perturbed_answer": None} if i in without else row for i, row in enumerate(OWN, 1)])
    with refused(lacks and rf"own.jsonl\D*\d\b.*perturbed_answer.*{lacks}"):
        load(path)


@pytest.mark.parametrize("answer, lines", [("\u00c9t\u00e9 7", 0), ("\u4ed6\u751f", 1), ("- ?", 1)])
def test_an_answer_that_rouge_cannot_see_is_told(tmp_path, monkeypatch, capsys, answer, lines):
    """One line, from the first process: the first such answer, and how many more there are."""
    rows = [row | {"answer": answer * i} for i, row in enumerate(OWN[3:], 1)]    # one is held out
    path = write_rows(tmp_path / "own.jsonl", OWN[:3] + [OWN[3] | {"answer": answer * 3}] + rows)
    load(path)
    said = capsys.readouterr().err
    assert said.count("\n") == lines == len(re.findall(r"own.jsonl\D*4\b.*ROUGE.*\b1 more", said))
    monkeypatch.setattr(sources, "rank_and_size", lambda: (1, 2))
    load(path)
    assert not capsys.readouterr().err


def test_verbmem_is_the_rouge_of_the_second_half_given_the_first():
    rows = [sources.text_row("Ann keeps bees in Lima."),
            sources.text_row("Ann keeps bees in Lima and makes jam.")]
    tokenizer = data.word_tokenizer({"forget": rows})
    short, long = (e.tokens for e in data.encode_rows(tokenizer, rows))
    model = Stub(lambda prompt: long[len(prompt):] + 2 * prompt[1:])
    m = muse.measure_texts(model, tokenizer, rows)
    assert model.prompts == [short[:4], long[:5]], "end of text, and half of 6 or 9 tokens"
    assert m["prompts"] == ["Ann keeps bees", "Ann keeps bees in"]
    assert m["gold"] == ["in Lima.", "Lima and makes jam."]
    assert m["answers"] == ["in Lima and", "Lima and makes jam."], "no longer than the true one"
    assert m["verbmem"] == pytest.approx(100 * (0.8 + 1) / 2)      # F1 of 2 of 3 and 2 of 2 words
    assert m["loss"] == pytest.approx([np.mean(ids[1:]) / 10 for ids in (short, long)])
    worst = [np.mean(sorted(ids[1:-1])[-k:]) / 10 for ids, k in ((short, 2), (long, 3))]
    assert m["min_k"] == pytest.approx(worst) and "rouge" not in m, "40% of 6 and of 9"


def test_a_summary_of_texts_has_verbmem_and_knowmem():
    """KnowMem is the F1 of answers to questions: recall would be 1 for the babbling one."""
    text = {"loss": [1.0], "min_k": [1.0], "verbmem": 70.0}
    asked = {"answers": ["Lima and so on and on", "Oslo"], "gold": ["Lima", "Oslo"]}
    measured = {"forget": text, "retain": text, "forget_questions": asked}
    assert measuring.summary(measured, measured) == pytest.approx({
        "forget_loss": 1, "forget_prob": math.exp(-1), "forget_verbmem": 70,
        "forget_knowmem": 100 * (2 / 7 + 1) / 2,
        "retain_loss": 1, "retain_prob": math.exp(-1), "retain_verbmem": 70})
