"""Mining's progress in words: clips/s, video seconds/s, pairs, failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from retrodict.progress import Progress


def tally(progress: Progress, now: Callable[[], float] = time.monotonic) -> Callable[[dict[str, Any]], None]:
    """What to pass to `mine` as `progress`, to show each finished clip in `progress` (retrodict.progress)."""
    began = now()
    clips = pairs = failed = 0
    video = 0.0

    def finished(clip: dict[str, Any]) -> None:
        nonlocal clips, pairs, failed, video
        clips += 1
        pairs += clip["pairs"]
        failed += bool(clip["reason"])
        video += clip["duration"]
        elapsed = max(now() - began, 1e-3)
        speed = f"{clips / elapsed:.1f} clips/s · {video / elapsed:.0f} video-s/s"
        progress.advance(clip["done"], clip["total"], f"{speed} · {pairs:,} pairs · {failed} clips without")

    return finished
