"""Measuring a model: its losses and answers on every set of rows, and the column of the results
table that they make. The measures themselves are in metrics.py."""
import random
from functools import partial

import numpy as np

import metrics
from data import Example, by_length, collate, encode, encode_rows
from harness import workers

TOKENS_AT_ONCE = 2**13    # of rows as long as GPT-2's context, 256 would take gigabytes
# With --level, log.csv tells how the rows' losses are spread: columns of a set and a percentage.
LEVEL_COLUMNS = [f"{name}_{q}" for name in ("forget", "holdout") for q in (0, 10, 50, 90, 100)]
ENOUGH_ROWS = 8      # with fewer rows in a set, membership measures say nothing and are left out


def batch_losses(model, examples, indices):
    """The token losses of the examples with these numbers, one after the other (M,)."""
    batch = collate([examples[i] for i in indices]).to(next(model.parameters()).device)
    return model.token_losses(batch).cpu().double().numpy()


def token_losses(model, examples, batch_size=256):
    """Each example's token losses, a float64 array (n,) in nats, end-of-text last. batch_size rows
    are taken at once, or fewer if they have more than TOKENS_AT_ONCE."""
    out, n = [None] * len(examples), min(workers.count(model), workers.ways(len(examples)))
    fit = max(1, TOKENS_AT_ONCE // max((len(e.tokens) for e in examples), default=1))
    batches = by_length(examples, -(-min(batch_size, fit) // n), n)
    found = workers.side_by_side(partial(batch_losses, model, examples), batches, n)
    for indices, losses in zip(batches, found):
        lengths = [len(examples[i].tokens) - examples[i].n_prompt for i in indices]
        for i, row in zip(indices, np.split(losses, np.cumsum(lengths)[:-1])):
            out[i] = row
    return out


def measure_losses(model, examples):
    """{"loss": L of each of the N examples, "min_k": its Min-40% score}."""
    tokens = token_losses(model, examples)
    return {"loss": [t.mean() for t in tokens],
            "min_k": [metrics.min_k_score(-t[:-1]) for t in tokens]}


def level_pairs(forget, holdout, seed):
    """For each forget row the number of the holdout row whose loss is its level: that of the same
    rank in answer length, or of the same share of the ranks. The seed decides between equals."""
    order = random.Random(f"pairs {seed}")
    ranked = [sorted(order.sample(range(len(some)), len(some)),
                     key=lambda i: len(some[i].tokens) - some[i].n_prompt)
              for some in (forget, holdout)]
    pairs = [0] * len(forget)
    for rank, i in enumerate(ranked[0]):
        pairs[i] = ranked[1][(2 * rank + 1) * len(holdout) // (2 * len(forget))]
    return pairs


def repeated(example):
    """Which of an example's n answer tokens stand in its question too: bools (n,)."""
    return np.isin(example.tokens[example.n_prompt:], example.tokens[:example.n_prompt])


def token_levels(losses, own, like, theirs):
    """A level for each of a row's n answer tokens, (n,): the loss of the token at the same share of
    the ranks in the row that this one should be like. losses (n,), like (m,): token losses; own,
    theirs: `repeated` of both rows. To repeat the question takes no knowledge, so the tokens that
    do have ranks of their own."""
    levels = np.empty(len(losses))
    for some, others in (own, theirs), (~own, ~theirs):
        if some.any():
            ranks = losses[some].argsort(kind="stable").argsort()
            levels[some] = np.quantile(like[others] if others.any() else like,
                                       (ranks + 0.5) / len(ranks), method="inverted_cdf")
    return levels


def level(model, examples, seed, of="row"):
    """Each forget row's level, `levels`: the loss of the holdout row that it is paired with, nats
    per answer token. It drifts as the model changes, so it is measured again and again. With of
    "token" the `token_levels` of each row, N lists, filled up with 0 behind its last token. Also
    the LEVEL_COLUMNS of log.csv: quantiles of the forget and the holdout rows' losses."""
    pairs = level_pairs(examples["forget"], examples["holdout"], seed)
    tokens = {k: token_losses(model, examples[k]) for k in ("forget", "holdout")}
    loss = {k: [x.mean() for x in some] for k, some in tokens.items()}
    columns = {k: np.percentile(loss[k.split("_")[0]], int(k.split("_")[1])).item()
               for k in LEVEL_COLUMNS}
    if of == "row":
        return {"levels": [loss["holdout"][i].item() for i in pairs], **columns}
    longest = max(map(len, tokens["forget"]))
    own, theirs = ([repeated(e) for e in examples[k]] for k in tokens)
    return {"levels": [np.pad(token_levels(row, asked, tokens["holdout"][i], theirs[i]),
                              (0, longest - len(row))).tolist()
                       for row, asked, i in zip(tokens["forget"], own, pairs)], **columns}


def generate(model, tokenizer, prompts, longest, batch_size=256):
    """Greedy continuations of N prompts, as lists of token ids: up to the end of text, but at most
    `longest` + 1 tokens."""
    out = [None] * len(prompts)
    for some in by_length([Example(p, len(p)) for p in prompts], batch_size):
        generated = model.generate([prompts[i] for i in some], longest + 1, tokenizer.eot_token)
        for i, ids in zip(some, generated):
            out[i] = [t for t in ids if t < tokenizer.n_vocab]      # a padded vocabulary has more
    return out


def measured_rows(rows):
    """Those of a set that are measured: the ones with wrong answers, if some have them."""
    return [row for row in rows if "perturbed_answer" in row] or rows


def measure(model, tokenizer, rows):
    """What a model does on one set of rows (those of `measured_rows`): a dict of lists
    with an item a row: `loss`, `min_k`, `prompts`, `gold` and `answers` (question, gold answer,
    the model's greedy one, at most one token longer than the longest gold one), `rouge` (ROUGE-L
    recall); and, with wrong answers, `loss_wrong` (a list a row) and `log_ratio`.
    Cost: a forward pass over each row's answers and one generation a row."""
    rows = measured_rows(rows)
    examples = encode_rows(tokenizer, rows)
    out = measure_losses(model, examples)
    gold = [e.tokens[e.n_prompt:-1] for e in examples]
    generated = generate(model, tokenizer, [e.tokens[:e.n_prompt] for e in examples],
                         max(map(len, gold)))
    out["prompts"] = [row["question"] for row in rows]
    out["gold"], out["answers"] = ([tokenizer.decode(ids).strip() for ids in some]
                                   for some in (gold, generated))
    out["rouge"] = [metrics.rouge_l(*pair)[0] for pair in zip(out["answers"], out["gold"])]
    if "perturbed_answer" in rows[0]:
        out["loss_wrong"] = wrong_losses(model, tokenizer, rows)
        truth = [row.get("paraphrased_answer", row["answer"]) for row in rows]
        out["log_ratio"] = metrics.log_truth_ratio(answer_losses(model, tokenizer, rows, truth),
                                           out["loss_wrong"]).tolist()
    return out


def answer_losses(model, tokenizer, rows, answers):
    """L of one answer to each row's question, N floats."""
    pairs = [encode(tokenizer, row["question"], a) for row, a in zip(rows, answers)]
    return [t.mean() for t in token_losses(model, pairs)]


def wrong_losses(model, tokenizer, rows):
    """L of each row's wrong answers: N lists, each as long as its row has wrong answers."""
    out = [[] for _ in rows]
    for k in range(max(len(row["perturbed_answer"]) for row in rows)):
        some = [i for i, row in enumerate(rows) if k < len(row["perturbed_answer"])]
        losses = answer_losses(model, tokenizer, [rows[i] for i in some],
                               [rows[i]["perturbed_answer"][k] for i in some])
        for i, loss in zip(some, losses):
            out[i].append(loss)
    return out


def summary(measured, retrained=None):
    """A model's column of the results table: a flat dict of floats. measured: `measure` of each
    set, by its name (of texts `muse.measure_texts`); retrained: the same of the retrained model, if
    there is one. Losses are means over rows, nats per token. A number that the data do not allow is
    left out:

        {set}_loss, {set}_prob        forget, retain (holdout: only the loss, but without a
                                      retrained model all that forget has); world_prob and
                                      real_authors_prob need wrong answers
        {set}_rouge                   forget, retain, world, real_authors; of texts {set}_verbmem
        {set}_knowmem                 where there are {set}_questions
        {set}_windows                 of MUSE's documents: a window's second half, given the first
        {set}_truth_ratio             with wrong answers
        model_utility                 if retain and the facts all have prob, rouge and truth ratio
        forget_quality, its log10     if forget has truth ratios, with a retrained model
        membership_auc                with ENOUGH_ROWS in forget and holdout
        privleak                      the same, with a retrained model
    """
    out, complete = {}, True
    for name in ("forget", "retain", "world", "real_authors"):
        if name in measured:
            numbers = summary_of_set(name, measured[name])
            out |= {f"{name}_{k}": v for k, v in numbers.items()}
            complete &= name == "forget" or {"prob", "rouge", "truth_ratio"} <= numbers.keys()
        for asked, column in ("questions", "knowmem"), ("windows", "windows"):
            if m := measured.get(f"{name}_{asked}"):
                out[f"{name}_{column}"] = metrics.muse_mem(m["answers"], m["gold"])
    if complete:
        out["model_utility"] = metrics.model_utility(
            [v for k, v in out.items() if not k.startswith("forget") and
             k.endswith(("_prob", "_rouge", "_truth_ratio"))])
    if retrained and "log_ratio" in measured["forget"]:
        out["forget_quality"], out["log10_forget_quality"] = metrics.forget_quality(
            measured["forget"]["log_ratio"], retrained["forget"]["log_ratio"])
    if "holdout" in measured:
        numbers = summary_of_set("forget", measured["holdout"])      # to be compared with these
        out |= {f"holdout_{k}": v for k, v in numbers.items() if not retrained or k == "loss"}
        out |= membership(measured, retrained)
    return out


def summary_of_set(name, m):
    """The numbers of one set, from its `measure`."""
    facts, out = name in ("world", "real_authors"), {}
    if not facts:
        out["prob"] = metrics.probability(m["loss"])
    elif "loss_wrong" in m:                          # facts: against the wrong answers
        out["prob"] = metrics.choice_probability(m["loss"], m["loss_wrong"])
    if "verbmem" in m:
        out["verbmem"] = m["verbmem"]
    elif "rouge" in m:
        out["rouge"] = float(np.mean(m["rouge"]))
    if "log_ratio" in m:
        mean = metrics.truth_ratio_forget if name == "forget" else metrics.truth_ratio_retain
        out["truth_ratio"] = mean(m["log_ratio"])
    if not facts:
        out["loss"] = float(np.mean(m["loss"]))
    return out


def membership(measured, retrained):
    """membership_auc (by L) and privleak (by Min-40%), if there are ENOUGH_ROWS for them."""
    if min(len(measured[k]["loss"]) for k in ("forget", "holdout")) < ENOUGH_ROWS:
        return {}
    auc = lambda m, key: metrics.membership_auc(m["forget"][key], m["holdout"][key])
    out = {"membership_auc": auc(measured, "loss")}
    if retrained and (ideal := auc(retrained, "min_k")) < 1:     # there PrivLeak divides by 0
        out["privleak"] = metrics.privleak(auc(measured, "min_k"), ideal)
    return out
