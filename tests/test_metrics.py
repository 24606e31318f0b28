"""metrics.py against the libraries that define its numbers, and against what it must satisfy.

A literal marked "rouge_score", "scipy" or "scikit-learn" was computed beforehand by that library
on the same input: rouge_score 0.1.2 (use_stemmer=False), scipy 1.17.1 ks_2samp(method="exact"),
scikit-learn 1.9.1 roc_auc_score. Everything else is worked out by hand, beside the case.
"""
import itertools
import math
import random
from functools import partial

import numpy as np
import pytest

import data
import metrics
from conftest import Stub
from harness import measuring

pytestmark = pytest.mark.filterwarnings("error")  # an overflow is a failure, not a warning
NAN, INF = float("nan"), float("inf")
refused = partial(pytest.raises, ValueError)      # refused(function, *arguments).match(named)


# ---- texts

@pytest.mark.parametrize("generated, gold, recall, precision, f1", [  # rouge_score 0.1.2
    ("Mira Holt was born in Oslo.", "Mira Holt was born in Bergen, Norway.", 5 / 7, 5 / 6, 10 / 13),
    ("BORN IN 1984!", "born in 1984", 1, 1, 1),                          # case, punctuation
    ("born 1984 in", "born in 1984", 2 / 3, 2 / 3, 2 / 3),               # order counts
    ("Zoë Ångström's café", "zoe angstrom s cafe", 0.25, 0.2, 2 / 9),    # an accent splits a word
    ("snake_case well-known", "snake case well known", 1, 1, 1),         # "_" is no letter
    ("\u0130stanbul \u212aelvin", "i stanbul kelvin", 1, 1, 1),          # lower case before a-z
    ("running", "run", 0, 0, 0),                                         # no stemmer
    ("one\nThe teacher told one two three", "one two three", 1, 3 / 7, 0.6),  # not cut at a newline
    ("x " * 100, "x y " * 60, 0.5, 0.6, 6 / 11), ("東京", "東京", 0, 0, 0), ("", "gold", 0, 0, 0)])
def test_rouge_l_is_rouge_score_without_the_stemmer(generated, gold, recall, precision, f1):
    assert metrics.rouge_l(generated, gold) == pytest.approx((recall, precision, f1), abs=1e-15)


def test_rouge_l_finds_the_longest_of_all_common_subsequences():
    """Oracle: all 2^n subsequences. Swapping the texts swaps recall and precision, not F1."""
    rng = random.Random(0)
    subsequences = lambda words: {c for n in range(len(words) + 1)
                                  for c in itertools.combinations(words, n)}
    for _ in range(30):
        a, b = (rng.choices("abc", k=rng.randint(1, 7)) for _ in range(2))
        longest = max(map(len, subsequences(a) & subsequences(b)))
        recall, precision, f1 = metrics.rouge_l(" ".join(a), " ".join(b))
        assert (recall, precision) == (longest / len(b), longest / len(a))
        assert metrics.rouge_l(" ".join(b), " ".join(a)) == (precision, recall, f1)


# ---- likelihoods

def test_probability_is_the_mean_of_exp_not_exp_of_the_mean():
    assert metrics.probability([0, math.log(4)]) == pytest.approx((1 + 0.25) / 2)
    assert metrics.probability([800, 900]) == 0                # underflows without a warning


def test_choice_probability_is_the_share_of_the_gold_answer():
    gold, wrong = -np.log([0.5, 0.1]), -np.log([[0.25, 0.25], [0.2, 0.2]])
    assert metrics.choice_probability(gold, wrong) == pytest.approx((0.5 + 0.2) / 2)
    # only differences of L count, also where every exp(-L) underflows
    assert metrics.choice_probability(gold + 900, wrong + 900) == pytest.approx(0.35)


