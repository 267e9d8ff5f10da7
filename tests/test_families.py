"""Chameleon and Liquid through everything that stands on the adapter protocol: sampling, scores, training, adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from family_checks import ACTIONS, check_adapter, check_greedy, check_loop, check_padding, sharpened

from retrodict.dynamics.batches import collate, example, supervised_logits, token_nll
from retrodict.loading import load_family
from retrodict.models.checkpoint import quiet_peft
from retrodict.models.registry import tiny_family
from retrodict.models.token_family import TokenFamily


@pytest.fixture(params=["chameleon", "liquid"])
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def _new(name: str) -> TokenFamily:
    torch.manual_seed(0)
    family: TokenFamily = tiny_family(name)(ACTIONS)
    return family


def _sharp(name: str) -> TokenFamily:
    return _new(name) if name == "liquid" else sharpened(_new(name))


def test_greedy_images_equal_running_everything_again(name: str) -> None:
    check_greedy(_sharp(name), None)


def test_guided_images_equal_running_everything_again(name: str) -> None:
    check_greedy(_sharp(name), {"chameleon": 3.0, "liquid": 7.0}[name])


def test_scores_do_not_depend_on_padding(name: str) -> None:
    check_padding(_sharp(name))


def test_loop(tmp_path: Path) -> None:
    """From Python, with one family; test_loop.py runs the command with each."""
    check_loop(lambda: _new("liquid"), 96, tmp_path)


def test_adapter(name: str, tmp_path: Path) -> None:
    """The adapter is PEFT's own: it loads onto the library's class, too, and changes it as it changes ours."""
    check_adapter(lambda: _new(name), tmp_path)
    library_class = {
        "chameleon": transformers.ChameleonForConditionalGeneration,
        "liquid": transformers.GemmaForCausalLM,
    }[name]
    transformers.logging.set_verbosity_error()  # it names the decoder's tensors, for which it has no place
    base: Any = library_class.from_pretrained(tmp_path / "base").eval()
    with quiet_peft():
        adapted: Any = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    ours = load_family(tmp_path / "adapter")
    ids = torch.tensor([ours.text_ids("push the red ball")])
    with torch.inference_mode():
        theirs = adapted.get_base_model().model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(ours.hidden(ids), theirs, rtol=0, atol=1e-5)


def test_image_rows_of_the_head_learn(name: str) -> None:
    """The library's own loss would leave Chameleon's image rows without a gradient, and be infinite."""
    from retrodict.dynamics.sequences import build

    family = _new(name)
    codes_L = np.arange(family.spec.tokens) % family.spec.codebook
    sequence = build(family, "forward", source_L=codes_L, target_L=codes_L[::-1].copy(), action=ACTIONS[0])
    batch = collate([example(family, sequence)], family.pad)
    loss = token_nll(supervised_logits(family, "forward", batch), batch["labels"]).sum()
    loss.backward()
    gradient = family.module.get_parameter("lm_head.weight").grad
    assert gradient is not None and torch.isfinite(loss)
    first = family.spec.first_id
    assert (gradient[first : first + family.spec.codebook].norm(dim=1) > 0).all()
    if name == "chameleon":  # its head is its own: no row of text takes part in an image's loss
        assert gradient[:first].norm() == 0 and gradient[first + family.spec.codebook :].norm() == 0
