"""What each stage of the loop does: it reads and writes folders of the run and says in a few words what it made."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from retrodict.bootstrap.context import Context, clips, held_out, in_round, labelled, validated
from retrodict.bootstrap.recipe import TINY, BootstrapRecipe
from retrodict.bootstrap.select import get_strategy, select_dir
from retrodict.files import JsonObject, made_once, write_json
from retrodict.images import encode_png
from retrodict.progress import Progress
from retrodict.prompts import Direction
from retrodict.shards import Share
from retrodict.training.config import METER, Weighting
from retrodict.training.data import Stored, joined, stored_transitions
from retrodict.training.distributed import is_main, meet, process_count, process_number
from retrodict.transitions import (
    Transition,
    iter_rows,
    read_transitions,
    write_manifest,
    write_rows,
)
from retrodict.worlds import get_world

if TYPE_CHECKING:
    from retrodict.models.token_family import TokenFamily

LABELLING = "labelling"  # .json: how many labels are right
STILL, STILL_TEST = "still", "still-test"  # pairs in which nothing happens, to learn from and to test on
SEEDS_APART = 1_000_000  # between training runs: not the seed of somebody's other run


def data(context: Context, progress: Progress) -> str:
    """Write what the world gives, and set aside what is tested on."""
    recipe, counts = context.recipe, []
    if recipe.world is not None:
        world = get_world(recipe.world.name)
        own = {"labelled": bool(recipe.data.labelled), "test": recipe.data.test is not None}
        for name, count in (("labelled", recipe.world.labelled), ("test", recipe.world.test)):
            if not own[name]:
                split = "train" if name == "labelled" else "test"
                rows = world.sample(count, recipe.seed, namespace=f"demo-{name}", split=split)
                _write(context.dir(name), rows, {"seed": recipe.seed, "world": world.name})
                counts.append(f"{count:,} {name}")
    if recipe.world is None or recipe.data.test is not None:
        rows = [replace(row, split="test") for row in held_out(recipe)]
        _write(context.dir("test"), rows, {"seed": recipe.seed, "data": recipe.data.model_dump(mode="json")})
        counts.append(f"{len(rows):,} to test on")
    if recipe.validates:
        if recipe.world is not None:
            world = get_world(recipe.world.name)
            rows = world.sample(recipe.world.validation, recipe.seed, namespace="demo-val", split="val")
        else:
            rows = [replace(row, split="val") for row in validated(recipe)]
        _write(context.dir("val"), rows, {"seed": recipe.seed})
        counts.append(f"{len(rows):,} to choose by")
    if recipe.world is not None:
        world, section = get_world(recipe.world.name), recipe.world
        most = section.labelled + section.videos * section.actions
        for name, count in ((STILL_TEST, 100), (STILL, round(most * recipe.still))):
            if count:
                rows = world.sample_still(count, recipe.seed, namespace=f"demo-{name}", split="test")
                _write(context.dir(name), rows, {"seed": recipe.seed, "world": world.name})
    return ", ".join(counts)


def previewing(recipe: BootstrapRecipe) -> str | None:
    """The model that predicts a frame while the run's own are being trained."""
    from retrodict.loading import shipped_for

    return shipped_for(recipe.world.name) if recipe.preview and recipe.world is not None else None


def preview(context: Context, progress: Progress) -> str:
    """Let a trained model predict the first test action, for whoever waits for the run's own models."""
    from retrodict.dynamics.best_of_n import predict
    from retrodict.dynamics.verify import InverseAndForwardLikelihood
    from retrodict.loading import load
    from retrodict.report.live import PREVIEW

    model = previewing(context.recipe)
    assert model is not None
    first = min(read_transitions(context.dir("test")), key=lambda row: hashlib.sha256(row.id.encode()).digest())
    forward, n = load(model, role="forward"), 8
    verifier = InverseAndForwardLikelihood(load(model, role="inverse"))
    began = time.monotonic()
    prediction = predict(forward, verifier, first.source_image, first.action, n=n, seed=context.recipe.seed)
    took = time.monotonic() - began
    folder = context.dir(PREVIEW)
    folder.mkdir(exist_ok=True)
    (folder / "source.png").write_bytes(encode_png(first.source_image))
    (folder / "predicted.png").write_bytes(encode_png(prediction.image))
    note = f"the best of {n} predictions of the model '{model}' ({took:.1f} s)"
    write_json(folder / "prediction.json", {"action": first.action, "note": note})
    return f"{first.action}: {note}"


