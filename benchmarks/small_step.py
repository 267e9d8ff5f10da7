"""Training steps of the small family: sequences per CPU second, beside the same step through `transformers.LlamaModel`.

    python benchmarks/small_step.py                       # 2 and 4 layers, both directions: about five minutes
    python benchmarks/small_step.py --layers 1 --rounds 2 # seconds

A step is a forward and a backward pass of one batch, clipping and the optimizer, in the precision that training takes
on this machine, on one thread. The library's computes every layer for every token of the whole sequence, as it does for
the large families. Steps of the two alternate, so that both meet the same other load; CPU time is counted, and the
median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from retrodict.dynamics.batches import Example, collate, example
from retrodict.dynamics.sequences import build
from retrodict.loading import SHIPPED, load_family
from retrodict.models.hf import run_decoder
from retrodict.models.small.family import SmallFamily
from retrodict.models.small.modeling import SmallModel
from retrodict.precision import matmul_precision
from retrodict.prompts import Direction
from retrodict.training.objective import Objective
from retrodict.training.optimizer import MuonAdamW
from retrodict.worlds import DEFAULT, get_world

WARM_UP = 2  # steps that are not counted


def library_of(model: SmallModel) -> LlamaModel:
    """The library's model with the weights of ours."""
    config = model.config
    library = LlamaModel(
        LlamaConfig(
            vocab_size=len(model.head),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            pad_token_id=config.pad_token_id,
            attn_implementation="eager",  # the fastest on CPUs
        )
    )
    library.load_state_dict(model.backbone.state_dict())
    return library


class LibraryModel(nn.Module):
    """`SmallModel` with the library's layers."""

    def __init__(self, model: SmallModel) -> None:
        super().__init__()
        self.small, self.library = model, library_of(model)
        self.library.embed_tokens = model.backbone.embed_tokens  # the head
        model.backbone.layers, model.backbone.norm = nn.ModuleList(), nn.Identity()

    @property
    def head(self) -> Tensor:
        return self.small.head

    def forward(self, ids_BT: Tensor, at_BS: Tensor, **features: Tensor) -> Tensor:
        return run_decoder(self.library, inputs_embeds=self.small.embed(ids_BT, features), at_BS=at_BS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--batch", type=int, default=16, help="sequences of a step")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.batch} sequences a step, {matmul_precision()[0]}; medians of {options.rounds} steps\n")
    print("| layers | direction | library, ms | ours, ms | ratio | library, sequences/CPU-s | ours | loss differs by |")
    print("|---|---|---|---|---|---|---|---|")
    for layers in options.layers:
        for direction in ("forward", "inverse"):
            print(measure(layers, direction, options.batch, options.rounds), flush=True)


def measure(layers: int, direction: Direction, batch: int, rounds: int) -> str:
    """One line of the table."""
    ours, theirs = new_family(layers), new_family(layers)
    module: Any = LibraryModel(theirs.module)
    theirs.module = module
    cut, whole = examples(ours, direction, 8 * batch)
    steps = [stepper(theirs, direction, whole, batch), stepper(ours, direction, cut, batch)]
    times: list[list[float]] = [[], []]
    difference = 0.0
    for index in range(WARM_UP + rounds):
        losses = []
        for step, seconds in zip(steps, times, strict=True):
            start = time.process_time()
            losses.append(step(index))
            seconds.append(time.process_time() - start)
        if not index:  # later steps start from weights that differ
            difference = abs(losses[0] - losses[1]) / losses[0]
    library, own = (statistics.median(seconds[WARM_UP:]) for seconds in times)
    return (
        f"| {layers} | {direction} | {1e3 * library:.1f} | {1e3 * own:.1f} | {own / library:.2f} "
        f"| {batch / library:.0f} | {batch / own:.0f} | {difference:.0e} |"
    )


def new_family(layers: int) -> SmallFamily:
    """Random weights, the same for each call, of the size that the loop trains; image tokens as the shipped model."""
    shipped = load_family(SHIPPED / "small", "forward")
    assert isinstance(shipped, SmallFamily)
    torch.manual_seed(0)
    return SmallFamily.new(shipped.images, shipped.words, layers=layers)


def examples(family: SmallFamily, direction: Direction, count: int) -> tuple[list[Example], list[Example]]:
    """Simulated transitions as training has them, and with the tokens from which nothing is predicted."""
    rows = get_world(DEFAULT).sample(count, seed=0, namespace="train-step")
    sources_NL, targets_NL = (
        family.encode([getattr(row, side) for row in rows]).codes_NL for side in ("source_image", "target_image")
    )
    cut, whole = [], []
    for row, source_L, target_L in zip(rows, sources_NL, targets_NL, strict=True):
        sequence = build(family, direction, source_L=source_L, target_L=target_L, action=row.action)
        cut.append(example(family, sequence))
        whole.append(replace(cut[-1], ids_T=sequence.ids_T, features=family.features(sequence)))
    return cut, whole


def stepper(family: SmallFamily, direction: Direction, rows: list[Example], batch: int) -> Callable[[int], float]:
    objective = Objective(family, direction).train()
    optimizer = MuonAdamW(family.module, lr=4e-3, weight_decay=0.1)
    dtype = matmul_precision()[0]

    def step(index: int) -> float:
        start = index * batch % len(rows)
        inputs = collate(rows[start : start + batch], family.pad)
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            loss = objective(denominator=inputs["weights"].sum(), **inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(family.module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    main()
