"""Where matrix products run in bfloat16, and that the optimizer is `torch.optim.Muon` in either precision."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from retrodict.training import optimizer
from retrodict.training.optimizer import Muon, orthogonalize

ASK = "from retrodict.precision import matmul_precision as m; print(*m(), sep='|')"


@pytest.mark.parametrize(
    ("variable", "value"), [("ATEN_CPU_CAPABILITY", "avx2"), ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")]
)
def test_a_cpu_held_to_older_instructions_computes_in_float32(variable: str, value: str) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**os.environ, variable: value, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    dtype, reason = asked.stdout.strip().split("|")
    assert dtype == "torch.float32"
    assert "bfloat16 needs" in reason or variable in reason


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_a_batch_of_matrices_steps_as_the_library_steps_one(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer, "matmul_precision", lambda: (torch.bfloat16, "the library's precision"))
    torch.manual_seed(0)
    start = [torch.randn(shape) for _ in range(3)]
    ours, theirs = ([nn.Parameter(s.clone()) for s in start] for _ in range(2))
    optimizers = (
        Muon(ours, lr=0.1, weight_decay=0.2),
        torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(shape)
            other.grad = mine.grad.clone()
        for each in optimizers:
            each.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-3, rtol=0)  # bfloat16 rounds the same sums in another order


def test_float32_keeps_what_bfloat16_rounds() -> None:
    matrices_NRC = torch.randn(4, 5, 9, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalize(matrices_NRC, torch.float32))
    assert singular.min() > 0.6 and singular.max() < 1.3
