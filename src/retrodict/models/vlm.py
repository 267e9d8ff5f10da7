"""Vision-language models that read images and write none (Qwen-VL, SmolVLM, LLaVA, ...): one wrapper for all uses.

`VisionLanguageModel` is the only place that names the classes of transformers. `Captioner` makes an inverse model of
it, which names actions in frame pairs, scores them, and verifies anybody's candidates; the question answerer and the
local judge of `evaluation` sit on it, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from retrodict.files import JsonMapping, JsonObject, visible
from retrodict.images import shrunk
from retrodict.models.checkpoint import no_bars
from retrodict.models.hub import model_folder
from retrodict.models.protocol import Explanation, LogProb, Pair, image_of
from retrodict.models.registry import read_json
from retrodict.placement import chosen_device, chosen_dtype
from retrodict.prompts import PROMPTS, VLM_PROMPT, VLM_SIDE, VLM_TOKENS, Prompt, Slot

if TYPE_CHECKING:
    from transformers import BatchFeature

T = TypeVar("T")

# What a checkpoint asks for when it chats (a penalty on repetition, say) does not give the likeliest answer.
GREEDY: JsonMapping = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}

Message = JsonObject


def message(parts: Sequence[str | Image.Image | None], role: str = "user") -> Message:
    """A turn of a chat, of texts and images. None stands for an image that is not there yet."""
    content: list[JsonObject] = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            content.append({"type": "image"} if part is None else {"type": "image", "image": part})
    return {"role": role, "content": content}


class VisionLanguageModel:
    """A chat model with its processor, under its own chat template. Answers are token ids.

    Attributes:
        processor: Turns messages into inputs; its tokenizer pads on the left.
        ends: Ids of the tokens that end a turn.
        model: On the GPU where there is one, in the type it is stored in.
    """

    def __init__(self, processor: Any, model: Any) -> None:
        self.processor, self.model = processor, model
        self.tokenizer = processor.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        ends = model.generation_config.eos_token_id
        self.ends = {*ends} if isinstance(ends, list) else {self.tokenizer.eos_token_id, ends}

    @classmethod
    def load(cls, name: str | Path) -> VisionLanguageModel:
        """Load a model.

        Args:
            name: A folder as the library writes it, or a hub id.

        Raises:
            ValueError: It cannot be fetched or read as one.
        """
        from transformers import AutoModelForImageTextToText

        folder = model_folder(name)
        try:
            with no_bars():
                processor = _processor(folder)
                model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", use_safetensors=True)
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{folder} cannot be loaded as a vision-language model: {reason}") from error
        return cls(processor, model.eval().to(device=chosen_device(), dtype=chosen_dtype()))

    def ask(self, chats: Sequence[Sequence[Message]]) -> BatchFeature:
        """Inputs of chats that wait for an answer, padded on the left."""
        inputs: BatchFeature = self.processor.apply_chat_template(
            [list(chat) for chat in chats],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self.model.device, dtype=self.model.dtype)
        return inputs

    def tokens(self, text: str) -> list[int]:
        """Ids of an answer's text. Special tokens that are spelled out stay text."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return ids

    def until_end(self, ids: Sequence[int]) -> list[int]:
        """Up to the token that ended the turn, or all where none did."""
        stop = next((i + 1 for i, token in enumerate(ids) if token in self.ends), len(ids))
        return list(ids[:stop])

    def texts(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """What answers say, without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return texts

    @torch.inference_mode()
    def generate(self, inputs: Mapping[str, Tensor], max_tokens: int, **options: object) -> list[list[int]]:
        """Answers, one for each chat, with what follows their ends; `options` are those of the library's `generate`."""
        ids_BT = self.model.generate(**inputs, max_new_tokens=max_tokens, **options)
        answers: list[list[int]] = ids_BT[:, inputs["input_ids"].shape[1] :].tolist()
        return answers

    @torch.inference_mode()
    def score(self, inputs: Mapping[str, Tensor], answers: Sequence[Sequence[int]]) -> list[LogProb]:
        """log p(answer | chat) for each chat and its answer, among all tokens of the vocabulary."""
        asked = inputs["input_ids"].shape[1]
        whole = extended(inputs, answers, self.tokenizer.pad_token_id)
        logits_BTV = self.model(**whole, use_cache=False).logits[:, asked - 1 : -1].float()
        labels_BT = whole["input_ids"][:, asked:]
        logprob_BT = logits_BTV.log_softmax(-1).gather(-1, labels_BT[..., None])[..., 0]
        rows = zip(logprob_BT, answers, strict=True)
        return [LogProb(float(row_T[: len(answer)].sum()), len(answer)) for row_T, answer in rows]


class Captioner:
    """`InverseModel` over a vision-language model.

    Both images of a pair are shrunk to `side` pixels and never cut into tiles, so that source and target are seen
    alike. An action's probability counts its own tokens and the one that ends the turn.
    """

    def __init__(
        self, vlm: VisionLanguageModel, *, side: int = VLM_SIDE, max_tokens: int = VLM_TOKENS, batch: int = 8
    ) -> None:
        self.vlm = vlm
        self._side, self._max_tokens, self._batch = side, max_tokens, batch
        if getattr(vlm.processor.image_processor, "do_image_splitting", False):
            vlm.processor.image_processor.do_image_splitting = False
        asked = vlm.processor.apply_chat_template([_message(PROMPTS[VLM_PROMPT], {})], add_generation_prompt=True)
        self._lead = "" if asked[-1:].isspace() else " "  # between the question and the answer

    @classmethod
    def load(cls, name: str | Path, **options: int) -> Captioner:
        """Load a folder or a hub id. Raises `ValueError` when it cannot be read as a vision-language model."""
        return cls(VisionLanguageModel.load(name), **options)

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        """Greedy actions, with the log-probabilities of their tokens and of the end of the turn."""
        explanations: list[Explanation] = []
        special = sorted({*self.vlm.tokenizer.all_special_ids} - self.vlm.ends)  # an image's placeholder is no word
        for chunk in self._chunks(pairs):
            inputs = self.ask(chunk)
            written = self.vlm.generate(inputs, self._max_tokens, suppress_tokens=special, **GREEDY)
            answers = [self.vlm.until_end(row) for row in written]
            for text, logprob in zip(self.vlm.texts(answers), self.vlm.score(inputs, answers), strict=True):
                explanations.append(Explanation(" ".join(text.split()), logprob, VLM_PROMPT))
        return explanations

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        """log p(action, end of turn | source, target). Raises `ValueError` when an action is empty."""
        answers = [self.answer(action) for action in actions]
        logprobs: list[LogProb] = []
        for chunk in self._chunks(list(zip(pairs, answers, strict=True))):
            logprobs += self.vlm.score(self.ask([pair for pair, _ in chunk]), [answer for _, answer in chunk])
        return logprobs

    def ask(self, pairs: Sequence[Pair]) -> BatchFeature:
        """Inputs that ask for the actions between frames."""
        chats = []
        for source, target in pairs:
            images = {
                Slot.SOURCE: shrunk(image_of(source), self._side),
                Slot.TARGET: shrunk(image_of(target), self._side),
            }
            chats.append([_message(PROMPTS[VLM_PROMPT], images)])
        return self.vlm.ask(chats)

    def answer(self, action: str) -> list[int]:
        """Ids of an answer that names an action, with the end of the turn. Raises `ValueError` when it is empty."""
        if not visible(action):
            raise ValueError('The action is empty: say in words what happens, for example "push the red ball".')
        return [*self.vlm.tokens(self._lead + action.strip()), self.vlm.tokenizer.eos_token_id]

    def _chunks(self, rows: Sequence[T]) -> Iterator[Sequence[T]]:
        for start in range(0, len(rows), self._batch):
            yield rows[start : start + self._batch]


def _message(prompt: Prompt, images: Mapping[Slot, Image.Image]) -> Message:
    parts = [part for part in prompt.parts if part is not Slot.ACTION]
    return message([part if isinstance(part, str) else images.get(part) for part in parts])


def _processor(folder: Path) -> Any:
    """A model's processor. Where its part for videos needs torchvision, which is not installed, it does without."""
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        return AutoProcessor.from_pretrained(folder)
    except (ImportError, OSError, ValueError):
        whole: Any = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(folder)), None)
        if find_spec("torchvision") is not None or whole is None or "video_processor" not in whole.get_attributes():
            raise

    class ImagesOnly(whole):  # type: ignore[misc]
        """Without a part for videos, which the library's own would insist on."""

        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> object:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

        def save_pretrained(self, save_directory: Path, **options: Any) -> None:
            self.image_processor.save_pretrained(save_directory)
            self.tokenizer.save_pretrained(save_directory)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None and (folder / "chat_template.json").is_file():
        tokenizer.chat_template = read_json(folder / "chat_template.json")["chat_template"]
    images = AutoImageProcessor.from_pretrained(folder)
    return ImagesOnly(image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template)


def extended(inputs: Mapping[str, Tensor], answers: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    """Inputs with answers behind them, padded on the right. What else has a value per token gets 0 there: answers are
    text. Qwen-VL counts its positions from such a row, and without it reads images as if they were words."""
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
