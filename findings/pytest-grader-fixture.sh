#!/usr/bin/env bash
# pytest-grader 0.4.1 (pytest 9.2.0): the score of tests with @points, where a fixture makes the
# student's model.
# Expected: a test whose fixture raises has 0 of its points, since the student's code has failed. A
#           test of 3 points with three parametrised rows is worth 3.
# Instead:  the test is missing from the score, and so are its points: 2 of 2, 100%. The three rows
#           are worth 9 points.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile pytest==9.2.0 pytest-grader==0.4.1
echo 'pytest_plugins = ["pytest_grader"]' > conftest.py
cat > student.py <<'PY'
class Model:
    def __init__(self, layers):
        self.layers = [layer.size for layer in range(layers)]       # the student's mistake
PY
cat > test_model.py <<'PY'
import pytest
from pytest_grader import points
from student import Model

@pytest.fixture
def model():
    return Model(2)

@points(2)
def test_name():
    assert Model.__name__ == "Model"

@points(8)
def test_layers(model):
    assert len(model.layers) == 2
PY
cat > test_rows.py <<'PY'
import pytest
from pytest_grader import points

@points(3)
@pytest.mark.parametrize("row", [1, 2, 3])
def test_row(row):
    assert row < 3
PY
for file in test_model.py test_rows.py; do
    v/bin/python -m pytest -q --score --no-header --tb=no "$file" | tee "$file.txt" || true
done
grep -q "Total Score: 2/2" test_model.py.txt
grep -q "ERROR test_model.py::test_layers" test_model.py.txt
! grep -q "/8" test_model.py.txt
grep -q "Total Score: 6/9" test_rows.py.txt
