"""Clips that show the same: copies that were encoded, scaled or named anew, found by their fingerprints.

A fingerprint has the image at equal steps of time as a difference hash (which of two neighbouring pixels of a 9 x 8
image is brighter: 64 bits), and how much moved in between. Images alone would not do: all clips of a camera that stands
still look the same. Where they agree and the motion rises and falls alike, it is the same clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from retrodict.files import JsonMapping, JsonObject
from retrodict.video.cuts import BLANK
from retrodict.video.decode import Gray

_STEP, _MOST = 0.25, 16  # seconds at first; doubled where there would be more hashes than that
_LEAST = 4  # steps, without which only clips that are equal in all are the same
_ALIKE, _FURTHEST = 4, 14  # of 64 bits: the median over a clip, and any of its images
_IN_STEP = 0.9  # correlation of the motion
_EVERY, _BANDS = 4, 4  # images of which, and parts of their hashes, of which one is equal in clips that are compared
_COMPARED = 30  # clips before one that share a part: of many that look alike only the nearest by name are compared


class Fingerprint:
    """Of a clip, frame by frame."""

    def __init__(self) -> None:
        self._step, self._begin = _STEP, 0.0
        self._images: list[str] = []
        self._motion: list[float] = []  # sum over the frames of each step
        self._frames: list[float] = []

    def push(self, seconds: float, small: Gray, motion: float) -> None:
        """A frame's time, its small luma plane, and its motion per second."""
        if not self._images:
            self._begin = seconds
        while (at := int((seconds - self._begin) / self._step)) >= _MOST:
            self._step *= 2
            self._images = self._images[::2]
            self._motion, self._frames = _sums(self._motion, 2), _sums(self._frames, 2)
        if missing := max(0, at + 1 - len(self._images)):  # more than one after a pause, in which the image stayed
            self._images += [_hash(small)] * missing
            self._motion += [0.0] * missing
            self._frames += [0] * missing
        self._motion[-1] += motion
        self._frames[-1] += 1

    def to_dict(self) -> JsonObject:
        """`step` in seconds; `images`, hexadecimal, empty where one shows nothing; mean `motion` of each step."""
        means = [round(total / max(1, count), 5) for total, count in zip(self._motion, self._frames, strict=True)]
        return {"step": self._step, "images": self._images, "motion": means}


def _sums(values: list[float], size: int) -> list[float]:
    return [sum(values[at : at + size]) for at in range(0, len(values), size)]


def _hash(small: Gray) -> str:
    tiny = cv2.resize(small, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return "" if tiny.std() < BLANK else np.packbits(tiny[:, 1:] > tiny[:, :-1]).tobytes().hex()


def near_duplicates(ledger: Iterable[JsonMapping]) -> dict[str, str]:
    """Clips that show the same as one before them by name, and the first that does.

    Args:
        ledger: records of clips, with `clip` and `fingerprint`.
    """
    seen = (clip for clip in ledger if any(clip["fingerprint"].get("images", ())))
    clips = sorted(seen, key=lambda clip: str(clip["clip"]))
    first: dict[int, int] = {}
    for later, earlier in _candidates([clip["fingerprint"] for clip in clips]):
        if later not in first and are_one(clips[earlier]["fingerprint"], clips[later]["fingerprint"]):
            first[later] = first.get(earlier, earlier)
    return {clips[later]["clip"]: clips[earlier]["clip"] for later, earlier in first.items()}


def _candidates(prints: Sequence[JsonMapping]) -> list[tuple[int, int]]:
    """Pairs of which some image at one time has a part of its hash in common, in order; the later one comes first."""
    keyed = [(key, number) for number, one in enumerate(prints) for key in _keys(one)]
    if not keyed:
        return []
    key_N, number_N = (np.array(column, np.int64) for column in zip(*keyed, strict=True))
    order_N = np.lexsort((number_N, key_N))
    key_N, number_N = key_N[order_N], number_N[order_N]
    pairs: set[tuple[int, int]] = set()
    for back in range(1, min(_COMPARED, len(key_N) - 1) + 1):
        together_N = key_N[back:] == key_N[:-back]
        pairs.update(zip(number_N[back:][together_N].tolist(), number_N[:-back][together_N].tolist(), strict=True))
    return sorted(pairs)


def _keys(fingerprint: JsonMapping) -> Iterator[int]:
    """Each part of the hash of every fourth image, with its time."""
    images = fingerprint["images"]
    for at in range(0, len(images), _EVERY):
        time = round(at * fingerprint["step"] / _STEP)
        for band in range(_BANDS if images[at] else 0):
            yield (time * _BANDS + band) << 16 | int(images[at][4 * band : 4 * band + 4], 16)


def are_one(one: JsonMapping, other: JsonMapping) -> bool:
    """Whether two fingerprints are of clips that show the same from beginning to end."""
    if one == other:
        return True
    step = max(one["step"], other["step"])
    images, motion = zip(*(_at_step(each, step) for each in (one, other)), strict=True)
    shown = [(a, b) for a, b in zip(*images, strict=False) if a and b]
    if abs(len(images[0]) - len(images[1])) > 1 or len(shown) < _LEAST:
        return False
    apart = [(int(a, 16) ^ int(b, 16)).bit_count() for a, b in shown]
    if np.median(apart) > _ALIKE or max(apart) > _FURTHEST:
        return False
    length = min(len(motion[0]), len(motion[1]))
    return _correlation(*(np.array(each[:length]) for each in motion)) >= _IN_STEP


def _at_step(fingerprint: JsonMapping, step: float) -> tuple[list[str], list[float]]:
    size = round(step / fingerprint["step"])
    return fingerprint["images"][::size], [total / size for total in _sums(fingerprint["motion"], size)]


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / scale if scale else 0.0
