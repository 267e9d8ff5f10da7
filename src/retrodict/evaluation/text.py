"""How near a written action is to the true one: BLEU, ROUGE, and whether verb and objects are the right ones.

Actions are short and follow templates, so overlap comes cheap: one constant sentence per subset reaches a ROUGE-1 of
.36 on AURORA-Bench, a random other action of the subset .27 (and .58 on WhatsUp). `floors` computes both.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrodict.files import JsonObject
from retrodict.stats import Values, share_interval

FLOOR_SEEDS = 5
MEASURES = ("rouge1", "rougeL", "verb", "objects", "exact")

# Words that say neither what is done nor to what.
_FUNCTION_WORDS = frozenset(
    """a an the this that these those of to in into on onto at from with without by for and or so it its their his her
    up down out off over under away back left right above below behind front top bottom side inside next near
    towards toward another other each as is are be""".split()  # noqa: SIM905 - a list of them is harder to read
)
_SOMEBODY = frozenset(("her", "him", "them", "it", "she", "he", "they"))


def _extra(error: ImportError) -> ImportError:
    return ImportError(f"Text metrics need {error.name}: pip install 'retrodict[metrics]'")


@functools.cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _extra(error) from None
    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


@functools.cache
def _stem(word: str) -> str:
    _rouge()  # says what to install
    from nltk.stem.porter import PorterStemmer

    return str(PorterStemmer().stem(word))


@functools.cache
def rouge(text: str, truth: str) -> tuple[float, float]:
    """F1 of ROUGE-1 and ROUGE-L with Porter stemming, as the authors of arXiv 2602.06130 compute them."""
    scores = _rouge().score(truth, text)
    return scores["rouge1"].fmeasure, scores["rougeL"].fmeasure


def bleu(texts: Sequence[str], truths: Sequence[str]) -> JsonObject:
    """Corpus BLEU in [0, 1] by sacrebleu's defaults (13a, mixed case), with its signature."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise _extra(error) from None
    metric = BLEU()
    score = metric.corpus_score(list(texts), [list(truths)]).score / 100
    return {"bleu": score, "signature": str(metric.get_signature()), "n": len(texts)}


@dataclass(frozen=True)
class Parts:
    verb: str
    objects: frozenset[str]


@functools.cache
def parts(text: str) -> Parts:
    """The verb and the things of an instruction, as stems.

    Instructions begin with their verb ("Moving cup away from pen"); "make her open the door" is about opening. Things
    are what is left without function words and directions.
    """
    words = re.findall(r"[^\W_]+", text.casefold())
    if len(words) > 2 and words[0] in ("make", "let", "have") and words[1] in _SOMEBODY:
        words = words[2:]
    things = {_stem(word) for word in words[1:] if word not in _FUNCTION_WORDS}
    return Parts(_stem(words[0]) if words else "", frozenset(things))


def agreement(text: str, truth: str) -> dict[str, float]:
    """Every measure of `MEASURES`: `exact` compares words without case, the last full stop and spacing."""
    first, second = parts(text), parts(truth)
    one, longest = rouge(text, truth)
    return {
        "rouge1": one,
        "rougeL": longest,
        "verb": float(bool(first.verb) and first.verb == second.verb),
        "objects": float(first.objects == second.objects and (bool(first.objects) or first.verb == second.verb)),
        "exact": float(_plain(text) == _plain(truth)),
    }


def _plain(text: str) -> list[str]:
    return text.casefold().rstrip(" .\n").split()


def compare_texts(texts: Sequence[str | None], truths: Sequence[str], groups: Sequence[str]) -> JsonObject:
    """`{measure: {"value", "ci95", "n", "n_unscored"}, "bleu": {...}}`; None is an action that could not be written."""
    rows = [None if text is None else agreement(text, truth) for text, truth in zip(texts, truths, strict=True)]
    results: JsonObject = {}
    for measure in MEASURES:
        values = [np.nan if row is None else row[measure] for row in rows]
        results[measure] = share_interval(values, groups).entry("value")
    written = [(text, truth) for text, truth in zip(texts, truths, strict=True) if text is not None]
    return results | {"bleu": bleu(*zip(*written, strict=True)) if written else {"bleu": np.nan, "n": 0}}


def constant_texts(truths: Sequence[str], subsets: Sequence[str]) -> list[str]:
    """For each item the one action of its subset that overlaps most with all others (by ROUGE-1)."""
    medoids = {}
    for subset, actions in _by_subset(truths, subsets).items():
        overlap_AA: Values = np.array([[rouge(text, truth)[0] for text in actions] for truth in actions])
        medoids[subset] = actions[int(overlap_AA.mean(0).argmax())]
    return [medoids[subset] for subset in subsets]


def random_texts(truths: Sequence[str], subsets: Sequence[str], seed: int) -> list[str | None]:
    """For each item the action of another item of its subset; None where there is no other."""
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for i, subset in enumerate(subsets):
        members.setdefault(subset, []).append(i)
    texts: list[str | None] = []
    for i, subset in enumerate(subsets):
        others = [j for j in members[subset] if j != i]
        texts.append(truths[others[rng.integers(len(others))]] if others else None)
    return texts


def floors(truths: Sequence[str], subsets: Sequence[str], groups: Sequence[str]) -> JsonObject:
    """What two predictors reach that never look at an image: one sentence per subset, and another item's action.

    The random one is the mean over `FLOOR_SEEDS` runs, without an interval.
    """
    runs = [compare_texts(random_texts(truths, subsets, seed), truths, groups) for seed in range(FLOOR_SEEDS)]
    chance: JsonObject = {
        measure: {
            "value": float(np.mean([run[measure]["value"] for run in runs])),
            "n": runs[0][measure]["n"],
        }
        for measure in MEASURES
    }
    chance["bleu"] = {
        "bleu": float(np.mean([run["bleu"]["bleu"] for run in runs])),
        "n": runs[0]["bleu"]["n"],
    }
    return {
        "constant": compare_texts(list(constant_texts(truths, subsets)), truths, groups),
        "random": {**chance, "seeds": FLOOR_SEEDS},
    }


def _by_subset(truths: Sequence[str], subsets: Sequence[str]) -> dict[str, list[str]]:
    by_subset: dict[str, list[str]] = {}
    for truth, subset in zip(truths, subsets, strict=True):
        by_subset.setdefault(subset, []).append(truth)
    return by_subset
