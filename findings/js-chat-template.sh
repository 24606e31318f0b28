#!/usr/bin/env bash
# @huggingface/jinja 0.5.11 (npm) and jinja2 3.1.6 (PyPI): one chat template, two renderers.
# Expected: the same prompt, since the npm package exists to render models' chat templates.
# Instead:  a tool's arguments come out as JSON instead of Python's form, none as nothing, an empty
#           list does not equal [], a negative remainder has the other sign. Nothing warns.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile jinja2==3.1.6
npm install --silent --no-fund --no-audit @huggingface/jinja@0.5.11 >/dev/null
cat > templates.json <<'JSON'
["{{ call.name }} {{ call.arguments }}", "system: {{ call.system }}|",
 "{{ 'no tools' if tools == [] else 'tools' }}",
 "{{ 'turn' if (turn - 4) % 3 == 2 else 'other turn' }}", "{{ 'YES'|capitalize }}",
 "{{ call.arguments|tojson }}", "{{ 7 // 2 }} {{ 6 / 2 }} {{ call.name[::-1] }}"]
JSON
cat > render.mjs <<'JS'
import { Template } from "@huggingface/jinja";
import fs from "fs";
const call = { name: "born", arguments: { year: 1932, alive: false }, system: null };
const templates = JSON.parse(fs.readFileSync("templates.json"));
const context = { call, tools: [], turn: 3 };
console.log(JSON.stringify(templates.map((text) => new Template(text).render(context))));
JS
node render.mjs > javascript.json
v/bin/python - <<'PY'
import json
from jinja2.sandbox import ImmutableSandboxedEnvironment

render = ImmutableSandboxedEnvironment()
render.policies["json.dumps_kwargs"] = {"sort_keys": False}      # as model libraries set it
call = {"name": "born", "arguments": {"year": 1932, "alive": False}, "system": None}
same = []
pages = json.load(open("templates.json")), json.load(open("javascript.json"))
for text, other in zip(*pages):
    mine = render.from_string(text).render(call=call, tools=[], turn=3)
    same.append(mine == other)
    print("same " if same[-1] else "OTHER", text, "\n      jinja2:", repr(mine), " npm:", repr(other))
assert same == [False] * 5 + [True] * 2, same
PY
