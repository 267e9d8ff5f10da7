"""AURORA-Bench: both layouts, the L1 protocol, and every metric with images with a known score."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from retrodict.data.aurora import SOURCE_ONLY, SUBSETS, read_aurora
from retrodict.evaluation.baselines import other_targets
from retrodict.evaluation.bench import run_bench
from retrodict.evaluation.metrics import copying, flow_magnitude, l1
from retrodict.evaluation.similarity import magnitudes, split_by_motion
from retrodict.models.protocol import image_of
from retrodict.report import runs
from retrodict.sampling import Sampling

SIZES = {"magicbrush": (96, 96), "ag": (80, 60), "something": (64, 48), "whatsup": (96, 64), "kubric": (64, 64)}


@pytest.fixture(scope="session")
def compact() -> Path:
    """The compact copy, whose images are not ours to publish."""
    given = os.environ.get("RETRODICT_SHARED_DATA")
    folder = (Path(given) if given else Path(__file__).parents[2] / "shared" / "data") / "aurora_bench_small"
    if not folder.is_dir():
        pytest.skip(f"no AURORA-Bench in {folder}; RETRODICT_SHARED_DATA names the folder that has it")
    return folder


def scene(size: tuple[int, int], place: int) -> Image.Image:
    """A textured image with a white square at `place`."""
    noise = np.random.default_rng(0).integers(40, 120, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ImageDraw.Draw(image).rectangle((place, 8, place + 15, 23), fill="white")
    return image


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public layout with made-up images: three items a subset, one target absent, one source half as large."""
    folder = tmp_path_factory.mktemp("native")
    records = []
    for subset in (*SUBSETS, *SOURCE_ONLY):
        for i in range(3):
            names = {side: f"data/{subset}/images/{subset}{i}/{side}.png" for side in ("input", "output")}
            size = SIZES.get(subset, (64, 64))
            (folder / names["input"]).parent.mkdir(parents=True)
            source = scene(size, 4)
            if (subset, i) == ("magicbrush", 0):
                source = source.resize((48, 48))
            source.save(folder / names["input"])
            if subset in SUBSETS and (subset, i) != ("something", 2):
                scene(size, 12 + 8 * i).save(folder / names["output"])
            record = {"input": names["input"], "instruction": f"move the square {i} right", "task": subset}
            if subset in SUBSETS:
                record["output"] = names["output"]
            records.append(record)
    (folder / "test.json").write_text(json.dumps(records))
    return folder


def test_the_five_subsets_with_targets_are_the_default_and_the_others_are_read_on_request(native: Path) -> None:
    items = read_aurora(native)
    assert [t.id for t in items[:4]] == ["magicbrush-001", "magicbrush-002", "magicbrush-003", "ag-001"]
    assert {t.category for t in items} == set(SUBSETS)
    assert [t.id for t in items if t.target is None] == ["something-003"]
    others = read_aurora(native, SOURCE_ONLY)
    assert [t.id for t in others[:1]] == ["clevr-001"]
    assert all(t.target is None for t in others)
    with pytest.raises(ValueError, match="has no moments"):
        read_aurora(native, ("moments",))


def test_copy_on_native_files_is_measured_at_the_targets_size(native: Path, tmp_path: Path) -> None:
    results = run_bench("aurora", out=tmp_path, data=native, model="copy")
    expected = defaultdict(list)
    for t in read_aurora(native):
        if t.target is not None:
            source = t.source_image.resize(t.target_image.size, Image.Resampling.LANCZOS)
            pair = [np.asarray(image, dtype=np.float64) / 255 for image in (source, t.target_image)]
            expected[t.category].append(float(np.abs(pair[0] - pair[1]).mean()))
    for subset, values in expected.items():
        found = results["subsets"][subset]["copy"]
        assert found["l1"] == pytest.approx(np.mean(values), rel=1e-6)
        assert found["n"] == (2 if subset == "something" else 3)
        assert results["subsets"][subset]["ground_truth"]["l1"] == 0
        assert results["metrics"]["copy"]["subsets"][subset]["copy"]["value"] == 1
        assert results["metrics"]["copy"]["subsets"][subset]["ground_truth"]["value"] == 0
    assert results["macro"]["copy"]["l1"] == pytest.approx(np.mean([np.mean(v) for v in expected.values()]))
    assert results["unscored"] == {"no target image": 1}
    lines = [json.loads(line) for line in (tmp_path / "items" / "copy.jsonl").read_text().splitlines()]
    lost = next(line for line in lines if line["id"] == "something-003")
    assert (lost["l1"]["copy"], lost["reason"], lost["motion"]["flow"]) == (None, "no target image", None)
    assert len(lines) == 15