def _write(folder: Path, rows: list[Transition], config: JsonObject) -> None:
    write_rows(folder / "transitions-00000.parquet", rows)
    write_manifest(folder, kind="transitions", config=config, kept=len(rows), dropped={})


def videos(context: Context, progress: Progress) -> str:
    section = context.recipe.world
    assert section is not None
    world, size = get_world(section.name), 20
    for start in range(0, section.videos, size):
        count = min(start + size, section.videos)
        world.write_videos(
            context.dir("videos"), count, context.recipe.seed, actions=section.actions, truth=context.dir("truth")
        )
        progress.advance(count, section.videos)
    return f"{section.videos} videos of {section.actions} actions"


def mine(context: Context, progress: Progress) -> str:
    from retrodict.video import mine as run
    from retrodict.video.mining import clip_progress

    recipe = context.recipe
    result = run(
        clips(recipe) if recipe.data.videos else context.dir("videos"),
        context.dir("pairs"),
        recipe.mine,
        workers=max(1, (os.cpu_count() or 1) // 2),  # models train meanwhile
        progress=clip_progress(progress),
    )
    if not result.pairs:
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in result.dropped.items())
        raise ValueError(f"No frame pairs were found in {result.clips} clips ({reasons}): see mine.min_gap.")
    return f"{result.pairs:,} pairs of {result.clips:,} clips"


def tokenizer(context: Context, progress: Progress) -> str:
    """Learn an image tokenizer; or make the tiny model to start from."""
    from retrodict.training.image_tokenizer import learn_tokenizer
    from retrodict.training.recipe import report_loss

    recipe = context.recipe
    if recipe.init == TINY:
        return _make_tiny(context)
    rows = labelled(context)
    if recipe.data.videos and recipe.world is None:  # a world's labelled scenes show all there is: no need to wait
        rows = joined([rows, stored_transitions(context.dir("pairs"), labelled=False)])
    return learn_tokenizer(rows, recipe.tokenizer, recipe.seed, context.dir("image_tokenizer"), report_loss(progress))


def _make_tiny(context: Context) -> str:
    """Write the model that all others start from, as one would download it."""
    import torch

    from retrodict.models.registry import CARD, tiny_family

    family = context.recipe.family
    torch.manual_seed(context.recipe.seed)
    tiny_family(family)(_texts(context)).save(context.dir("base"))
    write_json(context.dir("base") / CARD, {"family": family})
    return f"a tiny {family} with random weights"


def _texts(context: Context) -> list[str]:
    """Sentences with the words that models know: a world's, else those of the labelled pairs."""
    world = context.recipe.world
    return get_world(world.name).vocabulary() if world else [row.action for row in labelled(context, "inverse").rows]


def train(
    context: Context,
    progress: Progress,
    folder: Path,
    direction: Direction,
    rows: Stored,
    weighting: Weighting,
    *,
    use_change_mask: bool = True,
    run: int = 1,
) -> str:
    """Train one model. Those of a direction and run start alike and see the same number of sequences."""
    from retrodict.training.action_meter import describe
    from retrodict.training.recipe import absolute, report_loss
    from retrodict.training.run import train_model

    recipe, test = context.recipe, stored_transitions(context.dir("test"))
    config = recipe.inverse if direction == "inverse" else recipe.forward
    train_model(
        _start(context, direction, use_change_mask),
        direction,
        rows,
        config,
        folder,
        seed=recipe.seed + SEEDS_APART * (run - 1),
        weighting=weighting,
        lora=recipe.lora,
        base=absolute(str(context.dir("base")) if recipe.init == TINY else recipe.init),
        cache=context.dir("tokens"),
        report=report_loss(progress),
        held_out=test,
    )
    said = f"{config.total_steps(len(rows)):,} steps on {len(rows):,} transitions"
    if not is_main():
        return said
    meter = _meter(context, folder, direction, test)
    return f"{said}. {describe(meter)}" if meter["warning"] else said


