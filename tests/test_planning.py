"""Planning: with models that know a toy world, with the tiny model, and as a command."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import toy_world
from family_checks import noise_images
from PIL import Image
from typer.testing import CliRunner

import retrodict
from retrodict.cli import app
from retrodict.dynamics.confidence import Confidence
from retrodict.dynamics.plan_search import DOUBTFUL, Search, _distinct
from retrodict.dynamics.planning import plan
from retrodict.dynamics.unified import UnifiedModel
from retrodict.images import write_image
from retrodict.models.protocol import Candidate, Explanation, Frame, LogProb, Pair, image_of
from retrodict.models.small.family import SmallFamily


class Knows:
    """Imagines what the toy world does, and reads it; an action it cannot do leads nowhere."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong  # an action that it imagines to paint something blue

    def sample(
        self, sources: Sequence[Frame], actions: Sequence[str], n: int, seed: int, sampling: Any = None
    ) -> list[list[Candidate]]:
        return [[Candidate(self._after(image_of(s), a))] * n for s, a in zip(sources, actions, strict=True)]

    def _after(self, source: Image.Image, action: str) -> Image.Image:
        scene = toy_world.apply(toy_world.parse(source), action)
        return source if scene is None else toy_world.render(scene)

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        said = [toy_world.WORLD.action_between(image_of(s), image_of(t)) for s, t in pairs]
        return [Explanation(text or "", LogProb(-1.0, 1)) for text in said]

    def propose(self, pairs: Sequence[Pair], n: int, seed: int, temperature: float) -> list[list[Explanation]]:
        possible = [toy_world.WORLD.possible(image_of(s)) for s, _ in pairs]
        return [[Explanation(text, LogProb(-9.0, 1)) for text in texts[:n]] for texts in possible]

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        rows = zip(pairs, actions, strict=True)
        return [
            LogProb(0.0 if toy_world.WORLD.explains(a, image_of(s), image_of(t)) else -20.0, 1) for (s, t), a in rows
        ]


class Unsure(Knows):
    """Thinks that what moves ends one cell away, or, more probably, two."""

    def sample(
        self, sources: Sequence[Frame], actions: Sequence[str], n: int, seed: int, sampling: Any = None
    ) -> list[list[Candidate]]:
        near = [self._after(image_of(s), a) for s, a in zip(sources, actions, strict=True)]
        far = [self._after(image, a) for image, a in zip(near, actions, strict=True)]
        if sampling is not None and sampling.temperature == 0:
            return [[Candidate(image, logprob=LogProb(math.log(0.45), 1))] for image in far]
        return [[Candidate(image, logprob=LogProb(math.log(0.4), 1))] * n for image in near]


def scene(**dots: tuple[int, int]) -> Image.Image:
    return toy_world.render(dots)


def planned(start: Image.Image, goal: Image.Image, steps: int, **options: Any) -> retrodict.Plan:
    settings = {"proposals": 12, "beam": 4, "seed": 0} | options
    return plan(Knows(), Knows(), start, goal, steps=steps, **settings)


def test_a_plan_leads_to_the_goal_and_one_that_is_out_of_reach_is_not_claimed() -> None:
    start, goal = scene(red=(0, 0), blue=(2, 2)), scene(red=(1, 0), blue=(2, 1))
    found = planned(start, goal, 2)
    assert found.reached and len(found.actions) == 2 and found.confidence == pytest.approx(1, abs=0.01)
    shown = toy_world.WORLD.play(start, found.actions)
    assert shown is not None and toy_world.parse(shown[-1]) == toy_world.parse(goal)
    assert [text for _, text in found.cells()][0::3] == ["start", "goal"]
    short = planned(start, goal, 1)
    assert (short.reached, short.actions, short.confidence) == (False, (), 0)
    assert "no plan found" in repr(short)
    told = replace(found, calibration=Confidence(intercept=1.0, slope=2.0, n=50))
    assert told.confidence == pytest.approx(1 / (1 + math.exp(-1 - 2 * math.log(found.probability))))
    assert replace(short, calibration=told.calibration).confidence == 0, "no plan is no plan"
    nothing = planned(start, start, 3)
    assert (nothing.reached, nothing.actions, nothing.predictions) == (True, (), 0)


def test_a_goal_that_is_not_the_likeliest_end_of_an_action_is_reached() -> None:
    start, goal = scene(red=(0, 0), blue=(4, 4)), scene(red=(1, 0), blue=(4, 3))
    found = plan(Unsure(), Knows(), start, goal, steps=2, proposals=12, beam=4, seed=0)
    assert found.reached and sorted(found.actions) == ["move the blue dot up", "move the red dot right"]
    assert found.probability == pytest.approx(0.4**2, abs=0.01)


class Stubborn(Knows):
    """Reads every pair wrongly, and samples what is right, beside punctuation, only where much is tried."""

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        return [Explanation("move the blue dot up", LogProb(-0.1, 1)) for _ in pairs]

    def propose(self, pairs: Sequence[Pair], n: int, seed: int, temperature: float) -> list[list[Explanation]]:
        if temperature < DOUBTFUL:
            return [row[:1] * n for row in zip(self.explain(pairs))]
        return [[*row, Explanation("!", LogProb(-9.0, 1))] for row in super().propose(pairs, n, seed, temperature)]


def test_where_what_is_read_leads_nowhere_the_unlikely_is_tried() -> None:
    start, goal = scene(red=(0, 0), blue=(2, 2)), scene(red=(1, 0), blue=(2, 2))
    found = plan(Knows(), Stubborn(), start, goal, steps=1, proposals=12, beam=4, seed=0)
    assert found.reached and found.actions == ("move the red dot right",)
    assert not _distinct([Explanation(text, LogProb(-1.0, 1)) for text in ("", " ", "!", "...")]), "no actions at all"


