"""Where does the probability go that a word loses? The gradient decides it, not only the loss.

Ours, not in the paper. Words of one type (cities, say) have similar embeddings: w_j = T t + e_j,
with one unit vector t a type, one e_j a word, all orthogonal. A context's hidden vector h gives the
logits w_j.h and the probabilities p_j. The right word r loses probability; s is the share of the
wrong words' probability that lies in r's type.

Claim: by gradient ascent on the right word's loss h moves along

    (1 - p_r) (v - w_r),    v the mean of the wrong words' embeddings by their probabilities.

v has less of r's type than w_r has, unless s is 1. So h leaves the type: log(s / (1 - s)) changes
at the rate (1 - p_r) (mean of p_j in type - mean of it outside - 2 T^2 (1 - s)), the means taken by
probability and p_j counted among the wrong words. With large T a word of another type becomes the
likeliest. By the margin of the likeliest other word o (ngdiff.token_level_objective) h moves along
w_o - w_r, the types' parts cancel if o is of r's type, and the rate is o's share of the type's
wrong words: the type stays.

Assumptions: o is of r's type; only h moves. Where it fails: if o is of another type, h leaves r's
type by the margin, too, and sooner.

Toy problem: two types of five words, T = 2, the right one with p = 0.97, 70% of the rest in its
type. It is raised to a loss of 4 nats.  Expected output: each row ok.
"""
import numpy as np
import torch

import ngdiff
from theory import toy
from theory.table import bound, compare, figure, same

T, LEVEL = 2.0, 4.0
TYPE = np.repeat([0, 1], 5)                                  # of each word; the right one is word 0
W = np.c_[T * np.eye(2)[TYPE], np.eye(10)]                   # (words, dimensions)
START = np.r_[0.97, 0.03 * np.array([0.4, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])]

# --------------------------------------------------------------------------- predicted


def hidden(p):
    """An h that gives these probabilities."""
    return np.linalg.lstsq(W, np.log(p), rcond=None)[0]


def wrong_words(p):
    """(wrong words' shares (10,), 0 for the right one; s)."""
    q = np.where(np.arange(10) > 0, p, 0) / (1 - p[0])
    return q, q[TYPE == 0].sum()


def rate_by_loss(p):
    """d log(s / (1 - s)) / dt, by the formula."""
    q, s = wrong_words(p)
    mean_in, mean_out = ((q[TYPE == k]**2).sum() / q[TYPE == k].sum() for k in (0, 1))
    return (1 - p[0]) * (mean_in - mean_out - 2 * T**2 * (1 - s))


def rate_by_margin(p):
    q, s = wrong_words(p)
    return q.max() / s


# --------------------------------------------------------------------------- measured

def by_loss(logits):
    return torch.logsumexp(logits, 0) - logits[0]


def by_margin(logits):
    return logits[1:].max() - logits[0]


def pulled(margin):
    """The level's objective, with the gradient of `margin` (a function of the logits)."""
    def objective(h):
        logits = torch.from_numpy(W) @ h
        level = torch.tensor(LEVEL)
        return ngdiff.token_level_objective(by_loss(logits), margin(logits), level)
    return objective


def odds(logits):
    """u, the log-odds of being wrong, with its own gradient."""
    return torch.logsumexp(logits[1:], 0) - logits[0]


def path(objective, start, steps, lr):
    """Probabilities (steps + 1, words) by gradient ascent on objective(h)."""
    tasks = lambda h: 0 * h.sum(), objective
    logits = toy.descend(tasks, hidden(start), steps, lr, method="ga").theta @ W.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def measured_rate(margin, start=START, lr=1e-5):
    """The change of log(s / (1 - s)) in one short step, divided by lr."""
    s = [wrong_words(p)[1] for p in path(lambda h: margin(torch.from_numpy(W) @ h), start, 1, lr)]
    return np.diff(np.log(s) - np.log1p(-np.array(s)))[0] / lr


def end(margin, start=START):
    return path(pulled(margin), start, 400, 0.02)[-1]


def claims():
    loss, margin = end(odds), end(by_margin)
    strange = np.r_[START[0], np.roll(START[1:], 4)]           # the likeliest other: of type 1
    return [
        compare("rate at which log(s / (1 - s)) changes, by the loss's gradient",
                rate_by_loss(START), measured_rate(by_loss), 1e-3),
        compare("   ... by the margin's", rate_by_margin(START), measured_rate(by_margin), 1e-3),
        compare("both end at the level", [LEVEL] * 2, -np.log([loss[0], margin[0]]), 1e-3),
        bound("   ... s there, by the gradient of u (0.7 at the start)", "<", 0.05,
              wrong_words(loss)[1]),
        bound("   ... by the margin's", ">", 0.95, wrong_words(margin)[1]),
        same("   ... type of the likeliest word, by both", "1, 0",
             f"{TYPE[loss.argmax()]}, {TYPE[margin.argmax()]}"),
        same("fails if the likeliest other word is of another type: type at the end, by margin", 1,
             int(TYPE[end(by_margin, strange).argmax()]))]


def draw():
    fig, axes = figure("Claim: by its loss's gradient a word gives its probability to words of "
                       "another type,\nby the margin's to the likeliest of its own", 2, 11, 4.4)
    for ax, margin, title in ((axes[0], odds, "gradient of the log-odds"),
                              (axes[1], by_margin, "gradient of the margin")):
        p = path(pulled(margin), START, 400, 0.02)
        for column, label, color in ((p[:, 0], "the right word", "black"),
                                     (p[:, 1:5].sum(1), "others of its type", "tab:blue"),
                                     (p[:, 5:].sum(1), "of the other type", "tab:red")):
            ax.plot(0.02 * np.arange(len(p)), column, color=color, label=label)
        ax.set(title=title, xlabel="time: steps x lr", ylabel="probability", ylim=(0, 1))
    return fig
