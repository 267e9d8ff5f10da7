"""What the loop needs and will cost, stage by stage, without loading weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retrodict.bootstrap.context import in_round
from retrodict.bootstrap.recipe import TINY, BootstrapRecipe
from retrodict.recipes import load_recipe
from retrodict.recipes.values import read_yaml
from retrodict.training.config import Source, TrainRecipe, Weighting
from retrodict.training.estimate import (
    CPU_SUSTAINED,
    SUSTAINED,
    Estimate,
    estimate,
    explanation_operations,
    size_of_recipe,
)
from retrodict.training.prerequisites import fetch_for, missing_data, missing_weights

MANY = 100_000  # mined pairs for which the cost of labelling is stated


def plan(recipe: BootstrapRecipe) -> list[str]:
    """What is missing, steps, tokens, memory and time of each stage, in lines; and the time of all training.

    Raises:
        ValueError: the size of the model to start from is not known.
    """
    if recipe.init == TINY:
        return [f"a tiny {recipe.family} with random weights: some minutes on a CPU, and nothing is missing"]
    models = models_of(recipe)
    costs = {name: estimate(model) for name, model in models.items()}
    lines = _section("models and data", needs(recipe))
    if recipe.annotates:
        lines += _section("mine", [f"{recipe.mine.frames_per_clip} keyframes of each clip, on CPUs"])
    for name, cost in costs.items():
        lines += _section(name, [line for line in cost.lines() if not line.startswith("missing")])
        if name.startswith("idm") and recipe.annotates:
            lines += _section("annotate", _annotate(recipe, cost))
    test = recipe.world.test if recipe.world else recipe.bench.items
    tokens = size_of_recipe(models["fdm"]).image_tokens
    frames = f"{test * (1 + recipe.bench.n):,} frames of {tokens:,} image tokens, each scored by the inverse model"
    lines += _section("bench", [f"{name}: at most {frames}" for name in models if not name.startswith("idm")])
    if any(cost.is_large for cost in costs.values()):
        return [*lines, f"training in all: about {sum(cost.gpu_hours for cost in costs.values()):,.0f} GPU hours"]
    return lines


def models_of(recipe: BootstrapRecipe) -> dict[str, TrainRecipe]:
    """The models that the loop trains, each as a recipe of its own."""
    if recipe.annotates:
        extra = Source(path=Path("selected"), expected=recipe.selected)
        ft = recipe.training("forward").model_copy(update={"weighting": Weighting()})
        forward = {"ft": ft, "fdm": recipe.training("forward", (extra,))}
        for number in range(2, recipe.rounds + 1):  # how many labels are trusted or taken is not known before
            forward[in_round("idm", number)] = recipe.training("inverse", (extra,))
            forward[in_round("fdm", number)] = recipe.training("forward", (extra,))
        for number in range(recipe.expert.iterations if recipe.expert else 0):
            forward[f"fdm_expert, iteration {number + 1}"] = _expert(recipe, recipe.training("forward", (extra,)))
    else:
        forward = {"fdm": recipe.training("forward")}
    return forward if recipe.labeller else {"idm": recipe.training("inverse"), **forward}


def _expert(recipe: BootstrapRecipe, anew: TrainRecipe) -> TrainRecipe:
    """What an iteration trains: as all others do, or by GRPO at most all samples once and all of the model."""
    assert recipe.expert is not None
    if recipe.expert.grpo is None:
        return anew
    sequences = recipe.expert.prompts * recipe.bench.n
    training = anew.training.model_copy(update={"steps": -(-sequences // anew.training.batch), "epochs": None})
    return anew.model_copy(update={"training": training, "lora": None})


def needs(recipe: BootstrapRecipe) -> list[str]:
    """What is missing, a line each."""
    inverse = recipe.training("inverse")
    return [f"missing      {line}" for line in (*missing_weights(inverse), *_missing_data(recipe))] or ["all there"]


def fetch_recipe(path: Path, out: Path | None) -> tuple[list[str], list[str]]:
    """Get the model that a recipe of either kind starts from; see `training.prerequisites.fetch`."""
    if "direction" in read_yaml(path):
        return fetch_for(load_recipe(path, TrainRecipe), out)
    recipe = load_recipe(path, BootstrapRecipe)
    fetched, missing = fetch_for(recipe.training("inverse"), out)
    return fetched, [*missing, *_missing_videos(recipe)]


def _missing_data(recipe: BootstrapRecipe) -> list[str]:
    labelled = [] if recipe.world and not recipe.data.labelled else missing_data(recipe.training("inverse"))
    return [*labelled, *_missing_videos(recipe)]


def _missing_videos(recipe: BootstrapRecipe) -> list[str]:
    return [f"{v.path}: {v.origin or 'video files'}" for v in recipe.data.videos if not v.path.exists()]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, *(f"  {line}" for line in lines)]


def _annotate(recipe: BootstrapRecipe, cost: Estimate) -> list[str]:
    operations = MANY * explanation_operations(recipe.training("inverse"))
    if not cost.is_large:
        return [f"CPU minutes  about {operations / CPU_SUSTAINED / 60:,.0f} for every {MANY:,} mined pairs"]
    return [f"GPU hours    about {operations / SUSTAINED / 3600:,.0f} for every {MANY:,} mined pairs"]
