"""The layouts of video collections by name: what to mine in them, and the actions that some of them name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from retrodict.data.actions import LabelledClip, clip_key, transition_of
from retrodict.data.classes import kinetics700, moments, ucf101
from retrodict.data.epic import epic100
from retrodict.data.items import Item, UnusableError
from retrodict.data.lerobot import lerobot
from retrodict.data.ssv2 import shows_action, ssv2
from retrodict.transitions import Transition
from retrodict.video.clips import ClipRef, folder_clips


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
        return _unique(UNLABELLED[layout](root, annotations))
    return _unique([clip.ref for clip in _labelled(layout)(root, annotations)])


def _unique(refs: Sequence[ClipRef]) -> list[ClipRef]:
    """The clips, where all but the first of a name are unusable."""
    times: Counter[str] = Counter()
    unique = []
    for ref in refs:
        times[ref.name] += 1
        again = times[ref.name] > 1
        unique.append(replace(ref, name=f"{ref.name} ({times[ref.name]})", unusable="repeated") if again else ref)
    return unique


def labelled_clips(layout: str, root: Path, annotations: Path | None = None) -> list[Item]:
    """The labelled clips of a collection, each read when it is called.

    EPIC: first and last frame of the segment and its narration. Something-Something v2: first and last frame and the
    label; those that AURORA excludes are unusable. LeRobot: first and last frame of a subtask, else of the episode.
    Errors are those of `read_clips`.
    """
    clips = _labelled(layout)(root, annotations)
    return [_item(clip, excluded=layout == "ssv2" and not shows_action(clip.action)) for clip in clips]


def _item(clip: LabelledClip, excluded: bool) -> Item:
    read = _excluded if excluded else partial(transition_of, clip)
    return Item(clip.ref.name, partial(clip_key, clip), read)


def _excluded() -> Transition:
    raise UnusableError("excluded_label")


def _labelled(layout: str) -> Callable[[Path, Path | None], list[LabelledClip]]:
    if layout in UNLABELLED:
        raise ValueError(f"The layout {layout} names no actions: {', '.join(LABELLED)} do.")
    if layout not in LABELLED:
        raise ValueError(f"There is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}.")
    return LABELLED[layout]
