"""What only real weights can show; nothing here runs without them.

    RETRODICT_WEIGHTS=FOLDER python -m pytest tests/test_real_weights.py

FOLDER holds any of `chameleon`, `liquid`, `emu3`, `janus`: model folders that `retrodict convert` wrote, or published
ones in the layout of transformers. Seven billion parameters want some 20 GB of memory, or a GPU, which is used where
there is one. The first run of a family records its greedy tokens in `FOLDER/first_tokens.json`; later runs compare.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retrodict.dynamics.sequences import build
from retrodict.loading import load_family
from retrodict.models.protocol import TokenFamily

FAMILIES = ("chameleon", "liquid", "emu3", "janus")
IMAGES = sorted((Path(__file__).parents[1] / "examples").glob("*.png"))
# Ids of the first code, the opening and the closing; bos, eos and pad; codes and tokens of an image.
CONSTANTS: dict[str, dict[str, Any]] = {
    "chameleon": {"first": 4, "opening": (8197,), "closing": (8196,), "special": (0, 2, 1), "size": (8192, 1024)},
    "liquid": {"first": 256_000, "special": (2, 1, 0), "size": (8192, 1024)},
    "emu3": {"size": (32_768, 64 * 64)},
    "janus": {"size": (16_384, 24 * 24)},
}


def _weights() -> Path:
    folder = os.environ.get("RETRODICT_WEIGHTS")
    if not folder:
        pytest.skip("RETRODICT_WEIGHTS names no folder of real weights")
    return Path(folder)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> TokenFamily:
    folder = _weights() / str(request.param)
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    found = load_family(folder)
    if torch.cuda.is_available():
        found.module.to("cuda")
    return found


def test_constants(family: TokenFamily) -> None:
    expected, spec = CONSTANTS[family.name], family.spec
    found = {
        "first": spec.first_id,
        "opening": spec.opening,
        "closing": spec.closing,
        "special": (family.bos, family.eos, family.pad),
        "size": (spec.codebook, spec.tokens),
    }
    assert {name: found[name] for name in expected} == expected


def test_configuration(family: TokenFamily) -> None:
    module: Any = family.module
    if family.name == "liquid":
        assert module.config.hidden_act == "gelu_pytorch_tanh"
        assert module.config.tie_word_embeddings
        assert module.get_input_embeddings().weight is module.get_output_embeddings().weight
    if family.name == "chameleon":
        assert not module.config.tie_word_embeddings
        assert module.config.rope_parameters["rope_theta"] == 10_000


def test_images_survive_the_tokenizer(family: TokenFamily) -> None:
    """Peak signal-to-noise ratio of a round trip; a wrong order of codes or channels gives some 8 dB."""
    images = [Image.open(file).convert("RGB") for file in IMAGES]
    assert images
    side = family.spec.size
    for image, again in zip(images, family.decode(family.encode(images).codes_NL), strict=True):
        before = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float64)
        error = np.mean((before - np.asarray(again.resize((side, side)))) ** 2)
        assert 10 * math.log10(255**2 / error) > 18


def test_words_survive(family: TokenFamily) -> None:
    text = "push the red ball to the left, then close 2 drawers"
    assert family.text(family.text_ids(text)) == text


@torch.inference_mode()
def test_first_tokens(family: TokenFamily) -> None:
    """16 greedy codes after a forward prompt, by running the whole sequence for each, and the logits' shape."""
    device = next(family.module.parameters()).device
    codes_NL = family.encode([Image.open(file).convert("RGB") for file in IMAGES[:1]]).codes_NL
    found: list[int] = []
    positions = np.flatnonzero(family.spec.schedule < 0)
    for position in positions[:16]:
        target_L = np.zeros(family.spec.tokens, dtype=np.int64)
        target_L[: len(found)] = found
        sequence = build(family, "forward", source_L=codes_NL[0], target_L=target_L, action="lift the ball")
        assert sequence.segments.completion is not None
        stop = sequence.segments.completion[0] + int(position)
        inputs = {k: torch.from_numpy(v[None, :stop]).to(device) for k, v in family.features(sequence).items()}
        ids_1T = torch.from_numpy(sequence.ids_T[None, :stop]).to(device)
        logits_K = family.image_logits(family.hidden(ids_1T, **inputs)[0, -1]).float()
        assert torch.isfinite(logits_K).all()
        assert logits_K.std() > 0.1, "logits of a model that has learnt nothing"
        found.append(int(logits_K.argmax()))
    file = _weights() / "first_tokens.json"
    recorded = json.loads(file.read_text()) if file.is_file() else {}
    if family.name not in recorded:
        file.write_text(json.dumps({**recorded, family.name: found}, indent=1) + "\n")
        pytest.skip(f"recorded the first tokens in {file}; the next run compares with them")
    assert found == recorded[family.name]