def test_how_sure_to_be_goes_by_the_number_of_actions() -> None:
    start, goal = scene(red=(0, 0), blue=(2, 2)), scene(red=(1, 0), blue=(2, 1))
    model = Knows()
    for curves, expected in (
        ({"plan of 1": Confidence(0.0, 0.0, 9), "plan of 3": Confidence(9.0, 0.0, 9)}, 0.5),
        ({"plan of 1": Confidence(9.0, 0.0, 9), "plan of 2": Confidence(math.log(3), 0.0, 9)}, 0.75),
    ):
        model.confidence = curves  # type: ignore[attr-defined]  # as a loaded model has
        found = plan(model, model, start, goal, steps=2, proposals=12, beam=4, seed=0)
        assert len(found.actions) == 2 and found.confidence == pytest.approx(expected)


def test_steps_between_that_look_like_no_goal_are_found_by_proposals() -> None:
    start, goal = scene(red=(0, 0), blue=(2, 2)), scene(red=(2, 0), blue=(2, 2))
    found = planned(start, goal, 2, beam=8)
    assert found.reached and len(found.actions) == 2  # over (1, 0), which the goal does not show


def test_where_nothing_new_is_imagined_the_search_ends(family: SmallFamily) -> None:
    model = UnifiedModel(family)
    assert model.propose([], 4, 0, 1.0) == model.explain([]) == model.score([], []) == model.sample([], [], 2, 0) == []

    class Still(Knows):
        def _after(self, source: Image.Image, action: str) -> Image.Image:
            return source

        def propose(self, pairs: Sequence[Pair], n: int, seed: int, temperature: float) -> list[list[Explanation]]:
            assert pairs
            return super().propose(pairs, n, seed, temperature)

    start, goal = scene(red=(0, 0), blue=(2, 2)), scene(red=(2, 0), blue=(2, 2))
    assert not plan(Still(), Still(), start, goal, steps=3, proposals=4, beam=2, seed=0).reached


def test_what_is_planned_between_has_the_image_tokens_of_the_images_given(family: SmallFamily) -> None:
    """Those of what the tokenizer shows of them may be others, and then no plan leads there."""
    start, goal = noise_images(2, 48, seed=1)
    model = UnifiedModel(family)
    given_2L = model.codes([start, goal])
    shown = family.decode(given_2L, [start.size] * 2)
    assert (model.codes(shown) != given_2L).any()
    search = Search(model, model, start, goal, proposals=2, beam=1, seed=0)
    assert (model.codes([search.start, search.goal]) == given_2L).all()


def test_a_goal_that_was_predicted_and_saved_is_reached() -> None:
    """Encoded again, an image may have other tokens than those that it was made of."""
    frame = Path(__file__).parents[1] / "examples" / "frame.png"
    goal = retrodict.predict(frame, "push the red ball to the left", n=8).image
    found = retrodict.plan(frame, goal, steps=2)
    assert found.reached and len(found.actions) == 1 and "red ball" in found.actions[0]


def test_any_family_plans_and_the_command_writes_what_it_found(tiny_model: Path, tmp_path: Path) -> None:
    frame = Path(__file__).parents[1] / "examples" / "frame.png"
    goal = tmp_path / "goal.png"
    with Image.open(frame) as shown:
        write_image(goal, shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    made = retrodict.plan(frame, goal, steps=1, proposals=2, beam=1, model=tiny_model)
    assert not made.reached and made.predictions <= 3  # random weights reach nothing, and do not say that they do
    out = tmp_path / "plan"
    call = ["plan", str(frame), str(frame), "--model", str(tiny_model), "--out", str(out)]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    assert json.loads((out / "plan.json").read_text())["reached"] is True
    with Image.open(out / "strip.png") as strip:
        assert strip.width > 2 * 192
    assert "goal" in (out / "plan.html").read_text()
    with pytest.raises(ValueError, match="steps must be at least 1"):
        retrodict.plan(frame, goal, steps=0)
    with pytest.raises(ValueError, match="needs an inverse model"):
        retrodict.plan(frame, goal, model=retrodict.load("copy", role="forward"))


class InOrder:
    """A world of four frames in which only "first", then "last" lead from 0 to 9; its inverse model reads the whole
    difference as "last", and what is left once that is done as "first"."""

    AFTER: ClassVar = {(0, "first"): 1, (1, "last"): 9, (0, "last"): 2}
    READ: ClassVar = {(0, 9): "last", (2, 9): "first", (1, 9): "last", (0, 1): "first"}

    def sample(
        self, sources: Sequence[Frame], actions: Sequence[str], n: int, seed: int, sampling: Any = None
    ) -> list[list[Candidate]]:
        frames = [number(source) for source in sources]
        return [[Candidate(grey(self.AFTER.get((f, a), f)))] * n for f, a in zip(frames, actions, strict=True)]

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        return [Explanation(self.READ.get((number(s), number(t)), ""), LogProb(-1.0, 1)) for s, t in pairs]

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        return [LogProb(-1.0, 1) for _ in actions]


def grey(level: int) -> Image.Image:
    return Image.new("L", (8, 8), 20 * level).convert("RGB")


def number(frame: Frame) -> int:
    return image_of(frame).getpixel((7, 7))[0] // 20  # type: ignore[index]  # an RGB pixel


def test_what_is_left_once_an_action_is_imagined_may_come_first() -> None:
    found = plan(InOrder(), InOrder(), grey(0), grey(9), steps=2, proposals=12, beam=4, seed=0)
    assert found.actions == ("first", "last")
    assert not plan(InOrder(), InOrder(), grey(0), grey(9), steps=1, proposals=12, beam=4, seed=0).reached
