"""What surrounds a run: flags, stages and files, processes, the report. No method is in here.

Imported before torch, so that waiting threads sleep instead of spinning. On an idle machine that
costs a few per cent. Beside other work, as on a laptop with a browser open, spinning threads would
take the cores from the threads that they wait for.
"""
import glob
import os
import sys

if sys.version_info < (3, 11):
    sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0])

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Pictures are drawn into files: no screen, and no backend that a notebook's setting names.
os.environ["MPLBACKEND"] = "agg"

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def on_disk():
    """{path: text} of the project's Python files, as they lie on disk."""
    found = {}
    for path in glob.glob(glob.escape(ROOT) + "/*.py") + glob.glob(glob.escape(ROOT) + "/*/*.py"):
        with open(path, encoding="utf-8") as f:
            found[os.path.normpath(path)] = f.read()
    return found


SOURCES = on_disk()      # before any other import: the code that this process runs, see names.py
