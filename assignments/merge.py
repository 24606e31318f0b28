"""A student's file becomes part of the pristine project: the one way for `check` and `grade`."""
import ast
import importlib.util
import os

from assignments import blank

IMPORTS = (ast.Import, ast.ImportFrom)


def bring(student, root, functions):
    """Write the student's functions into the pristine copy `root`. student: a folder.

    Returns (left out, untouched): what does not count, a line each; those of `functions` that are
    as they were handed out. ValueError with file and line if a file is missing or can't be read.
    """
    places, left_out, untouched = {}, [], []
    for name in functions:
        file, *where = blank.place(name, root)
        places.setdefault(file, {})[name] = where
    there = [file for file in places if os.path.isfile(os.path.join(student, file))]
    for file in there or places:                    # of two whole files, one may stay as it was
        ours, theirs = (blank.read_source(folder, file) for folder in (root, student))
        text, lines = merged(ours, theirs, [path for path, _ in places[file].values()])
        blank.write_text(root, file, text)
        left_out += [f"{file}, {line}" for line in lines]
        untouched += [name for name, where in places[file].items() if same(ours, theirs, where)]
    return left_out, untouched


def same(ours, theirs, where):
    """Whether both sources have the same body there."""
    try:
        a, b = (blank.body_of(ast.parse(source), *where) for source in (ours, theirs))
    except ValueError:
        return False                           # not there any more
    return list(map(ast.dump, a)) == list(map(ast.dump, b))


def merged(ours, theirs, paths):
    """(source, left out): the pristine module `ours` with the functions `paths` of the student's,
    such as [["direction"], ["Attention", "forward"]], with the __init__ of their classes, and with
    what the student added: imports, constants, functions, classes, methods. [[]]: the student's
    whole module. left out: a line for each other difference."""
    tree, student, left_out = ast.parse(ours), ast.parse(theirs), []
    if [] in paths:
        return theirs, []
    left_out += [f"{'.'.join(path)} is not there (renamed, deleted, commented out?)"
                 for path in paths if not blank.find(student, path)]
    merge_bodies(tree, student, paths + [[*path[:-1], "__init__"] for path in paths if path[1:]],
                 left_out)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n", left_out


def merge_bodies(ours, theirs, paths, left_out):
    """Merge the statements of a module, or of a class, into those of ours."""
    ours.body = one_by_one(ours.body)
    known = {name: node for node in ours.body for name in binds(node)}
    shipped, at = {ast.dump(node): node for node in ours.body}, 0
    for node in one_by_one(theirs.body):
        names, why = binds(node), "not part of the assignment"
        old = known.get(min(names, default=None))
        inner = [path[1:] for path in paths if [path[0]] == [*names] and path[1:]]
        if old and [*names] in paths:
            at = ours.body.index(old) + 1
            ours.body[at - 1] = known[min(names)] = node
        elif ast.dump(node) in shipped:
            at = ours.body.index(shipped[ast.dump(node)]) + 1
        elif inner and isinstance(node, ast.ClassDef) and isinstance(old, ast.ClassDef):
            merge_bodies(old, node, inner, left_out)
            at = ours.body.index(old) + 1
        elif names and not names & set(known) and not (why := unusable(node)):
            ours.body.insert(at, node)               # where the student has it
            at += 1
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            text = ast.unparse(node).splitlines()[0][:50]
            left_out.append(f"line {node.lineno}: `{text}` does not count, {why}")


def one_by_one(body):
    """The statements, with `import a, b` as `import a` and `import b`."""
    return [ast.copy_location(type(node)(**{**vars(node), "names": [alias]}), node)
            if alias else node for node in body
            for alias in (node.names if isinstance(node, IMPORTS) else [None])]


def binds(node):
    """The names that a statement binds, as far as they are plain ones."""
    if isinstance(node, IMPORTS):
        return {alias.asname or alias.name for alias in node.names}
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
    return {name} if isinstance(name := getattr(node, "name", None), str) else set()


def unusable(node):
    """Why an import can't be used by the grader, or ""."""
    if not isinstance(node, IMPORTS):
        return ""
    name = getattr(node, "module", None) or node.names[0].name
    if node.names[0].name == "*" or getattr(node, "level", 0):
        return "import by name"
    if importlib.util.find_spec(name.partition(".")[0]):
        return ""
    return "the grader has no such module: put what you need of it into this file"
