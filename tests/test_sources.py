"""harness/sources.py: the data that --data names, and the files and rows that are refused."""
import json
import math
import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import data
from harness import measuring, sources
from test_data import write_tofu


def load(path, forget="forget10", authors=160):
    return sources.load(SimpleNamespace(data=str(path), seed=7, forget=forget, authors=authors))


def test_seed_share_and_number_of_authors_reach_the_source(tmp_path):
    assert load("", "forget05", 40) == data.mini_tofu(7, "forget05", 40)
    muse = load("muse", "forget05", 40)
    assert muse == sources.mini_muse(7, "forget05", 40)
    assert [len(muse[name]) for name in sources.TEXTS] == [38, 2, 2]
    assert len(load(write_tofu(tmp_path), authors=5)["retain"]) == 4 * data.TOFU_ROWS_PER_AUTHOR
    with pytest.raises(ValueError, match="retain95.json"):
        load(tmp_path, "forget05", 5)


# ---- TOFU's folder

@pytest.mark.parametrize("name, line, change, refused", [
    ("holdout10", 4, "forgotten 4", r"holdout10.json\D*4\b.*forget10_perturbed.json\D*5\b"),
    ("holdout10", 4, "retained 100", r"holdout10.json\D*4\b.*retain90.json\D*101\b"),
    ("forget10_perturbed", 4, "retained 4",
     r"forget10_perturbed.json\D*4\b.*retain_perturbed.json\D*5\b"),
    ("retain90", 101, "retained 4", None), ("holdout10", 4, "unseen 8", None),
    ("retain90", 150, {"perturbed_answer": "b"}, r"retain90.json\D*150\b.*perturbed_answer"),
    ("forget10_perturbed", 2, {"perturbed_answer": [" "]}, r"forget10\w*.json\D*2\b.*perturbed"),
    ("forget10_perturbed", 4, {"paraphrased_answer": None}, r"forget10\w*.json\D*4\b.*paraphrased"),
    ("world_facts_perturbed", 2, {"paraphrased_answer": ""}, r"world\w*.json\D*2\b.*paraphrased"),
    ("world_facts_perturbed", 2, {"perturbed_answer": None}, None)])
def test_tofus_rows_are_checked_and_may_repeat_in_a_set(tmp_path, name, line, change, refused):
    path = write_tofu(tmp_path) / f"{name}.json"
    lines = path.read_text("utf-8").splitlines()
    if isinstance(change, str):                                      # the row of another set
        change = {"question": f"What is {change}?", "answer": f"It is {change}."}
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | change)
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(ValueError, match=refused) if refused else nullcontext():
        load(tmp_path, authors=10)


def test_tofu_without_a_retain_row_to_measure_is_refused(tmp_path):
    """Else a line of the table would be missing. One row that is found is enough."""
    path = write_tofu(tmp_path) / "retain_perturbed.json"
    first, *rest = path.read_text("utf-8").splitlines()
    rest = [line.replace("It is", "It was") for line in rest]
    path.write_text("\n".join([first, *rest]), "utf-8")
    rows = load(tmp_path, authors=10)["retain"]
    assert [i for i, row in enumerate(rows) if "perturbed_answer" in row] == [0]
    path.write_text("\n".join(rest), "utf-8")
    with pytest.raises(ValueError, match="perturbed_answer.* retain "):
        load(tmp_path, authors=10)


# ---- the built-in texts

def test_texts_tell_the_facts_that_their_questions_ask_for():
    muse, tofu = load("muse"), load("")
    assert tofu == data.mini_tofu(7)
    assert {k: len(v) for k, v in muse.items()} == {
        "retain": 144, "forget": 16, "holdout": 16, "retain_questions": 432,
        "forget_questions": 48, "world": 40}
    forms = set()
    for name in ("retain", "forget", "holdout"):
        assert name == "holdout" or muse[name + "_questions"] == sources.plain(tofu[name])
        for i, row in enumerate(muse[name]):
            assert row["question"] == ""
            sentences = re.findall(r"\w[^.]*\.", row["answer"])
            rows = tofu[name][3 * i:3 * i + 3]
            told = [next((j, f) for j, r in enumerate(rows) for f in r if r[f] == s)
                    for s in sentences]
            assert sorted(j for j, _ in told) == [0, 1, 2], "each fact once, and of this author"
            assert {f for _, f in told} <= {"answer", "paraphrased_answer"}
            forms.add(tuple(told))
    assert len(forms) == 6 * 2**3, "every order and every wording occurs"
    assert load("muse") == muse and sources.mini_muse(8)["forget"] != muse["forget"]


