"""The families of models by name, each loaded from its module when it is asked for."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

CARD = "retrodict.json"  # what makes a folder a model of ours: {"family", "direction", ...}

# Family -> its class, and the function that makes a tiny one with random weights.
_CLASSES = {
    "small": "retrodict.models.small.family:SmallFamily",
    "chameleon": "retrodict.models.chameleon.family:ChameleonFamily",
    "liquid": "retrodict.models.liquid.family:LiquidFamily",
    "emu3": "retrodict.models.emu3.family:Emu3Family",
    "janus": "retrodict.models.janus.family:JanusFamily",
}
_TINY = {
    "chameleon": "retrodict.models.chameleon.tiny:tiny_chameleon",
    "liquid": "retrodict.models.liquid.tiny:tiny_liquid",
    "emu3": "retrodict.models.emu3.tiny:tiny_emu3",
    "janus": "retrodict.models.janus.tiny:tiny_janus",
}
# `model_type` in a published checkpoint's config.json -> family
_MODEL_TYPES = {"chameleon": "chameleon", "gemma": "liquid", "emu3": "emu3", "janus": "janus"}


def family_class(name: str) -> Any:
    """Raises `ValueError` for a family that this version does not know."""
    if name not in _CLASSES:
        raise ValueError(
            f"This is the family '{name}', which this version does not know; it knows {', '.join(_CLASSES)}."
        )
    return _named(_CLASSES[name])


def known_family(name: str) -> str:
    """`name`, which is a family's. Raises `ValueError` where it is none."""
    if name not in _CLASSES:
        raise ValueError(f"no family '{name}': use one of {', '.join(_CLASSES)}")
    return name


def tiny_family(name: str) -> Any:
    """The function that makes a tiny model of a family. Raises `ValueError` for families that have none."""
    if name not in _TINY:
        raise ValueError(f"There is no tiny model of the family '{name}', only of {', '.join(_TINY)}.")
    return _named(_TINY[name])


def card_of(folder: Path) -> dict[str, Any]:
    """What a folder says it holds: our card, or the family that a published `config.json` belongs to; empty if none."""
    card, config = folder / CARD, folder / "config.json"
    if card.is_file():
        found: dict[str, Any] = json.loads(card.read_text())
        return found
    if config.is_file():
        family = _MODEL_TYPES.get(json.loads(config.read_text()).get("model_type", ""))
        return {"family": family} if family else {}
    return {}


def _named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
