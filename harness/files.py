"""Files that a kill, a full disk or a second command can't spoil.

A file is written under another name and then renamed, so a reader sees the old one or the new one
and never half of one. Writers in one folder take turns, so what they write is never mixed, and a
temporary file that somebody finds on his turn was left by a kill: he deletes it.
"""
import contextlib
import glob
import os

try:
    import fcntl
except ImportError:          # Windows: writers do not take turns there
    fcntl = None


@contextlib.contextmanager
def turn(folder):
    """Make `folder` if need be and wait until no other process writes in it."""
    os.makedirs(folder, exist_ok=True)
    if not fcntl:
        yield
        return
    at = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(at, fcntl.LOCK_EX)          # a kill lets go of it
        yield
    finally:
        os.close(at)


def write(folder, files, remove=()):
    """Write `files`, a dict of names and bytes, into `folder`, all of them or, if that fails,
    none; delete those of the names `remove`. Raises OSError."""
    temporary = {os.path.join(folder, name): os.path.join(folder, name + ".tmp") for name in files}
    with turn(folder):
        for leftover in glob.glob(os.path.join(glob.escape(folder), "*.tmp")):
            os.remove(leftover)
        try:
            for (path, tmp), content in zip(temporary.items(), files.values()):
                with open(tmp, "wb") as f:
                    f.write(content)
            for name in remove:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(folder, name))
            for path, tmp in temporary.items():
                os.replace(tmp, path)
        finally:
            for tmp in temporary.values():
                with contextlib.suppress(FileNotFoundError):
                    os.remove(tmp)


def check_folder(flag, folder):
    """ValueError unless `folder` is, or could be made, a folder that can be written to."""
    if "\0" in folder or max(len(os.fsencode(x)) for x in folder.split(os.sep)) > 255:
        raise ValueError(f"{flag} {folder[:40]!r}...: no name for a folder")
    at = os.path.abspath(folder)
    while not os.path.lexists(at):
        at = os.path.dirname(at)
    if not (os.path.isdir(at) and os.access(at, os.W_OK | os.X_OK)):
        raise ValueError(f"{flag} {folder}: {at} is not a folder that can be written to")
