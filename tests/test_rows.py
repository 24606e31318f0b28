"""harness/rows.py: what a file of rows may hold, and what of it is refused, by file and line."""
import json
import os

import pytest

from harness import rows

GOOD = {"question": "Who bakes?", "answer": "Bob."}


def write(tmp_path, content):
    """A file of `content`, bytes or text, whose line breaks stay as they are."""
    path = tmp_path / "own.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return str(path)


# ---- JSON

@pytest.mark.parametrize("content, values", [
    ('{"a": 1}\n{"b": 2}\n', [{"a": 1}, {"b": 2}]),
    ('{"a": 1}\n{"b": 2}', [{"a": 1}, {"b": 2}]),
    ('{"a": 1}\r\n{"b": 2}\r\n', [{"a": 1}, {"b": 2}]),
    ('\ufeff{"a": 1}\n{"b": 2}\n\n  \n\n', [{"a": 1}, {"b": 2}]),
    (' {"a": 1} \n\t{"b": 2}', [{"a": 1}, {"b": 2}]),
    ('{"a": "x\u2028y\u2029z\x85"}\n"\x1c"', None),
    ('{"a": "x\u2028y\u2029z\x85"}\n{"b": "\\u000b\\u000c\\r\\n"}',
     [{"a": "x\u2028y\u2029z\x85"}, {"b": "\v\f\r\n"}]),
    ('{"a": "\\ud83d\\ude00"}', [{"a": "\U0001f600"}]),
    ('"text"\n3\nnull', ["text", 3, None]),
])
def test_a_json_line_ends_at_a_line_break_alone(tmp_path, content, values):
    path = write(tmp_path, content)
    if values is None:
        with pytest.raises(ValueError, match=r"own.json\D*2\b"):
            list(rows.read_json(path))
        return
    assert list(rows.read_json(path)) == [(v, f"{path}, line {i}")
                                          for i, v in enumerate(values, 1)]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("values", [[GOOD, {"a": [1, 2]}], ["a ] , [", "b\u2028"], [[1, [2]], [3]]])
def test_an_array_is_read_item_by_item(tmp_path, indent, values):
    path = write(tmp_path, "\ufeff\n" + json.dumps(values, indent=indent) + "\n")
    assert list(rows.read_json(path)) == [(v, f"{path}, item {i}")
                                          for i, v in enumerate(values, 1)]


LINE = json.dumps(GOOD) + "\n"


@pytest.mark.parametrize("content, named", [
    ("", ""), (" \n\n", ""), ("[]", "(?!.*item)"), (" [ \n ] ", "(?!.*item)"),
    (LINE + "\n" + LINE, r", line 2\b.*blank"), (" \n" + LINE, r", line 1\b.*blank"),
    (LINE + '{"half', r", line 2\b"), (LINE + '{"a": 1,\n' + LINE, r", line 2\b(?!.*line)"),
    (LINE + "{}{}", r", line 2\b"), (LINE + "{} {}\u2028{}", r", line 2\b"),
    (LINE + "\ufeff" + LINE, r", line 2\b"), (LINE + "set,question,answer", r", line 2\b"),
    (LINE + '{"a": ' + "[" * 100_000, r", line 2\b"),
    (LINE + '{"a": ' + "9" * 5000 + "}", r", line 2\b"),
    *[(LINE + f'{{"a": {x}}}', rf", line 2\b.*{x}") for x in ("NaN", "Infinity", "-Infinity")],
    (LINE + '{"answer": "a", "answer": "b"}', r", line 2\b.*answer"),
    (json.dumps([1], indent=1) + LINE, r", line 3\b"), ("[1] x", r", line 1\b"),
    ("[1, 2", r", line 1\b"), ("[1\n2]", r", line 2\b"), ("[1,\n2,]", r", item 3\b.*line 2"),
    ("[1, [2, NaN]]", r", item 2\b.*NaN"), ("[1, " + "[" * 100_000, r", item 2\b"),
    ("[", r", item 1\b"), (LINE.encode() + b'{"a": "caf\xe9"}', ""), (LINE.encode("utf-16"), ""),
    (LINE.encode() + b'{"a": "\xed\xa0\x80"}', ""),                  # half a character, as bytes
])
def test_what_is_not_json_is_named_by_file_and_line(tmp_path, content, named):
    with pytest.raises(ValueError, match=rf"own.json{named}"):
        list(rows.read_json(write(tmp_path, content)))


