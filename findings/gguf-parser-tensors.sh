#!/usr/bin/env bash
# gguf-parser 0.1.1: GGUFParser(path).load_tensors() loads the tensors of a GGUF file.
# Expected: each tensor's bytes.
# Instead:  it reads as many bytes as the tensor has dimensions, and takes the offset from the
#           file's first byte, not from where the data begin. So the first tensor of every file is
#           b"G" or b"GG", the file's own name for its format. Names, shapes and types are right.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile gguf-parser==0.1.1 gguf==0.19.0 numpy==2.4.6
v/bin/python - <<'PY'
import gguf, numpy
from gguf_parser import GGUFParser

tensors = {"a.weight": numpy.arange(64, dtype="float32").reshape(2, 32),
           "b.weight": numpy.ones(32, "float32")}
file = gguf.GGUFWriter("m.gguf", "llama")
for name, tensor in tensors.items():
    file.add_tensor(name, tensor)
file.write_header_to_file(); file.write_kv_data_to_file(); file.write_tensors_to_file(); file.close()

parser = GGUFParser("m.gguf")
parser.parse()
found = parser.load_tensors()
for info, data, (name, tensor) in zip(parser.tensors_info, found, tensors.items()):
    print(name, info["dimensions"], "bytes:", tensor.nbytes, "loaded:", data)
    assert info["name"] == name and info["dimensions"] == tensor.shape[::-1]
whole = open("m.gguf", "rb").read()
assert found[0] == b"GG" and len(found[1]) == 1, found
assert tensors["a.weight"].tobytes() in whole, "the data are in the file"
PY
