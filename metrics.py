"""How much was forgotten and how much kept: pure functions on losses, log-probabilities, strings.

In this order: texts (ROUGE-L), likelihoods (probability to model utility), the test against a
retrained model (forget quality), membership (Min-k% to PrivLeak), tokens.
The definitions are TOFU's (Maini et al. 2024, arXiv 2401.06121) and MUSE's (Shi et al. 2024,
arXiv 2407.06460), in the last two functions OpenUnlearning's (Dorna et al. 2025, arXiv 2506.12618).
L = an answer's loss in nats per token, end-of-text included; float arrays in, floats out. An empty
or non-finite input raises a ValueError naming argument and row (from 0): no table gets a NaN.

Mistakes met in public code, each guarded by a test: averaging the wrong answers' probabilities
instead of their losses; max(0, 1 - 1/R) for max(0, 1 - R); the KS test on min(R, 1/R), or with its
asymptotic p (2 to 4 times off at 1e-21); an AUC in which ties count nothing; PrivLeak with the AUC
of "is a member", which reverses its sign; cutting a generation at its first newline.
"""
import math
import re
from fractions import Fraction
from itertools import accumulate

import numpy as np


def _checked(name, values):
    """`values` as a float64 array (N,), N at least 1, or the promised ValueError."""
    return np.concatenate(_checked_lists(name, [[value] for value in values]))


def _checked_lists(name, values, rows=None):
    """`values` as a list of float64 arrays, none empty, `rows` of them (None: at least one), or the
    promised ValueError."""
    if not len(values) or rows not in (None, len(values)):
        raise ValueError(f"{name} has {len(values)} rows: expected {rows or 'at least 1'}")
    arrays = [np.asarray(row, dtype=np.float64) for row in values]
    for i, row in enumerate(arrays):
        if row.ndim != 1 or not row.size or not np.isfinite(row).all():
            shown = str(row).removeprefix("[").removesuffix("]")
            raise ValueError(f"{name}, row {i} is {shown}: expected finite numbers, one at least")
    return arrays


def rouge_l(generated, gold):
    """ROUGE-L (recall, precision, F1) of two texts; 0, 0, 0 if either has no word. Lin 2004, no
    stemmer as MUSE (TOFU stems: that moves its mean recall by about 0.014); nothing is cut."""
    # only a-z and 0-9 make words: "café" is "caf", and a text in another script has none
    generated, gold = (re.findall("[a-z0-9]+", text.lower()) for text in (generated, gold))
    gold_words = np.array(gold, dtype=str)
    lcs = np.zeros(len(gold) + 1, dtype=int)  # lcs[j]: of generated's words so far and gold[:j]
    for word in generated:
        # lcs(i, j) = max(lcs(i-1, j), lcs(i-1, j-1) + [generated_i = gold_j], lcs(i, j-1))
        step = np.maximum(lcs[1:], lcs[:-1] + (gold_words == word))
        lcs[1:] = np.maximum.accumulate(step)
    if lcs[-1] == 0:
        return 0.0, 0.0, 0.0
    recall, precision = int(lcs[-1]) / len(gold), int(lcs[-1]) / len(generated)
    return recall, precision, 2 * precision * recall / (precision + recall)


def muse_mem(generated, gold):
    """MUSE's VerbMem (passages) or KnowMem (answers): 100 x mean ROUGE-L F1 of N pairs of texts."""
    if len(gold) == 0 or len(generated) != len(gold):
        raise ValueError(f"{len(generated)} generated and {len(gold)} gold texts: expected pairs")
    for i, text in enumerate(gold):
        if not text.strip():
            raise ValueError(f"gold, row {i} is blank (only a generated text may be)")
    return 100 * sum(rouge_l(*pair)[2] for pair in zip(generated, gold)) / len(gold)


def probability(losses):
    """TOFU's probability of N answers, losses (N,) L: the mean of exp(-L), not exp of the mean."""
    return float(np.mean(np.exp(-_checked("losses", losses))))


