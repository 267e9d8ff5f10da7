"""The one place where token sequences are built.

Training, annotation, verification and probing all call `build`. A model that is trained on one layout and scored on
another is wrong in a way that no error message shows; with one builder it cannot happen.
"""

from __future__ import annotations

import numpy as np

from retrodict.files import visible
from retrodict.models.token_family import IntArray, Segments, TokenFamily, TokenSequence
from retrodict.prompts import PROMPTS, Direction, Prompt, Slot

_COMPLETION: dict[Direction, Slot] = {"forward": Slot.TARGET, "inverse": Slot.ACTION}


def build(
    family: TokenFamily,
    direction: Direction,
    *,
    source_L: IntArray,
    target_L: IntArray | None = None,
    action: str | None = None,
    prompt: str | None = None,
) -> TokenSequence:
    """The token sequence of one example.

    Without its completion (`target_L` for "forward", `action` for "inverse") the result is the prefix that generation
    continues: it ends with what opens an image for "forward" and with the last prompt token for "inverse".
    `segments.completion` is the range of tokens that are predicted: the image's block, or the action and the end token.
    Raises `ValueError` when the action is empty or cannot be expressed in the family's vocabulary.
    """
    chosen = PROMPTS[prompt or family.prompts[direction]]
    assert chosen.direction == direction, f"prompt {chosen.id} is for the {chosen.direction} direction"
    words = None if action is None else family.text_ids(_lead(chosen) + action)
    if words == [] or (action is not None and not visible(action)):  # empty, or nothing but blanks and punctuation
        raise ValueError('The action is empty: say in words what happens, for example "push the red ball to the left".')
    ids: list[int] = [family.bos]
    spans: dict[Slot, tuple[int, int]] = {}
    for part, following in zip(chosen.parts, (*chosen.parts[1:], None), strict=True):
        if isinstance(part, str):
            ids += family.template_ids(part.rstrip(" ") if following is Slot.ACTION else part)
        elif part is Slot.ACTION:
            if words is not None:
                spans[part] = _append(ids, words)
        else:
            codes_L = source_L if part is Slot.SOURCE else target_L
            ids += family.spec.opening
            if codes_L is not None:
                spans[part] = _append(ids, family.spec.block(codes_L).tolist())
                ids += family.spec.closing
    completion = spans.get(_COMPLETION[direction])
    if completion is not None and direction == "inverse":
        ids.append(family.eos)
        completion = (completion[0], completion[1] + 1)
    return TokenSequence(
        ids_T=np.asarray(ids, dtype=np.int64),
        segments=Segments(spans[Slot.SOURCE], spans.get(Slot.TARGET), completion),
        direction=direction,
        prompt=chosen.id,
    )


def _lead(prompt: Prompt) -> str:
    """A space between words belongs to the word after it, as tokenizers have it: the action's, not the prompt's."""
    before = prompt.parts[prompt.parts.index(Slot.ACTION) - 1] if prompt.parts[0] is not Slot.ACTION else ""
    return " " if isinstance(before, str) and before.endswith(" ") else ""


def _append(ids: list[int], more: list[int]) -> tuple[int, int]:
    start = len(ids)
    ids += more
    return start, len(ids)
