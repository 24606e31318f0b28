#!/usr/bin/env bash
# nbgrader 0.9.6 (numpy 2.4.6): a test cell that ends with a number gives that
# many points, as its docs say. The cells below are really executed, then graded.
# Expected: the mean of a numpy array counts as a number too; a negative number gives 0 or an
#           error; a warning changes nothing.
# Instead:  numpy's scalar prints as np.float64(2.5), which is no number: full marks. A negative
#           number gives full marks too. A warning (text on stderr) takes all points away.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile nbgrader==0.9.6 numpy==2.4.6
PATH="$dir/v/bin:$PATH" v/bin/python - <<'PY'
import nbformat
from nbclient import NotebookClient
from nbgrader.utils import determine_grade

CELLS = {"nothing shown": "passed = [1, 0, 0, 0]",
         "python number": "10 * sum([1, 0, 0, 0]) / 4",
         "numpy number": "import numpy as np; 10 * np.mean([1, 0, 0, 0])",
         "negative number": "-2.5",
         "a warning": "import warnings; warnings.warn('deprecated')"}
notebook = nbformat.v4.new_notebook()
for number, source in enumerate(CELLS.values()):
    cell = nbformat.v4.new_code_cell(source)
    cell.metadata["nbgrader"] = {"grade": True, "solution": False, "locked": True, "points": 10,
                                 "grade_id": f"cell{number}", "schema_version": 3}
    notebook.cells.append(cell)
NotebookClient(notebook, kernel_name="python3").execute()
points = {}
for name, cell in zip(CELLS, notebook.cells):
    points[name] = determine_grade(cell)[0]
    shown = [o["data"]["text/plain"] for o in cell.outputs if o.output_type == "execute_result"]
    print(f"{name:16} shows {shown}: {points[name]} of 10")
assert list(points.values()) == [10, 2.5, 10, 10, 0], points
PY
