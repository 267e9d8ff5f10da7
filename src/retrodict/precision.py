"""In which precision matrix products run: bfloat16 where the hardware multiplies it, float32 elsewhere.

Emulated bfloat16 is slower than float32, by 3 times on AVX-512 without BF16 and by 60 on AVX2.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from retrodict.placement import chosen_device

if TYPE_CHECKING:
    import torch

# What oneDNN may be held to (its environment variable) and still multiplies bfloat16.
_ONEDNN_BF16 = ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512", "AVX10_2", "AVX512_CORE_AMX", "DEFAULT", "ALL")


@cache
def matmul_precision() -> tuple[torch.dtype, str]:
    """The dtype of matrix products in training on this machine's device, and why.

    Returns:
        `torch.bfloat16` on CUDA devices of compute capability 8.0 or more and on CPUs with AVX512-BF16 or AMX, unless
        `ATEN_CPU_CAPABILITY` or `ONEDNN_MAX_CPU_ISA` rule these out; else `torch.float32`. The text names the reason.
    """
    import torch

    device = chosen_device().type
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        if major >= 8:
            return torch.bfloat16, f"CUDA, compute capability {major}.{minor}"
        return torch.float32, f"CUDA, compute capability {major}.{minor}: bfloat16 needs 8.0"
    if device == "mps":
        return torch.float32, "MPS"
    capability = torch.backends.cpu.get_cpu_capability()
    if not capability.startswith(("AVX512", "AMX")):
        return torch.float32, f"CPU with {capability}: bfloat16 needs AVX512-BF16 or AMX"
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if not allowed.startswith(_ONEDNN_BF16):
        return torch.float32, f"CPU held to {allowed} by ONEDNN_MAX_CPU_ISA"
    if torch.cpu._is_amx_tile_supported():
        return torch.bfloat16, "CPU with AMX"
    if torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16, "CPU with AVX512-BF16"
    return torch.float32, f"CPU with {capability} but without BF16"
