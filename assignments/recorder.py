"""Inside a submission's process: limits, the student's functions, pytest, and what pytest saw."""
import ast
import contextlib
import json
import os
import re
import sys

from assignments import blank

MEMORY = 16 * 2**30      # bytes of address space: torch reserves far more than it uses
CPU_LIMIT = 30           # seconds of computing: an endless loop ends here
FILE_SIZE = 64 * 2**20   # bytes that may be written to one file
WIDTH = 100
# Not needed: what writes files, what collects garbage twice, what changes pytest's own functions.
PLUGINS = [x for name in ("cacheprovider", "unraisableexception", "threadexception", "legacypath")
           for x in ("-p", f"no:{name}")]
# A submission must not change functions of these modules, or of pytest's own, "_pytest".
WATCHED = ("builtins", "math", "random", "pytest", "numpy", "torch", "torch.testing",
           "torch.nn.functional")


def run(job, report, word):
    """Run the tests of `job` (see grade.Job) and write what happens to the file `report`."""
    out = os.open(report, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def tell(**facts):
        os.write(out, (word + json.dumps(facts) + "\n").encode())
    isolate()
    try:
        files = prepare(job, tell)
    except SyntaxError as e:
        return tell(broken=f"{e.filename}, line {e.lineno}: {type(e).__name__}: {e.msg}")
    except FileNotFoundError as e:
        return tell(broken=f"{os.path.relpath(e.filename, job['student'] or '.')} is missing")
    except (OSError, ValueError, RecursionError, MemoryError) as e:
        return tell(broken=f"not to be read: {type(e).__name__}: {e}"[:WIDTH])
    sys.dont_write_bytecode = True
    os.chdir(job["root"])
    sys.path[:] = [job["root"]] + [p for p in sys.path if p not in ("", blank.ROOT)]
    sys.addaudithook(allowed(os.path.realpath(job["root"]), files))
    import pytest
    import torch
    torch.set_num_threads(1)
    code = pytest.main([*job["points"], "--rootdir", ".", "-c", "pytest.ini", "-vv", "-s",
                        *PLUGINS], plugins=[Recorder(tell)])
    tell(end=int(code))
    os._exit(0)                # a thread that the submission began does not hold it up


def isolate(cpu=CPU_LIMIT):
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
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""          # a GPU maps more memory than the limit allows


def prepare(job, tell):
    """Bring the student's functions into job's copy. Returns the names of the files they are in."""
    places = [(name, *blank.place(name, job["root"])[:2]) for name in job["functions"]]
    files, notes, blanks = {file for _, file, _ in places}, [], []
    for file in sorted(files):
        student = blank.read_text(job["student"] or job["root"], file)
        try:
            ast.parse(student, file)
            if job["student"]:
                paths = [path for _, f, path in places if f == file]
                text, dropped = blank.merged(blank.read_text(job["root"], file), student, paths)
                blank.write_text(job["root"], file, text)
                notes += [f"left out of {file}: {', '.join(dropped)}"] if dropped else []
        except SyntaxError as e:
            e.filename = file
            raise
        blanks += [name for name, f, _ in places if f == file and
                   blank.is_blank(student, *blank.place(name, job["root"])[1:])]
    tell(notes=notes, blanks=blanks, all_blank=len(blanks) == len(places))
    return {os.path.basename(file).removesuffix(".py") for file in files}


def allowed(root, names):
    """An audit hook: no other process can be started, and files named like the assignment's can be
    read in `root` alone."""
    def hook(event, args):
        if event in ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system",
                     "subprocess.Popen"):
            raise PermissionError(f"a submission starts no process: {event}")
        if event != "open" or not isinstance(args[0], (str, bytes)):
            return
        folder, name = os.path.split(os.fsdecode(args[0]))
        if name.endswith((".py", ".pyc")) and name.partition(".")[0] in names:
            folder = os.path.realpath(folder).removesuffix(os.sep + "__pycache__")
            if not (folder + os.sep).startswith(root + os.sep) and any(
                    os.path.exists(os.path.join(folder, up, "ngdiff.py")) for up in ("", "..")):
                raise PermissionError(f"another copy of the project is not to be read: {name}")
    return hook


# --------------------------------------------------------------------------- what pytest sees

