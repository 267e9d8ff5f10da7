"""Janus on a tiny checkpoint with random weights: against the library's own pixel path, and full forward passes."""

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
from PIL import Image
from transformers import JanusConfig, JanusForConditionalGeneration, JanusProcessor, LlamaTokenizerFast
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from retrodict.dynamics.sequences import build
from retrodict.dynamics.unified import UnifiedModel
from retrodict.models.hf import Pixels
from retrodict.models.janus import JanusFamily
from retrodict.models.tiny import tiny_janus
from retrodict.training.objective import Objective

PIXELS = {"size": {"height": 8, "width": 8}, "min_size": 1, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def new_family() -> JanusFamily:
    torch.manual_seed(0)
    return tiny_janus(ACTIONS, grid=4, patch=2)


@pytest.fixture
def family() -> JanusFamily:
    family = new_family()
    sharpened(family)
    return family


def library_of(family: JanusFamily, folder: Path) -> JanusForConditionalGeneration:
    family.save(folder)
    return JanusForConditionalGeneration.from_pretrained(folder).eval()


def test_codes_are_nearest_on_the_unit_sphere(family: JanusFamily, tmp_path: Path) -> None:
    """The authors' rule, written out: both sides are normalised, then squared distances. The library forgets the first
    half, and with a codebook whose vectors have all lengths most of its codes are others."""
    images = noise_images(4, 8)
    codes = family.encode(images)
    vq = library_of(family, tmp_path).model.vqmodel
    values_NHW3 = np.stack([np.asarray(image) for image in images]).astype(np.float32)
    pixels_N3HW = torch.from_numpy(values_NHW3 / 127.5 - 1).permute(0, 3, 1, 2)
    with torch.no_grad():
        z_NDHW = vq.quant_conv(vq.encoder(pixels_N3HW))
        theirs_NL = vq.encode(pixels_N3HW).image_tokens.view(4, 16)
    codebook_KD = vq.quantize.embedding.weight.detach().numpy()
    lengths_K = np.linalg.norm(codebook_KD, axis=1)
    assert lengths_K.std() > 0.1
    unit_KD = codebook_KD / lengths_K[:, None]
    for n in range(4):
        for i in range(16):
            z_D = z_NDHW[n, :, i // 4, i % 4].numpy()
            unit_D = z_D / np.linalg.norm(z_D)
            assert codes.features_NLD[n, i] == pytest.approx(unit_D, abs=1e-5)
            assert codes.codes_NL[n, i] == ((unit_KD - unit_D) ** 2).sum(1).argmin()
    assert (theirs_NL.numpy() != codes.codes_NL).mean() > 0.3
    unit = torch.from_numpy(unit_KD)
    vq.quantize.embedding.weight.data.copy_(unit)
    # With unit codes and raw features the nearest is the same, so there the two agree.
    assert (vq.encode(pixels_N3HW).image_tokens.view(4, 16).numpy() == codes.codes_NL).all()


def test_images_are_those_of_the_library(family: JanusFamily, tmp_path: Path) -> None:
    library = library_of(family, tmp_path)
    codes_NL = np.random.default_rng(0).integers(0, 24, (3, 16))
    with torch.no_grad():
        decoded = library.decode_image_tokens(torch.from_numpy(codes_NL)).permute(0, 3, 1, 2)
    theirs = JanusImageProcessorPil(**PIXELS).postprocess(list(decoded.numpy()), return_tensors="PIL.Image.Image")
    for image, wanted in zip(family.decode(codes_NL), theirs["pixel_values"], strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(wanted))


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (16, 8), (4, 8)])
def test_pixels_are_prepared_as_the_library_does(family: JanusFamily, size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    theirs = JanusImageProcessorPil(**PIXELS)(image, return_tensors="pt")["pixel_values"]
    assert torch.allclose(family.images.pixels([image]), theirs.float(), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "inner"),
    [
        ((456, 256), (384, 215)),  # EPIC's: 215.58
        ((427, 240), (384, 215)),  # Something-Something's: 215.83
        ((854, 480), (384, 215)),
        ((500, 333), (384, 255)),  # 255.74
        ((240, 427), (215, 384)),
        ((640, 480), (384, 288)),
        ((3000, 40), (384, 14)),  # no side shorter than 14
    ],
)
def test_sides_are_cut_off_as_the_authors_do(size: tuple[int, int], inner: tuple[int, int]) -> None:
    """`int(side / longest * 384)`; transformers rounds, which gives another row or column and so other pixels."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    expected = Image.new("RGB", (384, 384), (127, 127, 127))
    left, top = (384 - inner[0]) // 2, (384 - inner[1]) // 2
    expected.paste(image.resize(inner, Image.Resampling.BICUBIC), (left, top))
    pixels = Pixels.of({**PIXELS, "min_size": 14}, 384, "pad")
    assert torch.equal(pixels([image]), Pixels.of(PIXELS, 384, "pad")([expected]))


def test_an_inverse_score_is_that_of_the_librarys_own_pixels(family: JanusFamily, tmp_path: Path) -> None:
    """Frames and candidates are decoded to pixels, and those are read: log p under the library's pixel path."""
    library = library_of(family, tmp_path)
    model = UnifiedModel(family)
    (source,) = noise_images(1, 8)
    ((candidate,),) = model.sample([source], [ACTIONS[0]], 1, 0)
    (seen_source,) = family.decode(family.encode([source]).codes_NL)
    sequence = build(
        family, "inverse", source_L=family.encode([source]).codes_NL[0], target_L=candidate.codes_L, action=ACTIONS[1]
    )
    assert sequence.segments.target is not None and sequence.segments.completion is not None
    start, stop = sequence.segments.completion
    instruction = family.text(sequence.ids_T[sequence.segments.target[1] + 1 : start].tolist())
    question = instruction.removesuffix("<|Assistant|>:").strip()
    tokenizer = LlamaTokenizerFast.from_pretrained(tmp_path)
    processor = JanusProcessor(JanusImageProcessorPil(**PIXELS), tokenizer, num_image_tokens=16)
    text = f"<image_placeholder><image_placeholder>{question}"
    inputs = processor(text=text, images=[seen_source, candidate.image], return_tensors="pt")
    spans = [sequence.segments.source, sequence.segments.target]
    ids_T = placeholders(sequence.ids_T, spans, family.words.vocabulary["<image_placeholder>"])
    with torch.no_grad():
        logits = library(input_ids=torch.from_numpy(ids_T[None]), pixel_values=inputs["pixel_values"].float()).logits[0]
    naive = logits.log_softmax(-1)[torch.arange(start - 1, stop - 1), torch.from_numpy(ids_T[start:stop])].sum()
    (found,) = model.score([(source, candidate)], [ACTIONS[1]])
    assert found.sum == pytest.approx(float(naive), abs=1e-3)
    (same,) = model.score([(source, candidate)], [ACTIONS[1]])
    assert same.sum == found.sum
    (other,) = model.score([(candidate, candidate)], [ACTIONS[1]])
    assert abs(other.sum - found.sum) > 1e-3