def test_given_predictions_are_a_row_like_any_other(native: Path, tmp_path: Path) -> None:
    mine = tmp_path / "editor"
    mine.mkdir()
    for t in read_aurora(native)[:12]:
        (t.target_image if t.target else t.source_image).resize((32, 32)).save(mine / f"{t.id}.png")
    results = run_bench("aurora", out=tmp_path / "out", data=native, predictions=mine)
    assert set(results["all"]) == {"copy", "ground_truth", "random_target", "editor"}
    assert results["all"]["editor"]["n"] == 11  # no target for one, no image for three
    assert results["unscored"] == {"no image of this name": 3, "no target image": 1}
    assert set(results["comparisons"]) == {f"l1_{subset}" for subset in SUBSETS}
    with pytest.raises(ValueError, match="No L1 protocol"):
        run_bench("aurora", out=tmp_path / "x", data=native, protocol="mine")


def test_copy_diagnostics_by_hand() -> None:
    def square(place: int, shade: int = 0) -> Image.Image:
        image = Image.new("RGB", (64, 64), (shade, shade, shade))
        ImageDraw.Draw(image).rectangle((place, 0, place + 15, 15), fill="white")
        return image

    source, target = square(0), square(16)
    assert copying(source, source, target) == pytest.approx(copying(source.copy(), source, target))
    found = copying(source, source, target)
    assert (found.ratio, found.copy, found.change_iou) == (0, 1, 0)
    found = copying(target, source, target)
    assert (found.ratio, found.copy, found.change_iou) == (1, 0, 1)
    elsewhere = copying(square(32), source, target)  # the left half of the change is right, the other is elsewhere
    assert elsewhere.change_iou == pytest.approx(1 / 3)
    assert math.isnan(copying(source, source, source).ratio)
    # For a token model the copy is the source through its tokenizer, here a darker one.
    round_trip = square(0, 30)
    assert copying(round_trip, source, target).copy == 0
    assert copying(round_trip, source, target, round_trip).copy == 1
    assert copying(round_trip, source, target, round_trip).ratio == 0


def test_l1_protocols() -> None:
    target = Image.new("RGB", (8, 4), (255, 0, 0))
    other = Image.new("RGB", (3, 3), (204, 0, 0))
    for protocol in ("native-lanczos", "native-bicubic", "fixed512"):
        assert l1(other, target, protocol) == pytest.approx(51 / 255 / 3)


def test_motion_splits() -> None:
    still, moved = scene((96, 64), 20), scene((96, 64), 24)
    assert flow_magnitude(still, still) < 1e-4
    assert 0 < flow_magnitude(still, moved) < 0.05
    flow = [1.0, 2.0, 3.0, 10.0, 20.0, math.nan]
    assert split_by_motion(flow, ["a", "a", "a", "b", "b", "b"]) == ["low", "low", "high", "low", "high", ""]
    assert split_by_motion(flow, [""] * 6) == ["low", "low", "low", "high", "high", ""]


def test_a_random_target_is_anothers_and_never_ones_own(native: Path) -> None:
    items = read_aurora(native)
    found = other_targets(items)
    for transition, other in zip(items, found, strict=True):
        if other is not None:
            assert items[other].category == transition.category
            assert items[other].target != transition.target
    assert other_targets([items[0]]) == [None]


def test_copy_on_the_compact_copy_is_what_was_measured(compact: Path) -> None:
    expected = json.loads((compact / "meta.json").read_text())["copy_l1"]
    items = read_aurora(compact)
    values: dict[str, list[float]] = defaultdict(list)
    for t in items:
        if t.target is not None:
            values[t.category].append(l1(t.source_image, t.target_image))
    for subset, value in expected.items():
        assert round(float(np.mean(values[subset])), 5) == pytest.approx(value["small"], abs=1.1e-5)
        assert len(values[subset]) == value["n"]
    assert (len(items), sum(t.target is None for t in items)) == (250, 2)
    assert sum("counterfactual_action" in t.provenance["aurora"] for t in items) == 133


