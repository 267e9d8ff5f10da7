"""The stages of `retrodict bootstrap`: each reads and writes folders of the run and says in a few words what it did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.files import write_json
from retrodict.progress import Progress
from retrodict.prompts import Direction
from retrodict.transitions import (
    FramePair,
    Transition,
    iter_rows,
    read_rows,
    read_transitions,
    split_by_group,
    write_manifest,
    write_rows,
)

TEST_SHARE = 0.1
SYSTEMS = ("ft", "fdm")


@dataclass(frozen=True)
class Context:
    """What every stage is told. Stages hand results to each other through folders in `out`."""

    out: Path
    recipe: BootstrapRecipe

    def dir(self, name: str) -> Path:
        return self.out / name


def split(recipe: BootstrapRecipe) -> tuple[list[Transition], list[Transition]]:
    """Labelled pairs to train on and to test on: no group is on both sides.

    A given test set keeps its rows, and labelled rows of its groups are left out. Raises `ValueError` when one side is
    empty.
    """
    rows = _with_pictures(read_transitions(recipe.data.labelled))
    if recipe.data.test is None:
        fit, test = split_by_group(rows, TEST_SHARE, recipe.seed)
    else:
        test = _with_pictures(read_transitions(recipe.data.test))
        held_out = {row.group or row.id for row in test}
        fit = [row for row in rows if (row.group or row.id) not in held_out]
    if not fit:
        raise ValueError(f"{recipe.data.labelled} holds no labelled pairs with pictures beside those to test on.")
    if not test:
        groups = len({row.group or row.id for row in rows})
        raise ValueError(
            f"There is nothing to test on: {recipe.data.labelled} has {groups} groups, too few to set a tenth of them "
            "aside. Name test pairs under data.test."
        )
    test.sort(key=lambda row: hashlib.sha256(row.id.encode()).digest())
    return fit, test[: recipe.bench.items]


def _with_pictures(rows: Sequence[Transition]) -> list[Transition]:
    return [row for row in rows if row.source is not None and row.target is not None]


def hold_out(context: Context, progress: Progress) -> str:
    fit, test = split(context.recipe)
    write_rows(context.dir("test") / "transitions-00000.parquet", [replace(row, split="test") for row in test])
    config = {"labelled": str(context.recipe.data.labelled), "seed": context.recipe.seed}
    write_manifest(context.dir("test"), kind="transitions", config=config, kept=len(test), dropped={})
    return f"{len(fit):,} to train on, {len(test):,} to test on"


def mine(context: Context, progress: Progress) -> str:
    from retrodict.video import mine as run
    from retrodict.video.mining import tally

    result = run(context.recipe.data.videos, context.dir("pairs"), context.recipe.mine, progress=tally(progress))
    if not result.pairs:
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in result.dropped.items())
        raise ValueError(f"No frame pairs were found in {result.clips} clips ({reasons}): see mine.min_gap.")
    return f"{result.pairs:,} pairs of {result.clips:,} clips"


def tokenizer(context: Context, progress: Progress) -> str:
    from retrodict.training.recipe import learn_tokenizer, report_loss

    rows: list[FramePair] = [*split(context.recipe)[0], *read_rows(context.dir("pairs"), ["source", "target"])]
    recipe = context.recipe
    learn_tokenizer(rows, recipe.tokenizer, recipe.seed, context.dir("image_tokenizer"), report_loss(progress))
    return f"{recipe.tokenizer.codes} codes"


def _train(
    context: Context, progress: Progress, name: str, direction: Direction, more: Sequence[Transition] = ()
) -> str:
    """Train one model on the labelled pairs and `more`; all models know the words of the labelled pairs."""
    from retrodict.training.recipe import new_small, report_loss
    from retrodict.training.run import train_model

    recipe = context.recipe
    labelled = split(recipe)[0]
    total = len(labelled) + len(more)
    section = recipe.inverse if direction == "inverse" else recipe.forward
    train_model(
        partial(new_small, context.dir("image_tokenizer"), labelled, recipe.model),
        direction,
        [*labelled, *more],
        section,
        context.dir(name),
        seed=recipe.seed,
        weighting=recipe.weighting,
        cache=context.dir("tokens"),
        report=report_loss(progress),
    )
    return f"{section.total_steps(total):,} steps on {total:,} transitions"


def idm(context: Context, progress: Progress) -> str:
    return _train(context, progress, "idm", "inverse")


def ft(context: Context, progress: Progress) -> str:
    return _train(context, progress, "ft", "forward")


def fdm(context: Context, progress: Progress) -> str:
    return _train(context, progress, "fdm", "forward", read_transitions(context.dir("selected")))


def annotate(context: Context, progress: Progress) -> str:
    from retrodict.bootstrap.annotate import annotate_dir

    annotate_dir(context.dir("pairs"), model=context.dir("idm"), out=context.dir("annotated"), progress=progress)
    labels = sum(1 for _ in iter_rows(context.dir("annotated"), ["id"]))
    if not labels:
        raise ValueError(
            "The inverse model found no words for any mined pair, so it has not learned to explain: "
            "begin anew with more labelled pairs or more inverse.steps."
        )
    return f"{labels:,} labels"


def select(context: Context, progress: Progress) -> str:
    from retrodict.bootstrap.select import select_dir

    select_dir(context.dir("annotated"), top_k=context.recipe.select.top_k, out=context.dir("selected"))
    return f"{sum(1 for _ in iter_rows(context.dir('selected'), ['id'])):,} transitions"


def _bench(context: Context, progress: Progress, name: str) -> str:
    """One greedy frame and a pool of candidates for every held-out action, with both verifiers' scores."""
    from retrodict.bootstrap.judging import judge
    from retrodict.dynamics.verify import InverseAndForwardLikelihood, InverseLikelihood
    from retrodict.evaluation.bench import evaluate, write_items
    from retrodict.loading import load
    from retrodict.sampling import Sampling

    test = read_transitions(context.dir("test"))
    inverse, forward = load(context.dir("idm"), role="inverse"), load(context.dir(name), role="forward")
    items = evaluate(
        forward,
        test,
        scorer=judge(test, context.dir("image_tokenizer")).scorer,
        verifiers=[InverseLikelihood(inverse), InverseAndForwardLikelihood(inverse)],
        n=context.recipe.sample.n,
        seed=context.recipe.seed,
        sampling=Sampling(context.recipe.sample.temperature),
        keep=context.dir("predictions") / f"{name}.parquet",
        progress=progress,
    )
    write_items(context.dir("items") / f"{name}.jsonl", items)
    return f"{len(items)} actions, {1 + context.recipe.sample.n} frames each"


