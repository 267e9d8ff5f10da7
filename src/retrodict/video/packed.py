"""Videos in packs: WebDataset tars, and Parquet files with a Hugging Face `Video` column. They are unpacked once, into
the user's cache folder, and mined as the files that they are.

A clip of `train-0001.tar` is named after both, as `train-0001-000042.mp4`, so that shards may use the same keys. Its
class is the folder in the tar, or the name of the row's `ClassLabel`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

PACKS = (".tar", ".parquet")


def packs(root: Path) -> list[Path]:
    """The packs that a path names: itself, or those that lie in the folder."""
    files = [root] if root.is_file() else sorted(root.iterdir()) if root.is_dir() else []
    return [file for file in files if file.suffix.lower() in PACKS]


def unpacked(files: Sequence[Path], suffixes: frozenset[str]) -> Path:
    """A folder with the videos of packs; what is there already is not unpacked again.

    Args:
        files: The packs.
        suffixes: Of videos, with a dot.

    Raises:
        ValueError: A pack is damaged, or holds no videos.
    """
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retrodict" / "unpacked"
    folder = cache / digest
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            whole = Path(partial) / "whole"
            for file in files:
                videos = 0
                for name, source in _videos(file, suffixes):
                    target = whole / name.parent / f"{file.stem}-{name.name}"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as out:
                        _copy(source, out, file)
                    videos += 1
                if not videos:
                    raise ValueError(f"{file} holds no video: looked for {_looked_for(file, suffixes)}.")
            whole.replace(folder)
    return folder


def _videos(file: Path, suffixes: frozenset[str]) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    return (_members if file.suffix.lower() == ".tar" else _rows)(file, suffixes)


def _copy(source: IO[bytes], target: IO[bytes], file: Path) -> None:
    try:
        shutil.copyfileobj(source, target, 1 << 20)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{file} is damaged: {error}.") from None


def _looked_for(file: Path, suffixes: frozenset[str]) -> str:
    if file.suffix.lower() == ".tar":
        return ", ".join(sorted(suffixes))
    return "a column of the Hugging Face type Video with the videos in it, not their paths alone"


def _members(file: Path, suffixes: frozenset[str]) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """The videos of a tar."""
    try:
        with tarfile.open(file) as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if not member.isfile() or name.suffix.lower() not in suffixes:
                    continue
                if name.is_absolute() or ".." in name.parts:
                    raise ValueError(f"{file} names {name}, which leads out of it.")
                source = tar.extractfile(member)
                assert source is not None
                yield name, source
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{file} is no tar, or is damaged: {error}.") from None


def _rows(file: Path, suffixes: frozenset[str]) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """The videos of a Parquet file, as the data sets library writes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is no Parquet file, or is damaged: {error}.") from None
    about = json.loads((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    videos = [name for name, feature in features.items() if feature.get("_type") == "Video"]
    labels = {name: feature["names"] for name, feature in features.items() if feature.get("_type") == "ClassLabel"}
    if not videos:
        return
    column, label = videos[0], next(iter(labels), None)
    number = 0
    for batch in table.iter_batches(batch_size=16, columns=[column, *([label] if label else [])]):
        for row in batch.to_pylist():
            video, number = row[column] or {}, number + 1
            if video.get("bytes"):
                name = PurePosixPath(video.get("path") or "").name
                name = name if PurePosixPath(name).suffix.lower() in suffixes else f"{number - 1:06d}.mp4"
                known = label is not None and row[label] is not None and 0 <= row[label] < len(labels[label])
                folder = str(labels[label][row[label]]).replace("/", "-") if label and known else ""
                yield PurePosixPath(folder, f"{number - 1:06d}-{name}"), io.BytesIO(video["bytes"])