def test_truth_ratio_averages_the_wrong_losses_and_is_small_where_the_truth_is_likelier():
    """The mean of the losses, not of the probabilities: 0.8 and 0.2 have the geometric mean 0.4."""
    log_ratio = metrics.log_truth_ratio([1.0, 5.0], [[3.0, 4.0], [1.0, 1.0, 2.5]])
    assert log_ratio.tolist() == pytest.approx([1 - 3.5, 5 - 1.5])
    log_ratio = metrics.log_truth_ratio(-np.log([0.4]), -np.log([[0.8, 0.2]]))
    assert log_ratio.tolist() == pytest.approx([0], abs=1e-15)


def test_truth_ratio_forget_takes_R_and_1_over_R_alike():
    assert metrics.truth_ratio_forget(np.log([0.25, 4, 1])) == pytest.approx((0.25 + 0.25 + 1) / 3)
    with np.errstate(over="raise"):                               # R itself would overflow
        assert metrics.truth_ratio_forget([1000, -1000]) == 0


def test_truth_ratio_retain_rewards_a_small_R_only():
    """max(0, 1 - 1/R) would give the same mean for the pair 1/4, 4: hence 1/4 and 1/2."""
    assert metrics.truth_ratio_retain(np.log([0.25, 0.5])) == pytest.approx((0.75 + 0.5) / 2)
    assert metrics.truth_ratio_retain(np.log([1, 4])) == 0
    with np.errstate(over="raise"):
        assert metrics.truth_ratio_retain([1000, -1000]) == 0.5


def test_model_utility_is_a_harmonic_mean_that_one_zero_ruins():
    assert metrics.model_utility([0.5, 1]) == pytest.approx(2 / 3)
    assert metrics.model_utility([0.9] * 8 + [0]) == 0
    assert metrics.model_utility([0.9, 0.2, 0.7]) == pytest.approx(
        metrics.model_utility([0.7, 0.2, 0.9]))
    assert metrics.model_utility([0.9, 0.9, 1e-310]) == pytest.approx(   # 1 / 1e-310 overflows
        3e-310, rel=0.2, abs=0)


# ---- forget quality

@pytest.mark.parametrize("x, y, p", [  # scipy 1.17.1; asymptotically 0.320, 0.081, 0.056, 0.320, ..
    ([-1.2, -.4, .1, .3, .9], [.2, .5, .8, 1.1, 1.4], 0.35714285714285715),
    ([-1.2, -.4, .1, .3, .9], [.2, .5, .8, 1.1, 1.4, 1.9, 2.3], 0.11616161616161617),
    ([-1.2, -.4, .1, .3], [.2, .5, .8, 1.1, 1.4, 1.9], 0.04761904761904761),  # gcd 2
    ([0, 0, 0, 0, 1], [0, 1, 1, 1, 1], 0.35714285714285715),                  # ties
    ([0, 0, 0, 1, 1, 2], [1, 1, 2, 2], 0.5523809523809524), ([0], [1, 2], 2 / 3),
    (range(300), np.arange(300) + 119.5, 7.903952866429726e-22),              # asymptotic 3.6e-22
    (range(400), np.arange(400) + 40.5, 0.02985302150862578),                 # asymptotic 0.0278
    (399 * np.arange(400), 400 * np.arange(399) + 48000.5, 1.0407861856900427e-16),
    (300 * np.arange(400), 400 * np.arange(300) + 12000.5, 0.05128738714042753),
])
def test_forget_quality_is_the_exact_p_value(x, y, p):
    """And log10 of it. It depends only on the ranks."""
    x, y = np.array(x), np.array(y)
    for a, b in [(x, y), (y, x), (-x, -y), (x / 4 - 1, y / 4 - 1)]:
        assert metrics.forget_quality(a, b)[0] == pytest.approx(p, rel=1e-12, abs=0)
        assert metrics.forget_quality(a, b)[1] == pytest.approx(math.log10(p), abs=1e-12)


