"""A judge on this machine: any vision-language model that `models.vlm` loads.

It goes the way of an endpoint: the same prompts, the same cache, the same strict reading of its answers.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from retrodict.chat.endpoint import Outcome
from retrodict.chat.request import Request, Settings, shrink
from retrodict.files import JsonObject
from retrodict.models.hub import model_folder
from retrodict.models.vlm import Message, VisionLanguageModel, message

if TYPE_CHECKING:
    from torch import Tensor

TOGETHER = 0.01  # seconds in which questions join a batch


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
    """Answers all questions that wait, together: as many as are under way at a time."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        self._waiting: list[tuple[Request, asyncio.Future[Outcome]]] = []
        self.counts: Counter[str] = Counter()

    async def close(self) -> None:
        pass

    async def ask(self, request: Request, may_pay_again: Callable[[], bool]) -> Outcome:
        self.counts["asked"] += 1
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()
        if not self._waiting:
            loop.call_later(TOGETHER, self._answer)
        self._waiting.append((request, answer))
        return await answer

    def _answer(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            bodies = self._bodies([request for request, _ in batch])
        except Exception as error:  # it belongs to those who asked
            for _, answer in batch:
                answer.set_exception(error)
            return
        for (_, answer), body in zip(batch, bodies, strict=True):
            answer.set_result(Outcome(body, {"by": "local", "schema": False}))

    def _bodies(self, requests: Sequence[Request]) -> list[JsonObject]:
        """Answers in the form of an endpoint's. A judge asks all under the same settings."""
        vlm, s = self._model.vlm, requests[0].settings
        inputs = vlm.ask([_messages(request) for request in requests])
        noise = [gumbel_noise([request.key for request in requests], s.temperature)] if s.temperature else []
        answers = [
            vlm.until_end(row)
            for row in vlm.generate(inputs, s.max_tokens, do_sample=False, num_beams=1, logits_processor=noise)
        ]
        read = inputs["attention_mask"].sum(1).tolist()
        return [
            {
                "model": s.model,
                "choices": [
                    {
                        "finish_reason": "stop" if answer[-1] in vlm.ends else "length",
                        "message": {"role": "assistant", "content": text},
                    }
                ],
                "usage": {"prompt_tokens": prompt, "completion_tokens": len(answer)},
            }
            for answer, text, prompt in zip(answers, vlm.texts(answers), read, strict=True)
        ]


def gumbel_noise(keys: Sequence[str], temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A logits processor under which the likeliest token is a sample at this temperature (Gumbel-max).

    Each row's noise follows from its own key, which holds seed and repeat: who else is in the batch changes nothing.
    """
    import torch

    sources = [torch.Generator().manual_seed(int(key[:15], 16)) for key in keys]

    def noisy(ids_BT: Tensor, logits_BV: Tensor) -> Tensor:
        uniform_BV = torch.stack([torch.rand(logits_BV.shape[1], generator=source) for source in sources])
        gumbel_BV = -(-uniform_BV.clamp_min(1e-20).log()).log()
        return logits_BV / temperature + gumbel_BV.to(logits_BV)

    return noisy


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
