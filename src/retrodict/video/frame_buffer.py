"""A buffer of decoded frames with a byte budget, so that most clips are decoded once."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np

from retrodict.video.config import MineConfig, seconds
from retrodict.video.decode import Gray, size_in_bytes
from retrodict.video.keyframes import SETTLE, lay_out, likely
from retrodict.video.motion import Track
from retrodict.video.view import View

_BYTES = 96 << 20
_GROWTH = 1.05  # of the track, before likely keyframes are worked out anew, which takes time with the track's length


@dataclass(frozen=True, slots=True)
class Buffered:
    """What is kept of a keyframe: its small luma plane, and its JPEG bytes where images are stored."""

    small: Gray
    jpeg: bytes | None


class FrameBuffer:
    """Frames by their index in the track, up to a fixed number of bytes.

    Once the bytes are used up, frames unlikely to become keyframes are evicted. An evicted frame that is selected is
    decoded again.
    """

    def __init__(self, config: MineConfig, view: View) -> None:
        self._config, self._view = config, view
        self._settling = SETTLE + 2 * seconds(
            config.snap, "snap"
        )  # until it is past, a keyframe may still move to a frame
        self._frames: dict[int, tuple[Gray, av.VideoFrame | None]] = {}
        self._bytes = 0
        self._likely: set[int] = set()
        self._judged = 0  # indices below this were likely or not when the track had `_length` frames
        self._length = 0

    def add(self, track: Track, small: Gray, frame: av.VideoFrame) -> None:
        """Buffer the last frame of the track."""
        self._frames[len(track) - 1] = small, frame if self._config.frames else None
        self._bytes += self._size(len(track) - 1)
        if self._bytes > _BYTES:
            if len(track) >= _GROWTH * self._length:
                self._judge(track)
            self._evict(track)

    def _size(self, index: int) -> int:
        small, frame = self._frames[index]
        return small.nbytes + (size_in_bytes(frame) if frame is not None else 0)

    def _judge(self, track: Track) -> None:
        timeline = lay_out(track, self._config)
        self._likely = likely(timeline, self._config)
        self._judged = int(np.searchsorted(timeline.seconds, timeline.seconds[-1] - self._settling))
        self._length = len(track)

    def _evict(self, track: Track) -> None:
        """Drop what is unlikely, then what moved least, until a third of the bytes is free."""

        def priority(index: int) -> tuple[bool, bool, float]:
            return index in self._likely, index >= self._judged, track.motion[index]

        for index in sorted(self._frames, key=priority):
            if any(priority(index)[:2]) and self._bytes <= 2 * _BYTES // 3:
                break
            self._bytes -= self._size(index)
            del self._frames[index]

    def take(self, wanted: set[int]) -> dict[int, Buffered]:
        """Those of the frames that are buffered; the buffer is empty afterwards."""
        taken = {}
        for index in wanted & self._frames.keys():
            small, frame = self._frames[index]
            quality, side = self._config.jpeg_quality, self._config.max_side
            taken[index] = Buffered(small, self._view.jpeg(frame, quality, side) if frame is not None else None)
        self._frames.clear()
        return taken