def test_the_source_is_read_then_written(family: JanusFamily) -> None:
    codes_L, target_L = np.arange(16), np.arange(16)[::-1].copy()
    sequence = build(family, "forward", source_L=codes_L, target_L=target_L, action=ACTIONS[1])
    first = family.spec.first_id
    image = [family.spec.opening[0], *(codes_L + first), family.spec.closing[0]]
    words = family.template_ids("<|User|>:")
    assert sequence.ids_T[1 : len(words) + 1].tolist() == words
    at = int(np.flatnonzero(sequence.ids_T >= first)[0]) - 1
    assert sequence.ids_T[at : at + 36].tolist() == image * 2
    read = family.features(sequence)["read"]
    assert np.flatnonzero(read).tolist() == list(range(at + 1, at + 17))
    model = family.module.model
    with torch.no_grad():
        embeds = family._embed(torch.from_numpy(sequence.ids_T[None]), torch.from_numpy(read[None]))[0]
        pixels = family.images.pixels(family.decode(codes_L[None]))
        seen = model.get_image_features(pixels).pooler_output[0]
        written = family.module.prepare_embeddings_for_image_generation(torch.from_numpy(codes_L))
        embedded = model.language_model.embed_tokens(torch.from_numpy(sequence.ids_T[: at + 1]))
    assert torch.allclose(embeds[: at + 1], embedded)
    assert torch.allclose(embeds[at + 1 : at + 17], seen, atol=1e-5)
    assert torch.allclose(embeds[at + 19 : at + 35], written, atol=1e-6)
    assert torch.allclose(embeds[-17:-1], written.flip(0), atol=1e-6)


