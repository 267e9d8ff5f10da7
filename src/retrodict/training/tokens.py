"""Tokenized transitions, cached on disk: the image tokenizer runs once per picture, off the training loop's path."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrodict.models.protocol import FloatArray, IntArray, TokenFamily
from retrodict.transitions import FramePair, write_atomic

CHUNK = 512  # pairs tokenized at a time


@dataclass(frozen=True)
class Tokens:
    """Codes of N pairs, and how far source and target are apart at each place (what recognition weights build on)."""

    source_NL: IntArray
    target_NL: IntArray
    distance_NL: FloatArray  # squared L2 distance of the features before quantisation


def tokenize(
    family: TokenFamily,
    pairs: Sequence[FramePair],
    cache: Path | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Tokens:
    """Tokenize pairs in their order. `cache` is a folder; its files are named by tokenizer and pairs."""
    file = None if cache is None else cache / f"tokens-{_key(family, pairs)}.npz"
    if file is not None and file.is_file():
        with np.load(file) as stored:
            return Tokens(stored["source"], stored["target"], stored["distance"])
    sources, targets, distances = [], [], []
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        source = family.encode([pair.source_image for pair in chunk])
        target = family.encode([pair.target_image for pair in chunk])
        sources.append(source.codes_NL)
        targets.append(target.codes_NL)
        distances.append(np.square(source.features_NLD - target.features_NLD).sum(-1))
        if report is not None:
            report(start + len(chunk), len(pairs))
    tokens = Tokens(np.concatenate(sources), np.concatenate(targets), np.concatenate(distances))
    if file is not None:
        _write(file, tokens)
    return tokens


def _write(file: Path, tokens: Tokens) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:
            np.savez(handle, source=tokens.source_NL, target=tokens.target_NL, distance=tokens.distance_NL)

    write_atomic(file, write)


def _key(family: TokenFamily, pairs: Sequence[FramePair]) -> str:
    digest = hashlib.sha256(family.tokenizer.encode())
    for pair in pairs:
        digest.update(pair.id.encode() + b"\0")
        digest.update(hashlib.sha256((pair.source or b"") + (pair.target or b"")).digest())
    return digest.hexdigest()[:16]
