"""`retrodict probe`: the preference probe of any model on a benchmark, in the directions that the model has."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from scipy import stats

from retrodict.evaluation.benchmarks import Benchmark, open_benchmark, written
from retrodict.evaluation.pool import BATCH, reason_counts
from retrodict.evaluation.probe import (
    Answers,
    Query,
    Questions,
    Score,
    forward_score,
    inverse_score,
    preferences,
    questions,
)
from retrodict.files import JsonMapping, JsonObject, number_of, write_json, write_lines
from retrodict.loading import load
from retrodict.models.protocol import LogProb
from retrodict.progress import Progress, QuietProgress
from retrodict.run_folder import RECORD, check
from retrodict.shards import ALL, Shard, Where, run_shards
from retrodict.transitions import Transition
from retrodict.versions import provenance, versions
from retrodict.worlds.base import World

DIRECTIONS = ("inverse", "forward")
_MISSING = LogProb(math.nan, 0)
_Careful = Callable[[Sequence[Query]], tuple[list[LogProb], list[str]]]


def run_probe(
    bench: str | Path,
    *,
    out: Path,
    model: str,
    directions: Sequence[str] = (),
    data: Path | None = None,
    seed: int = 0,
    items: int | None = None,
    subsets: Sequence[str] = (),
    limit: int | None = None,
    where: Where = ALL,
    progress: Progress | None = None,
) -> JsonObject:
    """Probe a model in the directions that it has. The same call again resumes from what `out/answers` holds.

    Args:
        bench: a world, a published benchmark, or a folder of transitions (`open_benchmark`).
        out: folder to write to.
        model: a name for `retrodict.load`.
        directions: "inverse", "forward"; by default those that the model has, which is the inverse one alone where it
            only reads images.
        data: folder of a published benchmark's data.
        seed: of everything random.
        items: how many items, the subsets in turn; by default all, or 300 of a world.
        subsets: those to keep.
        limit: only the first so many items of each subset.
        where: of several processes with the same `out`, which part of the answers this one makes; or a Ray cluster.
        progress: receives how far the work is.

    Returns:
        What `results.json` holds (docs/evaluation.md); nothing where other processes are still at their shares.

    Raises:
        ValueError: a direction that the model does not have, an unknown benchmark, or an `out` that holds a run with
            other settings.
    """
    began, out, progress = time.monotonic(), Path(out), progress or QuietProgress()
    opened = partial(open_benchmark, bench, data=data, items=items, subsets=subsets, limit=limit, seed=seed)
    benchmark = opened()
    transitions, asked = benchmark.items, _questions(benchmark, seed)
    reasons: list[str] = []
    left = 0
    answers: dict[str, Answers] = {}
    settings = {
        "bench": benchmark.name,
        "model": model,
        "directions": list(directions),
        "seed": seed,
        "items": items,
        "subsets": subsets,
        "limit": limit,
        "retrodict": versions().get("retrodict"),
    }
    record = check(out, "probe", settings, inputs={"model weights": model, "data": benchmark.folder})
    scores = _scores(model, directions)
    write_json(out / RECORD, record)
    for direction, score in scores.items():
        progress.stage(f"probe {direction}", f"{len(transitions)} items")
        shards = _shards(score, asked.queries, out / "answers", direction)
        if unmade := run_shards(shards, where, progress, partial(_planned, opened, model, direction, seed, out)):
            left += unmade
            progress.done("this share; others are at theirs")
            continue
        answers[direction] = asked.answers(_read(out / "answers", direction, len(shards), reasons))
        progress.done(f"{len(transitions)} items")
    if left:
        return {}
    write_lines(out / "items" / "probe.jsonl", [r for d, a in answers.items() for r in _records(d, a)])
    config = {
        "model": model,
        "directions": list(answers),
        "items": len(transitions),
        "data": benchmark.folder and str(benchmark.folder),
        "subsets": list(dict.fromkeys(t.category for t in transitions)),
        "limit": limit,
    }
    return _finish(
        out,
        benchmark.name,
        model,
        answers,
        transitions,
        reasons,
        provenance(time.monotonic() - began, config=config, seed=seed),
    )


def counterfactual(row: Transition, world: World | None, seed: int) -> str | None:
    """An action with the same things and another outcome: what people wrote, or one of the world's, chosen by hash."""
    texts = [] if world is None else world.counterfactuals(row)
    return written(row, "counterfactual_action") or min(
        texts, key=lambda text: hashlib.sha256(f"{seed}/{row.id}/{text}".encode()).digest(), default=None
    )


def _scores(model: str, directions: Sequence[str]) -> dict[str, Score]:
    if unknown := set(directions) - set(DIRECTIONS):
        raise ValueError(f'No direction "{unknown.pop()}": use {" or ".join(DIRECTIONS)}.')
    scores: dict[str, Score] = {}
    problems = []
    for direction in directions or DIRECTIONS:
        try:
            loaded: Any = load(model, role="inverse" if direction == "inverse" else "forward")
        except ValueError as error:
            if directions:
                raise
            problems.append(str(error))
            continue
        if direction == "inverse":
            scores[direction] = inverse_score(loaded)
        elif hasattr(loaded, "score_targets"):
            scores[direction] = forward_score(loaded)
        elif directions:
            raise ValueError(f"{model} predicts frames but cannot say how likely a given one is: it cannot be probed.")
    if not scores:
        raise ValueError(problems[0] if problems else f"{model} gives no likelihoods, so it cannot be probed.")
    return scores


