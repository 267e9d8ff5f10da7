"""Distances between a predicted and a true image, and whether a prediction merely repeats its source.

A low distance does not mean a good prediction: copying the source scores well wherever little changes. So every
distance comes with the copy diagnostics (arXiv 2506.06006 has only the distance).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from retrodict.evaluation import L1Protocol
from retrodict.stats import UNIT, Scale
from retrodict.video.cuts import dense_flow
from retrodict.video.decode import Gray

L1_PROTOCOL: L1Protocol = "native-lanczos"
L1_PROTOCOLS: tuple[L1Protocol, ...] = get_args(L1Protocol)
COPY_RATIO = 0.25  # a prediction that is this much nearer to the source than the target is counts as a copy
CHANGE_CELLS = 32  # the change map has this many cells a side
CHANGED = 0.05  # a cell has changed when its mean absolute difference exceeds this share of the full range

FLOW_SIDE = 256  # pixels of the shorter side at which motion is measured
FLOW_METHOD = "DIS medium, grey, short side 256, mean |flow| / image diagonal"

_FIXED = (512, 512)
_Pixels = npt.NDArray[np.float32]


def l1(prediction: Image.Image, target: Image.Image, protocol: str = L1_PROTOCOL) -> float:
    """Mean absolute difference of RGB values in [0, 1].

    `native-lanczos` resizes the prediction to the target's size. Of the protocols in use, it gives the Copy row of
    arXiv 2506.06006, table 8, to all printed digits. `native-bicubic` is that of MagicBrush's evaluation; `fixed512`
    brings both to 512 x 512, bicubic. Numbers of different protocols are not comparable.
    """
    if protocol not in L1_PROTOCOLS:
        raise ValueError(f'No L1 protocol "{protocol}": use one of {", ".join(L1_PROTOCOLS)}.')
    resampling = Image.Resampling.LANCZOS if protocol == L1_PROTOCOL else Image.Resampling.BICUBIC
    size = _FIXED if protocol == "fixed512" else target.size
    return _distance(_pixels(prediction, size, resampling), _pixels(target, size, resampling))


def _pixels(
    image: Image.Image, size: tuple[int, int], resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> _Pixels:
    if image.size != size:
        image = image.resize(size, resampling)
    return np.asarray(image.convert("RGB"), dtype=np.float32)


@dataclass(frozen=True)
class Copying:
    """What a prediction has of its source. NaN where the target is the source, or where nothing changed.

    ratio: distance to the source over the distance from source to target: 0 for a copy, 1 as far as the target.
    copy: 1 for a copy, else 0.
    change_iou: intersection over union of where the prediction changed the source and where the target did.
    """

    ratio: float
    copy: float
    change_iou: float


def copying(
    prediction: Image.Image, source: Image.Image, target: Image.Image, round_trip: Image.Image | None = None
) -> Copying:
    """Copy diagnostics of one prediction, all at the target's size.

    `round_trip` is the source through the image tokenizer of the model that predicted: for such a model this image
    is the copy, so the distance is taken to the nearer of the two. It is a copy if the ratio is below `COPY_RATIO` and,
    with a round trip, the prediction is no farther from it than the source is.
    """
    size = target.size
    predicted, start, end = _pixels(prediction, size), _pixels(source, size), _pixels(target, size)
    moved = _distance(end, start)
    if moved == 0:
        return Copying(math.nan, math.nan, math.nan)
    distance, is_copy, nearest = _distance(predicted, start), True, start
    if round_trip is not None:
        honest = _pixels(round_trip, size)
        repeated = _distance(predicted, honest)
        is_copy = repeated <= _distance(start, honest)
        if repeated < distance:
            distance, nearest = repeated, honest
    ratio = distance / moved
    iou = _overlap(_changes(predicted, nearest), _changes(end, start))
    return Copying(ratio, float(is_copy and ratio < COPY_RATIO), iou)


def _distance(a: _Pixels, b: _Pixels) -> float:
    return float(np.abs(a - b).mean(dtype=np.float64) / 255)


def _changes(image: _Pixels, start: _Pixels) -> npt.NDArray[np.bool_]:
    """Which cells of a `CHANGE_CELLS` x `CHANGE_CELLS` grid differ; noise averages out within a cell."""
    difference = np.abs(image - start).mean(2)
    cells = cv2.resize(difference, (CHANGE_CELLS, CHANGE_CELLS), interpolation=cv2.INTER_AREA)
    return np.asarray(cells > CHANGED * 255)


def _overlap(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else math.nan


@dataclass(frozen=True)
class Compared:
    """A predicted image beside what it should show."""

    prediction: Image.Image
    source: Image.Image
    target: Image.Image
    round_trip: Image.Image | None = None  # the source through the model's image tokenizer
    protocol: str = L1_PROTOCOL

    @cached_property
    def copying(self) -> Copying:
        return copying(self.prediction, self.source, self.target, self.round_trip)


@dataclass(frozen=True)
class Metric:
    """A metric of predicted images, from which tables, comparisons and pages derive.

    `value` computes it; None where a model does in batches: similarities of embeddings (`features.py`), exact patches
    (`patches.py`), what an inverse model reads off.
    """

    title: str
    note: str = ""  # completes "TITLE: ..." on the page
    higher_is_better: bool = True
    is_share: bool = False  # whether each image has a share from none to all, or 0 or 1
    value: Callable[[Compared], float] | None = None
    scale: Scale = UNIT  # where values can lie


COSINE: Scale = (-1.0, 1.0)
EXACT = ("exact_frames", "exact_patches")  # what `patches.Patches` says of an image

METRICS: dict[str, Metric] = {
    "exact_frames": Metric("Frames exact", "share of images with every patch exactly the target's", is_share=True),
    "exact_patches": Metric(
        "Changed patches exact", "of the patches that change, the share that is exactly right", is_share=True
    ),
    "l1": Metric("L1", higher_is_better=False, value=lambda c: l1(c.prediction, c.target, c.protocol)),
    "copy_ratio": Metric(
        "Copy ratio",
        "distance from the source, in units of the target's",
        value=lambda c: c.copying.ratio,
        scale=(0.0, math.inf),
    ),
    "copy": Metric("Copies", "share that repeats the source", False, True, lambda c: c.copying.copy),
    "change_iou": Metric(
        "Change IoU",
        "where the image changed, against where the target did",
        is_share=True,
        value=lambda c: c.copying.change_iou,
    ),
    "explained": Metric(
        "Explained right", "the inverse model reads the action off source and image, in the same words", is_share=True
    ),
    "clip_i": Metric("CLIP-I", scale=COSINE),
    "clip_instruction": Metric("CLIP, instruction", scale=COSINE),
    "clip_t": Metric("CLIP-T", "against a caption of the target", scale=COSINE),
    "dino": Metric("DINO", scale=COSINE),
}


def flow_magnitude(source: Image.Image, target: Image.Image) -> float:
    """Mean length of the optical flow from source to target, as a share of the image's diagonal."""
    width, height = source.size
    scale = FLOW_SIDE / min(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    first, second = (_grey(image, size) for image in (source, target))
    flow = dense_flow(cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), first, second)
    return float(np.linalg.norm(flow, axis=2).mean() / math.hypot(*size))


def _grey(image: Image.Image, size: tuple[int, int]) -> Gray:
    plane = np.asarray(image.convert("L"))
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
