"""The rows of the table that `python -m theory` prints, and what the figures share."""
import contextlib
import importlib
import os
import sys
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One claim: what its formula says, what ngdiff.py does, how far apart, within tolerance?"""
    claim: str
    predicted: str
    measured: str
    error: str
    ok: bool


def show(x):
    """A number as text; for several, how many and their largest absolute value."""
    x = np.asarray(x, dtype=float)
    if x.size == 0:
        return "nothing"
    return f"{x:.7g}" if x.ndim == 0 else f"{x.size} to {np.abs(x).max():.5g}"


def compare(claim, predicted, measured, tolerance):
    """ok if they differ by less than the share `tolerance` (absolutely, if 0 is predicted)."""
    p, m = np.asarray(predicted, dtype=float), np.asarray(measured, dtype=float)
    error = np.inf                           # if there is nothing to compare, or too little
    if p.size and p.shape == m.shape:
        error = np.abs(m - p).max() / (np.abs(p).max() or 1.0)
    return Row(claim, show(p), show(m), f"{error:.1e}", bool(error <= tolerance))


def bound(claim, sign, limit, measured):
    """ok if measured < limit (sign "<") or > limit (sign ">")."""
    ok = measured < limit if sign == "<" else measured > limit
    return Row(claim, f"{sign} {limit:g}", show(measured), "-", bool(ok))


def same(claim, predicted, measured):
    """ok if both are equal: counts, words."""
    return Row(claim, str(predicted), str(measured), "-", bool(predicted == measured))


def print_table(rows):
    """The rows in fixed columns; returns the exit code: 1 if one is not ok."""
    print(f"{'claim':72} {'predicted':>21} {'measured':>21} {'error':>8}  ok")
    for row in rows:
        ok = "" if not row.measured else "yes" if row.ok else "NO"
        line = f"{row.claim:72} {row.predicted:>21} {row.measured:>21} {row.error:>8}  {ok}"
        print(line.rstrip())
    return int(not all(row.ok for row in rows))


def log_slope(x, y):
    """The straight line's slope through points on log-log axes."""
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def figure(claim, columns, width, height, rows=1):
    """(Figure titled with the claim, its axes as an array)."""
    from matplotlib.figure import Figure
    fig = Figure(figsize=(width, height), layout="constrained")
    fig.suptitle(claim)
    return fig, fig.subplots(rows, columns)


def legend_below(fig, axes, columns, **options):
    """One legend under all axes: each label of `axes` once."""
    labels = {}
    for ax in axes:
        handles, names = ax.get_legend_handles_labels()
        labels |= dict(zip(names, handles))
    fig.legend(labels.values(), labels.keys(), ncols=columns, fontsize=8,
               **{"loc": "outside lower center", **options})


def run_script(name, folder):
    """The rows of theory/NAME.py's claims() under its name; its draw() goes to folder/NAME.png."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    script = importlib.import_module(f"theory.{name}")
    with contextlib.redirect_stdout(sys.stderr):        # training says how far it is
        rows, fig = [Row(name, "", "", "", True), *script.claims()], script.draw()
    for ax in fig.axes:
        if not fig.legends and ax.get_legend_handles_labels()[1]:
            ax.legend(fontsize=8)
    os.makedirs(folder, exist_ok=True)
    fig.savefig(os.path.join(folder, name + ".png"), dpi=80)
    return rows
