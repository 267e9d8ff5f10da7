"""Clips of a plain folder: the default layout."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from retrodict.video.clips import ClipRef, readable

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mkv", ".webm", ".avi", ".mov", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".asf", ".flv"}
    | {".f4v", ".qt", ".divx", ".m2v", ".h264", ".hevc", ".dv", ".nut"}
    | {".ogv", ".3gp", ".3g2", ".ivf", ".gif", ".vob", ".mts", ".mxf"}
)


def folder_clips(videos: str | Path | Sequence[str | Path]) -> list[ClipRef]:
    """Clips of files and folders, in order of name. The class of a clip is the name of the folder it lies in.

    A clip's name is its path below the folder given; clips that lie in a given folder itself have no class. Raises
    `ValueError` when a path does not exist or a folder holds no video.
    """
    roots = [Path(videos)] if isinstance(videos, (str, Path)) else [Path(video) for video in videos]
    if not roots:
        raise ValueError("No video was given: name video files or folders.")
    # A file that is reached twice is one clip, known by the first way to it.
    found = [(root, path) for path, root in reversed(list({p: r for r in reversed(roots) for p in _videos(r)}.items()))]
    names = [_name(root, path) for root, path in found]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    refs = [
        ClipRef(path=path, name=_long_name(path) if name in repeated else name, category=_category(root, path))
        for (root, path), name in zip(found, names, strict=True)
    ]
    return sorted({ref.name: ref for ref in refs}.values(), key=lambda ref: ref.name)


def _videos(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    if not root.is_dir():
        raise ValueError(f"{root} does not exist: give a video file or a folder of videos.")
    files = sorted(
        Path(folder, name)
        for folder, names in _folders(root)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    )
    if not files:
        raise ValueError(f"{root} holds no video: looked for {', '.join(sorted(SUFFIXES))} in it and below.")
    yield from files


def _folders(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Folders at and below `root` with the names of their files; links are followed, each folder is visited once."""

    def refuse(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True, onerror=refuse):
        below.sort()
        if (real := os.path.realpath(folder)) in seen:
            below.clear()
            continue
        seen.add(real)
        yield folder, names


def _name(root: Path, path: Path) -> str:
    return readable(path.relative_to(root).as_posix() if path != root else path.name)


def _long_name(path: Path) -> str:
    return readable(path.absolute().as_posix().lstrip("/"))


def _category(root: Path, path: Path) -> str:
    return readable(path.parent.name) if path != root and path.parent != root else ""
