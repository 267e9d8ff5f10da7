"""`mine`: folders of video to a directory of frame pairs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, groupby
from pathlib import Path, PurePosixPath
from typing import cast

from filelock import FileLock, Timeout

import retrodict.shards
from retrodict.files import JsonObject, write_atomic
from retrodict.progress import Progress as ProgressView
from retrodict.progress import QuietProgress
from retrodict.run_folder import claim
from retrodict.shards import OnRay, run_shards
from retrodict.transitions import FramePair, write_manifest
from retrodict.video.clip_miner import decode_some, file_sha256, windows
from retrodict.video.clips import ClipError, ClipRef, ClipResult, folder_clips
from retrodict.video.config import ALGORITHM, ExecutorName, MineConfig
from retrodict.video.duplicates import near_duplicates
from retrodict.video.executors import Pool, executor
from retrodict.video.shards import (
    NEAR_DUPLICATE,
    Shard,
    forget,
    is_done,
    plan,
    read_ledger,
    read_ledgers,
    record,
    remove_leftovers,
    set_aside,
    take,
    write_shard,
)

CLIPS, PAGE = "clips.jsonl", "index.html"  # the page is written by retrodict.report.mining
_LOCK = ".lock"
_DAY = 86_400.0  # seconds

# Called with the ledger record of each clip as it is finished, and with `done` of `total` clips; see `clip_progress`.
Progress = Callable[[JsonObject], None]


@dataclass(frozen=True, kw_only=True)
class MineResult:
    """What a mining run left in its output directory, counted over this run and those it resumed."""

    out: Path
    clips: int
    pairs: int
    dropped: dict[str, int] = field(default_factory=dict)  # clips without pairs, by reason
    straddling: int = 0  # neighbouring keyframes that made no pair because a cut lies between them
    unlike: int = 0  # those that made none because they have nothing in common
    near_duplicates: int = 0  # clips that show the same as one before them, whether their pairs were kept or not
    resumed: int = 0  # clips that an earlier run had done
    video_seconds: float = 0.0  # of this run
    wall_seconds: float = 0.0


def mine(
    videos: str | Path | Sequence[str | Path] | Iterable[ClipRef],
    out: str | Path,
    config: MineConfig | None = None,
    *,
    executor_name: ExecutorName = "processes",
    workers: int | None = None,
    shard_clips: int = 128,
    timeout: float = 60.0,
    retries: int = 2,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> MineResult:
    """Mine frame pairs out of video into Parquet shards, a manifest and a ledger `clips.jsonl`.

    The same call again resumes: clips that are done are not touched, and those whose file or whose position in the
    layout's list has changed or arrived are mined anew. The output is the same to the byte whichever
    executor and however many workers made it, and however often it was interrupted.

    Args:
        videos: files and folders, or the clips of a layout (see `retrodict.data`).
        out: output directory; made when missing, else of an earlier run with the same settings.
        workers: processes; by default one per usable core.
        shard_clips: clips per Parquet file: what is lost when a run is killed, and the unit that resumes.
        timeout: seconds without a decoded frame after which a clip's worker is killed: of its own computing, or
            in which it did not run at all.
        retries: how often a clip that crashed or hung its worker is tried again.
        retry_failed: whether to mine again what an earlier run could not read, though its file is the same: clips that
            crashed, hung, or were locked.

    Raises:
        ValueError: a path does not exist or holds no video, or `out` belongs to something else.
        OSError: `out` cannot be written.
    """
    config = config or MineConfig()
    refs, out = _clips(videos), Path(out)
    begun = time.monotonic()
    if (workers is not None and workers < 1) or shard_clips < 1 or retries < 0 or not 0 < timeout <= _DAY:
        raise ValueError(
            "workers and shard_clips must be at least 1, retries at least 0, timeout above 0 and a day at most."
        )
    cluster = OnRay(workers) if executor_name == "ray" else None
    engine = executor("serial" if cluster else executor_name, config, workers=workers, timeout=timeout, retries=retries)
    settings = {"algorithm": ALGORITHM, **config.to_dict()}
    claim(out, "mine", settings, apart={ref.path.parent: ref.path for ref in refs}.values())
    refs = [window for ref in refs for window in windows(ref, config)]
    with _held(out):
        done = read_ledgers(out)
        again = {ref.name for ref in refs if ref.name in done and not is_done(ref, done[ref.name], retry_failed)}
        again |= _old_windows(refs, set(done))
        again |= {n for n, clip in done.items() if clip["reason"] == NEAR_DUPLICATE and clip["detail"] in again}
        forget(out, again)
        done = {name: clip for name, clip in done.items() if name not in again}
        resumed = len(done)
        shards = plan(refs, set(done), shard_clips)
        told = _told(progress, resumed, resumed + sum(len(shard.refs) for shard in shards))
        if cluster is not None:
            parts = partial(_parts, out.absolute(), shards, config, timeout, retries)
            run_shards(parts(), cluster, _Ledgers(out, told), parts)
            done |= read_ledgers(out)
        else:
            with closing(engine.map(ref for shard in shards for ref in shard.refs)) as mined:
                results = _watched(mined, told)
                for shard in shards:
                    done |= {clip["clip"]: clip for clip in write_shard(out, shard, take(results, shard), config)}
        first = near_duplicates(done.values())
        if config.near_duplicates == "drop":
            set_aside(out, first)
            done |= read_ledgers(out)
        result = _summary(out, list(done.values()), resumed, begun, first)
        _publish(out, config, [done[name] | _same(first, name) for name in sorted(done)], result)
    return result


def _clips(videos: str | Path | Sequence[str | Path] | Iterable[ClipRef]) -> list[ClipRef]:
    if isinstance(videos, (str, Path)):
        return folder_clips(videos)
    listed = list(videos)
    if not listed or not isinstance(listed[0], ClipRef):
        return folder_clips(cast(list[Path], listed))
    refs = cast(list[ClipRef], listed)
    repeated = [name for name, count in Counter(ref.name for ref in refs).items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} names are of several clips, {repeated[0]!r} for one: make them unique.")
    return refs


def _old_windows(refs: Sequence[ClipRef], done: set[str]) -> set[str]:
    """Windows of an earlier run into which a video that has another length now is no longer cut."""
    names = {ref.name for ref in refs}
    files = {name.rpartition("#")[0] or name for name in names}
    return {name for name in done - names if name.rpartition("#")[0] in files}


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Nobody else writes to the folder meanwhile. The system releases the lock however the run ends."""
    lock = FileLock(out / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"Another run is writing to {out}: wait for it, or give another directory.") from None
    try:
        remove_leftovers(out)
        yield
    finally:
        lock.release()


