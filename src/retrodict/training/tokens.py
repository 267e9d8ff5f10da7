"""Tokenized transitions, cached on disk: the image tokenizer runs once per image, off the training loop's path."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrodict.files import write_atomic
from retrodict.models.token_family import FloatArray, IntArray, TokenFamily
from retrodict.shards import Share
from retrodict.training.distributed import process_count, process_number, wait_for
from retrodict.transitions import FramePair

CHUNK = 512  # pairs tokenized at a time, and in one file
MAPPED = 64  # files of tokens that are open at a time
MANY = 256  # tokens per image from which on distances are kept in half precision: then they are what fills the disk

Chunk = npt.NDArray[Any]  # one record a pair: source and target tokens, distances


class Tokens:
    """Image tokens of N pairs, in the smallest type that holds them, and how far the images are apart at each position.

    Distances are squared L2 distances of the features before quantisation, what recognition weights build on. Images
    of many tokens have them relative to the pair's mean, in half precision.

    Tokens that are cached stay on disk and are mapped into memory a file at a time: at millions of pairs they are many
    gigabytes, which each process would hold.
    """

    def __init__(self, chunks: Sequence[Chunk | Path], pairs: int) -> None:
        self._chunks, self._pairs = chunks, pairs
        self._size = CHUNK
        self._open = lru_cache(maxsize=MAPPED)(self._mapped)

    def __len__(self) -> int:
        return self._pairs

    def pair(self, i: int) -> tuple[IntArray, IntArray]:
        """Image tokens of the source and the target of pair `i`."""
        row = self._row(i)
        return row["source"].astype(np.int64), row["target"].astype(np.int64)

    def distances(self, i: int) -> FloatArray:
        """The distances of pair `i`, of shape (L,)."""
        distance_L: FloatArray = self._row(i)["distance"].astype(np.float32)
        return distance_L

    def _row(self, i: int) -> Chunk:
        row: Chunk = self._open(i // self._size)[i % self._size]
        return row

    def _mapped(self, number: int) -> Chunk:
        chunk = self._chunks[number]
        return np.load(chunk, mmap_mode="r") if isinstance(chunk, Path) else chunk


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
    share = Share(process_number(), process_count())
    chunks: list[Chunk | Path] = []
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        chunks.append(_cached(family, chunk, cache, cache is None or share.takes(start // CHUNK)))
        if report is not None:
            report(start + len(chunk), len(pairs))
    wait_for([file for file in chunks if isinstance(file, Path)], "files of image tokens")
    return Tokens(chunks, len(pairs))


def _cached(family: TokenFamily, chunk: Sequence[FramePair], cache: Path | None, mine: bool) -> Chunk | Path:
    """Tokens of a chunk, or the file in which they are, or will be once another process has made them."""
    if cache is None:
        return _tokens(family, chunk)
    file = cache / f"tokens-{_key(family, chunk)}.npy"
    if mine and not file.is_file():
        _write(file, _tokens(family, chunk))
    return file


def _tokens(family: TokenFamily, chunk: Sequence[FramePair]) -> Chunk:
    source = family.encode([pair.source_image for pair in chunk])
    target = family.encode([pair.target_image for pair in chunk])
    distance_NL = np.square(source.features_NLD - target.features_NLD).sum(-1)
    if family.spec.tokens >= MANY:
        mean_N1 = distance_NL.mean(1, keepdims=True)
        distance_NL = (distance_NL / np.where(mean_N1 > 0, mean_N1, 1)).astype(np.float16)
    kind = np.uint16 if family.spec.codebook <= 2**16 else np.uint32
    fields = {"source": source.codes_NL.astype(kind), "target": target.codes_NL.astype(kind), "distance": distance_NL}
    rows = np.empty(len(chunk), [(name, field.dtype, field.shape[1:]) for name, field in fields.items()])
    for name, field in fields.items():
        rows[name] = field
    return rows


def _write(file: Path, tokens: Chunk) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:
            np.save(handle, tokens)

    write_atomic(file, write)


def _key(family: TokenFamily, pairs: Sequence[FramePair]) -> str:
    """Names what tokens depend on: the images, the tokenizer and how it prepares them (its name says both)."""
    digest = hashlib.sha256(f"{family.tokenizer} {family.spec.size}".encode())
    for pair in pairs:
        digest.update(pair.id.encode() + b"\0")
        digest.update(hashlib.sha256((pair.source or b"") + (pair.target or b"")).digest())
    return digest.hexdigest()[:16]
