"""Readers of video collections and of labelled sets, in the layouts they are published in.

mine(read_clips("ucf101", Path("UCF-101")), Path("pairs"))
write_transitions(read_transitions("ssv2", Path("ssv2")), Path("labelled"), source={"layout": "ssv2"})
"""

from retrodict.data.convert import write_transitions
from retrodict.data.images import PRESETS, Columns, image_pairs
from retrodict.data.layouts import LAYOUTS, read_clips, read_transitions

__all__ = ["LAYOUTS", "PRESETS", "Columns", "image_pairs", "read_clips", "read_transitions", "write_transitions"]
