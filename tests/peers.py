"""What do other packages compute from the same small input? python -m tests.peers

Installs the packages at the versions below in a virtual environment of its own, in a temporary
folder (torch and numpy are those that run this), gives each one input, the same to this project's
function, and prints the table of docs/measures.md. Needs a package index; CI does not run it.
"""
import importlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import types
import venv
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import metrics
import ngdiff
from theory import bisector

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ["transformers==5.24.0", "cvxpy==1.9.3", "ecos==2.0.14", "pydantic==2.14.4"]
BARE = ["forgetium==0.2.1"]       # without datasets and accelerate, which it would bring


class Row(NamedTuple):
    quantity: str
    package: str         # as pip wants it, then the function
    input: tuple
    theirs: callable     # of the input
    ours: callable
    why: str             # if they differ


use = importlib.import_module


# ---- theirs, where it takes more than a line

def rouge_torch_f1(generated, gold):
    """Each word is a token of its own."""
    words = {w: i for i, w in enumerate(sorted({*generated.split(), *gold.split()}), 1)}
    a, b = (torch.eye(200)[[words[w] for w in text.split()]][None] for text in (generated, gold))
    return use("rouge_torch").ROUGEScoreTorch(200).rouge_l_batch(a, [b])["f1"].item()


def mia_auc(forget, holdout):
    """erasus asks a model: here logits of two classes whose loss on class 0 is as given."""
    batch = lambda losses: [(torch.tensor([[0.0, np.log(np.expm1(x))] for x in losses]),
                             torch.zeros(len(losses), dtype=torch.long))]
    metric = use("erasus.metrics.forgetting.mia").MIAMetric()
    return metric.compute(torch.nn.Identity(), batch(forget), batch(holdout))["mia_auc"]


def auroc(forget, holdout):
    scores = torch.tensor([*forget, *holdout])
    labels = torch.tensor([0] * len(forget) + [1] * len(holdout))
    return use("torchmetrics.functional.classification").binary_auroc(scores, labels).item()


def auroc_in_two(forget, holdout):
    metric = use("torchmetrics.classification").BinaryAUROC()
    for label, scores in enumerate((forget, holdout)):
        metric.update(torch.tensor(scores), torch.full((len(scores),), label))
    return metric.compute().item()


def truth_ratio(right, wrong):
    """forgetium asks a model and a tokenizer: here the answers are letters of given probability."""
    p = torch.tensor([right, *wrong, 1 - right - sum(wrong)])
    model = torch.nn.Linear(1, 1)
    model.forward = lambda input_ids, **_: types.SimpleNamespace(
        logits=p.log().expand(*input_ids.shape, len(p)))
    tokenizer = types.SimpleNamespace(encode=lambda text, **_: [int(text)])
    row = dict(prompt="0", response="0", perturbed_responses=["1", "2"])
    compute = use("forgetium.metrics.truth_ratio").compute_truth_ratios
    return compute(model, tokenizer, [row])[0].truth_ratio


def npo(nats, nats_target):
    """The loss that erasus lowers; ours is raised. One row of a single token."""
    student, reference = (torch.tensor([[-x]]) for x in (nats, nats_target))
    strategy = use("erasus.strategies.llm_specific.npo").NPOStrategy(beta=0.1)
    return strategy.dpo_style_loss(student, reference, torch.tensor([0])).item()


def pcgrad(*rows):
    """What pytorch-optimizer leaves in .grad for two losses with these gradients."""
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = use("pytorch_optimizer").PCGrad(torch.optim.SGD([p], lr=1.0))
    optimizer.pc_backward([p @ torch.tensor(row) for row in rows])
    return p.grad


def torchjd(name, **settings):
    """One of torchjd's aggregators, of gradients that are to be followed."""
    return lambda *g: getattr(use("torchjd.aggregation"), name)(**settings)(torch.tensor(g))


# ---- ours

def direction(method):
    """d of ngdiff.py for a retain gradient and a forget gradient's negative."""
    return lambda g_R, minus: bisector.shipped(np.array(g_R), -np.array(minus), method)


def unit(function):
    def d(*rows):
        x = np.asarray(function(*rows), dtype=float)
        return x / np.linalg.norm(x)
    return d


SAID, GOLD = "the cat the cat sat on a mat", "the cat sat on the mat the end"
RECALL, F1 = lambda *texts: metrics.rouge_l(*texts)[0], lambda *texts: metrics.rouge_l(*texts)[2]
COUNT = " ".join(f"w{i}" for i in range(60))
FAR = np.arange(600.0), np.arange(600.0) + 600
NEAR = np.arange(300.0), np.arange(300.0) + 150
FORGET, HOLDOUT = (20.0, 30.0), (25.0, 40.0)
BENT, OPPOSITE = ((3.0, 0.0), (-3.0, 4.0)), ((3.0, 4.0), (-6.0, -8.0))
AUC = metrics.membership_auc