@pytest.mark.parametrize("n1, n2", [(4, 4), (3, 5), (4, 6)])
def test_forget_quality_is_the_share_of_splits_at_least_as_far_apart(n1, n2):
    """Oracle: the definition, by all ways to deal the pooled values out."""
    def distance(split):  # D n1 n2, the largest gap of the two empirical distribution functions
        steps = [n2 if i in split else -n1 for i in range(n1 + n2)]
        return max(map(abs, itertools.accumulate(steps)))

    splits = list(itertools.combinations(range(n1 + n2), n1))
    distances = [distance(split) for split in splits]
    for split, d in list(zip(splits, distances))[::7]:
        rest = [i for i in range(n1 + n2) if i not in split]
        p = sum(other >= d for other in distances) / len(distances)
        assert metrics.forget_quality(split, rest)[0] == pytest.approx(p, rel=1e-12)


def test_the_closed_form_for_equal_n_counts_the_same_paths():
    for n in (1, 5, 12):
        for h in range(1, n + 1):  # samples that stand h places apart have D = h/n
            p, _ = metrics.forget_quality(range(n), np.arange(n) + h - 0.5)
            inside = metrics._paths_inside(n, n, h) / math.comb(2 * n, n)
            assert p == pytest.approx(1 - inside, rel=1e-9)


def test_forget_quality_of_equal_samples_is_1():
    assert metrics.forget_quality([1, 2, 3], [3, 2, 1]) == (1, 0)
    assert metrics.forget_quality([1, 1, 2, 2], [1, 2]) == (1, 0)  # D = 0 also for n1 != n2


def test_log10_of_forget_quality_goes_on_where_p_underflows():
    """n = 600, D = 1: p = 2 / C(1200, 600) = 10^-359.297223761568 (40 digits of decimal)."""
    p, log10_p = metrics.forget_quality(range(600), range(600, 1200))
    assert p == 0 and log10_p == pytest.approx(-359.297223761568, abs=1e-9)


# ---- membership

def test_min_k_score_is_minus_the_mean_of_the_lowest():
    assert metrics.min_k_score([-1, -5, -2, -3, -4]) == 4.5           # 0.4 x 5 = 2 tokens
    assert metrics.min_k_score([-1, -5, -2, -3]) == 5                 # 1.6: one
    assert metrics.min_k_score([-1, -5]) == 5                         # 0.8: none, but at least one
    assert metrics.min_k_score([-1, -5, -2, -4], k=1) == 3
    # 29 of 100, as it is written, though 0.29 * 100 is 28.999999999999996
    assert metrics.min_k_score(np.arange(-100, 0), k=0.29) == 86


@pytest.mark.parametrize("forget, holdout, auc", [  # scikit-learn 1.9.1, label 1 = held out
    ([1, 2, 3], [1, 2, 4, 5], 2 / 3), ([.5, .7, .2], [.9, .1], 0.5),
    ([1, 1], [1, 1, 1], 0.5), ([1, 2, 2, 3], [2, 2, 0], 1 / 3),       # a tie counts half
    ([.1, .2], [2, 3], 1),                          # the forget set is known better
])
def test_membership_auc_is_roc_auc(forget, holdout, auc):
    assert metrics.membership_auc(forget, holdout) == pytest.approx(auc, abs=1e-12)
    assert metrics.membership_auc(holdout, forget) == pytest.approx(1 - auc, abs=1e-12)


def test_privleak_is_minus_100_before_unlearning_and_positive_when_overdone():
    assert metrics.privleak(1.0, 0.5) == -100
    assert metrics.privleak(0.5, 0.5) == metrics.privleak(0.3, 0.3) == 0
    assert metrics.privleak(0.25, 0.5) == 50        # 100 (0.75 - 0.5) / 0.5
    assert metrics.privleak(0.6, 0.2) == pytest.approx(100 * (0.4 - 0.8) / 0.8)


@pytest.mark.parametrize("hits, strength, exact", [
    ([1, 0, 1, 1], 0.5, 0.75), ([1, 1, 1], 1, 1), ([1, 1, 0], 0, 2 / 3), ([0, 1, 0, 1], 0.25, 0.5)])
