"""The command line: what a wrong word gets, what a command does when it ends, folder names; and
the house itself: imports, sizes of functions, number of flags."""
import ast
import importlib
import os
import re
import shlex
import sys
import types
from concurrent.futures import BrokenExecutor
from dataclasses import fields
from functools import cache

import pytest
import torch

import train
from conftest import ROOT, code_of, refused
from harness import files, flags
from test_data import write_tofu
from test_sources import write_texts

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A folder with a file, texts, and TOFU's files with a broken row."""
    folder = tmp_path_factory.mktemp("read")
    (folder / "file").touch()
    for name, write in (("texts", write_texts), ("tofu", write_tofu)):
        (folder / name).mkdir()
        write(folder / name)
    (folder / "tofu/holdout10.json").write_text('{"question": "q"}\n')
    return folder


@pytest.mark.parametrize("command, named", [
    *((command, command) for command in (        # the words themselves are quoted
        "--step 5", "--lr 0", "--lr nan", "--lr 1e-30", "--train_lr inf", "--steps 0",
        "--epochs inf", "--epochs -1", "--authors 1", "--seed -1", "--seed 18446744073709551616",
        "--lazy -1", "--n_embd 1000000", "--n_layer 1000000", "--budget nan", "--data nowhere",
        "--device cuda")),
    ("--method sgd", "--method.*'sgd'"), ("--lr fast", "--lr.*'fast'"), ("--lr 1e20", "--lr 1e.20"),
    ("--weight_decay 1", "--weight_decay"),                                  # a setting, no flag
    ("--method gdiff --c 1.5", "--c 1.5"), ("--epochs 0", "--epochs 0.*--init FILE"),
    ("--epochs 0 --train_lr 0.1", "--train_lr.*--epochs 0 trains nothing"),
    ("--authors 500", "--authors.* 484"), ("--tiny --data x", "--tiny"),
    ("--c 0.9", "--c: .*gdiff"), ("--method gdiff --c 0.3", "--c 0.3.*--lr"),
    ("--n_embd 30", "--n_embd 30.*multiple of 4"),
    ("--n_layer 500 --n_embd 8192", "--n_layer 500.*--n_embd 8192"),
    ("--budget 0.1 --lazy 0", "--budget: .*no fit"),
    ("--budget 0.1 --method gdiff --lazy 10", "--budget: only with ngdiff"),
    ("--level --method npo", "--level: npo"), ("--level --method retain", "--level: retain"),
    ("--level --method lossnorm", "--level: lossnorm"),
    ("--init nowhere.bin", "nowhere.bin"),
    ("--tiny --out file/run", "--out.*file"), ("--tiny --cache file", "--cache.*file"),
    ("--data texts --authors 9", "--authors"), ("--data texts --forget forget05", "--forget"),
    ("--data tofu --authors 10", r"holdout10.json, line 1.*answer"),
    ("--out a\0b", "--out"), (f"--out {'x' * 300}", "--out"),
    (f"--authors 10 --cache {'x' * 300}", "--cache"),
])
def test_a_mistake_gets_one_line_that_names_it_and_nothing_is_written(
        read, capsys, monkeypatch, command, named):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(read)
    before = sorted(read.rglob("*"))
    assert re.search(named, refused(capsys, shlex.split(command)))
    assert sorted(read.rglob("*")) == before


def test_a_run_never_overwrites_what_it_reads(capsys, tmp_path):
    for flag, name in (("--init", "model.pt"), ("--data", "log.csv")):
        path, link = tmp_path / name, tmp_path / f"link to {name}"
        path.write_bytes(b"mine")
        link.symlink_to(path)
        for given in (path, link, os.path.relpath(path)):
            assert flag in refused(capsys, [flag, given, "--out", tmp_path])
        assert path.read_bytes() == b"mine"


def test_more_processes_than_rows_are_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(flags.processes, "rank_and_size", lambda: (0, 50))
    assert "50 processes" in refused(capsys, ["--authors", "16", "--out", str(tmp_path / "o")])


@pytest.fixture
def parse(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda command: flags.parse(train.Config, command.split(), train.__doc__)


def test_a_bare_command_is_the_tiny_story(parse):
    bare, tofu = parse(""), parse("--data .")
    assert bare == parse("--tiny") and bare.tiny and bare.authors == 160
    assert (bare.lazy, bare.lr) == (10, flags.FIRST_GUESS)
    assert parse("--data muse").tiny
    assert (tofu.authors, tofu.n_embd, tofu.tiny) == (200, 192, False)


@pytest.mark.parametrize("method", train.METHODS)
def test_every_method_has_a_rate_of_its_own_for_either_optimizer(parse, method):
    rates = flags.RATES["gdiff 0.9" if method == "gdiff" else method]
    for i, optimizer in enumerate(("sgd", "adam")):
        command = f"--method {method} --lazy 0 --optimizer {optimizer}"
        assert parse(command).lr == rates[i]
        if method not in flags.NO_LEVEL:
            assert parse(command + " --level").lr == rates[2 + i]
    assert parse(f"--method {method} --lr 0.2").lr == 0.2
    assert parse(f"--method {method} --lazy 9").lr == flags.FIRST_GUESS
    assert parse(f"--method {method}").lazy == (10 if method == "ngdiff" else 0)
    assert parse("--method gdiff --c 0.3 --lr 0.2").lr == 0.2


def test_commands_that_differ_have_run_folders_that_differ(parse, tmp_path):
    (tmp_path / "a/b").mkdir(parents=True), (tmp_path / "b").mkdir()
    commands = ["", "--method gdiff", "--method gdiff --c 0.5", "--level", "--forget forget05",
                "--seed 1", "--lr 0.1", "--lazy 0", "--steps 5", "--data muse", "--data a",
                "--data b", "--data a/b", "--data a --n_embd 64", "--epochs 122222",
                f"--init {'x' * 200}1", f"--init {'x' * 200}2"]
    names = {command: parse(command).out for command in commands}
    assert len(set(names.values())) == len(names)
    assert all(len(os.path.basename(name)) < 120 for name in names.values())
    assert parse(f"--data {tmp_path}/b").out == names["--data b"], "one place"
    assert parse("--cache c").out == names[""], "the cache is no matter"


@pytest.mark.parametrize("doc", [train.__doc__, None])     # None: python -OO
def test_help_shows_every_flag_with_its_default(capsys, doc):
    with pytest.raises(SystemExit):
        flags.parse(train.Config, ["--help"], doc)
    text = capsys.readouterr().out
    for f in fields(train.Config):
        assert (f"--{f.name}" in text) == bool(f.metadata["help"])
    text = " ".join(text.split())
    assert "default: 80" in text and "200 with --data" in text
    assert "(default: 0.1 with a Llama, 0.1 with MUSE's folder)" in text, "--budget's: else none"


# ---- how a command ends

def ends(error):
    """The exit code of a command at whose work this is raised."""
    def act(run):
        if error is not None:
            raise error
    return code_of([], lambda argv: flags.command(list, act, argv))


@pytest.mark.parametrize("error, code, said", [
    (None, 0, ""), (FloatingPointError("loss nan"), 1, "loss nan"),
    (OSError(28, "No space left"), 1, "No space"), (files.Refused("--out"), 2, "error: --out"),
    (KeyboardInterrupt(), 130, "the same command goes on"),
    (BrokenExecutor(), 1, "memory.*--train_batch"), (MemoryError(), 1, "--micro_batch"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), 1, "--micro_batch"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "--micro_batch")])
