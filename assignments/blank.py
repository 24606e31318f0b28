"""Functions cut out of the sources and put back, by name; and copies of the project with blanks."""
import ast
import json
import os
import shutil
import subprocess

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


def find(body, path):
    """The ast node of the function `path`, such as ["Attention", "forward"], or None."""
    for node in body:
        if getattr(node, "name", None) == path[0]:
            return node if len(path) == 1 else find(node.body, path[1:])
    return None


def cut(source, path, condition=None):
    """(first, end): the lines [first:end] of `source` that are the body of that function, or of its
    branch with that `if`, without the docstring. ValueError if it is not there."""
    node, lines = find(ast.parse(source).body, path), source.splitlines()
    if node and condition:
        node = next((n for n in ast.walk(node) if isinstance(n, ast.If) and
                     ast.unparse(n.test) == condition), None)
    if node is None:
        raise ValueError(f"{'.'.join(path)}{f' if {condition}' if condition else ''}: not found")
    body = node.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and not condition:
        first = body[0].end_lineno
    else:
        first = min([body[0].lineno] + [d.lineno for d in getattr(body[0], "decorator_list", [])])
        first -= 1
        while lines[first - 1].lstrip().startswith("#"):
            first -= 1
    return first, body[-1].end_lineno


def blanked(source, path, condition, number):
    """`source` with that body replaced by `raise NotImplementedError("assignment N")`."""
    first, end = cut(source, path, condition)
    lines = source.splitlines(keepends=True)
    node_line = lines[end - 1] if first == end else lines[first]
    while not node_line.strip():                     # a blank line after the docstring
        node_line = lines[first := first + 1]
    indent = node_line[:len(node_line) - len(node_line.lstrip())]
    lines[first:end] = [f'{indent}raise NotImplementedError("assignment {number}")\n']
    return "".join(lines)


# --------------------------------------------------------------------------- copies

def project_files(root=ROOT):
    """Paths, relative to `root`, of what a copy consists of: what git tracks, or TOP."""
    if os.path.exists(os.path.join(root, ".git")):
        listed = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True,
                                text=True, check=True).stdout.split("\0")
        files = [f for f in listed if f and os.path.isfile(os.path.join(root, f))]
    else:
        files = []
        for top in TOP:
            for folder, subfolders, names in os.walk(os.path.join(root, top)):
                subfolders[:] = [f for f in subfolders if f != "__pycache__"]
                files += [os.path.relpath(os.path.join(folder, n), root) for n in names]
            files += [top] if os.path.isfile(os.path.join(root, top)) else []
    return sorted(f for f in files if not f.replace(os.sep, "/").startswith(ANSWERS))


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
    if not assignment.bugs:
        copy(assignment, folder, root)
        for name in assignment.functions:
            file, path, condition = place(name, root)
            write_text(folder, file, blanked(read_text(folder, file), path, condition, assignment.number))
    for i, bug in enumerate(assignment.bugs, 1):
        copy(assignment, os.path.join(folder, f"bug{i}"), root)
        write_text(os.path.join(folder, f"bug{i}"), bug.file, replaced(read_text(root, bug.file), bug))


def replaced(source, bug):
    """`source` with the bug in it. ValueError unless its old lines stand there once."""
    if source.count(bug.old) != 1:
        raise ValueError(f"{bug.name}: the old lines stand {source.count(bug.old)} times in "
                         f"{bug.file}: must be once")
    return source.replace(bug.old, bug.new)


def copy(assignment, folder, root):
    """A copy without answers: documents and texts have "..." where a solution's line stood."""
    telling = solution(assignment, root)
    for file in project_files(root):
        target = os.path.join(folder, file)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not file.endswith((".md", ".toml")):
            shutil.copyfile(os.path.join(root, file), target)
            continue
        text = read_text(root, file)
        if file.endswith(".toml"):
            text = text.partition("\n[[bug]]")[0].rstrip("\n") + "\n"
        for line in telling:
            text = text.replace(line, "...")
        write_text(folder, file, text)
    write_text(folder, STATE, json.dumps({"assignment": assignment.number}) + "\n")