def test_extraction_strength_counts_from_the_end_exact_memorisation_all(hits, strength, exact):
    assert metrics.extraction_strength(hits) == pytest.approx(strength)
    assert metrics.exact_memorisation(np.array(hits, dtype=bool)) == pytest.approx(exact)


# ---- measuring a model

ROWS = [{"question": "Who sails?", "answer": "Zoe sails.", "paraphrased_answer": "It is Zoe.",
         "perturbed_answer": ["Bob sails.", "Eve."]},
        {"question": "Who bakes bread?", "answer": "Bob bakes it.",
         "paraphrased_answer": "Bob does.",
         "perturbed_answer": ["Zoe bakes.", "Eve.", "Bob sails."]}]


def stub(rows, **answers):
    """A model that answers "Who bakes?" with answers["bakes"]; the tokenizer."""
    tokenizer = data.word_tokenizer({"forget": rows})
    said = lambda ids: tokenizer.encode_ordinary(answers.get(tokenizer.decode(ids)[4:-2], ""))
    return Stub(said), tokenizer


def test_measure_is_worked_out_row_by_row():
    model, tokenizer = stub(ROWS, sails=" Zoe sails it. Bob Bob")
    m = measuring.measure(model, tokenizer, ROWS)
    tokens = lambda answer: tokenizer.encode_ordinary(" " + answer)
    loss = lambda answer: np.mean(tokens(answer) + [tokenizer.eot_token]) / 10
    assert m["loss"] == pytest.approx([loss(row["answer"]) for row in ROWS])
    assert m["prompts"] == ["Who sails?", "Who bakes bread?"]
    assert (m["gold"], m["answers"]) == (["Zoe sails.", "Bob bakes it."], ["Zoe sails it. Bob", ""])
    assert m["rouge"] == [1, 0]
    wrong = [[loss(answer) for answer in row["perturbed_answer"]] for row in ROWS]
    assert sum(map(list, m["loss_wrong"]), []) == pytest.approx(sum(wrong, []))
    assert m["log_ratio"] == pytest.approx([
        loss(row["paraphrased_answer"]) - np.mean(some) for row, some in zip(ROWS, wrong)])
    assert m["min_k"][0] == pytest.approx(max(tokens("Zoe sails.")) / 10), "1 of 3, without the end"


def test_only_rows_with_wrong_answers_are_measured_where_some_have_them():
    plain = [{k: row[k] for k in ("question", "answer")} for row in ROWS]
    model, tokenizer = stub(ROWS)
    assert len(measuring.measure(model, tokenizer, [plain[0], ROWS[1]])["loss"]) == 1
    m = measuring.measure(model, tokenizer, plain)
    assert len(m["loss"]) == 2 and not {"log_ratio", "loss_wrong"} & m.keys()
    fact = [{k: row[k] for k in row if k != "paraphrased_answer"} for row in ROWS]
    m = measuring.measure(model, tokenizer, fact)
    assert m["log_ratio"][0] == pytest.approx(
        m["loss"][0] - np.mean(m["loss_wrong"][0])), "facts: the plain answer stands for itself"


@pytest.mark.parametrize("size, fit, most", [
    (1, 9, 1), (2, 9, 2), (256, 9, 3), (256, 2, 2), (256, 0, 1)])
def test_a_row_is_measured_alike_in_every_order_and_batch(monkeypatch, size, fit, most):
    """size: rows at once; fit: as many of the longest as may go through the model at once."""
    rows = ROWS + [{"question": "Who is?", "answer": "Eve."}]
    said = {"sails": " Bob.", "bakes bread": " Eve bakes."}
    model, tokenizer = stub(rows, **said)
    for order in itertools.permutations(rows):
        examples = data.encode_rows(tokenizer, order)
        longest = max(len(e.tokens) for e in examples)
        monkeypatch.setattr(measuring, "TOKENS_AT_ONCE", fit * longest)
        losses = measuring.token_losses(model, examples, size)
        assert max(model.sizes) == most, "one, even if it is longer"
        for e, some in zip(examples, losses):
            assert some == pytest.approx(np.array(e.tokens[e.n_prompt:]) / 10)
        model.sizes.clear()
        prompts = [e.tokens[:e.n_prompt] for e in examples]
        answers = measuring.generate(model, tokenizer, prompts, 9, size)
        assert [tokenizer.decode(ids) for ids in answers] == [
            said.get(row["question"][4:-1], "") for row in order]
        assert max(model.sizes) == min(size, 3)
        model.sizes.clear()


