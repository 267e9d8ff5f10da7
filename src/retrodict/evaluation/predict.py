"""Predict and score every item of a benchmark, in batches that an interrupted run does not repeat."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from retrodict.dynamics.verify import Pool, Verifier, scores_of_all
from retrodict.errors import UnansweredError
from retrodict.evaluation.pool import BATCH, ItemResult, Scored, Scorer, item_result, score_frame
from retrodict.evaluation.predictions import read_predictions, write_predictions
from retrodict.models.protocol import Candidate, ForwardModel
from retrodict.progress import Progress, QuietProgress
from retrodict.sampling import Sampling, SamplingError
from retrodict.shards import ALL, Shard, run_shards
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
    progress: Progress | None = None,
) -> list[ItemResult]:
    """Predict every item: one greedy frame and `n` with `sampling`, each scored by all verifiers.

    With `n` 0 only the greedy frame is made. An item that the model cannot express is kept, unscored, with the
    model's words as the reason; a scorer's `ValueError` is an unscored frame in the same way. Raises
    `SamplingError` when the model cannot be sampled so at all.

    `keep` names a file of predictions (`write_predictions`). Finished batches lie beside it until it can be written,
    and the same call again makes only what is missing; `prediction_shards` lets several processes make them. That model
    and settings are the same is the caller's care (`run_folder.claim`); no verifier may remember earlier batches.
    """
    progress = progress or QuietProgress()
    if keep is not None:
        return _collected(model, transitions, scorer, verifiers, n, seed, sampling, keep, progress)
    evaluation = _Evaluation(model, scorer, verifiers, n, seed, sampling)
    items: list[ItemResult] = []
    for start in range(0, len(transitions), BATCH):
        items += evaluation.of(transitions[start : start + BATCH])
        progress.advance(len(items), len(transitions))
    return items


def _collected(
    model: ForwardModel,
    transitions: Sequence[Transition],
    scorer: Scorer,
    verifiers: Sequence[Verifier],
    n: int,
    seed: int,
    sampling: Sampling,
    keep: Path,
    progress: Progress,
) -> list[ItemResult]:
    """The predictions in `keep`, which is written where it is not there yet."""
    stored = _stored(keep, transitions, n)
    if stored is None:
        shards = prediction_shards(
            model,
            transitions,
            scorer=scorer,
            verifiers=verifiers,
            n=n,
            seed=seed,
            sampling=sampling,
            keep=keep,
        )
        run_shards(shards, ALL, progress)
        try:
            stored = [item for number in range(len(shards)) for item in read_predictions(_part(keep, number))]
        except ValueError:
            if not keep.is_file():
                raise
            stored = read_predictions(keep)  # another process has collected them meanwhile
        else:
            write_predictions(keep, stored)
    shutil.rmtree(parts_of(keep), ignore_errors=True)
    return stored


def prediction_shards(
    model: ForwardModel,
    transitions: Sequence[Transition],
    *,
    scorer: Scorer,
    verifiers: Sequence[Verifier],
    n: int,
    seed: int,
    sampling: Sampling,
    keep: Path,
) -> list[Shard]:
    """The batches that `evaluate` makes with the same arguments, for `run_shards`; it then collects them."""
    evaluation = _Evaluation(model, scorer, verifiers, n, seed, sampling)

    collected: list[bool] = []  # once they are, they stay so; and `keep` is large

    def are_collected() -> bool:
        if not collected and _stored(keep, transitions, n) is not None:
            collected.append(True)
        return bool(collected)

    def shard(file: Path, batch: Sequence[Transition]) -> Shard:
        def is_made() -> bool:
            return _stored(file, batch, n) is not None or are_collected()

        def make(tell: Callable[[int], None]) -> None:
            write_predictions(file, evaluation.of(batch))

        return Shard(is_made, make, len(batch))

    starts = range(0, len(transitions), BATCH)
    return [shard(_part(keep, number), transitions[i : i + BATCH]) for number, i in enumerate(starts)]


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


def _stored(file: Path, transitions: Sequence[Transition], n: int) -> list[ItemResult] | None:
    try:
        stored = read_predictions(file) if file.is_file() else []
    except ValueError:
        if file.is_file():
            raise
        stored = []  # another process has collected it just now
    wanted = [(t.id, t.action, n) for t in transitions]
    return stored if [(i.id, i.action, len(i.pool)) for i in stored] == wanted else None


def _part(keep: Path, batch: int) -> Path:
    return parts_of(keep) / f"{batch:05}.parquet"


def parts_of(predictions: Path) -> Path:
    """Where finished batches lie until `predictions` can be written."""
    return predictions.with_name(f"{predictions.stem}-parts")
