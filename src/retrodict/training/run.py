"""Train one model on transitions and write it to a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retrodict.dynamics.sequences import build
from retrodict.models.load import is_model, save_model
from retrodict.models.protocol import Direction, TokenFamily
from retrodict.training.batches import Example, example
from retrodict.training.tokens import Tokens, tokenize
from retrodict.training.trainer import TrainConfig, train
from retrodict.training.weighting import Weighting, loss_weights
from retrodict.transitions import Transition

EVEN = Weighting()


def train_model(
    new_family: Callable[[], TokenFamily],
    direction: Direction,
    transitions: Sequence[Transition],
    config: TrainConfig,
    out: Path,
    *,
    weighting: Weighting = EVEN,
    cache: Path | None = None,
    report: Callable[[int, int, float], None] | None = None,
    **facts: Any,
) -> None:
    """Train `new_family()` in one direction and save it to `out`; a folder that holds a model already is left alone.

    `new_family` is called after torch has been seeded with `config.seed`, so that initial weights depend on it alone.
    `weighting` applies to the forward direction. `facts` go onto the model's card.
    """
    if is_model(out):
        return
    torch.manual_seed(config.seed)
    family = new_family()
    tokens = tokenize(family, transitions, cache)
    examples = make_examples(family, direction, transitions, tokens, weighting)
    scratch = out / "training"
    train(family, direction, examples, config, scratch, report, even_steps=round(weighting.start * config.steps))
    facts |= {
        "transitions": len(transitions),
        "training": asdict(config),
        "weighting": asdict(weighting),
    }
    save_model(family, direction, out, **facts)
    shutil.rmtree(scratch, ignore_errors=True)


def make_examples(
    family: TokenFamily,
    direction: Direction,
    transitions: Sequence[Transition],
    tokens: Tokens,
    weighting: Weighting,
) -> list[Example]:
    weights_NL = loss_weights(tokens.distance_NL, weighting) if direction == "forward" else None
    found = []
    for i, transition in enumerate(transitions):
        sequence = build(
            family,
            direction,
            source_L=tokens.source_NL[i],
            target_L=tokens.target_NL[i],
            action=transition.action,
        )
        weights_S = None if weights_NL is None else weights_NL[i].astype(np.float32)
        found.append(example(family, sequence, weights_S))
    return found
