"""Frames of a video file, packet by packet, so that a corrupt packet costs that packet only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from retrodict.files import JsonObject
from retrodict.video.clips import ClipError

Gray = NDArray[np.integer | np.floating]  # height x width, uint8; OpenCV's types say no more

# Only real containers: a "video" that is in truth a playlist or script would make FFmpeg open other files.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,ivf,rm,gif,h264,hevc,m4v,obu,"
    "av1,nut,mxf,vob,dv,swf,wtv,apng"
)
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
# Names and comments that are not UTF-8 are no reason to refuse a video. PyAV 19 replaces such bytes unasked.
_LENIENT: JsonObject = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_REFORMATTER = av.video.reformatter.VideoReformatter()  # shared, as setting one up costs more than a conversion
_MAX_PIXELS = 16384 * 8640  # a header that claims more is broken; decoding it would exhaust the memory
_LUMA_FIRST = frozenset(
    [f"yuv{a}{sampling}p" for a in ("", "j", "a") for sampling in ("420", "422", "444")]
    + ["yuv411p", "yuv410p", "nv12", "nv21", "gray"]
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded frame, its number from the start of the file, and its time."""

    index: int
    seconds: float
    pts: int | None
    frame: av.VideoFrame


class Video:
    """An open video stream. Use `open_video`; iterate with `decode`. Counts what it could not decode."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self.fps = _fps(stream)
        self.time_base = str(stream.time_base)
        self.corrupt_packets = 0

    def decode(self, start: float = 0.0, stop: float | None = None) -> Iterator[Decoded]:
        """Frames shown from `start` until before `stop` (seconds), in display order.

        Frame numbers count from the file's first frame; after a seek they follow from the time stamps.
        """
        unit = self._stream.time_base or Fraction(0)  # of an unknown unit: all 0, and so as if they were missing
        if start > 0 and unit:
            self._container.seek(int(start / unit), stream=self._stream)
        index, last = -1, -math.inf
        ticks, per_second = unit.numerator, unit.denominator  # whole numbers: a Fraction per frame would cost more
        origin = (self._stream.start_time or 0) * ticks / per_second
        for frame in self._frames():
            index += 1
            now = index / self.fps if frame.pts is None else frame.pts * ticks / per_second
            if start > 0 and frame.pts is not None:
                index = max(index, round((now - origin) * self.fps))
            if now <= last:  # missing or unordered time stamps
                now = last + 1 / self.fps
            last = now
            if start > 0 and now < start - 0.5 / self.fps:
                continue
            if stop is not None and now >= stop - 0.5 / self.fps:
                return
            yield Decoded(index, now, frame.pts, frame)

    def _frames(self) -> Iterator[av.VideoFrame]:
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
                yield from packet.decode()
            except (av.FFmpegError, EOFError):
                self.corrupt_packets += 1


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open the first real video stream of a file, on one thread. Raises `ClipError` when there is none."""
    if not path.is_file():
        raise ClipError("missing", f"{path.name} is not a file")
    try:
        container = av.open(f"file:{path.absolute()}", options=_OPTIONS, **_LENIENT)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ClipError("unreadable", _first_line(error)) from error
    with container:
        yield Video(container, _video_stream(container))


def _video_stream(container: InputContainer) -> VideoStream:
    for stream in container.streams.video:
        if stream.disposition & av.stream.Disposition.attached_pic:
            continue
        context = stream.codec_context
        if context is None:
            raise ClipError("unreadable", "no decoder for this codec")
        if context.width * context.height > _MAX_PIXELS:
            raise ClipError("unreadable", f"header claims {context.width}x{context.height} pixels")
        context.thread_count = 1  # clips run side by side; threads within one would only compete
        context.options = {"max_pixels": str(_MAX_PIXELS)}
        return stream
    raise ClipError("no_video", "the file has no video stream")


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


def to_bgr(frame: av.VideoFrame) -> Gray:
    """Upright image, height x width x 3, in OpenCV's channel order."""
    image = _REFORMATTER.reformat(frame, format="bgr24").to_ndarray()
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as the container asks a player to turn it
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def to_jpeg(frame: av.VideoFrame, quality: int) -> bytes:
    # Colour at full resolution: at half, the edges of small things bleed, and their image tokens change.
    full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", to_bgr(frame), [cv2.IMWRITE_JPEG_QUALITY, quality, *full_colour])
    assert done
    return data.tobytes()


def _first_line(error: BaseException) -> str:
    text = str(getattr(error, "strerror", None) or error)
    return text.splitlines()[0][:200] if text else type(error).__name__
