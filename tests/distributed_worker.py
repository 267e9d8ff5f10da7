"""One training step of tiny families, in one process or as one of several: what `test_distributed.py` compares.

    python tests/distributed_worker.py OUT.safetensors ddp|fsdp

The first process writes gradients (before clipping) and weights (after the step) of each case.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from retrodict.dynamics.batches import Example, example
from retrodict.dynamics.sequences import build
from retrodict.models.registry import tiny_family
from retrodict.models.token_family import TokenFamily, TrainSpec
from retrodict.prompts import Direction
from retrodict.training import trainer as trainer_module
from retrodict.training.checkpoints import trained, whole
from retrodict.training.config import LoraConfig, TrainConfig
from retrodict.training.distributed import is_main
from retrodict.training.lora import add_adapter, freeze_embeddings
from retrodict.training.trainer import train

ACTIONS = ("remove the red ball", "put the red cone on top of the green box", "push the blue box to the left")
BATCH = 8  # of all processes together


def small() -> TokenFamily:
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import tiny_family

    family: TokenFamily = tiny_family()
    family.train_spec = replace(TrainSpec(), layer_classes=("_Layer",))
    return family


def published(name: str, *, adapted: bool) -> TokenFamily:
    """A tiny model of a family, whole or with an adapter that already does something."""
    torch.manual_seed(0)
    family: TokenFamily = tiny_family(name)(ACTIONS)
    with torch.no_grad():  # gradients of a size at which a wrong one would be seen
        for parameter in family.module.parameters():
            parameter.mul_(2 if parameter.ndim == 2 else 1)
    if adapted:
        add_adapter(family, LoraConfig(rank=4, alpha=8, dropout=0.0), base="tiny")
        with torch.no_grad():
            for parameter in trained(family.module).values():
                parameter.normal_(std=0.2)
    else:
        freeze_embeddings(family)
    return family


FAMILIES: dict[str, Callable[[], TokenFamily]] = {
    "small": small,
    "chameleon": partial(published, "chameleon", adapted=False),
    "chameleon with LoRA": partial(published, "chameleon", adapted=True),
    "liquid": partial(published, "liquid", adapted=False),
    "liquid with LoRA": partial(published, "liquid", adapted=True),
    "emu3": partial(published, "emu3", adapted=False),
    "janus": partial(published, "janus", adapted=False),
    "janus with LoRA": partial(published, "janus", adapted=True),
}


def examples(family: TokenFamily, direction: Direction) -> list[Example]:
    """Sequences of different lengths, with uneven weights."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(BATCH):
        source_L, target_L = rng.integers(0, family.spec.codebook, (2, family.spec.tokens))
        sequence = build(family, direction, source_L=source_L, target_L=target_L, action=ACTIONS[i % 3])
        made = example(family, sequence)
        found.append(replace(made, weights_S=rng.random(len(made.labels_S)).astype(np.float32)))
    return found


def one_step(
    family: TokenFamily, direction: Direction, accumulate: int, *, shard: bool = False, **options: Any
) -> dict[str, torch.Tensor]:
    """Gradients and new weights of one AdamW step over the same eight sequences."""
    seen: dict[str, torch.Tensor] = {}
    config = TrainConfig(
        steps=1,
        per_device_batch_size=BATCH // accumulate,
        gradient_accumulation_steps=accumulate,
        learning_rate=1e-4,
        warmup_steps=0,
        bf16=False,
        optimizer="adamw",
        fsdp=shard,
        **options,
    )
    clip = trainer_module.DynamicsTrainer._clip_grad_norm

    def keep_and_clip(self: Any, model: Any) -> Any:
        for name, parameter in self.model.model.named_parameters():
            if parameter.grad is not None:
                assert isinstance(parameter.grad, DTensor) == shard
                seen[f"gradient {name}"] = whole(parameter.grad).clone()
        return clip(self, model)

    trainer_module.DynamicsTrainer._clip_grad_norm = keep_and_clip  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as scratch:
            train(family, direction, examples(family, direction), config, Path(scratch))
    finally:
        trainer_module.DynamicsTrainer._clip_grad_norm = clip  # type: ignore[method-assign]
    weights = {f"weight {n}": p.detach().clone() for n, p in family.module.named_parameters() if p.requires_grad}
    return seen | weights


# Family, direction, and into how many batches the step's sequences are split: into eight, nothing is padded.
CASES: tuple[tuple[str, Direction, int], ...] = (
    ("small", "forward", 2),
    ("chameleon", "forward", 2),
    ("chameleon", "forward", 4),
    ("chameleon", "forward", 8),
    ("chameleon with LoRA", "inverse", 4),
    ("liquid", "inverse", 2),
    ("liquid", "inverse", 8),
    ("liquid with LoRA", "forward", 4),
    ("emu3", "forward", 4),
    ("janus", "inverse", 2),
    ("janus with LoRA", "inverse", 4),
)


def shard_on_cpu() -> None:
    """accelerate shards on accelerators only; the same code runs on a CPU once its state says that it shards."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    made = AcceleratorState.__init__

    def sharding(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = sharding  # type: ignore[method-assign]


def main() -> None:
    out, how = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    if how == "fsdp":
        shard_on_cpu()
    found = {
        f"{name} {direction} {accumulate}|{key}": tensor
        for name, direction, accumulate in CASES
        for key, tensor in one_step(FAMILIES[name](), direction, accumulate, shard=how == "fsdp").items()
    }
    if is_main():
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
