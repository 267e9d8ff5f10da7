"""What a recipe says, as models: `train_recipe` for one, and the parts that the whole loop shares."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from retrodict.dynamics.unified import UnifiedModel
from retrodict.files import made_once, write_json
from retrodict.loading import family_of, is_model, load, load_family
from retrodict.models.registry import card_of, get_family
from retrodict.models.small.config import ModelConfig
from retrodict.models.small.family import SmallFamily
from retrodict.models.small.image_tokenizer import ImageTokenizer
from retrodict.models.small.words import Words
from retrodict.models.token_family import TokenFamily
from retrodict.models.vlm import Captioner
from retrodict.placement import AUTO, FOUR_BIT, asked_for, place
from retrodict.progress import Progress
from retrodict.prompts import Direction
from retrodict.recipes import save_effective
from retrodict.run_folder import Input, claim
from retrodict.training.action_meter import ActionMeter, describe
from retrodict.training.config import METER, LoraConfig, TrainRecipe
from retrodict.training.data import Stored, fit_and_val
from retrodict.training.distributed import is_main
from retrodict.training.image_tokenizer import learn_tokenizer
from retrodict.training.reader import Reader, ReaderMeter, train_reader
from retrodict.training.run import train_model
from retrodict.training.validation import validate
from retrodict.versions import provenance


def train_recipe(recipe: TrainRecipe, out: Path, progress: Progress) -> None:
    """Train one model into `out`, with `recipe.yaml` and `results.json` (how it does on held-out transitions).

    The same call continues where it was interrupted. Raises `ValueError` when there is nothing to train on, when a
    model to start from does not know a word, or when `out` holds a run with another recipe.
    """
    began = time.monotonic()
    fit, val = fit_and_val(recipe.data, recipe.seed)
    if is_main():
        train = [source.path for source in recipe.data.train]
        inputs: dict[str, Input] = {
            "data.train": train,
            "data.val": recipe.data.val,
            "init": recipe.init,
            "tokenizer": recipe.tokenizer.path,
        }
        if claim(out, "train", recipe.model_dump(mode="json"), inputs=inputs):
            save_effective(recipe, out)
    if is_model(out) and (out / "results.json").is_file():
        return
    reads_only = get_family(recipe.family).reads_only
    new_family = None if reads_only else _family(recipe, fit, out / "training", progress)
    progress.stage("train", f"learn the {recipe.direction} direction from {len(fit):,} transitions")
    options: dict[str, Any] = {
        "seed": recipe.seed,
        "lora": recipe.lora,
        "report": report_loss(progress),
        "held_out": val,
    }
    if new_family is None:
        assert recipe.init is not None
        train_reader(recipe.init, fit, recipe.training, out, **options)
    else:
        train_model(
            new_family,
            recipe.direction,
            fit,
            recipe.training,
            out,
            weighting=recipe.weighting,
            base=absolute(recipe.init),
            cache=recipe.data.cache or out / "training" / "tokens",
            **options,
        )
    progress.done(f"{recipe.training.total_steps(len(fit)):,} steps")
    if not is_main():
        return
    progress.stage("validate", f"measure it on {len(val):,} held-out transitions")
    gc.collect()  # the trainer's circles hold the model that was trained, and two whole ones may not fit
    trained: UnifiedModel | Reader
    if reads_only:
        trained = Reader(cast(Captioner, load(out, role="inverse")))
        measure = ReaderMeter(trained, val).measure
    else:
        trained = UnifiedModel(load_family(out))
        place(trained.family.module)
        measure = ActionMeter(trained.family, recipe.direction, val).measure
    measured = validate(trained, recipe.direction, val)
    meter = made_once(out / METER, measure)
    results = {
        "kind": "train",
        "direction": recipe.direction,
        "val": measured,
        "action_meter": {recipe.direction: meter},
        "transitions": {"train": len(fit), "val": len(val)},
        **provenance(time.monotonic() - began, config=recipe.model_dump(mode="json"), seed=recipe.seed),
    }
    write_json(out / "results.json", results)
    nats = f"{measured['nll_per_token']['mean']:.3f} nats per token; " if val else ""
    progress.done(nats + describe(meter))


def _family(recipe: TrainRecipe, rows: Stored, scratch: Path, progress: Progress) -> Callable[[], TokenFamily]:
    if recipe.init is not None:
        return started_from(recipe.init, recipe.family, recipe.direction, recipe.lora)
    folder = scratch / "image_tokenizer"
    progress.stage("tokenizer", f"make a codebook of at most {recipe.tokenizer.codes} image tokens")
    progress.done(learn_tokenizer(rows, recipe.tokenizer, recipe.seed, folder, report_loss(progress)))
    return from_nothing(folder, [row.action for row in rows.rows], recipe.model)


def started_from(
    init: str | Path, family: str, direction: Direction, lora: LoraConfig | None
) -> Callable[[], TokenFamily]:
    """What gives a model to start from. Raises `ValueError` for one of another family, and an adapter for adapters."""
    if lora is not None and "base" in card_of(Path(init)):
        raise ValueError(f"{init} is an adapter: a new one starts from a whole model, so give its base.")
    known = family_of(init, direction)
    if known != family:
        raise ValueError(f"{init} is a model of the family {known}, not {family}.")

    def start() -> TokenFamily:  # when it is called: a second whole model would not fit beside the one that validates
        with asked_for(AUTO, FOUR_BIT if lora is not None and lora.four_bit else AUTO):
            return load_family(init, direction)

    return start


def absolute(init: str | None) -> str:
    """A folder by its whole path, so that the adapter finds it from anywhere; a hub id as it is."""
    return str(Path(init).resolve()) if init and Path(init).is_dir() else init or ""


def from_nothing(
    tokenizer: Path, texts: Iterable[str], config: ModelConfig, **options: Any
) -> Callable[[], SmallFamily]:
    """What makes a small model with random weights that knows the words of `texts`."""
    images, words = (
        ImageTokenizer.load(tokenizer),
        Words.from_texts(texts),
    )  # now, as making a tokenizer advances the random state
    return lambda: SmallFamily.new(images, words, **config.model_dump(), **options)


def report_loss(progress: Progress) -> Callable[[int, int, float], None]:
    return lambda step, total, loss: progress.advance(step, total, f"loss {loss:.3f}")
