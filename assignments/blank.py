"""Functions cut out of the sources and put back, by name; and copies of the project with blanks."""
import ast
import json
import os
import shutil
import subprocess
from functools import lru_cache

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))    # the project, or a copy of it
STATE = ".assignments.json"      # in a copy: which assignment it is, points so far, hints shown
# What a project without git history consists of.
TOP = ("README.md", "LICENSE", "CITATION.cff", "requirements.txt", "pytest.ini", ".gitignore",
       "ngdiff.py", "train.py", "model.py", "data.py", "metrics.py", "harness", "experiments",
       "theory", "tests", "assignments", "assets")
# What holds answers. No copy gets it.
ANSWERS = ("assignments/TEACHING.md", "tests/test_assignments.py", "tests/wrong_answers/")


# --------------------------------------------------------------------------- where a function is

def place(name, root=ROOT):
    """("harness/flags.py", ["check"], None) of "harness.flags.check"; the last is the condition of
    a branch, if `name` ends in " if CONDITION". ValueError if there is no such file."""
    dotted, _, condition = name.partition(" if ")
    parts = dotted.split(".")
    for n in range(len(parts) - 1, 0, -1):
        file = "/".join(parts[:n]) + ".py"
        if os.path.isfile(os.path.join(root, file)):
            return file, parts[n:], condition and ast.unparse(ast.parse(condition)) or None
    raise ValueError(f"{name}: no file of the project has this function")


def find(tree, path):
    """The ast node of the function or class `path`, such as ["Attention", "forward"], or None."""
    for name in path:                            # of two with one name, Python takes the last
        tree = next((node for node in reversed(getattr(tree, "body", []))
                     if getattr(node, "name", None) == name), None)
    return tree


def body_of(tree, path, condition=None):
    """The statements of that function, or of its branch with that `if`, without the docstring.
    ValueError if it is not there."""
    node = find(tree, path)
    if node and condition:
        node = next((n for n in ast.walk(node) if isinstance(n, ast.If) and
                     ast.unparse(n.test) == condition), None)
    if node is None:
        raise ValueError(f"{'.'.join(path)}{f' if {condition}' if condition else ''}: not found")
    return node.body[1:] if not condition and ast.get_docstring(node) else node.body


parsed = lru_cache(ast.parse)      # for trees that are only looked at


def cut(source, path, condition=None):
    """(first, end): the lines [first:end] of `source` that are that body, comments included."""
    body, lines = body_of(parsed(source), path, condition), source.splitlines()
    first = min(n.lineno for n in [body[0], *getattr(body[0], "decorator_list", [])]) - 1
    while lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return first, body[-1].end_lineno


def blanked(source, path, condition, number):
    """`source` with that body replaced by `raise NotImplementedError("assignment N")`."""
    first, end = cut(source, path, condition)
    lines = source.splitlines(keepends=True)
    indent = lines[first][:len(lines[first]) - len(lines[first].lstrip())]
    lines[first:end] = [f'{indent}raise NotImplementedError("assignment {number}")\n']
    return "".join(lines)


def is_blank(source, path, condition=None):
    """Whether that body is still the blank. A function that is not there is none."""
    try:
        body = body_of(ast.parse(source), path, condition)
    except ValueError:
        return False
    return [ast.unparse(node)[:26] for node in body] == ["raise NotImplementedError("]


