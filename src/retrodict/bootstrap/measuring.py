"""The stages that measure: on validation pairs, by which rounds are chosen and confidence is calibrated, and on test
pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from retrodict.bootstrap.context import SECOND, Context, in_round, verifiers
from retrodict.bootstrap.scoring import scorer
from retrodict.bootstrap.stages import STILL_TEST
from retrodict.dynamics import confidence
from retrodict.dynamics.best_of_n import FITS, SecondProposer
from retrodict.evaluation.exact import false_changes
from retrodict.evaluation.pool import ItemResult, chosen
from retrodict.evaluation.predict import evaluate, prediction_shards
from retrodict.evaluation.predictions import write_items
from retrodict.evaluation.probe import probe_forward, probe_inverse
from retrodict.files import JsonObject, write_json
from retrodict.loading import load
from retrodict.progress import Progress
from retrodict.shards import Share, run_shards
from retrodict.training.distributed import is_main, meet, process_count, process_number
from retrodict.training.validation import can_say, log_likelihoods
from retrodict.transitions import Transition, read_transitions
from retrodict.worlds import get_world, world_of

IMPOSSIBLE = "impossible.json"  # which impossible actions are rejected, by verifier


def validate(context: Context, progress: Progress, number: int = 1) -> str:
    """How a round's models do on validation pairs, by which the best round is kept."""
    said = []
    for model in ("idm", "fdm"):
        name = in_round(model, number)
        if not context.validation(name).is_file():
            write_json(context.validation(name), measure(context, name))
        best = context.best_round(model, number)
        said.append(f"{name} is kept" if best == number else f"{in_round(model, best)} stays the best of its kind")
    return ", ".join(said)


def bench(name: str, context: Context, progress: Progress) -> str:
    """One greedy frame and a pool of candidates for every test action, with all verifiers' scores; and, in a world, one
    greedy frame for every impossible action."""
    recipe = context.recipe
    test = read_transitions(context.dir("test"))
    trained = context.main if name == f"fdm_{SECOND}" else name
    forward: Any = load(context.dir(trained), role="forward")
    predict: JsonObject = {
        "scorer": scorer(test, forward.family),
        "verifiers": verifiers(context),
        "n": recipe.bench.n,
        "seed": recipe.seed,
        "sampling": recipe.sampling,
        "keep": context.dir("predictions") / f"{name}.parquet",
    }
    model = forward if trained == name else SecondProposer(forward, load(context.dir("ft"), role="forward"))
    if process_count() > 1:
        shards = prediction_shards(model, test, **predict)
        run_shards(shards, Share(process_number(), process_count()), progress)
        meet()
        if not is_main():
            return ""
    items = evaluate(model, test, **predict, progress=progress)
    write_items(context.dir("items") / f"{name}.jsonl", items)
    if recipe.world is not None and trained == name:
        changed = false_changes(forward, get_world(recipe.world.name), read_transitions(context.dir(STILL_TEST)))
        write_json(context.dir(STILL_TEST) / f"{name}.json", changed)
    return f"{len(items)} actions, {1 + recipe.bench.n} frames each"


def probe(context: Context, progress: Progress) -> str:
    """What each model prefers, how likely it finds what happened, and which actions inverse models name."""
    names = _probed(context)
    for done, name in enumerate(names, start=1):
        if done % process_count() == process_number() and not _probe_file(context, name).is_file():
            write_json(_probe_file(context, name), _probe(context, name))
        progress.advance(done, len(names))
    return ", ".join(names)


def _probed(context: Context) -> list[str]:
    return [*context.inverse_models, *(name for name in ("ft", "fdm") if name in context.systems)]


