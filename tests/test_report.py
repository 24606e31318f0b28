"""harness/report.py: what the table, the answers, the log and the curves say."""
import csv
import io
import shutil
import subprocess

import pytest

import metrics
import ngdiff
from harness import measuring, names, report

MODELS = {"target": {"forget_loss": 0.01, "forget_rouge": 1.0, "membership_auc": 1.0},
          "retrain": {"forget_loss": 0.7, "forget_rouge": 0.83141, "holdout_loss": 0.8},
          "ngdiff": {"forget_loss": 1.5, "forget_rouge": 0.8, "holdout_loss": 0.9}}


def test_the_table_has_a_line_a_measure_and_a_column_a_model():
    lines = report.table(MODELS).splitlines()
    assert lines[0].split() == ["target", "retrain", "ngdiff", "ideal"]
    assert lines[2].split() == ["forget_rouge", "1", "0.8314", "0.8", "as", "retrain"]
    assert lines[3].split()[:5] == ["membership_auc", "1", "-", "-", "0.5;"]
    assert lines[4].split()[:4] == ["holdout_loss", "-", "0.8", "0.9"], "the target has none"
    assert "ideal" not in report.table(MODELS, aims=False)
    long = {name: {**m, "real_authors_truth_ratio": 0.5} for name, m in MODELS.items()}
    assert len({len(line) for line in report.table(long, aims=False).splitlines()}) == 1, "aligned"


@pytest.mark.parametrize("measures, ideal", [
    ("forget_prob forget_knowmem holdout_loss", "as retrain"), ("log10_forget_quality", "0"),
    ("retain_rouge retain_verbmem world_prob real_authors_rouge model_utility", "as target"),
    ("forget_quality", "1")])
def test_each_measure_says_what_a_good_model_has(measures, ideal):
    assert {report.aim(name) for name in measures.split()} == {ideal}


def test_membership_measures_say_on_which_side_too_much_is_forgotten():
    auc = metrics.membership_auc([3.0, 4.0], [1.0, 2.0])
    for name, ideal, number in (("membership_auc", 0.5, auc),
                                ("privleak", 0, metrics.privleak(auc, 0.5))):
        said, side = report.aim(name).split("; ")
        assert float(said) == ideal and side.startswith("above" if number > ideal else "below")


def test_samples_show_every_models_answer_to_the_same_question():
    of = lambda *answers: {"forget": {"prompts": ["Who?", "Where?"], "gold": ["Eve.", "Lima."],
                                      "answers": list(answers)}}
    text = report.samples({"target": of("Eva.", "Lima."), "ngdiff": of("Bob.", "Oslo.")}, "forget")
    assert [line.strip() for line in text.splitlines()] == [
        "[forget] Who?", "gold: Eve.", "target: Eva.", "ngdiff: Bob.",
        "[forget] Where?", "gold: Lima.", "target: Lima.", "ngdiff: Oslo."]
    assert "Where" not in report.samples({"target": of("Eve.", "Lima.")}, "forget", 1)


def log(n=12, level=False):
    rows = []
    for step in range(n):
        numbers = ngdiff.Numbers(0.1, -0.2 if level else 1.0, 1.0, 2.0, 0.5, lr=0.1)
        if step % 10 == 0:
            numbers = numbers._replace(fits=1, status="fit", probed=0.1, slope=1.0, curvature=2.0)
        rows.append({"step": step, "cos": numbers.cos, **numbers._asdict()})
        if level and step % 10 == 0:
            rows[-1] |= {"levels": [0.8], **dict.fromkeys(measuring.LEVEL_COLUMNS, 0.8)}
    return rows


def test_the_log_has_a_row_a_step_and_leaves_empty_what_a_step_has_not():
    rows = list(csv.DictReader(io.StringIO(report.log_csv(log(level=True)))))
    assert len(rows) == 12 and tuple(rows[0]) == report.LOG_COLUMNS
    assert (rows[0]["holdout_50"], rows[1]["holdout_50"], *(row["status"] for row in rows[:2])) == (
        "0.8", "", "fit", "")
    assert set(log(1, level=True)[0]) == {"levels", *report.LOG_COLUMNS}, "others have a column"
    assert report.log_csv([{**log(1)[0], "ours": 1}]) == report.log_csv(log(1)), "others: left out"
    assert report.log_csv(log(2)).count("\n") == 3


def drawn(fig):
    """{label: (x, y)} of every line of the figure."""
    return {line.get_label(): tuple(map(list, line.get_data()))
            for ax in fig.axes for line in ax.lines}


@pytest.mark.parametrize("method, level, said", [
    ("ngdiff", False, {"forget, to rise", "forget, retrained model", "holdout, unlearned model"}),
    ("npo", False, {"forget, retrained model", "holdout, unlearned model"}),
    ("ngdiff", True, {"forget rows, median", "holdout rows, median"})])
def test_the_curves_show_what_the_method_logs(method, level, said):
    fig = report.curves(log(level=level), {**MODELS, method: MODELS["ngdiff"]}, method)
    losses = {line.get_label() for line in fig.axes[0].lines}
    assert losses == {"retain, to stay low"} | said
    assert all(ax.get_xlabel() == "step" and ax.get_ylabel() for ax in fig.axes)
    assert all(ax.get_legend() and ax.get_title() for ax in fig.axes)
    assert [ax.get_yscale() for ax in fig.axes] == ["log", "log", "log", "linear"]
    assert method in fig.get_suptitle() and ("level" in fig.get_suptitle()) == level


