"""Simulated worlds with an exact state, by name. A world is one entry here; `base.World` says what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads names from here, quickly
    from retrodict.transitions import FramePair
    from retrodict.worlds.base import World

WORLDS = {  # name -> module whose `WORLD` it is; imported when asked for
    "tabletop": "retrodict.worlds.tabletop.world",
    "babyai": "retrodict.worlds.babyai.world",
}
DEFAULT = "tabletop"  # the world of the model that comes with retrodict


def get_world(name: str) -> World:
    """The world of that name. Raises `ValueError` for a name that is not in `WORLDS`."""
    if name not in WORLDS:
        raise ValueError(f'No world "{name}": use one of {", ".join(WORLDS)}.')
    world: World = import_module(WORLDS[name]).WORLD
    return world


def world_of(rows: Iterable[FramePair]) -> World | None:
    """The world that owns all of the rows; None without rows, or where no world owns them all."""
    rows = list(rows)
    return next((world for name in WORLDS if rows and all(map((world := get_world(name)).owns, rows))), None)


def world_that_says(action: str) -> World:
    """The world whose action a sentence states; the default one where none does."""
    return next((world for world in map(get_world, WORLDS) if world.wordings(action)), get_world(DEFAULT))
