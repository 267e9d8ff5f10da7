"""Forward models that are not unified models: baselines and image editors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from retrodict.models.protocol import Candidate, Frame, image_of
from retrodict.placement import chosen_device, chosen_dtype
from retrodict.precision import matmul_precision
from retrodict.sampling import Sampling, SamplingError


class CopyModel:
    """Predicts that nothing happens. Every table has it: a similarity metric that it wins measures copying."""

    def sample(
        self,
        sources: Sequence[Frame],
        actions: Sequence[str],
        n: int,
        seed: int,
        sampling: Sampling = Sampling(),
    ) -> list[list[Candidate]]:
        """`n` times the source, whatever the actions, the seed and the temperature."""
        if sampling != Sampling(sampling.temperature):
            raise SamplingError('"copy" samples nothing: leave out top_p, top_k and guidance.')
        return [[Candidate(image_of(source))] * n for source, _ in zip(sources, actions, strict=True)]


PIPELINE = "model_index.json"  # what makes a folder a diffusers pipeline
_CFG = "true_cfg_scale"  # of pipelines that have a scale of another kind beside classifier-free guidance
_SIZES = ("height", "width", "max_area", "_auto_resize")  # what pipelines are told of an image's size
_UNIT = 8  # pixels that one latent covers
_CLASSICAL = "StableDiffusionInstructPix2PixPipeline"


OPTIONS = ("steps", "guidance", "side", "offload")


class DiffusersEditor:
    """A pipeline of the `diffusers` library that edits an image by an instruction: InstructPix2Pix (arXiv 2211.09800),
    Qwen-Image-Edit, FLUX.1 Kontext, FLUX.2, LongCat and whatever else takes an image and a prompt.

    Its own defaults hold, those of its paper for InstructPix2Pix. Predictions come in the size that it gives them.
    """

    def __init__(self, name: str) -> None:
        """Load a pipeline.

        Args:
            name: A folder or hub id, perhaps with options after an @: `OWNER/NAME@steps=20,guidance=4,side=768,
                offload=model`. `steps` of denoising, the scale of the text's `guidance`, the longest `side` in pixels
                of the image that it is given, and of the one that it gives where it can be told; `offload` keeps its
                models (`model`) or layers (`layers`) in host memory until they are needed.

        Raises:
            ValueError: It is no pipeline, takes no image and prompt, or has no such option.
            ImportError: The extra, or a library that this pipeline alone uses, is not installed.
        """
        model, options = _split(name)
        if not model:
            raise ValueError("diffusers: names no model: write diffusers: and a folder or a hub id.")
        try:
            from diffusers import DiffusionPipeline
        except ImportError as error:
            raise ImportError(f"Image editors need {error.name}: pip install 'retrodict[diffusers]'") from None
        kind = _pipeline_class(model)
        accepted = inspect.signature(kind.__call__).parameters
        built = inspect.signature(kind.__init__).parameters
        if not {"image", "prompt"} <= accepted.keys():
            raise ValueError(f"{model} is a {kind.__name__}, which takes no image and prompt, so it edits none.")
        classical = kind.__name__ == _CLASSICAL
        # A safety checker blackens images: their score would say nothing about the editor.
        unchecked = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in built else {}
        loader: Any = DiffusionPipeline
        try:
            pipeline = loader.from_pretrained(str(model), use_safetensors=True, dtype=_dtype(), **unchecked)
        except ImportError as error:
            raise ImportError(f"{kind.__name__} needs {_lacking(error)}.") from error
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{model} cannot be loaded as {kind.__name__}: {str(error).splitlines()[0]}") from error
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = _placed(pipeline, options.get("offload", ""))
        self._side = int(options.get("side", 512 if classical else 0))
        self._sized = {name for name in _SIZES if name in accepted} if "side" in options else set()
        self._text = _guidance_name(accepted)
        self._given: dict[str, Any] = {"guidance_scale": 7.5, "image_guidance_scale": 1.5} if classical else {}
        if self._text == _CFG and "negative_prompt" in accepted:
            self._given["negative_prompt"] = " "  # without one the scale is ignored, also the pipeline's own
        if "steps" in options or classical:
            self._given["num_inference_steps"] = int(options.get("steps", 100))
        if "guidance" in options:
            self._guide(float(options["guidance"]), self._given)

    def sample(
        self,
        sources: Sequence[Frame],
        actions: Sequence[str],
        n: int,
        seed: int,
        sampling: Sampling = Sampling(),
    ) -> list[list[Candidate]]:
        """`n` images for each (source, action), each from noise of its own.

        An editor has no most likely image: at temperature 0 the noise of the first candidate serves all `n`.
        `sampling.guidance` is the scale of the text.
        """
        if sampling.top_p < 1 or sampling.top_k or sampling.temperature not in (0, 1):
            raise SamplingError("An image editor samples no tokens: leave out temperature, top_p and top_k.")
        given = dict(self._given)
        if sampling.guidance is not None:
            self._guide(sampling.guidance, given)
        distinct = 1 if sampling.temperature == 0 else n
        rows = [
            [Candidate(self._edit(image_of(source), action, given, [seed, prompt, i])) for i in range(distinct)]
            for prompt, (source, action) in enumerate(zip(sources, actions, strict=True))
        ]
        return [row * n for row in rows] if distinct < n else rows

    def _guide(self, scale: float, given: dict[str, Any]) -> None:
        if not self._text:
            raise SamplingError(f"{type(self._pipeline).__name__} takes no guidance: leave it out.")
        given[self._text] = scale

    def _edit(self, source: Image.Image, action: str, given: Mapping[str, Any], entropy: Sequence[int]) -> Image.Image:
        import numpy as np
        import torch

        noise = torch.Generator("cpu").manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        image = source.convert("RGB")
        if self._side:
            image = _whole_latents(image, self._side)
        size = {"height": image.height, "width": image.width, "max_area": image.height * image.width}
        size["_auto_resize"] = False  # to the sizes that a model was trained with
        asked = {name: size[name] for name in self._sized}
        edited: Image.Image = self._pipeline(prompt=action, image=image, generator=noise, **given, **asked).images[0]
        return edited


def _split(name: str) -> tuple[str, dict[str, str]]:
    """A model's name and its options. Raises `ValueError` for an option that there is not, or that is no number."""
    model, at, text = name.rpartition("@")
    if not at or "=" not in text:
        return name, {}
    options = {key: value for key, _, value in (part.partition("=") for part in text.split(","))}
    for key, value in options.items():
        good = value in ("model", "layers") if key == "offload" else value.replace(".", "", 1).isdigit()
        if key not in OPTIONS or not good:
            raise ValueError(
                f"{key}={value} is no option of an image editor: use steps=20, guidance=4, side=768, "
                "offload=model or offload=layers."
            )
    return model, options


