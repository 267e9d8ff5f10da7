"""Collections of clips with a class each: UCF-101, Kinetics-700, Moments in Time. They name no actions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from retrodict.data.files import (
    annotation,
    bad_row,
    folder,
    inside,
    listed_in,
    read_csv,
    read_rows,
    shown_name,
    video_index,
)
from retrodict.files import text_lines
from retrodict.video.clips import ClipRef, folder_clips

_UCF_NAME = re.compile(r"v_(?P<name>.+)_g(?P<group>\d+)_c\d+$")
_KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end")
_KINETICS_NAME = re.compile(r"(?P<id>.{11})_\d{6}_\d{6}$")
_MOMENTS_NAME = re.compile(r"(?P<source>.+?)_\d+$")


def plain_folder(root: Path, annotations: Path | None = None) -> list[ClipRef]:
    """Every video below `root`, and no collection."""
    if annotations is not None:
        raise ValueError("The layout folder has no annotations: name the collection's layout, or leave them out.")
    return folder_clips(root)


def ucf101(root: Path, annotations: Path | None = None) -> list[ClipRef]:
    """UCF-101: `Class/v_Class_g08_c01.avi`; clips of one `gNN` come from one video and share a group.

    `annotations` is a `trainlist01.txt` or `testlist01.txt` that limits the clips, of `UCF-101/` in or at `root`.
    """
    if annotations is None:
        return [_ucf_clip(ref.path, ref.name) for ref in folder_clips(folder(root))]
    names = [line.split()[0] for line in text_lines(annotations) if line.strip()]
    where = listed_in(root, names)
    return [
        _ucf_clip(path, shown_name(where / name, root)) if path else bad_row(annotations, line)
        for line, (name, path) in enumerate(zip(names, _inside(where, names), strict=True), 1)
    ]


def _inside(folder: Path, names: Iterable[str]) -> Iterator[Path | None]:
    """Where a list's files lie; None for one that leads out of the folder, so that it costs no other."""
    for name in names:
        try:
            yield inside(folder, name)
        except ValueError:
            yield None


def _ucf_clip(path: Path, name: str) -> ClipRef:
    match = _UCF_NAME.match(path.stem)
    category = match["name"] if match else path.parent.name
    group = f"{category}_g{match['group']}" if match else name
    return ClipRef(path=path, name=name, category=category, group=group)


def kinetics700(root: Path, annotations: Path | None = None) -> list[ClipRef]:
    """Kinetics: `ID_000084_000094.mp4` anywhere below `root`, its label in a CSV file or the name of its folder.

    A clip of the CSV file that is not there is yielded all the same, and so shows among the dropped as `missing`. In a
    folder of several CSV files that of the training split counts.
    """
    if annotations is None:
        return [_kinetics_clip(ref.path, ref.name, ref.category, {}) for ref in folder_clips(folder(root))]
    files = video_index(root)
    clips = []
    table = annotation(annotations, root, ["*train*.csv", "*.csv"])
    for line, row in enumerate(read_csv(table, _KINETICS_COLUMNS), 2):
        try:
            start, stop = (int(float(row[key])) for key in _KINETICS_COLUMNS[1:])
            stem = f"{row['youtube_id']}_{start:06d}_{stop:06d}"
            path = files.get(stem) or inside(root, f"{stem}.mp4")
        except (ValueError, OverflowError):  # its times, or its name
            clips.append(bad_row(table, line))
            continue
        # By its name alone, as it may arrive in any folder.
        clips.append(_kinetics_clip(path, f"{stem}.mp4", row.get("label", ""), {"file": shown_name(path, root)}))
    return clips


def _kinetics_clip(path: Path, name: str, label: str, meta: dict[str, str]) -> ClipRef:
    match = _KINETICS_NAME.match(path.stem)
    group = match["id"] if match else ""
    return ClipRef(path=path, name=name, category=label.replace("_", " "), group=group, meta=meta)


def moments(root: Path, annotations: Path | None = None) -> list[ClipRef]:
    """Moments in Time: headerless `category/file.mp4,label,...`, or the folders `category/` themselves.

    The list's paths count from `root` or from a folder in it (`training/` for `trainingSet.csv`).
    """
    if annotations is None:
        return [_moments_clip(ref.path, ref.name, ref.path.parent.name) for ref in folder_clips(folder(root))]
    rows = [row for row in read_rows(annotations) if len(row) > 1]
    names = [row[0] for row in rows]
    where = listed_in(root, names)
    return [
        _moments_clip(path, shown_name(where / row[0], root), row[1]) if path else bad_row(annotations, line)
        for line, (row, path) in enumerate(zip(rows, _inside(where, names), strict=True), 1)
    ]


def _moments_clip(path: Path, name: str, label: str) -> ClipRef:
    return ClipRef(path=path, name=name, category=label.replace("+", " "), group=_moments_source(path))


def _moments_source(path: Path) -> str:
    """The video a clip was cut from: `yt-ID_12.mp4` comes from `yt-ID`."""
    match = _MOMENTS_NAME.match(path.stem)
    return match["source"] if match else path.stem
