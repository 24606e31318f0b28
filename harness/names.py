"""Names that determine their content: a stage's result is kept under a hash of all that it depends
on. So a finished stage is used again exactly when that is right.

Nothing is listed by hand. From the stage's function on, `reach` finds every function, class and
constant of the project that is named on the way, and every setting that is read there. Comments
and docstrings do not count.
"""
import ast
import hashlib
import json
import os
import sys
from functools import cache

import torch

from harness import ROOT, SOURCES
from harness.processes import rank_and_size

DEFINED = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
AT_IMPORT = "at import"      # in place of a name: statements that may change anything


def digest(value):
    """The first 20 hexadecimal digits of a SHA-256: of bytes, or of what JSON makes of a value."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return hashlib.sha256(content).hexdigest()[:20]


def model_digest(model):
    """The `digest` of a model's tensors, their names, and the sizes that no tensor's shape tells
    (n_head)."""
    tensors = [[name, digest(w.cpu().numpy().tobytes())] for name, w in model.state_dict().items()]
    return digest([vars(model.config), *tensors])


def ingredients(starts, config, data, **others):
    """All that a stage's content depends on, as a dict that JSON can hold.

    starts: functions and classes from which the code is reached. config: the Config; the
    settings that this code reads are taken. data, others: further inputs, as JSON or bytes.
    """
    code, read = reach(tuple((module_of(x), x.__name__) for x in starts))
    settings = {k: value for k, value in sorted(vars(config).items()) if k in read}
    return {"settings": settings, "code": code, "data": digest(data), "torch": torch.__version__,
            "processes": rank_and_size()[1], **others}


def module_of(function):
    """The dotted name of the project's module that a function or class is in, however Python was
    started: train.py is "__main__" when it is run."""
    path = os.path.abspath(sys.modules[function.__module__].__file__)
    return os.path.relpath(path, ROOT).removesuffix(".py").replace(os.sep, ".")


# --------------------------------------------------------------------------- the code reached

@cache
def reach(starts):
    """({"module.name": digest of its source}, {names of settings}) reached from `starts`, pairs of
    a module and a name in it. A setting may be read from any variable (config.lr, cfg.lr), but
    self.steps and stage.steps are a Stage's own."""
    todo, seen, code, settings = list(starts), set(), {}, set()
    while todo:
        place = module, name, *rest = todo.pop()         # name.rest, as it is written in module
        if place in seen or not definitions(module):
            continue
        seen.add(place)
        todo.append((module, AT_IMPORT))
        found = definitions(module).get(name, [])        # none of a local variable
        imports = [x for x in found if isinstance(x, tuple)]
        nodes = [x for x in found if not isinstance(x, tuple)]
        for words in imports:
            todo += meant(*words, *rest)
        for node in nodes:
            todo += [(module, *words) for words in mentions(node)]
        if found:
            code[f"{module}.{name}"] = digest([*imports, *map(ast.dump, nodes)])
        if not imports:
            settings |= {b for a, b in zip(place[1:], rest) if a not in ("self", "stage")}
    return dict(sorted(code.items())), settings


@cache
def definitions(module):
    """{name: all that defines or changes it at the top of a module}: statements, and for an import
    the tuple of words that the name stands for. {} if the module is none of the project."""
    path = os.path.join(ROOT, *module.split("."))
    text = SOURCES.get(path + ".py") or SOURCES.get(os.path.join(path, "__init__.py"))
    if not text:
        return {}
    tree, found = ast.parse(text), {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, *DEFINED)) and ast.get_docstring(node, False):
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, (ast.Import, ast.ImportFrom)):           # inside functions too
            for name, words in imported(node):
                found.setdefault(name, []).append(words)
    for node in tree.body:
        for name in changed(node):
            found.setdefault(name, []).append(node)
    return found


def imported(node):
    """(name, the words that it stands for) of each name that an import statement binds."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            first = alias.name.split(".")[0]
            yield (alias.asname, (alias.name,)) if alias.asname else (first, (first,))
        elif alias.name == "*":
            yield from ((name, (node.module, name)) for name in definitions(node.module))
        else:
            yield alias.asname or alias.name, (node.module, alias.name)


def changed(node):
    """The names that a statement may define or change: X for X = 1. For a statement that calls
    something or does more: every name in it, and AT_IMPORT."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return set()
    if isinstance(node, DEFINED):
        return {node.name}
    inside = list(ast.walk(node))
    stored = [n for n in inside if isinstance(getattr(n, "ctx", None), ast.Store)]
    more = not isinstance(node, (ast.Assign, ast.AnnAssign)) or \
        any(isinstance(n, (ast.Attribute, ast.Subscript)) for n in stored) or \
        any(isinstance(n, ast.Call) for n in inside)
    names = {getattr(n, "id", getattr(n, "name", "")) for n in (inside if more else stored)} - {""}
    return names | {AT_IMPORT} if more and "__name__" not in names else names


def mentions(node):
    """The dotted names in a statement, as lists of words: ngdiff.step is ["ngdiff", "step"]."""
    todo = [node]
    while todo:
        inner, words = todo.pop(), []
        while isinstance(inner, ast.Attribute):
            words, inner = [inner.attr, *words], inner.value
        if isinstance(inner, ast.Name):
            yield [inner.id, *words]
        todo += ast.iter_child_nodes(inner)


def meant(module, *words):
    """The place that a dotted name means, as (module, words ...); all names of a module that is
    named without a part of it."""
    while words and definitions(f"{module}.{words[0]}"):             # a module in a package
        module, *words = f"{module}.{words[0]}", *words[1:]
    return [(module, *words)] if words else [(module, name) for name in definitions(module)]
