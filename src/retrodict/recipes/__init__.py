"""Recipes: what a run does, as YAML checked by pydantic.

`load_recipe` reads one, applies `key=value` overrides and complains in one line about what it does not know.
`save_effective` writes what was really used beside the output; that file is itself a recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from retrodict.files import write_atomic
from retrodict.recipes.errors import one_line
from retrodict.recipes.values import leaves, parse_override, read_yaml, set_value

EFFECTIVE = "recipe.yaml"


def _beside_recipe(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base")
    return path if base is None else (base / path.expanduser()).resolve()


RecipePath = Annotated[Path, AfterValidator(_beside_recipe)]
FamilyName = Literal["small", "chameleon", "liquid", "emu3", "janus"]
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A part of a recipe: it cannot change, and it has no keys but the ones below."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Data(Section):
    """What to learn from. Relative paths count from the folder of the recipe."""

    labelled: RecipePath
    """Directory of labelled transitions: frame pairs whose actions are known."""
    videos: tuple[RecipePath, ...] = ()
    """Video files, or folders that are searched for them, without labels."""
    test: RecipePath | None = None
    """Directory of transitions to report on; by default a tenth of `labelled`, whole groups only."""


class Mine(Section):
    """How frame pairs are found in videos."""

    frames_per_clip: Annotated[int, Field(ge=2)] = 6
    """How many frames to keep of each clip; consecutive kept frames become pairs."""
    min_gap: int | str = 20
    """The least distance between kept frames: a number of frames, or a time such as "0.8s"."""
    selection: Literal["exact", "paper"] = "exact"
    """`exact` keeps the set of frames with the most motion in all; `paper` goes greedily from the strongest frame."""
    motion: Literal["flow", "fast", "reference"] = "flow"
    """How motion is measured: optical flow, a faster frame difference, or flow at full size as in the paper."""
    cuts: bool = True
    """Whether to look for shot boundaries and make no pair across one."""
    compensate_camera: bool = False
    """Whether to leave out the motion of the camera when frames are ranked; needs `motion: flow`."""

    @field_validator("min_gap")
    @classmethod
    def _frames_or_seconds(cls, value: int | str) -> int | str:
        from retrodict.video.config import MineConfig

        MineConfig(min_gap=value)
        return value


class Tokenizer(Section):
    """The image tokenizer of the small family: a picture becomes a grid of codes."""

    image_size: Count = 96
    """Side of the square picture, in pixels; other pictures are resized."""
    patch: Count = 16
    """Side of the square that one code stands for, in pixels; it divides `image_size`."""
    codes: Count = 128
    """How many different codes there are."""
    context: Annotated[int, Field(ge=0)] = 0
    """Residual 3 x 3 blocks on each side, for pictures whose patches cannot stand alone; 0 for flat, drawn ones."""
    warm_steps: Count = 250
    """Optimizer steps of plain autoencoding, before the codes are placed."""
    steps: Count = 250
    """Optimizer steps of the decoder on the codes."""
    batch: Count = 16
    """Pictures per step."""

    @field_validator("patch")
    @classmethod
    def _divides(cls, value: int, info: ValidationInfo) -> int:
        size = info.data.get("image_size", value)
        if size % value:
            raise ValueError(f"{value} does not divide image_size, which is {size}")
        return value


class Model(Section):
    """The size of the language model of the small family."""

    hidden: Count = 128
    """Width of the hidden state; a multiple of `heads`."""
    layers: Count = 4
    """Number of transformer blocks."""
    heads: Count = 4
    """Attention heads per block."""

    @field_validator("heads")
    @classmethod
    def _share_the_width(cls, value: int, info: ValidationInfo) -> int:
        hidden = info.data.get("hidden", 2 * value)
        if hidden % (2 * value):  # rotary positions turn the width of a head in pairs
            raise ValueError(f"{value} heads cannot share hidden, which is {hidden}, in equal and even parts")
        return value


class Training(Section):
    """One training run. Both directions use the same loop."""

    steps: Count = 1000
    """Optimizer steps."""
    epochs: Positive | None = None
    """Passes over the data; where it is given, `steps` does not count."""
    batch: Count = 32
    """Sequences per forward pass."""
    accumulate: Count = 1
    """Forward passes per step, for batches that do not fit into memory. Processes that train together share them."""
    lr: Positive = 5e-3
    """Highest learning rate."""
    warmup: Annotated[int, Field(ge=0)] = 30
    """Steps until the learning rate is at its highest."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """`muon` suits small models that learn from nothing; adapters of large ones are trained with `adamw`."""
    recompute: bool = False
    """Whether to compute activations again in the backward pass (gradient checkpointing): a third slower, far less
    memory."""
    shard: bool = False
    """Whether processes that train together hold a part of the weights each (FSDP2), for models that do not fit."""
    deepspeed: RecipePath | None = None
    """A DeepSpeed configuration file (ZeRO 1 or 2) instead of `shard`, such as `recipes/paper/deepspeed-zero2.json`."""
    checkpoint_every: Count = 200
    """Steps between checkpoints, from which an interrupted run goes on."""


class Select(Section):
    """Which annotated transitions the forward model learns from."""

    top_k: Count = 7000
    """How many to keep, going round the classes in turn and taking each one's most likely remaining label."""