def test_a_text_is_labelled_from_its_first_word_to_its_end():
    muse = sources.mini_muse(7, authors=4)
    tokenizer, text = data.word_tokenizer(muse), muse["forget"][0]["answer"]
    batch = data.collate(data.encode_rows(tokenizer, muse["forget"][:1]))
    assert batch.tokens[0, 0] == tokenizer.eot_token
    assert tokenizer.decode(batch.labels.tolist()) == " " + text + data.END
    assert batch.positions.tolist() == list(range(len(batch.labels)))


def test_the_longest_row_is_looked_for_among_all_questions_and_answers():
    row = {"question": "Who?", "answer": "Bob."}
    tokenizer = data.word_tokenizer({"forget": [row]})
    length = lambda *texts: len(data.encode(tokenizer, *texts).tokens)
    find = lambda **more: sources.longest(tokenizer, {"world": [row], "forget": [row, row | more]})
    assert find() == (length("Who?", "Bob."), "world row 1")
    for field in ("answer", "paraphrased_answer"):
        assert find(**{field: "in " * 30}) == (length("Who?", "in " * 30), "forget row 2")
    assert find(perturbed_answer=["Zoe.", "in " * 20], paraphrased_question="in " * 30) == (
        length("in " * 30, "in " * 20), "forget row 2")


# ---- texts in a folder

def asked(name):
    return {"question": f"Who is to {name}?", "answer": f"It is {name}."}


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
    ("retain.txt", None, "retain.txt"), ("forget.txt", None, "forget.txt"),
    ("holdout.txt", b" \n\n", "holdout.txt"), ("holdout.txt", b"caf\xe9", "holdout.txt"),
    ("holdout.txt", b"A b.\n\nEve picks\nlocks.", r"holdout.txt\D*2\b.*forget.txt\D*1\b"),
    ("forget.txt", b"Eve.\n \nBob  bakes bread.", r"forget.txt\D*2\b.*retain.txt\D*2\b"),
    ("retain.txt", b"Ann.\n\n" + b"a" * 100_001, r"retain.txt\D*2\b.*100001"),
    ("retain_questions.json", None, "retain_questions.json"),
    ("forget_questions.json", None, "forget_questions.json"),
    ("forget_questions.json", b"", "forget_questions.json"),
    ("forget_questions.json", b'{"question": "q"}', r"forget_questions.json\D*1\b.*answer"),
    ("forget_questions.json", json.dumps(asked("retain")).encode(),
     r"forget_questions.json\D*1\b.*retain_questions.json\D*1\b"),
])
def test_a_text_that_cannot_be_used_is_named(tmp_path, name, content, named):
    path = write_texts(tmp_path) / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=named):
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


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def changed(path, line, change):
    """OWN as a file, with `change` in one of its rows."""
    rows = [dict(row) for row in OWN]
    rows[line - 1] |= change
    return write_rows(path, rows)


def test_one_file_holds_all_sets(tmp_path):
    rows = load(write_rows(tmp_path / "own.jsonl", OWN))
    own = [{k: v for k, v in row.items() if k != "set"} for row in OWN]
    assert rows == {"retain": [own[0], own[3]], "forget": [own[1]], "holdout": [own[4]],
                    "world": [own[2]]}
    assert list(load(write_rows(tmp_path / "own.jsonl", OWN[::-1]))) == list(rows)


def test_fields_by_which_a_set_is_not_measured_are_dropped(tmp_path):
    """Else wrong answers in one holdout row would leave the others out, a fact would be measured
    by its paraphrase, and whatever a stray field means elsewhere would happen here."""
    more = {"paraphrased_answer": "So it is.", "perturbed_answer": ["No."], "passage": "Some text.",
            "where": 3, "paraphrased_question": None}
    rows = load(write_rows(tmp_path / "own.jsonl", [more | row for row in OWN]))
    asked = {"question", "answer"}
    assert {name: set(some[0]) for name, some in rows.items()} == {
        "holdout": asked, "world": asked | {"perturbed_answer"},
        "retain": asked | {"perturbed_answer", "paraphrased_answer"},
        "forget": set(OWN[1]) - {"set"}}


