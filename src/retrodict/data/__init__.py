"""Readers of video collections and of labelled sets, in the layouts they are published in.

mine(read_clips("ucf101", Path("UCF-101")), Path("pairs"))
write_transitions(labelled_clips("ssv2", Path("ssv2")), Path("labelled"), source={"layout": "ssv2"})
"""

from retrodict.data.convert import write_transitions
from retrodict.data.images import PRESETS, Columns, image_pairs
from retrodict.data.items import Item, UnusableError, transitions
from retrodict.data.layouts import LABELLED, LAYOUTS, labelled_clips, read_clips

__all__ = [
    "LABELLED",
    "LAYOUTS",
    "PRESETS",
    "Columns",
    "Item",
    "UnusableError",
    "image_pairs",
    "labelled_clips",
    "read_clips",
    "transitions",
    "write_transitions",
]
