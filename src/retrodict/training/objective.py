"""The weighted loss as one module, so that what wraps modules (DDP, FSDP, DeepSpeed) sees the whole forward pass.

Shape suffixes: B sequences, S supervised positions, R of them in a row, D features, V tokens of the direction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from retrodict.dynamics.batches import IGNORED, head, supervised_hidden, token_nll
from retrodict.models.token_family import Trainable
from retrodict.prompts import Direction

LOGITS = 2**26  # that exist at a time: 256 MB in float32


class Objective(nn.Module):
    """A family's `module` and what it is trained for: the weighted sum of token losses, over a given denominator."""

    def __init__(self, family: Trainable, direction: Direction) -> None:
        super().__init__()
        self.model = family.module
        self._family = family
        self._direction = direction

    def forward(self, labels: Tensor, weights: Tensor, denominator: Tensor | float, **batch: Tensor) -> Tensor:
        """`sum(weights * nll) / denominator`, a scalar; `batch` is the rest of what `batches.collate` makes."""
        hidden_BSD = supervised_hidden(self._family, batch)
        with torch.autocast(hidden_BSD.device.type, enabled=False):  # the head is as precise as its weights
            return weighted_nll(self._family, self._direction, hidden_BSD, labels, weights) / denominator

    def tie_weights(self, **options: object) -> None:
        """For accelerate, which breaks ties when it shards weights that only the first process has loaded."""
        tie = getattr(self.model, "tie_weights", None)
        if callable(tie):
            tie(**options)


def weighted_nll(
    family: Trainable, direction: Direction, hidden_BSD: Tensor, labels_BS: Tensor, weights_BS: Tensor
) -> Tensor:
    """`sum(weights * nll)`. Where the logits would be many, they are made part by part, and again for the gradient:
    8 images of 1024 tokens with 262,144 logits each would take 8 GB a tensor, a part takes 256 MB."""
    rows = max(1, LOGITS // _width(family, direction, hidden_BSD))
    logits = head(family, direction)
    if labels_BS.numel() <= rows:
        return (token_nll(logits(hidden_BSD), labels_BS) * weights_BS).sum()

    def part(hidden_RD: Tensor, labels_R: Tensor, weights_R: Tensor) -> Tensor:
        return (token_nll(logits(hidden_RD)[None], labels_R[None])[0] * weights_R).sum()

    kept_BS = labels_BS != IGNORED
    parts = (tensor[kept_BS].split(rows) for tensor in (hidden_BSD, labels_BS, weights_BS))
    losses = [checkpoint(part, *each, use_reentrant=False) for each in zip(*parts, strict=True)]
    return torch.stack(losses).sum()


def _width(family: Trainable, direction: Direction, hidden_BSD: Tensor) -> int:
    return head(family, direction)(hidden_BSD.new_zeros(hidden_BSD.shape[-1])).shape[-1]