def choice_probability(loss_gold, loss_wrong):
    """TOFU's probability for real authors and world facts: the right answer's share of all choices.
    loss_gold (N,) L; loss_wrong: N lists of L, of any lengths."""
    gold, shares = _checked("loss_gold", loss_gold), []
    for own, wrong in zip(gold, _checked_lists("loss_wrong", loss_wrong, len(gold))):
        losses = np.append(own, wrong)
        # p(a) / (p(a) + sum_k p(wrong_k)),  p = exp(-L), all divided by the largest: never 0/0
        p = np.exp(losses.min() - losses)
        shares.append(p[0] / p.sum())
    return float(np.mean(shares))


def log_truth_ratio(loss_paraphrase, loss_wrong):
    """(N,) log R in nats, R TOFU's truth ratio: small = prefers the truth to the wrong answers.
    loss_paraphrase (N,): L of the paraphrased answer (real authors, world facts: of the plain one);
    loss_wrong: N lists of L, of any lengths."""
    paraphrase = _checked("loss_paraphrase", loss_paraphrase)
    wrong = _checked_lists("loss_wrong", loss_wrong, len(paraphrase))
    # R = geometric mean_k p(wrong_k) / p(paraphrase) = exp(L(paraphrase) - mean_k L(wrong_k))
    return paraphrase - np.array([row.mean() for row in wrong])


def truth_ratio_forget(log_ratio):
    """Mean of min(R, 1/R) of (N,) log R: 1 = truth and lies are equally likely. TOFU."""
    # min(R, 1/R) = exp(-|log R|), which can't overflow
    return float(np.mean(np.exp(-np.abs(_checked("log_ratio", log_ratio)))))


def truth_ratio_retain(log_ratio):
    """Mean of max(0, 1 - R) of (N,) log R: 1 = sure of the truth; all but the forget set. TOFU."""
    # max(0, 1 - R) = 1 - exp(min(0, log R)), which can't overflow
    return float(np.mean(-np.expm1(np.minimum(0, _checked("log_ratio", log_ratio)))))


def model_utility(numbers):
    """Harmonic mean of {retain, real authors, world facts} x {probability, ROUGE-L recall, truth
    ratio}, 9 numbers or fewer: any 0 gives 0. TOFU. Raises ValueError on a negative number."""
    numbers = _checked("numbers", numbers)
    if numbers.min() < 0:
        raise ValueError(f"numbers, row {numbers.argmin()} is {numbers.min()}: expected 0 to 1")
    low = numbers.min()
    if low < 1e-300:                   # 1 / number overflows: low / number does not
        return 0.0 if low == 0 else float(low * len(numbers) / sum(low / numbers))
    # n / sum_i (1 / number_i)
    return len(numbers) / sum(1 / x for x in numbers.tolist())


