"""Frames of a video file, packet by packet, so that a corrupt packet costs that packet only."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from retrodict.files import JsonObject
from retrodict.video.clips import ClipError
from retrodict.video.view import View

Stamps = NDArray[np.int64]  # in units of the stream's time base
Gray = NDArray[np.integer | np.floating]  # height x width, uint8; OpenCV's types say no more

# Only real containers: a "video" that is in truth a playlist or script would make FFmpeg open other files.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,ivf,rm,gif,h264,hevc,m4v,obu,"
    "av1,nut,mxf,vob,dv,swf,wtv,apng"
)
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
# Names and comments that are not UTF-8 are no reason to refuse a video. PyAV 19 replaces such bytes unasked.
_LENIENT: JsonObject = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_FEW, _STEPS = 5, 25  # times between frames, at least and at most, of which the middle one is the usual one
# In containers of broadcasts the clock may start anew anywhere. As FFmpeg does, a longer gap than so many seconds is
# taken for that; elsewhere it is a rest.
_RESTARTS, _REST = 0x200, 10.0
_MAX_PIXELS = 16384 * 8640  # a header that claims more is broken; decoding it would exhaust the memory
_LUMA_FIRST = frozenset(
    [f"yuv{a}{sampling}p" for a in ("", "j", "a") for sampling in ("420", "422", "444")]
    + ["yuv411p", "yuv410p", "nv12", "nv21", "gray"]
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded frame, its number from the start of the file, its time on the player's clock, and its time stamp."""

    index: int
    seconds: float
    pts: int | None
    frame: av.VideoFrame