def test_motion_halves_of_the_compact_copy(compact: Path) -> None:
    items = [t for t in read_aurora(compact) if t.category in ("something", "kubric")]
    recorded = {r["id"]: r for r in json.loads((compact / "manifest.json").read_text())}
    halves = split_by_motion(magnitudes(items), [t.category for t in items])
    counts = {(t.category, half): 0 for t in items for half in ("high", "low")}
    for t, half in zip(items, halves, strict=True):
        if half:
            counts[t.category, half] += 1
    assert counts == {
        ("something", "high"): 24,
        ("something", "low"): 24,
        ("kubric", "high"): 25,
        ("kubric", "low"): 25,
    }
    agree = [recorded[t.id]["motion_within_subset"] == half for t, half in zip(items, halves, strict=True) if half]
    assert np.mean(agree) > 0.9


def test_bench_on_the_compact_copy_with_the_small_model(compact: Path, tmp_path: Path) -> None:
    results = runs.bench("aurora", out=tmp_path, data=compact, model="small", n=2, limit=2)
    assert set(results["all"]) == {
        *("copy", "round_trip_source", "round_trip_target", "ground_truth", "random_target"),
        *("small", "small.k2.idm_fdm"),
    }
    assert results["all"]["round_trip_target"]["n"] == 10
    assert set(results["k_curve"]["k2"]) == {"oracle", "min_copy", "idm", "idm_fdm", "random"}
    assert set(results["idp"]["floors"]) == {"constant", "random"}
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert results["all"]["small"]["n"] == 10, "any sentence can be said"
    line = json.loads((tmp_path / "items" / "small.jsonl").read_text().splitlines()[0])
    assert set(line["metrics"]) == {"copy_ratio", "copy", "change_iou", "explained"}


def test_embedding_metrics_and_an_editor_on_tiny_random_models(native: Path, tmp_path: Path) -> None:
    clip, dino, editor = tmp_path / "clip", tmp_path / "dino", tmp_path / "editor"
    save_tiny_clip(clip)
    save_tiny_dino(dino)
    save_tiny_editor(editor)
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"ag-001": "a square"}))

    from retrodict.evaluation.features import Embedder

    embedder = Embedder("clip", str(clip))
    wide = Image.new("RGB", (300, 100))
    wide.paste("white", (120, 0, 180, 100))
    centre = wide.crop((100, 0, 200, 100))
    assert embedder.images([wide]) @ embedder.images([centre]).T == pytest.approx(
        1, abs=1e-3
    )  # the centre is what counts
    assert np.linalg.norm(embedder.texts(["put a cat on the seat " * 9])) == pytest.approx(1, abs=1e-5)

    results = run_bench(
        "aurora",
        out=tmp_path / "out",
        data=native,
        model="copy",
        subsets=["ag", "clevr"],
        limit=2,
        metrics=[f"clip={clip}", f"dino={dino}"],
        captions=captions,
    )
    metrics = results["metrics"]
    for metric in ("clip_i", "dino"):
        assert metrics[metric]["all"]["ground_truth"]["value"] == pytest.approx(1, abs=1e-5)
        assert metrics[metric]["subsets"]["ag"]["copy"]["value"] < 1
        assert metrics[metric]["subsets"]["clevr"]["copy"]["n"] == 0
    assert metrics["clip_t"]["all"]["copy"]["n"] == 1
    assert metrics["clip_instruction"]["all"]["copy"]["n"] == 4  # needs no target
    assert results["embeddings"]["clip"]["pinned"] is False
    with pytest.raises(ValueError, match="could not be loaded"):
        Embedder("dino", str(tmp_path))
    with pytest.raises(ValueError, match=r"--metric clip=nowhere: nowhere is no folder"):
        Embedder("clip", "nowhere")  # and is not looked for on the hub

    from retrodict.loading import load

    with pytest.raises(ValueError, match="only predicts"):
        load(editor, "inverse")
    model = load(f"diffusers:{editor}@steps=2", "forward")
    source = read_aurora(native)[3].source_image
    (pool,) = model.sample([source], ["move it"], 2, seed=0)
    (again,) = model.sample([source], ["move it"], 1, seed=0)
    (greedy,) = model.sample([source], ["move it"], 3, seed=0, sampling=Sampling(0))
    assert pool[0].image.size == (80, 64)  # whole latents
    assert image_of(pool[0]).tobytes() == again[0].image.tobytes() == greedy[2].image.tobytes()
    assert pool[0].image.tobytes() != pool[1].image.tobytes()
    (unguided,) = model.sample([source], ["move it"], 1, seed=0, sampling=Sampling(guidance=1.0))
    assert unguided[0].image.tobytes() != again[0].image.tobytes()
    with pytest.raises(ValueError, match="samples no tokens"):
        model.sample([source], ["move it"], 1, seed=0, sampling=Sampling(top_p=0.9))
    with pytest.raises(ValueError, match="is no pipeline of diffusers"):
        load(f"diffusers:{tmp_path}", "forward")


