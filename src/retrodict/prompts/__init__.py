"""Every prompt, by id. The id is stored with every score, so that no number is compared across prompts by mistake.

What a model is given in its own tokens or chat template stands here: a tuple of parts, literal text or a `Slot` that a
transition fills. The completion (what training supervises and generation produces) is the last slot, followed by the
end-of-sequence token. What judges and endpoints are asked is a YAML file in this folder, of the form that
`prompts.chat` reads: users bring files of their own, and a file's hash is stored with its id.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

Direction = Literal["forward", "inverse"]


class Slot(Enum):
    SOURCE = auto()
    TARGET = auto()
    ACTION = auto()


@dataclass(frozen=True)
class Prompt:
    id: str
    direction: Direction
    parts: tuple[str | Slot, ...]


# What the method's authors train and ask Liquid and Chameleon with.
_EDIT = "Modify the provided image based on the given instruction: "
_EXPLAIN = (
    "Given two consecutive images, identify and briefly describe the action that most likely caused the change from "
    "the first to the second. Use clear, concise natural language to explain the state transition."
)
_TURN = "<reserved08706>"  # Chameleon's end of a turn

# The chat formats of the authors, around images as their families write them. In Janus's forward prompt the source is
# there twice: the first copy is read, the second written.
_EMU3, _EMU3_ANSWER = "You are a helpful assistant. USER: ", " ASSISTANT: "
_JANUS, _JANUS_ANSWER = "<|User|>: ", "\n\n<|Assistant|>: "

PROMPTS = {
    prompt.id: prompt
    for prompt in (
        Prompt("plain-forward-1", "forward", (Slot.SOURCE, Slot.ACTION, Slot.TARGET)),
        Prompt("plain-inverse-1", "inverse", (Slot.SOURCE, Slot.TARGET, Slot.ACTION)),
        Prompt("emu3-forward-1", "forward", (_EMU3, Slot.SOURCE, _EDIT, Slot.ACTION, ". ASSISTANT:", Slot.TARGET)),
        Prompt("emu3-inverse-1", "inverse", (_EMU3, Slot.SOURCE, Slot.TARGET, _EXPLAIN + _EMU3_ANSWER, Slot.ACTION)),
        Prompt(
            "janus-forward-1",
            "forward",
            (_JANUS, Slot.SOURCE, Slot.SOURCE, _EDIT, Slot.ACTION, _JANUS_ANSWER.rstrip(), Slot.TARGET),
        ),
        Prompt("janus-inverse-1", "inverse", (_JANUS, Slot.SOURCE, Slot.TARGET, _EXPLAIN + _JANUS_ANSWER, Slot.ACTION)),
        # A turn of a chat, in the words of whatever chat template a model brings.
        Prompt("chat-inverse-1", "inverse", (Slot.SOURCE, Slot.TARGET, _EXPLAIN, Slot.ACTION)),
        # Text first, as the authors ask Chameleon; and source first, whose prefix candidates of any action share.
        Prompt("chameleon-forward-1", "forward", (_EDIT, Slot.ACTION, Slot.SOURCE, _TURN, Slot.TARGET)),
        Prompt("chameleon-forward-source-first-1", "forward", (Slot.SOURCE, _EDIT, Slot.ACTION, _TURN, Slot.TARGET)),
        Prompt("chameleon-inverse-1", "inverse", (_EXPLAIN, Slot.SOURCE, Slot.TARGET, _TURN, Slot.ACTION)),
        Prompt("chameleon-inverse-source-first-1", "inverse", (Slot.SOURCE, Slot.TARGET, _EXPLAIN, _TURN, Slot.ACTION)),
        Prompt("liquid-forward-1", "forward", (Slot.SOURCE, f"\n{_EDIT}", Slot.ACTION, Slot.TARGET)),
        Prompt("liquid-forward-text-first-1", "forward", (_EDIT, Slot.ACTION, "\n", Slot.SOURCE, Slot.TARGET)),
        Prompt(
            "liquid-inverse-1",
            "inverse",
            (
                "<start_of_turn>user\n",
                Slot.SOURCE,
                Slot.TARGET,
                f"\n{_EXPLAIN}<end_of_turn>\n<start_of_turn>model\n",
                Slot.ACTION,
            ),
        ),
    )
}

# How vision-language models that read images alone are asked, on this machine or behind an endpoint: the prompt, the
# longest side of the images in pixels, and the longest action in tokens.
VLM_PROMPT, VLM_SIDE, VLM_TOKENS = "chat-inverse-1", 512, 32

# Questions in words about one image; the answer is one of the options.
QUESTIONS = {"qa-options-1": "{question}\nOptions: {options}.\nAnswer with one of the options, word for word."}
