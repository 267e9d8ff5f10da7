"""KV cache with per-row positions: rows of unequal length can be forked and continued.

The keys and values of a token lie in the slot of its position, and a token attends to the slots up to its own. So rows
need no left padding, a row is rewound by overwriting its later slots, and no mask depends on padding.

Shape suffixes: R rows, S new tokens, T positions, C slots, H heads, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from retrodict.models.protocol import IntArray, TokenFamily, TokenSequence

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


class _Slots(DynamicLayer):
    """Keys and values of one layer. The prefill fills slots from 0 on; later tokens go to the slots in `where`."""

    def __init__(self, slots: int, where: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots, self._where = slots, where

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.is_initialized = True
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values = self._with_room(key_states), self._with_room(value_states)
            return key_states, value_states
        (slots_RS,) = self._where
        keys_RHCD, values_RHCD = self.filled()
        index_RHSD = slots_RS[:, None, :, None].expand_as(key_states)
        return keys_RHCD.scatter_(2, index_RHSD, key_states), values_RHCD.scatter_(2, index_RHSD, value_states)

    def filled(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None, "there was no prefill"
        return self.keys, self.values

    def _with_room(self, states_RHSD: Tensor) -> Tensor:
        rows, heads, length, width = states_RHSD.shape
        if length == self._slots:
            return states_RHSD
        room_RHCD = states_RHSD.new_zeros(rows, heads, self._slots, width)
        room_RHCD[:, :, :length] = states_RHSD
        return room_RHCD

    def fork(self, rows_R: Tensor, where: list[Tensor]) -> _Slots:
        forked = _Slots(self._slots, where)
        forked.is_initialized, forked.dtype, forked.device = True, self.dtype, self.device
        keys_RHCD, values_RHCD = self.filled()
        forked.keys, forked.values = keys_RHCD.index_select(0, rows_R), values_RHCD.index_select(0, rows_R)
        return forked


class KVCache:
    """Keys and values of `family` for up to `capacity` positions a row. An extra slot absorbs writes from padding."""

    def __init__(self, family: TokenFamily, capacity: int) -> None:
        self._family, self._capacity = family, capacity
        self._where: list[Tensor] = []
        replicate: Any = partial(_Slots, capacity + 1, self._where)
        self._cache = Cache(layer_class_to_replicate=replicate)

    @property
    def empty(self) -> bool:
        return not self._cache.layers

    @property
    def row_bytes(self) -> int:
        """Bytes of the keys and values of one row."""
        return sum(states.nbytes // len(states) for layer in self._layers for states in layer.filled())

    def prefill(self, ids_RS: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The first forward pass, from position 0 on: hidden states [R, S, D]."""
        positions_1S = torch.arange(ids_RS.shape[1], device=ids_RS.device)[None]
        return self._hidden(ids_RS, inputs, positions_1S, None)

    def extend(self, ids_RS: Tensor, inputs: Mapping[str, Tensor], positions_RS: Tensor, real_RS: Tensor) -> Tensor:
        """Forward pass of more tokens at the given positions: hidden states [R, S, D], meaningless where not `real`."""
        self._where[:] = [torch.where(real_RS, positions_RS, self._capacity)]
        slots_C = torch.arange(self._capacity + 1, device=ids_RS.device)
        seen_RSC = slots_C <= positions_RS[:, :, None]
        dtype = next(self._family.module.parameters()).dtype
        mask_R1SC = torch.zeros(seen_RSC.shape, dtype=dtype, device=ids_RS.device)
        mask_R1SC = mask_R1SC.masked_fill_(~seen_RSC, torch.finfo(dtype).min)[:, None]
        return self._hidden(ids_RS, inputs, positions_RS, mask_R1SC)

    def fork(self, rows_R: Tensor) -> KVCache:
        """A cache of copies of these rows, in this order, each as often as it is named."""
        forked = KVCache(self._family, self._capacity)
        forked._cache = Cache(layers=[layer.fork(rows_R, forked._where) for layer in self._layers])
        return forked

    @property
    def _layers(self) -> list[_Slots]:
        return [layer for layer in self._cache.layers if isinstance(layer, _Slots)]

    def _hidden(
        self, ids_RS: Tensor, inputs: Mapping[str, Tensor], positions_RS: Tensor, mask_R1SC: Tensor | None
    ) -> Tensor:
        output = self._family.hidden(
            ids_RS,
            attention_mask=mask_R1SC,
            position_ids=positions_RS,
            past_key_values=self._cache,
            use_cache=True,
            **inputs,
        )
        hidden_RSD: Tensor = output.last_hidden_state
        return hidden_RSD