class Recorder:
    """A pytest plugin: tells what was collected, and of each test whether it passed and why not."""

    def __init__(self, tell):
        self.tell, self.right, self.lines, self.changed = tell, False, [], None
        self.parts = parts(WATCHED + tuple(n for n in sys.modules if n.startswith("_pytest.")))

    def pytest_collectreport(self, report):
        if report.failed:
            error = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
            self.tell(broken=" ".join((error or ["not to be imported"])[-1][1:].split())[:WIDTH])

    def pytest_collection_finish(self, session):
        self.tell(collected=[item.nodeid for item in session.items])
        self.parts += parts({item.module.__name__ for item in session.items})

    def pytest_runtest_logstart(self, nodeid):
        self.right, self.lines = False, []
        self.tell(begin=nodeid.partition("::")[2])

    def pytest_runtest_makereport(self, item, call):
        if call.excinfo:
            self.lines = self.lines or three_lines(item, call.excinfo)
        elif call.when == "call":
            self.right = True

    def pytest_runtest_logfinish(self, nodeid):
        if not self.changed:
            self.changed = next((f"{label}.{name}" for owner, label, name, value in self.parts
                                 if vars(owner).get(name) is not value), None)
            if self.changed:
                self.tell(changed=self.changed)
        lines = [f"{self.changed} was changed"] if self.changed else self.lines
        self.tell(test=nodeid, passed=self.right and not lines, lines=lines)


def parts(modules):
    """The functions and methods of those modules: [(owner, its name, name, value)]."""
    found = []
    for label in sorted(modules):
        module = sys.modules[label]
        owners = [(module, label)] + [(c, f"{label}.{n}") for n, c in vars(module).items()
                                      if isinstance(c, type) and (c.__module__ == label or
                                                                  n == "Tensor")]
        found += [(owner, name, key, value) for owner, name in owners
                  for key, value in vars(owner).items()
                  if callable(value) or isinstance(value, property)]
    return found


def three_lines(item, excinfo):
    """A failure: the claim, the line of the test that broke, and what was expected and got. The
    claim is the first sentence of the test's docstring, or its name in words."""
    claim = (item.function.__doc__ or item.originalname.removeprefix("test_").replace("_", " "))
    claim = " ".join(claim.split()).partition(". ")[0].rstrip(".")
    inside = [entry for entry in excinfo.traceback if str(entry.path) == str(item.path)]
    call = " ".join(str(inside[-1].statement).split()) if inside else item.name
    last = excinfo.traceback[-1]
    return [cut(claim), cut(f"call {call}"), cut(f"got {got(excinfo, last, last not in inside)}")]


def got(excinfo, last, outside):
    """What came out, and what was expected. last: where it was raised; outside: not in the test."""
    text, half = str(excinfo.value), (WIDTH - 20) // 2
    if excinfo.type.__name__ == "Failed" and "DID NOT RAISE" in text:
        return f"no exception, expected {text.split('DID NOT RAISE')[1].strip()}"
    if not isinstance(excinfo.value, AssertionError) or outside:
        first = text.splitlines()[0] if text else ""
        return f"{excinfo.type.__name__}: {first}" + (f" (in {last.name})" if outside else "")
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("assert ")), 0)
    shown = clean(lines[start].removeprefix("assert ")) if lines else "a false statement"
    because = next((line for line in lines[start + 1:] if line.lstrip().startswith("+")), "")
    because = clean(because).strip(" +").removeprefix("where False = ")
    if because.startswith("allclose("):                    # of what came out and what should
        shown = because.removeprefix("allclose(").replace("), ", ") == ", 1)
    if (because if shown == "False" else shown).startswith("all(<"):
        return "not all of them"
    left, equal, right = shown.partition(" == ")
    whole = left.count("(") == left.count(")")
    if equal and whole and " == " not in right and " and " not in shown:
        at = 0
        if cut(left, half) == cut(right, half):            # show where they begin to differ
            at = next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), 20) - 20
        more = "..." if at > 0 else ""
        return ", expected ".join(more + cut(side[max(0, at):], half - 3) for side in (left, right))
    return because if shown == "False" and because else shown


def clean(text):
    """Without addresses (<function f at 0x7f..> is f) and without torch's line breaks and types."""
    text = re.sub(r"(\\n|\s)+", " ", re.sub(r",?(\\n|\s)*dtype=torch\.float64", "", text))
    text = re.sub(r"<(?:built-in method|function|bound method) ([\w.]+)[^>]*>", r"\1", text)
    return re.sub(r"<class '([\w.]+)'>", r"\1", text)


def cut(text, width=WIDTH):
    text = clean(text).strip()
    return text if len(text) <= width else text[:width - 3] + "..."
