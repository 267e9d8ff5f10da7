"""What every token family must satisfy, checked against running everything again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from retrodict.bootstrap.annotate import annotate
from retrodict.dynamics.best_of_n import predict
from retrodict.dynamics.generate import sample_images
from retrodict.dynamics.likelihood import score
from retrodict.dynamics.sequences import build
from retrodict.dynamics.stepwise import decode_stepwise
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import InverseLikelihood
from retrodict.files import read_lines
from retrodict.images import encode_png
from retrodict.loading import load, load_family, save_model
from retrodict.models.token_family import IntArray, TokenFamily, TokenSequence
from retrodict.prompts import Direction
from retrodict.sampling import Sampling
from retrodict.training.action_meter import ActionMeter, describe
from retrodict.training.config import LOG, LoraConfig, TrainConfig
from retrodict.training.lora import add_adapter
from retrodict.training.run import train_model
from retrodict.transitions import Transition

ACTIONS = ["push the red ball", "open the door", "put it down on the table"]


def sharpened(family: TokenFamily) -> TokenFamily:
    """Weights of the usual size give nearly even probabilities, under which a wrong choice would go unnoticed."""
    with torch.no_grad():
        for parameter in family.module.parameters():
            parameter.mul_(6 if parameter.ndim == 2 else 1)
    return family


def noise_images(count: int, size: int, seed: int = 0) -> list[Image.Image]:
    values = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return [Image.fromarray(value) for value in values]


@torch.no_grad()
def raw_logits(family: TokenFamily, sequence: TokenSequence, length: int) -> torch.Tensor:
    """Image logits at the end of the first `length` tokens, computed from nothing but them."""
    inputs = {name: torch.from_numpy(value[None, :length]) for name, value in family.features(sequence).items()}
    hidden = family.hidden(torch.from_numpy(sequence.ids_T[None, :length]), **inputs)
    return family.image_logits(hidden[0, -1])


def slow_greedy(family: TokenFamily, source_L: IntArray, action: str, scale: float | None) -> list[int]:
    """One code after the other: every branch is rendered and run whole for each."""
    codes_L = np.zeros(family.spec.tokens, dtype=np.int64)
    for i, position in enumerate(np.flatnonzero(family.spec.schedule < 0)):
        sequence = build(family, "forward", source_L=source_L, target_L=codes_L, action=action)
        mixed = torch.zeros(family.spec.codebook)
        for weight, branch in family.guidance(sequence, scale):
            assert branch.segments.completion is not None
            mixed += weight * raw_logits(family, branch, branch.segments.completion[0] + int(position))
        codes_L[i] = int(mixed.argmax())
    return codes_L.tolist()


@torch.inference_mode()
def check_greedy(family: TokenFamily, scale: float | None) -> None:
    sources_PL = np.random.default_rng(1).integers(0, family.spec.codebook, (3, family.spec.tokens))
    codes_PNL, logprobs_PN = sample_images(family, sources_PL, ACTIONS, 1, 0, Sampling(0, guidance=scale))
    slow = [slow_greedy(family, s, a, scale) for s, a in zip(sources_PL, ACTIONS, strict=True)]
    assert codes_PNL[:, 0].tolist() == slow
    assert len(np.unique(codes_PNL)) > 2
    drafts = [
        build(family, "forward", source_L=s, target_L=s, action=a) for s, a in zip(sources_PL, ACTIONS, strict=True)
    ]
    assert decode_stepwise(family, drafts, None, Sampling(0, guidance=scale))[0].tolist() == slow
    rows = zip(sources_PL, codes_PNL[:, 0], ACTIONS, strict=True)
    scored = score(family, [build(family, "forward", source_L=s, target_L=t, action=a) for s, t, a in rows])
    assert logprobs_PN[:, 0] == pytest.approx([found.sum for found in scored], abs=1e-3)


def check_padding(family: TokenFamily) -> None:
    """A score is the same alone and beside longer sequences; the actions have unequal lengths."""
    rng = np.random.default_rng(2)
    directions: tuple[Direction, ...] = ("forward", "inverse")
    for direction in directions:
        pairs = rng.integers(0, family.spec.codebook, (3, 2, family.spec.tokens))
        rows = zip(pairs, ACTIONS, strict=True)
        sequences = [build(family, direction, source_L=s, target_L=t, action=a) for (s, t), a in rows]
        assert len({len(sequence.ids_T) for sequence in sequences}) == len(ACTIONS)
        together = [found.sum for found in score(family, sequences)]
        assert together == pytest.approx([score(family, [sequence])[0].sum for sequence in sequences], abs=1e-3)
        assert len(set(together)) == len(ACTIONS)


def check_loop(new_family: Callable[[], TokenFamily], size: int, folder: Path) -> None:
    """Train both directions, annotate, predict with verification, load again: the same outputs. Plumbing, not quality:
    a few steps from random weights predict nothing."""
    images = noise_images(8, size, seed=3)
    rows = [
        Transition(id=f"t{i}", source=encode_png(s), target=encode_png(t), action=ACTIONS[i % 3], split="train")
        for i, (s, t) in enumerate(zip(images[:4], images[4:], strict=True))
    ]
    config = TrainConfig(
        steps=4, per_device_batch_size=2, learning_rate=1e-3, warmup_steps=1, bf16=False, save_steps=100, eval_steps=2
    )
    directions: tuple[Direction, ...] = ("inverse", "forward")
    losses: list[float] = []
    for direction in directions:
        report: Callable[[int, int, float], None] = lambda step, total, loss: losses.append(loss)  # noqa: E731
        train_model(new_family, direction, rows, config, folder / direction, report=report, held_out=rows)
        assert [line["step"] for line in read_lines(folder / direction / LOG)] == [2, 4]
        assert {"eval_right", "eval_shuffled"} <= read_lines(folder / direction / LOG)[0].keys()
    assert all(math.isfinite(loss) for loss in losses)
    inverse, forward = load(folder, "inverse"), load(folder, "forward")
    told: list[tuple[Direction, UnifiedModel]] = [("inverse", inverse), ("forward", forward)]
    for direction, model in told:
        meter = ActionMeter(model.family, direction, rows).measure()
        assert all(math.isfinite(meter[part]["loss"]) for part in ("right", "shuffled", "none") if part in meter)
        assert "too few" in describe(meter)
    before = new_family().module.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in inverse.family.module.state_dict().items())
    labelled = annotate(inverse, rows, "tiny")
    assert all(math.isfinite(row.logprob) for row in labelled)
    verified = predict(forward, InverseLikelihood(inverse), images[0], ACTIONS[0], n=3, seed=0)
    assert verified.image.size == (size, size)
    assert np.isfinite(verified.scores).all()
    again = predict(
        load(folder, "forward"), InverseLikelihood(load(folder, "inverse")), images[0], ACTIONS[0], n=3, seed=0
    )
    assert again.scores == verified.scores
    assert [c.codes_L.tolist() for c in again.candidates] == [c.codes_L.tolist() for c in verified.candidates]


def placeholders(ids_T: IntArray, spans: Sequence[tuple[int, int]], token: int) -> IntArray:
    """The library's way of writing images that it puts in itself."""
    ids_T = ids_T.copy()
    for start, stop in spans:
        ids_T[start:stop] = token
    return ids_T


def check_adapter(new_family: Callable[[], TokenFamily], folder: Path) -> None:
    """LoRA reaches the language model's layers alone; saved and loaded onto the same base, it scores the same."""
    family = new_family()
    family.save(folder / "base")
    adapter = add_adapter(family, LoraConfig(), str(folder / "base"))
    trained = {name for name, p in family.module.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 7  # two matrices for each of seven in each of two layers
    assert all(".layers." in name and "lora_" in name for name in trained)
    rng = np.random.default_rng(4)
    pair = rng.integers(0, family.spec.codebook, (2, family.spec.tokens))
    sequences = [build(family, "inverse", source_L=pair[0], target_L=pair[1], action=action) for action in ACTIONS]
    family.module.eval()
    plain = [found.sum for found in score(family, sequences)]  # an adapter begins as nothing
    with torch.no_grad():
        for name, parameter in family.module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted = [found.sum for found in score(family, sequences)]
    assert adapted != pytest.approx(plain, abs=1e-3)
    save_model(family, "inverse", folder / "adapter", adapter=adapter, base=str(folder / "base"))
    again = load_family(folder / "adapter")
    assert [found.sum for found in score(again, sequences)] == pytest.approx(adapted, abs=1e-4)
