"""Forward models that are not unified models: baselines and image editors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from retrodict.models.protocol import Candidate, Frame, image_of
from retrodict.placement import chosen_device
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
_UNIT = 8  # pixels that one latent covers


class DiffusersEditor:
    """An InstructPix2Pix pipeline (arXiv 2211.09800) of the `diffusers` library: the classical instruction editor.

    The defaults are those of its paper. Images are scaled to at most `side` pixels and to whole latents; predictions
    come in that size.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        steps: int = 100,
        text_guidance: float = 7.5,
        image_guidance: float = 1.5,
        side: int = 512,
    ) -> None:
        """Load a folder or hub id. Raises `ValueError` when it is no such pipeline, `ImportError` without the extra."""
        try:
            from diffusers import StableDiffusionInstructPix2PixPipeline
        except ImportError as error:
            raise ImportError(f"Image editors need {error.name}: pip install 'retrodict[diffusers]'") from None
        self._steps, self._text, self._image, self._side = steps, text_guidance, image_guidance, side
        try:
            # A safety checker blackens images: their score would say nothing about the editor.
            kind: Any = StableDiffusionInstructPix2PixPipeline
            pipeline = kind.from_pretrained(
                str(model), safety_checker=None, requires_safety_checker=False, use_safetensors=True
            )
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{model} is no InstructPix2Pix pipeline: {str(error).splitlines()[0]}") from error
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline.to(chosen_device())

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
        text = self._text if sampling.guidance is None else sampling.guidance
        distinct = 1 if sampling.temperature == 0 else n
        rows = [
            [Candidate(self._edit(image_of(source), action, text, [seed, prompt, i])) for i in range(distinct)]
            for prompt, (source, action) in enumerate(zip(sources, actions, strict=True))
        ]
        return [row * n for row in rows] if distinct < n else rows

    def _edit(self, source: Image.Image, action: str, text: float, entropy: Sequence[int]) -> Image.Image:
        import numpy as np
        import torch

        noise = torch.Generator("cpu").manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        output = self._pipeline(
            action,
            image=_whole_latents(source.convert("RGB"), self._side),
            num_inference_steps=self._steps,
            guidance_scale=text,
            image_guidance_scale=self._image,
            generator=noise,
        )
        image: Image.Image = output.images[0]
        return image


def _whole_latents(image: Image.Image, side: int) -> Image.Image:
    scale = min(1.0, side / max(image.size))
    width, height = (max(_UNIT, round(length * scale / _UNIT) * _UNIT) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
