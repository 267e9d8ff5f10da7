"""`process_clip`: everything that happens to one clip. Pure, picklable, with no engine and no pyarrow behind it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np

from retrodict.video.clips import ClipError, ClipRef, ClipResult, Keyframe
from retrodict.video.config import MineConfig
from retrodict.video.decode import Decoded, Gray, Video, open_video
from retrodict.video.duplicates import Fingerprint
from retrodict.video.frame_buffer import Buffered, FrameBuffer
from retrodict.video.keyframes import Timeline, lay_out, select
from retrodict.video.motion import NO_PTS, Meter, Track, pyramid

Tick = Callable[[], None]

# No pair is made of frames that show nothing of the same, be it a slow dissolve, a wipe or a whirl of the camera that
# lies between them: where so much changed of their contrast, and their similarity is below. Of dissolves made between
# real shots (benchmarks/mining.py) 29 of 109 pairs lay across one without this, 5 of 81 do with it.
_CHANGED = 0.5
_UNLIKE = 0.3
_LEAST_SIDE = 12  # pixels of the small plane: optical flow needs as many


def process_clip(ref: ClipRef, config: MineConfig, tick: Tick = lambda: None) -> ClipResult:
    """Mine one clip. What goes wrong with the clip is a result with a `reason`, not an exception.

    `tick` is called about once per frame; a watcher takes its silence for a hang.
    """
    with _one_thread():
        try:
            return _mine(ref, config, tick)
        except ClipError as error:
            return ClipResult(ref=ref, reason=error.reason, detail=str(error))
        except (av.FFmpegError, cv2.error, OSError, MemoryError) as error:
            return ClipResult(ref=ref, reason="unreadable", detail=f"{type(error).__name__}: {error}"[:300])


def _mine(ref: ClipRef, config: MineConfig, tick: Tick) -> ClipResult:
    if ref.unusable:
        raise ClipError(ref.unusable, f"{ref.name} of {ref.path.name}")
    if ref.path.is_dir():
        raise ClipError("unreadable", "the folder cannot be opened")
    if not ref.path.is_file():
        raise ClipError("missing", f"{ref.path.name} is not a file")
    if not ref.path.stat().st_size:
        raise ClipError("empty", "the file has no bytes")
    decoded, resized, size = 0, [], (0, 0)
    with open_video(ref.path) as video:
        buffer = FrameBuffer(config, video.view)
        meter, fingerprint = Meter(config, video.fps), Fingerprint()
        for item in video.decode(ref.start, ref.stop):
            tick()
            plane = video.luma(item.frame)
            if not decoded and min(pyramid(plane)[1].shape) < _LEAST_SIDE:
                raise ClipError("too_small", f"{item.frame.width} x {item.frame.height} pixels: too thin to see motion")
            if decoded and size != (item.frame.width, item.frame.height):
                resized.append(item.index)
            decoded, size = decoded + 1, (item.frame.width, item.frame.height)
            if meter.push(item.index, item.seconds, item.pts, plane):
                buffer.add(meter.track, meter.small, item.frame)
            fingerprint.push(item.seconds, meter.small, meter.track.motion[-1])
        track = meter.finish()
        known = ClipResult(
            ref=ref,
            sha256=file_sha256(ref.path),
            frames=decoded,
            duplicates=track.duplicates,
            corrupt_packets=video.corrupt_packets,
            resized=tuple(resized),
            duration=track.end - track.seconds[0] + video.step if len(track) else 0.0,
            fps=video.fps,
            time_base=video.time_base,
            fingerprint=fingerprint.to_dict(),
        )
    if not decoded:
        if known.ref.is_segment and not known.corrupt_packets:
            return _without_pairs(known, "undecodable", f"no frame from {ref.start:g} s to {ref.stop or math.inf:g} s")
        return _without_pairs(known, "undecodable", f"no frame could be decoded ({known.corrupt_packets} bad packets)")
    return _pick(known, meter, buffer, config, tick)


def _pick(known: ClipResult, meter: Meter, buffer: FrameBuffer, config: MineConfig, tick: Tick) -> ClipResult:
    track = meter.track
    gap, in_seconds = config.gap()
    span = known.duration if in_seconds else known.frames
    if span <= gap:
        return _without_pairs(known, "too_short", f"{known.frames} frames, {known.duration:.2f} s")
    timeline = lay_out(track, config)
    shot = timeline.shot
    if len(track) < 2 or not timeline.lively.any():
        return _without_pairs(known, "static", f"{known.duplicates} of {known.frames} frames repeat the one before")
    chosen = select(timeline, config)
    near = [(a, a + 1) for a, (i, j) in enumerate(pairwise(chosen)) if shot[i] == shot[j]]
    first = np.unique(shot, return_index=True)
    cut_frames = tuple(track.index[i] for number, i in zip(*first, strict=True) if number >= 0 and i > 0)
    apart = 0 if config.by_shot else max(0, len(chosen) - 1 - len(near))
    known = replace(known, cuts=cut_frames, straddling=apart)
    if not near:
        if len(chosen) < 2:
            return _without_pairs(known, "static", "all that moves, moves within one gap")
        return _without_pairs(known, "cuts", f"{len(chosen)} frames fit, no two of them in one shot")
    kept = _kept(known.ref, meter, {chosen[i] for pair in near for i in pair}, buffer, config, tick)
    pairs = [pair for pair in near if not config.cuts or _same_scene(meter, *(kept[chosen[i]].small for i in pair))]
    known = replace(known, unlike=len(near) - len(pairs))
    if not pairs:
        return _without_pairs(
            known, "unlike", f"of {len(chosen)} frames that fit, no two neighbours have anything in common"
        )
    used = sorted({i for pair in pairs for i in pair})
    frames = tuple(_keyframe(track, timeline, chosen[i], kept[chosen[i]].jpeg) for i in used)
    renumber = {old: new for new, old in enumerate(used)}
    return replace(known, keyframes=frames, pairs=tuple((renumber[a], renumber[b]) for a, b in pairs))


def _same_scene(meter: Meter, source: Gray, target: Gray) -> bool:
    return meter.alike(source, target, _CHANGED) >= _UNLIKE


def _kept(
    ref: ClipRef, meter: Meter, wanted: set[int], buffer: FrameBuffer, config: MineConfig, tick: Tick
) -> dict[int, Buffered]:
    """What is kept of the wanted frames, by their index in the track."""
    kept = buffer.take(wanted)
    missing = {meter.track.index[i]: i for i in wanted - kept.keys()}
    for item, video in decode_some(ref, set(missing), tick):
        jpeg = video.view.jpeg(item.frame, config.jpeg_quality, config.max_side) if config.frames else None
        kept[missing[item.index]] = Buffered(meter.planes(video.luma(item.frame))[1], jpeg)
    return kept


def _keyframe(track: Track, timeline: Timeline, i: int, image: bytes | None) -> Keyframe:
    return Keyframe(
        index=track.index[i],
        seconds=track.seconds[i],
        pts=None if track.pts[i] == NO_PTS else track.pts[i],
        motion=float(timeline.motion[i]),
        sharpness=track.sharpness[i],
        shot=int(timeline.shot[i]),
        image=image,
    )


def decode_some(ref: ClipRef, wanted: set[int], tick: Tick = lambda: None) -> Iterator[tuple[Decoded, Video]]:
    """Frames of a clip by number, by decoding it up to the last of them, each with the open video.

    Raises:
        ClipError: one is not there.
    """
    left = set(wanted)
    if not left:
        return
    with open_video(ref.path) as video:
        for item in video.decode(ref.start, ref.stop):
            tick()
            if item.index in left:
                left.remove(item.index)
                yield item, video
                if not left:
                    return
    raise ClipError("changed", f"{ref.path.name} has no frame {min(left)} any more")


def windows(ref: ClipRef, config: MineConfig) -> list[ClipRef]:
    """A clip cut into its windows, all of one group; itself where it is to be mined whole, is short or unreadable.

    Windows side by side are made a little longer or shorter, those that overlap a little closer, so that they fill it.
    """
    length, every = config.windows()
    if math.isinf(length) or ref.unusable:
        return [ref]
    try:
        with open_video(ref.path) as video:
            span = min(video.length, math.inf if ref.stop is None else ref.stop) - ref.start
    except (ClipError, av.FFmpegError, OSError):
        return [ref]
    overlap = every < length
    count = 1 + math.ceil((span - length) / every - 1e-6) if overlap else round(span / length)
    if count < 2:
        return [ref]
    step = (span - length) / (count - 1) if overlap else span / count
    begins = [ref.start + step * i for i in range(count)]
    stops = [begin + length for begin in begins[:-1]] if overlap else begins[1:]
    common = replace(ref, group=ref.group or ref.name, meta={"file": ref.name, **ref.meta})
    return [
        replace(common, name=f"{ref.name}#{i:05d}", start=begin, stop=stop)
        for i, (begin, stop) in enumerate(zip(begins, [*stops, ref.stop], strict=True))
    ]


def _without_pairs(known: ClipResult, reason: str, detail: str) -> ClipResult:
    return replace(known, reason=reason, detail=detail)


def file_sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256(path: str, size: int, modified: int) -> str:
    """Cached by size and time, as one file may hold many clips."""
    del size, modified
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Clips run side by side in processes; OpenCV's threads would only compete, and the sums would vary."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
