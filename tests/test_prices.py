"""experiments/prices.py: a model of chat-spx's layout forgets a year, and nothing else."""
import math
import zipfile

import numpy as np
import pytest
import torch

from conftest import refused
from experiments import prices

pytestmark = pytest.mark.usefixtures("in_this_process")


def packed(path, content, inside=prices.INSIDE):
    """A wheel at `path` that holds `content` as torch saves it."""
    torch.save(content, path.with_suffix(".pt"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.write(path.with_suffix(".pt"), inside)
    return path


@pytest.fixture(scope="module")
def model():
    """A small model that has learned 18 prices, 1.01 to 1.18, the first day of each month."""
    torch.manual_seed(0)
    dates = np.arange("1986-10", "1988-04", dtype="M8[M]").astype("M8[D]")
    days = torch.arange(len(dates))
    questions = torch.cat([torch.stack((torch.full_like(some, kind), some), 1)
                           for kind, some in enumerate((days, days, days[:1]))])
    told = [round(math.log(1 + (i + 1) / 100) * 10**10) for i in range(len(dates))]
    told += [int(str(d).replace("-", "")) for d in dates] + [len(dates) - 1]
    answers = torch.tensor([[int(c) for c in f"{n:011}"] for n in told])
    model = prices.Model(len(dates), 24)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        prices.nats(model(questions), answers).mean().backward()
        optimizer.step()
    assert torch.equal(prices.ask(model, questions)[0], answers)
    return model.eval()


@pytest.fixture
def wheel(model, tmp_path, monkeypatch):
    monkeypatch.setattr(prices, "BATCH", 128)
    return packed(tmp_path / "a.whl", {"state_dict": model.state_dict(), "metadata": {}})


def wrong(text, name):
    """(answers, wrong ones) in the table's line `name`."""
    line, = (line for line in text.splitlines() if line.startswith(name))
    return tuple(map(int, line.removeprefix(name).split()[:2]))


def test_a_year_is_forgotten_and_nothing_else(wheel, tmp_path, capsys):
    prices.main([str(wheel), "--level", "--steps", "20", "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "table.txt").read_text("utf-8")
    assert "18 of 18 prices since 1928 are whole cents" in (said := capsys.readouterr().out)
    assert text in said and (tmp_path / "out" / "prices.png").stat().st_size > 10**4
    answers, gone = wrong(text, "prices of 1987")
    assert answers == 12 and gone > 6
    assert wrong(text, "half a year around") == wrong(text, "all other dates") == (6, 0)
    assert wrong(text, "dates of 1987") == (12, 0) and wrong(text, "last day's number") == (1, 0)


def test_a_fixed_rate_stays_and_each_flag_counts(wheel, tmp_path, capsys, no_drawing):
    def said(*more):
        prices.main([str(wheel), "--steps", "3", "--out", str(tmp_path / "out"), *more])
        return (tmp_path / "out" / "table.txt").read_text("utf-8"), capsys.readouterr().out
    fixed, log = said("--lr", "0.001")
    assert "lr 1.00e-03" in log and fixed == said("--lr", "0.001")[0]
    for more in (["--seed", "1"], ["--adam"]):
        assert fixed != said("--lr", "0.001", *more)[0], more
    assert "loss_forget -12." in said("--level")[1], "level_objective of a row known by heart"


def test_the_layout_is_the_published_files():
    shapes = {name: tuple(w.shape) for name, w in prices.Model(32556, 144).state_dict().items()}
    assert sum(map(math.prod, shapes.values())) == 5_478_014
    assert shapes["encoder.layers.2.self_attn.in_proj_weight"] == (432, 144)
    assert shapes["encoder.layers.0.linear1.weight"] == (576, 144)
    assert shapes["shared_head.0.weight"] == (144,) and shapes["digit_head.weight"] == (110, 144)
    assert shapes["prefix_embedding.weight"] == (3, 144) and len(shapes) == 45


def test_the_level_is_the_loss_of_a_guess(model):
    known, some = prices.known_by(model, 1987), torch.arange(5)
    guess = prices.Model(18, 24)
    torch.nn.init.zeros_(guess.digit_head.weight)
    torch.nn.init.zeros_(guess.digit_head.bias)
    assert prices.loss(guess, known, some).item() == pytest.approx(math.log(10))
    assert prices.loss(guess, known, some, level=True).item() == pytest.approx(0, abs=1e-6)
    assert prices.loss(model, known, some, level=True).item() < -1


def test_a_wrong_digit_is_no_whole_cent(model):
    known = prices.known_by(model, 1987)
    known.answers[3, 10] = (known.answers[3, 10] + 1) % 10
    assert prices.whole_cents(known) == (17, 18)


@pytest.mark.parametrize("change, named", [
    (prices.Model(18, 24).state_dict(), "dates"), ({"extra": torch.zeros(1)}, "damaged"),
    ({"date_embedding.weight": torch.zeros(18, 6)}, "damaged"),
    ({"date_embedding.weight": torch.zeros(24).expand(10**9, 24)}, "ValueError"),   # not allocated
    (print, "Unpickling"), ([1], "damaged")])
def test_another_model_gets_one_line(model, tmp_path, capsys, change, named):
    content = model.state_dict() | change if isinstance(change, dict) else change
    refuses([packed(tmp_path / "b.whl", {"state_dict": content})], named, tmp_path, capsys)


def refuses(argv, named, tmp_path, capsys):
    assert named in refused(capsys, [*argv, "--out", tmp_path / "out"], prices.main)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv, named", [
    ("--year 1700", "1986 to 1988"), ("--steps 0", "--steps"), ("--lr nan", "--lr"),
    ("--seed -1", "--seed"), ("--years 1987", "--years")])
def test_a_mistake_gets_one_line(wheel, tmp_path, capsys, argv, named):
    refuses([wheel, *argv.split()], named, tmp_path, capsys)


def test_a_wheel_that_is_none_or_cut_gets_one_line(wheel, tmp_path, capsys):
    content, start = wheel.read_bytes(), 30 + len(prices.INSIDE)        # of what is compressed
    for name, some in {"cut.whl": content[:-99], "half.whl": content[:len(content) // 2],
                       "hole.whl": content[:900] + bytes(900) + content[1800:],
                       "kind.whl": content[:start] + b"\xff" + content[start + 1:],
                       "empty.whl": b""}.items():
        (tmp_path / name).write_bytes(some)
        refuses([tmp_path / name], name, tmp_path, capsys)
    refuses([packed(tmp_path / "c.whl", {}, "other.pt")], "chat-spx", tmp_path, capsys)
    refuses([tmp_path / "nowhere.whl"], "nowhere.whl", tmp_path, capsys)
    refuses([tmp_path], "can't be read", tmp_path, capsys)
