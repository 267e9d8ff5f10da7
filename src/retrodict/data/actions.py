"""Clips that come with an action in words, and the transitions they give: first frame, last frame, action."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from dataclasses import dataclass

import av

from retrodict.data.items import UnusableError, state
from retrodict.files import LONGEST_ACTION, visible
from retrodict.transitions import Transition
from retrodict.video.clip_miner import file_sha256
from retrodict.video.clips import ClipError, ClipRef
from retrodict.video.decode import Decoded, Video, open_video

_NEAR = 2.0  # seconds from the first frame to the last up to which a segment is played to its end, not sought
_QUALITY = 95


@dataclass(frozen=True)
class LabelledClip:
    """A clip during which the action happens, from its first frame to its last.

    Attributes:
        unusable: why its first and last frame make no transition; it can be mined for pairs all the same.
    """

    ref: ClipRef
    action: str
    unusable: str = ""


def transition_of(clip: LabelledClip) -> Transition:
    """First and last frame of a labelled clip. Raises `UnusableError` when it has no action or cannot be read."""
    if reason := clip.unusable or clip.ref.unusable:
        raise UnusableError(reason)
    if not visible(clip.action):
        raise UnusableError("no_action")
    if len(clip.action) > LONGEST_ACTION:
        raise UnusableError("action_too_long")
    try:
        return _transition(clip)
    except ClipError as error:
        raise UnusableError(error.reason) from error
    except (av.FFmpegError, OSError) as error:
        raise UnusableError("unreadable") from error


def clip_key(clip: LabelledClip) -> str:
    """What its transition is made of: all that is said of it, and its file."""
    said = json.dumps([clip.action, clip.ref.name, clip.ref.asked(), state(clip.ref.path)])
    return hashlib.sha256(said.encode(errors="surrogateescape")).hexdigest()[:16]


def _transition(clip: LabelledClip) -> Transition:
    ref = clip.ref
    with open_video(ref.path) as video:
        source, target = _first_and_last(ref, video)
        if video.view.size(source.frame) != video.view.size(target.frame):
            raise ClipError("shape_changes", f"{ref.name}: frame {target.index} has another shape than the first")
        images = [video.view.jpeg(item.frame, _QUALITY) for item in (source, target)]
    return Transition(
        id=ref.name,
        clip=ref.name,
        clip_sha256=file_sha256(ref.path),
        category=ref.category,
        group=ref.group or ref.name,
        frame_source=source.index,
        frame_target=target.index,
        t_source=source.seconds,
        t_target=target.seconds,
        source=images[0],
        target=images[1],
        provenance={**ref.meta, "pts": [source.pts, target.pts]},
        action=visible(clip.action),
        action_source="human",
    )


def _first_and_last(ref: ClipRef, video: Video) -> tuple[Decoded, Decoded]:
    """The first and the last frame of a clip. Raises `ClipError` when it has fewer than two."""
    tail = None if ref.stop is None else video.last_shown(ref.stop)
    first = last = None
    for last in video.decode(ref.start, ref.stop):
        first = first or last
        if tail is not None and tail > last.seconds + _NEAR:
            break  # its end is sought, not played
    if first is None or last is None:
        raise ClipError("undecodable", f"{ref.name} has no frame")
    if first is last and tail is not None:
        last = next(iter(deque(video.decode(tail, ref.stop), maxlen=1)), last)
    if last.index <= first.index:
        raise ClipError("too_short", f"{ref.name} has a single frame")
    return first, last
