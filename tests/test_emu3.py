"""Emu3 on a tiny checkpoint with random weights: against the library's own pixel path, and full forward passes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from family_checks import (
    ACTIONS,
    check_adapter,
    check_greedy,
    check_padding,
    noise_images,
    placeholders,
    sharpened,
)
from transformers import AutoTokenizer, Emu3Config, Emu3ForConditionalGeneration, Emu3ImageProcessor, Emu3Processor

from retrodict.dynamics.sequences import build
from retrodict.dynamics.unified import UnifiedModel
from retrodict.models.emu3 import NEGATIVE, Emu3Family, first_code_id
from retrodict.models.tiny import tiny_emu3

PIXELS = {
    "min_pixels": 64,
    "max_pixels": 64,
    "spatial_factor": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}  # 8 x 8


def new_family() -> Emu3Family:
    torch.manual_seed(0)
    return tiny_emu3(ACTIONS, grid=4, patch=2, frames=4)


@pytest.fixture
def family() -> Emu3Family:
    family = new_family()
    sharpened(family)
    return family


def test_images_become_codes_and_rows_as_in_the_library(family: Emu3Family, tmp_path: Path) -> None:
    family.save(tmp_path)
    library = Emu3ForConditionalGeneration.from_pretrained(tmp_path).eval()
    images = noise_images(3, 8)
    codes = family.encode(images)
    assert codes.features_NLD.shape == (3, 16, 4)
    assert len(np.unique(codes.codes_NL)) > 4
    prepared = Emu3ImageProcessor(**PIXELS)(images, return_tensors="pt")
    with torch.no_grad():
        ids = library.model.get_image_tokens(prepared["pixel_values"].float(), prepared["image_sizes"])
        decoded = library.model.vqmodel.decode(torch.from_numpy(codes.codes_NL).view(3, 4, 4))
    blocks = [family.spec.block(codes_L) for codes_L in codes.codes_NL]
    assert np.concatenate(blocks).tolist() == ids.tolist()
    end_of_line = family.words.vocabulary["<|extra_200|>"]
    assert (blocks[0].reshape(4, 5)[:, -1] == end_of_line).all()
    assert (family.spec.codes(blocks[0]) == codes.codes_NL[0]).all()
    codebook = family.images.vq.quantize.embedding.weight.numpy()
    squares = ((codes.features_NLD[:, :, None] - codebook) ** 2).sum(-1)
    assert (squares.argmin(-1) == codes.codes_NL).all()
    theirs = Emu3ImageProcessor(**PIXELS).postprocess(list(decoded.numpy()))["pixel_values"]
    for image, wanted in zip(family.decode(codes.codes_NL), theirs, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(wanted))


def test_an_inverse_score_is_that_of_the_librarys_own_pixels(family: Emu3Family, tmp_path: Path) -> None:
    family.save(tmp_path)
    library = Emu3ForConditionalGeneration.from_pretrained(tmp_path).eval()
    processor = Emu3Processor(Emu3ImageProcessor(**PIXELS), AutoTokenizer.from_pretrained(tmp_path))
    processor.downsample_ratio = 2  # the library has it at 8, whatever the image tokenizer
    source, target = noise_images(2, 8)
    s, t = family.encode([source, target]).codes_NL
    sequence = build(family, "inverse", source_L=s, target_L=t, action=ACTIONS[0])
    start, stop = sequence.segments.completion or (0, 0)
    instruction = family.text(sequence.ids_T[sequence.segments.target[1] + 2 : start].tolist())  # type: ignore[index]
    text = f"You are a helpful assistant. USER: <image><image>{instruction} {ACTIONS[0]}<|extra_204|>"
    inputs = processor(images=[source, target], text=[text], return_tensors="pt")
    spans = [sequence.segments.source, sequence.segments.target]
    ids_T = placeholders(sequence.ids_T, spans, family.words.vocabulary["<image>"])
    assert inputs["input_ids"][0].tolist() == ids_T.tolist()
    with torch.no_grad():
        logits = library(**{k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}).logits[0]
    logprobs = logits[start - 1 : stop - 1, : family.spec.first_id].log_softmax(-1)
    naive = float(logprobs.gather(1, torch.from_numpy(sequence.ids_T[start:stop, None])).sum())
    (found,) = UnifiedModel(family).score([(source, target)], [ACTIONS[0]])
    assert found.sum == pytest.approx(naive, abs=1e-3)
    assert found.count == stop - start


@pytest.mark.parametrize("scale", [None, 3.0])
def test_greedy_images_are_those_of_full_forward_passes(family: Emu3Family, scale: float | None) -> None:
    check_greedy(family, scale)


def test_guidance_puts_the_negative_prompt_in_place_of_the_action(family: Emu3Family) -> None:
    codes_L = np.arange(16)
    sequence = build(family, "forward", source_L=codes_L, target_L=codes_L, action="open the door")
    (weight, same), (other_weight, negative) = family.guidance(sequence, 3.0)
    assert (weight, other_weight, same) == (3.0, -2.0, sequence)
    start, _ = negative.segments.completion or (0, 0)
    head = f"You are a helpful assistant. USER: 4*4{NEGATIVE}. ASSISTANT:4*4"
    assert family.text(negative.ids_T[:start].tolist()) == head
    span = slice(*negative.segments.source)
    assert (family.spec.codes(negative.ids_T[span]) == codes_L).all()
    assert negative.ids_T[start:].tolist() == sequence.ids_T[sequence.segments.completion[0] :].tolist()  # type: ignore[index]


def test_scores_do_not_depend_on_padding(family: Emu3Family) -> None:
    check_padding(family)


def test_adapters_are_saved_and_loaded(tmp_path: Path) -> None:
    check_adapter(new_family, tmp_path)


def test_the_image_tokenizer_keeps_float32(family: Emu3Family, tmp_path: Path) -> None:
    images = noise_images(2, 8)
    family.module.to(torch.bfloat16)
    family.save(tmp_path)
    again = Emu3Family.load(tmp_path)
    assert again.module.dtype == torch.bfloat16
    assert again.tokenizer == family.tokenizer
    assert np.array_equal(again.encode(images).features_NLD, family.encode(images).features_NLD)


def test_vocabularies_of_others_are_refused(family: Emu3Family, tmp_path: Path) -> None:
    shuffled = {"<|visual token 000000|>": 5, "<|visual token 000001|>": 7}
    with pytest.raises(ValueError, match="2 visual tokens with consecutive ids"):
        first_code_id(shuffled, 2)
    family.save(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        Emu3Family.load(tmp_path)


def test_missing_weights_are_an_error(family: Emu3Family, tmp_path: Path) -> None:
    family.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"lacks .*layers\.2"):
        Emu3Family.load(tmp_path)


def test_sizes_of_the_published_model() -> None:
    """8.5 B parameters (Wang et al. 2024, table 3: 32 layers, width 4096, 14336 inside, 8 key-value heads, 184,622
    tokens), which the library's defaults are. 512 pixels give 4,160 positions, so that a pair fits into 9,216."""
    with torch.device("meta"):
        model = Emu3ForConditionalGeneration(Emu3Config(vocabulary_map={}))
    vq = sum(p.numel() for p in model.model.vqmodel.parameters())
    language = sum(p.numel() for p in model.parameters()) - vq
    hidden, inside, layers, vocabulary = 4096, 14336, 32, 184622
    layer = 2 * hidden * hidden + 2 * hidden * 1024 + 3 * hidden * inside + 2 * hidden
    assert language == layers * layer + 2 * vocabulary * hidden + hidden
    assert language == pytest.approx(8.49e9, rel=1e-3)
    lora = sum(
        16 * (part.in_features + part.out_features)
        for part in model.model.text_model.layers.modules()
        if isinstance(part, torch.nn.Linear)
    )
    assert lora == 41_943_040
