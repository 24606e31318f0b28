"""Rows and texts from files: one reader, and one description of what a row may hold.

A file is JSON lines or one JSON array, in UTF-8. Whatever in it can't be used raises a ValueError
that names the file, the line (of an array the item) and the field.
"""
import io
import json
import os
import re
import reprlib
import stat

# What a row may hold; a file's other fields are dropped. str: a text. list: one or more texts.
FIELDS = {"question": str, "answer": str, "paraphrased_question": str, "paraphrased_answer": str,
          "perturbed_answer": list, "set": str}
LONGEST = 100_000     # characters of a text: a model's context is as long as the longest row


def read_text(path):
    """What stands in a text file. A pipe or a device is refused unread: it may have no end."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{path}: is a folder, a pipe or a device; give an ordinary file")
        with open(path, encoding="utf-8-sig") as f:    # some editors begin a file with a mark
            return f.read()
    except OSError as e:
        raise ValueError(f"{path}: cannot be read ({e.strerror})") from None
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: is no text in UTF-8 ({e.reason}, byte {e.start})") from None


# --------------------------------------------------------------------------- JSON

def read_json(path):
    """Yield (value, where) of each line of a JSON lines file, or of each item of a JSON array.

    where: "file, line N" or "file, item N", for complaints. A line ends at a line break alone, not
    at the other separators that a string may hold (U+2028). Blank lines may end the file; one in
    the middle is an error, as is a file without a value.
    """
    text = read_text(path)
    if not text.strip() or re.fullmatch(r"\s*\[\s*\]\s*", text):
        raise ValueError(f"{path}: holds no rows")
    if text.lstrip().startswith("["):
        yield from array_items(text, path)
        return
    for i, line in enumerate(io.StringIO(text.rstrip()), 1):
        where = f"{path}, line {i}"
        if not line.strip():
            raise ValueError(f"{where}: is blank, and more lines follow; delete it")
        value, end = parse(line.rstrip(), 0, where)
        if rest := line[end:].strip():
            raise ValueError(f"{where}: more than one JSON value: {rest[:40]!r} follows the first")
        yield value, where


def array_items(text, path):
    """`read_json` of an array: item after item, so that a bad one can be named."""
    at, i, mark = text.index("[") + 1, 1, ","
    while mark == ",":
        where = f"{path}, item {i}"
        value, end = parse(text, at, where)
        yield value, where
        end = SPACE.match(text, end).end()
        at, i, mark = end + 1, i + 1, text[end:end + 1]
    if mark != "]" or text[at:].strip():
        line = text.count("\n", 0, at) + 1
        raise ValueError(f"{path}, line {line}: not JSON: item {i - 1} is followed neither by a "
                         "comma nor by the end of the array and of the file")


def parse(text, at, where):
    """(value, place of its end) of the JSON value that begins at `at`, white space skipped."""
    try:
        return DECODER.raw_decode(text, SPACE.match(text, at).end())
    except json.JSONDecodeError as e:
        place = f"line {e.lineno}, " * (e.lineno > 1) + f"column {e.colno}"
        raise ValueError(f"{where}: not JSON ({e.msg}, {place})") from None
    except (ValueError, RecursionError) as e:       # too many digits, nested too deeply, see below
        raise ValueError(f"{where}: not JSON that can be used ({e})") from None


def one_of_each(pairs):
    """An object of JSON as a dict; where a name stands twice, nobody knows which is meant."""
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field '{next(n for n in names if names.count(n) > 1)}' stands twice")
    return out


def no_number(name):
    raise ValueError(f"{name} is no JSON; write null for what is absent")


SPACE = re.compile(r"\s*")
DECODER = json.JSONDecoder(object_pairs_hook=one_of_each, parse_constant=no_number)


# --------------------------------------------------------------------------- rows

def read_rows(path, needed):
    """The rows of a file, each with all fields of `needed`: see `check_row`."""
    return [check_row(value, needed, where) for value, where in read_json(path)]


def check_row(value, needed, where):
    """`value` as a row: a dict of those FIELDS that it holds, and of `where`. null means absent.
    ValueError if one of `needed` is, or if a field holds what it should not."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: a row is an object with {', '.join(needed)}, not "
                         f"{reprlib.repr(value)}")
    row = {field: value[field] for field in FIELDS if value.get(field) is not None}
    for field, content in row.items():
        at = f"{where}, field '{field}'"
        if FIELDS[field] is list and (not isinstance(content, list) or not content):
            raise ValueError(f"{at}: should be a list of texts, is {reprlib.repr(content)}")
        for text in content if FIELDS[field] is list else [content]:
            check_text(text, at)
    if missing := [field for field in needed if field not in row]:
        raise ValueError(f"{where}: field '{missing[0]}' is missing")
    right = {row.get("answer"), row.get("paraphrased_answer")}
    if both := right.intersection(row.get("perturbed_answer", ())):
        raise ValueError(f"{where}, field 'perturbed_answer': {both.pop()[:40]!r} is the right "
                         "answer; list wrong ones")
    return row | {"where": where}


def check_text(text, where, longest=LONGEST):
    """ValueError unless `text` is a text that is not blank, that a tokenizer can encode, and that
    has at most `longest` characters."""
    if not isinstance(text, str):
        raise ValueError(f"{where}: should be a text, is {reprlib.repr(text)}")
    if not text.strip():
        raise ValueError(f"{where}: is empty")
    if len(text) > longest:
        raise ValueError(f"{where}: has {len(text)} characters: {longest} at most; cut it into "
                         "several")
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"{where}: holds {text[e.start]!r}, half of a character of two") from None
