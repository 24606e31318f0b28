"""README.md and docs/: their commands, links, line counts and names are true."""
import ast
import importlib.util
import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import harness
from harness import measuring, report
from harness.flags import parse
from tests import peers
from train import Config

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
MEASURES = (ROOT / "docs" / "measures.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")),
         *(p for p in sorted(ROOT.glob("*/README.md"))
           if p.parent.name in ("experiments", "findings", "theory"))]
pytestmark = pytest.mark.skipif(
    (ROOT / ".assignments.json").exists(),
    reason="a student's copy has blanks, a task in its README, and no findings")
COUNT = r"(?<=^\| `)(\S+)` \| (\d+)(?= \|)"


def count(name):
    """Lines of a file, or of the Python files in a folder."""
    files = (ROOT / name).glob("*.py") if name.endswith("/") else [ROOT / name]
    return sum(file.read_text("utf-8").count("\n") for file in files)


def test_the_readme_is_short():
    assert README.count("\n") <= 150 and len(README.split()) <= 1700


@pytest.mark.parametrize("name, said", re.findall(COUNT, README, re.M))
def test_line_counts_of_the_reading_order_are_true_to_a_tenth(name, said):
    """`python -m tests.test_docs` writes the present ones into the README."""
    assert abs(count(name) - int(said)) <= 0.1 * count(name), f"{name} has {count(name)} lines"


def test_the_readmes_two_commands_set_everything_up_and_differ_in_their_end_only():
    """.ci/run takes them from the README by the same pattern."""
    pattern = r"^    (python3 -m venv .*)$"
    first, second = re.findall(pattern, README, re.M)
    assert first.removesuffix("python train.py --tiny") == second.removesuffix("python -m pytest")
    assert first != second and " pip install -r requirements.txt && " in first
    assert r"s/^    \(python3 -m venv .*\)/\1/p" in (ROOT / ".ci" / "run").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_module_link_and_flag_of_a_page_is_there(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "NEWS/raw").mkdir(parents=True)              # a folder as MUSE publishes it
    text, flags = page.read_text("utf-8"), {f.name for f in fields(Config) if f.metadata["help"]}
    for command in re.findall(r"python train\.py ?([^\n`#|;)]*)", text):
        words = [{"S": "1", "N": "1", "DIR": ".", "FILE": "."}.get(w, w)
                 for w in shlex.split(command)]
        if words not in (["--help"], ["..."]):
            parse(Config, words, "")
    for name in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(name), name
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / path).exists(), path
    if page.parent in (ROOT, ROOT / "docs"):
        assert set(re.findall(r"`--(\w+)", text)) <= flags


def numbers_of(**others):
    """What `measuring.measure` gives of a set of rows, as far as `summary` looks at it."""
    numbers = dict.fromkeys(("loss", "min_k", "rouge", "log_ratio"), np.arange(1.0, 10))
    return {**numbers, "loss_wrong": [[1.0]] * 9, "answers": ["a"], "gold": ["a"], **others}


def test_every_measure_and_log_column_is_defined():
    sets = [name + part for name in ("forget", "retain") for part in ("", "_questions", "_windows")]
    measured = {name: numbers_of() for name in (*sets, "world", "real_authors", "holdout")}
    texts = {name: numbers_of(verbmem=1.0) for name in ("forget", "retain")}
    names = set(report.LOG_COLUMNS)
    for some in (measured, measured | texts):
        names |= measuring.summary(some, some).keys()
    for name in names:      # "real_authors have the measures of the world rows"
        assert f"`{name.replace('real_authors', 'world')}`" in MEASURES, name


def test_the_table_of_other_packages_has_what_this_project_gives():
    """`python -m tests.peers` makes it; what the others give is not tried here."""
    _, table = MEASURES.split("| quantity | package |")
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[2:2 + len(peers.ROWS)]]
    assert [line[:2] + line[4:5] for line in lines] == [
        [row.quantity, row.package.replace("==", " "), peers.value(row.ours, row.input)]
        for row in peers.ROWS]


def test_the_versions_of_the_readmes_numbers_keep_to_the_lower_bounds():
    text = (ROOT / "requirements.txt").read_text("utf-8")
    number = lambda version: [int(x) for x in version.split(".")]
    least = dict(re.findall(r"^(\w+)>=(.*)$", text, re.M))
    exact = dict(re.findall(r"^# == (\w+)==(.*)$", text, re.M))
    assert least.keys() == exact.keys()
    assert all(number(exact[name]) >= number(least[name]) for name in least)


@pytest.mark.parametrize("file", ["train.py", "harness/__init__.py", "experiments/__init__.py",
                                  "theory/__init__.py", "assignments/__init__.py"])
def test_what_an_old_python_reads_first_is_grammar_that_it_knows(file):
    ast.parse((ROOT / file).read_text("utf-8"), feature_version=(3, 8))


def test_an_old_python_is_told_what_is_needed(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit, match="Python 3.11 or newer is needed"):
        exec(compile(Path(harness.__file__).read_text("utf-8"), "harness", "exec"), {})


if __name__ == "__main__":
    (ROOT / "README.md").write_text(re.sub(
        COUNT, lambda row: f"{row[1]}` | {count(row[1])}", README, flags=re.M), "utf-8")
