"""Planning to a goal image: what no model of one direction can do alone.

The inverse model proposes actions that lead towards the goal, the forward model imagines what each of them does, the
inverse model reads every imagined step again, and a beam search keeps the frames that are nearest to the goal; frames
that look alike are one. Proposals come from (frame, goal), sampled, and from what a single action may change of their
difference: the frame with some of the goal's cells, which is the kind of pair that the inverse model knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import changed_cells
from retrodict.images import html_row
from retrodict.models.protocol import (
    Candidate,
    Explanation,
    ForwardModel,
    Frame,
    InverseModel,
    ProposingInverseModel,
    ScoringForwardModel,
    image_of,
)
from retrodict.sampling import Sampling

GRID = (8, 8)  # cells in which frames are compared where the model has no image tokens of its own
TEMPERATURE = 1.5  # of sampled proposals: the likeliest action alone is often one that leads nowhere
PARTS = 12  # cells, or patches of neighbouring cells, of which parts of a difference are put together
LIKELY = 0.05  # a goal this probable after an action counts as imagined
SURE = 0.5  # a plan this probable ends the search

Cells = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Plan:
    """Actions that lead from a start to a goal, as the models imagine them.

    Attributes:
        start: the image to begin with.
        goal: the image to reach.
        actions: what to do, in words; empty where no plan was found, or nothing is to be done.
        frames: the imagined frame after each action.
        probabilities: of each step, how probable the models find it: the forward model's frame, and that the inverse
            model reads an action that leads there.
        reached: whether the last frame looks like the goal.
        predictions: frames that the forward model predicted on the way.
    """

    start: Image.Image
    goal: Image.Image
    actions: tuple[str, ...]
    frames: tuple[Candidate, ...]
    probabilities: tuple[float, ...]
    reached: bool
    predictions: int

    @property
    def confidence(self) -> float:
        """How probable the models find it that the actions lead to the goal; 0 where no plan was found."""
        return math.prod(self.probabilities) if self.reached else 0.0

    def __repr__(self) -> str:
        if not self.reached:
            return f"Plan(no plan found, {self.predictions} predictions)"
        return f"Plan({' | '.join(self.actions)}; confidence {self.confidence:.2f})"

    def cells(self) -> list[tuple[Image.Image, str]]:
        """The film strip: the start, the frame after each action, and the goal, with captions."""
        steps = zip(self.frames, self.actions, self.probabilities, strict=True)
        shown = [(frame.image, f"{action} ({probability:.2f})") for frame, action, probability in steps]
        return [(self.start, "start"), *shown, (self.goal, "goal" if self.reached else "goal: no plan found")]

    def _repr_html_(self) -> str:
        """The film strip, as notebooks show it."""
        return html_row(repr(self), [(image, text, False) for image, text in self.cells()])


@dataclass(frozen=True, eq=False)
class _Node:
    """An imagined frame, and how it is reached."""

    frame: Frame
    far: int  # cells in which it differs from the goal
    actions: tuple[str, ...] = ()
    frames: tuple[Candidate, ...] = ()
    probabilities: tuple[float, ...] = ()

    @property
    def probability(self) -> float:
        return math.prod(self.probabilities)


@dataclass(frozen=True, eq=False)
class _Edge:
    """An action that may be taken at a node, and the frame that it is imagined to lead to."""

    node: _Node
    action: str
    outcome: Candidate
    far: int


def plan(
    forward: ForwardModel,
    inverse: InverseModel,
    start: Image.Image,
    goal: Image.Image,
    *,
    steps: int,
    proposals: int,
    beam: int,
    seed: int,
) -> Plan:
    """Search for actions that lead from one image to another.

    Args:
        forward: imagines what an action leads to.
        inverse: proposes actions, and reads imagined steps again. Without `propose`, it says one action a pair.
        start: the image to begin with.
        goal: the image to reach, of any size.
        steps: actions, at most.
        proposals: actions that are tried at each frame, at most.
        beam: frames that are kept after each step.
        seed: of the sampled proposals.

    Returns:
        The most probable plan of those that were found, `reached` False where there was none.

    Raises:
        ValueError: an action cannot be expressed by the forward model.
    """
    return _Search(forward, inverse, start, goal, proposals, beam, seed).run(steps)


class _Search:
    def __init__(
        self,
        forward: ForwardModel,
        inverse: InverseModel,
        start: Image.Image,
        goal: Image.Image,
        proposals: int,
        beam: int,
        seed: int,
    ) -> None:
        self._forward, self._inverse, self._given = forward, inverse, (start, goal)
        goal = goal if goal.size == start.size else goal.resize(start.size, Image.Resampling.BOX)
        self._start, self._goal, self._grid = start, goal, GRID
        if isinstance(forward, UnifiedModel):  # imagined frames can only be compared with what its tokenizer can show
            family = forward.family
            self._start, self._goal = family.decode(forward.codes([start, goal]), [start.size] * 2)
            self._grid = family.spec.grid
        self._proposals, self._beam, self._seed = proposals, beam, seed
        self._predictions = 0

    def run(self, steps: int) -> Plan:
        first = _Node(self._start, self._far(self._start))
        nothing_to_do = not changed_cells(*self._given, self._grid).any()
        found = [first] if nothing_to_do else []
        nodes, seen = [first] if first.far else [], [self._start]  # what its tokenizer cannot tell, it cannot plan
        while nodes and not any(node.probability >= SURE for node in found) and len(nodes[0].actions) < steps:
            nodes = self._step(nodes, seen)
            found += [node for node in nodes if not node.far]
            nodes = [node for node in nodes if node.far]
        best = max(found, key=lambda node: node.probability, default=first)
        return Plan(
            *self._given,
            best.actions,
            best.frames,
            best.probabilities,
            reached=bool(found),
            predictions=self._predictions,
        )

    def _step(self, nodes: Sequence[_Node], seen: list[Image.Image]) -> list[_Node]:
        """The nodes after one more action: the nearest to the goal first, and of alike ones the first."""
        edges = self._imagine(self._propose(nodes))
        if all(edge.far for edge in edges):
            edges += self._goal_as_outcome(edges)
        kept: list[_Edge] = []
        for edge in sorted(edges, key=lambda e: (e.far, -e.node.probability, -e.outcome.logprob.sum)):
            if len(kept) == self._beam:
                break
            if not any(self._alike(edge.outcome.image, image) for image in seen):
                seen.append(edge.outcome.image)
                kept.append(edge)
        kept = self._read_again(kept)
        probabilities = self._probabilities(kept, edges)
        reached = [
            _Node(
                edge.outcome,
                edge.far,
                (*edge.node.actions, edge.action),
                (*edge.node.frames, edge.outcome),
                (*edge.node.probabilities, probability),
            )
            for edge, probability in zip(kept, probabilities, strict=True)
        ]
        return sorted(reached, key=lambda node: (node.far, -node.probability))

    def _imagine(self, asked: Sequence[tuple[_Node, str]]) -> list[_Edge]:
        self._predictions += len(asked)
        frames, actions = [node.frame for node, _ in asked], [action for _, action in asked]
        sampled = self._forward.sample(frames, actions, 1, self._seed, Sampling(temperature=0.0)) if asked else []
        return [
            _Edge(node, action, outcome, self._far(outcome.image))
            for (node, action), (outcome,) in zip(asked, sampled, strict=True)
        ]

    def _goal_as_outcome(self, edges: Sequence[_Edge]) -> list[_Edge]:
        """The goal itself after the action that makes it likeliest, if that is likely enough: an action such as "go to
        the ball" may end in several ways, of which the forward model imagines one."""
        if not hasattr(self._forward, "score_targets") or not edges:
            return []
        model = cast(ScoringForwardModel, self._forward)
        sides = [e.node.frame for e in edges], [e.action for e in edges], [self._goal] * len(edges)
        best, logprob = max(zip(edges, model.score_targets(*sides), strict=True), key=lambda row: row[1].sum)
        if logprob.sum < math.log(LIKELY):
            return []
        return [_Edge(best.node, best.action, Candidate(self._goal, logprob=logprob), 0)]

    def _read_again(self, edges: Sequence[_Edge]) -> list[_Edge]:
        """The same steps in the words that the inverse model finds for them, where these lead to the same frame.

        A sampled proposal may be no good sentence, and a forward model may still make something of it.
        """
        read = self._inverse.explain([(edge.node.frame, edge.outcome) for edge in edges])
        again = [(edge, e.action) for edge, e in zip(edges, read, strict=True) if e.action.strip()]
        anew = [(edge, action) for edge, action in again if action != edge.action]
        imagined = self._imagine([(edge.node, action) for edge, action in anew])
        better = {
            id(edge): other
            for (edge, _), other in zip(anew, imagined, strict=True)
            if self._alike(edge.outcome.image, other.outcome.image)
        }  # where not, and for a goal that was no imagined frame, the proposal stands
        return [better.get(id(edge), edge) for edge in edges]

    def _propose(self, nodes: Sequence[_Node]) -> list[tuple[_Node, str]]:
        """Actions to try at each node, the likeliest: of parts of the difference, and sampled ones that need others."""
        pairs: list[tuple[Frame, Frame]] = []
        owners: list[_Node] = []
        for node in nodes:
            image = image_of(node.frame)
            for cells in _parts(changed_cells(image, self._goal, self._grid)):
                pairs.append((node.frame, self._part(image, cells)))
                owners.append(node)
        read = list(zip(owners, self._inverse.explain(pairs), strict=True))
        if hasattr(self._inverse, "propose"):
            model = cast(ProposingInverseModel, self._inverse)
            to_goal = [(node.frame, self._goal) for node in nodes]
            sampled = model.propose(to_goal, self._proposals, self._seed, TEMPERATURE)
            read += [(node, explanation) for node, row in zip(nodes, sampled, strict=True) for explanation in row]
        return [(node, action) for node in nodes for action in self._likeliest([e for of, e in read if of is node])]

    def _likeliest(self, read: Sequence[Explanation]) -> list[str]:
        known: dict[str, float] = {}
        for explanation in read:
            if explanation.action.strip():
                known[explanation.action] = max(known.get(explanation.action, -math.inf), explanation.logprob.sum)
        return sorted(known, key=lambda action: -known[action])[: self._proposals]

    def _part(self, image: Image.Image, cells: Cells) -> Image.Image:
        """The image with some cells of the goal."""
        rows, columns = self._grid
        ys = np.cumsum([0, *(len(band) for band in np.array_split(np.arange(image.height), rows))])
        xs = np.cumsum([0, *(len(band) for band in np.array_split(np.arange(image.width), columns))])
        mixed = image.copy()
        for row, column in np.argwhere(cells):
            box = (int(xs[column]), int(ys[row]), int(xs[column + 1]), int(ys[row + 1]))
            mixed.paste(self._goal.crop(box), box[:2])
        return mixed

    def _probabilities(self, kept: Sequence[_Edge], edges: Sequence[_Edge]) -> list[float]:
        """Of each kept edge: the forward model's probability of its frame, times the share, among all actions tried at
        its node, of those that lead to this frame, by the inverse model's reading of the step."""
        rivals = [list({e.action: e for e in (*edges, edge) if e.node is edge.node}.values()) for edge in kept]
        pairs = [(edge.node.frame, edge.outcome) for edge, row in zip(kept, rivals, strict=True) for _ in row]
        scored = iter(self._inverse.score(pairs, [rival.action for row in rivals for rival in row]) if pairs else [])
        probabilities = []
        for edge, row in zip(kept, rivals, strict=True):
            read = np.array([next(scored).sum for _ in row])
            share = np.exp(read - np.logaddexp.reduce(read))
            same = [self._alike(rival.outcome.image, edge.outcome.image) for rival in row]
            likelihood = edge.outcome.logprob.sum
            frame = 1.0 if math.isnan(likelihood) else math.exp(likelihood)
            probabilities.append(frame * float(share[same].sum()))
        return probabilities

    def _far(self, image: Image.Image) -> int:
        return int(changed_cells(self._goal, image, self._grid).sum())

    def _alike(self, a: Image.Image, b: Image.Image) -> bool:
        return not changed_cells(a, b, self._grid).any()


def _parts(changed: Cells) -> Iterator[Cells]:
    """What one action may change of a difference: all of it, one part, or two."""
    yield changed
    parts = _patches(changed)
    for size in (1, 2):
        for chosen in combinations(parts, size):
            if size < len(parts):
                yield np.logical_or.reduce(chosen)


def _patches(changed: Cells) -> list[Cells]:
    """The changed cells one by one; where they are many, patches of neighbouring ones, the largest first."""
    if changed.sum() <= PARTS:
        return [_only(changed.shape, cell) for cell in np.argwhere(changed)]
    from scipy.ndimage import label

    numbers, count = label(changed, np.ones((3, 3)))
    return sorted((numbers == i + 1 for i in range(count)), key=lambda patch: -int(patch.sum()))[:PARTS]


def _only(shape: tuple[int, ...], cell: npt.NDArray[np.intp]) -> Cells:
    mask = np.zeros(shape, np.bool_)
    mask[tuple(cell)] = True
    return mask
