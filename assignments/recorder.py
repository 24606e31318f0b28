"""Inside a submission's process: limits, the merged project, pytest, and what pytest saw."""
import ast
import contextlib
import json
import os
import re
import sys

from assignments import blank, merge

MEMORY = 16 * 2**30      # bytes of address space: torch reserves far more than it uses
FILE_SIZE = 64 * 2**20   # bytes that may be written to one file
WIDTH = 100
# Plugins to leave out: they write files, collect garbage twice or change pytest's own functions.
PLUGINS = [x for name in ("cacheprovider", "unraisableexception", "threadexception", "legacypath")
           for x in ("-p", f"no:{name}")]
# A submission must not change functions of these modules, or of pytest's own, "_pytest".
WATCHED = ("builtins", "math", "pytest", "numpy", "torch", "torch.testing")


def run(student, root, functions, tests, report, cpu):
    """Merge the files in the folder `student` into the pristine copy `root`, run the tests there,
    and write what happens to the file `report`, a line of JSON each."""
    out = os.open(report, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def tell(**facts):
        os.write(out, (json.dumps(facts) + "\n").encode())
    isolate(cpu)
    os.chdir(root)
    sys.path[:] = [root] + [p for p in sys.path if p not in ("", blank.ROOT)]
    sys.dont_write_bytecode = True
    try:
        left_out, untouched = merge.bring(student, root, functions)
    except (ValueError, RecursionError) as e:
        return tell(broken=str(e)[:WIDTH])
    tell(left_out=left_out, untouched=untouched, none_begun=len(untouched) == len(functions))
    import pytest
    if "torch" in sys.modules:             # a fork of one that has it
        sys.modules["torch"].set_num_threads(1)
    code = pytest.main([*tests, "--rootdir", ".", "-c", "pytest.ini", "-vv", "-s", "--tb=native",
                        *PLUGINS], plugins=[Recorder(tell)])
    tell(end=int(code))
    os._exit(0)                # a thread that the submission began does not hold it up


def isolate(cpu):
    """A process group of its own, limits (cpu: seconds of computing), and no output."""
    if hasattr(os, "setsid"):
        os.setsid()
    with contextlib.suppress(ImportError, ValueError, OSError):      # Windows, macOS
        import resource
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]
    os.environ.update(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", OMP_NUM_THREADS="1",
                      CUDA_VISIBLE_DEVICES="")       # a GPU maps more memory than the limit allows


# --------------------------------------------------------------------------- what pytest sees

class Recorder:
    """A pytest plugin: tells what was collected, and of each test whether it passed and why not."""

    def __init__(self, tell):
        self.tell, self.right, self.lines, self.told = tell, False, [], set()
        self.parts = parts({n for n in sys.modules if n in WATCHED or n.startswith("_pytest.")})

    def pytest_collectreport(self, report):
        if report.failed:
            last = str(report.longrepr).strip().splitlines()[-1]
            self.tell(broken=cut(last.removeprefix("E ")))

    def pytest_collection_finish(self, session):
        self.tell(collected=[item.nodeid for item in session.items])
        self.parts += parts({item.module.__name__ for item in session.items})

    def pytest_runtest_logstart(self, nodeid):
        self.right, self.lines = False, []
        self.tell(begin=nodeid.partition("::")[2])

    def pytest_runtest_makereport(self, item, call):
        """Note why a test failed; of its further cases that fail, only that they do."""
        if call.excinfo:
            first = item.originalname not in self.told          # of its cases that fails
            self.lines = self.lines or (explained(item, call.excinfo) if first else ["failed too"])
            self.told.add(item.originalname)
        elif call.when == "call":
            self.right = True

    def pytest_runtest_logfinish(self, nodeid):
        for owner, label, name, value in self.parts:
            if vars(owner).get(name) is not value:
                self.tell(changed=f"{label}.{name}")
        self.tell(test=nodeid, lines=self.lines or ([] if self.right else ["did not run"]))


def parts(modules):
    """The functions and methods of those modules: [(owner, its name, name, value)]."""
    owners = [(sys.modules[label], label) for label in sorted(modules)]
    owners += [(c, f"{label}.{n}") for module, label in owners for n, c in vars(module).items()
               if isinstance(c, type) and (c.__module__ == label or n == "Tensor")]
    return [(owner, label, key, value) for owner, label in owners
            for key, value in vars(owner).items() if callable(value) or isinstance(value, property)]


def explained(item, excinfo):
    """A failure in four lines at most: the claim, which is the first sentence of the test's
    docstring; the statement of the test that broke; the values in it; what came out and what was
    expected."""
    claim = " ".join((item.function.__doc__ or "").split()).partition(". ")[0].rstrip(".")
    inside = [entry for entry in excinfo.traceback if str(entry.path) == str(item.path)]
    last, lines = excinfo.traceback[-1], [cut(claim)] if claim else []
    if inside:
        statement = str(inside[-1].statement)
        lines += [cut(f"tested {statement}"), *inputs(statement, inside[-1].frame.f_locals)]
    return [*lines, cut(f"got {got(excinfo, last, last not in inside)}")]


def inputs(statement, values):
    """[a line with the variables in the statement that are numbers, texts, lists or tensors]"""
    try:
        tree = ast.parse(statement.strip() + (" pass" if statement.rstrip().endswith(":") else ""))
    except SyntaxError:
        return []
    names = dict.fromkeys(n.id for n in ast.walk(tree) if isinstance(n, ast.Name))
    shown = [f"{name} = {cut(repr(values[name]), 40)}" for name in names if name in values and
             (isinstance(values[name], (int, float, str, list, tuple)) or
              type(values[name]).__name__ in ("Tensor", "ndarray"))]
    return [cut(f"where {', '.join(shown)}")] if shown else []


def got(excinfo, last, outside):
    """What came out, and what was expected. last: where it was raised; outside: not in the test."""
    text = str(excinfo.value)
    lines = text.splitlines() or [""]
    if excinfo.type.__name__ == "Failed" and "DID NOT RAISE" in text:
        return f"no exception, expected {text.split('DID NOT RAISE')[1].strip()}"
    if not isinstance(excinfo.value, AssertionError) or outside:
        return f"{excinfo.type.__name__}: {lines[0]}" + (f" (in {last.name})" if outside else "")
    start = next((i for i, line in enumerate(lines) if line.startswith("assert ")), 0)
    shown = clean(lines[start]).removeprefix("assert ")
    if shown == "False":                         # of `assert close(a, b)`: pytest's next line
        shown = clean(" ".join(lines[start + 1:start + 2])).removeprefix(" + where False = ")
        shown = re.sub(r"^allclose\((.*?\)), ", r"\1 == ", shown)
    left, equal, right = shown.partition(" == ")
    if not equal or left.count("(") != left.count(")") or " and " in shown:
        return shown
    # show where they begin to differ
    at = next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), 0) - 20
    return ", expected ".join(cut(side[at if at > 10 else 0:], WIDTH // 2 - 13)
                              for side in (left, right))


def clean(text):
    """Without addresses (<function f at 0x7f..> is f) and without torch's line breaks and types."""
    text = re.sub(r"(\\n|\s)+", " ", re.sub(r",?(\\n|\s)*dtype=torch\.float64", "", text))
    text = re.sub(r"<(?:built-in method|function|bound method) ([\w.]+)[^>]*>", r"\1", text)
    return re.sub(r"<class '([\w.]+)'>", r"\1", text)


def cut(text, width=WIDTH):
    text = clean(text).strip()
    return text if len(text) <= width else text[:width - 3] + "..."