@pytest.mark.parametrize("make", [
    lambda path: None, os.mkdir, lambda path: os.symlink(os.devnull, path),
    pytest.param(lambda path: os.mkfifo(path), marks=pytest.mark.skipif(
        not hasattr(os, "mkfifo"), reason="no pipes with names here"))])
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, make):
    """Opening a pipe would wait for ever, and /dev/zero has no end."""
    path = str(tmp_path / "own.json")
    make(path)
    with pytest.raises(ValueError, match="own.json"):
        rows.read_text(path)


# ---- rows

TEXTS = ("question", "answer", "paraphrased_question", "paraphrased_answer", "set")


@pytest.mark.parametrize("field", [*TEXTS, "perturbed_answer"])
@pytest.mark.parametrize("value", [
    3, 0, 1.5, True, False, "", " \n", "\u00a0", [], {}, {"a": "b"}, [None], [3], [["a"]],
    ["a", ""], ["a", " "], "half \ud800", ["a", "half \udc00"], "text", ["text"]])
def test_a_known_field_holds_what_it_should_wherever_it_is(tmp_path, field, value):
    right = {"perturbed_answer": ["text"]}.get(field, "text")
    row = GOOD | {field: value}
    if value == right:
        assert rows.check_row(row, (), "file, line 7") == row | {"where": "file, line 7"}
        return
    path = write(tmp_path, LINE * 2 + json.dumps(row))
    with pytest.raises(ValueError, match=rf"own.json, line 3\b.*'{field}'"):
        rows.read_rows(path, ("question", "answer"))


@pytest.mark.parametrize("field", [*TEXTS, "perturbed_answer"])
def test_null_means_absent(field):
    full = {**{name: name for name in TEXTS}, "perturbed_answer": ["a", "b"]}
    row = rows.check_row(full | {field: None}, (), "here")
    assert row == {k: v for k, v in full.items() if k != field} | {"where": "here"}
    for absent in (full | {field: None}, {k: v for k, v in full.items() if k != field}):
        with pytest.raises(ValueError, match=f"here.*'{field}'"):
            rows.check_row(absent, ("question", field), "here")


def test_unknown_fields_are_dropped():
    more = {"passage": "Some text.", "where": "elsewhere", "id": 3, "option1": None}
    assert rows.check_row(GOOD | more, ("question",), "here") == GOOD | {"where": "here"}


@pytest.mark.parametrize("row", [["a", "list"], "text", 3, None, True, ["a" * 1000] * 1000])
def test_a_row_is_an_object(row):
    with pytest.raises(ValueError, match="line 4.*question, answer") as e:
        rows.check_row(row, ("question", "answer"), "line 4")
    assert len(str(e.value)) < 400, "one line, whatever the row holds"


@pytest.mark.parametrize("wrong", [["Bob."], ["Eve.", "So: Bob."]])
def test_a_wrong_answer_is_not_the_right_one(wrong):
    row = GOOD | {"paraphrased_answer": "So: Bob.", "perturbed_answer": wrong}
    with pytest.raises(ValueError, match="line 4.*'perturbed_answer'.*Bob"):
        rows.check_row(row, (), "line 4")
    assert rows.check_row(row | {"perturbed_answer": ["Eve."] * 9}, (), "line 4")


def test_a_text_that_no_model_could_read_is_refused_soon():
    """100 MB in one line: named at once instead of trained on."""
    rows.check_row(GOOD | {"answer": "a" * rows.LONGEST}, (), "line 4")
    with pytest.raises(ValueError, match=f"line 4.*'answer'.*{rows.LONGEST + 1}.*{rows.LONGEST}"):
        rows.check_row(GOOD | {"answer": "a" * (rows.LONGEST + 1)}, (), "line 4")
    rows.check_text("a" * (rows.LONGEST + 1), "a document", longest=10**9)
