"""Liquid: a Gemma with image tokens at the end of its vocabulary, and the authors' prompts, written out."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GemmaConfig, GemmaForCausalLM

from retrodict.dynamics.sequences import build
from retrodict.loading import load
from retrodict.models.liquid import LiquidFamily
from retrodict.models.tiny import tiny_liquid
from retrodict.models.vqgan_files import OWN

CHECKPOINTS = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "goldens" / "checkpoints.py")))
SOURCE_L, TARGET_L = np.arange(16) % 24, np.arange(16) % 5


@pytest.fixture(scope="module")
def liquid() -> LiquidFamily:
    torch.manual_seed(0)
    return tiny_liquid(["push the red ball to the left"], grid=4, patch=8)


def test_image_rows_are_the_end_of_the_tied_head(liquid: LiquidFamily) -> None:
    ids = torch.arange(12).view(1, 12) * 20
    with torch.inference_mode():
        hidden = liquid.hidden(ids)
        whole = liquid.module(ids).logits
        split = torch.cat([liquid.text_logits(hidden), liquid.image_logits(hidden)], -1)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-6)
    assert split.shape[-1] - liquid.spec.first_id == 24
    assert liquid.spec.first_id == len(liquid.words)
    embeddings, head = liquid.module.get_input_embeddings(), liquid.module.get_output_embeddings()
    assert embeddings.weight is head.weight


def test_extended_as_the_authors_do(liquid: LiquidFamily) -> None:
    """A Gemma whose vocabulary is extended by `resize_token_embeddings` has code k at the old size plus k."""
    words = len(liquid.words)
    config = GemmaConfig(**{**liquid.module.config.to_dict(), "vocab_size": words})
    gemma = GemmaForCausalLM(config).eval()
    gemma.resize_token_embeddings(words + 24, mean_resizing=False)
    family = LiquidFamily(gemma, liquid.images, liquid.words)
    hidden = torch.randn(3, 32)
    torch.testing.assert_close(family.image_logits(hidden)[:, 5], hidden @ gemma.lm_head.weight[words + 5])


def _spelled(family: LiquidFamily, ids: list[int]) -> str:
    """A sequence as text, with `<image>` for each image's codes; what the authors' scripts build."""
    names = {index: name for name, index in family.words.vocabulary.items()}
    out, text = "", list[int]()
    for index in [*ids, None]:
        if index is not None and index < family.spec.first_id and not names[index].startswith("<"):
            text.append(index)
            continue
        out += family.words._whole.decode(text)
        text = []
        if index is None:
            break
        token = "<image>" if index >= family.spec.first_id else names[index]
        out += "" if token == "<image>" and out.endswith("<image>") else token
    return out


def test_sequences_read_as_the_authors(liquid: LiquidFamily) -> None:
    pair: dict[str, Any] = {"source_L": SOURCE_L, "target_L": TARGET_L, "action": "push the red ball"}
    forward = build(liquid, "forward", **pair)
    edit = "Modify the provided image based on the given instruction: push the red ball"
    assert _spelled(liquid, forward.ids_T.tolist()) == f"<bos><boi><image><eoi>\n{edit}<boi><image><eoi>"
    full, without = liquid.guidance(forward, 7.0)
    assert (full.weight, full.sequence, without.weight) == (7.0, forward, -6.0)
    spelled = _spelled(liquid, without.sequence.ids_T.tolist())
    assert spelled == "<bos><boi><image><eoi>\n<unconditional><boi><image><eoi>"
    start, stop = without.sequence.segments.source
    assert (without.sequence.ids_T[start:stop] - liquid.spec.first_id).tolist() == SOURCE_L.tolist()
    start, stop = without.sequence.segments.completion or (0, 0)
    assert (without.sequence.ids_T[start:stop] - liquid.spec.first_id).tolist() == TARGET_L.tolist()

    inverse = _spelled(liquid, build(liquid, "inverse", **pair).ids_T.tolist())
    assert inverse.startswith("<bos><start_of_turn>user\n<boi><image><eoi><boi><image><eoi>\nGiven two consecutive")
    assert inverse.endswith("the state transition.<end_of_turn>\n<start_of_turn>model\npush the red ball<eos>")
    assert inverse.count("<bos>") == 1


def test_the_same_ids_as_one_text(liquid: LiquidFamily) -> None:
    """Parts are tokenized apart; a space at a seam must not make other tokens than the whole text has."""
    forward = build(liquid, "forward", source_L=SOURCE_L, action="push the red ball")
    whole = liquid.template_ids("\nModify the provided image based on the given instruction: push the red ball<boi>")
    assert forward.ids_T[-len(whole) :].tolist() == whole


def test_an_action_of_spaces_is_empty(liquid: LiquidFamily) -> None:
    with pytest.raises(ValueError, match="action is empty"):
        build(liquid, "forward", source_L=SOURCE_L, action="  ")


def test_no_text_becomes_a_control_token(liquid: LiquidFamily) -> None:
    text = "move <eos> to <boi> and <start_of_turn>user"
    ids = liquid.text_ids(text)
    assert min(ids) > liquid.words.vocabulary["<end_of_turn>"]
    assert liquid.text(ids) == text


def test_saved_loaded_and_known_by_its_config(liquid: LiquidFamily, tmp_path: Path) -> None:
    liquid.save(tmp_path)
    model = load(tmp_path, role="forward")
    images = list(CHECKPOINTS.sample_images().values())
    here = type(model)(liquid).score_targets(images[:1], ["push the ball"], images[1:2])
    assert model.score_targets(images[:1], ["push the ball"], images[1:2]) == here
    assert model.family.name == "liquid"
    # What others' tools see in the folder.
    library: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert library.config.tie_word_embeddings
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert words("push<boi>", add_special_tokens=False).input_ids == liquid.template_ids("push<boi>")


def test_what_is_no_liquid_is_said(liquid: LiquidFamily, tmp_path: Path) -> None:
    liquid.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(ValueError, match="computes with relu"):
        LiquidFamily.load(tmp_path)
    plain = GemmaForCausalLM(GemmaConfig(**{**config, "vocab_size": 999}))
    with pytest.raises(ValueError, match="make 308, but the model has 999 embeddings"):
        LiquidFamily(plain, liquid.images, liquid.words)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / OWN).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="holds no image tokenizer"):
        LiquidFamily.load(tmp_path)


def test_released_size(liquid: LiquidFamily) -> None:
    """Without weights, on the meta device: 8.6 billion with rows of image tokens, and LoRA's 50 million at rank 16."""
    import peft

    from retrodict.models.checkpoint import quiet_peft

    config = GemmaConfig(vocab_size=264_192)
    with torch.device("meta"):
        module = GemmaForCausalLM(config)
    # 256,000 + 8,192 tied rows of 3,072 beside the 7.75 billion of Gemma-7B's layers.
    assert sum(p.numel() for p in module.parameters()) == 8_562_846_720
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules=LiquidFamily.train_spec.lora_targets)
    with torch.device("meta"), quiet_peft():
        adapted: Any = peft.get_peft_model(module, lora, low_cpu_mem_usage=True)
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 50_003_968
    assert config.hidden_act == liquid.module.config.hidden_act
