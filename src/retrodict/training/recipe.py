"""What a recipe says, as models: `train_recipe` for one, and the parts that the whole loop shares."""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from retrodict.dynamics.unified import UnifiedModel
from retrodict.models.load import is_model, load
from retrodict.models.protocol import Direction, TokenFamily
from retrodict.models.small.family import SmallFamily
from retrodict.models.small.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from retrodict.models.small.words import Words
from retrodict.progress import Progress
from retrodict.recipes import Model, Tokenizer, Training, TrainRecipe, Weighting, claim
from retrodict.training import weighting
from retrodict.training.image_tokenizer import ImageTokenizerTraining, train_image_tokenizer
from retrodict.training.run import train_model
from retrodict.training.trainer import TrainConfig
from retrodict.training.validation import validate
from retrodict.transitions import (
    FramePair,
    Transition,
    decode_image,
    read_transitions,
    split_by_group,
    write_json,
)
from retrodict.versions import versions

VAL_SHARE = 0.1
PICTURES = 4000  # for the image tokenizer; more of the same do not make its codes better


def train_recipe(recipe: TrainRecipe, out: Path, progress: Progress) -> None:
    """Train one model into `out`, with `recipe.yaml` and `results.json` (how it does on held-out transitions).

    The same call continues where it was interrupted. Raises `ValueError` when there is nothing to train on, when a
    model to start from does not know a word, or when `out` holds a run with another recipe.
    """
    began = time.monotonic()
    fit, val = _rows(recipe)
    claim(recipe, out)
    if is_model(out) and (out / "results.json").is_file():
        return
    family = _family(recipe, fit, out / "training", progress)
    progress.stage("train", f"learn the {recipe.direction} direction from {len(fit):,} transitions")
    train_model(
        family,
        recipe.direction,
        fit,
        train_config(recipe.training, recipe.seed),
        out,
        weighting=loss_weighting(recipe.weighting),
        report=report_loss(progress),
    )
    progress.done(f"{recipe.training.steps:,} steps")
    progress.stage("validate", f"measure it on {len(val):,} held-out transitions")
    measured = validate(_unified(out, recipe.direction), recipe.direction, val)
    results = {
        "kind": "train",
        "direction": recipe.direction,
        "val": measured,
        "transitions": {"train": len(fit), "val": len(val)},
        "wall_seconds": round(time.monotonic() - began, 1),
        "versions": versions(),
        "config": recipe.model_dump(mode="json"),
        "seed": recipe.seed,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    write_json(out / "results.json", results)
    progress.done(f"{measured['nll_per_token']['mean']:.3f} nats per token" if val else "nothing was held out")


def _rows(recipe: TrainRecipe) -> tuple[list[Transition], list[Transition]]:
    rows = [row for directory in recipe.data.train for row in read_transitions(directory)]
    if recipe.data.val is not None:
        return rows, read_transitions(recipe.data.val)
    return split_by_group(rows, VAL_SHARE, recipe.seed)


def _family(
    recipe: TrainRecipe, rows: Sequence[Transition], scratch: Path, progress: Progress
) -> Callable[[], TokenFamily]:
    if recipe.init is not None:
        start = _unified(recipe.init, recipe.direction)
        return lambda: start.family
    folder = scratch / "image_tokenizer"
    progress.stage("tokenizer", f"learn to write pictures as {recipe.tokenizer.codes} codes")
    learn_tokenizer(rows, recipe.tokenizer, recipe.seed, folder, report_loss(progress))
    progress.done()
    return partial(new_small, folder, rows, recipe.model)


def _unified(model: str | Path, direction: Direction) -> UnifiedModel:
    found = load(model, role=direction)
    if not isinstance(found, UnifiedModel):
        raise ValueError(f'"{model}" has no weights to start from.')
    return found


def learn_tokenizer(
    rows: Sequence[FramePair],
    section: Tokenizer,
    seed: int,
    folder: Path,
    report: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train an image tokenizer on pictures of `rows` into `folder`; one that is there is kept.

    The folder appears under its name when it is complete.
    """
    if folder.is_dir():
        return
    config = ImageTokenizerConfig(section.image_size, section.patch, section.codes, context=section.context)
    training = ImageTokenizerTraining(section.warm_steps, section.steps, section.batch, seed=seed)
    trained = train_image_tokenizer(_pictures(rows, section.image_size, seed), config, training, report)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # what a run that was killed left
    try:
        trained.save(unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    unfinished.replace(folder)


def _pictures(rows: Sequence[FramePair], side: int, seed: int) -> list[Image.Image]:
    """Up to `PICTURES` pictures of the rows, chosen by the seed, at the size of the tokenizer."""
    encoded = [data for row in rows for data in (row.source, row.target) if data is not None]
    chosen = random.Random(seed).sample(encoded, min(PICTURES, len(encoded)))
    # One at a time: thousands of photographs at full size would not fit into memory.
    return [decode_image(data, "picture").resize((side, side), Image.Resampling.BOX) for data in chosen]


def new_small(tokenizer: Path, rows: Sequence[Transition], section: Model) -> SmallFamily:
    """A small model with random weights that can say what the rows' actions say."""
    words = Words.from_texts(row.action for row in rows)
    sizes = {"hidden": section.hidden, "layers": section.layers, "heads": section.heads}
    return SmallFamily.new(ImageTokenizer.load(tokenizer), words, **sizes)


def train_config(section: Training, seed: int) -> TrainConfig:
    values = section.model_dump()
    if section.schedule == "constant":  # transformers' schedule of that name has no warm-up
        values["schedule"] = "constant_with_warmup"
    return TrainConfig(**values, seed=seed)


def loss_weighting(section: Weighting) -> weighting.Weighting:
    return weighting.Weighting(section.kind, section.clip, section.start)


def report_loss(progress: Progress) -> Callable[[int, int, float], None]:
    return lambda step, total, loss: progress.advance(step, total, f"loss {loss:.3f}")
