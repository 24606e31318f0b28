"""Submissions as they really come: folders, zips, single files; as Gradescope, Moodle and Canvas
name them."""
import glob
import os
import re
import shutil
import zipfile
from typing import NamedTuple

SIZE = 64 * 2**20           # bytes that a zip may unpack to
DEPTH = 4                   # folders within folders
IGNORED = (".", "__", "Thumbs.db", "submission_metadata.y")
NAMES = (   # Ada Example_1234567_assignsubmission_file_;  exampleada_LATE_12345_98765_ngdiff-2.py
    r"(?P<student>.+?)(?:_(?P<id>\d+))?_assignsubmission_[a-z]+(?:_(?P<file>.*))?$",
    r"(?P<student>.+?)(?P<late>_LATE)?_(?P<id>\d+)_(?P<order>\d+)_(?P<file>.+)$",
    r"submission_(?P<order>\d+)$")


class Submission(NamedTuple):
    path: str        # as it was given
    student: str
    id: str          # "" if the name does not tell
    folder: str      # where the wanted files are; "" if there is nothing to grade
    note: str        # what the teacher should know, in one line, or ""


def find(paths, a, scratch):
    """The Submissions for assignment `a` in `paths` (patterns are expanded), one a student: of
    several the latest. What is wanted is copied into the folder `scratch`. ValueError if a path
    does not exist, or if there is nothing at all."""
    students = {}
    for i, path in enumerate(expanded(paths)):
        student, number, order, late = who(path)
        folder, note, named = collect(path, a, os.path.join(scratch, str(i)))
        note = "; ".join(filter(None, (late, note)))
        key = (student, number) if number else (os.path.dirname(os.path.abspath(path)), student)
        rank = bool(folder), named, order, os.path.getmtime(path), i
        students.setdefault(key, []).append((rank, Submission(path, student, number, folder, note)))
    found = []
    for all_of_one in map(sorted, students.values()):
        latest, n = all_of_one[-1][1], sum(bool(s.folder) for _, s in all_of_one)
        more = f"the latest of {n}: {os.path.basename(latest.path)}" if n > 1 else ""
        found.append(latest._replace(note="; ".join(filter(None, (latest.note, more)))))
    if not found:
        raise ValueError(f"{' '.join(paths)}: nothing to grade found")
    return found


def expanded(paths):
    """The paths, each once, patterns expanded, without what no student made."""
    found = {}
    for path in paths:
        some = [path] if os.path.exists(path) else sorted(glob.glob(path))
        if not some:
            raise ValueError(f"{path}: nothing to grade found: there is no such file or folder")
        found.update({os.path.realpath(one): os.path.normpath(one) for one in some})
    return [path for path in found.values() if path in (".", "..") or
            not os.path.basename(path).startswith(IGNORED)]


def who(path):
    """(student, id, order, "late" or ""), as the name tells; a larger order is later."""
    name = os.path.basename(os.path.abspath(path))
    match = next(filter(None, (re.match(pattern, name) for pattern in NAMES)), None)
    if not match:
        return name if os.path.isdir(path) else os.path.splitext(name)[0], "", (0, 0), ""
    told = match.groupdict()
    again = re.search(r"-(\d+)(?:\.\w+)?$", told.get("file") or "")    # Canvas: handed in once more
    order = int(told.get("order") or 0), int(again[1]) if again else 0
    if "student" not in told:
        told = {"student": name, **gradescope(os.path.dirname(path), name)}
    return told["student"], told.get("id") or "", order, "late" if told.get("late") else ""


def gradescope(folder, name):
    """{"student": ..., "id": ...} of a submission, as far as the export's metadata has them."""
    path = os.path.join(folder, "submission_metadata.yml")
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8", errors="replace") as f:
        block = f.read().partition(f"{name}:\n")[2].partition("\nsubmission_")[0]
    told = {key: re.search(rf":{word}: *['\"]?(.*?)['\"]? *$", block, re.M)
            for key, word in (("student", "name"), ("id", "sid"))}
    return {key: match[1] for key, match in told.items() if match}


def collect(path, a, target):
    """Copy what a student hands in from a folder, a zip or a file into the folder `target`. Returns
    (target, a note, whether the file has its right name), or ("", why, False)."""
    try:
        files = sorted(python_files(path, target + ".zip"), key=lambda f: (f.count("/"), f))
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError) as e:
        return "", f"{os.path.basename(path)} can't be unpacked: {e}", False
    wanted = [f"{part}/{file}".lstrip("/") for part in a.points for file in a.files]
    taken = {name: [f for f in files if f"/{plain(f)}".endswith(f"/{name}")] for name in wanted}
    named = any(taken.values())
    if len(wanted) == 1 and not named:
        taken = {wanted[0]: files}
    for name, some in taken.items():
        some = [f for f in some if f.count("/") == some[0].count("/")]
        if len(some) > 1:
            shown = ", ".join(os.path.relpath(f, path) for f in some[:3])
            return "", f"which one? {shown} (for a whole class give {path}/*)", False
        for f in some:
            os.makedirs(os.path.dirname(os.path.join(target, name)), exist_ok=True)
            shutil.copyfile(f, os.path.join(target, name))
    if not any(taken.values()):
        return "", "", False
    note = "" if named else f"{os.path.basename(files[0])} taken as {wanted[0]}"
    return target, note, named


def plain(path):
    """ngdiff.py of ngdiff-2.py, ngdiff (1).py and familygiven_12345_987654_ngdiff.py."""
    folder, name = os.path.split(path.replace(os.sep, "/"))
    match = re.match(NAMES[0], name) or re.match(NAMES[1], name)
    name = match["file"] if match and match["file"] else name
    return folder + "/" + re.sub(r"(-\d+| ?\(\d+\))\.py$", ".py", name)


def python_files(path, scratch, depth=0):
    """The Python files in a folder, a zip or a file, zips in a folder included."""
    if path.endswith(".zip") and os.path.isfile(path):
        with zipfile.ZipFile(path) as z:
            files = [m for m in z.infolist() if m.filename.endswith(".py")]
            if sum(m.file_size for m in files) > SIZE:
                raise ValueError(f"it holds more than {SIZE >> 20} MB")
            z.extractall(scratch, files)
        path = scratch
    if os.path.isfile(path):
        return [path.replace(os.sep, "/")] if path.endswith(".py") else []
    if not os.path.isdir(path) or depth > DEPTH:
        return []
    return [f for name in os.listdir(path) if not name.startswith(IGNORED)
            for f in python_files(os.path.join(path, name), f"{scratch}-{name}", depth + 1)]