def _questions(benchmark: Benchmark, seed: int) -> Questions:
    world = benchmark.world
    return questions(
        benchmark.items,
        seed=seed,
        explains=None if world is None else world.explains,
        counterfactuals=[counterfactual(t, world, seed) for t in benchmark.items],
    )


def _shards(score: Score, queries: Sequence[Query], folder: Path, direction: str) -> list[Shard]:
    """Batches of queries, each of which gives a file of answers and of reasons for those that are missing."""
    careful = _one_by_one_where_needed(score)

    def shard(file: Path, batch: Sequence[Query]) -> Shard:
        def make(tell: Callable[[int], None]) -> None:
            logprobs, missing = careful(batch)
            write_json(file, {"logprobs": [asdict(one) for one in logprobs], "reasons": missing})

        return Shard(file.is_file, make, len(batch))

    starts = range(0, len(queries), BATCH)
    return [shard(_file(folder, direction, n), queries[i : i + BATCH]) for n, i in enumerate(starts)]


def _planned(opened: Callable[[], Benchmark], model: str, direction: str, seed: int, out: Path) -> list[Shard]:
    """The same, in another process."""
    score = _scores(model, (direction,))[direction]
    return _shards(score, _questions(opened(), seed).queries, out / "answers", direction)


def _read(folder: Path, direction: str, count: int, reasons: list[str]) -> list[LogProb]:
    """All answers; why some are missing goes to `reasons`."""
    logprobs: list[LogProb] = []
    for number in range(count):
        made = json.loads(_file(folder, direction, number).read_text(encoding="utf-8"))
        logprobs += [LogProb(**one | {"sum": number_of(one["sum"])}) for one in made["logprobs"]]
        reasons += made["reasons"]
    return logprobs


def _file(folder: Path, direction: str, batch: int) -> Path:
    return folder / f"{direction}-{batch:05d}.json"


def _one_by_one_where_needed(score: Score) -> _Careful:
    """`score` of a batch; what the model cannot express is missing, with its reason, and costs nothing else."""

    def careful(queries: Sequence[Query]) -> tuple[list[LogProb], list[str]]:
        try:
            return score(queries), []
        except ValueError as error:
            if len(queries) == 1:
                return [_MISSING], [str(error)]
        parts = [careful([query]) for query in queries]
        return [one for logprobs, _ in parts for one in logprobs], [why for _, reasons in parts for why in reasons]

    return careful


def _finish(
    out: Path,
    bench: str,
    model: str,
    by_direction: dict[str, Answers],
    transitions: Sequence[Transition],
    reasons: Sequence[str],
    how: JsonMapping,
) -> JsonObject:
    names = list(dict.fromkeys(t.category for t in transitions))
    results = {
        "kind": "probe",
        "bench": bench,
        "system": Path(model).name or model,
        "n": {
            "items": len(transitions),
            "with_target": sum(t.target is not None for t in transitions),
            "with_counterfactual": sum(
                text is not None for text in next(iter(by_direction.values())).actions["counterfactual"]
            ),
        },
        "probe": {direction: preferences(answers) for direction, answers in by_direction.items()},
        "correlation": {direction: _correlations(answers) for direction, answers in by_direction.items()},
        "subsets": {
            name: {direction: preferences(_part(answers, name)) for direction, answers in by_direction.items()}
            for name in names
            if any(t.category == name and t.target is not None for t in transitions)
        },
        "unscored": reason_counts(reasons),
        **how,
    }
    write_json(out / "results.json", results)
    return results


def _correlations(answers: Answers) -> dict[str, dict[str, float]]:
    """Spearman's correlation of the reference's log-probability with each negative's, over items that have both."""
    correlations = {}
    for name, negatives in answers.logprobs.items():
        if name == "truth":
            continue
        rows = [
            (a.sum, b.sum, a.mean, b.mean)
            for a, b in zip(answers.logprobs["truth"], negatives, strict=True)
            if not math.isnan(a.sum) and not math.isnan(b.sum)
        ]
        if len({row[0] for row in rows}) > 1 and len({row[1] for row in rows}) > 1:
            sums = stats.spearmanr([row[0] for row in rows], [row[1] for row in rows]).statistic
            correlations[name] = {"spearman": float(sums), "n": len(rows)}
    return correlations


def _part(answers: Answers, category: str) -> Answers:
    chosen = [i for i, t in enumerate(answers.transitions) if t.category == category]
    return Answers(
        tuple(answers.transitions[i] for i in chosen),
        {name: [rows[i] for i in chosen] for name, rows in answers.logprobs.items()},
        {name: [rows[i] for i in chosen] for name, rows in answers.actions.items()},
    )


def _records(direction: str, answers: Answers) -> list[JsonObject]:
    return [
        {
            "id": t.id,
            "class": t.category,
            "direction": direction,
            "action": t.action,
            "other_action": answers.actions["action"][i],
            "counterfactual": answers.actions["counterfactual"][i],
            "logprobs": {
                name: None if math.isnan(rows[i].sum) else {"sum": rows[i].sum, "tokens": rows[i].count}
                for name, rows in answers.logprobs.items()
            },
        }
        for i, t in enumerate(answers.transitions)
    ]
