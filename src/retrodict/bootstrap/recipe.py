"""The recipe of the whole loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from retrodict.models.small.config import ModelConfig
from retrodict.prompts import Direction
from retrodict.recipes import Count, RecipePath, Section
from retrodict.sampling import Sampling
from retrodict.training.config import (
    FamilyName,
    LoraConfig,
    ModelName,
    Source,
    Sources,
    Tokenizer,
    TokenizerConfig,
    TrainConfig,
    TrainData,
    TrainRecipe,
    Weighting,
    as_list,
    as_source,
    check_start,
)
from retrodict.video.config import MineConfig
from retrodict.worlds import WORLDS

TINY = "tiny"  # the `init` that is made on the spot
Ablation = Literal["true_labels", "weighted", "no_change_mask"]


def _layout(name: str) -> str:
    from retrodict.data.layouts import LAYOUTS

    if name not in LAYOUTS:
        raise ValueError(f"no layout '{name}': use one of {', '.join(LAYOUTS)}")
    return name


class Videos(Section):
    """Video files of one collection."""

    path: RecipePath
    """A video file, or a folder that is searched for them."""
    layout: Annotated[str, AfterValidator(_layout)] = "folder"
    """How the collection is laid out, as for `retrodict mine --layout`."""
    annotations: RecipePath | None = None
    """The collection's own list, where it does not lie beside the videos."""
    origin: str = ""
    """Where they come from, for whoever has to get them."""


class Data(Section):
    """One's own data. Relative paths count from the folder of the recipe."""

    labelled: Sources = ()
    """Directories of labelled transitions: frame pairs whose actions are known."""
    only_inverse: Sources = ()
    """More of them, which the inverse model alone learns from."""
    videos: Annotated[tuple[Annotated[Videos, BeforeValidator(as_source)], ...], BeforeValidator(as_list)] = ()
    """Video files, or folders that are searched for them, without labels; sections with `path` and `layout` for known
    collections. Without any, and without a world, models learn from the labelled pairs alone."""
    test: RecipePath | None = None
    """Directory of transitions to report on; by default `test_share` of `labelled`."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the groups of `labelled` that is set aside to test on, where `test` is not given."""


def _world(name: str) -> str:
    if name not in WORLDS:
        raise ValueError(f"no world '{name}': use one of {', '.join(WORLDS)}")
    return name


class WorldSection(Section):
    """A simulated world, for whatever `data` does not give."""

    name: Annotated[str, AfterValidator(_world)]
    """Its name."""
    labelled: Count = 900
    """Labelled transitions."""
    test: Count = 500
    """Transitions to report on."""
    videos: Count = 2400
    """Unlabelled videos."""
    actions: Count = 6
    """Actions in each video."""


class Select(Section):
    """Which annotated transitions the forward model learns from."""

    top_k: Count = 7000
    """How many to keep, round-robin over the classes, taking each one's most likely remaining label."""
    per_collection: bool = False
    """Whether to keep so many of each of `data.videos`, as the paper does, and not of all together."""
    without_likelihood: bool = False
    """Whether to take labels without a likelihood, too, after all others and in the order of their ids: what a labeller
    behind a chat endpoint gives."""


class Bench(Section):
    """How the result is measured."""

    items: Count = 300
    """How many of one's own test transitions to predict, at most; which ones depends on their ids alone."""
    n: Count = 8
    """Candidates per prediction."""
    ks: tuple[Count, ...] | None = None
    """For which numbers of candidates to report verified scores; by default powers of two, and `n`."""


class BootstrapRecipe(Section):
    """The whole loop: from labelled pairs, and videos where there are any, to a forward model and its scores."""

    renamed: ClassVar = {"sample": "sampling"}

    seed: int = 0
    """Seed of everything random."""
    world: WorldSection | None = None
    data: Data = Data()
    family: FamilyName = "small"
    """Model family."""
    init: ModelName = None
    """Model to start from: `small`, a path or a hub id, with its image tokenizer, words and size; or `tiny`, one of the
    family with random weights, which shows that all parts fit together. By default models learn from nothing, which not
    all families can."""
    lora: LoraConfig | None = None
    """Train adapters of `init` and leave its weights as they are; `{}` is the paper's."""
    labeller: ModelName = None
    """What labels the mined pairs and verifies predictions: a saved inverse model, a vision-language model (a path or a
    hub id), or `chat:MODEL@URL`. By default an inverse model that is trained on the labelled pairs."""
    mine: MineConfig = MineConfig()
    """How frame pairs are found in videos."""
    tokenizer: Tokenizer = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    inverse: TrainConfig = TrainConfig()
    """How the inverse model is trained, on the labelled pairs."""
    forward: TrainConfig = TrainConfig(steps=600)
    """How forward models are trained: FT on the labelled pairs, FDM on these and the annotated ones."""
    select: Select = Select()
    weighting: Weighting = Weighting()
    """Loss weights of FDM; FT has none, as in the paper."""
    sampling: Sampling = Sampling()
    """How candidates are sampled."""
    bench: Bench = Bench()
    preview: bool = False
    """Whether the model that is shipped for the world, if there is one, predicts a frame for the run's page while the
    run's own models are being trained."""
    runs: Count = 1
    """How often FT, FDM and the ceiling are trained, each time from other random weights and in another order. From two
    on, the intervals of their scores and differences also hold for other training runs."""
    ablations: tuple[Ablation, ...] = ()
    """Models to train for comparison: on the world's `true_labels` in place of the annotated ones (the ceiling of
    labelling), on a `weighted` loss (softened recognition weights), an inverse model with `no_change_mask`."""

    @property
    def annotates(self) -> bool:
        """Whether there are videos whose pairs the labeller annotates."""
        return bool(self.data.videos) or self.world is not None

    @property
    def selected(self) -> int:
        """How many annotated transitions are selected, at most."""
        return self.select.top_k * (max(1, len(self.data.videos)) if self.select.per_collection else 1)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.world is None and not self.data.labelled:
            raise ValueError("nothing is labelled: name transitions under data.labelled, or a world")
        if "true_labels" in self.ablations and (self.world is None or self.data.videos):
            raise ValueError("the ablation true_labels needs the videos of a world, which knows what happened in them")
        if "no_change_mask" in self.ablations and self.init is not None:
            raise ValueError("the ablation no_change_mask needs models that start from nothing: leave `init` out")
        if self.init != TINY:
            check_start(self.family, self.init, self.lora)
        if (self.labeller or "").startswith("chat:") and not self.select.without_likelihood:
            raise ValueError(
                "a chat endpoint gives labels without a likelihood, by which none can be selected: "
                "set select.without_likelihood=true, or name another labeller"
            )
        return self

    def training(self, direction: Direction, extra: tuple[Source, ...] = ()) -> TrainRecipe:
        """The recipe of one of the loop's models, on `extra` sources besides its own; for what it costs and lacks."""
        data = self.data
        made = (
            (Source(path=Path("labelled"), expected=self.world.labelled),) if self.world and not data.labelled else ()
        )
        own = made or data.labelled if direction == "forward" else (*made, *data.labelled, *data.only_inverse)
        return TrainRecipe(
            direction=direction,
            seed=self.seed,
            family=self.family,
            init=self.init,
            lora=self.lora,
            data=TrainData(train=(*own, *extra), val=data.test, val_share=0 if self.world else data.test_share),
            tokenizer=self.tokenizer,
            model=self.model,
            training=self.inverse if direction == "inverse" else self.forward,
            weighting=self.weighting if direction == "forward" else Weighting(),
        )
