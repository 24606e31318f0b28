"""Every claim of theory/ holds for the shipped ngdiff.py, on smaller problems where that is faster.

A prediction here is the script's own, made without ngdiff.py; each row compares it with what
ngdiff.py does. Flip a sign in ngdiff.py and rows below fail by name.
"""
import importlib

import numpy as np
import pytest

import train
from conftest import SMALL, job, rows
from theory import on_a_gpt, pareto_front, table, toy
from theory.__main__ import NAMES

SMALLER = {     # arguments that make a script's claims() faster
    "pareto_front": dict(n_paths=1, largest=20.0),
    "stationary": dict(n_starts=2, largest=30.0),
    "scale_free": dict(largest=10.0), "step_size": dict(n_points=2),
    "improvement_cone": dict(ratios=tuple(np.geomspace(1e-3, 1e3, 7)),
                             angles=tuple(np.radians(np.arange(2.5, 180, 5))), n_adam=200),
    "monotone": dict(n_points=10), "settling": dict(steps=100), "micro_batches": dict(n=100),
    "parabola": dict(n_points=20), "noise": dict(n=20, n_runs=1), "level": dict(n=1)}
SCRIPTS = [name for name in NAMES if name != "on_a_gpt"]      # that needs the trained model


def claims(name):
    return importlib.import_module(f"theory.{name}").claims(**SMALLER.get(name, {}))


@job(*((claims, name) for name in SCRIPTS), ids=SCRIPTS)
def test_claims_hold(done):
    assert len(done) >= 4
    missed = [" | ".join(row[:4]) for row in done if not row.ok]
    assert not missed, "\n".join(missed)


def test_a_row_is_not_ok_where_prediction_and_measurement_differ():
    assert not table.compare("", 1.0, 1.1, 0.05).ok and table.compare("", 1.0, 1.04, 0.05).ok
    assert not table.compare("", [1.0, 2.0], [1.0, np.nan], 1.0).ok
    assert not table.bound("", "<", 1.0, 1.0).ok and not table.bound("", ">", 1.0, np.nan).ok
    assert not table.same("", 3, 2).ok
    good, bad = table.same("", 2, 2), table.same("", 3, 2)
    assert table.print_table([good]) == 0 and table.print_table([good, bad]) == 1


def test_front_is_where_the_formula_says():
    q = toy.quadratics(20, 7)
    c_star = pareto_front.critical_c(q)
    assert np.linalg.eigvalsh(c_star * q.A - (1 - c_star) * q.B)[0] == pytest.approx(0, abs=1e-9)
    theta = pareto_front.minimiser(q, c_star + 0.5 * (1 - c_star))
    g_R, g_F = q.gradients(theta)
    assert g_R @ g_F / np.linalg.norm(g_R) / np.linalg.norm(g_F) == pytest.approx(1, abs=1e-12)


@pytest.mark.usefixtures("in_this_process")
def test_the_slices_of_a_run_are_train_pys_own_steps(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(on_a_gpt, "MOMENTS", (0, 10))
    monkeypatch.setattr(train, "adamw", None)
    slices = on_a_gpt.measured_run((*SMALL, "--cache", str(plain[0]), "--out", str(tmp_path)))
    log = rows(plain[1] / "log.csv")
    assert [s.step for s in slices] == [0, 10]
    for s in slices:
        retain, forget, lr = (float(log[s.step][k]) for k in ("loss_retain", "loss_forget", "lr"))
        assert s.at(0) == pytest.approx((retain, forget)) and s.numbers.lr == lr
        assert s.near_zero() == pytest.approx(s.truth, rel=0.01)