def test_files_and_texts_say_what_to_forget_and_tofu_does_not(tmp_path):
    folders = [tmp_path / name for name in ("tofu", "texts", "one")]
    for folder in folders:
        folder.mkdir()
    write_tofu(folders[0]), write_texts(folders[1])
    (folders[2] / "holdout.txt").write_text("Zoe sails.", "utf-8")
    assert [sources.says_what_to_forget(str(f)) for f in folders] == [False, True, True]
    assert sources.says_what_to_forget(str(write_rows(tmp_path / "own.jsonl", OWN)))
    for path, named in ((folders[2], "forget.txt|retain.txt"),         # one file of three
                        (tmp_path / "nowhere", "--data .*nowhere"),
                        (write_rows(tmp_path / "retain.json", OWN[:1]), "retain.json.*forget"),
                        (write_rows(tmp_path / "forget.json", OWN[1:2]), "forget.json.*retain")):
        with pytest.raises(ValueError, match=named):
            load(path)


@pytest.mark.parametrize("line, change, field", [
    (2, {"set": "forgot"}, "forgot"), (2, {"set": 3}, "set"), (2, {"set": None}, "set"),
    (1, {"question": ""}, "question"), (1, {"answer": " \n"}, "answer"),
    *[(2, {"paraphrased_answer": x}, "paraphrased_answer")
      for x in (3, False, " ", [], ["a"], {"a": "b"}, "half \ud800", "a" * 100_001)],
    *[(2, {"perturbed_answer": x}, "perturbed_answer")
      for x in ("b", 3, {}, [], [4], [None], ["a", " "], ["a", ["b"]], ["a", "half \udc00"])],
    (2, {"answer": "a" * 100_001}, "answer.*100001"), (2, {"question": "\udfff?"}, "question"),
    (1, {"perturbed_answer": ["Eve.", "Bob."]}, "perturbed_answer.*'Bob.'"),
    (1, {"perturbed_answer": ["It is Bob."]}, "perturbed_answer.*'It is Bob.'"),
    (3, {"paraphrased_answer": ""}, "paraphrased_answer"),     # by which the set is not measured
    (4, {"perturbed_answer": ["Bob."]}, "paraphrased_answer"),
    (2, {"paraphrased_answer": None}, "paraphrased_answer"),
    (4, {"paraphrased_question": ["Who?"]}, "paraphrased_question")])
def test_a_row_that_cannot_be_used_is_named(tmp_path, line, change, field):
    with pytest.raises(ValueError, match=rf"own.jsonl\D*{line}\b.*{field}") as caught:
        load(changed(tmp_path / "own.jsonl", line, change))
    assert len(str(caught.value)) < 300 + len(str(tmp_path)), "one line, whatever the row holds"


@pytest.mark.parametrize("line, copied, refused", [
    (2, 1, True), (4, 2, True), (5, 1, True), (5, 2, True), (3, 2, True), (5, 3, True),
    (4, 1, False), (3, 1, False)])
def test_what_is_forgotten_or_held_out_is_in_no_other_set(tmp_path, line, copied, refused):
    """By question and answer, whatever the white space between the words."""
    change = {"question": OWN[copied - 1]["question"].replace(" ", "  ") + "\n",
              "answer": OWN[copied - 1]["answer"], "perturbed_answer": ["Ann."]}
    change["paraphrased_answer"] = "Of course."
    path = changed(tmp_path / "own.jsonl", line, change)
    both = rf"own.jsonl, line ({line}\b.*line {copied}|{copied}\b.*line {line})\b"
    with pytest.raises(ValueError, match=both) if refused else nullcontext():
        load(path)
    load(changed(path, line, change | {"answer": "Another answer."}))


@pytest.mark.parametrize("without, refused", [
    ((), None), ((1,), "retain"), ((2,), "forget"), ((3,), "world"), ((1, 2), "retain|forget"),
    ((1, 2, 3), None)])
def test_every_measured_set_has_wrong_answers_or_none_has(tmp_path, without, refused):
    """Else a line of the table would be missing, and nothing would say why."""
    path = write_rows(tmp_path / "own.jsonl", [
        row | {"perturbed_answer": None} if i in without else row for i, row in enumerate(OWN, 1)])
    named = rf"own.jsonl\D*\d\b.*perturbed_answer.*({refused})"
    with pytest.raises(ValueError, match=named) if refused else nullcontext():
        load(path)


