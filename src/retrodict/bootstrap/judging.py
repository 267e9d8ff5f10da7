"""How right predictions are: by exact state where the world is simulated, else only whether they merely copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from retrodict.evaluation.metrics import l1
from retrodict.evaluation.pool import Scored, Scorer, exact_scorer
from retrodict.evaluation.probe import Explains
from retrodict.transitions import Transition
from retrodict.worlds import world_of

NO_STATE = "no exact state"
SAME = 0.5 / 255  # pictures that differ by less show the same codes


@dataclass(frozen=True)
class Judge:
    scorer: Scorer
    says: Callable[[str, Transition], bool]  # whether a sentence states the action that happened
    explains: Explains | None  # see `evaluation.probe`
    exact: bool


def judge(test: Sequence[Transition], image_tokenizer: Path) -> Judge:
    """The most exact judge of these transitions: the simulated world's, if all of them come from it."""
    if (world := world_of(test)) is not None:
        return Judge(exact_scorer(world), world.names_action, world.explains, True)
    return Judge(_CopyScorer(image_tokenizer), same_words, None, False)


def same_words(text: str, transition: Transition) -> bool:
    return text.casefold().split() == transition.action.casefold().split()


class _CopyScorer:
    """Says of a frame only whether it is the source again, as it is or through the image tokenizer."""

    def __init__(self, image_tokenizer: Path) -> None:
        from retrodict.models.small.image_tokenizer import ImageTokenizer

        self._tokenizer = ImageTokenizer.load(image_tokenizer)
        self._sources: dict[str, tuple[Image.Image, Image.Image]] = {}

    def __call__(self, image: Image.Image, transition: Transition) -> Scored:
        if transition.id not in self._sources:
            source = transition.source_image
            decoded = self._tokenizer.decode(self._tokenizer.encode([source]).codes_NL)[0]
            self._sources = {transition.id: (source, decoded)}  # frames of one item come one after the other
        copies = any(s.size == image.size and l1(image, s) < SAME for s in self._sources[transition.id])
        return Scored(copy=float(copies), reason=NO_STATE)
