"""Muon for the matrices of the transformer, AdamW for everything else, behind one optimizer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from retrodict.precision import matmul_precision

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients (kellerjordan.github.io/posts/muon)
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95
EPSILON = 1e-7
FUSED = ("cpu", "cuda", "mps")  # devices on which AdamW is one kernel; elsewhere torch chooses


def orthogonalize(update_NRC: Tensor, dtype: torch.dtype) -> Tensor:
    """Newton-Schulz iterations towards the nearest semi-orthogonal matrix of each of N matrices.

    Args:
        update_NRC: N matrices of R rows and C columns, R <= C.
        dtype: what the products are computed in.

    Returns:
        N matrices of the same shape and dtype as given, with singular values near 1.
    """
    a, b, c = NEWTON_SCHULZ
    x_NRC = update_NRC.to(dtype)
    x_NRC = x_NRC / x_NRC.norm(dim=(-2, -1), keepdim=True).clamp(min=EPSILON)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram_NRR = x_NRC @ x_NRC.mT
        polynomial_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, polynomial_NRR, x_NRC, beta=a)
    return x_NRC.to(update_NRC.dtype)


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, in the precision that the hardware is fast in.

    The library's casts to bfloat16 everywhere and takes one matrix at a time; this one takes all of a shape at once.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # without its loss
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    rows, columns = sorted(parameter.shape)
                    by_shape[rows, columns].append(parameter)
            for shape, parameters in by_shape.items():
                self._step_shape(parameters, shape, group["lr"], group["weight_decay"])

    def _step_shape(
        self, parameters: list[nn.Parameter], shape: tuple[int, int], lr: float, weight_decay: float
    ) -> None:
        updates = []
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter.grad)
            momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - MOMENTUM)
            nesterov = parameter.grad.lerp(momentum, MOMENTUM)
            updates.append(nesterov if _is_wide(parameter) else nesterov.mT)
        dtype = matmul_precision()[0]
        orthogonal = orthogonalize(torch.stack(updates), dtype).unbind()
        for parameter, update in zip(parameters, orthogonal, strict=True):
            parameter.mul_(1 - lr * weight_decay)
            step_size = lr * 0.2 * math.sqrt(shape[1])  # matches AdamW's root mean square (arXiv 2502.16982, eq. 4)
            parameter.add_(update if _is_wide(parameter) else update.mT, alpha=-step_size)


def _is_wide(parameter: Tensor) -> bool:
    return parameter.shape[0] <= parameter.shape[1]


class MuonAdamW(torch.optim.Optimizer):
    """`Muon` on the 2-D weights inside layers, `torch.optim.AdamW` on embeddings, norms and biases.

    Both take the same learning rate: Muon's update is scaled to AdamW's root mean square.
    """

    def __init__(self, module: nn.Module, lr: float, weight_decay: float) -> None:
        embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for parameter in module.parameters():
            if parameter.requires_grad:
                (matrices if parameter.ndim == 2 and id(parameter) not in embeddings else rest).append(parameter)
        fused = all(parameter.device.type in FUSED for parameter in rest)
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(Muon(matrices, lr=lr, weight_decay=weight_decay))
        if rest:  # an adapter has none
            self._parts.append(torch.optim.AdamW(rest, lr=lr, weight_decay=0.0, betas=(0.9, 0.95), fused=fused or None))
        super().__init__([{"params": matrices + rest}], {"lr": lr})
        # A schedule sets the learning rate in the groups that it finds here.
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # without its loss
        assert closure is None, "closures are not supported"
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, part_state in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(part_state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]
