"""Train the *small* weights that ship inside the wheel: an image tokenizer, an inverse and a forward model.

    python benchmarks/gpu/ship_small.py --out build/small                    # cells, half an hour on a busy core
    python benchmarks/gpu/ship_small.py --out build/small --size continuous  # waits for a GPU

Every stage is skipped when its output exists and training continues from its newest checkpoint, so the same command
resumes. Labels are the simulator's own: these are the models to try things with, not a result about bootstrapping.
Copy `inverse/` and `forward/` to src/retrodict/weights/small.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from retrodict.dynamics.batches import example
from retrodict.dynamics.sequences import build
from retrodict.loading import save_model
from retrodict.models.small.family import SmallFamily
from retrodict.models.small.image_tokenizer import ImageTokenizer
from retrodict.models.small.words import Words
from retrodict.prompts import Direction
from retrodict.training.config import TokenizerConfig, TrainConfig
from retrodict.training.image_tokenizer import describe, make_tokenizer
from retrodict.training.trainer import train
from retrodict.worlds import tabletop

NAMESPACE = "shipped"  # no bench, demo or test samples from this stream
TOKENIZERS = {
    "cells": TokenizerConfig(image_size=96, patch=16),
    # Things lie anywhere, so a patch cannot stand alone.
    "continuous": TokenizerConfig(image_size=96, patch=8, codes=512, width=256, context=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--forward-steps", type=int, default=3_500)
    parser.add_argument("--inverse-steps", type=int, default=2_000)
    parser.add_argument("--tokenizer-steps", type=int, default=3_000, help="of each phase of a net")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--size", choices=tabletop.SIZES, default="cells")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = _tokenizer(arguments)
    words = Words.from_texts(tabletop.vocabulary())
    codes_N2L, texts = _codes(arguments, tokenizer)
    directions: Sequence[Direction] = ("forward", "inverse")
    for direction in directions:
        _train(arguments, direction, tokenizer, words, codes_N2L, texts)


def _tokenizer(arguments: argparse.Namespace) -> ImageTokenizer:
    folder = arguments.out / "image_tokenizer"
    if folder.is_dir():
        return ImageTokenizer.load(folder)
    examples = tabletop.sample(min(3_000, arguments.examples), 0, size=arguments.size, namespace=NAMESPACE)
    steps = {"warm_steps": arguments.tokenizer_steps, "steps": arguments.tokenizer_steps}
    config = TOKENIZERS[arguments.size].model_copy(update=steps)
    tokenizer = make_tokenizer([e.transition("train") for e in examples], config, report=_print)
    print(describe(tokenizer), flush=True)
    tokenizer.save(folder)
    return tokenizer


def _codes(arguments: argparse.Namespace, tokenizer: ImageTokenizer) -> tuple[np.ndarray, list[str]]:
    examples = tabletop.sample(arguments.examples, 1, size=arguments.size, namespace=NAMESPACE)
    file = arguments.out / f"codes-{arguments.examples}.npy"
    if not file.is_file():
        chunks = []
        for start in range(0, len(examples), 1000):
            images = [tabletop.draw(s) for e in examples[start : start + 1000] for s in (e.source, e.target)]
            chunks.append(tokenizer.encode(images).codes_NL.reshape(-1, 2, math.prod(tokenizer.config.grid)))
        np.save(file, np.concatenate(chunks))
    return np.load(file), [e.text for e in examples]


def _train(
    arguments: argparse.Namespace,
    direction: Direction,
    tokenizer: ImageTokenizer,
    words: Words,
    codes_N2L: np.ndarray,
    texts: list[str],
) -> None:
    folder = arguments.out / direction
    if folder.is_dir():
        return
    torch.manual_seed(0)
    family = SmallFamily.new(tokenizer, words, hidden=arguments.hidden, layers=arguments.layers, heads=arguments.heads)
    rows = zip(codes_N2L, texts, strict=True)
    examples = [example(family, build(family, direction, source_L=s, target_L=t, action=a)) for (s, t), a in rows]
    steps = arguments.forward_steps if direction == "forward" else arguments.inverse_steps
    config = TrainConfig(
        steps=steps, per_device_batch_size=arguments.batch, learning_rate=3e-3, warmup_steps=100, save_steps=500
    )
    train(family, direction, examples, config, arguments.out / f"{direction}.training", _print)
    metadata = {"size": arguments.size, "examples": arguments.examples, "training": config.model_dump(mode="json")}
    save_model(family, direction, folder, **metadata)


def _print(step: int, total: int, loss: float) -> None:
    if step % 100 == 0:
        print(f"{step}/{total} loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
