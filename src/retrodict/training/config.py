"""Settings of training, and the recipe of one training run. Without torch, as recipes are read at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from retrodict.models.registry import get_family
from retrodict.models.small.config import ImageSize, ImageTokenizerConfig, ModelConfig, check_patch
from retrodict.prompts import Direction
from retrodict.recipes import Count, NonNegative, Positive, RecipePath, Section, from_recipe

LOG, METER = "log.jsonl", "action_meter.json"  # beside a trained model: how it learned, whether it uses what it is told


def _model_from_recipe(name: str | None, info: ValidationInfo) -> str | None:
    """A model's name, where it is a path as a whole one: relative ones count from the recipe, as all paths do."""
    base = (info.context or {}).get("base")
    if not name or base is None or ":" in name:  # chat:MODEL and diffusers:NAME name no folder of ours
        return name
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or ("/" in name and (base / name).is_dir())
    return str((base / Path(name).expanduser()).resolve()) if is_path else name


ModelName = Annotated[str | None, AfterValidator(_model_from_recipe)]
FamilyName = Annotated[str, AfterValidator(lambda name: get_family(name).name)]


def as_list(value: object) -> object:
    """A list that may be written as its only member."""
    return [value] if isinstance(value, str | Path | dict) else value


class TrainConfig(Section):
    """One training run. Both directions use the same loop.

    A step takes `per_device_batch_size * gradient_accumulation_steps` sequences, however many ranks share them.
    """

    renamed: ClassVar = {
        "batch": "per_device_batch_size",
        "accumulate": "gradient_accumulation_steps",
        "lr": "learning_rate",
        "warmup": "warmup_steps",
        "schedule": "lr_scheduler",
        "recompute": "gradient_checkpointing",
        "shard": "fsdp",
        "checkpoint_every": "save_steps",
    }

    steps: Count = 1000
    """Optimizer steps."""
    epochs: Positive | None = None
    """Passes over the data; where it is given, `steps` does not count."""
    per_device_batch_size: Count = 32
    """Sequences per forward pass of a rank."""
    gradient_accumulation_steps: Count = 1
    """Forward passes per step, summed over ranks: the batch of a step is the same on one GPU and on eight."""
    learning_rate: Positive = 5e-3
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 30
    """Steps until the learning rate is at its peak."""
    lr_scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """`muon` suits small models that learn from nothing; adapters of large ones are trained with `adamw`."""
    bf16: bool | None = None
    """Whether matrix products run in bfloat16; by default where the hardware multiplies it."""
    gradient_checkpointing: bool = False
    """Whether to compute activations again in the backward pass: a third slower, far less memory."""
    fsdp: bool = False
    """Whether ranks hold a part of the weights each (FSDP2), for models that do not fit."""
    deepspeed: RecipePath | None = None
    """A DeepSpeed configuration file (ZeRO 1 or 2) instead of `fsdp`, such as `recipes/paper/deepspeed-zero2.json`."""
    save_steps: Count = 200
    """Steps between checkpoints, from which an interrupted run resumes."""
    eval_steps: Count = 300
    """Steps between measurements on held-out pairs, where there are any."""
    report_to: Annotated[tuple[Literal["tensorboard", "trackio", "wandb"], ...], BeforeValidator(as_list)] = ()
    """Trackers that also get what `log.jsonl` gets; each is a package to install."""

    @property
    def batch(self) -> int:
        """Sequences of one optimizer step."""
        return self.per_device_batch_size * self.gradient_accumulation_steps

    def total_steps(self, transitions: int) -> int:
        """Optimizer steps of a run over so many transitions."""
        return self.steps if self.epochs is None else max(1, round(self.epochs * transitions / self.batch))


class LoraConfig(Section):
    """A LoRA adapter on frozen weights; the defaults are those of arXiv 2506.06006, section 3.1."""

    rank: Count = 16
    """Rank of the matrices."""
    alpha: Count = 32
    """Their scale, times `rank`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the inputs that is left out while training."""
    four_bit: bool = False
    """Whether the frozen weights of the layers are kept in 4 bits (QLoRA, arXiv 2305.14314): a quarter of the memory,
    and an adapter of those rounded weights. Needs the extra `4bit`."""


class GrpoConfig(Section):
    """Group-relative policy optimization of a forward model, rewarded by an inverse model (arXiv 2402.03300)."""

    prompts_per_step: Count = 32
    """Prompts of an optimizer step; each is sampled `bench.n` times, at the temperature of `sampling`."""
    learning_rate: Positive = 1e-4
    """Learning rate of AdamW; all weights are trained."""
    kl: NonNegative = 0.1
    """Weight of the KL divergence from the model that it starts from."""


