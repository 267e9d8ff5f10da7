"""The search behind `planning`: imagined frames, the steps to them, and which of these lead to the goal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, zip_longest
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import changed_cells
from retrodict.files import visible
from retrodict.models.protocol import (
    Candidate,
    Explanation,
    ForwardModel,
    Frame,
    InverseModel,
    Pair,
    ProposingInverseModel,
    ScoringForwardModel,
    image_of,
)
from retrodict.sampling import Sampling

GRID = (8, 8)  # cells in which frames are compared where the model has no image tokens of its own
OUTCOMES = 12  # frames, at most, sampled for an action whose likeliest one is less probable than CERTAIN
CERTAIN = 0.5
TEMPERATURE = 1.5  # of sampled readings: the likeliest action alone is often one that leads nowhere
DOUBTFUL = 2.5  # temperature where these lead nowhere either: the inverse model may be sure and wrong
PROPOSED, READ = 64, 12  # of frames to imagine from, and of those that may be one action away from the goal
ARRIVALS = 48  # actions, at most, that may be the last one, each time the forward model is asked
PARTS = 12  # cells, or patches of neighbouring cells, of which parts of a difference are put together
LIKELY = 0.05  # a goal this probable after an action counts as imagined
SURE = 0.5  # a plan this probable ends the search

Cells = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Step:
    """An action taken at a frame, and what it is imagined to lead to."""

    source: Frame
    action: str
    outcome: Candidate
    tried: tuple[str, ...]  # the actions that were tried at the source
    leading: frozenset[str]  # those of them that lead to this outcome


@dataclass(frozen=True, eq=False)
class _Node:
    """An imagined frame, and the steps to it."""

    frame: Frame
    far: int  # cells in which it differs from the goal
    read: Mapping[str, float]  # what the inverse model reads between it and the goal, with log-probabilities
    steps: tuple[Step, ...] = ()
    parent: _Node | None = None


@dataclass(frozen=True, eq=False)
class Route:
    """Steps to the goal, and how probable the models find each."""

    steps: tuple[Step, ...]
    probabilities: tuple[float, ...]

    @property
    def probability(self) -> float:
        return math.prod(self.probabilities)


def as_imagined(
    forward: ForwardModel, start: Image.Image, goal: Image.Image
) -> tuple[Candidate, Candidate, tuple[int, int]]:
    """A start and a goal as imagined frames can be compared with them, and the grid of cells to compare.

    For a model of image tokens: what its tokenizer shows of them, with their tokens, as those of the decoded images
    need not be the same.
    """
    goal = goal if goal.size == start.size else goal.resize(start.size, Image.Resampling.BOX)
    if not isinstance(forward, UnifiedModel):
        return Candidate(start), Candidate(goal), GRID
    family = forward.family
    codes_NL = forward.codes([start, goal])
    shown = family.decode(codes_NL, [start.size] * 2)
    ends = [Candidate(image, codes_L, family.tokenizer) for image, codes_L in zip(shown, codes_NL, strict=True)]
    return ends[0], ends[1], family.spec.grid


class Search:
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
        self.start, self.goal, self._grid = as_imagined(forward, start, goal)
        self._proposals, self._beam, self._seed = proposals, beam, seed
        self.predictions = 0
        self._looks: list[Image.Image] = []  # of frames that were imagined, alike ones once
        self._look_of: dict[bytes, int] = {}
        self._look(self.start.image)

    def run(self, steps: int) -> Route | None:
        """The most probable plan of so many actions at most; None where none was found."""
        nothing_to_do = not changed_cells(*self._given, self._grid).any()
        plans = [Route((), ())] if nothing_to_do else []
        # what its tokenizer cannot tell, it cannot plan
        nodes = self._nodes([(self.start, (), None)]) if self._far(self.start.image) else []
        for left in range(steps, 0, -1):
            plans += self._arrive(nodes)
            if not nodes or any(plan.probability >= SURE for plan in plans):
                break
            if left == 1:
                plans = plans or self._arrive(self._read_again(nodes[: self._beam]))
                break
            nodes = self._expand(nodes[: self._beam])
        return self._reworded(max(plans, key=lambda plan: plan.probability)) if plans else None

    def _arrive(self, nodes: Sequence[_Node]) -> list[Route]:
        """The plans whose last action is taken at one of the nodes and makes the goal likely enough.

        Of what the inverse model reads between these and the goal, the surest is tried first. Between frames that are
        more than an action apart it may be sure, too: a cell that differs counts like a nat.
        """
        near = [(likely - node.far, node, action) for node in nodes for action, likely in node.read.items()]
        asked = self._likeliest(near, ARRIVALS)
        plans: list[Route] = []
        for at in range(0, len(asked), self._beam):
            some = asked[at : at + self._beam]
            plans += self._plans(some, self._leading([(node.frame, action, self.goal) for node, action in some]))
            if any(plan.probability >= SURE for plan in plans):
                return plans
        return plans or self._plans(asked[: self._beam], self._looking_like_goal(asked[: self._beam]))

    def _plans(self, asked: Sequence[tuple[_Node, str]], ends: Sequence[Candidate | None]) -> list[Route]:
        arrivals = [(node, action, end) for (node, action), end in zip(asked, ends, strict=True) if end is not None]
        plans = []
        for node, action, end in arrivals:
            leading = frozenset(other for at, other, _ in arrivals if at is node)
            steps = (*node.steps, Step(node.frame, action, end, tuple(node.read), leading))
            plans.append(Route(steps, self._probabilities(steps)))
        return plans

    def _looking_like_goal(self, asked: Sequence[tuple[_Node, str]]) -> list[Candidate | None]:
        """The likeliest frames, where they look like the goal: several image tokens may show the same."""
        if not asked:
            return []
        frames, actions = [node.frame for node, _ in asked], [action for _, action in asked]
        pools = self._sampled(frames, actions, 1, Sampling(temperature=0.0))
        return [end if self._alike(end.image, self.goal.image) else None for (end,) in pools]

    def _nodes(self, reached: Sequence[tuple[Frame, tuple[Step, ...], _Node | None]]) -> list[_Node]:
        """Frames, the steps to them and where the last of these is taken, as nodes; the nearest to the goal first."""
        if not reached:
            return []
        rows = self._readings([frame for frame, _, _ in reached], READ)
        nodes = [
            _Node(frame, self._far(image_of(frame)), row, steps, parent)
            for (frame, steps, parent), row in zip(reached, rows, strict=True)
        ]
        return sorted(nodes, key=lambda node: node.far)

    def _readings(
        self, frames: Sequence[Frame], samples: int, temperature: float = TEMPERATURE
    ) -> list[dict[str, float]]:
        """What the inverse model reads between frames and the goal, the likeliest and samples: log-probabilities."""
        pairs: list[Pair] = [(frame, self.goal) for frame in frames]
        rows = [[explanation] for explanation in self._inverse.explain(pairs)]
        if hasattr(self._inverse, "propose"):
            model = cast(ProposingInverseModel, self._inverse)
            sampled = model.propose(pairs, samples, self._seed, temperature)
            rows = [[*row, *others] for row, others in zip(rows, sampled, strict=True)]
        return [_distinct(row) for row in rows]

    def _read_again(self, nodes: Sequence[_Node]) -> list[_Node]:
        """The nodes with what else may lead from them to the goal, sampled at a higher temperature."""
        rows = self._readings([node.frame for node in nodes], PROPOSED, DOUBTFUL)
        return [
            replace(node, read={action: likely for action, likely in row.items() if action not in node.read})
            for node, row in zip(nodes, rows, strict=True)
        ]

    def _expand(self, nodes: Sequence[_Node]) -> list[_Node]:
        """The nodes after one more action. What then still leads to the goal may also be what to do first: a difference
        of several actions is read as one of them, and shows the others once that one is imagined."""
        asked = self._propose(nodes)
        after = self._imagine(asked)
        others = [
            (likely, node.parent, action)
            for node in after
            for action, likely in node.read.items()
            if node.parent is not None and (node.parent, action) not in asked
        ]
        after += self._imagine(self._likeliest(others, len(nodes) * self._proposals))
        return sorted(after, key=lambda node: node.far)

    @staticmethod
    def _likeliest(read: Sequence[tuple[float, _Node, str]], most: int) -> list[tuple[_Node, str]]:
        """What to try, each once, the likeliest first."""
        return list(dict.fromkeys((node, action) for _, node, action in sorted(read, key=lambda row: -row[0])))[:most]

    def _leading(self, asked: Sequence[tuple[Frame, str, Frame]]) -> list[Candidate | None]:
        """For frames, actions and what these should lead to: that with its likelihood, where it is likely enough.

        An action such as "go to the ball" may end in several ways, none of which is likely.
        """
        if not asked:
            return []
        frames, actions, targets = (list(column) for column in zip(*asked, strict=True))
        if hasattr(self._forward, "score_targets"):
            self.predictions += len(asked)
            logprobs = cast(ScoringForwardModel, self._forward).score_targets(frames, actions, targets)
            return [
                replace(_candidate(target), logprob=logprob) if logprob.sum >= math.log(LIKELY) else None
                for target, logprob in zip(targets, logprobs, strict=True)
            ]
        return [
            next((outcome for outcome in pool if self._alike(outcome.image, image_of(target))), None)
            for pool, target in zip(self._outcomes(frames, actions), targets, strict=True)
        ]

    def _imagine(self, asked: Sequence[tuple[_Node, str]]) -> list[_Node]:
        """The frames that actions may lead to; alike ones once."""
        if not asked:
            return []
        pools = self._outcomes([node.frame for node, _ in asked], [action for _, action in asked])
        edges = [(*row, outcome) for row, pool in zip(asked, pools, strict=True) for outcome in pool]
        edges.sort(key=lambda edge: -edge[2].logprob.sum)
        known = len(self._looks)
        looks = [self._look(outcome.image) for _, _, outcome in edges]
        leading: dict[tuple[int, int], list[str]] = {}
        fresh: dict[int, int] = {}  # the likeliest of those that look alike
        for i, ((node, action, _), look) in enumerate(zip(edges, looks, strict=True)):
            leading.setdefault((id(node), look), []).append(action)
            if look >= known:
                fresh.setdefault(look, i)
        reached = []
        for look, i in fresh.items():
            node, action, outcome = edges[i]
            tried = tuple(other for at, other in asked if at is node)
            step = Step(node.frame, action, outcome, tried, frozenset(leading[id(node), look]))
            reached.append((outcome, (*node.steps, step), node))
        return self._nodes(reached)

    def _outcomes(self, frames: Sequence[Frame], actions: Sequence[str]) -> list[list[Candidate]]:
        """What actions may lead to: the likeliest frames, and others, as "go to the ball" may end in several ways."""
        pools = self._sampled(frames, actions, 1, Sampling(temperature=0.0))
        first: dict[tuple[int, bytes], int] = {}  # one action in other words has the same likeliest frame
        same_as = [
            first.setdefault((id(frame), likeliest.image.tobytes()), i)
            for i, (frame, (likeliest,)) in enumerate(zip(frames, pools, strict=True))
        ]
        by_count: dict[int, list[int]] = {}
        for i in first.values():  # the less sure, the more, so that one frame more is as sure to be among them
            likely = pools[i][0].logprob.sum
            if likely < math.log(CERTAIN):
                count = OUTCOMES if likely < -math.log(OUTCOMES) else math.ceil(math.exp(-likely))
                by_count.setdefault(count, []).append(i)
        for count, some in by_count.items():
            sampled = self._sampled([frames[i] for i in some], [actions[i] for i in some], count, Sampling())
            for i, others in zip(some, sampled, strict=True):
                pools[i] = list({outcome.image.tobytes(): outcome for outcome in (*others, *pools[i])}.values())
        return [pools[i] for i in same_as]

    def _sampled(
        self, frames: Sequence[Frame], actions: Sequence[str], n: int, sampling: Sampling
    ) -> list[list[Candidate]]:
        self.predictions += n * len(actions)
        return self._forward.sample(frames, actions, n, self._seed, sampling)

    def _reworded(self, plan: Route) -> Route:
        """The same steps in the words that the inverse model finds for them, where these lead to the same frames.

        A sampled proposal may be no good sentence, and a forward model may still make something of it.
        """
        steps = list(plan.steps)
        said = [visible(e.action) for e in self._inverse.explain([(step.source, step.outcome) for step in steps])]
        anew = [i for i, step in enumerate(steps) if said[i] not in ("", step.action)]
        ends = self._leading([(steps[i].source, said[i], steps[i].outcome) for i in anew])
        for i, end in zip(anew, ends, strict=True):
            step = steps[i]
            if end is not None and not end.logprob.sum < min(step.outcome.logprob.sum, math.log(SURE)):
                tried, leading = tuple(dict.fromkeys((*step.tried, said[i]))), step.leading | {said[i]}
                steps[i] = replace(step, action=said[i], outcome=end, tried=tried, leading=leading)
        return Route(tuple(steps), self._probabilities(steps))

    def _propose(self, nodes: Sequence[_Node]) -> list[tuple[_Node, str]]:
        """Actions to try at each node, the likeliest: of what leads to a part of the goal, of what leads from there to
        all of it, and of sampled ones, which may lead over what the goal does not show."""
        pairs: list[Pair] = []
        owners: list[_Node] = []
        for node in nodes:
            image = image_of(node.frame)
            for cells in _parts(changed_cells(image, self.goal.image, self._grid)):
                part = self._part(image, cells)
                pairs += [(node.frame, part), (part, self.goal)]
                owners += [node, node]
        read = list(zip(owners, self._inverse.explain(pairs), strict=True))
        asked = []
        whole = self._readings([node.frame for node in nodes], PROPOSED)
        for node, to_goal in zip(nodes, whole, strict=True):
            of_parts = _distinct([explanation for owner, explanation in read if owner is node])
            ranked = [sorted(row, key=lambda action: -row[action]) for row in (to_goal, of_parts)]
            in_turn = (action for pair in zip_longest(*ranked) for action in pair if action)
            asked += [(node, action) for action in list(dict.fromkeys(in_turn))[: self._proposals]]
        return asked

    def _part(self, image: Image.Image, cells: Cells) -> Image.Image:
        """The image with some cells of the goal."""
        rows, columns = self._grid
        ys = np.cumsum([0, *(len(band) for band in np.array_split(np.arange(image.height), rows))])
        xs = np.cumsum([0, *(len(band) for band in np.array_split(np.arange(image.width), columns))])
        mixed = image.copy()
        for row, column in np.argwhere(cells):
            box = (int(xs[column]), int(ys[row]), int(xs[column + 1]), int(ys[row + 1]))
            mixed.paste(self.goal.image.crop(box), box[:2])
        return mixed

    def _probabilities(self, steps: Sequence[Step]) -> tuple[float, ...]:
        """Of each step: the forward model's probability of its frame, times the share, among all actions tried at its
        source, of those that lead to this frame, by the inverse model's reading of the step."""
        pairs: list[Pair] = [(step.source, step.outcome) for step in steps for _ in step.tried]
        scored = iter(self._inverse.score(pairs, [action for step in steps for action in step.tried]) if pairs else [])
        probabilities = []
        for step in steps:
            read = np.array([next(scored).sum for _ in step.tried])
            share = np.exp(read - np.logaddexp.reduce(read))
            same = [action in step.leading for action in step.tried]
            likelihood = step.outcome.logprob.sum
            frame = 1.0 if math.isnan(likelihood) else math.exp(likelihood)
            probabilities.append(frame * float(share[same].sum()))
        return tuple(probabilities)

    def _look(self, image: Image.Image) -> int:
        """The number of the first frame that an image looks like."""
        key = image.tobytes()
        if key not in self._look_of:
            alike = (i for i, other in enumerate(self._looks) if self._alike(image, other))
            self._look_of[key] = next(alike, len(self._looks))
            if self._look_of[key] == len(self._looks):
                self._looks.append(image)
        return self._look_of[key]

    def _far(self, image: Image.Image) -> int:
        return int(changed_cells(self.goal.image, image, self._grid).sum())

    def _alike(self, a: Image.Image, b: Image.Image) -> bool:
        return not changed_cells(a, b, self._grid).any()


def _distinct(read: Sequence[Explanation]) -> dict[str, float]:
    """The actions that were read, once each, with their log-probabilities. Punctuation alone states none."""
    known: dict[str, float] = {}
    for explanation in read:
        action = visible(explanation.action)
        if any(character.isalnum() for character in action):
            known[action] = max(known.get(action, -math.inf), explanation.logprob.sum)
    return known


def _candidate(frame: Frame) -> Candidate:
    return frame if isinstance(frame, Candidate) else Candidate(frame)


def _parts(changed: Cells) -> Iterator[Cells]:
    """What one action may change of a difference, where it is not all of it: one part, or two."""
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
