"""Planning: with models that know a toy world, with the tiny model, and as a command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import toy_world
from PIL import Image
from typer.testing import CliRunner

import retrodict
from retrodict.cli import app
from retrodict.dynamics.planning import plan
from retrodict.images import write_image
from retrodict.models.protocol import Candidate, Explanation, Frame, LogProb, Pair, image_of


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
    nothing = planned(start, start, 3)
    assert (nothing.reached, nothing.actions, nothing.predictions) == (True, (), 0)


def test_steps_between_that_look_like_no_goal_are_found_by_proposals() -> None:
    start, goal = scene(red=(0, 0), blue=(2, 2)), scene(red=(2, 0), blue=(2, 2))
    found = planned(start, goal, 2, beam=8)
    assert found.reached and len(found.actions) == 2  # over (1, 0), which the goal does not show


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