def binds(node):
    """The names that a statement at the top of a module binds, as far as they are plain ones."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and
                isinstance(n.ctx, ast.Store)}
    return {node.name} if hasattr(node, "name") else set()


def merged(shipped, student, paths):
    """(source, left out): the shipped module with the student's version of the functions `paths`,
    such as [["direction"], ["Attention", "forward"]], and with what the student added: imports,
    constants, functions, classes and, in the classes of `paths`, methods. All else is as shipped.
    left out: lines of the student's other new statements. SyntaxError, ValueError, RecursionError
    if the student's source can't be read."""
    tree, theirs, left_out, imports = ast.parse(shipped), ast.parse(student), [], []
    for path in paths:
        owner, old, new = find(tree, path[:-1]), find(tree, path), find(theirs, path)
        if new is None:
            new, old.body = old, ast.parse("raise NotImplementedError('missing')").body
        owner.body[owner.body.index(old)] = new
        known, own = {n for node in owner.body for n in binds(node)}, find(theirs, path[:-1])
        if path[1:] and own:
            owner.body += [n for n in own.body if isinstance(n, ast.FunctionDef) and
                           n.name not in known]
    names = {name for node in tree.body for name in binds(node)}
    same = {ast.dump(node) for node in tree.body}
    for node in theirs.body:
        new = binds(node) and not binds(node) & names
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports += [node] if new else []
        elif new and isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)):
            tree.body.append(node)
        elif not hasattr(node, "name") and ast.dump(node) not in same:
            left_out.append(f"line {node.lineno}")
    tree.body[1:1] = imports                     # after the module's docstring
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n", left_out


def around(bug, root=ROOT):
    """The function that holds the lines of a Bug: "ngdiff.probe"."""
    source = read_text(root, bug.file)
    line = source[:source.index(bug.old)].count("\n") + 1
    path, body = [], ast.parse(source).body
    while body:
        node = next((n for n in body if hasattr(n, "name") and n.lineno <= line <= n.end_lineno),
                    None)
        path, body = (path + [node.name], node.body) if node else (path, None)
        if isinstance(node, ast.FunctionDef):
            break
    return ".".join([bug.file.removesuffix(".py").replace("/", ".")] + path)


# --------------------------------------------------------------------------- copies

def project_files(root=ROOT):
    """Paths, relative to `root`, of what a copy consists of: what git tracks, or else TOP."""
    files = []
    if os.path.exists(os.path.join(root, ".git")) and shutil.which("git"):
        files = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True,
                               text=True).stdout.split("\0")
    for top in TOP if files in ([], [""]) else ():
        files.append(top)
        for folder, _, names in os.walk(os.path.join(root, top)):
            files += [os.path.relpath(os.path.join(folder, n), root).replace(os.sep, "/")
                      for n in names if not n.endswith(".pyc")]
    return sorted(f for f in files if os.path.isfile(os.path.join(root, f)) and
                  not f.startswith(ANSWERS))


def read_text(root, file):
    with open(os.path.join(root, file), encoding="utf-8") as f:
        return f.read()


def write_text(root, file, text):
    with open(os.path.join(root, file), "w", encoding="utf-8", newline="\n") as f:
        f.write(text)


def solution(assignment, root=ROOT):
    """The lines of the blanked bodies that say something: 16 characters and more, stripped."""
    found = set()
    for name in assignment.functions:
        file, path, condition = place(name, root)
        source = read_text(root, file)
        first, end = cut(source, path, condition)
        found |= {line.strip() for line in source.splitlines()[first:end]}
    for bug in assignment.bugs:
        found |= {line.strip() for line in bug.old.splitlines() if line not in bug.new}
    return {line for line in found if len(line) >= 16}


def start(assignment, folder, root=ROOT):
    """Make `folder` a copy of the project in which that assignment is blank; where bugs are to be
    found, one copy a bug, in folder/bug1 and so on. ValueError if the folder is not empty, or if
    `root` is such a copy itself."""
    if os.path.exists(os.path.join(root, STATE)):
        raise ValueError(f"{root} is a student's copy: start from the project itself")
    if os.path.lexists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise ValueError(f"{folder} exists and is not an empty folder: give another name")
    telling, files = solution(assignment, root), project_files(root)
    for part in assignment.points:
        changed, own = changes(assignment, part, root), os.path.join(folder, part)
        for file in files:
            os.makedirs(os.path.dirname(os.path.join(own, file)), exist_ok=True)
            if file in changed:
                write_text(own, file, changed[file])
            elif file.endswith((".md", ".toml")):
                write_text(own, file, without(read_text(root, file), telling))
            else:
                shutil.copyfile(os.path.join(root, file), os.path.join(own, file))
        write_text(own, STATE, json.dumps({"assignment": assignment.number, "part": part}) + "\n")


def changes(assignment, part, root=ROOT):
    """{file: its source in a student's copy}: with blanks, or with the bug of that part."""
    if part:
        bug = assignment.bugs[int(part.removeprefix("bug")) - 1]
        return {bug.file: replaced(read_text(root, bug.file), bug)}
    found = {}
    for name in assignment.functions:
        file, path, condition = place(name, root)
        source = found.get(file) or read_text(root, file)
        found[file] = blanked(source, path, condition, assignment.number)
    return found


def replaced(source, bug):
    """`source` with the bug in it. ValueError unless its old lines stand there once."""
    if source.count(bug.old) != 1:
        raise ValueError(f"{bug.name}: the old lines stand {source.count(bug.old)} times in "
                         f"{bug.file}: must be once")
    return source.replace(bug.old, bug.new)


def without(text, telling):
    """A document or a data file without [[bug]] tables, and with "..." for a solution's lines."""
    text = text.partition("\n[[bug]]")[0].rstrip("\n") + "\n"
    for line in telling:
        text = text.replace(line, "...")
    return text