@pytest.mark.parametrize("scale", [None, 5.0])
def test_greedy_images_are_those_of_full_forward_passes(family: JanusFamily, scale: float | None) -> None:
    check_greedy(family, scale)


def test_guidance_pads_words_out_and_leaves_images(family: JanusFamily) -> None:
    codes_L = np.arange(16)
    sequence = build(family, "forward", source_L=codes_L, target_L=codes_L, action=ACTIONS[1])
    (weight, same), (other_weight, wordless) = family.guidance(sequence, 5.0)
    assert (weight, other_weight, same) == (5.0, -4.0, sequence)
    changed = wordless.ids_T != sequence.ids_T
    assert (wordless.ids_T[changed] == family.pad).all()
    assert family.text(sequence.ids_T[~changed & (sequence.ids_T < family.spec.first_id)].tolist()) == ""
    assert ACTIONS[1] in family.text(sequence.ids_T[changed].tolist())
    assert np.array_equal(family.features(wordless)["read"], family.features(sequence)["read"])


def test_scores_do_not_depend_on_padding(family: JanusFamily) -> None:
    check_padding(family)


def test_adapters_are_saved_and_loaded(tmp_path: Path) -> None:
    check_adapter(new_family, tmp_path)


def test_both_sides_of_images_stay_as_published(family: JanusFamily, tmp_path: Path) -> None:
    trained = {name.split(".")[1] for name, p in family.module.named_parameters() if p.requires_grad}
    assert trained == {"language_model", "weight"}  # the head's `lm_head.weight`
    family.module.to(torch.bfloat16)
    family.save(tmp_path)
    again = JanusFamily.load(tmp_path)
    assert again.module.dtype == torch.bfloat16
    assert again.tokenizer == family.tokenizer
    images = noise_images(2, 8)
    assert np.array_equal(again.encode(images).features_NLD, family.encode(images).features_NLD)


def test_a_reader_and_a_writer_of_unlike_grids_are_refused(family: JanusFamily) -> None:
    family.module.config.vision_config.num_image_tokens = 9
    with pytest.raises(ValueError, match="reads images as 9 tokens but writes 16"):
        JanusFamily(family.module, family.images, family.words, {})


# Table 1 of the Janus-Pro paper (layers, width, heads; a vocabulary of 100K), with the widths inside of DeepSeek-LLM;
# the parts for images are the library's defaults, which are the published ones.
JANUS_PRO = {
    "1B": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16},
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 30, "num_attention_heads": 32},
}


@pytest.mark.parametrize(("name", "language", "whole"), [("1B", 1.65e9, 2.08e9), ("7B", 6.91e9, 7.42e9)])
def test_sizes_of_the_published_models(name: str, language: float, whole: float) -> None:
    sizes = JANUS_PRO[name]
    width, inside, layers = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_hidden_layers"]
    config = JanusConfig(
        text_config={"model_type": "llama", "vocab_size": 102400, **sizes, "num_key_value_heads": width // 128},
        vision_config={"projection_dim": width},
        vq_config={"projection_dim": width, "image_token_embed_dim": width},
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = JanusForConditionalGeneration(config)
    counted = sum(p.numel() for p in [*model.model.language_model.parameters(), *model.lm_head.parameters()])
    assert counted == layers * (4 * width**2 + 3 * width * inside + 2 * width) + 2 * 102400 * width + width
    assert counted == pytest.approx(language, rel=2e-3)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(whole, rel=2e-3)
    assert model.config.vision_config.num_image_tokens == model.config.vq_config.num_patches**2 == 576


def test_a_head_of_its_own_stays_so_where_the_configuration_does_not_say_it(tmp_path: Path) -> None:
    """As in the published folders, which are older than the library's setting."""
    torch.manual_seed(0)
    tiny_janus(ACTIONS, grid=3).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for part in (config, config["text_config"]):
        part.pop("tie_word_embeddings", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    family = JanusFamily.load(tmp_path)
    head = family.module.lm_head.weight.clone()
    assert not family.module.config.tie_word_embeddings
    Objective(family, "inverse").tie_weights()
    assert torch.equal(family.module.lm_head.weight, head)
    assert not torch.equal(head, family.module.get_input_embeddings().weight)