def measured():
    """What `measure` gave on four sets, made up: all numbers differ."""
    def some(loss, rouge, ratio=None, wrong=None):
        out = {"loss": np.full(8, loss), "min_k": np.full(8, 2 * loss), "rouge": [rouge, 0.0] * 4}
        if ratio is not None:
            out |= {"log_ratio": np.full(8, ratio), "loss_wrong": [[wrong, wrong]] * 8}
        return out
    return {"forget": some(2.0, 0.4, 0.5, 9), "retain": some(0.1, 1.0, -1.0, 9),
            "world": some(0.2, 0.8, -2.0, 0.7), "holdout": some(1.0, 0.3)}


def test_each_line_of_the_table_is_its_own_measure_of_its_own_set():
    own, retrained = measured(), measured()
    own["real_authors"] = own["world"]
    retrained["forget"] |= {"log_ratio": np.full(8, 0.7), "min_k": np.full(8, 2.0)}
    retrained["holdout"] |= {"loss": np.full(8, 1.5)}
    choice = math.exp(-0.2) / (math.exp(-0.2) + 2 * math.exp(-0.7))
    facts = {"prob": choice, "rouge": 0.4, "truth_ratio": 1 - math.exp(-2)}
    retain = {"prob": math.exp(-0.1), "rouge": 0.5, "truth_ratio": 1 - math.exp(-1)}
    nine = [*facts.values(), *facts.values(), *retain.values()]
    p = 2 / math.comb(16, 8)           # the two samples are apart: D = 1
    assert measuring.summary(own, retrained) == pytest.approx({
        "forget_loss": 2, "forget_prob": math.exp(-2), "forget_rouge": 0.2,
        "forget_truth_ratio": math.exp(-0.5), "retain_loss": 0.1, "holdout_loss": 1,
        **{f"{name}_{k}": x for name in ("world", "real_authors") for k, x in facts.items()},
        **{f"retain_{k}": x for k, x in retain.items()},
        "model_utility": 9 / sum(1 / x for x in nine), "forget_quality": p,
        "log10_forget_quality": math.log10(p), "membership_auc": 0,
        "privleak": 100 * (0.5 - 0) / 0.5})


def test_forget_quality_must_see_R_and_not_the_folded_ratio():
    """Two models whose log R are each other's mirror image: min(R, 1/R) could not tell them."""
    R = np.array([-2, -1.5, -1, -.6, -.2, -.1, -.05, -.01])
    one, other = measured(), measured()
    one["forget"]["log_ratio"], other["forget"]["log_ratio"] = R, -R
    for pair in ((one, other), (other, one)):
        assert measuring.summary(*pair)["forget_quality"] == pytest.approx(2 / math.comb(16, 8))


@pytest.mark.parametrize("name, fields, n, gone", [
    ("holdout", [], 8, "holdout_loss membership_auc privleak"),
    ("holdout", ["loss", "min_k", "rouge"], 7, "membership_auc privleak"),    # too few for these
    ("world", ["loss", "rouge"], 8, "world_prob world_truth_ratio model_utility"),
    ("retain", ["loss", "rouge"], 8, "retain_truth_ratio model_utility"),
    ("forget", ["loss", "min_k", "rouge"], 8,
     "forget_truth_ratio forget_quality log10_forget_quality")])