def bench_ft(context: Context, progress: Progress) -> str:
    return _bench(context, progress, "ft")


def bench_fdm(context: Context, progress: Progress) -> str:
    return _bench(context, progress, "fdm")


def probe(context: Context, progress: Progress) -> str:
    """What each model prefers, how likely it finds what happened, and which actions the inverse model names."""
    from retrodict.bootstrap.judging import judge
    from retrodict.evaluation.probe import probe_forward, probe_inverse
    from retrodict.loading import load
    from retrodict.training.validation import can_say, log_likelihoods

    test = read_transitions(context.dir("test"))
    explains = judge(test, context.dir("image_tokenizer")).explains
    inverse: Any = load(context.dir("idm"), role="inverse")
    asked = [row for row in test if can_say(inverse, row.action)]  # all models of a run know the same words
    found: dict[str, Any] = {
        "left_out": len(test) - len(asked),
        "probe": {"idm": probe_inverse(inverse, asked, seed=context.recipe.seed, explains=explains)},
        "explained": [e.action for e in inverse.explain([(row.source_image, row.target_image) for row in test])],
        "loglik": {"idm": log_likelihoods(inverse, "inverse", test)},
    }
    progress.advance(1, 1 + len(SYSTEMS))
    for done, name in enumerate(SYSTEMS, start=2):
        model: Any = load(context.dir(name), role="forward")
        found["probe"][name] = probe_forward(model, asked, seed=context.recipe.seed, explains=explains)
        found["loglik"][name] = log_likelihoods(model, "forward", test)
        progress.advance(done, 1 + len(SYSTEMS))
    found["loglik"] = {name: [[one.sum, one.count] for one in rows] for name, rows in found["loglik"].items()}
    write_json(context.dir("probe") / "probe.json", found)
    return f"{len(asked):,} held-out transitions"


def read_probe(context: Context) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((context.dir("probe") / "probe.json").read_text())
    return found