def _pipeline_class(model: str) -> type[Any]:
    """The class that `model_index.json` names; only diffusers' own, as code of strangers is never run."""
    import diffusers
    from diffusers import DiffusionPipeline

    try:
        name = str(dict(DiffusionPipeline.load_config(model)).get("_class_name"))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{model} is no pipeline of diffusers: {str(error).splitlines()[0]}") from None
    kind = getattr(diffusers, name, None)
    if not isinstance(kind, type) or not issubclass(kind, DiffusionPipeline):
        raise ValueError(f"{model} is a {name}, which this version of diffusers does not have: update it.")
    return kind


def _lacking(error: ImportError) -> str:
    """Which library a pipeline asks for, and how to get it."""
    said = " ".join(str(error).split())
    if (
        "torchvision" in said.lower()
    ):  # Qwen's processors; not in the extra, as one that is not made for torch breaks it
        return "torchvision: pip install torchvision, from the package index that torch is from"
    return said


def _dtype() -> Any:
    """As asked for; else bfloat16 on a GPU that multiplies it, and float32 elsewhere."""
    import torch

    on_gpu = chosen_device().type == "cuda"
    return chosen_dtype() or (matmul_precision()[0] if on_gpu else torch.float32)


def _placed(pipeline: Any, offload: str) -> Any:
    device = chosen_device()
    if not offload:
        return pipeline.to(device)
    if device.type == "cpu":
        raise ValueError("offload keeps models off the GPU, and there is none: leave it out.")
    move = pipeline.enable_model_cpu_offload if offload == "model" else pipeline.enable_sequential_cpu_offload
    move(device=device)
    return pipeline


def _guidance_name(accepted: Mapping[str, inspect.Parameter]) -> str:
    """What a pipeline calls the scale of its text; of two, the one that it uses by default. Empty where it has none."""
    names = [name for name in ("guidance_scale", _CFG) if name in accepted]
    return next((name for name in names if accepted[name].default is not None), "")


def _whole_latents(image: Image.Image, side: int) -> Image.Image:
    scale = min(1.0, side / max(image.size))
    width, height = (max(_UNIT, round(length * scale / _UNIT) * _UNIT) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
