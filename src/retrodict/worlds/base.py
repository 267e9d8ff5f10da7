"""What a world answers: a simulator, or anything else that knows the exact state behind its images.

A world makes transitions and videos, and judges images by what they show instead of how near they are to a target.
Everything outside this package asks these questions and knows no world by name. Actions are sentences and scenes are
images here, so a world keeps its own types to itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from retrodict.transitions import FramePair, Transition

STILL = "still"  # the category of rows in which nothing happens


@dataclass(frozen=True, slots=True)
class Score:
    """How exactly an image shows an outcome; both parts lie in [0, 1].

    Attributes:
        es: editing success, the share of what had to change that did.
        me: minimal editing, the share of what had to stay that did.
    """

    es: float
    me: float

    @property
    def score(self) -> float:
        return min(self.es, self.me)


class World(Protocol):
    """A source of transitions whose exact state is known.

    Rows are transitions that the world `owns`. Where a method takes `like`, a row of the same scene, the world may take
    from it what the images do not tell. A sentence that states no action of the world is no error: it explains nothing.
    """

    name: str
    about: str  # what is seen in it, in a sentence or two
    suites: Mapping[str, str]  # category of a row -> its title

    def sample(self, count: int, seed: int, *, namespace: str, split: str = "") -> list[Transition]:
        """Random transitions with targets; the same arguments give the same rows.

        Args:
            count: number of rows, the suites in turn.
            seed: of everything random.
            namespace: which stream to sample from. Streams share no rows by construction; those whose name ends in
                "test", "val" or "bench" start from scenes that no other stream and no video shows.
            split: what the rows' `split` says.
        """
        ...

    def sample_still(self, count: int, seed: int, *, namespace: str, split: str = "") -> list[Transition]:
        """Random rows in which nothing happens, as their action is impossible: the target is the source.

        Their category is `STILL`; `sample` has none of them. Arguments are those of `sample`.
        """
        ...

    def write_videos(self, folder: Path, count: int, seed: int, *, actions: int, truth: Path) -> list[Path]:
        """Write unlabelled videos, and apart from them what happens in each; what is there already is kept.

        Args:
            folder: gets `count` videos and nothing else; its subfolders are their classes.
            count: number of videos.
            seed: of everything random.
            actions: number of actions in a row in each video.
            truth: a folder outside `folder`, for `true_action`.
        """
        ...

    def vocabulary(self) -> list[str]:
        """Sentences that together hold every word of the world's actions."""
        ...

    def owns(self, row: FramePair) -> bool:
        """Whether the world made the row and knows its exact states."""
        ...

    def score(self, image: Image.Image, row: Transition) -> Score:
        """How exactly an image shows the row's outcome. Raises `ValueError` for a row that the world does not own."""
        ...

    def is_copy(self, image: Image.Image, row: Transition) -> bool:
        """Whether an image shows the row's source scene unchanged. Raises `ValueError` as `score` does."""
        ...

    def score_action(
        self, image: Image.Image, source: Image.Image, action: str, like: Transition | None = None
    ) -> Score | None:
        """How exactly an image shows what an action leads to from `source`; None where it cannot happen there."""
        ...

    def explains(self, action: str, source: Image.Image, target: Image.Image, like: Transition | None = None) -> bool:
        """Whether an action leads from one image to the other by the world's rules."""
        ...

    def action_between(self, source: Image.Image, target: Image.Image, like: Transition | None = None) -> str | None:
        """The one action that explains two images, in its plainest wording; None where none or several do."""
        ...

    def names_action(self, text: str, row: Transition) -> bool:
        """Whether a sentence says what happened in a row, in any wording; the row's own action may be a guess."""
        ...

    def same_action(self, a: str, b: str) -> bool:
        """Whether two sentences state the same action."""
        ...

    def wordings(self, action: str) -> list[str]:
        """Every way to state an action, the plainest first; empty for a sentence that states none."""
        ...

    def counterfactuals(self, row: Transition) -> list[str]:
        """Actions in place of the row's: the same deed to the same thing, of another kind or goal, worded alike."""
        ...

    def alternatives(self, row: Transition) -> list[str]:
        """All actions of the row's suite that its source allows and that lead elsewhere."""
        ...

    def possible(self, source: Image.Image) -> list[str]:
        """All actions that an image allows, each in its plainest wording."""
        ...

    def play(self, source: Image.Image, actions: Sequence[str]) -> list[Image.Image] | None:
        """What the world shows after each of some actions in a row.

        Args:
            source: the image to begin with; nothing is hidden in it, such as a thing that an agent carries.
            actions: what is done, in any wording.

        Returns:
            One image for each action; None where one of them states no action or cannot happen.
        """
        ...

    def true_action(self, pair: FramePair, truth: Path) -> str | None:
        """The one action that happened between two frames of a video of `write_videos`, in its plainest wording.

        None where something moves in one of the frames, or none or several actions happened.
        """
        ...


Placed = tuple[str, int, int]  # a piece, and its column and row from the bottom left


class DrawableWorld(World, Protocol):
    """A world whose scenes people can put together by hand."""

    pieces: Sequence[str]  # what can be placed, such as "red ball"
    grid: tuple[int, int]  # columns, rows

    def compose(self, placed: Sequence[Placed]) -> Image.Image:
        """The image of a scene, at rest: what is placed in the air falls.

        Raises:
            ValueError: there is no such piece or position, or such a scene cannot stand.
        """
        ...

    def placed(self, image: Image.Image) -> list[Placed]:
        """The pieces that an image shows, as `compose` takes them; what is no image of the world reads as anything."""
        ...