def test_what_the_data_do_not_define_is_left_out(name, fields, n, gone):
    some = measured()
    whole, one = measuring.summary(some, some), some.pop(name)
    if fields:
        some[name] = {k: one[k][:n] for k in fields}
    assert whole.keys() - measuring.summary(some, some).keys() == set(gone.split())


def test_membership_goes_by_the_loss_and_privleak_by_min_k_of_both_models():
    def of(*numbers):
        a, b, c, d = ([x] * 8 for x in numbers)
        return {"forget": {"loss": a, "min_k": c}, "holdout": {"loss": b, "min_k": d}}

    equal = of(1, 1, 1, 1)                                          # both areas are 1/2
    assert measuring.membership(of(1, 2, 3, 2), equal) == {"membership_auc": 1, "privleak": 100}
    assert measuring.membership(of(2, 1, 2, 3), equal) == {"membership_auc": 0, "privleak": -100}
    assert measuring.membership(equal, of(2, 1, 3, 2)) == {"membership_auc": 0.5, "privleak": -50}
    # the retrained model's area by Min-40% is 1: PrivLeak would divide by 0
    assert measuring.membership(equal, of(2, 1, 2, 3)) == {"membership_auc": 0.5}


# ---- errors

def test_likelihoods_of_what_is_empty_or_not_finite_are_refused():
    refused(metrics.probability, [1.0, 2.0, NAN]).match(r"losses\D*2\b")
    refused(metrics.probability, []).match("losses")
    refused(metrics.probability, [[1.0], [2.0]]).match(r"losses\D*0\b")
    refused(metrics.choice_probability, [1.0, NAN], [[1.0], [1.0]]).match(r"loss_gold\D*1\b")
    refused(metrics.choice_probability, [1.0, 1.0], [[1.0], [INF]]).match(r"loss_wrong\D*1\b")
    refused(metrics.choice_probability, [1.0, 2.0], [[1.0]]).match("loss_wrong")
    refused(metrics.log_truth_ratio, [NAN], [[1.0]]).match(r"loss_paraphrase\D*0\b")
    for truth_ratio in (metrics.truth_ratio_forget, metrics.truth_ratio_retain):
        refused(truth_ratio, [0.0, -INF]).match(r"log_ratio\D*1\b")
    refused(metrics.model_utility, [0.5, NAN]).match(r"numbers\D*1\b")
    refused(metrics.model_utility, [0.5, -0.1]).match(r"numbers\D*1\b")


def test_membership_refuses_what_is_no_score_and_no_share():
    refused(metrics.min_k_score, [-1.0, -INF]).match(r"token_logprobs\D*1\b")
    refused(metrics.min_k_score, [-1.0], k=0).match(r"\bk\b")
    refused(metrics.min_k_score, [-1.0], k=1.1).match(r"\bk\b")
    refused(metrics.membership_auc, [1.0, NAN], [1.0]).match(r"scores_forget\D*1\b")
    refused(metrics.membership_auc, [1.0], []).match("scores_holdout")
    refused(metrics.privleak, 0.5, 1.0).match("auc_retrain")
    refused(metrics.privleak, NAN, 0.5).match("auc_model")
    refused(metrics.privleak, 1.1, 0.5).match("auc_model")


def test_ratios_tokens_and_texts_that_are_empty_or_not_finite_are_refused():
    refused(metrics.forget_quality, [0.0, NAN], [0.0]).match(r"log_ratio_model\D*1\b")
    refused(metrics.forget_quality, [0.0], [0.0, INF]).match(r"log_ratio_retrain\D*1\b")
    refused(metrics.extraction_strength, []).match("hits")
    refused(metrics.exact_memorisation, [1, NAN]).match(r"hits\D*1\b")
    refused(metrics.muse_mem, [], []).match("gold")
    refused(metrics.muse_mem, ["a"], ["a", "b"]).match("generated")
    refused(metrics.muse_mem, ["a", "b"], ["a", " "]).match(r"gold\D*1\b")
