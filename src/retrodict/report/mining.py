"""The page beside mined pairs: what went in, what came out and why, and a sample to look at."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrodict.files import JsonMapping
from retrodict.report import kit
from retrodict.report.kit.charts import Bar, Histogram, histogram
from retrodict.report.kit.format import count, flat
from retrodict.report.kit.images import Pair, hashed, shape_of, uri
from retrodict.transitions import MANIFEST, open_parquet
from retrodict.video.mining import CLIPS, PAGE, MineResult
from retrodict.video.mining import mine as video_mine

P = ParamSpec("P")

SAMPLE, SIDE, LARGE = 24, 240, 15_000
REASONS = {
    "too_short": "Too short for the smallest gap",
    "static": "Nothing moves",
    "cuts": "A cut between all keyframes",
    "unlike": "Keyframes have nothing in common",
    "unreadable": "Cannot be read",
    "timeout": "No frame in time",
}


def write_page(out: Path) -> Path:
    """Write `index.html` of a mined folder from its ledger, manifest and pairs; the same folder gives the same page.

    Args:
        out: what `retrodict mine` wrote.

    Returns:
        The page's path.
    """
    clips = [json.loads(line) for line in (out / CLIPS).read_text(encoding="utf-8").splitlines()]
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    files = sorted(out.glob("pairs-*.parquet"))
    pairs = sum(clip["pairs"] for clip in clips)
    with_pairs = sum(not clip["reason"] for clip in clips)
    title = f"{count(pairs)} frame pairs from {count(with_pairs)} of {_counted(len(clips), 'clip')}"
    return kit.write_page(
        out / PAGE,
        "mining.html",
        title=title,
        hours=_duration(sum(clip["duration"] for clip in clips)),
        outcomes=_outcomes(clips),
        examples=_examples(clips),
        notes=_notes(clips),
        plots=_plots(files),
        sample=_sample(files),
        settings=list(flat(manifest["config"])),
        versions=list(flat(manifest["versions"])),
    )


def _with_page(run: Callable[P, MineResult]) -> Callable[P, MineResult]:
    @wraps(run)
    def mine_and_show(*args: P.args, **kwargs: P.kwargs) -> MineResult:
        result = run(*args, **kwargs)
        write_page(result.out)
        return result

    return mine_and_show


mine = _with_page(video_mine)
"""`retrodict.video.mine`, and the page `index.html` beside what it wrote."""


def _counted(number: int, what: str) -> str:
    return f"{count(number)} {what}{'' if number == 1 else 's'}"


def _outcomes(clips: Sequence[JsonMapping]) -> list[Bar]:
    """How many clips gave pairs, and how many did not, by reason."""
    reasons = Counter(clip["reason"] for clip in clips if clip["reason"])
    given = len(clips) - reasons.total()
    bars = [Bar("Gave pairs", given, n=given, kind="fdm", scale=len(clips))]
    return bars + [Bar(_reason(why), n, n=n, scale=len(clips)) for why, n in reasons.most_common()]


def _reason(name: str) -> str:
    return REASONS.get(name) or name.replace("_", " ").capitalize()


def _examples(clips: Sequence[JsonMapping]) -> list[tuple[str, str]]:
    """One clip of each reason, with what was found."""
    firsts: dict[str, str] = {}
    for clip in clips:
        if clip["reason"]:
            firsts.setdefault(clip["reason"], f"{clip['clip']}: {clip['detail']}")
    return [(_reason(why), text) for why, text in firsts.items()]


def _notes(clips: Sequence[JsonMapping]) -> list[str]:
    def total(key: str) -> int:
        return sum(clip[key] for clip in clips)

    frames = _counted(total("frames"), "frame")
    return [
        f"{_counted(total('straddling'), 'pair')} of neighbouring keyframes left out because a cut lies between them, "
        f"{count(total('unlike'))} because the frames have nothing in common.",
        f"{count(total('duplicates'))} of {frames} repeat the one before; "
        f"{_counted(total('corrupt_packets'), 'packet')} could not be decoded.",
    ]


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _plots(files: Sequence[Path]) -> list[Histogram]:
    if not files:
        return []
    columns = ["frame_source", "frame_target", "t_source", "t_target", "motion"]
    table = pa.concat_tables(pq.read_table(file, columns=columns) for file in files)
    frames = pc.subtract(table["frame_target"], table["frame_source"]).to_numpy().astype(np.float64)
    seconds = pc.subtract(table["t_target"], table["t_source"]).to_numpy()
    plots = [
        histogram("Frames between source and target", frames),
        histogram("Seconds between source and target", seconds),
        histogram("Motion at the target, per second", table["motion"].to_numpy()),
    ]
    return [plot for plot in plots if plot is not None]


def _sample(files: Sequence[Path]) -> list[Pair]:
    """The pairs whose ids hash lowest: random, yet the same for the same output."""
    keyed = (
        (hashed(name), number, row)
        for number, file in enumerate(files)
        for row, name in enumerate(pq.read_table(file, columns=["id"])["id"].to_pylist())
    )
    chosen = sorted((number, row) for _, number, row in heapq.nsmallest(SAMPLE, keyed))
    return [pair for number, file in enumerate(files) for pair in _pairs(file, [r for n, r in chosen if n == number])]


def _pairs(file: Path, rows: Sequence[int]) -> list[Pair]:
    """Rows of one file, in order; each of its row groups is read once, and only where a row is wanted."""
    columns = ["id", "class", "t_source", "t_target", "source", "target"]
    reader, shown, start = open_parquet(file), [], 0
    for group in range(reader.metadata.num_row_groups):
        size = reader.metadata.row_group(group).num_rows
        inside = [row - start for row in rows if start <= row < start + size]
        if inside:
            shown += [_pair(record) for record in reader.read_row_group(group, columns).take(inside).to_pylist()]
        start += size
    return shown


def _pair(record: JsonMapping) -> Pair:
    source, target = ((record[side] or {}).get("bytes") for side in ("source", "target"))
    kind = f" ({record['class']})" if record["class"] else ""
    note = f"{record['t_target'] - record['t_source']:.2f} s apart"
    images = uri(source, SIDE, LARGE), uri(target, SIDE, LARGE)
    return Pair(*images, "", note=f"{record['id']}{kind}: {note}", shape=shape_of(source))
