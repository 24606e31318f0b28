"""Names: an edit that a stage reaches gives it another name, and no other edit does. The edits are
generated; which code a stage runs is found without names.py, by watching it run."""
import ast
import itertools
import sys
import tempfile
import types
from collections import Counter
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import pytest
import torch

import train
from harness import names
from conftest import ROOT, elsewhere, ready

STARTS = {"training": (("train", "train"), ("model", "GPT"), ("harness.stages", "Stage")),
          "unlearning": (("train", "unlearn"), ("model", "GPT"), ("harness.stages", "Stage"))}
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
           for p in [*ROOT.glob("*.py"), *ROOT.glob("harness/*.py")]}
TEXTS = {module: path.read_text("utf-8") for module, path in MODULES.items()}
RUN = "--tiny --authors 10 --epochs 1e-9 --n_embd 16 --n_layer 1 --steps 1".split()


def watched(folder):
    """{stage: {"module.name"} of the functions and classes that it runs and the constants that
    these read}, by Python's bytecode."""
    seen = {stage: set() for stage in STARTS}
    module_of = {str(p): name for name, p in MODULES.items()}

    def watch(title, stage, function, *arguments):
        def look(frame, event, argument):
            code, scope = frame.f_code, frame.f_globals
            if event == "call" and (module := module_of.get(code.co_filename)):
                seen[title].add(f"{module}.{code.co_qualname.split('.')[0]}")
                owners = [(module, scope)] + [(v.__name__, vars(v)) for k in code.co_names if
                                              isinstance(v := scope.get(k), types.ModuleType)]
                seen[title].update(f"{m}.{k}" for m, names_ in owners if m in MODULES
                                   for k in code.co_names if k != "__name__" and isinstance(
                                       names_.get(k), (int, float, str, tuple, dict, list)))
        assert stage.made_of["code"] == names.reach(STARTS[title])[0], "these are its starts"
        assert stage.name
        sys.setprofile(look)
        try:
            function(stage, *arguments)
        finally:
            sys.setprofile(None)
    for flags in "--optimizer adam --level", "--method npo":
        run = ready(Path(folder), *flags.split(), base=RUN)
        target = train.training_stage(run, "target", 1)
        watch("training", target, train.train, run.learned["target"], run.config)
        watch("unlearning", train.unlearning_stage(run, target), train.unlearn, target.model,
              run.examples, run.config)
    return seen


def reached(texts, stages=STARTS):
    """{stage: the code that it reaches} in a project of these texts: {module: text}."""
    paths = {module: MODULES.get(module, ROOT / f"{module}.py") for module in texts}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "SOURCES", {str(paths[m]): text for m, text in texts.items()})
        patch.setattr(names, "definitions", cache(names.definitions.__wrapped__))
        return {stage: names.reach.__wrapped__(starts)[0] for stage, starts in stages.items()}


@pytest.fixture(scope="module")
def base():
    return reached(TEXTS)


def edits(text):
    """(kind, name at the top that it is in, (start, end, new text)) of every edit of a module."""
    for top in ast.parse(text).body:
        name = getattr(top, "name", None) or next(
            (n.id for n in ast.walk(top) if isinstance(n, ast.Name)), "")
        for node in ast.walk(top):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value and (
                    node is top or node in getattr(top, "body", ())):
                yield "constant", name, around(text, node.value, "(", ", 0)")
            if isinstance(node, ast.FunctionDef):
                at = node.body[bool(ast.get_docstring(node)) and len(node.body) > 1]
                yield "function", name, around(text, at, "0\n" + " " * at.col_offset, "")
                for value in filter(None, [*node.args.defaults, *node.args.kw_defaults]):
                    yield "default", name, around(text, value, "(", ", 0)")


def around(text, node, before, after):
    lines = text.encode().splitlines(keepends=True)
    at = lambda line, column: sum(map(len, lines[:line - 1])) + column
    start, end = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
    return start, end, before.encode() + text.encode()[start:end] + after.encode()


