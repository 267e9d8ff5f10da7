"""Weighted next-token batches: one kind for both directions.

A batch names the positions whose next token is supervised, that token within its own vocabulary (image tokens in the
forward direction, text tokens in the inverse), and a weight for each.

Shape suffixes: B sequences, T positions, S supervised positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrodict.models.token_family import FloatArray, IntArray, TokenFamily, TokenSequence, Trainable
from retrodict.prompts import Direction

IGNORED = -100


@dataclass(frozen=True, eq=False)
class Example:
    """A sequence ready for collation, built once for all epochs."""

    ids_T: IntArray
    features: Mapping[str, IntArray]
    positions_S: IntArray  # where the model predicts
    labels_S: IntArray  # what it predicts, within the direction's own vocabulary
    weights_S: FloatArray

    @property
    def bytes(self) -> int:
        """What it takes in memory: each array is a view of another, with some 300 beside its numbers."""
        integers = (self.ids_T, *self.features.values(), self.positions_S, self.labels_S)
        return sum(array.nbytes + 300 for array in integers) + self.weights_S.nbytes + 300

    def silent(self) -> Example:
        """The same, of no weight."""
        labels_S = np.full_like(self.labels_S, IGNORED)
        return replace(self, labels_S=labels_S, weights_S=np.zeros_like(self.weights_S))


def example(family: TokenFamily, sequence: TokenSequence, weights_S: FloatArray | None = None) -> Example:
    """Supervise the completion of `sequence`, each token with weight 1 or as given. What follows is left out."""
    assert sequence.segments.completion is not None, "a sequence without its completion has nothing to supervise"
    start, stop = sequence.segments.completion
    positions_S, labels_S = np.arange(start, stop), sequence.ids_T[start:stop]
    if sequence.direction == "forward":
        positions_S, labels_S = positions_S[family.spec.schedule < 0], family.spec.codes(labels_S)
    if weights_S is None:
        weights_S = np.ones(len(labels_S), dtype=np.float32)
    length = int(positions_S[-1])  # nothing is predicted after the last supervised position
    features = {name: value_T[:length] for name, value_T in family.features(sequence).items()}
    return Example(sequence.ids_T[:length], features, positions_S - 1, labels_S, weights_S)


def collate(examples: Sequence[Example], pad: int) -> dict[str, Tensor]:
    """Right-padded tensors: `input_ids`, the family's features, `positions`, `labels`, `weights`."""
    columns: dict[str, list[Any]] = {"input_ids": [e.ids_T for e in examples]}
    for name in examples[0].features:
        columns[name] = [e.features[name] for e in examples]
    columns["positions"] = [e.positions_S for e in examples]
    columns["labels"] = [e.labels_S for e in examples]
    columns["weights"] = [e.weights_S for e in examples]
    fill = {"input_ids": pad, "labels": IGNORED}
    return {name: pad_right(rows, fill.get(name, 0)) for name, rows in columns.items()}


def pad_right(rows: Sequence[Any], value: int) -> Tensor:
    length = max(len(row) for row in rows)
    padded = np.full((len(rows), length), value, dtype=rows[0].dtype)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)


def supervised_hidden(family: Trainable, batch: Mapping[str, Tensor]) -> Tensor:
    """Hidden states [B, S, D] at the supervised positions only; the head never sees the others."""
    other = ("input_ids", "positions", "labels", "weights")
    features: dict[str, Any] = {name: value for name, value in batch.items() if name not in other}
    return family.hidden(batch["input_ids"], at_BS=batch["positions"], **features)


def head(family: Trainable, direction: Direction) -> Callable[[Tensor], Tensor]:
    """Hidden states to logits over what a direction completes: image tokens or text tokens."""
    return family.image_logits if direction == "forward" else family.text_logits


def supervised_logits(family: Trainable, direction: Direction, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits [B, S, K or V] at the supervised positions."""
    return head(family, direction)(supervised_hidden(family, batch))


def token_nll(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Negative log-probability of each label in float32, [B, S]; 0 at ignored positions."""
    nll = torch.nn.functional.cross_entropy(
        logits_BSV.float().flatten(0, 1), labels_BS.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return nll.view(labels_BS.shape)
