"""*babyai*: what the engine draws and does, what images are read as, and scores of hand-made predictions."""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrodict.loading import load, shipped_for
from retrodict.sampling import Sampling
from retrodict.transitions import read_rows
from retrodict.video import MineConfig, mine
from retrodict.worlds import get_world
from retrodict.worlds.babyai import engine, rules, sampling
from retrodict.worlds.babyai.images import SIDE, draw, read
from retrodict.worlds.babyai.language import Action, every_action, parse_action, wordings
from retrodict.worlds.babyai.tiles import (
    AGENT,
    CLOSED,
    FLOOR,
    LOCKED,
    OPEN,
    UNKNOWN,
    WALL,
    Cell,
    State,
    having,
    tile_of,
)

WORLD = get_world("babyai")
RIGHT, DOWN, LEFT, UP = range(4)
RED_BALL, BLUE_KEY, GREY_BOX = (tile_of(name) for name in ("red ball", "blue key", "grey box"))
RED_DOOR = tile_of("red door")


def room(*changes: tuple[Cell, int]) -> State:
    """A room: the agent at (1, 1) looks right, a red ball, a blue key, a grey box, a closed red door at the right."""
    state = bytes(FLOOR if 0 < x < 6 and 0 < y < 6 else WALL for y in range(7) for x in range(7))
    first = [((1, 1), AGENT + RIGHT), ((4, 1), RED_BALL), ((2, 4), BLUE_KEY), ((5, 5), GREY_BOX)]
    for cell, tile in [*first, ((6, 3), RED_DOOR + CLOSED), *changes]:
        state = having(state, cell, tile)
    return state