ROWS = [
    Row("ROUGE-L recall", "rouge-score==0.1.2 RougeScorer", (SAID, GOLD),
        lambda said, gold: use("rouge_score.rouge_scorer").RougeScorer(["rougeL"]).score(
            gold, said)["rougeL"].recall, RECALL, ""),
    Row("ROUGE-L recall", "rouge-score==0.1.2 the same, use_stemmer=True",
        ("she was study fly", "she was studying flies"),
        lambda said, gold: use("rouge_score.rouge_scorer").RougeScorer(
            ["rougeL"], use_stemmer=True).score(gold, said)["rougeL"].recall, RECALL,
        "words of four letters or more are stemmed there, none here"),
    Row("ROUGE-L recall", "rouge==1.0.1 Rouge", (SAID, GOLD),
        lambda said, gold: use("rouge").Rouge().get_scores(said, gold)[0]["rouge-l"]["r"], RECALL,
        "a word counts once, however often it occurs"),
    Row("ROUGE-L F1", "rouge-torch==0.1.0 ROUGEScoreTorch", ("60 words", "the same"),
        lambda *_: rouge_torch_f1(COUNT, COUNT), lambda *_: F1(COUNT, COUNT),
        "texts of more than 50 tokens are approximated"),
    Row("ROUGE-L F1", "torchmetrics==1.9.0 rouge_score", (["a b", "c d"], ["a b"]),
        lambda said, gold: use("torchmetrics.functional.text").rouge_score(
            said, gold, rouge_keys="rougeL")["rougeL_fmeasure"].item(),
        lambda said, gold: metrics.muse_mem(said, gold) / 100,
        "what has no partner is left out; refused here"),
    Row("Min-20%", "forgetium==0.2.1 min_k_prob_score", ((-1.0, -2.0, -3.0, -4.0, -5.0, -6.0),),
        lambda x: use("forgetium.metrics.mia").min_k_prob_score(np.array(x), 20.0),
        lambda x: metrics.min_k_score(x, 0.2), "1.2 tokens are two there, one here and in MUSE"),
    Row("Min-29%", "numpy (MUSE's line, int(len(x) * k))", ("-1, -2, ... -100",),
        lambda _: -np.mean(np.sort(-np.arange(1.0, 101))[:int(100 * 0.29)]),
        lambda _: metrics.min_k_score(-np.arange(1.0, 101), 0.29),
        "100 * 0.29 is 28.999... in floating point: 28 tokens there, 29 here. At MUSE's 40% both "
        "take the same"),
    Row("AUC", "scikit-learn==1.9.1 roc_auc_score", ((1.0, 2.0, 2.0), (2.0, 3.0)),
        lambda f, h: use("sklearn.metrics").roc_auc_score([0] * len(f) + [1] * len(h), [*f, *h]),
        AUC, ""),
    Row("AUC", "erasus==0.2.0 MIAMetric", ((1.0, 1.0), (1.0, 1.0)), mia_auc, AUC,
        "the curve is drawn through 200 thresholds, without its corner at 0"),
    Row("AUC", "torchmetrics==1.9.0 binary_auroc", (FORGET, HOLDOUT), auroc, AUC,
        "a sigmoid is put on scores outside 0 to 1, and makes large ones 1"),
    Row("AUC", "torchmetrics==1.9.0 BinaryAUROC, two updates", ((0.8, 0.9), (1.2, 1.1)),
        auroc_in_two, AUC, "the sigmoid is put on the second batch only"),
    Row("KS p", "scipy==1.17.1 ks_2samp", ((0.0, 0.0, 0.0, 1.0), (0.0, 1.0, 1.0, 1.0)),
        lambda x, y: use("scipy.stats").ks_2samp(x, y).pvalue,
        lambda x, y: metrics.forget_quality(x, y)[0], ""),
    Row("KS p", 'scipy==1.17.1 ks_2samp, method="asymp"', ("0 ... 299", "150 ... 449"),
        lambda *_: use("scipy.stats").ks_2samp(*NEAR, method="asymp").pvalue,
        lambda *_: metrics.forget_quality(*NEAR)[0], "the formula for infinitely many rows"),
    Row("KS log10 p", "forgetium==0.2.1 forget_quality", ("0 ... 599", "600 ... 1199"),
        lambda *_: use("forgetium.metrics.truth_ratio").forget_quality(*FAR)["forget_quality"],
        lambda *_: metrics.forget_quality(*FAR)[1],
        "p underflows to 0 and counts as 1e-300; the sign is turned round"),
    Row("truth ratio", "forgetium==0.2.1 compute_truth_ratios", (0.5, (0.4, 0.1)), truth_ratio,
        lambda right, wrong: np.exp(metrics.log_truth_ratio([-np.log(right)], [-np.log(wrong)]))[0],
        "the wrong answers' mean is arithmetic there, geometric here and in TOFU's code"),
    Row("NPO, beta 0.1", "erasus==0.2.0 NPOStrategy", (1.0, 1.0), npo,
        lambda *nats: -ngdiff.npo_objective(*map(torch.tensor, nats)).item(),
        "the factor 2 / beta is left out"),
    Row("PCGrad", "torchjd==0.18.0 PCGrad", BENT, torchjd("PCGrad"), direction("pcgrad"), ""),
    Row("PCGrad", "pytorch-optimizer==4.1.0 PCGrad", BENT, pcgrad, direction("pcgrad"),
        "the mean of the two projected gradients; their sum here"),
    Row("MGDA", "torchjd==0.18.0 MGDA", BENT, torchjd("MGDA"), direction("mgda"), ""),
    Row("IMTL-G, direction", "torchjd==0.18.0 IMTLG", BENT, unit(torchjd("IMTLG")),
        unit(direction("ngdiff")), ""),
    Row("IMTL-G", "torchjd==0.18.0 IMTLG", OPPOSITE, torchjd("IMTLG"), direction("ngdiff"),
        "no direction improves both: a rounding error is divided by another; refused here"),
    Row("ConFIG, direction", "conflictfree==0.1.8 ConFIG_update", BENT,
        unit(lambda *g: use("conflictfree.grad_operator").ConFIG_update([*map(torch.tensor, g)])),
        unit(direction("ngdiff")), ""),
    Row("ConFIG", "torchjd==0.18.0 ConFIG", OPPOSITE, torchjd("ConFIG"), direction("ngdiff"),
        "the pseudo-inverse of a matrix that has none; refused here"),
    Row("ConFIG", "conflictfree==0.1.8 ConFIG_update_double", ((0.0, 0.0), (0.0, 3.0)),
        lambda *g: use("conflictfree.grad_operator").ConFIG_update_double(*map(torch.tensor, g)),
        direction("ngdiff"), "0 / 0; refused here"),
    Row("Nash-MTL, direction", "torchjd==0.18.0 NashMTL", ((1.0, 0.0), (0.0, 10.0)),
        unit(torchjd("NashMTL", n_tasks=2)), unit(direction("ngdiff")), ""),
    Row("Nash-MTL, direction", "torchjd==0.18.0 NashMTL", BENT,
        unit(torchjd("NashMTL", n_tasks=2)), unit(direction("ngdiff")),
        "the solver gives up, and the plain sum of the two is returned"),
]


