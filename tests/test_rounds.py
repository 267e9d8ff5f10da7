"""Rounds and expert iteration: what each stage waits for, which round is kept, and when to stop. By hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from retrodict.bootstrap.context import Context
from retrodict.bootstrap.expert import hacks, prompts
from retrodict.bootstrap.loop import stages_of
from retrodict.bootstrap.measuring import scores_and_right
from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.evaluation.exact import false_changes
from retrodict.evaluation.pool import ItemResult, Scored
from retrodict.files import write_json
from retrodict.models.editors import CopyModel
from retrodict.models.protocol import Candidate, Frame
from retrodict.sampling import Sampling
from retrodict.transitions import Transition
from retrodict.worlds import get_world

WORLD = {"name": "tabletop"}
DATA = {"labelled": "labelled", "videos": ["videos"]}


@pytest.mark.parametrize(
    "settings",
    [
        {"world": WORLD},
        {"data": DATA, "rounds": 2},
        {"data": {"labelled": "labelled"}},
        {"world": WORLD, "rounds": 3, "runs": 2, "expert": {}, "bench": {"calibrate": True}, "still": 0.1},
        {"world": WORLD, "expert": {}, "ablations": ["second_proposer", "weighted_true_labels"]},
        {"world": WORLD, "select": {"strategy": "informative"}},
    ],
)
def test_every_stage_waits_for_stages_that_there_are(settings: dict[str, Any], tmp_path: Path) -> None:
    context = Context(tmp_path, BootstrapRecipe.model_validate(settings))
    stages = stages_of(context)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    done: set[str] = set()
    while ready := [stage.name for stage in stages if stage.name not in done and done.issuperset(stage.needs)]:
        done.update(ready)
    assert done == set(names), "all can begin at some time"
    benched = {name.removeprefix("bench_") for name in names if name.startswith("bench_")}
    assert benched == {name for system in context.systems for name in context.runs_of(system).values()}


def test_the_best_round_is_kept_and_equals_go_to_the_first(tmp_path: Path) -> None:
    recipe = BootstrapRecipe.model_validate({"world": WORLD, "rounds": 3})
    context = Context(tmp_path, recipe)
    assert (context.best_round("idm"), context.main) == (1, "fdm"), "nothing is known yet"
    for name, values in (("fdm", [1, 0]), ("fdm_round2", [1, 1]), ("fdm_round3", [1, float("nan")])):
        write_json(context.validation(name), {"values": values})
    assert (context.best_round("fdm"), context.best_round("fdm", 1), context.main) == (2, 1, "fdm_round2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"labelled": "labelled"}, "rounds": 2}, "rounds and checked labels need videos"),
        ({"world": WORLD, "labeller": "somebody", "rounds": 2}, "an inverse model that the loop trains"),
        ({"data": DATA, "still": 0.1}, "need a world"),
        ({"world": WORLD, "expert": {"grpo": {}}, "bench": {"n": 1}}, "compares samples of a prompt"),
        ({"world": WORLD, "select": {"later": "checked"}}, "`likeliest` or `all`"),
        ({"world": WORLD, "select": {"strategy": "best"}}, "No strategy"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BootstrapRecipe.model_validate(settings)


def test_frames_are_asked_for_the_next_action_of_their_clip() -> None:
    rows = [
        Transition(id=f"{clip}{9 - i}", clip=clip, frame_source=i, action=action)
        for clip, actions in (("a", ["push", "paint", "turn"]), ("b", ["push"]), ("c", ["put", "put"]))
        for i, action in enumerate(actions)
    ]
    asked = prompts(rows, 10, seed=0)
    assert sorted(asked) == [(0, "paint"), (1, "turn")], "b has no other pair and c no other action"
    assert prompts(rows[::-1], 1, seed=0) == [(6 - 1 - i, action) for i, action in asked[:1]]


@pytest.mark.parametrize(
    ("inverse_score", "score", "expected"), [(-1.0, 0.5, True), (-1.0, 0.6, False), (-3.0, 0.4, False)]
)
def test_it_hacks_where_only_the_inverse_model_is_pleased(inverse_score: float, score: float, expected: bool) -> None:
    before = {"inverse_score": -2.0, "score": 0.5}
    assert hacks(before, {"inverse_score": inverse_score, "score": score}) is expected


def test_the_choice_of_a_verifier_and_whether_it_is_right() -> None:
    pool = tuple(Scored(score=score, verifiers={"idm": value}) for score, value in ((1.0, -2.0), (0.5, -1.0)))
    items = [ItemResult("a", "", "", "go", Scored(), pool), ItemResult("b", "", "", "go", Scored(), pool[:1])]
    assert scores_and_right(items, "idm") == ([-1.0, -2.0], [0.0, 1.0])


def test_a_frame_that_changes_where_nothing_happens_is_counted() -> None:
    world = get_world("tabletop")
    still = world.sample_still(3, 0, namespace="unit")
    black = SameImage(Image.new("RGB", still[0].source_image.size))
    assert false_changes(CopyModel(), world, still) == [0.0] * 3
    assert false_changes(black, world, still) == [1.0] * 3


class SameImage:
    """Predicts the same image whatever happens."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    def sample(
        self, sources: Sequence[Frame], actions: Sequence[str], n: int, seed: int, sampling: Sampling = Sampling()
    ) -> list[list[Candidate]]:
        return [[Candidate(self.image)] * n for _ in sources]
