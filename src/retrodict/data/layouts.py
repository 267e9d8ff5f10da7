"""The layouts that published data comes in, by name: one record each, from which choices and help texts derive.

Nothing heavy is loaded before a layout is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from retrodict.models.hub import fetch, is_hub_id
from retrodict.models.registry import Part

if TYPE_CHECKING:
    from retrodict.data.actions import LabelledClip
    from retrodict.data.items import Item
    from retrodict.video.clips import ClipRef

# From the folder of the videos, the collection's own list where it does not lie there, or is to limit the clips, and,
# where there are several, the cameras.
Reader = Callable[..., "Sequence[ClipRef | LabelledClip | Item]"]


@dataclass(frozen=True)
class Layout:
    """How a collection of video lies on disk.

    Attributes:
        reader: `module:function`, a `Reader`.
        labelled: what it reads are `LabelledClip`s: they have an action in words.
        hub_files: of a repository on the hub, what it reads; empty where collections of this layout are not there.
        has_cameras: its scenes may be filmed by several cameras, of which the reader takes those it is given.
        has_videos: it can be mined; else it holds no video, and what it reads are `Item`s.
    """

    reader: str
    labelled: bool = False
    hub_files: tuple[str, ...] = ()
    has_cameras: bool = False
    has_videos: bool = True

    def named(self, root: Path) -> bool:
        """Whether `root` is no path, but a name under which a collection of this layout is found elsewhere."""
        return is_hub_id(root) if self.hub_files else not self.has_videos and not root.exists()

    def read(
        self, root: Path, annotations: Path | None, cameras: Sequence[str] = ()
    ) -> Sequence[ClipRef | LabelledClip | Item]:
        if cameras and not self.has_cameras:
            several = ", ".join(name for name, layout in LAYOUTS.items() if layout.has_cameras)
            raise ValueError(f"--camera is for layouts with several ({several}): leave it out.")
        if self.hub_files and self.named(root):
            try:
                root = fetch(Part(str(root), self.hub_files, "dataset"))
            except ValueError as error:
                raise ValueError(f"The data set '{root}' is no folder here and could not be had: {error}") from None
        module, _, function = self.reader.partition(":")
        reader: Reader = getattr(import_module(module), function)
        return reader(root, annotations, cameras) if self.has_cameras else reader(root, annotations)


FOLDER = "folder"  # no collection: every video below a folder
LAYOUTS = {
    FOLDER: Layout("retrodict.data.classes:plain_folder"),
    "ucf101": Layout("retrodict.data.classes:ucf101"),
    "kinetics700": Layout("retrodict.data.classes:kinetics700"),
    "moments": Layout("retrodict.data.classes:moments"),
    "epic100": Layout("retrodict.data.epic:epic100", labelled=True),
    "ssv2": Layout("retrodict.data.ssv2:ssv2", labelled=True),
    "lerobot": Layout(
        "retrodict.data.lerobot:lerobot",
        labelled=True,
        hub_files=("meta/*", "data/*", "videos/*"),
        has_cameras=True,
    ),
    "minari": Layout("retrodict.data.minari:minari", labelled=True, has_videos=False),
}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of a file of image pairs holds what. An empty name: the file has no such column."""

    source: str = "input"
    target: str = "output"
    action: str = "instruction"
    category: str = ""
    group: str = ""  # column whose value is the group
    group_pattern: str = ""  # else: what this regular expression finds in the source's path (its first bracket)
    id: str = ""


PRESETS = {
    "pairs": Columns(),
    "aurora": Columns(category="task"),
    "magicbrush": Columns(source="source_img", target="target_img", group="img_id"),
    "aurora-magicbrush": Columns(group="img_id"),
    "action-genome": Columns(group_pattern=r"([^/]+)\.mp4_\d+_(?:left|right)\.\w+$"),
    "kubric": Columns(group_pattern=r"(.*)/[^/]+$"),  # pairs of one folder are used in both directions
}


def labelled_layouts() -> list[str]:
    """Names of the layouts whose clips have an action."""
    return [name for name, layout in LAYOUTS.items() if layout.labelled]


def video_layouts() -> list[str]:
    """Names of the layouts that can be mined."""
    return [name for name, layout in LAYOUTS.items() if layout.has_videos]


def read_clips(layout: str, root: Path, annotations: Path | None = None, cameras: Sequence[str] = ()) -> list[ClipRef]:
    """The clips of a collection, for `retrodict.video.mine`, with class and group.

    Args:
        layout: one of `video_layouts()`.
        root: folder of the videos.
        annotations: the collection's own list, where it does not lie in `root` or is to limit the clips.
        cameras: of a robot set, those to read; by default the first by name.

    Raises:
        ValueError: the layout is not known, or the folder or its annotations do not have that layout.
    """
    from retrodict.data.actions import LabelledClip
    from retrodict.data.items import Item

    if not _layout(layout).has_videos:
        raise ValueError(f"The layout {layout} holds no videos to mine: `retrodict import {layout}` reads its labels.")
    clips = _layout(layout).read(root, annotations, cameras)
    return _unique(
        [clip.ref if isinstance(clip, LabelledClip) else clip for clip in clips if not isinstance(clip, Item)]
    )


def _unique(refs: Sequence[ClipRef]) -> list[ClipRef]:
    """The clips, where all but the first of a name are unusable."""
    times: Counter[str] = Counter()
    unique = []
    for ref in refs:
        times[ref.name] += 1
        again = times[ref.name] > 1
        unique.append(replace(ref, name=f"{ref.name} ({times[ref.name]})", unusable="repeated") if again else ref)
    return unique


def labelled_clips(layout: str, root: Path, annotations: Path | None = None, cameras: Sequence[str] = ()) -> list[Item]:
    """The labelled clips of a collection, each read when it is called.

    EPIC: first and last frame of the segment and its narration. Something-Something v2: first and last frame and the
    label; those that AURORA excludes are unusable. LeRobot: first and last frame of a subtask, else of the episode.
    Minari: every step of every episode. Arguments and errors are those of `read_clips`.
    """
    from retrodict.data.actions import LabelledClip, clip_key, transition_of
    from retrodict.data.items import Item

    if not _layout(layout).labelled:
        raise ValueError(f"The layout {layout} names no actions: {', '.join(labelled_layouts())} do.")
    read = _layout(layout).read(root, annotations, cameras)
    return [
        one if isinstance(one, Item) else Item(one.ref.name, partial(clip_key, one), partial(transition_of, one))
        for one in read
        if isinstance(one, LabelledClip | Item)
    ]


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ValueError(f"There is no layout {name!r}: choose one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]
