"""Log-probability of a completion under a token family: the scorer behind annotation, verification and probing.

Scores are sums over the completion's tokens, with their count; they do not depend on padding, batch size or
order. Image tokens are scored among image tokens only, text tokens among text tokens only.

Sequences with a common prefix (several targets of one source, several actions for one pair) prefill it once, where that
saves enough: a prefix tree over one KV cache. A shared prefix has the same ids and the same other inputs.

Shape suffixes: R sequences, S tokens, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from retrodict.dynamics.batches import IGNORED, Example, example, pad_right, token_nll
from retrodict.dynamics.kv_cache import KVCache, device_of, tokens_per_pass
from retrodict.models.protocol import LogProb
from retrodict.models.token_family import FloatArray, IntArray, TokenFamily, TokenSequence
from retrodict.prompts import Direction

TREE_COST = 1.3  # a token behind a shared prefix costs more than one in a plain forward pass


def score(family: TokenFamily, sequences: Sequence[TokenSequence], at_once: int | None = None) -> list[LogProb]:
    """log p(completion | prefix) of each sequence, all of one direction. `at_once` bounds a forward pass's tokens."""
    return [LogProb(total, len(nll_S)) for total, nll_S in _scored(family, sequences, at_once)]


def token_losses(
    family: TokenFamily, sequences: Sequence[TokenSequence], at_once: int | None = None
) -> list[FloatArray]:
    """The same token by token: negative log-probability of each token of the completion, in nats, [S]."""
    return [nll_S for _, nll_S in _scored(family, sequences, at_once)]


@torch.inference_mode()
def _scored(
    family: TokenFamily, sequences: Sequence[TokenSequence], at_once: int | None
) -> list[tuple[float, FloatArray]]:
    """Log-probability of each completion, and the loss of each of its tokens."""
    if not sequences:
        return []
    direction = sequences[0].direction
    assert all(s.direction == direction for s in sequences), "one direction a call"
    # Candidates of one prompt are often equal: each sequence is scored once.
    index_of: dict[bytes, int] = {}
    same_as = [index_of.setdefault(sequence.ids_T.tobytes(), len(index_of)) for sequence in sequences]
    distinct = [sequences[same_as.index(index)] for index in range(len(index_of))]
    rows = [_Row(sequence, example(family, sequence)) for sequence in distinct]
    scored = _Scorer(family, direction, rows, at_once or tokens_per_pass(device_of(family))).run()
    return [scored[index] for index in same_as]


@dataclass(frozen=True)
class _Row:
    sequence: TokenSequence
    example: Example

    @property
    def length(self) -> int:
        return len(self.example.ids_T)

    @cached_property
    def cuts(self) -> tuple[int, int]:
        """Where shared prefixes may end: behind the source image, and before the token that predicts the first of the
        completion."""
        return self.sequence.segments.source[1], int(self.example.positions_S[0])

    @cached_property
    def prefixes(self) -> tuple[bytes, ...]:
        """For each cut, what is equal for rows that share the prefix up to there."""
        parts = [self.example.ids_T, *(self.example.features[name] for name in sorted(self.example.features))]
        return tuple(b"".join(part[:cut].tobytes() for part in parts) for cut in self.cuts)


@dataclass(frozen=True, eq=False)
class _Span:
    """Tokens from `begin` to `end` that `members` (indices of rows) share, as they share what is before."""

    parent: int  # the row of the cache that holds what is before
    begin: int
    end: int
    members: tuple[int, ...]


