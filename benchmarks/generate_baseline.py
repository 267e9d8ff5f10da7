"""Sampling and scoring with `transformers.generate`, on the small family's weights: what `inference.py` compares with.

`published` is the way of the paper's released code: a `generate` call for each candidate, which is decoded to pixels,
encoded again and scored on its own. `batched` is the best that the library offers: `num_return_sequences`, and one
batch of scores on the sampled codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, GenerationMixin, LlamaConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from retrodict.dynamics.batches import collate, example, supervised_logits, token_nll
from retrodict.dynamics.sequences import build
from retrodict.models.small.family import SmallFamily
from retrodict.models.token_family import IntArray, TokenSequence
from retrodict.prompts import Direction


class SmallGenerator(PreTrainedModel, GenerationMixin):
    """The small model as the library's `generate` wants it. `features` are its other inputs, [1, T], by position."""

    config_class = LlamaConfig
    main_input_name = "input_ids"

    def __init__(self, family: SmallFamily) -> None:
        super().__init__(LlamaConfig(num_hidden_layers=family.module.config.num_hidden_layers))
        self.small = family.module
        self.features: dict[str, Tensor] = {}
        self.generation_config = GenerationConfig(pad_token_id=family.pad, eos_token_id=family.eos)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        assert position_ids is not None
        at_BT = position_ids.expand(len(input_ids), -1)
        hidden_BTD = self.small(
            input_ids,
            positions_BT=at_BT,
            cache=_Kept(past_key_values),
            **{name: value_1T[0][at_BT] for name, value_1T in self.features.items()},
        )
        logits = F.linear(hidden_BTD[:, -1:], self.small.head)
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)


class _Kept:
    """The library's cache as the small model takes it: rows have equal prefixes, so slots are positions there, too."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        kept: tuple[Tensor, Tensor] = self._library.update(keys, values, layer)
        return kept


class Baseline:
    """One direction of the small family behind `generate`."""

    def __init__(self, family: SmallFamily) -> None:
        self.family = family
        self.generator = SmallGenerator(family).eval()

    def _generate(self, sequence: TokenSequence, prefix: int, **options: Any) -> IntArray:
        room = options["max_new_tokens"]
        self.generator.features = {
            name: torch.from_numpy(np.pad(value, (0, room)))[None]
            for name, value in self.family.features(sequence).items()
        }
        ids_1T = torch.from_numpy(sequence.ids_T[None, :prefix])
        made = self.generator.generate(ids_1T, attention_mask=torch.ones_like(ids_1T), **options)
        return made[:, prefix:].numpy()

    def images(self, source_L: IntArray, action: str, n: int, *, greedy: bool = False, **options: Any) -> IntArray:
        """Codes [n, L] of one `generate` call."""
        family = self.family
        sequence = build(family, "forward", source_L=source_L, target_L=np.zeros_like(source_L), action=action)
        assert sequence.segments.completion is not None
        ids_NL = self._generate(
            sequence,
            sequence.segments.completion[0],
            **({"do_sample": False} if greedy else {"do_sample": True, "top_k": 0}),  # 50 by default
            num_return_sequences=n,
            max_new_tokens=family.spec.tokens,
            min_new_tokens=family.spec.tokens,
            suppress_tokens=list(range(family.spec.first_id)),
            **options,
        )
        return ids_NL - family.spec.first_id

    def caption(self, source_L: IntArray, target_L: IntArray) -> str:
        family = self.family
        sequence = build(family, "inverse", source_L=source_L, target_L=target_L)
        prior = family.text_logits(torch.zeros(self.generator.small.head.shape[1]))
        held_back = (prior < 0).nonzero()[:, 0].tolist()  # bytes, and special tokens but the end
        images = range(family.spec.first_id, family.spec.first_id + family.spec.codebook)
        ids_1T = self._generate(
            sequence, len(sequence.ids_T), do_sample=False, max_new_tokens=24, suppress_tokens=[*held_back, *images]
        )
        return family.text([i for i in ids_1T[0].tolist() if i != family.eos])

    @torch.inference_mode()
    def scores(self, source_L: IntArray, targets: Sequence[IntArray], action: str) -> list[float]:
        """log p(action | source, target), one padded batch."""
        direction: Direction = "inverse"
        rows = [build(self.family, direction, source_L=source_L, target_L=t, action=action) for t in targets]
        batch = collate([example(self.family, row) for row in rows], self.family.pad)
        nll = token_nll(supervised_logits(self.family, direction, batch), batch["labels"])
        return [-total for total in nll.sum(1).tolist()]


def published(forward: Baseline, inverse: Baseline, source_L: IntArray, action: str, n: int) -> IntArray:
    """The best of n candidates, made and scored one by one through pixels."""
    scored = []
    for _ in range(n):
        codes_1L = forward.images(source_L, action, 1)
        seen_1L = inverse.family.encode(forward.family.decode(codes_1L)).codes_NL
        scored.append((inverse.scores(source_L, [seen_1L[0]], action)[0], codes_1L[0]))
    return max(scored, key=lambda pair: pair[0])[1]


def batched(forward: Baseline, inverse: Baseline, source_L: IntArray, action: str, n: int, **options: Any) -> IntArray:
    """The best of n candidates, made in one call and scored in one batch."""
    codes_NL = forward.images(source_L, action, n, **options)
    forward.family.decode(codes_NL)
    scores = inverse.scores(source_L, list(codes_NL), action)
    return codes_NL[int(np.argmax(scores))]
