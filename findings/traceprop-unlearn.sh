#!/usr/bin/env bash
# traceprop 0.7.0: traceprop.unlearn(model, gradient_store, source_id), "gradient ascent on the
# model parameters", with a report that says whether the unlearning was verified.
# Expected: the model changes; "verified" says something about the model.
# Instead:  no parameter is read or changed, whatever the rate. The report is about a copy of the
#           logged gradients, from which their own mean is subtracted, so a source of one row is
#           verified with lr .05. So is a source that is not there (a typing error, say).
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv v
v/bin/pip install -q --no-compile torch==2.13.0 numpy==2.4.6 scipy==1.17.1 traceprop==0.7.0
v/bin/python - <<'PY'
import torch, traceprop
from traceprop.attribution.gradient_store import GradientStore

torch.manual_seed(0)
model, x = torch.nn.Linear(8, 1), torch.randn(40, 8)
y, store = x.sum(1, keepdim=True), GradientStore(proj_dim=64)
for i in range(40):                               # each row's gradient
    model.zero_grad()
    (model(x[i]) - y[i]).square().sum().backward()
    store.log_gradient(model.weight.grad.numpy().ravel().copy(), sample_index=i,
                       source_id="Ann" if i < 10 else "Bob" if i == 10 else "others")
before, found = [p.detach().clone() for p in model.parameters()], []
for source, lr in (("Ann", .05), ("Bob", .05), ("Anne", .05)):
    report = traceprop.unlearn(model, store, source_id=source, lr=lr, n_steps=1000)
    same = all(map(torch.equal, before, model.parameters()))
    found.append((report.n_samples_targeted, report.verified, same))
    print(f"{source}, lr {lr}: {report.n_samples_targeted} rows, influence "
          f"{report.influence_before:.3f} -> {report.influence_after:.3f}, verified "
          f"{report.verified}, no weight changed {same}")
assert found == [(10, False, True), (1, True, True), (0, True, True)], found
PY
