"""Names that determine their content: what a stage gives is kept under a name made of all that it
depends on. So a finished stage is used again exactly when that is right.

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

from harness.processes import rank_and_size

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def digest(value):
    """The first 20 hexadecimal digits of a SHA-256: of bytes, or of what JSON makes of a value."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return hashlib.sha256(content).hexdigest()[:20]


def weights_digest(model):
    """The `digest` of a model's tensors and of their names."""
    state = model.state_dict()
    return digest([[name, digest(w.cpu().numpy().tobytes())] for name, w in state.items()])


def ingredients(starts, config, data, **others):
    """All that a stage's content depends on, as a dict that JSON can hold.

    starts: functions and classes from which the code is reached. config: the Config, of which the
    settings that this code reads are taken. data, others: what else goes in, as JSON or bytes.
    """
    code, read = reach(tuple((module_of(x), x.__name__) for x in starts))
    settings = {k: getattr(config, k) for k in sorted(read) if hasattr(config, k)}
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
    a module and a name in it. A setting is read as `config.name`."""
    todo, code, settings = list(starts), {}, set()
    while todo:
        module, name = todo.pop()
        if f"{module}.{name}" in code or name not in definitions(module):
            continue
        nodes = definitions(module)[name]
        code[f"{module}.{name}"] = digest([ast.dump(node) for node in nodes])
        for words in (words for node in nodes for words in mentions(node)):
            todo += resolved(module, words)
            settings |= {b for a, b in zip(words, words[1:]) if a == "config"}
    return code, settings


@cache
def definitions(module):
    """{name: the statements at the top of a module that define or change it}; {} if the module is
    none of the project."""
    path = os.path.join(ROOT, *module.split("."))
    path = path + ".py" if os.path.isfile(path + ".py") else os.path.join(path, "__init__.py")
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as f:
        tree, found = ast.parse(f.read()), {}
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node, False):
            node.body = body[1:] or [ast.Pass()]
    for node in tree.body[bool(ast.get_docstring(tree, False)):] + imports_inside(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names = {node.name}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.asname or alias.name.split(".")[0] for alias in node.names}
        else:               # an assignment, or a statement that may change what it names
            names = {n.id if isinstance(n, ast.Name) else n.name for n in ast.walk(node)
                     if isinstance(n, (ast.Name, ast.FunctionDef, ast.ClassDef))}
        for name in names:
            found.setdefault(name, []).append(node)
    return found


def imports_inside(tree):
    """The import statements inside functions."""
    return [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
            and node not in tree.body]


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


def resolved(module, words):
    """The (module, name) pairs of the project that a dotted name in `module` means: one, or all of
    a module that is named without a part of it, or none."""
    for node in definitions(module).get(words[0], ()):
        if isinstance(node, ast.Import):
            target, rest = imported(node, words)
        elif isinstance(node, ast.ImportFrom):
            name = next(a.name for a in node.names if (a.asname or a.name) == words[0])
            target, rest = node.module, [name, *words[1:]]
        else:
            return [(module, words[0])]
        while rest and definitions(f"{target}.{rest[0]}"):           # a module in a package
            target, rest = f"{target}.{rest[0]}", rest[1:]
        names = rest[:1] or definitions(target)
        return [(target, name) for name in names]
    return []


def imported(node, words):
    """(module, what is left of the words) where `import module` or `import module as x` binds the
    first of them."""
    for alias in node.names:
        parts = alias.name.split(".")
        if alias.asname == words[0]:
            return alias.name, words[1:]
        if not alias.asname and parts[0] == words[0]:
            return parts[0], words[1:]