class _Scorer:
    def __init__(self, family: TokenFamily, direction: Direction, rows: Sequence[_Row], budget: int) -> None:
        self._family, self._rows, self._budget, self._device = family, rows, budget, device_of(family)
        self._logits = family.image_logits if direction == "forward" else family.text_logits
        self._scored: dict[int, tuple[float, FloatArray]] = {}

    def run(self) -> list[tuple[float, FloatArray]]:
        self._descend(None, [_Span(0, 0, 0, tuple(range(len(self._rows))))], _cheapest(self._rows))
        return [self._scored[row] for row in range(len(self._rows))]

    def _descend(self, cache: KVCache | None, prefilled: Sequence[_Span], cuts: Sequence[int]) -> None:
        """Score the members of spans, of which `cache` holds span i in row i (None: nothing was prefilled yet)."""
        if cuts:
            spans = [child for i, span in enumerate(prefilled) for child in self._split(i, span, cuts[0])]
            for chunk in self._chunks(spans):
                inner = cache.fork(self._parents(chunk)) if cache else KVCache(self._family, self._longest(chunk))
                self._forward(inner, chunk)
                self._descend(inner, chunk, cuts[1:])
            return
        leaves = [_Span(i, s.end, self._rows[m].length, (m,)) for i, s in enumerate(prefilled) for m in s.members]
        if cache is None:
            leaves.sort(key=lambda leaf: leaf.end)  # like lengths together, so that little is padding
        for chunk in self._chunks(leaves):
            leaf = cache.fork(self._parents(chunk)) if cache else None
            self._score(chunk, leaf)

    def _split(self, row: int, span: _Span, cut: int) -> list[_Span]:
        shared: dict[bytes, list[int]] = {}
        for member in span.members:
            shared.setdefault(self._rows[member].prefixes[cut], []).append(member)
        return [_Span(row, span.end, self._rows[m[0]].cuts[cut], tuple(m)) for m in shared.values()]

    def _chunks(self, spans: Sequence[_Span]) -> Iterator[list[_Span]]:
        chunk: list[_Span] = []
        longest = 0
        for span in spans:
            longest = max(longest, span.end - span.begin)
            if chunk and longest * (len(chunk) + 1) > self._budget:
                yield chunk
                chunk, longest = [], span.end - span.begin
            chunk.append(span)
        if chunk:
            yield chunk

    def _longest(self, spans: Sequence[_Span]) -> int:
        return max(self._rows[member].length for span in spans for member in span.members)

    def _parents(self, spans: Sequence[_Span]) -> Tensor:
        return torch.tensor([span.parent for span in spans], device=self._device)

    def _forward(self, cache: KVCache | None, spans: Sequence[_Span], at_RS: Tensor | None = None) -> Tensor:
        """Hidden states [R, S, D] of one span a row, all or at some indices; without a cache, nothing is kept."""
        examples = [self._rows[span.members[0]].example for span in spans]
        ids_RS = self._tensor(
            [e.ids_T[s.begin : s.end] for e, s in zip(examples, spans, strict=True)], self._family.pad
        )
        inputs: dict[str, Any] = {
            name: self._tensor([e.features[name][s.begin : s.end] for e, s in zip(examples, spans, strict=True)], 0)
            for name in examples[0].features
        }
        if cache is None:
            return self._family.hidden(ids_RS, at_BS=at_RS, **inputs)
        if cache.empty:
            return cache.prefill(ids_RS, inputs, at_RS)
        range_R2 = torch.tensor([(span.begin, span.end) for span in spans], device=self._device)
        position_RS = range_R2[:, :1] + torch.arange(ids_RS.shape[1], device=self._device)
        return cache.extend(ids_RS, inputs, position_RS, position_RS < range_R2[:, 1:], at_RS)

    def _tensor(self, rows: Sequence[IntArray], value: int) -> Tensor:
        return pad_right(rows, value).to(self._device)

    def _score(self, spans: Sequence[_Span], cache: KVCache | None) -> None:
        examples = [self._rows[span.members[0]].example for span in spans]
        at_RS = self._tensor([e.positions_S - s.begin for e, s in zip(examples, spans, strict=True)], 0)
        labels_RS = self._tensor([e.labels_S for e in examples], IGNORED)
        hidden_RSD = self._forward(cache, spans, at_RS)
        nll_RS = token_nll(self._logits(hidden_RSD), labels_RS)
        rows = zip(spans, examples, nll_RS.sum(1).tolist(), nll_RS.cpu().numpy(), strict=True)
        for span, one, total, nll_S in rows:
            self._scored[span.members[0]] = -total, nll_S[: len(one.labels_S)]


def _cheapest(rows: Sequence[_Row]) -> tuple[int, ...]:
    """Which cuts to make, so that forward passes cost the least; often none."""
    cuts = range(len(rows[0].cuts))
    choices = [chosen for count in range(len(cuts) + 1) for chosen in combinations(cuts, count)]
    return min(choices, key=lambda chosen: _cost(rows, chosen))


def _cost(rows: Sequence[_Row], cuts: Sequence[int]) -> float:
    tokens, prefilled = 0, {id(row): 0 for row in rows}
    for cut in cuts:
        tokens += sum({row.prefixes[cut]: row.cuts[cut] - prefilled[id(row)] for row in rows}.values())
        prefilled = {id(row): row.cuts[cut] for row in rows}
    tokens += sum(row.length - prefilled[id(row)] for row in rows)
    return tokens * TREE_COST if cuts else tokens