def test_every_end_has_its_exit_code_and_one_line(capsys, error, code, said):
    assert ends(error) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == (error is not None) and re.search(said, "".join(lines))


def test_another_error_is_none_of_these():
    with pytest.raises(RuntimeError, match="something else"):
        ends(RuntimeError("something else"))


def test_a_broken_pipe_is_one_line(capsys, monkeypatch, tmp_path):
    def broken(*_):
        raise BrokenPipeError(32, "Broken pipe")
    with open(tmp_path / "file", "wb") as f:
        gone = types.SimpleNamespace(write=broken, flush=broken, fileno=f.fileno)
        monkeypatch.setattr(sys, "stdout", gone)
        assert ends(None) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


# ---- the house

# Not every file that lies here: a user's scripts, a copy with an assignment and an environment may.
HOUSE = ("ngdiff.py", "train.py", "model.py", "data.py", "metrics.py", "harness/", "experiments/",
         "theory/", "assignments/", "tests/")
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
           for name in HOUSE[:-1] for p in sorted(
               (ROOT / name).rglob("*.py") if name.endswith("/") else [ROOT / name])}


@pytest.mark.skipif((ROOT / ".assignments.json").exists(), reason="a copy's README has the task")
def test_the_readme_lists_the_whole_house():
    text = (ROOT / "README.md").read_text("utf-8")
    assert tuple(re.findall(r"^\| `(\S+)` \| \d+ \|", text, re.M)) == HOUSE


@cache
def tree(path):
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


@cache
def imports(path):
    """(name, the dotted name that it stands for) of each name that a file imports, wherever."""
    parent = lambda node: f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
    return [(a.asname or a.name, parent(node) + a.name) for node in tree(path)
            if isinstance(node, (ast.Import, ast.ImportFrom)) for a in node.names]


def imported(path):
    """The dotted names and the modules that they are taken from."""
    names = {name for _, name in imports(path)}
    return names | {name.rpartition(".")[0] for name in names}


def test_whatever_a_file_takes_from_another_is_there():
    for path in MODULES.values():
        own = dict(imports(path))
        for node in tree(path):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) \
                    and (name := own.get(node.value.id)) in MODULES:
                there = hasattr(importlib.import_module(name), node.attr)
                assert there, f"{path.name}: {name} has no {node.attr}"


def test_imports_run_downward_only():
    graph = {name: imported(path) & set(MODULES) for name, path in MODULES.items()}

    def reached(name, seen):
        for other in graph[name] - seen:
            seen |= {other} | reached(other, seen | {other})
        return seen
    for name in graph:
        below = reached(name, set())
        assert name not in below, f"{name} is imported in a circle"
        if name.startswith("harness") or name in ("data", "model", "metrics", "ngdiff"):
            top = {other.split(".")[0] for other in below}
            assert not top & {"train", "experiments", "theory"}, name
    assert not graph["ngdiff"] and not graph["model"]
    assert not graph["data"] & {"model", "metrics", "ngdiff"}


def test_nothing_is_longer_than_it_may_be():
    assert len(fields(train.Config)) <= 27
    for path in MODULES.values():
        for node in tree(path):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 45, f"{path.name}: {node.name} has {length} lines"
        assert max(map(len, path.read_text("utf-8").splitlines()), default=0) <= 100, path.name


def test_a_notebooks_backend_is_none_of_ours():
    """It may name a module that is not installed."""
    assert os.environ["MPLBACKEND"] == "agg"
    for name in ("harness.report", "train"):
        assert "pyplot" not in MODULES[name].read_text("utf-8")
    lines = MODULES["train"].read_text("utf-8")
    assert lines.index("import harness ") < lines.index("import torch")


def test_what_is_in_requirements_is_all_that_is_imported():
    allowed = set(sys.stdlib_module_names) | set(MODULES) | {
        "torch", "numpy", "matplotlib", "tiktoken", "pytest"}
    for path in MODULES.values():
        assert {name.split(".")[0] for _, name in imports(path)} <= allowed, path.name
