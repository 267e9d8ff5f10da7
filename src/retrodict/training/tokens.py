"""Tokenized transitions, cached on disk: the image tokenizer runs once per image, off the training loop's path."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrodict.files import write_atomic
from retrodict.models.protocol import FloatArray, IntArray, TokenFamily
from retrodict.training.distributed import process_count, process_number, wait_until
from retrodict.transitions import FramePair

CHUNK = 512  # pairs tokenized at a time, and in one file
MANY = 256  # tokens per image from which on distances are kept in half precision: then they are what fills the disk


@dataclass(frozen=True)
class Tokens:
    """Image tokens of N pairs, in the smallest type that holds them, and how far the images are apart at each position.

    Distances are squared L2 distances of the features before quantisation, what recognition weights build on. Images
    of many tokens have them relative to the pair's mean, in half precision.
    """

    source_NL: npt.NDArray[np.integer]
    target_NL: npt.NDArray[np.integer]
    distance_NL: npt.NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.source_NL)

    def pair(self, i: int) -> tuple[IntArray, IntArray]:
        """Image tokens of the source and the target of pair `i`."""
        return self.source_NL[i].astype(np.int64), self.target_NL[i].astype(np.int64)

    def distances(self, start: int, stop: int) -> FloatArray:
        distance_NL: FloatArray = self.distance_NL[start:stop].astype(np.float32)
        return distance_NL


def tokenize(
    family: TokenFamily,
    pairs: Sequence[FramePair],
    cache: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Tokens:
    """Tokenize pairs in their order.

    `cache` is a folder that runs may share. Its files hold `CHUNK` pairs each and are named by the image tokenizer and
    the pairs' images, so that an interrupted run resumes where it was. Ranks share the work through it.
    """
    parts = []
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        mine = cache is None or (start // CHUNK) % process_count() == process_number()
        parts.append(_cached(family, chunk, cache, mine))
        if report is not None:
            report(start + len(chunk), len(pairs))
    read = [part if isinstance(part, Tokens) else _read(part) for part in parts]
    names = ("source_NL", "target_NL", "distance_NL")
    return Tokens(*(np.concatenate([getattr(part, name) for part in read]) for name in names))


def _cached(family: TokenFamily, chunk: Sequence[FramePair], cache: Path | None, mine: bool) -> Tokens | Path:
    """Tokens of a chunk, or the file in which they are, or will be once another process has made them."""
    if cache is None:
        return _tokens(family, chunk)
    file = cache / f"tokens-{_key(family, chunk)}.npz"
    if mine and not file.is_file():
        _write(file, _tokens(family, chunk))
    return file


def _tokens(family: TokenFamily, chunk: Sequence[FramePair]) -> Tokens:
    source = family.encode([pair.source_image for pair in chunk])
    target = family.encode([pair.target_image for pair in chunk])
    distance_NL = np.square(source.features_NLD - target.features_NLD).sum(-1)
    if family.spec.tokens >= MANY:
        mean_N1 = distance_NL.mean(1, keepdims=True)
        distance_NL = (distance_NL / np.where(mean_N1 > 0, mean_N1, 1)).astype(np.float16)
    kind = np.uint16 if family.spec.codebook <= 2**16 else np.uint32
    return Tokens(source.codes_NL.astype(kind), target.codes_NL.astype(kind), distance_NL)


def _read(file: Path) -> Tokens:
    wait_until(file.is_file)
    with np.load(file) as stored:
        return Tokens(stored["source"], stored["target"], stored["distance"])


def _write(file: Path, tokens: Tokens) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:
            np.savez(handle, source=tokens.source_NL, target=tokens.target_NL, distance=tokens.distance_NL)

    write_atomic(file, write)


def _key(family: TokenFamily, pairs: Sequence[FramePair]) -> str:
    """Names what tokens depend on: the images, the tokenizer and how it prepares them (its name says both)."""
    digest = hashlib.sha256(f"{family.tokenizer} {family.spec.size}".encode())
    for pair in pairs:
        digest.update(pair.id.encode() + b"\0")
        digest.update(hashlib.sha256((pair.source or b"") + (pair.target or b"")).digest())
    return digest.hexdigest()[:16]
