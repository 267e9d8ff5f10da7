"""The recipe of the whole loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from retrodict.models.registry import get_family
from retrodict.models.small.config import ModelConfig
from retrodict.prompts import Direction
from retrodict.recipes import Count, RecipePath, Section
from retrodict.sampling import MOST_CANDIDATES, Sampling
from retrodict.training.config import (
    FamilyName,
    GrpoConfig,
    LoraConfig,
    ModelName,
    RowsPath,
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
Candidates = Annotated[int, Field(gt=0, le=MOST_CANDIDATES)]
Ablation = Literal["true_labels", "weighted", "weighted_true_labels", "no_change_mask", "second_proposer"]


def _layout(name: str) -> str:
    from retrodict.data.layouts import video_layouts

    if name not in video_layouts():
        raise ValueError(f"no layout '{name}': use one of {', '.join(video_layouts())}")
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


def _strategy(name: str) -> str:
    from retrodict.bootstrap.select import get_strategy

    get_strategy(name)
    return name


class Data(Section):
    """One's own data. Relative paths count from the folder of the recipe."""

    labelled: Sources = ()
    """Directories of labelled transitions: frame pairs whose actions are known."""
    only_inverse: Sources = ()
    """More of them, which the inverse model alone learns from."""
    videos: Annotated[tuple[Annotated[Videos, BeforeValidator(as_source)], ...], BeforeValidator(as_list)] = ()
    """Video files, or folders that are searched for them, without labels; sections with `path` and `layout` for known
    collections. Without any, and without a world, models learn from the labelled pairs alone."""
    test: RowsPath | None = None
    """Directory of transitions to report on; by default `test_share` of `labelled`."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the groups of `labelled` that is set aside to test on, where `test` is not given."""
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the other groups that is set aside to choose the best round by, where there are several `rounds`."""


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
    validation: Count = 300
    """Transitions to choose the best round by, where there are several `rounds`."""
    videos: Count = 2400
    """Unlabelled videos."""
    actions: Count = 6
    """Actions in each video."""


StrategyName = Annotated[str, AfterValidator(_strategy)]


class Select(Section):
    """Which annotated transitions models learn from."""

    top_k: Count = 7000
    """How many the forward model learns from, at most."""
    strategy: StrategyName = "likeliest"
    """Which ones: `likeliest` takes each class's most likely remaining label in turn, `checked` those after which FT
    expects the target, `informative` sure ones whose target FT expects least, `all` takes all."""
    later: StrategyName = "all"
    """The same from the second round on, when labels are better: `likeliest` or `all`."""
    trusted: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the checked labels that the inverse model of the next round learns from, the same of each kind of
    action."""
    per_collection: bool = False
    """Whether to keep so many of each of `data.videos`, as the paper does, and not of all together."""
    without_likelihood: bool = False
    """Whether to take labels without a likelihood, too, after all others and in the order of their ids. With a labeller
    behind a chat endpoint it also says that this verifies nothing: vLLM's say how likely actions are, most others do
    not."""


class Bench(Section):
    """How the result is measured."""

    items: Count = 300
    """How many of one's own test transitions to predict, at most; which ones depends on their ids alone."""
    n: Candidates = 8
    """Candidates per prediction."""
    calibrate: bool = False
    """Whether to find out, on validation pairs of a world, how probable a prediction is right by its score."""
    ks: tuple[Candidates, ...] | None = None
    """For which numbers of candidates to report verified scores; by default powers of two, and `n`."""


class ExpertIteration(Section):
    """The forward model learns from its own samples, those that the inverse model finds most like their actions
    (expert iteration, as ReST-EM, arXiv 2312.06585): each iteration trains it anew, as long as all others; with `grpo`
    it goes on from the last."""

    iterations: Count = 1
    """How often. It stops when the inverse model likes the frames better and they are no more often right."""
    prompts: Count = 2000
    """Frames of selected pairs that are asked for an action, in each iteration: for the next of their clip, or with
    `grpo` for their own."""
    grpo: GrpoConfig | None = None
    """Raise and lower the likelihood of samples by what the inverse model says of them, in place of training anew on
    the best ones; `{}` has its defaults."""


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
    rounds: Count = 1
    """Rounds of the loop. In each but the first, a forward model has checked the labels of the one before, the inverse
    model learns from the labelled and the best checked pairs, annotates again, and the forward model learns from that.
    The models of a round are kept where they do better on validation pairs."""
    expert: ExpertIteration | None = None
    """Expert iteration after the last round; `{}` is one iteration."""
    still: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of what forward models learn from that are pairs in which nothing happens, as their action is impossible; a
    world gives them."""
    runs: Count = 1
    """How often FT, FDM and the ceiling are trained, each time from other random weights and in another order. From two
    on, the intervals of their scores and differences also hold for other training runs."""
    ablations: tuple[Ablation, ...] = ()
    """Models to train for comparison: on the world's `true_labels` in place of the annotated ones (the ceiling of
    labelling), on a `weighted` loss (softened recognition weights), also with true labels (`weighted_true_labels`), an
    inverse model with `no_change_mask`; and `second_proposer`: FDM's pool with FT's greedy frame in it."""

    @property
    def annotates(self) -> bool:
        """Whether there are videos whose pairs the labeller annotates."""
        return bool(self.data.videos) or self.world is not None

    @property
    def validates(self) -> bool:
        """Whether pairs are set aside to choose by."""
        return self.rounds > 1 or self.bench.calibrate or self.expert is not None

    @property
    def checks(self) -> bool:
        """Whether a forward model checks the labels of the first round."""
        from retrodict.bootstrap.select import get_strategy

        return self.rounds > 1 or get_strategy(self.select.strategy).checked

    @property
    def selected(self) -> int:
        """How many annotated transitions are selected, at most."""
        return self.select.top_k * (max(1, len(self.data.videos)) if self.select.per_collection else 1)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.world is None and not self.data.labelled:
            raise ValueError("nothing is labelled: name transitions under data.labelled, or a world")
        if {"true_labels", "weighted_true_labels"} & {*self.ablations} and (self.world is None or self.data.videos):
            raise ValueError("ablations with true labels need the videos of a world, which knows what happened in them")
        if "no_change_mask" in self.ablations and self.init is not None:
            raise ValueError("the ablation no_change_mask needs models that start from nothing: leave `init` out")
        if (self.still or self.bench.calibrate) and self.world is None:
            raise ValueError("`still` and bench.calibrate need a world, which knows what is possible and what is right")
        if (self.expert or "second_proposer" in self.ablations) and not self.annotates:
            raise ValueError("expert iteration and a second proposer need videos: without any, FT and FDM are one")
        if (self.expert or self.bench.calibrate) and (self.labeller or "").startswith("chat:"):
            raise ValueError("expert iteration and confidence need the likelihoods that a chat endpoint does not give")
        if self.expert and self.expert.grpo and (self.bench.n < 2 or not self.sampling.temperature):
            raise ValueError("GRPO compares samples of a prompt: bench.n is 2 or more, sampling.temperature above 0")
        if self.checks and (self.labeller is not None or not self.annotates):
            raise ValueError("rounds and checked labels need videos, and an inverse model that the loop trains")
        if self.select.later not in ("likeliest", "all"):
            raise ValueError("select.later is `likeliest` or `all`: labels of later rounds are not checked again")
        if get_family(self.family).reads_only:
            raise ValueError(f"family {self.family} only reads images: name such a model as `labeller`")
        if self.init != TINY:
            check_start(self.family, self.init, self.lora)
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
