"""Files that a kill, a full disk or a second command can't spoil.

A file is written under another name and then renamed, so a reader sees the old one or the new one
and never half of one. The other name is unique: two commands never write into one file.
"""
import contextlib
import glob
import os
import platform
import re
import secrets

try:
    import fcntl
except ImportError:          # Windows
    fcntl = None

class Refused(ValueError):
    """A user's mistake that shows only once a command is at work."""


HOST = re.sub(r"\W", "", platform.node()) or "host"


def lock(descriptor, wait):
    """Lock an open file or folder. True if it is ours; None where the system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except BlockingIOError:
        return False
    except (OSError, AttributeError):        # a file system, or a system, without locks
        return None


@contextlib.contextmanager
def turn(folder):
    """Make `folder` if need be, and wait while another process writes several files there. Without
    locks nobody waits, and each file is still whole."""
    os.makedirs(folder, exist_ok=True)
    at = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        lock(at, wait=True)                  # a kill lets go of it
        yield
    finally:
        if fcntl:
            os.close(at)


def sweep(folder):
    """Delete the temporary files that a killed process of this machine left in `folder`: those
    that nobody holds locked any more. No other file is touched."""
    for path in glob.glob(os.path.join(glob.escape(folder), f".*.{HOST}-*.part")):
        with contextlib.suppress(OSError), open(path, "rb") as f:
            if re.search(r"-[0-9a-f]{16}\.part$", path) and lock(f.fileno(), wait=False):
                os.remove(path)


def write(folder, files, remove=()):
    """Write `files`, a dict of names and bytes (or functions that write to an open file), into
    `folder`, all of them or, if that fails, none. Also delete the files named in `remove`. Raises
    OSError."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(turn(folder))
        sweep(folder)
        parts = {}
        for name, content in files.items():
            part = os.path.join(folder, f".{name}.{HOST}-{secrets.token_hex(8)}.part")
            f = stack.enter_context(open(part, "x+b"))
            stack.callback(remove_if_there, part)
            lock(f.fileno(), wait=False)     # until it is renamed: nobody sweeps it away
            content(f) if callable(content) else f.write(content)
            f.flush()
            if not fcntl:
                f.close()                    # Windows renames no open file
            parts[os.path.join(folder, name)] = part
        for name in remove:
            remove_if_there(os.path.join(folder, name))
        for path, part in parts.items():
            os.replace(part, path)


def remove_if_there(path):
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def check_folder(flag, folder, rights=os.W_OK | os.X_OK):
    """Refused unless `folder` is, or could be made, a folder that can be written to."""
    if "\0" in folder or max(len(os.fsencode(x)) for x in re.split(r"[/\\]", folder)) > 255:
        raise Refused(f"{flag} {folder[:40]!r}...: no name for a folder")
    at = os.path.abspath(folder)
    while not os.path.lexists(at) and os.path.dirname(at) != at:     # a drive may not be there
        at = os.path.dirname(at)
    if not (os.path.isdir(at) and os.access(at, rights)):
        raise Refused(f"{flag} {folder}: {at} is not a folder that can be written to")