def forget_quality(log_ratio_model, log_ratio_retrain):
    """(p, log10 p) of the exact two-sided two-sample Kolmogorov-Smirnov test. TOFU; Hodges 1958.
    (n1,), (n2,) log R on the forget set. p = 1: can't be told from retrained. p may underflow to 0,
    log10 p does not. Costs n1/h binomials if n1 = n2, else at most n1 n2 integer additions."""
    x = np.sort(_checked("log_ratio_model", log_ratio_model))
    y = np.sort(_checked("log_ratio_retrain", log_ratio_retrain))
    n1, n2, pooled = len(x), len(y), np.concatenate([x, y])
    # D = max_t |#(x <= t)/n1 - #(y <= t)/n2|,  h = D lcm(n1, n2); "right": ties move together
    below_x, below_y = (np.searchsorted(sample, pooled, side="right") for sample in (x, y))
    h = int(np.max(np.abs(below_x * n2 - below_y * n1))) // math.gcd(n1, n2)
    if h == 0:
        return 1.0, 0.0
    paths = math.comb(n1 + n2, n1)
    if n1 == n2:
        # p = 2 sum_{k>=1} (-1)^(k-1) C(2n, n + kh) / C(2n, n)
        ks = range(1, n1 // h + 1)
        outside = 2 * sum((-1) ** (k - 1) * math.comb(2 * n1, n1 + k * h) for k in ks)
    else:
        # p = 1 - (paths that stay inside) / C(n1 + n2, n1)
        outside = paths - _paths_inside(n1, n2, h)
    return outside / paths, math.log10(outside) - math.log10(paths)


def _paths_inside(n1, n2, h):
    """Monotone lattice paths (0, 0) to (n1, n2) with |x n2 - y n1| / gcd < h at every point."""
    width = h * math.gcd(n1, n2)
    paths = [1] + [0] * n2  # paths[y], as if at x = -1: one path enters at (0, 0)
    for x in range(n1 + 1):
        low, high = max(0, (x * n2 - width) // n1 + 1), min(n2, (x * n2 + width - 1) // n1)
        # paths(x, y) = paths(x-1, y) + paths(x, y-1): a running sum; 0 outside low..high
        paths = [0] * low + list(accumulate(paths[low:high + 1])) + [0] * (n2 - high)
    return paths[n2]


def min_k_score(token_logprobs, k=0.4):
    """Minus the mean of the lowest share k of (T,) log-probabilities, nats, end-of-text dropped:
    large = like data never seen. Shi et al. 2023, arXiv 2310.16789. It takes k T tokens, rounded
    down, at least one. MUSE's code takes int(k * T) in floating point: the same at 40%, but 28 for
    29 of 100 at 29%, and NaN instead of one token. Raises if not 0 < k <= 1."""
    logprobs = np.sort(_checked("token_logprobs (row = token)", token_logprobs))
    if not 0 < k <= 1:
        raise ValueError(f"k is {k}: expected 0 < k <= 1")
    n_tokens = max(1, int(Fraction(str(k)) * len(logprobs)))       # 0.29 as written, not as stored
    return float(-np.mean(logprobs[:n_tokens]))


def membership_auc(scores_forget, scores_holdout):
    """P(s_holdout > s_forget) + P(=)/2, scores (N,) and (M,) L or Min-k%, nats: 0.5 = the forget
    set looks like data never seen, 1 = each of its examples looks like a member. As in MUSE."""
    forget = np.sort(_checked("scores_forget", scores_forget))
    holdout = _checked("scores_holdout", scores_holdout)
    # for each held-out s: (#(forget < s) + #(forget <= s)) / 2, so that a tie counts half
    wins = sum(np.searchsorted(forget, holdout, side=side).sum() for side in ("left", "right")) / 2
    return float(wins / (len(forget) * len(holdout)))


def privleak(auc_model, auc_retrain):
    """MUSE's PrivLeak in percent from two `membership_auc` under Min-40%: -100 = not unlearned,
    0 = as retrained, > 0 = over-unlearned. Raises ValueError outside 0 to 1, or if it divides by 0.
    """
    if not (0 <= auc_model <= 1 and 0 <= auc_retrain < 1):
        raise ValueError(f"auc_model {auc_model}, auc_retrain {auc_retrain}: expected 0 to 1, and "
                         "auc_retrain below 1: there PrivLeak divides by 0")
    # 100 (AUC_m(model) - AUC_m(retrain)) / AUC_m(retrain),  AUC_m = 1 - membership_auc
    return 100 * (auc_retrain - auc_model) / (1 - auc_retrain)


def extraction_strength(hits):
    """Share of an answer, from its end, that is predicted without a mistake. OpenUnlearning, but 0
    if even the last token is wrong (there 1/T). hits: (T,) bool, whether the teacher-forced argmax
    is the label, end-of-text dropped."""
    wrong = np.flatnonzero(_checked("hits (row = token)", hits) == 0)
    # 1 - k/T,  k = the smallest position from which every token is right
    return float(1 - (wrong[-1] + 1 if len(wrong) else 0) / len(hits))


def exact_memorisation(hits):
    """Share of an answer's tokens that is predicted right; hits as above. OpenUnlearning."""
    return float(np.mean(_checked("hits (row = token)", hits)))
