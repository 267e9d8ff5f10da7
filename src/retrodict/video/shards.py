"""Shards: the Parquet files that mining writes. One file holds the pairs of some clips, and what became of each clip.

The clips' fate is in the file's footer, so pairs and ledger appear together, in one rename, or not at all. A run that
starts again reads the footers and leaves those clips out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from retrodict.files import JsonMapping, JsonObject
from retrodict.transitions import FramePair, file_rows, read_notes, write_rows
from retrodict.versions import versions
from retrodict.video.clip_miner import file_sha256
from retrodict.video.clips import ClipRef, ClipResult, readable
from retrodict.video.config import MineConfig

_CLIPS, _CONFIG = b"retrodict.clips", b"retrodict.config"
NEAR_DUPLICATE = "near_duplicate"  # the reason of a clip whose pairs were set aside; its detail is the first one's name
_FAILED = frozenset({"hung", "crashed", "unreadable", "undecodable", "missing", "empty", "changed"})


@dataclass(frozen=True)
class Shard:
    """Clips that are written together. `first` is the index of the first one among all clips."""

    first: int
    refs: tuple[ClipRef, ...]

    def file_name(self, digest: str) -> str:
        names = json.dumps([digest, *(ref.name for ref in self.refs)])
        return f"pairs-{self.first:07d}-{hashlib.sha256(names.encode()).hexdigest()[:12]}.parquet"


def plan(refs: Sequence[ClipRef], done: set[str], size: int) -> list[Shard]:
    """Shards of `size` clips, in order of name, for the clips that are not done: the same whoever mines them."""
    ordered = sorted(refs, key=lambda ref: ref.name)
    todo = [(index, ref) for index, ref in enumerate(ordered) if ref.name not in done]
    parts = [todo[i : i + size] for i in range(0, len(todo), size)]
    return [Shard(part[0][0], tuple(ref for _, ref in part)) for part in parts]


def write_shard(out: Path, shard: Shard, results: Iterable[ClipResult], config: MineConfig) -> list[JsonObject]:
    """Write a shard's results, given in the order of its clips, and return its ledger: one record per clip."""
    digest = config.digest()
    ledger: list[JsonObject] = []
    notes: dict[bytes, bytes] = {}

    def rows() -> Iterator[FramePair]:
        for ref, result in zip(shard.refs, results, strict=True):
            assert result.ref.name == ref.name
            made = pairs_of(result, config, digest)
            ledger.append(record(result, len(made)))
            yield from made
        notes.update({_CLIPS: json.dumps(ledger).encode(), _CONFIG: digest.encode()})

    write_rows(out / shard.file_name(digest), rows(), FramePair, notes)
    _sync(out)
    return ledger


def read_ledgers(out: Path) -> dict[str, JsonObject]:
    """Records of the clips that were mined, by name."""
    return {clip["clip"]: clip for file in sorted(out.glob("*.parquet")) for clip in read_ledger(file)}


def read_ledger(file: Path) -> list[JsonObject]:
    """The records of one shard's clips."""
    ledger: list[JsonObject] = json.loads(read_notes(file)[_CLIPS])
    return ledger


def record(result: ClipResult, pairs: int) -> JsonObject:
    """What the ledger keeps of a clip: everything but its frames."""
    stat = _stat(result.ref)
    return {
        "clip": result.ref.name,
        "class": result.ref.category,
        "pairs": pairs,
        "reason": result.reason,
        "detail": readable(result.detail),
        "sha256": result.sha256,
        "bytes": stat and stat.st_size,
        "modified": stat and stat.st_mtime_ns,
        "asked": result.ref.asked(),
        "frames": result.frames,
        "duplicates": result.duplicates,
        "corrupt_packets": result.corrupt_packets,
        "resized": list(result.resized),
        "cuts": list(result.cuts),
        "straddling": result.straddling,
        "unlike": result.unlike,
        "duration": round(result.duration, 3),
        "fps": round(result.fps, 4),
        "fingerprint": result.fingerprint,
    }


def is_done(ref: ClipRef, record: JsonMapping, retry_failed: bool) -> bool:
    """Whether the ledger's record of a clip holds for the clip as it is asked for now, and for its file as it is.

    A file that is gone leaves what was made of it. Where only its time has changed, its bytes decide.
    """
    if record["asked"] != ref.asked() or (retry_failed and record["reason"] in _FAILED):
        return False
    stat = _stat(ref)
    if stat is None or (stat.st_size, stat.st_mtime_ns) == (record["bytes"], record["modified"]):
        return True
    return bool(record["sha256"]) and stat.st_size == record["bytes"] and file_sha256(ref.path) == record["sha256"]


def forget(out: Path, clips: Collection[str]) -> None:
    """Take clips out of the shards that hold them, whose other clips stay."""
    _revise(out, lambda clip: None if clip["clip"] in clips else clip)


def set_aside(out: Path, first: Mapping[str, str]) -> None:
    """Take the pairs of near-duplicates out of the shards; `first` names for each the clip that shows the same."""

    def without_pairs(clip: JsonMapping) -> JsonMapping:
        name = first.get(clip["clip"])
        return clip if name is None else {**clip, "pairs": 0, "reason": NEAR_DUPLICATE, "detail": name}

    _revise(out, without_pairs)


def _revise(out: Path, change: Callable[[JsonMapping], JsonMapping | None]) -> None:
    """Change the ledgers' records, or drop them; shards keep the rows of the clips that still have pairs."""
    for file in sorted(out.glob("*.parquet")):
        notes = read_notes(file)
        ledger = json.loads(notes[_CLIPS])
        changed = [clip for clip in map(change, ledger) if clip is not None]
        if not changed:
            file.unlink()
        elif changed != ledger:
            left = {clip["clip"] for clip in changed if clip["pairs"]}
            rows = (row for row in file_rows(file) if row.clip in left)
            write_rows(file, rows, FramePair, {_CLIPS: json.dumps(changed).encode(), _CONFIG: notes[_CONFIG]})


def _stat(ref: ClipRef) -> os.stat_result | None:
    try:
        return ref.path.stat()
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
    """Of what decides which frames are chosen, and no more: other packages may come and go without a trace."""
    installed = versions()
    names = ("retrodict", "av", "numpy", "opencv-python-headless")
    return {name: installed[name] for name in names if name in installed}


def remove_leftovers(out: Path) -> None:
    """Delete temporary files of a run that was killed. Only while this run holds the directory."""
    for file in out.glob(".*.tmp"):
        file.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    with suppress(PermissionError):  # Windows opens no folders
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def take(results: Iterator[ClipResult], shard: Shard) -> Iterator[ClipResult]:
    """The next results, as many as the shard has clips."""
    for _ in shard.refs:
        yield next(results)
