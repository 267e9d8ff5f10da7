"""A judge on this machine: any vision-language model that `models.vlm` loads.

It goes the way of an endpoint: the same prompts, the same cache, the same strict reading of its answers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from PIL import Image

from retrodict.chat.endpoint import Outcome
from retrodict.chat.request import Request, Settings, shrink
from retrodict.files import JsonObject
from retrodict.models.hub import model_folder
from retrodict.models.vlm import Message, VisionLanguageModel, message


class LocalModel:
    """A folder or hub id with safetensors weights; they are loaded when the first question is asked."""

    def __init__(self, name: str) -> None:
        self._folder = model_folder(name)

    def settings(self, settings: Settings) -> Settings:
        """`settings`, served by these very weights: other weights in the same folder are another judge."""
        return replace(settings, served=f"weights sha256:{_hash(self._folder)}", schema="off")

    def source(self) -> LocalSource:
        return LocalSource(self)

    @cached_property
    def vlm(self) -> VisionLanguageModel:
        return VisionLanguageModel.load(self._folder)


class LocalSource:
    """Answers one question at a time."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        self.counts: Counter[str] = Counter()

    async def close(self) -> None:
        pass

    async def ask(self, request: Request, may_pay_again: Callable[[], bool]) -> Outcome:
        self.counts["asked"] += 1
        return Outcome(self._answer(request), {"by": "local", "schema": False})

    def _answer(self, request: Request) -> JsonObject:
        """An answer in the form of an endpoint's."""
        import torch

        vlm, s = self._model.vlm, request.settings
        inputs = vlm.ask([_messages(request)])
        torch.manual_seed(
            int(request.key[:15], 16)
        )  # the key holds seed and repeat: noise of its own for each question
        sampling = {"do_sample": True, "temperature": s.temperature} if s.temperature else {"do_sample": False}
        (answer,) = vlm.generate(inputs, s.max_tokens, **sampling)
        (text,) = vlm.texts([answer])
        return {
            "model": s.model,
            "choices": [
                {
                    "finish_reason": "length" if len(answer) >= s.max_tokens else "stop",
                    "message": {"role": "assistant", "content": text},
                }
            ],
            "usage": {"prompt_tokens": inputs["input_ids"].shape[1], "completion_tokens": len(answer)},
        }


def _messages(request: Request) -> list[Message]:
    def image(slot: str) -> Image.Image:
        return shrink(request.images[slot], request.settings.max_side)

    parts = [value if kind == "text" else image(value) for kind, value in request.prompt.parts(request.instruction)]
    system = request.prompt.system
    return [*([message([system], "system")] if system else []), message(parts)]


def _hash(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".jinja", ".safetensors"))
    if not any(path.suffix == ".safetensors" for path in files):
        raise ValueError(f"{folder} holds no safetensors weights of a vision-language model.")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