def moved(state: State, cell: Cell, direction: int) -> State:
    """The agent somewhere else."""
    index = next(i for i, tile in enumerate(state) if AGENT <= tile < AGENT + 4)
    return having(having(state, (index % 7, index // 7), FLOOR), cell, AGENT + direction)


def scored(predicted: State, action: str, source: State | None = None) -> tuple[float, float]:
    score = WORLD.score_action(draw(predicted), draw(source or room()), action)
    assert score is not None
    return score.es, score.me


def test_hand_made_ends_are_scored_as_the_mission_says() -> None:
    beside_ball = moved(room(), (3, 1), RIGHT)
    assert scored(beside_ball, "go to the red ball") == (1, 1)
    assert scored(moved(room(), (4, 2), UP), "walk to the red ball") == (1, 1)  # from another side
    assert scored(room(), "go to the red ball") == (0, 1)
    assert scored(moved(room(), (3, 1), DOWN), "go to the red ball") == (0, 1)  # beside it, looking away
    picked = having(beside_ball, (4, 1), FLOOR)
    assert scored(picked, "pick up the red ball") == (1, 1)
    assert scored(beside_ball, "pick up the red ball") == (0.5, 1)  # half a move
    assert scored(having(room(), (4, 1), FLOOR), "pick up the red ball") == (0.5, 1)
    wrong = having(moved(room(), (2, 3), DOWN), (2, 4), FLOOR)
    assert scored(wrong, "pick up the red ball") == (0, 0.75)  # of key, box, door and walls the key is gone
    opened = having(moved(room(), (5, 3), RIGHT), (6, 3), RED_DOOR + OPEN)
    assert scored(opened, "open the red door") == (1, 1)
    assert scored(having(opened, (6, 3), tile_of("green door") + OPEN), "open the red door")[0] == 0.5  # its colour
    put = moved(having(having(room(), (4, 1), FLOOR), (2, 3), RED_BALL), (3, 3), LEFT)
    assert scored(put, "put the red ball next to the blue key") == (1, 1)
    assert scored(having(put, (5, 5), FLOOR), "put the red ball next to the blue key") == (1, 0.75)
    bystander = having(having(put, (5, 5), FLOOR), (4, 4), GREY_BOX)
    assert scored(bystander, "put the red ball next to the blue key") == (1, 0.75)
    green = having(put, (2, 3), tile_of("green ball"))
    assert scored(green, "put the red ball next to the blue key") == (0, 0.8)  # a thing more that was not there
    two = having(put, (4, 1), RED_BALL)
    assert min(scored(two, "put the red ball next to the blue key")) == 0
    assert scored(moved(room(), (2, 1), RIGHT), "go forward two steps") == (0, 1)
    assert scored(moved(room(), (3, 1), RIGHT), "go forward two steps") == (1, 1)
    assert scored(moved(room(), (1, 1), LEFT), "turn around") == (1, 1)
    assert scored(moved(room(), (1, 1), DOWN), "turn left") == (0, 1)
    drop = having(room(), (2, 1), tile_of("purple key"))
    assert scored(drop, "drop the purple key") == (1, 1)
    assert scored(having(room(), (3, 1), tile_of("purple key")), "drop the purple key") == (0, 1)


def test_an_agent_stands_where_it_can_walk_to() -> None:
    walled = room(*(((x, 2), WALL) for x in range(1, 6)))
    assert scored(moved(walled, (3, 1), RIGHT), "go to the red ball", walled) == (1, 1)
    assert WORLD.score_action(draw(walled), draw(walled), "go to the blue key") is None  # behind the wall
    beyond = moved(having(room(), (5, 1), WALL), (1, 1), RIGHT)
    assert WORLD.score_action(draw(beyond), draw(beyond), "pick up the grey ball") is None  # there is none
    assert scored(moved(room(), (6, 1), LEFT), "go to the red ball")[0] == 0  # in the wall


def test_what_is_no_tile_counts_against_an_image() -> None:
    picture = np.array(draw(moved(room(), (3, 1), RIGHT)))
    picture[8 * 4 : 8 * 5, 8 * 4 : 8 * 5] = 255
    assert read([Image.fromarray(picture)])[0].count(UNKNOWN) == 1
    score = WORLD.score_action(Image.fromarray(picture), draw(room()), "go to the red ball")
    assert score is not None and (score.es, score.me) == (1, pytest.approx(5 / 6))  # four things, walls, the tile


def test_images_are_the_engine_s_own_and_are_read_back() -> None:
    rng = random.Random(0)
    for level in engine.LEVELS:
        environment = engine._environment(level)
        for seed in range(5):
            environment.reset(seed=seed)
            middle = (environment.width - 7) // 2 * 8
            for _ in range(5):
                environment.step(rng.randrange(6))
                state = engine._state(environment)
                if state is not None:
                    frame = environment.get_frame(highlight=False, tile_size=8).astype(np.uint8)
                    assert (frame[middle:, middle:][:SIDE, :SIDE] == np.asarray(draw(state))).all()


def test_any_size_and_compression_is_read() -> None:
    rng = random.Random(1)
    states = [bytes(rng.choice([FLOOR] * 30 + list(range(42))) for _ in range(49)) for _ in range(300)]
    assert read([draw(state) for state in states]) == states
    for size in (112, 200):
        assert read([draw(state).resize((size, size), Image.Resampling.BICUBIC) for state in states]) == states, size
    assert read([jpeg(draw(state), 75, colour=0) for state in states]) == states
    assert read([jpeg(draw(state), 90, colour=2) for state in states]) == states
    real = [example.source for example in sampling.sample(30, 0, namespace="read")]
    assert read([draw(state).resize((64, 64), Image.Resampling.BICUBIC) for state in real]) == real


def jpeg(image: Image.Image, quality: int, colour: int) -> Image.Image:
    """As a JPEG; `colour` 0 keeps all of it, 2 a quarter, as most programs do."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, subsampling=colour)
    return Image.open(stream)


def test_rows_are_explained_by_their_action_alone_and_no_room_is_on_both_sides() -> None:
    rooms = {}
    for namespace in ("demo-labelled", "demo-test"):
        examples = sampling.sample(25, 0, namespace=namespace)
        rooms[namespace] = {sampling._is_held_out(e.source) for e in examples if e.action.kind != "drop"}
        for e in examples:
            fitting = [a for a in every_action() if rules.explains(a, e.source, e.target)]
            assert fitting == [e.action] == rules.explanations(e.source, e.target)
            assert rules.score(e.source, e.source, e.action).score == 0
        others = [rules.score(b.target, a.source, a.action).score for a, b in zip(examples, examples[7:], strict=False)]
        assert sum(others) / len(others) < 0.1
    assert rooms == {"demo-labelled": {False}, "demo-test": {True}}


def test_pairs_in_which_nothing_happens_stand_apart() -> None:
    rows = [example.transition() for example in sampling.sample_still(30, 0, namespace="train")]
    assert {row.category for row in rows} == {"still"}
    for row in rows:
        assert WORLD.score(row.source_image, row).score == 1
        assert WORLD.score(draw(room()), row).score == 0
        assert WORLD.action_between(row.source_image, row.target_image) is None
    locked = room(((6, 3), RED_DOOR + LOCKED))
    assert not rules.possible(Action("open", "red door"), locked)
    assert engine.carry_out(Action("forward", "four steps"), room()) is None  # the ball is in the way


def test_videos_in_which_a_tile_changes_are_not_static(tmp_path: Path) -> None:
    videos, truth = tmp_path / "videos", tmp_path / "truth"
    WORLD.write_videos(videos, 5, 1, actions=6, truth=truth)
    result = mine(videos, tmp_path / "pairs", MineConfig(frames_per_clip=6, min_gap=8), workers=1)
    pairs = read_rows(tmp_path / "pairs")
    assert not result.dropped and sum(WORLD.true_action(pair, truth) is not None for pair in pairs) >= 0.8 * len(pairs)


def test_the_shipped_model_knows_this_world() -> None:
    assert (shipped_for("babyai"), shipped_for("tabletop"), shipped_for("another")) == ("small-babyai", "small", None)
    rows = WORLD.sample(20, 5, namespace="shipped-test")
    pools = load("small-babyai", "forward").sample(
        [row.source_image for row in rows], [row.action for row in rows], 1, 0, Sampling(temperature=0.0)
    )
    scores = [WORLD.score(pool[0].image, row).score for pool, row in zip(pools, rows, strict=True)]
    assert sum(scores) > 15


def test_sentences_are_told_apart() -> None:
    every = [text for action in every_action() for text in wordings(action)]
    assert len(set(every)) == len(every) == 3 * 385
    assert parse_action(" Pick up the RED ball. ") == Action("pick", "red ball") and parse_action("sing") is None
    tabletop = get_world("tabletop")
    assert not any(tabletop.wordings(text) for text in every)


def test_without_the_engine_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(ImportError, match=r"pip install 'retrodict\[babyai\]'"):
        engine.tile_images(9)
