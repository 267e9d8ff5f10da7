"""Readers of video collections and of labelled sets, in the layouts they are published in.

mine(read_clips("ucf101", Path("UCF-101")), Path("pairs"))
write_transitions(labelled_clips("ssv2", Path("ssv2")), Path("labelled"), source={"layout": "ssv2"})

The names below load on first use, so that the command line knows the layouts without what reads them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrodict.data.convert import write_pairs as write_pairs
    from retrodict.data.convert import write_transitions as write_transitions
    from retrodict.data.images import image_pairs as image_pairs
    from retrodict.data.items import Item as Item
    from retrodict.data.items import UnusableError as UnusableError
    from retrodict.data.items import transitions as transitions
    from retrodict.data.layouts import LAYOUTS as LAYOUTS
    from retrodict.data.layouts import PRESETS as PRESETS
    from retrodict.data.layouts import Columns as Columns
    from retrodict.data.layouts import labelled_clips as labelled_clips
    from retrodict.data.layouts import read_clips as read_clips
    from retrodict.data.lerobot_export import export_lerobot as export_lerobot

_HOMES = {
    "LAYOUTS": "layouts",
    "PRESETS": "layouts",
    "Columns": "layouts",
    "Item": "items",
    "export_lerobot": "lerobot_export",
    "UnusableError": "items",
    "image_pairs": "images",
    "labelled_clips": "layouts",
    "read_clips": "layouts",
    "transitions": "items",
    "write_pairs": "convert",
    "write_transitions": "convert",
}
__all__ = [
    "LAYOUTS",
    "PRESETS",
    "Columns",
    "Item",
    "UnusableError",
    "export_lerobot",
    "image_pairs",
    "labelled_clips",
    "read_clips",
    "transitions",
    "write_pairs",
    "write_transitions",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'retrodict.data' has no attribute {name!r}")
    return getattr(import_module(f"retrodict.data.{_HOMES[name]}"), name)
