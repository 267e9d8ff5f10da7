"""The stages, one function each: a folder or a recipe in, a folder out. The same call again continues."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from retrodict.models.hub import rows_folder
from retrodict.progress import Progress, QuietProgress
from retrodict.recipes import load_recipe

if TYPE_CHECKING:
    from retrodict.bootstrap.recipe import BootstrapRecipe
    from retrodict.training.config import TrainRecipe


def train(recipe: str | Path | TrainRecipe, *, out: str | Path, progress: Progress | None = None) -> None:
    """Train one model. The same call again continues.

    Args:
        recipe: a YAML file, or what it says as a `training.config.TrainRecipe`.
        out: folder for the model, a name for `load`, and its `results.json`.
        progress: receives how far the work is.

    Raises:
        ValueError: there is nothing to train on, or `out` is another run's.
    """
    from retrodict.training.config import TrainRecipe
    from retrodict.training.recipe import train_recipe

    given = recipe if isinstance(recipe, TrainRecipe) else load_recipe(Path(recipe), TrainRecipe)
    train_recipe(given, Path(out), progress or QuietProgress())


def run_bootstrap(recipe: str | Path | BootstrapRecipe, *, out: str | Path, progress: Progress | None = None) -> None:
    """Run the whole loop: inverse model, annotation, forward models, report. The same call again continues.

    Args:
        recipe: a YAML file, or what it says as a `bootstrap.recipe.BootstrapRecipe`.
        out: folder for the models (`out` is a name for `load`), `results.json` and `report.html`.
        progress: receives how far the work is.

    Raises:
        ValueError: there is nothing to train or test on, or `out` is another run's.
    """
    from retrodict.bootstrap.loop import run_bootstrap as run
    from retrodict.bootstrap.recipe import BootstrapRecipe

    given = recipe if isinstance(recipe, BootstrapRecipe) else load_recipe(Path(recipe), BootstrapRecipe)
    run(given, Path(out), progress or QuietProgress())


def annotate(pairs: str | Path, *, model: str | Path, out: str | Path, progress: Progress | None = None) -> None:
    """Pseudo-label frame pairs: the inverse model says which action happened in each. The same call again continues.

    Args:
        pairs: folder of frame pairs, as `mine` writes it.
        model: name of the inverse model.
        out: folder for the labelled transitions, each with its log-probability.
        progress: receives how far the work is.

    Raises:
        ValueError: there are no pairs with images, no such model, or `out` is another run's or the input itself.
    """
    from retrodict.bootstrap.annotate import annotate_dir

    annotate_dir(rows_folder(pairs), model=model, out=Path(out), progress=progress)


def select(transitions: str | Path, *, top_k: int, out: str | Path) -> None:
    """Keep the likeliest pseudo-labels, round-robin over the classes.

    Args:
        transitions: folder of labelled transitions, as `annotate` writes it.
        top_k: how many to keep.
        out: folder for the chosen ones.

    Raises:
        ValueError: no transition has a likelihood, or `out` is another run's or the input itself.
    """
    from retrodict.bootstrap.select import select_dir

    select_dir(rows_folder(transitions), top_k=top_k, out=Path(out))
