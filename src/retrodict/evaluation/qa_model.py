"""A vision-language model that answers questions about one picture, or, as a control, about none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from retrodict.models.hf_logging import no_bars
from retrodict.models.protocol import LogProb


class Answerer(Protocol):
    """Answers in words, and says how likely given answers are. Without a picture it only has the question."""

    def write(self, picture: Image.Image | None, question: str) -> str: ...

    def score(self, picture: Image.Image | None, question: str, answers: Sequence[str]) -> list[LogProb]: ...


class ChatAnswerer:
    """Any model that `AutoModelForImageTextToText` loads, under its own chat template.

    Raises `ValueError` when the folder or hub id cannot be loaded.
    """

    def __init__(self, model: str | Path, *, max_tokens: int = 32) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._max_tokens = max_tokens
        try:
            with no_bars():
                self._processor: Any = AutoProcessor.from_pretrained(model)
                loaded: Any = AutoModelForImageTextToText.from_pretrained(model, dtype="auto", use_safetensors=True)
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{model} cannot be loaded as a model that reads pictures: {reason}") from error
        device: Any = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = loaded.eval().to(device)

    @torch.inference_mode()
    def write(self, picture: Image.Image | None, question: str) -> str:
        """The greedy answer."""
        inputs = self._ask(picture, question)
        ids_BT = self._model.generate(
            **inputs, max_new_tokens=self._max_tokens, do_sample=False, num_beams=1, repetition_penalty=1.0
        )
        new_T = ids_BT[0, inputs["input_ids"].shape[1] :]
        return " ".join(self._processor.tokenizer.decode(new_T, skip_special_tokens=True).split())

    @torch.inference_mode()
    def score(self, picture: Image.Image | None, question: str, answers: Sequence[str]) -> list[LogProb]:
        """log p(answer | picture, question), without the end of the turn: options are compared as beginnings."""
        inputs = self._ask(picture, question)
        return [self._score(inputs, answer) for answer in answers]

    def _score(self, inputs: Any, answer: str) -> LogProb:
        ids: list[int] = self._processor.tokenizer(answer, add_special_tokens=False).input_ids
        asked_BT = inputs["input_ids"]
        tail_BT = torch.tensor([ids], device=asked_BT.device)
        tails = {"input_ids": tail_BT, "attention_mask": torch.ones_like(tail_BT)}
        # What else has a value per token says which tokens are pictures: an answer is none.
        extended = {
            name: torch.cat([value, tails.get(name, torch.zeros_like(tail_BT)).to(value.dtype)], 1)
            if isinstance(value, torch.Tensor) and value.shape == asked_BT.shape
            else value
            for name, value in inputs.items()
        }
        logits_TV = self._model(**extended, use_cache=False).logits[0, asked_BT.shape[1] - 1 : -1].float()
        logprob_T = logits_TV.log_softmax(-1).gather(-1, tail_BT[0][:, None])[:, 0]
        return LogProb(float(logprob_T.sum()), len(ids))

    def _ask(self, picture: Image.Image | None, question: str) -> Any:
        content: list[dict[str, Any]] = [{"type": "text", "text": question}]
        if picture is not None:
            content.insert(0, {"type": "image", "image": picture})
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device, dtype=self._model.dtype)