def _meter(context: Context, folder: Path, direction: Direction, test: Stored) -> JsonObject:
    """Whether a trained model uses what it is told, on pairs that nothing is chosen by."""
    from retrodict.loading import load_family
    from retrodict.placement import place
    from retrodict.training.action_meter import ActionMeter

    def measure() -> JsonObject:
        family = load_family(folder)
        place(family.module)
        return ActionMeter(family, direction, test, context.dir("tokens")).measure()

    meter: JsonObject = made_once(folder / METER, measure)
    return meter


def _start(context: Context, direction: Direction, use_change_mask: bool) -> Callable[[], TokenFamily]:
    """What makes a model to train; `use_change_mask` is for one that starts from nothing."""
    from retrodict.training.recipe import from_nothing, started_from

    recipe = context.recipe
    if recipe.init is not None:
        init = context.dir("base") if recipe.init == TINY else recipe.init
        return started_from(init, recipe.family, direction, recipe.lora)
    return from_nothing(context.dir("image_tokenizer"), _texts(context), recipe.model, use_change_mask=use_change_mask)


def idm(context: Context, progress: Progress, number: int = 1) -> str:
    """The inverse model of a round: on the labelled pairs, and from the second round on on checked labels, too."""
    rows = labelled(context, "inverse")
    if number > 1:
        rows = joined([rows, stored_transitions(context.dir(in_round("trusted", number - 1)))])
    return train(context, progress, context.dir(in_round("idm", number)), "inverse", rows, Weighting())


def idm_plain(context: Context, progress: Progress) -> str:
    rows = labelled(context, "inverse")
    return train(context, progress, context.dir("idm_plain"), "inverse", rows, Weighting(), use_change_mask=False)


def ft(context: Context, progress: Progress, run: int = 1) -> str:
    return _forward(context, progress, "ft", labelled(context), Weighting(), run)


def bootstrapped(context: Context, number: int = 1) -> Stored:
    """What FDM learns from in a round."""
    own = labelled(context)
    if not context.recipe.annotates:
        return own
    return joined([own, stored_transitions(context.dir(in_round("selected", number)))])


def fdm(context: Context, progress: Progress, run: int = 1, number: int = 1) -> str:
    rows = bootstrapped(context, number)
    return _forward(context, progress, in_round("fdm", number), rows, context.recipe.weighting, run)


def fdm_weighted(context: Context, progress: Progress, run: int = 1) -> str:
    return _forward(context, progress, "fdm_weighted", bootstrapped(context), Weighting(method="softened"), run)


def fdm_true_labels(context: Context, progress: Progress, run: int = 1) -> str:
    return _forward(context, progress, "fdm_true_labels", _truly_labelled(context), context.recipe.weighting, run)


def fdm_weighted_true_labels(context: Context, progress: Progress, run: int = 1) -> str:
    weighting = Weighting(method="softened")
    return _forward(context, progress, "fdm_weighted_true_labels", _truly_labelled(context), weighting, run)


def _truly_labelled(context: Context) -> Stored:
    from retrodict.bootstrap.labels import with_true_labels

    assert context.recipe.world is not None
    selected = stored_transitions(context.dir("selected"))
    true = with_true_labels(get_world(context.recipe.world.name), selected, context.dir("truth"))
    return joined([labelled(context), true])


