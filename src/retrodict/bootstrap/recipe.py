"""The recipe of the whole loop."""

from __future__ import annotations

from typing import Literal

from retrodict.models.small.config import ModelConfig
from retrodict.recipes import Count, Positive, RecipePath, Section
from retrodict.training.config import TokenizerConfig, TrainConfig, Weighting
from retrodict.video.config import MineConfig


class Data(Section):
    """What to learn from. Relative paths count from the folder of the recipe."""

    labelled: RecipePath
    """Directory of labelled transitions: frame pairs whose actions are known."""
    videos: tuple[RecipePath, ...] = ()
    """Video files, or folders that are searched for them, without labels."""
    test: RecipePath | None = None
    """Directory of transitions to report on; by default a tenth of `labelled`, whole groups only."""


class Select(Section):
    """Which annotated transitions the forward model learns from."""

    top_k: Count = 7000
    """How many to keep, going round the classes in turn and taking each one's most likely remaining label."""


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
    mine: MineConfig = MineConfig()
    """How frame pairs are found in videos."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    inverse: TrainConfig = TrainConfig()
    """How the inverse model is trained, on `data.labelled`."""
    forward: TrainConfig = TrainConfig(steps=600)
    """How the forward model is trained, on `data.labelled` and the annotated pairs."""
    select: Select = Select()
    weighting: Weighting = Weighting()
    sample: Sample = Sample()
    bench: Bench = Bench()