@pytest.mark.filterwarnings("ignore")  # the library's own, about its configurations
def test_any_pipeline_that_takes_an_image_and_a_prompt_is_a_forward_model(tmp_path: Path) -> None:
    """A class that has neither an image's guidance nor our defaults, with a model that verifies."""
    import diffusers

    from retrodict.api import predict
    from retrodict.loading import load

    save_tiny_editor(tmp_path / "other", diffusers.StableDiffusionImg2ImgPipeline, channels=4)
    source = Image.new("RGB", (64, 64), "red")
    model = load(f"diffusers:{tmp_path / 'other'}@steps=3,guidance=2,side=32", "forward")
    (pool,) = model.sample([source], ["move it"], 2, seed=0)
    assert {candidate.image.size for candidate in pool} == {(32, 32)}
    assert pool[0].image.tobytes() != pool[1].image.tobytes()
    whole = load(f"diffusers:{tmp_path / 'other'}@steps=3", "forward").sample([source], ["move it"], 1, seed=0)
    assert whole[0][0].image.size == (64, 64)
    chosen = predict(source, "push the red ball to the left", n=2, model=model, verifier="idm", inverse="small")
    assert chosen.scores[chosen.chosen] == max(chosen.scores)

    save_tiny_editor(tmp_path / "writes", diffusers.StableDiffusionPipeline, channels=4)
    with pytest.raises(ValueError, match="takes no image and prompt"):
        load(f"diffusers:{tmp_path / 'writes'}", "forward")
    for wrong in ("strength=1", "steps=many", "offload=disk"):
        with pytest.raises(ValueError, match="is no option of an image editor"):
            load(f"diffusers:{tmp_path / 'other'}@{wrong}", "forward")
    index = tmp_path / "other" / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionImg2ImgPipeline", "TomorrowsPipeline"))
    with pytest.raises(ValueError, match="is a TomorrowsPipeline, which this version of diffusers does not have"):
        load(f"diffusers:{tmp_path / 'other'}", "forward")


@pytest.mark.filterwarnings("ignore")  # the library's own, about its configurations
def test_flux_kontext_edits_at_the_size_that_is_asked_for(tmp_path: Path) -> None:
    """Tiny, with random weights: by itself it edits a million pixels, whatever it is given."""
    from retrodict.loading import load

    save_tiny_kontext(tmp_path / "kontext")
    model = load(f"diffusers:{tmp_path / 'kontext'}@steps=1,guidance=2.5,side=32", "forward")
    (pool,) = model.sample([Image.new("RGB", (64, 48), "red")], ["move it"], 2, seed=0)
    assert {candidate.image.size for candidate in pool} == {(32, 24)}
    assert pool[0].image.tobytes() != pool[1].image.tobytes()


def test_guidance_of_pipelines_with_two_kinds_of_it() -> None:
    """Qwen-Image-Edit ignores its scale without a negative prompt; FLUX.1 Kontext's own scale needs none."""
    import inspect

    from diffusers import FluxKontextPipeline, QwenImageEditPipeline

    from retrodict.models.editors import _guidance_name

    names = [
        _guidance_name(inspect.signature(k.__call__).parameters) for k in (QwenImageEditPipeline, FluxKontextPipeline)
    ]
    assert names == ["true_cfg_scale", "guidance_scale"]


