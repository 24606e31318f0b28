"""harness/muse.py: MUSE's folder is read, cut into windows and measured as MUSE defines it."""
import json

import numpy as np
import pytest

import conftest
import data
import metrics
import train
from conftest import Stub, go
from harness import measuring, muse

WORDS = "amber birch cedar delta ember flint grove heron inlet juniper kelp larch maple".split()


def text(seed, n):
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice(WORDS, n)) + f" number {seed}."


def write(folder, name, content):
    path = folder / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


@pytest.fixture
def folder(tmp_path):
    """A folder of MUSE-News's layout: documents of 90 words, so of two windows or so."""
    many = lambda first, n: [text(first + i, 90) for i in range(n)]
    forget, retain, holdout = many(0, 4), many(10, 4), many(30, 9)
    asked = lambda documents: [{"question": f"What is {i}?", "answer": d.split()[3]}
                               for i, d in enumerate(documents)]
    prompts = [{"prompt": d[:d.index(" ", 300)], "gt": d[d.index(" ", 300):]} for d in forget]
    for name, content in {
            "raw/forget": forget, "raw/retain1": retain, "raw/retain2": many(20, 4),
            "raw/holdout": many(50, 3), "verbmem/forget": prompts, "privleak/forget": forget * 2,
            "privleak/retain": retain, "privleak/holdout": holdout,
            "knowmem/forget_qa": asked(forget), "knowmem/retain_qa": asked(retain),
            "knowmem/retain_qa_icl": [{"question": "Why?", "answer": "slate"}] * 3}.items():
        write(tmp_path, name, content)
    return tmp_path


def small(folder):
    return ["--data", str(folder), *"--n_embd 16 --n_layer 1 --steps 2 --epochs 1".split()]


def ready(folder, *words):
    return conftest.ready(folder, *words, base=small(folder))


def test_every_token_of_a_document_is_predicted_once_and_in_its_context(folder):
    tokenizer = data.word_tokenizer(muse.load(folder))
    ids, _ = data.encode(tokenizer, "", text(0, 90))
    cut = muse.windows(tokenizer, text(0, 90), 16)
    assert [t for w in cut for t in w.tokens[w.n_prompt:]] == ids[1:]
    assert all(len(w.tokens) == 16 for w in cut[:-1]) and 2 <= len(cut[-1].tokens) <= 16
    assert all(a.tokens[-1] == b.tokens[0] for a, b in zip(cut, cut[1:]))


def test_the_roles_of_the_sets_are_muses(folder):
    run = ready(folder)
    count = lambda *names: sum(len(muse.windows(run.tokenizer, row["answer"], muse.WINDOW))
                               for name in names for row in run.rows[name])
    assert run.initial.config.block_size == muse.WINDOW and run.config.train_batch == 8
    assert len(run.learned["target"]) == count("forget", "retain", "retain2")
    assert len(run.learned["retrain"]) == count("retain", "retain2")
    assert {k: len(v) for k, v in run.examples.items()} == {
        k: count(k) for k in ("forget", "retain", "holdout")}


