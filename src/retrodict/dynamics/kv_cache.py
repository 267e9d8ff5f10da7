"""KV cache with per-row positions: rows of unequal length can be forked and continued.

The keys and values of a token lie in the slot of its position, and a token attends to the slots up to its own. So rows
need no left padding, a row is rewound by overwriting its later slots, and no mask depends on padding.

Shape suffixes: R rows, S new tokens, T positions, C slots, H heads, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from retrodict.models.token_family import IntArray, TokenFamily, TokenSequence

CPU_TOKENS = 2048  # of one forward pass: fastest where activations fit a core's cache, measured on the small family
GPU_TOKENS = 65536


def tokens_per_pass(device: torch.device) -> int:
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


def device_of(family: TokenFamily) -> torch.device:
    return next(family.module.parameters()).device


class PaddedBatch:
    """Sequences as right-padded tensors [R, T]: ids and the family's other inputs."""

    def __init__(self, family: TokenFamily, sequences: Sequence[TokenSequence], room: int = 0) -> None:
        """`room`: positions after the longest sequence, with inputs of 0."""
        self.device = device_of(family)
        self._length = max(len(s.ids_T) for s in sequences) + room
        features = [family.features(s) for s in sequences]
        self.ids_RT = self._padded([s.ids_T for s in sequences], family.pad)
        self.inputs = {name: self._padded([f[name] for f in features], 0) for name in features[0]}

    def _padded(self, rows: Sequence[IntArray], value: int) -> Tensor:
        padded_RT = np.full((len(rows), self._length), value, dtype=np.int64)
        for i, row in enumerate(rows):
            padded_RT[i, : len(row)] = row
        return torch.from_numpy(padded_RT).to(self.device)

    def inputs_at(self, rows_R: Tensor, positions_RS: Tensor) -> dict[str, Tensor]:
        return {name: value_RT[rows_R[:, None], positions_RS] for name, value_RT in self.inputs.items()}


class KVCache:
    """Keys and values of `family` for up to `capacity` positions a row. An extra slot absorbs writes from padding."""

    def __init__(self, family: TokenFamily, capacity: int) -> None:
        self._family, self._capacity = family, capacity
        self._layers: list[tuple[Tensor, Tensor]] = []  # keys and values [R, H, C, D]
        self._slots_RS = torch.empty(0)  # where `extend` puts its tokens

    @property
    def empty(self) -> bool:
        return not self._layers

    @property
    def slots(self) -> int:
        return self._capacity + 1

    @property
    def row_bytes(self) -> int:
        """Bytes of the keys and values of one row."""
        return sum(states.nbytes // len(states) for layer in self._layers for states in layer)

    def prefill(self, ids_RS: Tensor, inputs: Mapping[str, Tensor], at_RW: Tensor | None = None) -> Tensor:
        """The first forward pass, from position 0 on.

        Args:
            ids_RS: token ids, right-padded.
            inputs: the family's other inputs at these positions, [R, S].
            at_RW: indices of S whose hidden states are wanted; None: all.

        Returns:
            Hidden states [R, W, D].
        """
        return self._family.hidden(ids_RS, at_BS=at_RW, cache=self, **inputs)

    def extend(
        self,
        ids_RS: Tensor,
        inputs: Mapping[str, Tensor],
        positions_RS: Tensor,
        real_RS: Tensor,
        at_RW: Tensor | None = None,
    ) -> Tensor:
        """Forward pass of more tokens at the given positions.

        Args:
            ids_RS: token ids.
            inputs: as for `prefill`.
            positions_RS: where they stand in their rows.
            real_RS: false where a token is padding.
            at_RW: as for `prefill`.

        Returns:
            Hidden states [R, W, D], meaningless where a token is padding.
        """
        self._slots_RS = torch.where(real_RS, positions_RS, self._capacity)
        return self._family.hidden(ids_RS, at_BS=at_RW, positions_BT=positions_RS, cache=self, **inputs)

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """As `token_family.Cache` has it: called by the model in its forward pass."""
        if layer == len(self._layers):
            self._layers.append((self._with_room(keys), self._with_room(values)))
            return keys, values
        keys_RHCD, values_RHCD = self._layers[layer]
        index_RHSD = self._slots_RS[:, None, :, None].expand_as(keys)
        return keys_RHCD.scatter_(2, index_RHSD, keys), values_RHCD.scatter_(2, index_RHSD, values)

    def fork(self, rows_R: Tensor) -> KVCache:
        """A cache of copies of these rows, in this order, each as often as it is named."""
        forked = KVCache(self._family, self._capacity)
        forked._layers = [
            (keys.index_select(0, rows_R), values.index_select(0, rows_R)) for keys, values in self._layers
        ]
        return forked

    def _with_room(self, states_RHSD: Tensor) -> Tensor:
        rows, heads, length, width = states_RHSD.shape
        room_RHCD = states_RHSD.new_zeros(rows, heads, self.slots, width)
        room_RHCD[:, :, :length] = states_RHSD
        return room_RHCD
