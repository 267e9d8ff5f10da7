"""Predictions and all that is known about them: for each item one greedy frame and a pool of sampled ones.

One pool of n answers every question about best-of-k for k <= n and every selector, on the same candidates. So all
scores of all candidates are kept, and nothing is chosen here.
"""

from __future__ import annotations

import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from PIL import Image

from retrodict.dynamics.verify import Pool, Verifier, scores_of_all
from retrodict.images import encode_png
from retrodict.models.protocol import Candidate, ForwardModel
from retrodict.progress import Progress
from retrodict.sampling import Sampling, SamplingError
from retrodict.transitions import Transition

BATCH = 32  # items that are predicted and scored together

Measure = Literal["score", "es", "me", "copy"]
MEASURES: tuple[Measure, ...] = ("score", "es", "me", "copy")


@dataclass(frozen=True)
class Scored:
    """One predicted frame. Scores lie in [0, 1]; NaN, with the reason, where none could be computed.

    `copy` is 1 when the frame shows the source unchanged. `verifiers` holds one score per verifier, by name.
    """

    image: bytes = b""  # PNG; empty when there is no picture
    es: float = math.nan  # editing success
    me: float = math.nan  # minimal editing
    score: float = math.nan  # min(es, me)
    copy: float = math.nan
    reason: str = ""
    verifiers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemResult:
    id: str
    category: str
    group: str
    action: str
    greedy: Scored
    pool: tuple[Scored, ...] = ()


Scorer = Callable[[Image.Image, Transition], Scored]


def tabletop_scorer(image: Image.Image, transition: Transition) -> Scored:
    """The exact-state scorer of the simulated world."""
    from retrodict.worlds.tabletop import is_copy, score

    found = score(image, transition)
    return Scored(es=found.es, me=found.me, score=found.score, copy=float(is_copy(image, transition)))


def evaluate(
    model: ForwardModel,
    transitions: Sequence[Transition],
    *,
    scorer: Scorer,
    verifiers: Sequence[Verifier] = (),
    n: int = 8,
    seed: int,
    sampling: Sampling = Sampling(),
    keep: Path | None = None,
    progress: Progress | None = None,
) -> list[ItemResult]:
    """Predict every item: one greedy frame and `n` with `sampling`, each scored by all verifiers.

    With `n` 0 only the greedy frame is made. An item that the model cannot express is kept, unscored, with the
    model's words as the reason; a scorer's `ValueError` is an unscored frame in the same way. Raises
    `SamplingError` when the model cannot be sampled so at all.

    `keep` names a file of predictions (`write_predictions`). Finished batches lie beside it until it can be written,
    and the same call again makes only what is missing. That model and settings are the same is the caller's care
    (`resume.claim`); no verifier may remember earlier batches.
    """
    from retrodict.evaluation.resume import parts_of, predicted_once

    def every() -> list[ItemResult]:
        items: list[ItemResult] = []
        for number, start in enumerate(range(0, len(transitions), BATCH)):
            batch = transitions[start : start + BATCH]
            make = partial(_evaluate_batch, model, batch, scorer, verifiers, n, seed, sampling)
            part = None if keep is None else parts_of(keep) / f"{number:05}.parquet"
            items += make() if part is None else predicted_once(part, batch, n, make)
            if progress is not None:
                progress.advance(len(items), len(transitions))
        return items

    if keep is None:
        return every()
    found = predicted_once(keep, transitions, n, every)
    shutil.rmtree(parts_of(keep), ignore_errors=True)
    return found


def _evaluate_batch(
    model: ForwardModel,
    batch: Sequence[Transition],
    scorer: Scorer,
    verifiers: Sequence[Verifier],
    n: int,
    seed: int,
    sampling: Sampling,
) -> list[ItemResult]:
    try:
        return _predict(model, batch, scorer, verifiers, n, seed, sampling)
    except SamplingError:
        raise
    except ValueError as error:
        if len(batch) == 1:
            unscored = Scored(reason=str(error))
            return [item_result(batch[0], unscored, (unscored,) * n)]
    # One item that cannot be expressed must not cost its neighbours their scores.
    return [_evaluate_batch(model, [one], scorer, verifiers, n, seed, sampling)[0] for one in batch]


def _predict(
    model: ForwardModel,
    batch: Sequence[Transition],
    scorer: Scorer,
    verifiers: Sequence[Verifier],
    n: int,
    seed: int,
    sampling: Sampling,
) -> list[ItemResult]:
    sources, actions = [t.source_image for t in batch], [t.action for t in batch]
    pools = model.sample(sources, actions, 1, seed, sampling.greedy)
    if n:
        sampled = model.sample(sources, actions, n, seed, sampling)
        pools = [[*greedy, *pool] for greedy, pool in zip(pools, sampled, strict=True)]
    rows = zip(sources, actions, pools, strict=True)
    found = scores_of_all(verifiers, [Pool(source, action, pool) for source, action, pool in rows])
    results = []
    for i, transition in enumerate(batch):
        frames = _score_pool(pools[i], transition, scorer)
        scored = [
            replace(frame, verifiers={name: scores[i][j] for name, scores in found.items()})
            for j, frame in enumerate(frames)
        ]
        results.append(item_result(transition, scored[0], tuple(scored[1:])))
    return results


def _score_pool(pool: Sequence[Candidate], transition: Transition, scorer: Scorer) -> list[Scored]:
    known: dict[int, Scored] = {}  # equal candidates are often the same object
    for candidate in pool:
        if id(candidate) not in known:
            known[id(candidate)] = score_frame(candidate.image, transition, scorer)
    return [known[id(candidate)] for candidate in pool]


def score_frame(image: Image.Image, transition: Transition, scorer: Scorer) -> Scored:
    """One picture as a scored frame; a `ValueError` of the scorer becomes the reason why it has no score."""
    try:
        found = scorer(image, transition)
    except ValueError as error:
        found = Scored(reason=str(error))
    return replace(found, image=encode_png(image))


def score_images(images: Sequence[Image.Image], transitions: Sequence[Transition], scorer: Scorer) -> list[ItemResult]:
    """Given pictures as greedy predictions without a pool: ground truth, a tokenizer round trip, other programs."""
    rows = zip(images, transitions, strict=True)
    return [item_result(transition, score_frame(image, transition, scorer)) for image, transition in rows]


def reason_counts(reasons: Iterable[str]) -> dict[str, int]:
    """How often each kind of reason occurs: what comes before the words, or the details, of one item."""
    kinds = (re.sub(r"\s*['\"(].*", " ...", re.split(r"[.:] ", reason)[0]).strip(" ,") for reason in reasons)
    return dict(sorted(Counter(kinds).items()))


def item_result(transition: Transition, greedy: Scored, pool: tuple[Scored, ...] = ()) -> ItemResult:
    t = transition
    return ItemResult(t.id, t.category, t.cluster, t.action, greedy, pool)