@pytest.mark.filterwarnings("ignore")  # the library's own, about its configurations
def test_qwen_image_edit_runs_through_a_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny, in the published layout, whose processor reads videos, too, which nobody asks for but needs torchvision."""
    import transformers
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
    from transformers import processing_utils
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.video_processing_utils import BaseVideoProcessor

    from retrodict.loading import load

    class VideoProcessor(BaseVideoProcessor):
        def __init__(self) -> None:
            pass

        def to_dict(self) -> dict[str, Any]:
            return {"video_processor_type": "Qwen2VLVideoProcessor"}

    monkeypatch.setattr(processing_utils.transformers_module, "VideoProcessorMixin", BaseVideoProcessor, raising=False)
    editor = tmp_path / "qwen"
    save_tiny_qwen_edit(editor, VideoProcessor())
    if not transformers.utils.is_torchvision_available():
        with pytest.raises(
            ImportError, match=r"^QwenImageEditPipeline needs torchvision: pip install torchvision, from"
        ):
            load(f"diffusers:{editor}", "forward")
    monkeypatch.setattr(AutoVideoProcessor, "from_pretrained", lambda *_, **__: VideoProcessor())
    sizes = pipeline_qwenimage_edit.calculate_dimensions  # it reads every source at a million pixels
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: sizes(96**2, ratio))

    (tmp_path / "items").mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (64, 48), colour).save(tmp_path / "items" / name)
    item = {"file_name": "a.png", "target": "b.png", "action": "move it"}
    (tmp_path / "items" / "metadata.jsonl").write_text(json.dumps(item) + "\n")
    results = run_bench(
        str(tmp_path / "items"),
        out=tmp_path / "run",
        model=f"diffusers:{editor}@steps=1,side=32",
        n=2,
        verifier="idm",
        inverse="small",
    )
    assert results["all"][f"{results['system']}.k2.idm"]["n"] == 1
    model = load(f"diffusers:{editor}@steps=1,side=32", "forward")
    images = {}
    for guidance in (None, 1.0, 9.0):  # of itself it is guided, by 4
        pools = model.sample([Image.new("RGB", (64, 48), "red")], ["move it"], 1, 0, Sampling(guidance=guidance))
        images[guidance] = pools[0][0].image
    assert {image.size for image in images.values()} == {(32, 16)}  # whole pairs of latents
    assert len({image.tobytes() for image in images.values()}) == 3


def save_tiny_qwen_edit(folder: Path, videos: Any) -> None:
    import torch
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPipeline,
        QwenImageTransformer2DModel,
    )
    from tokenizers import pre_tokenizers
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    torch.manual_seed(0)
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    named = ["im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad"]
    tokenizer = Qwen2Tokenizer(vocab=letters, merges=[], additional_special_tokens=[f"<|{name}|>" for name in named])
    ids = dict(zip(named, tokenizer.convert_tokens_to_ids([f"<|{name}|>" for name in named]), strict=True))
    small = {"hidden_size": 16, "intermediate_size": 16}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    text = {"vocab_size": len(tokenizer), "rope_parameters": rope, "pad_token_id": 0, **heads, **small}
    vision = {"depth": 1, "num_heads": 2, "out_hidden_size": 16, "patch_size": 4, "window_size": 16, **small}
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config={**vision, "fullatt_block_indexes": [0]},
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 256})
    QwenImageEditPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        processor=Qwen2VLProcessor(images, tokenizer, videos),
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=1,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
    ).save_pretrained(folder)


def save_tiny_kontext(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

    torch.manual_seed(0)
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "move": 3, "it": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 16}
    vae = AutoencoderKL(
        sample_size=32,
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    t5 = T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)),
        tokenizer=clip_tokenizer(),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named),
        transformer=transformer,
    ).save_pretrained(folder)


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = [chr(i) for i in range(97, 123)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=12)


TEXT = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def save_tiny_clip(folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)


def save_tiny_dino(folder: Path) -> None:
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    ViTModel(ViTConfig(**VISION)).save_pretrained(folder)


def save_tiny_editor(folder: Path, kind: Any = None, channels: int = 8) -> None:
    """A pipeline with random weights; by default InstructPix2Pix, whose network reads the source beside the noise."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **blocks
    )
    (kind or StableDiffusionInstructPix2PixPipeline)(
        vae=vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
