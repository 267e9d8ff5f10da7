"""The page beside the pairs: what went in, what came out and why, and a sample to look at. Self-contained HTML."""

from __future__ import annotations

import base64
import hashlib
import heapq
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined

from retrodict.files import write_atomic

PAGE = "index.html"
_SAMPLE = 24
_THUMB = 200  # pixels
_BINS, _BAR, _HEIGHT = 24, 14, 120


def write_page(out: Path, clips: Sequence[dict[str, Any]], config: str) -> None:
    """Write `index.html` of a mined directory; the same output gives the same page."""
    # Names of files and classes are strangers' text: everything is escaped.
    environment = Environment(
        loader=PackageLoader("retrodict.video", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    files = sorted(out.glob("pairs-*.parquet"))
    html = environment.get_template("page.html.j2").render(
        **_counts(clips), config=config, plots=_plots(files), sample=_sample(files)
    )

    def write(temporary: Path) -> None:
        temporary.write_text(html, encoding="utf-8")

    write_atomic(out / PAGE, write)
    _group.cache_clear()


def _counts(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    failed = [clip for clip in clips if clip["reason"]]
    examples = {clip["reason"]: f"{clip['clip']}: {clip['detail']}" for clip in reversed(failed)}
    return {
        "clips": len(clips),
        "with_pairs": len(clips) - len(failed),
        "pairs": sum(clip["pairs"] for clip in clips),
        "reasons": [(why, n, examples[why]) for why, n in Counter(clip["reason"] for clip in failed).most_common()],
        "straddling": sum(clip["straddling"] for clip in clips),
        "unlike": sum(clip["unlike"] for clip in clips),
        "duplicates": sum(clip["duplicates"] for clip in clips),
        "frames": sum(clip["frames"] for clip in clips),
        "corrupt": sum(clip["corrupt_packets"] for clip in clips),
        "hours": _duration(sum(clip["duration"] for clip in clips)),
    }


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _plots(files: Sequence[Path]) -> list[dict[str, Any]]:
    columns = ["frame_source", "frame_target", "t_source", "t_target", "motion"]
    if not files:
        return []
    table = pa.concat_tables(pq.read_table(file, columns=columns) for file in files)
    frames = pc.subtract(table["frame_target"], table["frame_source"]).to_numpy().astype(float)
    seconds = pc.subtract(table["t_target"], table["t_source"]).to_numpy()
    motion = table["motion"].to_numpy()
    named = [("frames between source and target", frames), ("seconds between them", seconds)]
    return [_plot(title, values) for title, values in [*named, ("motion at the target, per second", motion)]]


def _plot(title: str, values: Any) -> dict[str, Any]:
    values = values[np.isfinite(values)]
    if not len(values):
        return {"title": title, "bars": [], "low": "", "high": "", "median": "none", "width": 0, "height": _HEIGHT}
    top = float(np.percentile(values, 99))
    low = float(values.min())
    width = (max(top, low + 1e-6) - low) / _BINS
    if np.array_equal(values, np.round(values)):  # whole numbers: bins that hold equally many of them
        width = np.ceil(width)
    counts, edges = np.histogram(np.minimum(values, top), bins=_BINS, range=(low, low + _BINS * width))
    bars = [
        {
            "x": place * _BAR,
            "width": _BAR - 1,
            "height": round(float(count) / counts.max() * _HEIGHT, 1),
            "label": f"{edges[place]:.3g} to {edges[place + 1]:.3g}: {count}",
        }
        for place, count in enumerate(counts)
    ]
    high = f"{top:.3g}" + (" and more" if values.max() > top else "")
    median = f"{np.median(values):.3g}"
    return {
        "title": title,
        "bars": bars,
        "low": f"{low:.3g}",
        "high": high,
        "median": median,
        "width": _BINS * _BAR,
        "height": _HEIGHT,
    }


def _sample(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The pairs whose ids hash lowest: random, yet the same for the same output."""
    keyed = (
        (hashlib.sha256(identity.encode()).hexdigest(), number, place)
        for number, file in enumerate(files)
        for place, identity in enumerate(pq.read_table(file, columns=["id"])["id"].to_pylist())
    )
    chosen = heapq.nsmallest(_SAMPLE, keyed)
    return [_shown(files[number], place) for _, number, place in sorted(chosen, key=lambda key: key[1:])]


def _shown(file: Path, place: int) -> dict[str, Any]:
    row = _row(file, place)
    pictures = [row[side]["bytes"] for side in ("source", "target") if row[side] and row[side]["bytes"]]
    return {
        "id": row["id"],
        "category": row["class"],
        "seconds": f"{row['t_target'] - row['t_source']:.2f}",
        "pictures": [_thumb(picture) for picture in pictures],
    }


def _row(file: Path, place: int) -> dict[str, Any]:
    group = 0
    reader = pq.ParquetFile(file)
    while place >= (rows := reader.metadata.row_group(group).num_rows):
        place, group = place - rows, group + 1
    row: dict[str, Any] = _group(file, group).slice(place, 1).to_pylist()[0]
    return row


@lru_cache(maxsize=1)  # the sample is read in order, and many of its rows share a group
def _group(file: Path, group: int) -> pa.Table:
    columns = ["id", "class", "t_source", "t_target", "source", "target"]
    return pq.ParquetFile(file).read_row_group(group, columns=columns)


def _thumb(picture: bytes) -> str:
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_REDUCED_COLOR_2)
    assert image is not None
    scale = _THUMB / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return base64.b64encode(data.tobytes()).decode()