def _probe(context: Context, name: str) -> JsonObject:
    test = read_transitions(context.dir("test"))
    world = world_of(test)
    options: Any = {"seed": context.recipe.seed, "explains": None if world is None else world.explains}
    model: Any
    if name not in context.inverse_models:
        model = load(context.dir(name), role="forward")
        asked = [row for row in test if can_say(model.family, row.action)]
        answers = {"left_out": len(test) - len(asked), "probe": probe_forward(model, asked, **options)}
        if world is None:
            answers["loglik"] = [[one.sum, one.count] for one in log_likelihoods(model, "forward", test)]
        return answers
    model = load(context.inverse_models[name], role="inverse")
    explained = [e.action for e in model.explain([(row.source_image, row.target_image) for row in test])]
    if not context.verifies:
        return {"explained": explained}
    ours = hasattr(model, "family")
    asked = [row for row in test if not ours or can_say(model.family, row.action)]
    answers = {"explained": explained, "left_out": len(test) - len(asked)}
    answers["probe"] = probe_inverse(model, asked, **options)
    if world is None and ours:
        answers["loglik"] = [[one.sum, one.count] for one in log_likelihoods(model, "inverse", test)]
    return answers


def _probe_file(context: Context, name: str) -> Path:
    return context.dir("probe") / f"{name}.json"


def read_probe(context: Context) -> Iterator[tuple[str, JsonObject]]:
    """What `probe` wrote, by model."""
    for name in _probed(context):
        yield name, json.loads(_probe_file(context, name).read_text())


def measure(context: Context, name: str) -> JsonObject:
    """One value for each validation pair: `{"measure", "values", "groups"}`, more is better.

    Of an inverse model whether it names the action; of a forward model the exact score of its greedy frame where a
    world owns the pairs, else the log-likelihood of the true frame.
    """
    rows = read_transitions(context.dir("val"))
    groups = [row.cluster for row in rows]
    world = world_of(rows)
    if name in context.inverse_models:
        inverse = load(context.inverse_models[name], role="inverse")
        explained = inverse.explain([(row.source_image, row.target_image) for row in rows])
        names = world.names_action if world else same_words
        exact = [float(names(e.action, row)) for e, row in zip(explained, rows, strict=True)]
        return {"measure": "exact actions", "values": exact, "groups": groups}
    forward: Any = load(context.dir(name), role="forward")
    if world is None:
        sums = [one.sum for one in log_likelihoods(forward, "forward", rows)]
        return {"measure": "log-likelihood of the true frame", "values": sums, "groups": groups}
    items = evaluate(forward, rows, scorer=scorer(rows, forward.family), n=0, seed=context.recipe.seed)
    return {"measure": "score", "values": [item.greedy.score for item in items], "groups": groups}


def calibrate(context: Context, progress: Progress) -> str:
    """Fit and store how sure to be of the run's forward model by the score of each of its verifiers; and see which
    impossible actions are then rejected, which the curves know nothing of."""
    val, still = read_transitions(context.dir("val")), read_transitions(context.dir(STILL_TEST))
    forward: Any = load(context.dir(context.main), role="forward")
    choosing = verifiers(context)

    def predicted(rows: Sequence[Transition], name: str) -> list[ItemResult]:
        return evaluate(
            forward,
            rows,
            scorer=scorer(rows, forward.family),
            verifiers=choosing,
            n=context.recipe.bench.n,
            seed=context.recipe.seed,
            sampling=context.recipe.sampling,
            keep=context.dir("validation") / f"{name}.parquet",
            progress=progress,
        )

    items, impossible = predicted(val, context.main), predicted(still, STILL_TEST)
    curves = {one.name: confidence.fit(*scores_and_right(items, one.name)) for one in choosing}
    confidence.write(context.dir(context.main), curves)
    rejected = {
        name: [float(curve.probability(score) < FITS) for score in scores_and_right(impossible, name)[0]]
        for name, curve in curves.items()
    }
    write_json(context.dir("validation") / IMPOSSIBLE, rejected)
    return f"{context.main}, on {len(val)} validation pairs"


def scores_and_right(items: Sequence[ItemResult], verifier: str) -> tuple[list[float], list[float]]:
    """The score of each item's chosen candidate, and whether that is right in all; NaN where nothing was scored."""
    picks = [None if (best := chosen(item, verifier)) is None else item.pool[best] for item in items]
    scores = [math.nan if pick is None else pick.verifiers[verifier] for pick in picks]
    right = [math.nan if pick is None or math.isnan(pick.score) else float(pick.score == 1) for pick in picks]
    return scores, right


def same_words(text: str, row: Transition) -> bool:
    """Whether a sentence has the words of the row's action."""
    return text.casefold().split() == row.action.casefold().split()
