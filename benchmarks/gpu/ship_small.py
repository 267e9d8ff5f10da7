"""Train the weights that ship inside the wheel: an image tokenizer, an inverse and a forward model of a world.

    python benchmarks/gpu/ship_small.py --out build/small                                # an hour on a busy core
    python benchmarks/gpu/ship_small.py --out build/babyai --world babyai --layers 2 --still 0.1
    python benchmarks/gpu/ship_small.py --out build/continuous --size continuous         # waits for a GPU

Every stage is skipped when its output exists and training continues from its newest checkpoint, so the same command
resumes. Labels are the simulator's own: these are the models to try things with, not a result about bootstrapping.
Copy `inverse/` and `forward/` to a folder of their name in src/retrodict/weights.
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
from retrodict.transitions import Transition
from retrodict.worlds import WORLDS, get_world, tabletop

NAMESPACE = "shipped"  # no bench, demo or test samples from this stream
# Things lie anywhere, so a patch cannot stand alone. For worlds of cells the patch is found.
CONTINUOUS = TokenizerConfig(image_size=96, patch=8, codes=512, width=256, context=2)
CHUNK = 1000  # rows whose images are in memory at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--world", choices=WORLDS, default="tabletop")
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--still", type=float, default=0.0, help="share of the examples in which nothing happens")
    parser.add_argument("--forward-steps", type=int, default=3_500)
    parser.add_argument("--inverse-steps", type=int, default=2_000)
    parser.add_argument("--tokenizer-steps", type=int, default=3_000, help="of each phase of a net")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--size", choices=tabletop.SIZES, default="cells", help="of tabletop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = _tokenizer(arguments)
    words = Words.from_texts(get_world(arguments.world).vocabulary())
    codes_N2L, texts = _codes(arguments, tokenizer)
    directions: Sequence[Direction] = ("forward", "inverse")
    for direction in directions:
        _train(arguments, direction, tokenizer, words, codes_N2L, texts)


def _rows(arguments: argparse.Namespace, count: int, seed: int) -> list[Transition]:
    if arguments.size == "continuous":
        examples = tabletop.sample(count, seed, size=arguments.size, namespace=NAMESPACE)
        return [example.transition("train") for example in examples]
    return get_world(arguments.world).sample(count, seed, namespace=NAMESPACE, split="train")


def _tokenizer(arguments: argparse.Namespace) -> ImageTokenizer:
    folder = arguments.out / "image_tokenizer"
    if folder.is_dir():
        return ImageTokenizer.load(folder)
    config = CONTINUOUS if arguments.size == "continuous" else TokenizerConfig()
    config = config.model_copy(update={"warm_steps": arguments.tokenizer_steps, "steps": arguments.tokenizer_steps})
    tokenizer = make_tokenizer(_rows(arguments, min(3_000, arguments.examples), 0), config, report=_print)
    print(describe(tokenizer), flush=True)
    tokenizer.save(folder)
    return tokenizer


def _codes(arguments: argparse.Namespace, tokenizer: ImageTokenizer) -> tuple[np.ndarray, list[str]]:
    """Image tokens of sources and targets, and the actions, from a file where they are there."""
    file = arguments.out / f"codes-{arguments.examples}.npz"
    if not file.is_file():
        still = round(arguments.still * arguments.examples)
        rows = _rows(arguments, arguments.examples - still, 1)
        rows += get_world(arguments.world).sample_still(still, 1, namespace=NAMESPACE, split="train")
        chunks = []
        for start in range(0, len(rows), CHUNK):
            images = [image for row in rows[start : start + CHUNK] for image in (row.source_image, row.target_image)]
            chunks.append(tokenizer.encode(images).codes_NL.reshape(-1, 2, math.prod(tokenizer.config.grid)))
        np.savez_compressed(file, codes_N2L=np.concatenate(chunks), texts=np.array([row.action for row in rows]))
    with np.load(file) as stored:
        return stored["codes_N2L"], [str(text) for text in stored["texts"]]


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
    metadata = {name: getattr(arguments, name) for name in ("world", "size", "examples", "still")}
    metadata |= {"training": config.model_dump(mode="json")}
    save_model(family, direction, folder, **metadata)


def _print(step: int, total: int, loss: float) -> None:
    if step % 100 == 0:
        print(f"{step}/{total} loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