def test_the_defaults_let_a_model_know_documents_and_then_keep_those_to_retain(folder):
    """8 epochs were too few to know any. Without a budget, batches of 64 windows ruined it."""
    run = conftest.ready(folder, "--n_embd", "16", base=["--data", str(folder)])
    assert run.config.epochs == train.Config().epochs == 40
    assert train.training_stage(run, "target", 1).steps == 40 * -(-len(run.learned["target"]) // 8)
    assert (run.config.batch, run.config.budget) == (64, 0.1)


def test_documents_cuts_the_files_and_keeps_what_is_still_asked_about(folder):
    rows = ready(folder, "--documents", "2").rows
    for name in ("forget", "retain", "retain2", "holdout", "verbmem", "privleak_holdout"):
        assert len(rows[name]) == 2
    assert rows["privleak_forget"] == rows["forget"], "what is cut must still be what was learned"
    assert rows["privleak_retain"] == rows["retain"] + rows["retain2"]
    held = " ".join(d["answer"] for d in rows["forget"])
    assert all(row["answer"] in held for row in rows["forget_questions"])
    write(folder, "knowmem/forget_qa", [{"question": "What?", "answer": "nowhere"}])
    with pytest.raises(ValueError, match="--documents 2"):
        ready(folder, "--documents", "2")
    with pytest.raises(ValueError, match="--documents"):               # without MUSE's folder
        conftest.ready(folder, "--documents", "2")


def test_the_level_is_measured_on_other_documents_than_privleak_where_there_are_some(folder):
    leaked = json.loads((folder / "privleak/holdout.json").read_text("utf-8"))
    for raw, left in ((leaked[:2] + [text(77, 90)], [text(77, 90)]), (leaked[:2], leaked[:2])):
        write(folder, "raw/holdout", raw)
        assert [row["answer"] for row in muse.load(folder)["holdout"]] == left


def test_verbmem_counts_the_first_tokens_of_the_text_after_the_end_of_the_prompt(
        folder, monkeypatch):
    run = ready(folder)
    monkeypatch.setattr(muse, "measure_documents", lambda *_: {})
    prompt, said = (run.tokenizer.encode_ordinary(run.rows["verbmem"][0][k])
                    for k in ("question", "answer"))
    out = muse.measure(model := Stub(lambda _: said, 40), run.tokenizer, run.rows)["forget"]
    assert model.prompts[0] == prompt[-20:], "the end of the prompt, and half of the context"
    assert out["gold"][0] == out["answers"][0] == run.tokenizer.decode(said[:20]).strip()
    assert out["verbmem"] == pytest.approx(metrics.muse_mem(out["answers"], out["gold"]))


def test_with_documents_verbmem_is_of_what_was_learned_the_first_window_of_each_document(
        folder, monkeypatch):
    run = ready(folder, "--documents", "3")
    monkeypatch.setattr(muse, "measure_documents", lambda *_: {})
    first = [muse.windows(run.tokenizer, text(i, 90), 64)[0].tokens for i in range(3)]
    assert all(ids in [e.tokens for e in run.learned["target"]] for ids in first)
    knows = {tuple(ids[:32]): ids[32:] for ids in first}
    out = muse.measure(model := Stub(lambda ids: knows.get(tuple(ids), []), 64), run.tokenizer,
                       run.rows)["forget"]
    assert model.prompts[:3] == [ids[:32] for ids in first]
    assert out["answers"] == out["gold"] and out["verbmem"] == 100


def test_privleak_is_of_whole_documents_by_their_40_percent_least_likely_tokens(folder):
    run = ready(folder)
    rows = run.rows["privleak_holdout"]
    m = muse.measure_documents(run.initial, run.tokenizer, rows)
    losses = np.concatenate(measuring.token_losses(
        run.initial, muse.windows(run.tokenizer, rows[3]["answer"], muse.WINDOW)))
    assert len(losses) == 1 + len(run.tokenizer.encode_ordinary(" " + rows[3]["answer"]))
    assert m["loss"][3] == pytest.approx(losses.mean())
    assert m["min_k"][3] == pytest.approx(metrics.min_k_score(-losses[:-1]))


def test_a_question_comes_after_the_worked_examples_that_fit_and_ends_where_the_next_begins(folder):
    run = ready(folder)
    tokenizer, rows = run.tokenizer, run.rows["retain_questions"]
    example, own = "Question: Why?\nAnswer: slate\n\n", f"Question: {rows[0]['question']}\nAnswer:"
    n = [len(tokenizer.encode_ordinary(t)) for t in (example, own)]
    said = tokenizer.encode_ordinary(" reed\n\nQuestion: Who?\nAnswer: me")
    for fit in (0, 1, 3):
        model = Stub(lambda _: said, 2 * (fit * n[0] + n[1]))    # half is for the answer
        out = muse.ask(model, tokenizer, rows, run.rows["retain_examples"])
        assert tokenizer.decode(model.prompts[0]) == fit * example + own
        assert out["answers"] == ["reed"] * len(rows) and out["gold"][0] == rows[0]["answer"]


@pytest.mark.parametrize("name, content, says", [
    ("raw/retain1", [], r"retain1\.json"), ("raw/forget", ["ok", 7], "item 2"),
    ("raw/forget", [" "], "item 1"), ("verbmem/forget", [{"prompt": "a b"}], "gt"),
    ("knowmem/retain_qa", [{"question": "a", "answer": "half \ud800"}], "retain_qa.*'answer'"),
    ("privleak/retain", ["a" * 10_000_001], "10000001"),
    ("raw/retain2", [text(0, 90)], "retain2.*forget.*forget")])
def test_what_is_missing_or_of_the_wrong_form_or_in_two_roles_is_named(folder, name, content, says):
    write(folder, name, content)
    with pytest.raises(ValueError, match=says):
        ready(folder)


def test_a_folder_without_worked_examples_is_read_and_run_to_the_end(
        folder, capsys, in_this_process, no_drawing):
    (folder / "knowmem" / "retain_qa_icl.json").unlink()
    code, results = go(folder / "cache", folder / "out", "--level", base=small(folder))
    names = {"forget_verbmem", "retain_knowmem", "privleak"}
    assert code == 0 and names <= results["models"]["ngdiff"].keys()
    assert "[forget]" in capsys.readouterr().out
