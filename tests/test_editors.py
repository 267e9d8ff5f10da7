"""Image editors of diffusers as forward models, each a pipeline with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_editors import save_tiny_editor, save_tiny_kontext, save_tiny_qwen_edit

from retrodict.evaluation.bench import run_bench
from retrodict.loading import load
from retrodict.models.protocol import image_of
from retrodict.sampling import Sampling


def test_an_editor_edits_and_follows_guidance(tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    save_tiny_editor(editor)
    with pytest.raises(ValueError, match="only predicts"):
        load(editor, "inverse")
    model = load(f"diffusers:{editor}@steps=2", "forward")
    source = Image.new("RGB", (80, 60), "red")
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
