"""Functions cut out of the sources, by name; and copies of the project with blanks."""
import ast
import json
import os
import shutil
import tokenize
import zipfile
from functools import lru_cache
from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))    # the project, or a copy of it
STATE = ".assignments.json"      # in a copy: which assignment it is, points so far, hints shown
PRISTINE = "assignments/pristine.zip"        # in a copy: the code as it was handed out
# What a copy consists of.
TOP = ("README.md", "LICENSE", "CITATION.cff", "requirements.txt", "pytest.ini", ".gitignore",
       "ngdiff.py", "train.py", "model.py", "data.py", "metrics.py", "harness", "experiments",
       "theory", "docs", "tests", "assignments", "assets")
# What holds answers. No copy gets it.
ANSWERS = ("assignments/TEACHING.md", "tests/test_assignments.py", "tests/wrong_answers/")


# --------------------------------------------------------------------------- where a function is

def place(name, root=ROOT):
    """("harness/flags.py", ["check"], None) of "harness.flags.check"; the last is the condition of
    a branch, if `name` ends in " if CONDITION". ("ngdiff.py", [], None) of "ngdiff.py", the whole
    file. ValueError if there is no such file."""
    dotted, _, condition = name.partition(" if ")
    parts = dotted.removesuffix(".py").split(".")
    for n in range(len(parts), 0, -1):
        file = "/".join(parts[:n]) + ".py"
        if (n < len(parts) or name.endswith(".py")) and os.path.isfile(os.path.join(root, file)):
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


# --------------------------------------------------------------------------- copies

def project_files(root=ROOT):
    """Paths, relative to `root`, of what a copy consists of."""
    tops = [Path(root, top) for top in TOP]
    files = [path.relative_to(root).as_posix() for top in tops for path in (top, *top.rglob("*"))
             if path.is_file() and path.suffix != ".pyc"]
    return sorted(file for file in files if not file.startswith(ANSWERS))


def read_text(root, file):
    """The text of a file; of a Python file as Python reads it: a byte-order mark is none of it."""
    path = os.path.join(root, file)
    with tokenize.open(path) if file.endswith(".py") else open(path, encoding="utf-8") as f:
        return f.read()


def read_source(root, file):
    """The text of a Python file. ValueError, in one line with file and line, if it is no Python."""
    try:
        compile(text := read_text(root, file), file, "exec")
        return text
    except FileNotFoundError:
        raise ValueError(f"{file} is missing") from None
    except SyntaxError as e:
        line = f", line {e.lineno}" if e.lineno else ""      # none of a null byte
        raise ValueError(f"{file}{line}: {type(e).__name__}: {e.msg}") from None
    except (OSError, ValueError, RecursionError, MemoryError) as e:
        raise ValueError(f"{file}: {type(e).__name__}: {e}") from None


def write_text(root, file, text):
    with open(os.path.join(root, file), "w", encoding="utf-8", newline="\n") as f:
        f.write(text)


def refuse_used(folder):
    if os.path.lexists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise ValueError(f"{folder} exists and is not an empty folder: give another name")


def start(assignment, folder, root=ROOT):
    """Make `folder` a copy of the project in which that assignment is blank; where bugs are to be
    found, one copy a bug, in folder/bug1 and so on. ValueError if the folder is not empty, or if
    `root` is such a copy itself."""
    if os.path.exists(os.path.join(root, STATE)):
        raise ValueError(f"{root} is a student's copy: start from the project itself")
    refuse_used(folder)
    files = project_files(root)
    for part in assignment.points:
        own = os.path.join(folder, part)
        for file in files:
            os.makedirs(os.path.dirname(os.path.join(own, file)), exist_ok=True)
            shutil.copyfile(os.path.join(root, file), os.path.join(own, file))
            if file.startswith("assignments/") and file.endswith(".toml"):    # [[bug]]: answers
                write_text(own, file, read_text(root, file).partition("\n[[bug]]")[0] + "\n")
        readme = f"{assignment.task}\n---\n\n{read_text(root, 'README.md')}"
        state = json.dumps({"assignment": assignment.number, "part": part}) + "\n"
        own_texts = {"README.md": readme, STATE: state, **changes(assignment, part, root)}
        for file, text in own_texts.items():
            write_text(own, file, text)
        with zipfile.ZipFile(os.path.join(own, PRISTINE), "w", zipfile.ZIP_DEFLATED) as z:
            for file in files:
                if file.endswith((".py", ".toml", ".ini")):
                    z.write(os.path.join(own, file), file)


def pristine(assignment, folder, root=ROOT):
    """Make `folder` what `start` makes of the project. In a copy, unpack what it was made of."""
    if not os.path.exists(os.path.join(root, STATE)):
        return start(assignment, folder, root)
    for part in assignment.points:
        packed = os.path.join(root, "..", part, PRISTINE) if part else os.path.join(root, PRISTINE)
        if os.path.exists(packed):
            with zipfile.ZipFile(packed) as z:
                z.extractall(os.path.join(folder, part))


def changes(assignment, part, root=ROOT):
    """{file: its source in a student's copy}: with blanks, or with the bug of that part."""
    if part:
        bug = assignment.bugs[int(part.removeprefix("bug")) - 1]
        return {bug.file: replaced(read_text(root, bug.file), bug)}
    found = {}
    for name in assignment.functions:
        file, path, condition = place(name, root)
        source = found.get(file) or read_source(root, file)
        found[file] = blanked(source, path, condition, assignment.number)
    return found


def replaced(source, bug):
    """`source` with the bug in it. ValueError unless its old lines stand there once."""
    if source.count(bug.old) != 1:
        raise ValueError(f"{bug.name!r}: its old lines stand {source.count(bug.old)} times in "
                         f"{bug.file}, and must stand there once. Copy them again from the file:\n"
                         + bug.old.strip("\n"))
    return source.replace(bug.old, bug.new)
