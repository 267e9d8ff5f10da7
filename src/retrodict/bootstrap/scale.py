"""What the loop costs from a few hours of video to a billion clips: arithmetic on constants that are named here once.

`docs/scale.md` shows its tables; `retrodict scale` computes them for other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from retrodict.models.registry import get_family, size_of
from retrodict.training.config import LoraConfig, Source, TrainConfig, TrainData, TrainRecipe
from retrodict.training.estimate import SUSTAINED, estimate, explanation_operations
from retrodict.training.tokens import CHUNK


class Measured(NamedTuple):
    """A constant, and where it comes from."""

    value: float
    unit: str
    source: str


CONSTANTS = {
    "mine": Measured(
        0.071,
        "CPU-seconds a second of video",
        "`time retrodict mine CLIPS --executor serial`: 15.6 CPU-s for 219.4 s in 25 clips, most of them 320 x 240 to "
        "640 x 480, start-up included, on a busy machine (6.1 CPU-s on a quiet one)",
    ),
    "pairs": Measured(3.3, "pairs a clip", "the same run: 82 pairs"),
    "row": Measured(
        113e3, "bytes a pair with its two images", "the same run: 9.27 MB of Parquet (JPEG, as large as mined)"
    ),
    "memory": Measured(
        948, "bytes of memory a row without images", "resident memory of 50,000 `Transition` objects of mined names"
    ),
    "tokenizer": Measured(
        550e9, "operations to tokenize an image", "torch's FlopCounterMode on the released VQGAN's encoder, 512 x 512"
    ),
    "float32": Measured(
        20e12,
        "operations a second in float32 on an H100",
        "assumed: 30 % of its peak without tensor cores; not measured",
    ),
    "bfloat16": Measured(
        SUSTAINED, "operations a second in bfloat16 on an H100", "assumed: 40 % of its peak; not measured"
    ),
}
MINED = 128  # clips of a file, by default
MANY_FILES, MANY_BYTES = 100_000, 64e9  # of one folder, of one process's memory


@dataclass(frozen=True)
class Cost:
    """What a stage costs, and leaves."""

    stage: str
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    size: float = 0.0  # bytes
    files: float = 0.0  # of its folder


def costs(clips: float, seconds: float, selected: float, family: str) -> list[Cost]:
    """Each stage of the loop, from videos to the forward model; what is not counted costs little beside it.

    Args:
        clips: number of videos.
        seconds: length of each.
        selected: pseudo-labelled pairs that the forward model learns from.
        family: whose first published checkpoint labels and learns.

    Raises:
        ValueError: the family has no published checkpoint.
    """
    c = {name: one.value for name, one in CONSTANTS.items()}
    pairs = clips * c["pairs"]
    inverse, forward = _recipe(family, "inverse", selected), _recipe(family, "forward", selected)
    tokenize = 2 * c["tokenizer"] / c["float32"] / 3600  # GPU-hours a pair
    explain = explanation_operations(inverse) / c["bfloat16"] / 3600
    tokens = size_of(family).image_tokens * (2 * 2 + 2)  # two images of 16-bit tokens, distances in half precision
    return [
        Cost("mine", clips * seconds * c["mine"] / 3600, 0, pairs * c["row"], clips / MINED),
        Cost("annotate", 0, pairs * (tokenize + explain), pairs * c["row"], clips / MINED),
        Cost("select", 0, 0, selected * c["row"], 1),
        Cost("tokenize", 0, selected * tokenize, selected * tokens, selected / CHUNK),
        Cost("train", 0, estimate(forward).gpu_hours, 2 * estimate(forward).trained, 1),
    ]


def lines(clips: float, seconds: float, selected: float, family: str, cores: int, gpus: int) -> list[str]:
    """The costs as a table, what breaks first, and the constants."""
    pairs = clips * CONSTANTS["pairs"].value
    table = [
        f"{clips:,.0f} clips of {seconds:g} s: {clips * seconds / 3600:,.0f} hours of video, {pairs:,.0f} pairs, "
        f"{selected:,.0f} selected; {family}",
        f"{'stage':9}{'CPU-hours':>14}{'GPU-hours':>14}{'days here':>12}{'bytes':>10}{'files':>12}",
    ]
    for cost in costs(clips, seconds, selected, family):
        days = (cost.cpu_hours / cores + cost.gpu_hours / gpus) / 24
        table.append(
            f"{cost.stage:9}{cost.cpu_hours:14,.1f}{cost.gpu_hours:14,.1f}{days:12,.2f}{readable(cost.size):>10}"
            f"{max(1, cost.files):12,.0f}"
        )
    return [
        *table,
        f"(days on {cores} cores and {gpus} GPUs)",
        *(f"breaks  {line}" for line in limits(clips, selected)),
        *(f"{one.value:g} {one.unit}: {one.source}" for one in CONSTANTS.values()),
    ]


def limits(clips: float, selected: float) -> Sequence[str]:
    """What does not go on as it does for a few clips, the first stage first, and what to do."""
    row, pairs = CONSTANTS["memory"].value, clips * CONSTANTS["pairs"].value
    file, files = selected * CONSTANTS["row"].value, clips / MINED
    apart = "give each collection a folder of its own, for all stages"
    checks = (
        (files > MANY_FILES, f"mine: {files:,.0f} files in one folder: --shard-clips, or {apart}"),
        (
            row * clips > MANY_BYTES,
            f"mine: one process holds a record of every clip, over {readable(row * clips)}: {apart}",
        ),
        (file > MANY_BYTES, f"select: it writes one file, of {readable(file)}: {apart}"),
        (
            row / 8 * pairs > MANY_BYTES,
            f"select: one process holds what decides, some {readable(row / 8 * pairs)}: {apart}",
        ),
        (
            row * selected > MANY_BYTES,
            f"train: each rank holds its rows without images, {readable(row * selected)}: take fewer of each source",
        ),
    )
    return [line for breaks, line in checks if breaks] or ["nothing: no process or file is large, no folder is full"]


def readable(size: float) -> str:
    """Bytes in three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB"


def _recipe(family: str, direction: str, rows: float) -> TrainRecipe:
    """The paper's training: an adapter, ten epochs, batches of 64 (arXiv 2506.06006, section 3.1)."""
    published = get_family(family).checkpoints
    if not published:
        raise ValueError(f"The family {family} has no published checkpoint: its cost at scale is not known.")
    return TrainRecipe(
        direction=direction,  # type: ignore[arg-type]
        family=family,
        init=published[0].parts[0].repository,
        lora=LoraConfig(),
        data=TrainData(train=(Source(path=Path("selected"), expected=round(rows)),), val_share=0),
        training=TrainConfig(
            epochs=10,
            per_device_batch_size=8,
            gradient_accumulation_steps=8,
            optimizer="adamw",
            gradient_checkpointing=True,
        ),
    )
