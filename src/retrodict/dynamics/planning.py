"""Planning to a goal image: what no model of one direction can do alone.

The inverse model reads which action may lead from a frame to the goal, and the forward model says how probable it finds
the goal after it. Where one action is not enough, the inverse model proposes actions, the forward model imagines what
they lead to, and the same is asked of the imagined frames, the nearest to the goal first; frames that look alike are
one. Proposals come from (frame, goal), and from what a single action may change of their difference: the frame with
some of the goal's cells, which is the kind of pair that the inverse model knows. A difference of several actions is
often read as one of them, so what it reads once that one is imagined is proposed as well: it may be what to do first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

from retrodict.dynamics.confidence import Confidence, curves_of
from retrodict.dynamics.plan_search import Search
from retrodict.images import html_row
from retrodict.models.protocol import Candidate, ForwardModel, InverseModel

CALIBRATED = "plan of {}"  # names the curve of plans of so many actions, beside those of verifiers


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
        predictions: frames that the forward model imagined or scored on the way.
        calibration: turns the logarithm of the product of `probabilities` into how often such plans reach their goals,
            where that was measured for the forward model.
    """

    start: Image.Image
    goal: Image.Image
    actions: tuple[str, ...]
    frames: tuple[Candidate, ...]
    probabilities: tuple[float, ...]
    reached: bool
    predictions: int
    calibration: Confidence | None = None

    @property
    def probability(self) -> float:
        """How probable the models find it that the actions lead to the goal; 0 where no plan was found."""
        return math.prod(self.probabilities) if self.reached else 0.0

    @property
    def confidence(self) -> float:
        """How often such plans reach their goals, where that was measured, else `probability`.

        An action may have several right ends, none of which the models find probable: that says little of the plan.
        """
        if self.calibration is None or not self.actions or not self.probability:
            return self.probability
        return self.calibration.probability(math.log(self.probability))

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
    search = Search(forward, inverse, start, goal, proposals, beam, seed)
    route = search.run(steps)
    taken = route.steps if route else ()
    return Plan(
        start,
        goal,
        tuple(step.action for step in taken),
        tuple(step.outcome for step in taken),
        route.probabilities if route else (),
        reached=route is not None,
        predictions=search.predictions,
        calibration=_calibration(forward, len(taken)),
    )


def _calibration(forward: ForwardModel, actions: int) -> Confidence | None:
    """The curve of plans of so many actions, or of the longest ones below that was calibrated."""
    curves = curves_of(forward)
    shorter = (curves.get(CALIBRATED.format(count)) for count in range(actions, 0, -1))
    return next((curve for curve in shorter if curve), None)
