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

from harness import ROOT, SOURCES
from harness.processes import rank_and_size

IMPORTS = ast.Import, ast.ImportFrom
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
    a module and a name in it. A setting may be read from any variable (config.lr, cfg.lr), but
    self.steps and stage.steps are a Stage's own."""
    todo, code, settings = list(starts), {}, set()
    while todo:
        module, name = todo.pop()
        if f"{module}.{name}" in code or name not in definitions(module):
            continue
        nodes = definitions(module)[name]
        code[f"{module}.{name}"] = digest([ast.dump(node) for node in nodes])
        todo.append((module, AT_IMPORT))
        for words in (words for node in nodes for words in mentions(node)):
            todo += resolved(module, words)
            if not any(isinstance(n, IMPORTS) for n in definitions(module).get(words[0], ())):
                settings |= {b for a, b in zip(words, words[1:]) if a not in ("self", "stage")}
    return code, settings


@cache
def definitions(module):
    """{name: the statements at the top of a module that define or change it}; {} if the module is
    none of the project. Statements that do more than define go under AT_IMPORT too."""
    path = os.path.join(ROOT, *module.split("."))
    text = SOURCES.get(path + ".py") or SOURCES.get(os.path.join(path, "__init__.py"))
    if not text:
        return {}
    tree, found = ast.parse(text), {}
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node, False):
            node.body = body[1:] or [ast.Pass()]
    for node in tree.body[bool(ast.get_docstring(tree, False)):] + imports_inside(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names = {node.name}
        elif isinstance(node, IMPORTS):
            names = {alias.asname or alias.name.split(".")[0] for alias in node.names}
            names |= set(definitions(node.module)) if "*" in names else set()
        else:
            names = changed(node)
            if not assigned(node) and "__name__" not in names:
                names.add(AT_IMPORT)
        for name in names:
            found.setdefault(name, []).append(node)
    return found


def assigned(node):
    """The names that a statement gives values to, if it does nothing else: those of X = 1, but none
    of x.y = 1 or X.append(1)."""
    targets = node.targets if isinstance(node, ast.Assign) else \
        [node.target] if isinstance(node, ast.AnnAssign) else []
    inside = [n for target in targets for n in ast.walk(target)]
    other = any(isinstance(n, (ast.Attribute, ast.Subscript)) for n in inside)
    return set() if other else {n.id for n in inside if isinstance(n, ast.Name)}


def changed(node):
    """The names that a statement may define or change: any in it, if it calls something."""
    if assigned(node) and not any(isinstance(n, ast.Call) for n in ast.walk(node)):
        return assigned(node)
    return {n.id if isinstance(n, ast.Name) else n.name for n in ast.walk(node)
            if isinstance(n, (ast.Name, ast.FunctionDef, ast.ClassDef))}


def imports_inside(tree):
    """The import statements inside functions."""
    return [node for node in ast.walk(tree) if isinstance(node, IMPORTS) and node not in tree.body]


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
    """The (module, name) pairs of the project that a dotted name in `module` may mean: all of a
    module that is named without a part of it."""
    found = []
    for node in definitions(module).get(words[0], ()):
        if not isinstance(node, IMPORTS):
            found.append((module, words[0]))
            continue
        target, rest = imported(node, words)
        while rest and definitions(f"{target}.{rest[0]}"):           # a module in a package
            target, rest = f"{target}.{rest[0]}", rest[1:]
        found += [(target, name) for name in rest[:1] or definitions(target)]
    return found


def imported(node, words):
    """(module, what is left of the words) where an import statement binds the first of them."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom) and (alias.asname or alias.name) in ("*", words[0]):
            return node.module, [alias.name if alias.asname else words[0], *words[1:]]
        if alias.asname == words[0]:
            return alias.name, words[1:]
        if not alias.asname and alias.name.split(".")[0] == words[0]:
            return words[0], words[1:]
