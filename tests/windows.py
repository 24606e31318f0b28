"""As on Windows, as far as can be told from here: python -m pytest -p tests.windows

A plugin that takes away what Windows lacks: fork, sessions, process groups, SIGKILL, flock,
resource and core sets; a console of cp1252. Tests then pass, or skip with a reason.
"""
import multiprocessing
import os
import signal
import sys
import types
from multiprocessing import popen_fork

popen_fork.signal = types.SimpleNamespace(**vars(signal))      # Python's own code is not to miss it
for module in ("fcntl", "resource"):
    sys.modules[module] = None                     # importing it raises ImportError
for where, names in ((os, ("fork", "forkpty", "setsid", "killpg", "sched_getaffinity")),
                     (signal, ("SIGKILL", "SIGALRM", "alarm"))):
    for name in names:
        if hasattr(where, name):
            delattr(where, name)
os.environ |= {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": os.pathsep.join(
    [os.getcwd(), os.environ.get("PYTHONPATH", "")])}
get_context = multiprocessing.get_context


def only_spawn(method="spawn"):
    if method != "spawn":
        raise ValueError(f"cannot find context for {method!r}")
    return get_context(method)


multiprocessing.get_context = only_spawn
multiprocessing.get_all_start_methods = lambda: ["spawn"]
