"""Models that only read images, as inverse models: tiny random ones, against running everything again by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_checks import ACTIONS, noise_images
from tiny_vlms import idefics3, qwen2_5_vl

from retrodict.bootstrap.annotate import annotate
from retrodict.dynamics.best_of_n import predict
from retrodict.dynamics.verify import InverseLikelihood
from retrodict.images import encode_png
from retrodict.loading import load
from retrodict.models.editors import CopyModel
from retrodict.models.vlm import Captioner
from retrodict.transitions import FramePair


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return idefics3(tmp_path_factory.mktemp("idefics3"))


@pytest.fixture
def qwen(tmp_path: Path) -> Captioner:
    return Captioner.load(qwen2_5_vl(tmp_path), max_tokens=6)


@pytest.fixture
def idefics(folder: Path) -> Captioner:
    return Captioner.load(folder, max_tokens=6)


PAIRS = [(a, b) for a, b in zip(noise_images(3, 16, 0), noise_images(3, 24, 1), strict=True)]


@torch.inference_mode()
def logprobs_after(captioner: Captioner, pair: Any, answer: list[int]) -> torch.Tensor:
    """Log-probabilities of all tokens after a question and the beginning of an answer, run alone and whole."""
    inputs = dict(captioner.ask([pair]))
    asked = inputs["input_ids"].shape
    tail = torch.tensor([answer], dtype=torch.long)
    for name, value in inputs.items():
        if value.shape == asked and answer:
            filled = {"input_ids": tail, "attention_mask": torch.ones_like(tail)}.get(name, torch.zeros_like(tail))
            inputs[name] = torch.cat([value, filled], 1)
    found: torch.Tensor = captioner.vlm.model(**inputs).logits[0, -1].float().log_softmax(-1)
    return found


@pytest.mark.parametrize("name", ["idefics", "qwen"])
def test_scores_and_actions_are_those_of_full_forward_passes(name: str, request: pytest.FixtureRequest) -> None:
    captioner: Captioner = request.getfixturevalue(name)
    tokenizer, end = captioner.vlm.tokenizer, captioner.vlm.tokenizer.eos_token_id
    lead = {"idefics": " ", "qwen": ""}[name]
    together = captioner.score(PAIRS, ACTIONS)
    for pair, action, found in zip(PAIRS, ACTIONS, together, strict=True):
        answer = [*tokenizer(lead + action, add_special_tokens=False).input_ids, end]
        slow = sum(float(logprobs_after(captioner, pair, answer[:i])[token]) for i, token in enumerate(answer))
        assert found.sum == pytest.approx(slow, abs=2e-3)
        assert found.count == len(answer)
        assert captioner.score([pair], [action])[0].sum == pytest.approx(found.sum, abs=2e-3)
    assert len({round(found.sum, 2) for found in together}) == 3
    for pair, explained in zip(PAIRS, captioner.explain(PAIRS), strict=True):
        ids: list[int] = []
        total = 0.0
        while len(ids) < 6 and end not in ids:
            logprobs = logprobs_after(captioner, pair, ids)
            chosen = logprobs.clone()
            chosen[[i for i in tokenizer.all_special_ids if i not in captioner.vlm.ends]] = -torch.inf
            ids.append(int(chosen.argmax()))
            total += float(logprobs[ids[-1]])
        assert explained.action == " ".join(tokenizer.decode(ids, skip_special_tokens=True).split())
        assert explained.logprob.sum == pytest.approx(total, abs=2e-3)
        assert explained.prompt == "chat-inverse-1"


def test_positions_of_images_reach_the_model(qwen: Captioner) -> None:
    """Qwen-VL without the row that says which tokens are images gives other scores, and no error."""
    (right,) = qwen.score(PAIRS[:1], ACTIONS[:1])
    processor: Any = qwen.vlm.processor
    ask = processor.apply_chat_template

    def forgetful(*args: Any, **options: Any) -> Any:
        inputs = ask(*args, **options)
        del inputs["mm_token_type_ids"]
        return inputs

    processor.apply_chat_template = forgetful
    (wrong,) = qwen.score(PAIRS[:1], ACTIONS[:1])
    assert abs(right.sum - wrong.sum) > 1e-2


def test_a_folder_is_an_inverse_model(folder: Path) -> None:
    model = load(folder, "inverse")
    rows = [
        FramePair(id=str(i), source=encode_png(source), target=encode_png(target))
        for i, (source, target) in enumerate(PAIRS)
    ]
    assert all(np.isfinite(row.logprob) for row in annotate(model, rows, "tiny"))
    found = predict(CopyModel(), InverseLikelihood(model), PAIRS[0][0], ACTIONS[0], n=2, seed=0)
    assert np.isfinite(found.scores).all()
    with pytest.raises(ValueError, match="writes no images: it only explains"):
        load(folder, "forward")
    with pytest.raises(ValueError, match="action is empty"):
        model.score(PAIRS[:1], [" "])


def test_unreadable_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match="cannot be loaded as a vision-language model"):
        load(tmp_path, "inverse")
