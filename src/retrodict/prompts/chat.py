"""Prompts of chat models: versioned YAML files, whose hash is part of every number that they lead to."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from retrodict.files import JsonObject
from retrodict.prompts import Prompt, Slot

FOLDER = Path(__file__).parent
DEFAULT = "paper_fig10_v1"
_SLOT = re.compile(r"\{(source|prediction|target|first|second|instruction)\}")

Answer = Literal["scores", "choice", "action", "words"]
Part = tuple[Literal["text", "image"], str]  # text, or the name of an image


@dataclass(frozen=True)
class ChatPrompt:
    """`user` holds the slots {instruction} and the images' names; `sha256` is that of the file's bytes.

    `scores` names the numbers that are asked for, one to three of them, each from 0 to `scale`.
    """

    id: str
    sha256: str
    origin: str
    answer: Answer
    scores: tuple[str, ...]
    system: str
    user: str
    scale: float = 10.0

    def parts(self, instruction: str) -> list[Part]:
        """Text and images in the order in which they are shown; no slot inside the instruction is filled."""
        parts: list[Part] = []
        text = ""
        for i, piece in enumerate(_SLOT.split(self.user)):
            if i % 2 and piece != "instruction":
                parts += [("text", text.strip()), ("image", piece)]
                text = ""
            else:
                text += instruction.strip() if i % 2 else piece
        return [part for part in (*parts, ("text", text.strip())) if part[1]]

    @property
    def schema(self) -> JsonObject:
        """JSON schema of the answer."""
        reasoning = {"type": "string"}
        if self.answer == "scores":
            number, count = {"type": "number", "minimum": 0, "maximum": self.scale}, len(self.scores)
            answer: JsonObject = {"score": {"type": "array", "items": number, "minItems": count, "maxItems": count}}
        elif self.answer == "action":
            answer = {"action": {"type": "string"}}
        else:
            answer = {"choice": {"type": "string", "enum": ["first", "second", "tie"]}}
        return {
            "type": "object",
            "properties": {**answer, "reasoning": reasoning},
            "required": [*answer, "reasoning"],
            "additionalProperties": False,
        }


def chat_prompts() -> list[str]:
    """Ids of the shipped prompts."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def as_chat(prompt: Prompt) -> ChatPrompt:
    """A prompt of the inverse direction as an endpoint is sent it; the answer is the action's words alone."""
    names = {Slot.SOURCE: "{source}", Slot.TARGET: "{target}", Slot.ACTION: ""}
    user = "".join(part if isinstance(part, str) else names[part] for part in prompt.parts)
    digest = hashlib.sha256(user.encode()).hexdigest()
    return ChatPrompt(prompt.id, digest, "What models on this machine are asked.", "words", (), "", user)


def load_chat_prompt(name: str) -> ChatPrompt:
    """A shipped prompt by id, or a file of the same form. Raises `ValueError` for anything else."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f'There is no chat prompt "{name}": use one of {", ".join(chat_prompts())}, or a .yaml file.')
    raw = path.read_bytes()
    try:
        fields = yaml.safe_load(raw)
        prompt = ChatPrompt(
            id=str(fields["id"]),
            sha256=hashlib.sha256(raw).hexdigest(),
            origin=str(fields["origin"]).strip(),
            answer=fields["answer"],
            scores=tuple(fields["scores"]),
            system=str(fields.get("system") or ""),
            user=str(fields["user"]),
            scale=float(fields.get("scale", 10)),
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no chat prompt (see {FOLDER / DEFAULT}.yaml for the form): {error!r}") from None
    _check(prompt, path)
    return prompt


def _check(prompt: ChatPrompt, path: Path) -> None:
    wanted = {"scores": {"instruction", "prediction"}, "choice": {"instruction", "first", "second"}}
    wanted["action"] = {"source", "target"}
    if prompt.answer not in wanted:
        raise ValueError(f'{path}: "answer" is "scores", "choice" or "action", not "{prompt.answer}".')
    if prompt.answer == "scores" and not 1 <= len(prompt.scores) <= 3:
        raise ValueError(f'{path}: "scores" names the numbers that are asked for: one, two or three.')
    if not 0 < prompt.scale < float("inf"):
        raise ValueError(f'{path}: "scale" is the highest score, a number above 0.')
    slots = _SLOT.findall(prompt.user)
    if lacking := wanted[prompt.answer] - set(slots):
        raise ValueError(f"{path}: the text lacks {', '.join(f'{{{name}}}' for name in sorted(lacking))}.")
