"""Verifiers with weights of others: tiny ones in the published layouts, against forward passes by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_checks import noise_images
from safetensors.torch import load_file, save_file
from tiny_editors import save_tiny_clip
from tiny_vlms import qwen2_5_vl

from retrodict.dynamics.verify import Pool
from retrodict.evaluation.features import Embedder
from retrodict.evaluation.judge.rewards import REWARD, open_reward
from retrodict.models.checkpoint import no_bars
from retrodict.models.protocol import Candidate

SOURCE, *CANDIDATES = noise_images(4, 16, 0)
POOLS = [
    Pool(SOURCE, "move the cup", [Candidate(image) for image in CANDIDATES]),
    Pool(SOURCE, "open the door", [Candidate(CANDIDATES[0])]),
]


def edit_reward(folder: Path) -> Path:
    """As its authors save it: all weights of Qwen2.5-VL and of two heads in one file, and a token more."""
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    qwen2_5_vl(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [REWARD]})
    with no_bars():
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
        model.resize_token_embeddings(len(tokenizer))
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(1)
    for head in range(2):
        for layer, (size, width) in {0: (8, 32), 3: (4, 8), 5: (2, 4)}.items():
            weights[f"rm_heads.head_{head}.{layer}.weight"] = torch.randn(size, width)
            weights[f"rm_heads.head_{head}.{layer}.bias"] = torch.randn(size)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("following", "quality"):
        (folder / f"{name}.txt").write_text(f"Rate the {name}: {{text_prompt}}\n{REWARD}\n\nEND\n")
    return folder


@pytest.fixture
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrodict.evaluation.judge.rewards.PIXELS", 256)


@pytest.mark.usefixtures("small_images")
def test_editreward_is_the_mean_of_its_heads_at_the_reward_token(tmp_path: Path) -> None:
    folder = edit_reward(tmp_path / "weights")
    verifier: Any = open_reward(f"editreward={folder}")
    scores = verifier.scores(POOLS)
    assert [len(row) for row in scores] == [3, 1] and len({round(s, 3) for row in scores for s in row}) == 4
    assert verifier.scores(POOLS[1:]) == [pytest.approx(scores[1], abs=1e-4)]  # whoever shares the batch
    weights, vlm = load_file(folder / "model.safetensors"), verifier._model
    expected = []
    for head, name in enumerate(("following", "quality")):
        content = [{"type": "image", "image": image} for image in (SOURCE, CANDIDATES[1])]
        text = f"Rate the {name}: move the cup\n{REWARD}\n\nEND\n"
        inputs = vlm.ask([[{"role": "user", "content": [*content, {"type": "text", "text": text}]}]])
        with torch.inference_mode():
            hidden = vlm.model.model(**inputs).last_hidden_state[0]
        (at,) = (inputs["input_ids"][0] == vlm.tokenizer.convert_tokens_to_ids(REWARD)).nonzero()[:, 0]
        state = hidden[at]
        for layer in (0, 3, 5):
            lead = f"rm_heads.head_{head}.{layer}"
            state = torch.nn.functional.linear(state, weights[f"{lead}.weight"], weights[f"{lead}.bias"])
            state = state.relu() if layer < 5 else state
        expected.append(float(state[0]))
    assert scores[0][1] == pytest.approx(np.mean(expected), abs=1e-3)
    (folder / "quality.txt").unlink()
    with pytest.raises(ValueError, match="authors' words"):
        open_reward(f"editreward={folder}")


def test_clip_t_is_the_cosine_of_image_and_action(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    save_tiny_clip(folder)
    clip = Embedder("clip", str(folder))
    (row, _) = open_reward(f"clip_t={folder}").scores(POOLS)
    expected = clip.images(CANDIDATES) @ clip.texts(["move the cup"])[0]
    assert row == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_judge_without_scores_gives_nan(tmp_path: Path) -> None:
    """Random weights speak no JSON: as a verifier they choose nothing."""
    scores = open_reward(f"editscore={qwen2_5_vl(tmp_path / 'tiny')}").scores(POOLS[1:])
    assert math.isnan(scores[0][0])
    for wrong in ("editscore", "elo=x", "clip_t="):
        with pytest.raises(ValueError, match="write clip_t=FOLDER"):
            open_reward(wrong)
