"""Every claim of the theory scripts in one table: python -m theory [--assets]

Figures go to out/theory; with --assets the README's three are made anew as well. Ends with exit
code 1 if a claim fails. The first run trains the small GPT that on_a_gpt.py looks at.
"""
import argparse
import importlib
import os
import shutil
import sys
import time

from theory import toy

NAMES = ("pareto_front", "improvement_cone", "monotone", "step_size", "parabola", "scale_free",
         "on_a_gpt")
IN_THE_README = ("pareto_front", "improvement_cone", "on_a_gpt")
FOLDER = os.path.join("out", "theory")


def main():
    parser = argparse.ArgumentParser(prog="python -m theory", description=__doc__.split(":")[0])
    parser.add_argument("--assets", action="store_true", help="make the README's figures anew")
    assets = parser.parse_args().assets
    rows, t0 = [], time.time()
    for name in NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        script = importlib.import_module(f"theory.{name}")
        rows += [toy.heading(name)] + script.claims()
        script.draw(FOLDER)
    code = toy.print_table(rows)
    print(f"{sum(row.ok for row in rows if row.measured)} of {sum(bool(r.measured) for r in rows)} "
          f"claims hold; figures in {FOLDER}; {time.time() - t0:.0f} s")
    if assets:
        for name in IN_THE_README:
            shutil.copy(os.path.join(FOLDER, name + ".png"), f"assets/theory_{name}.png")
    return code


if __name__ == "__main__":
    sys.exit(main())
