"""The tabletop world: exact scores, identifiable transitions, and videos whose truth holds in the decoded frames."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageFilter

from retrodict.transitions import Transition, read_transitions, write_rows
from retrodict.worlds import get_world, tabletop
from retrodict.worlds.tabletop import SIZES, SUITES, Action, Example, State, Thing, draw, parse, sample, score
from retrodict.worlds.tabletop.continuous import at_rest
from retrodict.worlds.tabletop.physics import simulate
from retrodict.worlds.tabletop.sampling import is_held_out
from retrodict.worlds.tabletop.scene import Size, same_scene

COUNT: dict[Size, int] = {"cells": 200, "continuous": 60}


@pytest.fixture(scope="module", params=SIZES)
def examples(request: pytest.FixtureRequest) -> list[Example]:
    return sample(COUNT[request.param], 0, size=request.param)


def test_truth_scores_one_copy_nothing_and_another_target_next_to_nothing(examples: list[Example]) -> None:
    targets = [draw(e.target) for e in examples]
    assert all(score(t, e).score == 1 for t, e in zip(targets, examples, strict=True))
    assert all(score(draw(e.source), e).score == 0 for e in examples)
    assert all(tabletop.is_copy(draw(e.source), e) and not tabletop.is_copy(draw(e.target), e) for e in examples)
    others = targets[7:] + targets[:7]
    assert np.mean([score(t, e).score for t, e in zip(others, examples, strict=True)]) < 0.03


# A red ball stands beside a green box on the floor, a blue cone on the shelf: push the ball to the left wall.
RED, GREEN, BLUE = Thing("red", "ball", 2, 0), Thing("green", "box", 3, 0), Thing("blue", "cone", 4, 3)
SOURCE = State.of([RED, GREEN, BLUE], [3, 4])
TARGET = SOURCE.having(without=[RED], plus=[RED.at(0, 0)])
PUSH = Example(
    "x", "cells", "everyday", SOURCE, TARGET, Action("push", "red ball", "left"), "push the red ball to the left"
)


@pytest.mark.parametrize(
    ("predicted", "es", "me"),
    [
        (TARGET, 1, 1),
        (SOURCE.having(without=[BLUE], plus=[BLUE.at(0, 0)]), 0, 2 / 3),  # wrong object
        (TARGET.having(without=[RED.at(0, 0)], plus=[Thing("yellow", "ball", 0, 0)]), 0, 3 / 4),  # wrong colour
        (TARGET.having(without=[RED.at(0, 0)], plus=[Thing("red", "cone", 0, 0)]), 0, 1),  # wrong shape
        (TARGET.having(plus=[RED]), 0, 1),  # the old position is not vacated
        (TARGET.having(without=[GREEN], plus=[GREEN.at(5, 0)]), 1, 2 / 3),  # moved bystander
        (TARGET.having(without=[BLUE]), 1, 2 / 3),  # lost bystander
        (TARGET.having(plus=[Thing("orange", "box", 5, 0)]), 1, 3 / 4),  # one too many
        (State.of(TARGET.things), 1, 2 / 3),  # missing shelf
    ],
)
def test_score_of_wrong_images(predicted: State, es: float, me: float) -> None:
    assert tabletop.apply(SOURCE, PUSH.action) == TARGET
    result = score(draw(predicted), PUSH)
    assert result.es == es and result.me == pytest.approx(me)
    assert result.score == min(result.es, result.me)


def test_paint_must_replace_the_old_colour() -> None:
    painted = SOURCE.having(without=[RED], plus=[RED._replace(colour="purple")])
    example = Example("x", "cells", "attribute", SOURCE, painted, Action("paint", "red ball", "purple"), "")
    assert score(draw(painted), example).score == 1
    assert score(draw(painted.having(plus=[RED.at(0, 0)])), example).score == 0


def test_score_from_a_stored_row(examples: list[Example], tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", [e.transition("test") for e in examples[:10]])
    for row, example in zip(read_transitions(tmp_path), examples, strict=False):
        assert (row.category, row.action, row.split) == (example.suite, example.text, "test")
        assert score(row.target_image, row).score == 1
        assert tabletop.is_copy(row.source_image, row)
        assert tabletop.exact(f" {tabletop.templates(example.action)[-1].title()}. ", row)
        assert not tabletop.exact("push it", row)
    with pytest.raises(ValueError, match="no tabletop states"):
        score(draw(SOURCE), Transition(id="other"))


def test_templates_round_trip() -> None:
    rng = random.Random(0)
    seen = {
        action for size in SIZES for _ in range(20) for action in tabletop.actions(tabletop.random_state(rng, size))
    }
    assert {a.kind for a in seen} == {"paint", "turn", "push", "put", "move", "add", "remove", "swap"}
    sentences = {text: action for action in seen for text in tabletop.templates(action)}
    assert all(tabletop.parse_action(text) == action for text, action in sentences.items())
    words = {word for text in sentences for word in text.split()}
    assert words <= set(tabletop.vocabulary()) and len(tabletop.vocabulary()) <= 60
    assert tabletop.parse_action("push the red") is None


def test_sampling_is_deterministic_balanced_and_splits(examples: list[Example]) -> None:
    size = examples[0].size
    assert sample(10, 0, size=size, start=20) == examples[20:30]
    assert [e.suite for e in examples[:10]] == [*SUITES, *SUITES]
    pairs = {(e.source, e.target) for e in examples}
    assert len(pairs) == len(examples)
    assert sample(10, 1, size=size) != examples[:10]
    held_out = sample(20, 0, size=size, namespace="demo-test")
    assert all(is_held_out(e.source) for e in held_out) and not any(is_held_out(e.source) for e in examples)
    with pytest.raises(ValueError, match="use some of"):
        sample(1, 0, suites=("colour",))


def test_one_action_explains_each_transition(examples: list[Example]) -> None:
    for example in examples[:50]:  # by brute force over all actions, not only those that true_action looks at
        explaining = [
            action
            for action in tabletop.actions(example.source)
            if same_scene(tabletop.apply(example.source, action) or example.source, example.target)
        ]
        assert explaining == [example.action]
        assert not same_scene(example.source, example.target)


def test_parse_inverts_render_also_when_noisy_or_blurred(examples: list[Example]) -> None:
    rng = np.random.default_rng(0)
    for example in examples:
        for state in (example.source, example.target):
            image = draw(state)
            assert parse(image, state.size) == state
            noisy = np.clip(np.asarray(image) + rng.normal(0, 20, (96, 96, 3)), 0, 255).astype(np.uint8)
            enlarged = image.filter(ImageFilter.GaussianBlur(1)).resize((256, 256))
            assert same_scene(parse(Image.fromarray(noisy), state.size), state)
            assert same_scene(parse(enlarged, state.size), state)


def test_still_images_in_cells_are_made_of_few_patches() -> None:
    patches = {
        np.asarray(draw(state))[y : y + 16, x : x + 16].tobytes()
        for e in sample(400, 1)
        for state in (e.source, e.target)
        for y in range(0, 96, 16)
        for x in range(0, 96, 16)
    }
    assert len(patches) < 60


def test_cells_agree_with_the_physics_engine() -> None:
    """Scenes stay as they are, and what was carried falls as the rule says, in the engine."""
    falls = 0
    for example in sample(300, 2, suites=("count_physics",)):
        simulated = simulate(example.target)
        assert simulated is not None and at_rest(example.target, simulated) == example.target
        if example.action.kind == "remove":
            gone = example.source.find(example.action.thing)
            assert gone is not None
            hanging = example.source.having(without=[gone])
            simulated = simulate(hanging)
            assert simulated is not None and at_rest(hanging, simulated) == example.target
            falls += hanging != example.target
    assert falls > 10


@pytest.mark.parametrize("size", SIZES)
def test_videos_show_what_their_truth_says(size: Size, tmp_path: Path) -> None:
    paths = tabletop.write_videos(tmp_path / "videos", 5, 0, truth=tmp_path / "truth", size=size, actions=4)
    assert [p.parent.name for p in paths] == list(SUITES)
    for path in paths:
        truth = tabletop.VideoTruth.load(tmp_path / "truth" / path.parent.name / f"{path.stem}.json")
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == truth.frames and truth.moments
        for start, state in truth.scenes:
            assert same_scene(parse(Image.fromarray(frames[start]), size), state) and truth.states_at(start) == state
        for (_, before), (_, after), moment in zip(truth.scenes, truth.scenes[1:], truth.moments, strict=False):
            assert tabletop.true_action(before, after) == moment.action
            moving = range(moment.first, moment.settled + 1)
            change = [np.abs(np.subtract(frames[i], frames[i - 1], dtype=np.int16)).sum() for i in moving]
            assert 4 <= len(moving) <= 6 and change[0] > 0 and np.argmax(change) == len(moving) - 1
            with pytest.raises(ValueError, match="moves"):
                truth.states_at(moment.first)


def test_writing_videos_again_keeps_complete_ones(tmp_path: Path) -> None:
    def write() -> list[Path]:
        return tabletop.write_videos(tmp_path / "videos", 2, 0, truth=tmp_path / "truth", actions=2)

    first, second = write()
    times = first.stat().st_mtime_ns, second.stat().st_mtime_ns
    second.unlink()
    write()
    assert (first.stat().st_mtime_ns == times[0]) and second.exists()
    assert sorted(p.suffix for p in (tmp_path / "videos").rglob("*") if p.is_file()) == [".mp4", ".mp4"]
    truth = json.loads((tmp_path / "truth" / second.parent.name / f"{second.stem}.json").read_text())
    assert truth["frames"] > 0


def as_jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file)


@pytest.mark.parametrize("wear", [lambda image: image, as_jpeg], ids=["clean", "jpeg"])
def test_the_world_explains_what_happened_in_both_sizes_and_nothing_else(examples: list[Example], wear: Any) -> None:
    """Without rows: the size is read off the images."""
    world, shown = get_world("tabletop"), examples[:10]
    pairs = [(wear(draw(e.source)), wear(draw(e.target))) for e in shown]
    assert all(
        get_world("tabletop").explains(e.text, source, target) for e, (source, target) in zip(shown, pairs, strict=True)
    )
    said = [world.action_between(*pair) for pair in pairs]
    assert all(a is not None and world.same_action(a, e.text) for a, e in zip(said, shown, strict=True))
    for example, (source, target), (_, other) in zip(shown, pairs, pairs[1:] + pairs[:1], strict=True):
        assert not world.explains(example.text, source, source)  # a copy
        assert not world.explains(example.text, source, other)  # another outcome
        assert not any(world.explains(action, source, target) for action in world.alternatives(example.transition()))


def test_scenes_are_put_together_and_fall_into_place() -> None:
    world: Any = get_world("tabletop")
    made = world.compose([("blue box", 1, 2), ("red ball", 1, 5), ("shelf", 3, 0), ("green cone", 3, 5)])
    placed = [("blue box", 1, 0), ("green cone", 3, 3), ("red ball", 1, 1), ("shelf", 3, 2)]
    assert world.placed(made) == placed and world.compose(placed).tobytes() == made.tobytes()
    on_a_ball, outside, no_piece = [("red ball", 1, 0), ("blue box", 1, 3)], [("red ball", 6, 0)], [("red", 1, 0)]
    for bad in (on_a_ball, outside, no_piece, [("red ball", 3, 2), ("shelf", 3, 2)], [("red ball", 0, 0)] * 2):
        with pytest.raises(ValueError):
            world.compose(bad)
