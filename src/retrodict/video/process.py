"""`process_clip`: everything that happens to one clip. Pure, picklable, with no engine and no pyarrow behind it."""

from __future__ import annotations

import hashlib
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
from retrodict.video.decode import luma, open_video, to_jpeg
from retrodict.video.held import Held
from retrodict.video.motion import Meter, Track
from retrodict.video.selection import lay_out, select
from retrodict.video.snap import Lane

Tick = Callable[[], None]


def process_clip(ref: ClipRef, config: MineConfig, tick: Tick = lambda: None) -> ClipResult:
    """Mine one clip. What goes wrong with the clip is a result with a `reason`, not an exception.

    `tick` is called about once per frame; a watcher takes its silence for a hang.
    """
    with _one_thread():
        try:
            return _mine(ref, config, tick)
        except ClipError as error:
            return ClipResult(ref=ref, reason=error.reason, detail=str(error))
        except (av.FFmpegError, OSError, MemoryError) as error:
            return ClipResult(ref=ref, reason="unreadable", detail=f"{type(error).__name__}: {error}"[:300])


def _mine(ref: ClipRef, config: MineConfig, tick: Tick) -> ClipResult:
    if not ref.path.is_file():
        raise ClipError("missing", f"{ref.path.name} is not a file")
    if not ref.path.stat().st_size:
        raise ClipError("empty", "the file has no bytes")
    decoded = 0
    with open_video(ref.path) as video:
        held = Held(config)
        meter = Meter(config, video.fps)
        for item in video.decode(ref.start, ref.stop):
            tick()
            decoded += 1
            if meter.push(item.index, item.seconds, item.pts, luma(item.frame)) and config.frames:
                held.add(meter.track, item.frame)
        track = meter.finish()
        known = ClipResult(
            ref=ref,
            sha256=file_sha256(ref.path),
            frames=decoded,
            duplicates=track.duplicates,
            corrupt_packets=video.corrupt_packets,
            duration=track.seconds[-1] - track.seconds[0] + 1 / video.fps if len(track) else 0.0,
            fps=video.fps,
            time_base=video.time_base,
        )
    if not decoded:
        return _without_pairs(known, "undecodable", f"no frame could be decoded ({known.corrupt_packets} bad packets)")
    return _pick(known, track, held, config, tick)


def _pick(known: ClipResult, track: Track, held: Held, config: MineConfig, tick: Tick) -> ClipResult:
    gap, in_seconds = config.gap()
    span = known.duration if in_seconds else known.frames
    if span <= gap:
        return _without_pairs(known, "too_short", f"{known.frames} frames, {known.duration:.2f} s")
    lane = lay_out(track, config)
    shot = lane.shot
    if len(track) < 2 or not (lane.motion >= config.min_motion).any():
        return _without_pairs(known, "static", f"{known.duplicates} of {known.frames} frames repeat the one before")
    picks = select(lane, config)
    pairs = tuple((a, a + 1) for a, (i, j) in enumerate(pairwise(picks)) if shot[i] == shot[j])
    cut_frames = tuple(track.index[i] for i in np.flatnonzero(np.diff(shot, prepend=shot[:1])) if shot[i] >= 0)
    known = replace(known, cuts=cut_frames, straddling=max(0, len(picks) - 1 - len(pairs)))
    if not pairs:
        reason = "cuts" if len(picks) > 1 else "too_short"
        return _without_pairs(known, reason, f"{len(picks)} frames fit, no two of them in one shot")
    used = sorted({i for pair in pairs for i in pair})
    images = _images(known.ref, track, {picks[i] for i in used}, held, config, tick) if config.frames else {}
    frames = tuple(_keyframe(track, lane, picks[i], images.get(picks[i])) for i in used)
    renumber = {old: new for new, old in enumerate(used)}
    return replace(known, keyframes=frames, pairs=tuple((renumber[a], renumber[b]) for a, b in pairs))


def _images(
    ref: ClipRef, track: Track, places: set[int], held: Held, config: MineConfig, tick: Tick
) -> dict[int, bytes]:
    """JPEG bytes of frames by their place in the track."""
    images = held.jpegs(places)
    if missing := {track.index[place]: place for place in places - set(images)}:
        again = decode_jpegs(ref, set(missing), config.jpeg_quality, tick)
        images |= {place: again[index] for index, place in missing.items()}
    return images


def _keyframe(track: Track, lane: Lane, place: int, image: bytes | None) -> Keyframe:
    return Keyframe(
        index=track.index[place],
        seconds=track.seconds[place],
        pts=None if track.pts[place] < 0 else track.pts[place],
        motion=float(lane.motion[place]),
        sharpness=track.sharpness[place],
        shot=int(lane.shot[place]),
        image=image,
    )


def decode_jpegs(ref: ClipRef, wanted: set[int], quality: int, tick: Tick = lambda: None) -> dict[int, bytes]:
    """JPEG bytes of frames of a clip by number, by decoding it up to the last of them. Raises `ClipError`."""
    images: dict[int, bytes] = {}
    with open_video(ref.path) as video:
        for item in video.decode(ref.start, ref.stop):
            tick()
            if item.index in wanted:
                images[item.index] = to_jpeg(item.frame, quality)
                if len(images) == len(wanted):
                    return images
    raise ClipError("changed", f"{ref.path.name} has no frame {min(wanted - set(images))} any more")


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
