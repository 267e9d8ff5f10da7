"""What of a run is judged: its items, and per row of the table one image for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retrodict.evaluation import Frames
from retrodict.evaluation.judge.protocol import Question, Verdict
from retrodict.evaluation.pool import ItemResult, Scored, chosen
from retrodict.evaluation.predictions import GREEDY, read_predictions
from retrodict.evaluation.summary import default_selector
from retrodict.transitions import Transition

COPY = "copy"


@dataclass(frozen=True, eq=False)
class Row:
    """A row of the table. `candidates` says which frame of each item it is: -1 is greedy, None is no frame."""

    name: str
    system: str
    candidates: tuple[int | None, ...]
    questions: tuple[Question, ...]


def read_rows(run: Path, items: Sequence[Transition], frames: Frames = "best") -> list[Row]:
    """Copy, and for each system of the run its greedy frames (`<system>`) and those that its verifier chose
    (`<system>.k<n>.<verifier>`).

    With "all", every candidate of a pool is a row `<system>.pool<i>`, for curves over k.
    """
    rows = [_row(COPY, COPY, items, [(GREEDY, t.source) for t in items])]
    for path in sorted((run / "predictions").glob("*.parquet")):
        if path.stem != COPY:
            predicted = {item.id: item for item in read_predictions(path)}
            rows += _system(path.stem, [predicted.get(t.id) for t in items], items, frames)
    return rows


def _system(name: str, results: Sequence[ItemResult | None], items: Sequence[Transition], frames: Frames) -> list[Row]:
    greedy = [None if r is None else (GREEDY, r.greedy.image or None) for r in results]
    rows = [_row(name, name, items, greedy)]
    size = max((len(r.pool) for r in results if r is not None), default=0)
    best = default_selector(dict.fromkeys(v for r in results if r is not None for f in r.pool for v in f.verifiers))
    if size and best:
        rows.append(_row(f"{name}.k{size}.{best}", name, items, [_chosen(r, best) for r in results]))
    if frames == "all":
        for i in range(size):
            pool = [(i, r.pool[i].image or None) if r is not None and i < len(r.pool) else None for r in results]
            rows.append(_row(f"{name}.pool{i}", name, items, pool))
    return rows


def _chosen(result: ItemResult | None, verifier: str) -> tuple[int, bytes | None] | None:
    best = None if result is None else chosen(result, verifier)
    return None if result is None or best is None else (best, result.pool[best].image or None)


def _row(name: str, system: str, items: Sequence[Transition], frames: Sequence[tuple[int, bytes | None] | None]) -> Row:
    questions = []
    for item, frame in zip(items, frames, strict=True):
        if item.source is None:
            raise ValueError(f"Item {item.id} has no source image, so nothing can be judged.")
        questions.append(Question(item.id, item.source, item.action, frame[1] if frame else None))
    return Row(name, system, tuple(frame[0] if frame else None for frame in frames), tuple(questions))


def with_scores(
    system: str, run: Path, items: Sequence[Transition], scores: dict[int, Sequence[Verdict]]
) -> list[ItemResult]:
    """The run's pools with a judge's scores in place of the run's own: `scores` holds verdicts by candidate."""
    from dataclasses import replace

    predicted = {item.id: item for item in read_predictions(run / "predictions" / f"{system}.parquet")}
    results = []
    for i, item in enumerate(items):
        result = predicted.get(item.id)
        if result is None:
            continue

        def judged(frame: Scored, candidate: int, at: int = i) -> Scored:
            v = scores[candidate][at]
            return replace(frame, es=v.es, me=v.me, score=v.score, reason=v.reason)

        pool = tuple(judged(frame, j) for j, frame in enumerate(result.pool))
        results.append(replace(result, greedy=judged(result.greedy, GREEDY), pool=pool))
    return results
