"""experiments.py: the comparison, the ablations and the audits say what was run."""
import json
import math

import pytest
import torch

import experiments
import metrics
import train

SMALL = ("--tiny --authors 12 --epochs 90 --n_embd 48 --n_head 2 --steps 6 --device cpu").split()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Runs one after the other, here: no process to start, and one thread as there."""
    monkeypatch.setattr(experiments, "run_all", lambda title, f, jobs: [f(*job) for job in jobs])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def go(cache, out, *flags):
    return train.main([*SMALL, "--cache", str(cache), "--out", str(out), *map(str, flags)])


@pytest.fixture
def run(cache, tmp_path):
    """A finished small run: (Run, models)."""
    config = train.parse([*SMALL, "--cache", str(cache), "--out", str(tmp_path / "run")])
    run = train.prepare(config)
    return run, train.story(run)


def test_run_all_keeps_the_order_and_starts_real_processes(monkeypatch, capsys):
    monkeypatch.undo()
    configs = [train.Config(seed=n, device="cpu") for n in range(5)]
    jobs = [(config,) for config in configs]
    assert experiments.run_all("title", train.asdict, jobs) == list(map(train.asdict, configs))
    assert "title  step 5/5" in capsys.readouterr().out


def test_one_run_is_the_run_that_train_py_makes(cache, tmp_path):
    """The same steps, and where the holdout stop is crossed, the step at which --stop stops."""
    assert go(cache, tmp_path / "a") == 0
    plain = json.loads((tmp_path / "a/results.json").read_text("utf-8"))
    config = train.parse([*SMALL, "--cache", str(cache), "--out", str(tmp_path)])
    one = experiments.one_run(config)
    assert one["steps"] == plain["steps"] == 6 and one["path"] == []
    assert one["final"] == {"steps": 6, **plain["models"]["ngdiff"]}
    flags = ("--no-autolr", "--lr", 0.03, "--steps", 100)
    assert go(cache, tmp_path / "b", *flags, "--stop", "holdout") == 0
    stopped = json.loads((tmp_path / "b/results.json").read_text("utf-8"))
    config = train.parse([*SMALL, *map(str, flags), "--cache", str(cache), "--out", str(tmp_path)])
    one = experiments.one_run(config, enough=0.0, fixed=2)
    assert one["holdout"]["steps"] == stopped["steps"] < 100 and one["fixed"]["steps"] == 2
    assert one["holdout"]["membership_auc"] == stopped["models"]["ngdiff"]["membership_auc"]


def test_a_run_ends_at_equal_forgetting_and_the_holdout_stop_or_when_it_is_destroyed(
        cache, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "LOOK", 1)
    config = train.parse([*SMALL, "--method", "ga", "--lr", "0.05", "--steps", "60",
                          "--cache", str(cache), "--out", str(tmp_path)])
    one = experiments.one_run(config, enough=0.7, fixed=1)
    assert one["final"]["forget_rouge"] <= 0.7
    reached = one["final"]["steps"]
    assert all((p["forget_rouge"] <= 0.7) == (p["step"] == reached) for p in one["path"][:reached + 1])
    assert one["path"][-1]["utility"] < 0.1 * one["path"][0]["utility"] or \
        one["steps"] == max(reached, one["holdout"]["steps"]) < 60
    tuning = experiments.one_run(config, enough=0.7)
    assert tuning["path"] == one["path"] and set(tuning["holdout"] or {"steps"}) == {"steps"}
    one = experiments.one_run(config, enough=-1)
    assert one["path"][-1]["utility"] < 0.1 * one["path"][0]["utility"] and one["steps"] < 60, "a destroyed model is let go"


def test_numbers_that_run_away_are_said_and_not_counted(cache, tmp_path):
    config = train.parse([*SMALL, "--method", "ga", "--lr", "1e38", "--cache", str(cache),
                          "--out", str(tmp_path)])
    one = experiments.one_run(config)
    assert one["final"] is None and "loss_retain" in one["ran away"]
    assert experiments.spread([1.0, None, 3.0]) == "2.000±1.414" and experiments.spread([None]) == "-"


def test_compare_chooses_rates_on_a_seed_that_it_does_not_report(cache, tmp_path, monkeypatch,
                                                                 capsys):
    monkeypatch.setattr(experiments, "VARIANTS", {
        k: experiments.VARIANTS[k] for k in ("ngdiff, AutoLR", "gdiff 0.9")})
    seen, one_run = [], experiments.one_run
    monkeypatch.setattr(experiments, "one_run", lambda config, *rest: (
        seen.append((config, rest)) or one_run(config, *rest)))
    assert go(cache, tmp_path, "--compare", "--seeds", 1) == 0
    tuned = [c for c, rest in seen if len(rest) == 1]
    reported = [c for c, rest in seen if len(rest) == 2]
    assert {c.seed for c in tuned} == {experiments.TUNING_SEED}
    assert {c.seed for c in reported} == {0} and len(reported) == 2 * 2
    assert sorted(c.method for c in tuned) == ["gdiff"] * 6 + ["ngdiff"] * 2
    assert all(c.autolr == (c.method == "ngdiff") for c, _ in seen)
    assert all(c.lr == train.Config.lr for c, _ in seen if c.autolr), "nothing chosen for AutoLR"
    saved = json.loads((tmp_path / "compare.json").read_text("utf-8"))
    for entry in saved:
        assert entry["rates"][str(entry["config"]["lr"])] == max(entry["rates"].values())
    means = [sum(entry["areas"]) for entry in saved]
    assert means == sorted(means, reverse=True), "ranked by area"
    table = (tmp_path / "table.txt").read_text("utf-8")
    assert table.strip() in capsys.readouterr().out and "8 runs on seed 100, 4 runs reported" in table
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "compare.json", "config.json", "table.txt", "tradeoff.png"]


def test_area_counts_from_the_target_to_the_retrained_model():
    path = [{"forget_rouge": f, "utility": u} for f, u in ((1.0, 0.9), (0.9, 0.9), (0.7, 0.45))]
    result = {"path": path, "retrain": {"forget_rouge": 0.8, "look": {"forget_rouge": 0.8}}}
    forgetting, utility = experiments.on_path(result)
    assert forgetting == pytest.approx([0, 0.5, 1.5]) and utility == pytest.approx([1, 1, 0.5])
    assert experiments.area(result) == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    later = {**result, "path": [*path, {"forget_rouge": 0.7, "utility": 0.9}]}
    assert experiments.area(later) == experiments.area(result), "what comes after does not count"
    with pytest.raises(FloatingPointError, match="nothing to forget; try more --epochs"):
        experiments.on_path({"path": path, "retrain": {"look": {"forget_rouge": 1.0}}})
    for retain, forget, inside in ((0.97, 0.8, True), (0.969, 0.8, False), (1, 0.801, False)):
        final = {"retain_rouge": retain, "forget_rouge": forget}
        assert experiments.in_region({**result, "final": final}) == inside


@pytest.mark.parametrize("name", ["lazy", "forget"])
def test_an_ablation_is_one_run_a_value(cache, tmp_path, name):
    assert go(cache, tmp_path, "--ablate", name, "--authors", 20, "--epochs", 5) == 0
    done = json.loads((tmp_path / "ablate.json").read_text("utf-8"))
    values = [change[name] for change in experiments.ABLATIONS[name]]
    assert [entry[name] for entry in done] == values
    assert len((tmp_path / "table.txt").read_text("utf-8").splitlines()) == 1 + len(values)
    if name == "lazy":      # 6 steps: fitted at each of them, or at the first alone
        assert done[0]["fits"] == done[-1]["fits"] + 5
    else:                   # other authors are forgotten: other retrained models
        assert len({entry["retrain"]["forget_rouge"] for entry in done}) > 1


def test_ablations_cover_what_is_asked():
    sizes = {k: [tuple(c.values()) for c in v] for k, v in experiments.ABLATIONS.items()}
    assert math.log10(sizes["lr"][-1][0] / sizes["lr"][0][0]) >= 7
    assert len(sizes["size"]) == 3 and [s[0] for s in sizes["lazy"]] == [1, 5, 10, 50]


# ---- audits

@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_weights_are_multiples_of_the_rows_step_and_off_by_half_of_it(run, bits):
    model = run[1]["target"]
    rounded = experiments.quantized(model, bits)
    for p, q in zip(model.parameters(), rounded.parameters()):
        if p.dim() < 2:
            assert torch.equal(p, q)
            continue
        step = p.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((q - p).abs() <= step * 0.5001).all()
        levels = q / step
        assert torch.allclose(levels, levels.round(), atol=1e-3) and levels.abs().max() < 2**bits / 2
    assert rounded.lm_head.weight is rounded.transformer.wte.weight


def test_relearning_starts_at_the_models_own_probability_and_leaves_it_alone(run):
    target, forget = run[1]["target"], run[0].sets["forget"]
    before = [p.clone() for p in target.parameters()]
    curve = experiments.relearn(target, forget[:1], forget[1:], run[0].config)
    own = metrics.probability([t.mean() for t in metrics.token_losses(target, forget[1:])])
    assert curve[0] == own and len(curve) == experiments.RELEARN_STEPS // 2 + 1
    assert all(torch.equal(a, b) for a, b in zip(before, target.parameters()))
    known = experiments.relearn(target, forget[:1], forget[:1], run[0].config)
    assert known[-1] > known[0], "what is trained on is learned"


def test_extraction_strength_of_a_model_that_knows_and_one_that_does_not(run):
    forget = run[0].sets["forget"]

    class Oracle:                              # says the last of the labels right, or all of them
        def __init__(self, wrong):
            self.wrong = wrong

        def logits(self, batch):
            labels = batch.labels.clone()
            labels[:self.wrong] += 1
            return torch.nn.functional.one_hot(labels, 1000)
    assert experiments.extraction(Oracle(0), forget, "cpu") == 1
    answers = [len(e.tokens) - e.n_prompt - 1 for e in forget]
    assert experiments.extraction(Oracle(2), forget, "cpu") == pytest.approx(
        sum(1 - 2 / n for n in answers) / len(answers))


def test_audit_reports_every_model_and_draws_it(cache, tmp_path, capsys):
    assert go(cache, tmp_path, "--audit") == 0
    audits = json.loads((tmp_path / "audit.json").read_text("utf-8"))
    assert list(audits) == ["target", "retrain", "ngdiff", "fresh"]
    assert audits["target"]["relearn_prob 0"] > audits["fresh"]["relearn_prob 0"]
    assert len(audits["fresh"]["relearn_curve"]) == experiments.RELEARN_STEPS // 2 + 1
    assert "forget_rouge paraphrased" in audits["ngdiff"] and "audit" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(train.OUTPUTS[:8])
