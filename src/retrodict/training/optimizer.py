"""Muon for the matrices of the transformer, AdamW for everything else, behind one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` on the 2-D weights inside layers, `torch.optim.AdamW` on embeddings, norms and biases.

    Both take the same learning rate: Muon's update is scaled to AdamW's root mean square.
    """

    def __init__(self, module: nn.Module, lr: float, weight_decay: float) -> None:
        embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for parameter in module.parameters():
            if parameter.requires_grad:
                (matrices if parameter.ndim == 2 and id(parameter) not in embeddings else rest).append(parameter)
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=lr, weight_decay=0.0, betas=(0.9, 0.95)),
        ]
        super().__init__([{"params": matrices + rest}], {"lr": lr})
        # A schedule sets the learning rate in the groups that it finds here.
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "closures are not supported"
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, part_state in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(part_state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]