def _forward(context: Context, progress: Progress, system: str, rows: Stored, weighting: Weighting, run: int) -> str:
    folder, rows = context.dir(context.runs_of(system)[run]), with_still(context, rows)
    return train(context, progress, folder, "forward", rows, weighting, run=run)


def with_still(context: Context, rows: Stored) -> Stored:
    """The rows, and so many in which nothing happens that these are the recipe's share."""
    share = context.recipe.still
    if not share:
        return rows
    still = stored_transitions(context.dir(STILL))
    return joined([rows, still.only(range(min(len(still), round(len(rows) * share / (1 - share)))))])


def annotate(context: Context, progress: Progress, number: int = 1) -> str:
    """Label all mined pairs by the inverse model of a round."""
    from retrodict.bootstrap.annotate import annotate_dir

    model, out = context.inverse_models[in_round("idm", number)], context.dir(in_round("annotated", number))
    share = Share(process_number(), process_count())
    annotate_dir(context.dir("pairs"), model=model, out=out, progress=progress, where=share)
    meet()
    if is_main():  # to write the manifest, where others were still at their shares
        annotate_dir(context.dir("pairs"), model=model, out=out)
    labels = _count(out)
    if not labels:
        raise ValueError(
            "The inverse model found no words for any mined pair, so it has not learned to explain: "
            "begin anew with more labelled pairs or more inverse.steps."
        )
    return f"{labels:,} labels"


def check(context: Context, progress: Progress, number: int = 1) -> str:
    """Let a forward model check the labels of the best inverse model so far, and keep those that the next round trusts.

    The first time that is FT, which has seen no label of a model.
    """
    from retrodict.bootstrap.annotate import UNCHECKED, check_dir

    section, best = context.recipe.select, context.best_round("idm", number)
    forward = "ft" if number == 1 else in_round("fdm", context.best_round("fdm", number))
    checked, labels = context.dir(in_round("checked", number)), context.dir(in_round("annotated", best))
    model = context.inverse_models[in_round("idm", best)]
    share = Share(process_number(), process_count())
    check_dir(labels, model=model, forward=context.dir(forward), out=checked, progress=progress, where=share)
    meet()
    if not is_main():
        return ""
    check_dir(labels, model=model, forward=context.dir(forward), out=checked)
    replaced = [UNCHECKED in row.provenance for row in iter_rows(checked, ["id", "provenance"])]
    said = f"{forward} checked {len(replaced):,} labels and replaced {sum(replaced):,}"
    if number == context.recipe.rounds:
        return said
    out, top_k = context.dir(in_round("trusted", number)), max(1, round(section.trusted * len(replaced)))
    select_dir(checked, top_k=top_k, out=out, strategy="checked")
    return f"{said}; it trusts {top_k:,}"


def select(context: Context, progress: Progress, number: int = 1) -> str:
    """The labels that the forward model of a round learns from."""
    section = context.recipe.select
    strategy = section.strategy if number == 1 else section.later
    labels = "checked" if get_strategy(strategy).checked else in_round("annotated", number)
    out = context.dir(in_round("selected", number))
    select_dir(
        context.dir(labels),
        top_k=section.top_k,
        out=out,
        strategy=strategy,
        per_collection=section.per_collection,
        without_likelihood=section.without_likelihood,
    )
    return f"{_count(out):,} transitions"


def _count(folder: Path) -> int:
    return sum(1 for _ in iter_rows(folder, ["id"]))


def check_labels(context: Context, progress: Progress, number: int = 1) -> str:
    from retrodict.bootstrap.labels import labelling

    assert context.recipe.world is not None
    folders = (context.dir(in_round(name, number)) for name in ("annotated", "selected"))
    annotated, selected = (stored_transitions(folder).rows for folder in folders)
    checked = labelling(get_world(context.recipe.world.name), annotated, selected, context.dir("truth"))
    write_json(context.dir(in_round(LABELLING, number) + ".json"), checked)
    return f"{checked['exact']:.0%} exact, {checked['selected_exact']:.0%} of the selected ones"
