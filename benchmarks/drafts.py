"""Whether drafts from the last Jacobi pass help: forward passes for an image, counted, with and without them.

    python benchmarks/drafts.py --model small --bench tabletop --items 50
    python benchmarks/drafts.py --clips CLIPS --apart 5 --steps 400

A step verifies a draft of the tokens behind the one that it samples. The draft begins as the source's tokens, another
image's (a source that is no good draft), or at random. Behind the first token that does not hold it stays what it was
("kept"), or becomes what the model would have sampled there, given the draft so far ("Jacobi"), which is what both
decoders do. All give the same tokens; without drafts there are as many passes as tokens. Widths are fixed, so that
nothing but the drafts decides. `--clips` trains a small forward model on every other clip, and measures the others.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common_tokens import frames_apart
from torch import Tensor

from retrodict.dynamics.sampling import uniforms
from retrodict.dynamics.sequences import build
from retrodict.dynamics.stepwise import StepDecoder
from retrodict.evaluation.benchmarks import open_benchmark
from retrodict.loading import load_family
from retrodict.models.token_family import IntArray, TokenFamily, TokenSequence
from retrodict.progress import QuietProgress
from retrodict.sampling import Sampling
from retrodict.stats import mean_interval
from retrodict.training.config import TrainRecipe
from retrodict.training.recipe import train_recipe
from retrodict.transitions import Transition, write_rows

WIDTHS = (16, 64)


class Kept(StepDecoder):
    """Drafts are not replaced by what a pass has sampled behind the first token that did not hold."""

    def step(self, width: int) -> None:
        draft_CT = self._ids_CT.clone()
        super().step(width)
        ahead_CT = torch.arange(draft_CT.shape[1]) >= self._position_C[:, None]
        self._ids_CT.copy_(torch.where(ahead_CT, draft_CT, self._ids_CT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--bench", default="tabletop")
    parser.add_argument("--items", type=int, default=50)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--apart", type=int, default=5, help="frames, with --clips")
    parser.add_argument("--steps", type=int, default=400, help="of training, with --clips")
    arguments = parser.parse_args()
    if arguments.clips:
        rows = [replace(row, action="go on") for row in frames_apart(arguments.clips, arguments.apart)]
        names = sorted({row.group for row in rows})
        held = [row for row in rows if row.group in names[1::2]]
        with tempfile.TemporaryDirectory() as folder:
            family = trained([row for row in rows if row.group in names[::2]], arguments.steps, Path(folder))
        rows = held[: arguments.items]
    else:
        rows = open_benchmark(arguments.bench, items=arguments.items).items
        family = load_family(arguments.model, "forward")
    print("| sampled | draft | width | n | kept: passes | Jacobi: passes | difference |")
    print("|---|---|---:|---:|---:|---:|---:|")
    sources_NL = family.encode([row.source_image for row in rows]).codes_NL
    random_NL = np.random.default_rng(0).integers(0, family.spec.codebook, sources_NL.shape)
    drafts = {"source's": sources_NL, "another image's": np.roll(sources_NL, 1, 0), "random": random_NL}
    clusters = [row.cluster for row in rows]
    for sampling in (Sampling(0), Sampling(1)):
        for name, drafts_NL in drafts.items():
            for width in sorted({min(width, len(family.spec.schedule)) for width in WIDTHS}):
                counted = [
                    [passes(family, *one, sampling, width, kind) for kind in (Kept, StepDecoder)]
                    for one in zip(sources_NL, drafts_NL, [row.action for row in rows], strict=True)
                ]
                kept, jacobi = np.array(counted, float).T
                means = [spoken(values.tolist(), clusters) for values in (kept, jacobi, jacobi - kept)]
                cells = (f"temperature {sampling.temperature:g}", name, width, len(rows), *means)
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


def trained(rows: Sequence[Transition], steps: int, folder: Path) -> TokenFamily:
    write_rows(folder / "data" / "rows.parquet", rows)
    recipe = {
        "direction": "forward",
        "data": {"train": [str(folder / "data")]},
        "tokenizer": {"image_size": 96},
        "training": {"steps": steps, "per_device_batch_size": 16},
    }
    train_recipe(TrainRecipe.model_validate(recipe), folder / "model", QuietProgress())
    return load_family(folder / "model")


@torch.inference_mode()
def passes(
    family: TokenFamily,
    source_L: IntArray,
    draft_L: IntArray,
    action: str,
    sampling: Sampling,
    width: int,
    kind: type[StepDecoder],
) -> int:
    """Steps of that width until an image is decoded."""
    sequence = build(family, "forward", source_L=source_L, target_L=draft_L, action=action)
    decoder = kind(family, [sequence], 1, random_numbers(family, sequence, sampling), sampling, (width,))
    step, length = decoder.stepper(), len(family.spec.schedule)
    while int(decoder._position_C.min()) < length:
        step(width)
    return decoder.passes


def random_numbers(family: TokenFamily, sequence: TokenSequence, sampling: Sampling) -> Tensor | None:
    if sampling.temperature == 0:
        return None
    return torch.from_numpy(uniforms(0, 0, sequence, family.spec.tokens)[None])


def spoken(values: list[float], clusters: list[str]) -> str:
    mean = mean_interval(values, clusters)
    return f"{mean.mean:.1f} [{mean.low:.1f}, {mean.high:.1f}]"


if __name__ == "__main__":
    main()
