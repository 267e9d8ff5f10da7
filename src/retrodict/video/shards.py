"""Shards: the Parquet files that mining writes. One file holds the pairs of some clips, and what became of each clip.

The clips' fate is in the file's footer, so pairs and ledger appear together, in one rename, or not at all. A run that
starts again reads the footers and leaves those clips out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retrodict.files import write_atomic
from retrodict.transitions import FramePair, schema, to_table
from retrodict.versions import versions
from retrodict.video.clips import ClipRef, ClipResult, readable
from retrodict.video.config import MineConfig

_CLIPS, _CONFIG = b"retrodict.clips", b"retrodict.config"
_ROWS = 100  # per row group
_IMAGES = ("source", "target")


@dataclass(frozen=True)
class Shard:
    """Clips that are written together. `first` is the place of the first one among all clips."""

    first: int
    refs: tuple[ClipRef, ...]

    def file_name(self, digest: str) -> str:
        names = json.dumps([digest, *(ref.name for ref in self.refs)])
        return f"pairs-{self.first:07d}-{hashlib.sha256(names.encode()).hexdigest()[:12]}.parquet"


def plan(refs: Sequence[ClipRef], done: set[str], size: int) -> list[Shard]:
    """Shards of `size` clips, in order of name, for the clips that are not done: the same whoever mines them."""
    ordered = sorted(refs, key=lambda ref: ref.name)
    todo = [(place, ref) for place, ref in enumerate(ordered) if ref.name not in done]
    parts = [todo[i : i + size] for i in range(0, len(todo), size)]
    return [Shard(part[0][0], tuple(ref for _, ref in part)) for part in parts]


def write_shard(out: Path, shard: Shard, results: Iterable[ClipResult], config: MineConfig) -> list[dict[str, Any]]:
    """Write a shard's results, given in the order of its clips, and return its ledger: one record per clip."""
    digest = config.digest()
    ledger: list[dict[str, Any]] = []

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema(FramePair), compression=_compression()) as writer:
            rows: list[FramePair] = []
            for ref, result in zip(shard.refs, results, strict=True):
                assert result.ref.name == ref.name
                made = pairs_of(result, config, digest)
                ledger.append(record(result, len(made)))
                rows += made
                while len(rows) >= _ROWS:
                    writer.write_table(to_table(rows[:_ROWS], FramePair))
                    rows = rows[_ROWS:]
            if rows:
                writer.write_table(to_table(rows, FramePair))
            writer.add_key_value_metadata({_CLIPS: json.dumps(ledger).encode(), _CONFIG: digest.encode()})

    write_atomic(out / shard.file_name(digest), write)
    _sync(out)
    return ledger


def read_ledgers(out: Path, digest: str) -> dict[str, dict[str, Any]]:
    """Records of the clips that are done, by name. Raises `ValueError` when they were mined with other settings."""
    done: dict[str, dict[str, Any]] = {}
    for file in sorted(out.glob("*.parquet")):
        footer = _footer(file)
        if footer.get(_CONFIG) != digest.encode():
            raise ValueError(
                f"{out} holds {file.name}, which was not mined with these settings: give another output directory, or "
                "the settings it was begun with."
            )
        for clip in json.loads(footer[_CLIPS]):
            done[clip["clip"]] = clip
    return done


def shard_of(out: Path, clip: str) -> Path:
    """The file that a clip's pairs and record are in."""
    for file in sorted(out.glob("*.parquet")):
        if any(record["clip"] == clip for record in json.loads(_footer(file)[_CLIPS])):
            return file
    raise KeyError(clip)


def _footer(file: Path) -> dict[bytes, bytes]:
    try:
        return dict(pq.read_metadata(file).metadata or {})
    except pa.ArrowException as error:
        raise ValueError(f"{file} is not a readable Parquet file ({error}): delete it and mine again.") from error


def record(result: ClipResult, pairs: int) -> dict[str, Any]:
    """What the ledger keeps of a clip: everything but its frames."""
    return {
        "clip": result.ref.name,
        "class": result.ref.category,
        "pairs": pairs,
        "reason": result.reason,
        "detail": readable(result.detail),
        "sha256": result.sha256,
        "bytes": size(result.ref),
        "frames": result.frames,
        "duplicates": result.duplicates,
        "corrupt_packets": result.corrupt_packets,
        "cuts": list(result.cuts),
        "straddling": result.straddling,
        "unlike": result.unlike,
        "duration": round(result.duration, 3),
        "fps": round(result.fps, 4),
    }


def size(ref: ClipRef) -> int | None:
    """Bytes of the clip's file; None where there is none."""
    try:
        return ref.path.stat().st_size
    except OSError:
        return None


def pairs_of(result: ClipResult, config: MineConfig, digest: str) -> list[FramePair]:
    """The rows of a clip's pairs."""
    ref = result.ref
    common = {
        **ref.meta,
        "config": digest,
        "motion": config.motion,
        "selection": config.selection,
        "fps": result.fps,
        "time_base": result.time_base,
        "versions": _versions(),
    }
    if ref.is_segment:
        common["segment"] = [ref.start, ref.stop]
    rows = []
    for i, j in result.pairs:
        source, target = result.keyframes[i], result.keyframes[j]
        rows.append(
            FramePair(
                id=f"{ref.name}@{source.index}-{target.index}",
                clip=ref.name,
                clip_sha256=result.sha256,
                category=ref.category,
                group=ref.group or ref.name,
                frame_source=source.index,
                frame_target=target.index,
                t_source=source.seconds,
                t_target=target.seconds,
                source=source.image,
                target=target.image,
                motion=target.motion,
                sharpness=target.sharpness,
                provenance={**common, "pts": [source.pts, target.pts], "shot": target.shot},
            )
        )
    return rows


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    """Of what decides which frames are picked, and no more: other packages may come and go without a trace."""
    found = versions()
    names = ("retrodict", "av", "numpy", "opencv-python-headless")
    return {name: found[name] for name in names if name in found}


def remove_leftovers(out: Path) -> None:
    """Delete temporary files of a run that was killed. Only while this run holds the directory."""
    for file in out.glob(".*.tmp"):
        file.unlink(missing_ok=True)


def _compression() -> dict[str, str]:
    # JPEG bytes are compressed already; leaving them alone keeps reading fast.
    names = [field.name for field in schema(FramePair)]
    plain = {name: "zstd" for name in names if name not in _IMAGES}
    return plain | {f"{name}.bytes": "none" for name in _IMAGES} | {f"{name}.path": "none" for name in _IMAGES}


def _sync(directory: Path) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def take(results: Iterator[ClipResult], shard: Shard) -> Iterator[ClipResult]:
    """The next results, as many as the shard has clips."""
    for _ in shard.refs:
        yield next(results)
