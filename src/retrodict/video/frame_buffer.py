"""Decoded frames kept while a clip is measured, so that most clips are decoded once."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np

from retrodict.video.config import MineConfig, seconds
from retrodict.video.decode import Gray, size_in_bytes, to_jpeg
from retrodict.video.keyframes import SETTLE, lay_out, likely
from retrodict.video.motion import Track

_BYTES = 96 << 20
_GROWTH = 1.05  # of the track, before what is likely is worked out anew: that takes time with the track's length


@dataclass(frozen=True, slots=True)
class Picture:
    """What is kept of a picked frame: its small luma plane, and its JPEG bytes where pictures are stored."""

    small: Gray
    jpeg: bytes | None


class FrameBuffer:
    """Frames by their place in the track, up to a fixed number of bytes.

    All are held until the bytes are used up; then those that no pick is likely to be of are let go. A guess: what is
    picked though it was let go has to be decoded again.
    """

    def __init__(self, config: MineConfig) -> None:
        self._config = config
        self._settling = SETTLE + 2 * seconds(config.snap, "snap")  # until it is past, a pick may still move to a frame
        self._frames: dict[int, tuple[Gray, av.VideoFrame | None]] = {}
        self._bytes = 0
        self._likely: set[int] = set()
        self._judged = 0  # places below this were likely or not when the track had `_length` frames
        self._length = 0

    def add(self, track: Track, small: Gray, frame: av.VideoFrame) -> None:
        """Hold the last frame of the track."""
        self._frames[len(track) - 1] = small, frame if self._config.frames else None
        self._bytes += self._size(len(track) - 1)
        if self._bytes > _BYTES:
            if len(track) >= _GROWTH * self._length:
                self._judge(track)
            self._evict(track)

    def _size(self, place: int) -> int:
        small, frame = self._frames[place]
        return small.nbytes + (size_in_bytes(frame) if frame is not None else 0)

    def _judge(self, track: Track) -> None:
        timeline = lay_out(track, self._config)
        self._likely = likely(timeline, self._config)
        self._judged = int(np.searchsorted(timeline.seconds, timeline.seconds[-1] - self._settling))
        self._length = len(track)

    def _evict(self, track: Track) -> None:
        """Drop what is unlikely, then what moved least, until a third of the bytes is free."""

        def worth(place: int) -> tuple[bool, bool, float]:
            return place in self._likely, place >= self._judged, track.motion[place]

        for place in sorted(self._frames, key=worth):
            if any(worth(place)[:2]) and self._bytes <= 2 * _BYTES // 3:
                break
            self._bytes -= self._size(place)
            del self._frames[place]

    def pictures(self, places: set[int]) -> dict[int, Picture]:
        """Those of the frames that are held; then none is held any more."""
        found = {}
        for place in places & self._frames.keys():
            small, frame = self._frames[place]
            found[place] = Picture(small, to_jpeg(frame, self._config.jpeg_quality) if frame is not None else None)
        self._frames.clear()
        return found