def edited(text, edits):
    content = text.encode()
    for start, end, new in sorted(edits, reverse=True):
        content = content[:start] + new + content[end:]
    return content.decode()


@elsewhere
def test_an_edit_of_any_code_that_a_stage_runs_gives_it_another_name():
    """A round edits each definition once."""
    base, todo, counts = reached(TEXTS), {}, Counter()
    for module, text in TEXTS.items():
        for kind, name, edit in edits(text):
            if any(f"{module}.{name}" in code for code in base.values()):
                todo.setdefault(f"{module}.{name}", []).append((module, kind, edit))
    with tempfile.TemporaryDirectory() as folder:
        seen = watched(folder)
    for stage, code in base.items():
        assert seen[stage] <= set(code)
    for round_ in itertools.zip_longest(*todo.values()):
        found = reached({module: edited(text, [edit for m, _, edit in filter(None, round_)
                                               if m == module]) for module, text in TEXTS.items()})
        for name, edit in zip(todo, round_):
            for stage, code in base.items():
                changed = found[stage].get(name) != code.get(name)
                assert changed == (edit is not None and name in code), (stage, name, edit)
                counts[stage, edit and edit[1]] += changed
    for kind, least in (("function", 40), ("constant", 30), ("default", 15)):
        assert min(counts[stage, kind] for stage in STARTS) >= least, kind


def test_another_direction_keeps_the_two_trained_models(base):
    assert "ngdiff.direction" in base["unlearning"]
    trained = set(base["training"])
    assert not trained & {f"ngdiff.{x}" for x in (
        "step", "direction", "coefficients", "autolr", "LR_RANGE", "METHODS", "update")}
    assert not trained & {"train.unlearn", "train.LEVEL_EVERY", "harness.measuring.token_losses"}
    assert not (trained | set(base["unlearning"])) & {f"train.{x}" for x in (
        "main", "prepare", "training_stage", "train_both", "Config", "Run")}


def test_what_no_stage_reaches_and_what_python_does_not_run_changes_no_name(base):
    texts, used = {}, {name.rpartition(".")[0] for code in base.values() for name in code}
    assert {"train", "ngdiff", "model", "data"} <= used
    for module, text in TEXTS.items():
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and \
                    ast.get_docstring(node) and len(node.body) > 1:
                node.body[0].value = ast.Constant("Another docstring.")
            if isinstance(node, ast.FunctionDef) and module not in used:
                node.body.append(ast.Pass())
        texts[module] = "# A comment.\n\n" + ast.unparse(tree)
    assert reached(texts) == base


# ---- forms of code in which an edit of 1 to 2 could hide, and that the project does not have: the
# texts of a.py and b.py, or only b.py's. The stage is a.f; other.py and pkg/c.py hold one function.

F = "import b\ndef f():\n    return b.g()\n"
FORMS = {
    "another outside function": ("from math import f1 as r\ndef f(): r(3)", ""),
    "star": ("from b import *\ndef f(): g()", "def g(): 1"),
    "a module in a package": ("import pkg.c\ndef f(): pkg.c.g(b)\nimport b as b", "X = 1"),
    "two functions import one name": (
        "def h():\n    from other import g\n    g()\ndef f():\n    from b import g\n    g()",
        "def g(): 1"),
    "a module passed on": ("import b\ndef f(): vars(b)", "def g(): 1"),
    "the module's own state": ("import b, torch\ntorch.default(1)\ndef f(): b.g()", "def g(): 3"),
    "another module's constant": ("import b\nb.X = 1\ndef f(): b.g()", "X = 3\ndef g(): X"),
    "a key": "X = {}\nX['k'] = 1\ndef g(): X",
    "filled by a call": "X = {}\nY = X.setdefault(3, 1)\ndef g(): X",
    "defined twice": "def g(): 3\ndef g(): 1",
}
HIDDEN = {
    "a constant that reads it": "X = 3\nY = (X, 1)\ndef g(): X",
    "an import": "import x1\ndef g(): 3",
}