class Weighting(Section):
    """How the loss of each image token of the forward direction is weighted (arXiv 2506.06006, equation 2)."""

    renamed: ClassVar = {"kind": "method"}

    method: Literal["none", "recognition", "softened"] = "none"
    """`recognition` weights a token by how much its position changes; `softened` adds 1 to a weight of at most `clip`
    and scales back to mean 1, so that no token loses more than a bounded share of its loss and copying the background
    is still learned."""
    clip: Positive = 3.0
    """The largest weight that `softened` gives for a change."""
    start: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the steps that go by with even weights before the weighting sets in."""


class TokenizerConfig(Section):
    """The image tokenizer of a family that learns its own: a table of patches, or with `context` a net."""

    renamed: ClassVar = {"batch": "batch_size"}

    path: RecipePath | None = None
    """A tokenizer to take as it is, to which nothing below applies: a folder of one, of a small model, or of a run."""
    image_size: ImageSize | None = None
    """Height and width of images in pixels, one number for a square; other images are resized. By default those of the
    data, scaled down where they are large."""
    patch: Count | None = None
    """Side of the square that one token stands for, in pixels; it divides both sides of `image_size`. By default the
    cells of a grid world, else 8."""
    codes: Count = 512
    """Size of the codebook, at most: as many as there are distinct patches, if these are fewer."""
    context: Annotated[int, Field(ge=0)] = 0
    """Residual 3 x 3 blocks on each side of a net, for textured images whose patches cannot stand alone; 0 for a table
    of patches, which needs no training and to which nothing below applies."""
    code_dim: Count = 16
    """Dimensions of a codebook entry."""
    width: Count = 192
    """Channels of the encoder and the decoder."""
    warm_steps: Count = 3000
    """Optimizer steps of plain autoencoding, before the codebook is placed: at most, as training ends when the error on
    changes stops falling."""
    steps: Count = 3000
    """Optimizer steps of the decoder on quantised features, at most."""
    batch_size: Count = 16
    """Images per step."""
    learning_rate: Positive = 2e-3
    """Learning rate at the beginning."""

    @field_validator("patch")
    @classmethod
    def _divides(cls, value: int | None, info: ValidationInfo) -> int | None:
        return None if value is None else check_patch(value, info.data.get("image_size"))

    def net(self, image_size: tuple[int, int], patch: int) -> ImageTokenizerConfig:
        """The sizes of a net for such images."""
        return ImageTokenizerConfig(
            image_size=image_size,
            patch=patch,
            codes=self.codes,
            code_dim=self.code_dim,
            width=self.width,
            context=self.context,
        )


def _rows_from_recipe(path: Path, info: ValidationInfo) -> Path:
    """A folder of rows, counted from the recipe's; a data set of the hub is fetched."""
    if str(path).startswith("hf:/"):  # as a path has hf://
        from retrodict.models.hub import rows_folder

        return rows_folder(path)
    return from_recipe(path, info)


RowsPath = Annotated[Path, AfterValidator(_rows_from_recipe)]


def as_source(value: object) -> object:
    """A section that may be written as its path alone."""
    return {"path": value} if isinstance(value, str | Path) else value


Tokenizer = Annotated[TokenizerConfig, BeforeValidator(as_source)]


class Source(Section):
    """Labelled transitions of one kind."""

    path: RowsPath
    """Their directory, or `hf://datasets/OWNER/NAME`, a data set of the Hub."""
    rows: Count | None = None
    """How many of them to take, at most, chosen by `seed`; by default all."""
    seed: int = 0
    """Seed of that choice."""
    expected: Count | None = None
    """How many there are, as far as is known: what `--dry-run` counts with as long as the directory is not there."""
    origin: str = ""
    """Where they come from, for whoever has to get them."""


Sources = Annotated[tuple[Annotated[Source, BeforeValidator(as_source)], ...], BeforeValidator(as_list)]


class TrainData(Section):
    """What one model learns from."""

    train: Annotated[Sources, Field(min_length=1)]
    """Directories of labelled transitions, or sections with `path`, `rows`, `seed`; their rows are mixed."""
    val: RowsPath | None = None
    """Directory of transitions to measure on; by default `val_share` of `train`, whole groups only."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the groups of `train` that is held out to measure on, where `val` is not given."""
    cache: RecipePath | None = None
    """Folder for tokenized images, which runs may share; by default they are deleted after the run."""


class TrainRecipe(Section):
    """One model in one direction."""

    direction: Direction
    """`inverse` learns frame pair -> action, `forward` learns frame + action -> next frame."""
    seed: int = 0
    """Seed of everything random."""
    family: FamilyName = "small"
    """Model family."""
    init: ModelName = None
    """Model to start from: `small`, a path or a hub id. It brings its image tokenizer, its words and its size, so that
    `tokenizer` and `model` do not count. By default training starts from nothing, which only `small` can."""
    lora: LoraConfig | None = None
    """Train an adapter of `init` and leave its weights as they are; `{}` is the paper's. Not for `small`."""
    data: TrainData
    tokenizer: Tokenizer = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    training: TrainConfig = TrainConfig()
    weighting: Weighting = Weighting()

    @model_validator(mode="after")
    def _from_something(self) -> Self:
        if get_family(self.family).reads_only and self.direction == "forward":
            raise ValueError(f"family {self.family} only reads images: it has no forward direction")
        check_start(self.family, self.init, self.lora)
        return self


def check_start(family: str, init: str | None, lora: LoraConfig | None) -> None:
    """Raises `ValueError` for a model that has nothing to start from."""
    if init is None and not get_family(family).from_scratch:
        raise ValueError(f"family {family} needs `init`, the model to start from: a path or a hub id")
    if lora is not None and init is None:
        raise ValueError("`lora` adapts a model, and there is no `init` that names one: leave `lora` out")
