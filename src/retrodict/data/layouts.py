"""The layouts of video collections by name: what to mine in them, and the actions that some of them name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from retrodict.data.actions import LabelledClip, transitions_of
from retrodict.data.classes import kinetics700, moments, ucf101
from retrodict.data.epic import epic100
from retrodict.data.lerobot import lerobot
from retrodict.data.ssv2 import shows_action, ssv2
from retrodict.transitions import Transition
from retrodict.video.clips import ClipRef
from retrodict.video.folder import folder_clips


def _folder(root: Path, annotations: Path | None) -> list[ClipRef]:
    if annotations is not None:
        raise ValueError("The layout folder has no annotations: name the collection's layout, or leave them out.")
    return folder_clips(root)


UNLABELLED: dict[str, Callable[[Path, Path | None], list[ClipRef]]] = {
    "folder": _folder,
    "ucf101": ucf101,
    "kinetics700": kinetics700,
    "moments": moments,
}
LABELLED: dict[str, Callable[[Path, Path | None], list[LabelledClip]]] = {
    "epic100": epic100,
    "ssv2": ssv2,
    "lerobot": lerobot,
}
LAYOUTS = (*UNLABELLED, *LABELLED)


def read_clips(layout: str, root: Path, annotations: Path | None = None) -> list[ClipRef]:
    """The clips of a collection, for `retrodict.video.mine`, with class and group.

    Args:
        layout: one of `LAYOUTS`.
        root: folder of the videos.
        annotations: the collection's own list, where it does not lie in `root` or is to limit the clips.

    Raises:
        ValueError: the layout is not known, or the folder or its annotations do not have that layout.
    """
    if layout in UNLABELLED:
        return UNLABELLED[layout](root, annotations)
    return [clip.ref for clip in _labelled(layout)(root, annotations)]


def read_transitions(
    layout: str, root: Path, annotations: Path | None = None, *, dropped: Counter[str] | None = None
) -> Iterator[Transition]:
    """The labelled transitions of a collection, frames decoded one clip at a time; `dropped` counts by reason.

    EPIC: first and last frame of the segment and its narration. Something-Something v2: first and last frame and the
    label, without those that AURORA excludes. LeRobot: first and last frame of a subtask, else of the episode.
    """
    dropped = dropped if dropped is not None else Counter()
    clips = _labelled(layout)(root, annotations)
    if layout == "ssv2":
        shown = [clip for clip in clips if shows_action(clip.action)]
        dropped["excluded_label"] += len(clips) - len(shown)
        clips = shown
    return transitions_of(clips, dropped)


def _labelled(layout: str) -> Callable[[Path, Path | None], list[LabelledClip]]:
    if layout in UNLABELLED:
        raise ValueError(f"The layout {layout} names no actions: {', '.join(LABELLED)} do.")
    if layout not in LABELLED:
        raise ValueError(f"There is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}.")
    return LABELLED[layout]
