"""The page beside mined pairs: what went in, what came out and why, and a sample to look at."""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
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
from retrodict.video.config import MineConfig, seconds
from retrodict.video.mining import CLIPS, PAGE, MineResult
from retrodict.video.mining import mine as video_mine

P = ParamSpec("P")

SAMPLE, SIDE, LARGE = 24, 240, 15_000
EXAMPLES = 3  # clips of each reason that are named
LONG = 90  # characters of a name or of what was found
REASONS = {  # of the ledger: in words, and what there is to do
    "too_short": ("Too short for the smallest gap", "A smaller --min-gap finds pairs in some of them."),
    "static": ("Nothing moves", "--min-motion says what counts as motion."),
    "too_small": ("Too thin to see motion", ""),
    "cuts": ("A cut between all keyframes", "--segment shot gives each shot keyframes of its own."),
    "unlike": ("Keyframes have nothing in common", ""),
    "near_duplicate": ("Shows the same as another clip", "--near-duplicates keep leaves the pairs of all."),
    "unreadable": ("Cannot be read", "The same command reads a file that has changed; --retry-failed tries all again."),
    "undecodable": ("No frame can be decoded", ""),
    "no_video": ("No video in the file", ""),
    "empty": ("The file is empty", ""),
    "missing": ("The list names a file that is not there", "Once it is, the same command mines it."),
    "changed": ("The file changed while it was read", "--retry-failed mines it again."),
    "hung": ("No frame in time", "--retry-failed tries again, with another --timeout if wanted."),
    "crashed": ("The decoder crashed", "--retry-failed tries again."),
    "repeated": ("The list names it twice", "The first counts."),
    "bad_row": ("A row of the list cannot be read", ""),
}


@dataclass(frozen=True)
class Reason:
    """Why some clips gave no pairs."""

    title: str
    clips: int
    advice: str
    examples: list[tuple[str, str, int]]  # a clip, what was found, and its line in the ledger


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
        reasons=_reasons(clips),
        same=_same(clips),
        notes=_notes(clips),
        plots=_plots(files),
        sample=_sample(files),
        ledger=CLIPS,
        words=in_words(_config(manifest["config"])),
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
    return REASONS.get(name, ("", ""))[0] or name.replace("_", " ").capitalize()


def _reasons(clips: Sequence[JsonMapping]) -> list[Reason]:
    """The reasons, the most frequent first, with their first clips in the ledger."""
    of_reason: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for line, clip in enumerate(clips, 1):
        if clip["reason"]:
            of_reason[clip["reason"]].append((shortened(clip["clip"]), shortened(clip["detail"]), line))
    ordered = sorted(of_reason.items(), key=lambda item: -len(item[1]))
    return [Reason(_reason(why), len(named), REASONS.get(why, ("", ""))[1], named[:EXAMPLES]) for why, named in ordered]


def _same(clips: Sequence[JsonMapping]) -> list[tuple[str, str, int]]:
    """Clips that show the same as another one, where the pairs of both were kept."""
    named = [
        (shortened(clip["clip"]), f"shows the same as {shortened(clip['same_as'])}", line)
        for line, clip in enumerate(clips, 1)
        if "same_as" in clip and not clip["reason"]
    ]
    return named[:EXAMPLES]


def shortened(text: str) -> str:
    """The middle of a long text left out."""
    half = LONG // 2
    return text if len(text) <= LONG else f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"


def _config(stored: JsonMapping) -> MineConfig:
    """Settings of this version or an earlier one."""
    known = {field.name for field in fields(MineConfig)}
    return MineConfig(**{name: value for name, value in stored.items() if name in known})


def in_words(config: MineConfig) -> list[str]:
    """What the settings mean, a sentence each."""
    gap, in_seconds = config.gap()
    length, every = config.windows()
    of = "shot" if config.by_shot else "window" if config.segment else "clip"
    apart = f"{gap:g} s" if in_seconds else f"{gap:g} frames"
    ranked = {
        "flow": "optical flow",
        "fast": "the difference of neighbouring frames",
        "reference": "optical flow at full size, as in the paper",
    }[config.motion]
    rule = "as many as fit, then the most motion" if config.selection == "exact" else "greedily, as in the paper"
    sentences = [
        f"Up to {config.frames_per_clip} frames of each {of} are kept, {apart} apart or more: {rule}. Motion is "
        f"{ranked}{', less that of the camera' if config.compensate_camera else ''}.",
        "No pair joins two shots." if config.cuts else "Cuts were not looked for.",
        f"What moves less than {config.min_motion:g} frame widths a second is static, unless part of it changes.",
    ]
    if config.selection == "exact" and (reach := seconds(config.snap, "snap")):
        sentences.insert(1, f"Each was moved by at most {reach:g} s to where it is sharp, or to where an action rests.")
    if config.segment and not config.by_shot:
        overlap = f", one every {every:g} s" if every < length else ""
        sentences.append(f"Longer videos were cut into windows of about {length:g} s{overlap}.")
    if config.near_duplicates == "drop":
        sentences.append("Of clips that show the same, the first by name gave its pairs.")
    size = f", at most {config.max_side} pixels long" if config.max_side else ""
    sentences.append(
        f"Images are JPEGs of quality {config.jpeg_quality}{size}." if config.frames else "No images were stored."
    )
    return sentences


def _notes(clips: Sequence[JsonMapping]) -> list[str]:
    """What the bars do not show, where there was any."""

    def total(key: str) -> int:
        return sum(clip[key] for clip in clips)

    cuts, unlike, same = total("straddling"), total("unlike"), sum("same_as" in clip for clip in clips)
    notes = []
    if cuts or unlike:
        left_out = f"{_counted(cuts, 'pair')} of neighbouring keyframes left out because a cut lies between them"
        notes.append(f"{left_out}, {count(unlike)} because the frames have nothing in common.")
    if same:
        notes.append(f"{_counted(same, 'clip')} {'shows' if same == 1 else 'show'} the same as another one.")
    if resized := sum(bool(clip.get("resized")) for clip in clips):
        notes.append(
            f"{_counted(resized, 'clip')} went on in another resolution: scaled to the first where shapes agree."
        )
    repeated, broken = total("duplicates"), total("corrupt_packets")
    decoded = f"{count(repeated)} of {_counted(total('frames'), 'frame')} repeat the one before"
    return [*notes, decoded + (f"; {_counted(broken, 'packet')} could not be decoded." if broken else ".")]


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
    return Pair(*images, "", note=f"{shortened(record['id'])}{kind}: {note}", shape=shape_of(source))
