"""Video to frame pairs: decode, measure motion, find cuts, choose keyframes, write shards.

The names below load on first use, so that the worker processes start without pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrodict.video.clip_miner import process_clip as process_clip
    from retrodict.video.clips import ClipRef as ClipRef
    from retrodict.video.clips import ClipResult as ClipResult
    from retrodict.video.config import MineConfig as MineConfig
    from retrodict.video.mining import MineResult as MineResult
    from retrodict.video.mining import mine as mine

_HOMES = {
    "ClipRef": "clips",
    "ClipResult": "clips",
    "MineConfig": "config",
    "MineResult": "mining",
    "mine": "mining",
    "process_clip": "clip_miner",
}
__all__ = ["ClipRef", "ClipResult", "MineConfig", "MineResult", "mine", "process_clip"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'retrodict.video' has no attribute {name!r}")
    return getattr(import_module(f"retrodict.video.{_HOMES[name]}"), name)