# ---- the table

def text(x):
    """A number, a text, or several, with four digits."""
    if isinstance(x, str):
        return f"`{x}`"
    if np.ndim(x) or isinstance(x, (tuple, list)):
        return f"({', '.join(map(text, x))})"
    return f"{float(x):.4g}"


def value(function, inputs):
    """What the function gives, as text; an error's name if it refuses."""
    try:
        return text(function(*inputs))
    except Exception as e:               # any package's own
        return f"{type(e).__name__}"


def table():
    yield "| quantity | package | input | it gives | this project | why |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in ROWS:
        package = row.package.replace("==", " ")
        gives = value(row.theirs, row.input), value(row.ours, row.input)
        why = row.why if gives[0] != gives[1] else "the same"
        cells = row.quantity, package, "; ".join(map(text, row.input)), *gives, why
        yield f"| {' | '.join(cells)} |"


def main():
    if sys.argv[1:] == ["inside"]:
        warnings.simplefilter("ignore")
        print("\n".join(table()))
        return
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        paths = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
        at = lambda kind: sysconfig.get_path(kind, "venv", dict(base=folder, platbase=folder))
        Path(at("purelib"), "torch.pth").write_text("\n".join(paths), "utf-8")
        python = os.path.join(at("scripts"), "python")
        wanted = {row.package.split()[0] for row in ROWS if "==" in row.package}
        for some in ([*wanted - {*BARE}, *NEEDED], ["--no-deps", *BARE]):
            subprocess.run([python, "-m", "pip", "install", "-q", *some], check=True)
        subprocess.run([python, "-m", "tests.peers", "inside"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
