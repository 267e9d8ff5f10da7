"""Vision-language models that only read pictures, as inverse models: Qwen-VL, SmolVLM, LLaVA and what else
`AutoModelForImageTextToText` loads. They name actions in frame pairs, score them, and verify anybody's candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from retrodict.models.hf_logging import no_bars
from retrodict.models.protocol import Explanation, Frame, LogProb, Pair, image_of
from retrodict.prompts import PROMPTS, Prompt, Slot

PROMPT = "chat-inverse-1"


class Captioner:
    """`InverseModel` over a chat model and its processor.

    Both pictures of a pair are shrunk to `side` pixels and never cut into tiles, so that source and target are seen
    alike. An action's probability counts its own tokens and the one that ends the turn.
    """

    def __init__(self, processor: Any, model: Any, *, side: int = 512, max_tokens: int = 32, batch: int = 8) -> None:
        self._processor, self._model = processor, model
        self._side, self._max_tokens, self._batch = side, max_tokens, batch
        self._tokenizer = processor.tokenizer
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if getattr(processor.image_processor, "do_image_splitting", False):
            processor.image_processor.do_image_splitting = False
        ends = model.generation_config.eos_token_id
        self._ends = {*ends} if isinstance(ends, list) else {self._tokenizer.eos_token_id, ends}
        asked = processor.apply_chat_template([_message(PROMPTS[PROMPT], {})], add_generation_prompt=True)
        self._lead = "" if asked[-1:].isspace() else " "  # between the question and the answer

    @classmethod
    def load(cls, folder: Path, **options: Any) -> Captioner:
        """A folder as the library writes it. Raises `ValueError` when it cannot be read as one."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            with no_bars():
                processor = AutoProcessor.from_pretrained(folder)
                model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", use_safetensors=True)
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{folder} cannot be loaded as a model that reads pictures: {reason}") from error
        device: Any = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(processor, model.eval().to(device), **options)

    @torch.inference_mode()
    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        """Greedy actions, with the log-probabilities of their tokens and of the end of the turn."""
        found: list[Explanation] = []
        for chunk in self._chunks(pairs):
            inputs = self._ask(chunk)
            # What a checkpoint asks for when it chats (a penalty on repetition, say) is not the likeliest answer, and
            # a placeholder of a picture is no word.
            ids_BT = self._model.generate(
                **inputs,
                max_new_tokens=self._max_tokens,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                suppress_tokens=sorted({*self._tokenizer.all_special_ids} - self._ends),
            )
            written = [self._ended(row) for row in ids_BT[:, inputs["input_ids"].shape[1] :].tolist()]
            texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
            for text, logprob in zip(texts, self._score(inputs, written), strict=True):
                found.append(Explanation(" ".join(text.split()), logprob, PROMPT))
        return found

    @torch.inference_mode()
    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        """log p(action, end of turn | source, target). Raises `ValueError` when an action is empty."""
        answers = [self._answer(action) for action in actions]
        found: list[LogProb] = []
        for chunk in self._chunks(list(zip(pairs, answers, strict=True))):
            found += self._score(self._ask([pair for pair, _ in chunk]), [answer for _, answer in chunk])
        return found

    def _score(self, inputs: Mapping[str, Tensor], answers: Sequence[Sequence[int]]) -> list[LogProb]:
        asked = inputs["input_ids"].shape[1]
        extended = _extended(inputs, answers, self._tokenizer.pad_token_id)
        logits_BTV = self._model(**extended, use_cache=False).logits[:, asked - 1 : -1].float()
        labels_BT = extended["input_ids"][:, asked:]
        logprob_BT = logits_BTV.log_softmax(-1).gather(-1, labels_BT[..., None])[..., 0]
        rows = zip(logprob_BT, answers, strict=True)
        return [LogProb(float(row_T[: len(answer)].sum()), len(answer)) for row_T, answer in rows]

    def _ended(self, ids: Sequence[int]) -> list[int]:
        """Up to the token that ended the turn, or all where none did."""
        stop = next((i + 1 for i, token in enumerate(ids) if token in self._ends), len(ids))
        return list(ids[:stop])

    def _answer(self, action: str) -> list[int]:
        """Tokens of an answer, as they follow the question. Special tokens that are spelled out stay text."""
        if not action.strip():
            raise ValueError('The action is empty: say in words what happens, for example "push the red ball".')
        text = self._lead + action.strip()
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return [*ids, self._tokenizer.eos_token_id]

    def _ask(self, pairs: Sequence[Pair]) -> Any:
        """Prompts with their pictures, padded on the left."""
        messages = []
        for source, target in pairs:
            pictures = {Slot.SOURCE: _shrunk(source, self._side), Slot.TARGET: _shrunk(target, self._side)}
            messages.append([_message(PROMPTS[PROMPT], pictures)])
        return self._processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self._model.device, dtype=self._model.dtype)

    def _chunks(self, rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
        for start in range(0, len(rows), self._batch):
            yield rows[start : start + self._batch]


def _message(prompt: Prompt, pictures: Mapping[Slot, Image.Image]) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    for part in prompt.parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        elif part is not Slot.ACTION:
            content.append({"type": "image", **({"image": pictures[part]} if part in pictures else {})})
    return {"role": "user", "content": content}


def _extended(inputs: Mapping[str, Tensor], answers: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    """Inputs with answers behind them, padded on the right. What else has a value per token gets 0 there: answers are
    text. Qwen-VL counts its positions from such a row, and without it reads pictures as if they were words."""
    asked = inputs["input_ids"]
    length = max(map(len, answers))
    ids_BT = torch.full((len(answers), length), pad, device=asked.device)
    mask_BT = torch.zeros_like(ids_BT)
    for i, answer in enumerate(answers):
        ids_BT[i, : len(answer)] = torch.tensor(answer, device=asked.device)
        mask_BT[i, : len(answer)] = 1
    tails = {"input_ids": ids_BT, "attention_mask": mask_BT}
    return {
        name: torch.cat([value, tails.get(name, torch.zeros_like(ids_BT)).to(value.dtype)], 1)
        if isinstance(value, Tensor) and value.shape == asked.shape
        else value
        for name, value in inputs.items()
    }


def _shrunk(frame: Frame, side: int) -> Image.Image:
    image = image_of(frame).convert("RGB")
    scale = side / max(image.size)
    if scale >= 1:
        return image
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
    )