def _told(progress: Progress | None, done: int, total: int) -> Progress:
    """`progress`, which also gets how many clips are done."""
    number = count(done + 1)

    def tell(clip: JsonObject) -> None:
        if progress is not None:
            progress({**clip, "done": next(number), "total": total})

    return tell


def _watched(results: Iterator[ClipResult], told: Progress) -> Iterator[ClipResult]:
    for result in results:
        told(record(result, len(result.pairs)))
        yield result


def _parts(
    out: Path, shards: Sequence[Shard], config: MineConfig, timeout: float, retries: int
) -> list[retrodict.shards.Shard]:
    """What Ray's actors do. Each keeps one worker process, so that a clip that crashes a codec costs no actor."""
    pool = Pool(config, workers=1, timeout=timeout, retries=retries)

    def part(shard: Shard) -> retrodict.shards.Shard:
        def make(tell: Callable[[int], None]) -> None:
            write_shard(out, shard, pool.map(shard.refs), config)

        return retrodict.shards.Shard((out / shard.file_name(config.digest())).is_file, make, len(shard.refs))

    return [part(shard) for shard in shards]


class _Ledgers(QuietProgress):
    """Tells of the clips of files that have appeared, as other processes write them."""

    def __init__(self, out: Path, told: Progress) -> None:
        super().__init__()
        self._out, self._told = out, told
        self._known = set(out.glob("*.parquet"))

    def advance(self, done: int, total: int, note: str = "") -> None:
        for file in sorted(set(self._out.glob("*.parquet")) - self._known):
            self._known.add(file)
            for clip in read_ledger(file):
                self._told(clip)


def _summary(out: Path, clips: list[JsonObject], resumed: int, begun: float, first: Mapping[str, str]) -> MineResult:
    return MineResult(
        out=out,
        clips=len(clips),
        pairs=sum(clip["pairs"] for clip in clips),
        dropped=dict(Counter(clip["reason"] for clip in clips if clip["reason"])),
        straddling=sum(clip["straddling"] for clip in clips),
        unlike=sum(clip["unlike"] for clip in clips),
        near_duplicates=len(first),
        resumed=resumed,
        video_seconds=sum(clip["duration"] for clip in clips[resumed:]),
        wall_seconds=time.monotonic() - begun,
    )


def _same(first: Mapping[str, str], name: str) -> JsonObject:
    return {"same_as": first[name]} if name in first else {}


def _publish(out: Path, config: MineConfig, clips: list[JsonObject], result: MineResult) -> None:
    """Ledger and manifest of all that is done; nothing in them tells one run from another."""
    lines = "".join(json.dumps(clip, sort_keys=True) + "\n" for clip in clips)

    def write(temporary: Path) -> None:
        temporary.write_text(lines)

    write_atomic(out / CLIPS, write)
    write_manifest(
        out,
        kind="frame-pairs",
        config=config.to_dict(),
        kept=result.pairs,
        dropped={**result.dropped, "straddles_cut": result.straddling, "nothing_in_common": result.unlike},
        config_sha256=config.digest(),
        clips={
            "mined": result.clips,
            "with_pairs": sum(1 for clip in clips if clip["pairs"]),
            "near_duplicates": result.near_duplicates,
        },
    )


def clip_progress(progress: ProgressView, now: Callable[[], float] = time.monotonic) -> Callable[[JsonObject], None]:
    """What to pass to `mine` as `progress`, to show each finished clip in `progress` (retrodict.progress)."""
    began = now()
    clips = pairs = failed = 0
    video = 0.0

    def finished(clip: JsonObject) -> None:
        nonlocal clips, pairs, failed, video
        clips += 1
        pairs += clip["pairs"]
        failed += bool(clip["reason"])
        video += clip["duration"]
        elapsed = max(now() - began, 1e-3)
        speed = f"{clips / elapsed:.1f} clips/s · {video / elapsed:.0f} video-s/s"
        progress.advance(clip["done"], clip["total"], f"{speed} · {pairs:,} pairs · {failed} clips without")

    return finished


def with_images(rows: Iterable[FramePair], root: Path, quality: int = 95, max_side: int = 0) -> Iterator[FramePair]:
    """The rows with their images, in order; each run of rows of one clip decodes that clip once.

    Args:
        rows: pairs mined from `root` with `frames=False`.
        root: the folder that was mined.
        quality: of the JPEG images.
        max_side: their longest side in pixels; 0: as they are.

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
            images = {
                item.index: video.view.jpeg(item.frame, quality, max_side) for item, video in decode_some(ref, wanted)
            }
        except ClipError as error:
            raise ValueError(f"{path}: {error}.") from None
        for pair in pairs:
            yield replace(pair, source=images[pair.frame_source], target=images[pair.frame_target])