class Weighting(Section):
    """How the loss of each image token is weighted (equation 2 of the paper)."""

    kind: Literal["none", "recognition", "softened"] = "none"
    """`recognition` weights a token by how much its place changes; `softened` adds 1, so that what stays counts too."""
    clip: Positive = 3.0
    """The largest weight that `softened` gives for a change."""
    start: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the steps that go by with even weights before the weighting sets in."""


class Sample(Section):
    """How a forward model predicts."""

    n: Count = 8
    """Candidates per prediction."""
    temperature: Positive = 1.0
    """Sampling temperature; a low one makes models copy the source."""


class Bench(Section):
    """How the result is measured."""

    items: Count = 300
    """How many test transitions to predict, at most; which ones depends on their ids alone."""
    ks: tuple[Count, ...] = (1, 2, 4, 8)
    """For which numbers of candidates to report verified scores."""


class BootstrapRecipe(Section):
    """The whole loop: from labelled pairs and videos to a forward model and its scores."""

    seed: int = 0
    """Seed of everything random."""
    family: Literal["small"] = "small"
    """Model family."""
    data: Data
    mine: Mine = Mine()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    inverse: Training = Training()
    """How the inverse model is trained, on `data.labelled`."""
    forward: Training = Training(steps=600)
    """How the forward model is trained, on `data.labelled` and the annotated pairs."""
    select: Select = Select()
    weighting: Weighting = Weighting()
    sample: Sample = Sample()
    bench: Bench = Bench()


class Lora(Section):
    """A trained adapter beside frozen weights; the defaults are the paper's."""

    rank: Count = 16
    """Rank of the matrices."""
    alpha: Count = 32
    """Their scale, times `rank`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the inputs that is left out while training."""


class Source(Section):
    """Labelled transitions of one kind."""

    path: RecipePath
    """Their directory."""
    rows: Count | None = None
    """How many of them to take, at most, chosen by `seed`; by default all."""
    seed: int = 0
    """Seed of that choice."""
    expected: Count | None = None
    """How many there are, as far as is known: what `--dry-run` counts with as long as the directory is not there."""
    origin: str = ""
    """Where they come from, for whoever has to get them."""


def _as_source(value: Any) -> Any:
    """A source can be written as its path alone."""
    return {"path": value} if isinstance(value, str | Path) else value


class TrainData(Section):
    """What one model learns from."""

    train: Annotated[tuple[Annotated[Source, BeforeValidator(_as_source)], ...], Field(min_length=1)]
    """Directories of labelled transitions, or sections with `path`, `rows`, `seed`; their rows are mixed."""
    val: RecipePath | None = None
    """Directory of transitions to measure on; by default `val_share` of `train`, whole groups only."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the groups of `train` that is held out to measure on, where `val` is not given."""
    cache: RecipePath | None = None
    """Folder for tokenized pictures, which runs may share; by default they are forgotten after the run."""


class TrainRecipe(Section):
    """One model in one direction."""

    direction: Literal["inverse", "forward"]
    """`inverse` learns frame pair -> action, `forward` learns frame + action -> next frame."""
    seed: int = 0
    """Seed of everything random."""
    family: FamilyName = "small"
    """Model family."""
    init: str | None = None
    """Model to start from: `small`, a path or a hub id. It brings its image tokenizer, its words and its size, so that
    `tokenizer` and `model` do not count. By default training starts from nothing, which only `small` can."""
    lora: Lora | None = None
    """Train an adapter of `init` and leave its weights as they are; `{}` is the paper's. Not for `small`."""
    data: TrainData
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    training: Training = Training()
    weighting: Weighting = Weighting()

    @model_validator(mode="after")
    def _from_something(self) -> Self:
        if self.family != "small" and self.init is None:
            raise ValueError(f"family {self.family} needs `init`, the model to start from: a path or a hub id")
        if self.lora is not None and self.init is None:
            raise ValueError("`lora` adapts a model, and there is no `init` that names one: leave `lora` out")
        return self


R = TypeVar("R", BootstrapRecipe, TrainRecipe)


def load_recipe(path: Path, overrides: Sequence[str] = (), kind: type[R] = BootstrapRecipe) -> R:  # type: ignore[assignment]
    """Read a recipe and apply overrides such as `"forward.steps=200"`, whose values are read as YAML.

    Raises `ValueError` with one line that names the file and the key.
    """
    path = Path(path)
    values = read_yaml(path)
    changed = dict(map(parse_override, overrides))
    for key, value in changed.items():
        set_value(values, key, value)
    try:
        return kind.model_validate(values, context={"base": path.parent.resolve()})
    except ValidationError as error:
        raise ValueError(one_line(error, kind, path, changed)) from None


def save_effective(recipe: BaseModel, directory: Path) -> Path:
    """Write the recipe with all its defaults to `directory/recipe.yaml`, whole or not at all."""
    text = "# The recipe as it was used: defaults and overrides included.\n"
    text += yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    target = Path(directory) / EFFECTIVE

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomic(target, write)
    return target


def claim(recipe: BaseModel, directory: Path) -> None:
    """Make `directory` that of a run with this recipe, which is saved there.

    Raises `ValueError` when it holds a run with other settings, whose parts must not be mixed with this one's.
    """
    path = directory / EFFECTIVE
    begun = path.is_file() and any(p.name != EFFECTIVE for p in directory.iterdir())
    if not begun:
        save_effective(recipe, directory)
        return
    held, wanted = leaves(read_yaml(path)), leaves(recipe.model_dump(mode="json"))
    for key in sorted(held.keys() | wanted.keys()):
        if held.get(key) != wanted.get(key):
            raise ValueError(
                f"{directory} holds a run with {key} = {held.get(key)}, and here it is {wanted.get(key)}: "
                "choose another --out, or the settings that it was begun with."
            )
