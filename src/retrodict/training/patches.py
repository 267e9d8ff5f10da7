"""The table of a `PatchTokenizer`, from the patches of images: closed form where they are few, k-means elsewhere.

Distances and sums are whole numbers (`nearest`), so that a seed gives one table, whatever the thread count.

Shape suffixes: N patches, D distinct ones, K entries of the table, P bytes of a patch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from retrodict.models.small.image_tokenizer import Bytes, nearest
from retrodict.models.token_family import IntArray

FITTED = 16_384  # distinct patches that k-means looks at
ROUNDS = 10  # of k-means


class Distinct(NamedTuple):
    """Distinct patches and how often each occurs, the most frequent first."""

    patches_DP: Bytes
    counts_D: IntArray


def distinct(chunks: Iterable[Bytes]) -> Distinct:
    """The distinct rows of arrays [N, P]. They are told apart by a 64-bit hash."""
    seen: dict[int, tuple[Bytes, int]] = {}
    for patches_NP in chunks:
        keys, first, counts = np.unique(_hash(patches_NP), return_index=True, return_counts=True)
        for key, index, count in zip(keys.tolist(), first.tolist(), counts.tolist(), strict=True):
            patch, before = seen.get(key) or (patches_NP[index].copy(), 0)
            seen[key] = (patch, before + count)
    order = sorted(seen, key=lambda key: (-seen[key][1], key))
    return Distinct(np.stack([seen[key][0] for key in order]), np.array([seen[key][1] for key in order]))


def _hash(patches_NP: Bytes) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    odd = np.random.default_rng(0).integers(0, 2**63, patches_NP.shape[1], dtype=np.uint64) * 2 + 1
    parts = [patches_NP[at : at + 4096].astype(np.uint64) @ odd for at in range(0, len(patches_NP), 4096)]
    return np.concatenate(parts)


def fit_table(patches: Distinct, codes: int, seed: int) -> Bytes:
    """A table of at most `codes` patches.

    All distinct patches, where they are few enough. Else k-means++ on the distinct ones, each weighing the root of its
    count, so that what is rare and acts is not drowned by the background; an entry is the (weighted) median patch of
    those nearest to it, which has the least absolute error.
    """
    if len(patches.patches_DP) <= codes:
        return patches.patches_DP
    rng = np.random.default_rng(seed)
    # The most frequent; among equally frequent ones, any.
    kept = np.lexsort((rng.random(len(patches.counts_D)), -patches.counts_D))[:FITTED]
    patches_DP, weights_D = patches.patches_DP[kept], np.sqrt(patches.counts_D[kept]).astype(np.int64)
    table_KP = _spread(patches_DP, weights_D, codes, rng)
    for _ in range(ROUNDS):
        codes_D, distance_D = nearest(patches_DP, table_KP)
        moved_KP = _centres(patches_DP, weights_D, codes_D, table_KP)
        dead_K = np.flatnonzero(np.bincount(codes_D, minlength=codes) == 0)
        worst_D = np.argsort(-distance_D * weights_D, kind="stable")
        moved_KP[dead_K] = patches_DP[worst_D[: len(dead_K)]]
        if (moved_KP == table_KP).all():
            break
        table_KP = moved_KP
    codes_D, _ = nearest(patches_DP, table_KP)
    return _medians(patches_DP, weights_D, codes_D, table_KP)


def _spread(patches_DP: Bytes, weights_D: IntArray, codes: int, rng: np.random.Generator) -> Bytes:
    """k-means++: each next entry is a patch, drawn by its weight and its squared distance from those before."""
    chosen = [int(rng.choice(len(weights_D), p=weights_D / weights_D.sum()))]
    _, distance_D = nearest(patches_DP, patches_DP[chosen])
    while len(chosen) < codes:
        mass_D = distance_D * weights_D
        chosen.append(int(rng.choice(len(weights_D), p=mass_D / mass_D.sum())))
        distance_D = np.minimum(distance_D, nearest(patches_DP, patches_DP[chosen[-1:]])[1])
    return patches_DP[chosen]


def _centres(patches_DP: Bytes, weights_D: IntArray, codes_D: IntArray, table_KP: Bytes) -> Bytes:
    """The weighted mean patch of each entry, in whole pixels; an entry that nothing is nearest to stays."""
    order = np.argsort(codes_D, kind="stable")
    used, starts = np.unique(codes_D[order], return_index=True)
    weighted = patches_DP[order].astype(np.int64) * weights_D[order, None]
    sums = np.add.reduceat(weighted, starts)
    totals = np.add.reduceat(weights_D[order], starts)[:, None]
    moved = table_KP.copy()
    moved[used] = (2 * sums + totals) // (2 * totals)
    return moved


def _medians(patches_DP: Bytes, weights_D: IntArray, codes_D: IntArray, table_KP: Bytes) -> Bytes:
    """The weighted median patch of each entry."""
    table_KP = table_KP.copy()
    for code in np.unique(codes_D):
        members = codes_D == code
        values = patches_DP[members]
        order = np.argsort(values, axis=0, kind="stable")
        reached = weights_D[members][order].cumsum(0)
        middle = (2 * reached >= reached[-1]).argmax(0)
        table_KP[code] = np.take_along_axis(values, order, 0)[middle, np.arange(values.shape[1])]
    return table_KP
