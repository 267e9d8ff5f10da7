"""The small family's transformer: a Llama with two kinds of input that tell it where image tokens lie.

Source and target show the same scene, so a model of this size learns far faster when it is given the source token at
the same row and column as a target token (`aligned`) and these two (`row`, `column`) than when it
must find that out by attention over one-dimensional positions. All are sums of embeddings; the rest is `LlamaModel`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, PreTrainedModel

SIDES = ("left", "right", "above", "below")


class SmallConfig(LlamaConfig):
    model_type = "retrodict-small"

    def __init__(
        self, text_vocabulary: int = 64, image_codes: int = 128, rows: int = 6, columns: int = 6, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs | {"vocab_size": text_vocabulary + image_codes})  # a saved config names it, too
        self.text_vocabulary = text_vocabulary
        self.image_codes = image_codes
        self.rows = rows
        self.columns = columns


class SmallModel(PreTrainedModel):
    """Token ids and their rows and columns to hidden states; the head is tied to the token embeddings."""

    config_class = SmallConfig
    base_model_prefix = "small"

    def __init__(self, config: SmallConfig) -> None:
        super().__init__(config)
        self.backbone = LlamaModel(config)
        self.row = nn.Embedding(config.rows + 1, config.hidden_size, padding_idx=0)
        self.column = nn.Embedding(config.columns + 1, config.hidden_size, padding_idx=0)
        self.aligned = nn.Embedding(config.image_codes + 1, config.hidden_size, padding_idx=0)
        self.before = nn.Embedding(config.image_codes + 1, config.hidden_size, padding_idx=0)
        self.changed = nn.Embedding(3, config.hidden_size, padding_idx=0)
        self.beside = nn.ModuleDict(
            {side: nn.Embedding(config.image_codes + 1, config.hidden_size, padding_idx=0) for side in SIDES}
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        row: Tensor,
        column: Tensor,
        aligned: Tensor,
        before: Tensor,
        changed: Tensor,
        **inputs: Any,
    ) -> Any:
        """Token ids and the features of `SmallFamily.features`, all [B, T]; the output is `LlamaModel`'s."""
        embeds_BTD = self.backbone.embed_tokens(input_ids) + self.row(row) + self.column(column)
        embeds_BTD = embeds_BTD + self.aligned(aligned) + self.before(before) + self.changed(changed)
        for side, table in self.beside.items():
            embeds_BTD = embeds_BTD + table(inputs.pop(side))
        return self.backbone(inputs_embeds=embeds_BTD, **inputs)

    @property
    def head(self) -> Tensor:
        weight: Tensor = self.backbone.embed_tokens.weight
        return weight