class Video:
    """A video stream of a file. Use `open_video`; iterate with `decode`. Counts what it could not decode.

    Its clock is a player's: 0 is where the container starts, whatever number its time stamps begin with.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container, self._stream = _open(path)
        self._began = False
        self._unit = self._stream.time_base or Fraction(0)  # unknown: time stamps are all 0, as good as missing
        self.view = View(self._stream)
        self.fps = _fps(self._stream)
        self.time_base = str(self._stream.time_base)
        self.corrupt_packets = 0
        self._steps: deque[float] = deque(maxlen=_STEPS)

    def close(self) -> None:
        self._container.close()

    def decode(self, start: float = 0.0, stop: float | None = None) -> Iterator[Decoded]:
        """Frames on screen from `start` until before `stop` (seconds), in display order.

        The first is the one that is shown at `start`, which may have come up long before; half a frame's time is
        forgiven. Frames are numbered from the file's first, wherever decoding begins.
        """
        last = None
        for item in self._on_screen(start, stop):
            if last is not None:
                self._steps.append(item.seconds - last)
            last = item.seconds
            yield item

    def _on_screen(self, start: float, stop: float | None) -> Iterator[Decoded]:
        if start <= 0 and stop is None:
            yield from self._from_the_first()
            return
        shown = _shown(self._path, *_state(self._path), self._stream.index)
        half = self._half(shown)
        ends = math.inf if stop is None else stop - half
        if ends <= start - 2 * half:
            return
        waiting = None
        for item in self._since(start + half, shown) if start > 0 else self._from_the_first():
            if start > 0 and item.seconds <= start + half:
                waiting = item
                continue
            if waiting:
                yield waiting
                waiting = None
            if item.seconds >= ends:
                return
            yield item
        if waiting and start < max(self.length, waiting.seconds + 2 * half):
            yield waiting

    def last_shown(self, stop: float) -> float | None:
        """When the last frame comes up that is on screen before `stop`; None where only decoding could tell."""
        shown = _shown(self._path, *_state(self._path), self._stream.index)
        if shown is None:
            return None
        times = self._times(shown)
        return float(times[max(0, int(np.searchsorted(times, stop - self._half(shown))) - 1)])

    def _half(self, shown: Stamps | None) -> float:
        """Half the usual time between two frames, which the average rate of a file with pauses does not tell."""
        if shown is None or len(shown) < 2:
            return 0.5 / self.fps
        return float(np.median(np.diff(shown)) * self._unit) / 2

    @property
    def step(self) -> float:
        """The usual time between two frames of late, in seconds. Jumps of the clock do not change it, as they do the
        average rate that a file states."""
        return float(np.median(self._steps)) if len(self._steps) >= _FEW else 1 / self.fps

    def luma(self, frame: av.VideoFrame) -> Gray:
        """The frame's luma plane, height x width, at the size that the frame is shown at."""
        plane, (width, height) = luma(frame), self.view.size(frame)
        if plane.shape == (height, width):
            return plane
        return cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)

    @property
    def length(self) -> float:
        """When the last frame goes off, in seconds, as the container tells; 0 where it does not."""
        return (self._container.duration or 0) / av.time_base

    def _origin(self, first: int) -> int:
        """The time stamp at which the clock is 0; `first` is that of the first frame.

        AVI has no time stamps; those made up for it begin some frames late.
        """
        if self._container.start_time is None or self._container.format.name == "avi":
            return first
        return round(Fraction(self._container.start_time, av.time_base) / self._unit)

    def _times(self, stamps: Stamps) -> NDArray[np.float64]:
        ticks = stamps - self._origin(int(stamps[0]))
        return ticks * self._unit.numerator / self._unit.denominator

    def _from_the_first(self) -> Iterator[Decoded]:
        """All frames, counted."""
        if self._began:
            self._reopen()
        last, origin, shift = -math.inf, None, 0.0
        restarts = bool(self._container.format.flags & _RESTARTS)
        ticks, per_second = self._unit.numerator, self._unit.denominator  # a Fraction per frame would cost more
        for index, frame in enumerate(self._frames()):
            if frame.pts is None or not ticks:
                now = index / self.fps
            else:
                origin = self._origin(frame.pts) if origin is None else origin
                now = (frame.pts - origin) * ticks / per_second + shift
            anew = restarts and index > 0 and not -1 <= now - last <= _REST
            if anew or now <= last:  # another clock; missing or unordered time stamps
                shift += last + self.step - now if anew else 0.0
                now = last + self.step
            last = now
            yield Decoded(index, now, frame.pts, frame)

    def _since(self, moment: float, shown: Stamps | None) -> Iterator[Decoded]:
        """Frames from the last that came up by `moment` on, or from an earlier one."""
        if shown is None:
            yield from self._from_the_first()
            return
        times = self._times(shown)
        first = max(0, int(np.searchsorted(times, moment, "right")) - 1)
        for frame in self._sought(int(shown[first])):
            index = int(np.searchsorted(shown, frame.pts)) if frame.pts is not None else len(shown)
            if first <= index < len(shown):
                yield Decoded(index, float(times[index]), frame.pts, frame)

    def _sought(self, stamp: int) -> Iterator[av.VideoFrame]:
        """Frames from a key frame on that is not later than `stamp`: seeking may land too late, and then goes back."""
        back, most = 0, (self._stream.start_time or 0) - 1
        while stamp - back > most:
            self._began = True
            try:
                self._container.seek(stamp - back, stream=self._stream)
            except av.FFmpegError:
                break
            frames = self._frames()
            landed = next(frames, None)
            if landed is not None and landed.pts is not None and landed.pts <= stamp:
                yield landed
                yield from frames
                return
            back = max(2 * back, math.ceil(1 / self._unit))
        self._reopen()
        yield from self._frames()

    def _reopen(self) -> None:
        self._container.close()
        self._container, self._stream = _open(self._path)

    def _frames(self) -> Iterator[av.VideoFrame]:
        self._began = True
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, EOFError):  # the container is cut off here; nothing follows that could be read
                self.corrupt_packets += 1
                return
            try:
                for frame in packet.decode():
                    self.view.size(frame)  # of the first that is decoded, whichever are kept
                    yield frame
            except (av.FFmpegError, EOFError):
                self.corrupt_packets += 1


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open the best video stream of a file, on one thread. Raises `ClipError` when there is none."""
    with closing(Video(path)) as video:
        yield video


def _open(path: Path) -> tuple[InputContainer, VideoStream]:
    if not path.is_file():
        raise ClipError("missing", f"{path.name} is not a file")
    try:
        container = av.open(f"file:{path.absolute()}", options=_OPTIONS, **_LENIENT)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ClipError("unreadable", _first_line(error)) from error
    try:
        return container, _video_stream(container)
    except ClipError:
        container.close()
        raise


def _video_stream(container: InputContainer) -> VideoStream:
    """The one that players choose, by its flags, then its size; cover art is none."""
    moving = [one for one in container.streams.video if not one.disposition & av.stream.Disposition.attached_pic]
    if not moving:
        raise ClipError("no_video", "the file has no video stream")
    best = container.streams.best("video")
    stream = next((one for one in moving if one is best or (best and one.index == best.index)), moving[0])
    context = stream.codec_context
    if context is None:
        raise ClipError("unreadable", "no decoder for this codec")
    if context.width * context.height > _MAX_PIXELS:
        raise ClipError("unreadable", f"header claims {context.width}x{context.height} pixels")
    context.thread_count = 1  # clips run side by side; threads within one would only compete
    context.options = {"max_pixels": str(_MAX_PIXELS)}
    return stream


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=16)
def _shown(path: Path, size: int, modified: int, stream: int) -> Stamps | None:
    """Time stamps of all frames that are shown, in order of display; None where the file has not one for each.

    Read off the packets, without decoding: the only way to number the frames that a seek lands among; not where the
    clock starts anew. Cached by size and time, as one file may hold many clips.
    """
    del size, modified
    stamps: list[int] = []
    container, opened = _open(path)
    # Asked before the container is closed: afterwards a stream's memory is somebody else's.
    unit, restarts = opened.time_base or 0, bool(container.format.flags & _RESTARTS)
    with container, suppress(av.FFmpegError, EOFError):  # what follows a break cannot be reached
        for packet in container.demux(container.streams[stream]):
            if not packet.size or packet.is_discard:
                continue
            if packet.pts is None:
                return None
            stamps.append(packet.pts)
    shown = np.unique(np.array(stamps, np.int64))
    if len(shown) < max(1, len(stamps)):
        return None
    longest = float(np.diff(shown).max(initial=0) * unit)
    return None if restarts and longest > _REST else shown


def _fps(stream: VideoStream) -> float:
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and 0 < float(rate) <= 1000:
            return float(rate)
    return 25.0


def luma(frame: av.VideoFrame) -> Gray:
    """The frame's luma plane, height x width, without a copy where its format allows."""
    if frame.format.name in _LUMA_FIRST:
        plane = frame.planes[0]
        if plane.line_size > 0:
            rows: Gray = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            return rows[: frame.height, : frame.width]
    return np.asarray(frame.reformat(format="gray").to_ndarray(), np.uint8)


def size_in_bytes(frame: av.VideoFrame) -> int:
    return sum(plane.buffer_size for plane in frame.planes)


def _first_line(error: BaseException) -> str:
    text = str(getattr(error, "strerror", None) or error)
    return text.splitlines()[0][:200] if text else type(error).__name__
