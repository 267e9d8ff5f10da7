"""Pictures of pairs that were mined without them, decoded from the videos on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path, PurePosixPath

from retrodict.transitions import FramePair
from retrodict.video.clip_miner import decode_some, file_sha256
from retrodict.video.clips import ClipError, ClipRef
from retrodict.video.decode import to_jpeg


def with_pictures(rows: Iterable[FramePair], root: Path, quality: int = 95) -> Iterator[FramePair]:
    """The rows with their pictures, in order; each run of rows of one clip decodes that clip once.

    Args:
        rows: pairs mined from `root` with `frames=False`.
        root: the folder that was mined.

    Raises:
        ValueError: a video is missing, or is not the file that was mined.
    """
    for clip, group in groupby(rows, key=lambda row: row.clip):
        pairs = list(group)
        segment = pairs[0].provenance.get("segment") or [0.0, None]
        name = PurePosixPath(pairs[0].provenance.get("file", clip))
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"The pairs name {name}, which is not a path inside {root}.")
        path = root / name
        if not path.is_file():
            raise ValueError(f"{path} is missing: give the folder that was mined.")
        if file_sha256(path) != pairs[0].clip_sha256:
            raise ValueError(f"{path} has changed since it was mined: mine it again.")
        wanted = {frame for pair in pairs for frame in (pair.frame_source, pair.frame_target)}
        ref = ClipRef(path=path, name=clip, start=segment[0], stop=segment[1])
        try:
            images = {item.index: to_jpeg(item.frame, quality) for item in decode_some(ref, wanted)}
        except ClipError as error:
            raise ValueError(f"{path}: {error}.") from None
        for pair in pairs:
            yield replace(pair, source=images[pair.frame_source], target=images[pair.frame_target])
