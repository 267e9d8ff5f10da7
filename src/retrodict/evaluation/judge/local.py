"""A judge on this machine: any vision-language model that `AutoModelForImageTextToText` loads.

It goes the way of an endpoint: the same prompts, the same cache, the same strict reading of its answers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from retrodict.chat.endpoint import Outcome
from retrodict.chat.images import shrink
from retrodict.chat.request import Request, Settings


class LocalModel:
    """A folder or hub id with safetensors weights; they are loaded when the first question is asked."""

    def __init__(self, name: str) -> None:
        self._folder = _folder(name)

    def settings(self, settings: Settings) -> Settings:
        """`settings`, served by these very weights: other weights in the same folder are another judge."""
        return replace(settings, served=f"weights sha256:{_hash(self._folder)}", schema="off")

    def source(self) -> LocalSource:
        return LocalSource(self)

    @cached_property
    def parts(self) -> tuple[Any, Any]:
        """Processor and model."""
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from retrodict.models.hf_logging import no_bars

        with no_bars():
            processor = AutoProcessor.from_pretrained(self._folder)
            model = AutoModelForImageTextToText.from_pretrained(self._folder, dtype="auto", use_safetensors=True)
        device: Any = "cuda" if torch.cuda.is_available() else "cpu"
        return processor, model.eval().to(device)


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

    def _answer(self, request: Request) -> dict[str, Any]:
        """An answer in the form of an endpoint's."""
        import torch

        processor, model = self._model.parts
        inputs = processor.apply_chat_template(
            _messages(request), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(model.device, dtype=model.dtype)
        s = request.settings
        sampling: dict[str, Any] = {"do_sample": True, "temperature": s.temperature} if s.temperature else {}
        torch.manual_seed(s.seed + request.repeat)
        with torch.inference_mode():
            ids_BT = model.generate(**inputs, max_new_tokens=s.max_tokens, **(sampling or {"do_sample": False}))
        asked = inputs["input_ids"].shape[1]
        new = ids_BT[0, asked:]
        text = processor.batch_decode([new], skip_special_tokens=True)[0]
        return {
            "model": s.model,
            "choices": [
                {
                    "finish_reason": "length" if len(new) >= s.max_tokens else "stop",
                    "message": {"role": "assistant", "content": text},
                }
            ],
            "usage": {"prompt_tokens": asked, "completion_tokens": len(new)},
        }


def _messages(request: Request) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for kind, value in request.prompt.parts(request.instruction):
        if kind == "text":
            content.append({"type": "text", "text": value})
        else:
            content.append({"type": "image", "image": shrink(request.pictures[value], request.settings.max_side)})
    system = request.prompt.system
    first = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return [*first, {"role": "user", "content": content}]


def _folder(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The judge '{name}' is no folder here and could not be downloaded: {reason}") from error


def _hash(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".jinja", ".safetensors"))
    if not any(path.suffix == ".safetensors" for path in files):
        raise ValueError(f"{folder} holds no safetensors weights of a vision-language model.")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
