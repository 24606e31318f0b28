"""Edits of right work that pytest accepts: what students do besides the task."""
import ast
import textwrap

from assignments import blank


def edits(source, path, method=None):
    """{what was done: (source, whether it must keep all points)} of a module with the function
    `path`. Where it need not, a line must say what was left out. method: a method of a class with
    an __init__, such as ["Attention", "forward"]."""
    node = blank.find(ast.parse(source), path)
    body = node.body[1 if ast.get_docstring(node) else 0]
    lines = source.splitlines(keepends=True)

    def edited(use="", above="", first="", end="", signature=None):
        """use: a statement in the function's body; above: in front of it; first: after the
        module's docstring; end: at its end; signature: (old, new) in the function's head."""
        new = list(lines)
        use = textwrap.indent(use + "\n" if use else "", " " * body.col_offset)
        new.insert(body.lineno - 1, use)
        if signature:
            at = node.lineno - 1
            head = "".join(new[at:body.lineno])
            new[at:body.lineno] = [head.replace(*signature, 1)]
        outer = next(n for n in ast.parse(source).body if n.lineno <= node.lineno <= n.end_lineno)
        before = min([outer.lineno, *(d.lineno for d in outer.decorator_list)]) - 1
        new.insert(before, above + "\n" if above else "")
        new.insert(ast.parse(source).body[0].end_lineno, first + "\n" if first else "")
        return "".join(new) + end

    helper = "def helper(x):\n    return x\n\n"
    found = {
        "one more name in an import": (edited("List", first="from typing import List, NamedTuple"),
                                       True),
        "an import that is there already": (edited(first="import math\nimport math as m2"), True),
        "a submodule": (edited("os.path.join('a', 'b')", first="import os.path"), True),
        "a later import": (edited("Counter('a')", end="\nfrom collections import Counter\n"), True),
        "a helper in front": (edited("helper(1)", above=helper), True),
        "a helper at the end": (edited("helper(1)", end="\n" + helper), True),
        "a helper by lambda": (edited("helper(1)", above="helper = lambda x: x"), True),
        "a decorator": (edited(above=helper).replace(
            lines[node.lineno - 1], " " * node.col_offset + "@helper\n" + lines[node.lineno - 1],
            1), True),
        "a constant as default": (edited(above="MY = 2.5", signature=("):", ", my=MY):")), True),
        "two constants": (edited("ONE + TWO", above="ONE, TWO = 1, 2"), True),
        "annotations": (edited(above="Vector = list", signature=("):", ") -> Vector:")), True),
        "annotations of the future": (edited(first="from __future__ import annotations",
                                             signature=("):", ") -> Unknown:")), True),
        "a class of one's own": (edited("Own().x", above="class Own:\n    x = 1\n\n"), True),
        "formatted anew": (ast.unparse(ast.parse(source)) + "\n", True),
        "two spaces": ("\n".join(" " * ((len(x) - len(x.lstrip())) // 2) + x.lstrip() for x in
                                 ast.unparse(ast.parse(source)).splitlines()) + "\n", True),
        "comments and empty lines": (edited("# mine\n\n# more") + "\n\n# the end\n", True),
        "a byte-order mark": ("\ufeff" + source.replace("\n", "\r\n"), True),
        "a print at the end": (source + "\nprint('done')\n", False),
        "an import by star": (edited("sqrt(4)", first="from math import *"), False),
        "an import that is tried": (edited(first="try:\n    import scipy\nexcept ImportError:\n"
                                                 "    scipy = None"), False),
        "a helper under a condition": (edited("helper(1)", above="if True:\n    " + helper.replace(
            "\n   ", "\n       ")), False),
    }
    if method:
        init = blank.find(ast.parse(source), [method[0], "__init__"])
        use = blank.find(ast.parse(source), method).body
        new, use = list(lines), use[1 if isinstance(use[0], ast.Expr) else 0]
        for at, line in sorted(((init.body[-1].end_lineno, "self.mine = 1\n"),
                                (use.lineno - 1, "assert self.mine == 1\n")), reverse=True):
            new.insert(at, "        " + line)
        found["a class's __init__"] = "".join(new), True
    return found
