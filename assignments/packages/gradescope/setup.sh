#!/usr/bin/env bash
# Gradescope runs this once, when it builds the image. Its own python3 (3.10) stays as it is.
set -e
python3 -m pip install uv
python3 -m uv venv --python 3.12 /autograder/venv
python3 -m uv pip install --python /autograder/venv/bin/python --torch-backend cpu \
    -r /autograder/source/project/@FIRST@/requirements.txt
