"""A clip to mine, and what became of it: plain data that crosses process borders, without pyarrow. And the
clips of a plain folder, the default layout."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retrodict.files import JsonMapping
from retrodict.video.packed import packs, unpacked

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mkv", ".webm", ".avi", ".mov", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".asf", ".flv"}
    | {".f4v", ".qt", ".divx", ".m2v", ".h264", ".hevc", ".dv", ".nut"}
    | {".ogv", ".3gp", ".3g2", ".ivf", ".gif", ".vob", ".mts", ".mxf"}
)

_SYSTEM_FOLDERS = frozenset({"@eaDir"})  # previews of network drives


@dataclass(frozen=True, kw_only=True)
class ClipRef:
    """One clip to mine: a file, or the part of it from `start` to `stop` seconds."""

    path: Path
    name: str  # unique in a run; relative to the mined folder
    category: str = ""
    group: str = ""  # clips of one group never straddle a split; the clip's own name when empty
    start: float = 0.0
    stop: float | None = None
    meta: JsonMapping = field(default_factory=dict)  # what the layout knows; goes to the provenance
    unusable: str = ""  # why the list that names the clip names none that can be read: a word for counting

    @property
    def is_segment(self) -> bool:
        return self.start > 0 or self.stop is not None

    def asked(self) -> str:
        """Changes when the layout says something else of the clip: its class, its group, its segment."""
        said = [self.category, self.group, self.start, self.stop, dict(self.meta), self.unusable]
        text = json.dumps(said, sort_keys=True)
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Keyframe:
    """A chosen frame ("motion keyframe": not the codec's I-frame)."""

    index: int  # in decode order, from the start of the file
    seconds: float
    pts: int | None
    motion: float  # per second; frame widths for flow, full scale for `fast`
    sharpness: float  # variance of the Laplacian of the halved luma plane, grey levels squared
    shot: int
    image: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class ClipResult:
    """What one clip gave. `reason` is empty when it gave pairs; a clip that failed is a result like any other."""

    ref: ClipRef
    keyframes: tuple[Keyframe, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()  # positions in `keyframes`
    reason: str = ""
    detail: str = ""
    sha256: str = ""
    frames: int = 0  # decoded
    duplicates: int = 0
    corrupt_packets: int = 0
    resized: tuple[int, ...] = ()  # frames from which on the stored images have another size
    cuts: tuple[int, ...] = ()  # first frame of each new shot
    duration: float = 0.0  # seconds
    fps: float = 0.0
    time_base: str = ""
    straddling: int = 0  # neighbouring keyframes that made no pair because a cut lies between them
    unlike: int = 0  # those that made none because they have nothing in common
    fingerprint: JsonMapping = field(default_factory=dict)  # by which clips that show the same are found; may be empty


def readable(text: str) -> str:
    """Names of files may hold bytes that are no text, which no Parquet file or page can: here they are escaped."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


class ClipError(Exception):
    """A clip cannot be mined: `reason` is a word for counting, the message says more. Never leaves `process_clip`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def folder_clips(videos: str | Path | Sequence[str | Path]) -> list[ClipRef]:
    """Clips of files and folders, in order of name. The class of a clip is the name of the folder it lies in.

    A clip's name is its path below the folder given; clips that lie in a given folder itself have no class. Raises
    `ValueError` when a path does not exist or a folder holds no video.
    """
    roots = [Path(videos)] if isinstance(videos, (str, Path)) else [Path(video) for video in videos]
    if not roots:
        raise ValueError("No video was given: name video files or folders.")
    roots = [plain for root in roots for plain in _plain(root)]
    # A file that is reached twice is one clip, known by the first way to it.
    files = [(root, path) for path, root in reversed(list({p: r for r in reversed(roots) for p in _videos(r)}.items()))]
    names = [_name(root, path) for root, path in files]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    refs = [
        ClipRef(path=path, name=_long_name(path) if name in repeated else name, category=_category(root, path))
        for (root, path), name in zip(files, names, strict=True)
    ]
    return sorted({ref.name: ref for ref in refs}.values(), key=lambda ref: ref.name)


def _plain(root: Path) -> list[Path]:
    """A root, and what it holds in packs."""
    files = packs(root)
    if not files:
        return [root]
    folder = unpacked(files, SUFFIXES)
    beside = root.is_dir() and any(path.suffix.lower() in SUFFIXES for path in root.rglob("*"))
    return [root, folder] if beside else [folder]


def _videos(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    if not root.is_dir():
        if root.parts and root.parts[0] in ("s3:", "gs:", "hf:", "http:", "https:"):
            where = f"{root.parts[0]}//{'/'.join(root.parts[1:])}"
            raise ValueError(
                f"{where} is an address, which `retrodict mine` takes; in Python, give files on this machine."
            )
        raise ValueError(f"{root} does not exist: give a video file or a folder of videos.")
    closed: list[Path] = []
    files = sorted(
        Path(folder, name)
        for folder, names in open_folders(root, closed)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    )
    if not files and not closed:
        raise ValueError(f"{root} holds no video: looked for {', '.join(sorted(SUFFIXES))} in it and below.")
    yield from sorted([*files, *closed])


def open_folders(root: Path, closed: list[Path]) -> Iterator[tuple[str, list[str]]]:
    """Folders at and below `root` with the names of their files; links are followed, each folder is visited once.

    Hidden folders are left out. Those that cannot be opened go to `closed`: mining counts them as unreadable.
    """
    seen: set[str] = set()
    for folder, below, names in os.walk(
        root, followlinks=True, onerror=lambda error: closed.append(Path(error.filename))
    ):
        below[:] = sorted(name for name in below if not (name.startswith(".") or name in _SYSTEM_FOLDERS))
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
