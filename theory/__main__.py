"""Every claim of the theory scripts in one table: python -m theory [NAME ...] [--assets]

Figures go to out/theory. With --assets, the READMEs' figures are replaced too. Exit code 1 if a
claim fails. The first run trains the small GPT that on_a_gpt.py looks at, unless `python train.py
--tiny` has done so, and keeps it in out/cache.
"""
import argparse
import os
import shutil
import sys
import time

import harness       # first: it sets how torch's threads wait
import torch

from harness import processes
from theory import table

NAMES = ("pareto_front", "stationary", "improvement_cone", "bisector", "monotone", "step_size",
         "parabola", "settling", "scale_free", "micro_batches", "noise", "level", "level_curve",
         "arrival", "which_word", "on_a_gpt")
SLOWEST_FIRST = ("on_a_gpt",) + NAMES[:-1]
IN_A_README = ("stationary", "improvement_cone", "noise", "level",
               "level_curve", "which_word", "on_a_gpt")
FOLDER = os.path.join("out", "theory")


def run(names):
    """The rows of the named scripts, in the order of NAMES. Two scripts run at a time, with half of
    the threads each. train.py trains each of its two models with as many, so both find the same
    target in the cache."""
    names = [name for name in SLOWEST_FIRST if name in names]
    threads, rows = torch.get_num_threads(), {}
    for i, found in processes.side_by_side(table.run_script, [(name, FOLDER) for name in names],
                                           min(2, threads), max(1, threads // 2)):
        rows[names[i]] = found
    return [row for name in NAMES if name in rows for row in rows[name]]


def main(argv=None):
    """Print the table, write the figures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m theory", description=__doc__.split(":")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--assets", action="store_true", help="replace the READMEs' figures too")
    args, started = parser.parse_args(argv), time.time()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(NAMES)}")
    names = args.names or NAMES
    rows = run(names)
    code, claims = table.print_table(rows), [row.ok for row in rows if row.measured]
    print(f"{sum(claims)} of {len(claims)} claims hold; figures in {FOLDER}; "
          f"{time.time() - started:.0f} s")
    for name in set(names) & set(IN_A_README) if args.assets else ():
        shutil.copy(os.path.join(FOLDER, name + ".png"),
                    os.path.join("assets", f"theory_{name}.png"))
    return code


if __name__ == "__main__":
    sys.exit(main())