@pytest.mark.parametrize("form", [*FORMS, *HIDDEN])
def test_no_form_of_code_hides_an_edit(form):
    code, found = (FORMS | HIDDEN)[form], []
    a, b = (F, code) if isinstance(code, str) else code
    for new in "12":
        texts = {"other": "def g(): 4", "pkg/__init__": "", "pkg/c": "def g(x): 4",
                 "a": a.replace("1", new), "b": b.replace("1", new)}
        found.append(reached(texts, {"a": [("a", "f")]}))
    assert (found[0] != found[1]) == (form in FORMS)


# ---- what else a name is made of

def stage_names(run):
    target = train.training_stage(run, "target", 1)
    return {"training": target.name, "unlearning": train.unlearning_stage(run, target).name}


def changed(base, run):
    """The stages whose names are not as in `base`."""
    return {stage for stage, name in stage_names(run).items() if name != base[stage]}


@pytest.fixture
def begun(tmp_path):
    return ready(tmp_path, base=RUN)


BOTH, LATER, NEITHER = {"training", "unlearning"}, {"unlearning"}, set()
SETTINGS = dict(       # field of Config: (another value, the stages whose names it changes)
    tiny=(False, NEITHER), data=("muse", BOTH), forget=("forget01", NEITHER), authors=(11, BOTH),
    documents=(3, NEITHER), seed=(1, BOTH), n_layer=(2, BOTH), n_embd=(32, BOTH),
    init=("", NEITHER), epochs=(3, BOTH), train_batch=(8, BOTH), train_lr=(1e-4, BOTH),
    weight_decay=(0.1, BOTH), method=("ga", LATER), level=("token", LATER), c=(0.5, LATER),
    optimizer=("adam", LATER), lr=(0.5, LATER), lazy=(5, LATER), steps=(9, NEITHER),
    budget=(0.1, LATER), batch=(7, LATER), micro_batch=(4, BOTH),
    out=("o", NEITHER), cache=("c", NEITHER),
    device=("cuda", BOTH), dtype=("bfloat16", BOTH))


def test_each_setting_changes_the_names_of_the_stages_that_read_it(begun, monkeypatch):
    assert set(SETTINGS) == {f.name for f in fields(train.Config)}
    base, moved = stage_names(begun), torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: moved(self, "cpu"))
    for field, (value, expected) in SETTINGS.items():
        run = train.prepare(replace(begun.config, **{field: value}))
        batch = value if field == "batch" else begun.config.batch
        run = run._replace(config=replace(run.config, batch=batch))
        assert changed(base, run) == expected, field


def test_so_do_rows_weights_sizes_threads_processes_and_torch(begun, monkeypatch):
    base = stage_names(begun)
    assert changed(base, begun) == NEITHER
    swapped = {name: some[::-1] for name, some in begun.learned.items()}
    assert changed(base, begun._replace(learned=swapped)) == BOTH, "in another order"
    fewer = {**begun.examples, "holdout": begun.examples["holdout"][1:]}
    assert changed(base, begun._replace(examples=fewer)) == LATER
    assert train.training_stage(begun, "target", 2).name != base["training"]
    for module, name, value, expected in ((torch, "get_num_threads", lambda: 99, LATER),
                                          (torch, "__version__", "another", BOTH),
                                          (names, "rank_and_size", lambda: (0, 2), BOTH)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert changed(base, begun) == expected, name
    begun.initial.config.n_head = 2                    # no weight's shape tells
    assert changed(base, begun) == BOTH
    begun.initial.config.n_head = 4
    begun.initial.lm_head.weight.data[0, 0] += 1e-6
    assert changed(base, begun) == BOTH