def test_each_line_of_the_curves_is_its_own_column():
    """With a budget also the watched loss, and the line that it must not cross."""
    rows, steps = log(), list(range(12))
    for row in rows:
        row |= {"loss_retain": 0.1 + row["step"], "loss_forget": 20.0, "norm_retain": 3.0,
                "norm_forget": 4.0, "cos": 0.5, "lr": 0.01 * (1 + row["step"])}
    rows[0] |= {"watched": 0.02, "room": 0.1}
    rows[10] |= {"watched": 0.07, "room": 0.06}
    fig = report.curves(rows, MODELS, "ngdiff")
    lines = drawn(fig)
    for label, column in {"retain, to stay low": "loss_retain", "forget, to rise": "loss_forget",
                          "cosine": "cos", "retain": "norm_retain",
                          "forget": "norm_forget"}.items():
        assert lines[label] == (steps, [row[column] for row in rows])
    assert lines["watched retain rows"] == ([0, 10], [0.02, 0.07])
    assert list(fig.axes[1].lines[0].get_ydata()) == [row["lr"] for row in rows]
    for label, height in {"forget, retrained model": MODELS["retrain"]["forget_loss"],
                          "holdout, unlearned model": MODELS["ngdiff"]["holdout_loss"],
                          "1: Pareto stationary": 1, "their budget": 0.02 + 0.1}.items():
        assert set(lines[label][1]) == {height}
    without = {**MODELS, "ngdiff": {"forget_loss": 1.5}}
    found = drawn(report.curves(log(), without, "ngdiff"))
    assert not {"holdout, unlearned model", "their budget", "watched retain rows"} & set(found)


def test_with_the_level_loss_the_curves_show_how_the_rows_are_spread():
    rows = log(level=True)
    rows[10] |= {"forget_10": 0.0, "forget_50": 0.3, "forget_90": 1.7}
    fig = report.curves(rows, MODELS, "ngdiff")
    assert report.png(fig, 20).startswith(b"\x89PNG"), "it can be drawn, on a logarithmic axis too"
    assert drawn(fig)["forget rows, median"] == ([0, 10], [0.8, 0.3])
    assert drawn(fig)["holdout rows, median"] == ([0, 10], [0.8, 0.8])
    band = {x.get_label(): x.get_paths()[0].vertices for x in fig.axes[0].collections}
    heights = {x: {y for at, y in band["forget rows, 80 % of them"].tolist() if at == x}
               for x in (0, 10)}
    assert heights == {0: {0.8}, 10: {0.0, 1.7}}


def test_every_status_of_a_fit_has_a_mark_of_its_own_at_its_own_steps():
    rows, marks = log(6), dict(report.STATUSES)
    for row, status in zip(rows, marks):
        row["status"] = status
    found = {line.get_label(): (line.get_marker(), list(line.get_xdata()))
             for line in report.curves(rows, MODELS, "ngdiff").axes[1].lines[1:]}
    assert found == {f"AutoLR: {status}": (mark, [step])
                     for step, (status, mark) in enumerate(marks.items())}
    assert len(set(marks.values())) == len(marks) == 6


@pytest.mark.skipif(not shutil.which("git"), reason="asks git")
def test_the_commit_is_this_repositorys_and_edits_are_marked(tmp_path, monkeypatch):
    def git(folder, *words):
        subprocess.run(["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x@x", *words],
                       check=True, capture_output=True)
    inner = tmp_path / "unpacked"
    inner.mkdir()
    for folder in (tmp_path, inner):
        (folder / "train.py").write_text("1\n")
        monkeypatch.setattr(names, "ROOT", str(folder))
        if folder == inner:
            assert report.commit() == {}, "git archive, unpacked in another repository"
        git(folder, "init"), git(folder, "add", "train.py"), git(folder, "commit", "-m", "1")
        (folder / "out").write_text("a file that git does not know")
        found = report.commit()
        assert len(found["commit"]) == 40 and found["edited"] is False
        (folder / "train.py").write_text("2\n")
        assert report.commit() == {"commit": found["commit"], "edited": True}
    monkeypatch.setenv("PATH", "")
    assert report.commit() == {}, "no git"


@pytest.mark.parametrize("key, target, retrain, said", [
    ("forget_verbmem", 10.9, 11.4, True), ("forget_verbmem", 16.5, 11.4, False),
    ("forget_rouge", 0.30, 0.28, True), ("forget_rouge", 0.99, 0.83, False),
    ("forget_windows", 12.0, 11.4, True), ("forget_windows", 100.0, 11.4, False),
    ("forget_prob", 0.06, 0.07, True), ("forget_loss", 3.9, 3.9, False)])
def test_a_line_says_where_the_target_knows_nothing_that_could_be_forgotten(
        key, target, retrain, said):
    same = {"forget_verbmem": 7.0} if key == "forget_windows" else {}    # where windows decide
    line = report.nothing_to_forget({**same, key: target}, {**same, key: retrain})
    assert bool(line) == said and line.count("\n") == 2 * said
    assert not said or f"{target:.3g} for the target" in line and "--epochs" in line