# ---- what ROUGE-L can't see

@pytest.mark.parametrize("answer, seen", [
    ("Bob.", True), ("7", True), ("\u00c9t\u00e9 \u00e0", True), ("\u043e\u043d", False),
    ("\u4ed6\u751f", False), ("\U0001f44d", False), ("- ? -", False)])
def test_an_answer_that_rouge_cannot_see_is_told(tmp_path, monkeypatch, capsys, answer, seen):
    """One line, from the first process: the first such answer, and how many more there are."""
    rows = OWN[:3] + [OWN[3] | {"answer": answer}, OWN[3] | {"answer": answer * 2},
                      OWN[4] | {"answer": answer * 3}]
    load(write_rows(tmp_path / "own.jsonl", rows))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (not seen)
    assert seen or re.search(r"own.jsonl\D*4\b.*ROUGE.*\b1 more", said[0]), "not of holdout"
    monkeypatch.setattr(sources, "rank_and_size", lambda: (1, 2))
    load(tmp_path / "own.jsonl")
    assert not capsys.readouterr().err


# ---- measuring texts

class Parrot:
    """A model that goes on as `text` (token ids) does; with text None, that says nothing."""
    def __init__(self, text):
        self.text = text

    def parameters(self):
        return iter([torch.zeros(1)])

    def token_losses(self, batch):
        return torch.arange(len(batch.labels)) / 10.0

    def generate(self, prompts, max_new, stop):
        self.prompts = prompts
        if self.text is None:
            return [[] for _ in prompts]
        return [(self.text[len(p):] + p[1:] + p[1:])[:max_new] for p in prompts]


def test_verbmem_is_the_rouge_of_the_second_half_given_the_first():
    rows = [sources.text_row("Ann keeps bees in Lima."),
            sources.text_row("Ann keeps bees in Lima and makes jam.")]
    tokenizer = data.word_tokenizer({"forget": rows})
    short, long = (e.tokens for e in data.encode_rows(tokenizer, rows))
    model = Parrot(long)
    m = sources.measure_texts(model, tokenizer, rows)
    assert model.prompts == [short[:4], long[:5]], "end of text, and half of 6 or 9 tokens"
    assert (m["prompts"], m["gold"]) == (["Ann keeps bees", "Ann keeps bees in"],
                                         ["in Lima.", "Lima and makes jam."])
    assert m["answers"] == ["in Lima and", "Lima and makes jam."], "no longer than the true one"
    assert m["verbmem"] == pytest.approx(100 * (0.8 + 1) / 2)      # F1 of 2 of 3 and 2 of 2 words
    assert m["loss"] == pytest.approx([0.3, 1.15]) and "rouge" not in m
    assert m["min_k"] == pytest.approx([0.45, 1.4]), "the worst 40% of the labels, the end left out"
    assert sources.measure_texts(Parrot(None), tokenizer, rows)["verbmem"] == 0


def test_a_summary_of_texts_has_verbmem_and_knowmem():
    """KnowMem is the F1 of answers to questions: recall would be 1 for the babbling one."""
    n = measuring.ENOUGH_ROWS
    text = lambda loss: {"loss": torch.full((n,), loss).double().numpy(),
                         "min_k": torch.full((n,), loss).double().numpy(), "verbmem": 70.0}
    asked = {"answers": ["Lima and so on and on", "Oslo"], "gold": ["Lima", "Oslo"]}
    measured = {"forget": text(1.0), "retain": text(0.5), "holdout": text(2.0),
                "forget_questions": asked, "retain_questions": {**asked, "answers": ["", "Oslo"]}}
    retrained = {**measured, "forget": text(2.0)}
    out = measuring.summary(measured, retrained)
    assert out == pytest.approx({
        "forget_loss": 1, "forget_prob": math.exp(-1), "forget_verbmem": 70,
        "forget_knowmem": 100 * (2 / 7 + 1) / 2, "retain_loss": 0.5, "retain_prob": math.exp(-0.5),
        "retain_verbmem": 70, "retain_knowmem": 50, "holdout_loss": 2, "membership_auc": 1,
        "privleak": -100})
