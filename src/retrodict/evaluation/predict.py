"""Predict and score every item of a benchmark, in batches that an interrupted run does not repeat."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from retrodict.dynamics.verify import Pool, Verifier, scores_of_all
from retrodict.errors import UnansweredError
from retrodict.evaluation.pool import BATCH, ItemResult, Scored, Scorer, item_result, score_frame
from retrodict.evaluation.predictions import read_predictions, write_predictions
from retrodict.models.protocol import Candidate, ForwardModel
from retrodict.progress import Progress
from retrodict.sampling import Sampling, SamplingError
from retrodict.shards import ALL, Share
from retrodict.transitions import Transition


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
    share: Share = ALL,
    progress: Progress | None = None,
) -> list[ItemResult]:
    """Predict every item: one greedy frame and `n` with `sampling`, each scored by all verifiers.

    With `n` 0 only the greedy frame is made. An item that the model cannot express is kept, unscored, with the
    model's words as the reason; a scorer's `ValueError` is an unscored frame in the same way. Raises
    `SamplingError` when the model cannot be sampled so at all.

    `keep` names a file of predictions (`write_predictions`). Finished batches lie beside it until it can be written,
    and the same call again makes only what is missing. Of several processes, each makes its `share` of the batches
    first, and gets those alone; one of them then collects all in a call without (`is_predicted`). That model and
    settings are the same is the caller's care (`run_folder.claim`); no verifier may remember earlier batches.
    """
    evaluation = _Evaluation(model, scorer, verifiers, n, seed, sampling)

    def every() -> list[ItemResult]:
        items: list[ItemResult] = []
        for number, start in enumerate(range(0, len(transitions), BATCH)):
            batch = transitions[start : start + BATCH]
            if not share.takes(number):
                continue
            make = partial(evaluation.of, batch)
            if keep is None:
                items += make()
            elif _part(keep, number).is_file() or (whole := _stored(keep, transitions, n)) is None:
                items += _predicted_once(_part(keep, number), batch, n, make)
            else:
                return whole  # another process has collected them meanwhile
            if progress is not None:
                progress.advance(len(items), len(transitions))
        return items

    if keep is None or share.total > 1:
        return every()
    results = _predicted_once(keep, transitions, n, every)
    shutil.rmtree(parts_of(keep), ignore_errors=True)
    return results


@dataclass(frozen=True)
class _Evaluation:
    """How items are predicted and scored."""

    model: ForwardModel
    scorer: Scorer
    verifiers: Sequence[Verifier]
    n: int
    seed: int
    sampling: Sampling

    def of(self, batch: Sequence[Transition]) -> list[ItemResult]:
        try:
            return self._predict(batch)
        except (SamplingError, UnansweredError):
            raise
        except ValueError as error:
            if len(batch) == 1:
                unscored = Scored(reason=str(error))
                return [item_result(batch[0], unscored, (unscored,) * self.n)]
        # One item that cannot be expressed must not cost its neighbours their scores.
        return [self.of([one])[0] for one in batch]

    def _predict(self, batch: Sequence[Transition]) -> list[ItemResult]:
        sources, actions = [t.source_image for t in batch], [t.action for t in batch]
        pools = self.model.sample(sources, actions, 1, self.seed, self.sampling.greedy)
        if self.n:
            sampled = self.model.sample(sources, actions, self.n, self.seed, self.sampling)
            pools = [[*greedy, *pool] for greedy, pool in zip(pools, sampled, strict=True)]
        rows = zip(sources, actions, pools, strict=True)
        by_verifier = scores_of_all(self.verifiers, [Pool(source, action, pool) for source, action, pool in rows])
        results = []
        for i, transition in enumerate(batch):
            frames = _score_pool(pools[i], transition, self.scorer)
            scored = [
                replace(frame, verifiers={name: scores[i][j] for name, scores in by_verifier.items()})
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


def _predicted_once(
    file: Path, transitions: Sequence[Transition], n: int, make: Callable[[], list[ItemResult]]
) -> list[ItemResult]:
    """The predictions in `file` if they are those of these items with `n` candidates each, else made and written."""
    stored = _stored(file, transitions, n)
    if stored is None:
        stored = make()
        write_predictions(file, stored)
    return stored


def _stored(file: Path, transitions: Sequence[Transition], n: int) -> list[ItemResult] | None:
    stored = read_predictions(file) if file.is_file() else []
    wanted = [(t.id, t.action, n) for t in transitions]
    return stored if [(i.id, i.action, len(i.pool)) for i in stored] == wanted else None


def is_predicted(keep: Path, items: int) -> bool:
    """Whether every batch of so many items lies beside `keep`, or `keep` itself is there."""
    return keep.is_file() or all(_part(keep, number).is_file() for number in range(math.ceil(items / BATCH)))


def _part(keep: Path, batch: int) -> Path:
    return parts_of(keep) / f"{batch:05}.parquet"


def parts_of(predictions: Path) -> Path:
    """Where finished batches lie until `predictions` can be written."""
    return predictions.with_name(f"{predictions.stem}-parts")
