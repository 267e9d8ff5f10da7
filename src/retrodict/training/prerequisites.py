"""What a recipe needs before it can run: weights, which a hub has, and data, which people must get themselves."""

from __future__ import annotations

from pathlib import Path

from retrodict.models.hub import download, is_hub_id
from retrodict.models.registry import FAMILIES, SPACES, Part, card_of, get_family
from retrodict.training.config import TrainRecipe


def fetch(name: str, out: Path | None) -> tuple[list[str], list[str]]:
    """Get what `name` names: a family's published weights, or a hub id.

    Returns a line for each thing that is there now, and one for each that is missing and where to get it. Raises
    `ValueError` when `name` is none of them.
    """
    if name in FAMILIES and FAMILIES[name].checkpoints:
        return _published(name, out or Path("models") / name)
    if is_hub_id(name.removeprefix(SPACES)):
        return _weights((Part.named(name),), out)
    known = [family.name for family in FAMILIES.values() if family.checkpoints]
    raise ValueError(
        f"There is nothing called {name}: give a recipe.yaml, {', '.join(known)}, or a hub id (owner/name; of a "
        "space spaces/owner/name)."
    )


def missing_data(recipe: TrainRecipe) -> list[str]:
    """Folders of transitions that are not there, and where their rows come from."""
    missing = [
        f"{source.path}: {source.origin or 'labelled transitions'}"
        for source in recipe.data.train
        if not any(source.path.glob("*.parquet"))
    ]
    if recipe.data.val is not None and not any(recipe.data.val.glob("*.parquet")):
        missing.append(f"{recipe.data.val}: transitions to measure on")
    return missing


def missing_weights(recipe: TrainRecipe) -> list[str]:
    if recipe.init is None or recipe.init == "small" or is_hub_id(recipe.init) or card_of(Path(recipe.init)):
        return []
    return [f"{recipe.init}: the model to start from; retrodict download {recipe.family} --out {recipe.init}"]


def fetch_for(recipe: TrainRecipe, out: Path | None) -> tuple[list[str], list[str]]:
    """The same for what a recipe needs: its model from a hub; where data comes from, it can only say."""
    fetched: list[str] = []
    missing: list[str] = []
    if recipe.init is not None and is_hub_id(recipe.init):
        fetched, missing = _weights((Part(recipe.init),), out)
    elif missing_weights(recipe):
        if get_family(recipe.family).checkpoints:
            fetched, missing = _published(recipe.family, out or Path(str(recipe.init)))
        else:
            missing = missing_weights(recipe)
    return fetched, missing + missing_data(recipe)


def _published(family: str, out: Path) -> tuple[list[str], list[str]]:
    checkpoint = get_family(family).checkpoints[0]
    fetched, missing = _weights(checkpoint.parts, out)
    return [*fetched, *([f"licence: {checkpoint.licence}"] if fetched else [])], missing


def _weights(parts: tuple[Part, ...], out: Path | None) -> tuple[list[str], list[str]]:
    missing = download(parts, out)
    lost = {line.partition(":")[0] for line in missing}
    where = out or "the hub's cache"
    return [f"{where}: {part.repository}" for part in parts if part.repository not in lost], missing
