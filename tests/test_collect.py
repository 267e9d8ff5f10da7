"""`retrodict collect` on an environment of a few lines: what it writes, words, counts, and what it refuses."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.cli import app
from retrodict.recipes import load_recipe
from retrodict.transitions import Transition, read_rows, read_transitions
from retrodict.video import MineConfig, mine

pytest.importorskip("gymnasium", reason="the extra `gym` is not installed")

# A red dot on a row of cells; which way it goes, and "wait", which changes nothing.
ENVIRONMENT = """
import enum
import gymnasium
import numpy as np

class Line(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}
    actions = enum.IntEnum("Actions", [("go_left", 0), ("go_right", 1), ("wait", 2)])

    def __init__(self, render_mode=None, cells=30, continuous=False, blind=False, broken=""):
        self.render_mode, self.cells, self.blind, self.broken = render_mode, cells, blind, broken
        self.fail("init", RuntimeError)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,)) if continuous else gymnasium.spaces.Discrete(3)
        self.observation_space = gymnasium.spaces.Discrete(cells)

    def fail(self, where, error):
        if self.broken == where:
            raise error(f"the {where}")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.fail("reset", SystemExit)
        self.at = int(self.np_random.integers(self.cells))
        return self.at, {}

    def step(self, action):
        self.fail("step", RuntimeError)
        move = round(float(action[0])) if np.ndim(action) else (-1, 1, 0)[int(action)]
        self.at = min(max(self.at + move, 0), self.cells - 1)
        return self.at, 0.0, False, False, {"at": self.at}

    def render(self):
        if self.blind:
            raise gymnasium.error.DependencyNotInstalled("a screen is not installed.")
        self.fail("render", KeyError)
        frame = np.full((64, 8 * self.cells, 3), 200, np.uint8)
        frame[24:40, 8 * self.at : 8 * self.at + 8] = (200, 30, 30)
        return frame

gymnasium.register("Line-v0", entry_point=Line, max_episode_steps=100)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "line_env.py").write_text(ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def collect(*arguments: object, env: str = "line_env:Line-v0", out: str = "out") -> tuple[int, str]:
    few = ("--episodes", 6, "--test", 2, "--pairs", 8, "--steps", 40)
    result = CliRunner().invoke(app, ["collect", env, "--out", out, "--quiet", *map(str, (*few, *arguments))])
    return result.exit_code, result.output


def at(image: object) -> int:
    """The cell of the dot."""
    return int(np.asarray(image)[32, :, 1].argmin()) // 8


def test_pairs_of_episodes_with_words(place: Path) -> None:
    code, said = collect()
    assert code == 0, said
    rows = {name: read_transitions(place / "out" / name) for name in ("labelled", "test")}
    moves = {"go left": -1, "go right": 1}
    for row in (*rows["labelled"], *rows["test"]):
        assert at(row.target_image) - at(row.source_image) == moves[row.action]  # what waits is left out
        assert row.category == row.action
    groups = Counter(row.group for row in rows["labelled"])
    assert len(groups) == 6 and max(groups.values()) <= 8
    assert not groups.keys() & {row.group for row in rows["test"]}
    assert not {row.id for row in rows["labelled"]} & {row.id for row in rows["test"]}, "only what is new is tested"
    counts = json.loads((place / "out" / "labelled.json").read_text())
    assert counts["actions"] == Counter(row.action for row in rows["labelled"])
    assert counts["left_out"]["nothing changed"] > 0
    assert sum(counts["actions"].values()) + sum(counts["left_out"].values()) == 6 * 40
    assert "labelled: " in said and "nothing changed" in said
    assert said.endswith("Next: retrodict bootstrap out/recipe.yaml --out runs/out\n")
    recipe = load_recipe(place / "out" / "recipe.yaml", BootstrapRecipe)
    assert (recipe.data.labelled[0].path, recipe.data.test) == (place / "out" / "labelled", place / "out" / "test")
    assert not recipe.annotates

    collect(out="again")
    ids = [row.id for row in rows["labelled"]]
    assert [row.id for row in read_transitions(place / "again" / "labelled")] == ids, "the seed decides"
    collect("--seed", 1, out="other")
    assert [row.id for row in read_transitions(place / "other" / "labelled")] != ids
    written = {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*.parquet")}
    assert collect()[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*.parquet")} == written
    code, said = collect("--seed", 1)
    assert (code, "holds a run with seed 0 and not 1" in said) == (2, True)


def test_videos_show_each_state_long_enough_to_be_mined(place: Path) -> None:
    code, said = collect("--videos", 2)
    assert code == 0 and "out/videos: 2 videos" in said
    recipe = load_recipe(place / "out" / "recipe.yaml", BootstrapRecipe)
    assert recipe.annotates
    gap = recipe.mine.min_gap
    assert mine(place / "out" / "videos", place / "pairs", MineConfig(min_gap=gap), executor_name="serial").pairs >= 4
    for pair in read_rows(place / "pairs"):
        assert abs(at(pair.target_image) - at(pair.source_image)) <= 2


def test_from_an_environment_to_a_report_without_videos(place: Path) -> None:
    assert collect("--env-arg", "cells=12", "--test", 0)[0] == 0  # a share of the episodes is tested on
    tiny = (
        "data.test_share=0.4",
        "tokenizer.patch=32",
        "model.hidden=32",
        "model.layers=1",
        "model.heads=2",
        "bench.items=6",
        "bench.n=2",
    )
    few = [f"{direction}.{key}" for direction in ("inverse", "forward") for key in ("steps=10", "warmup_steps=2")]
    command = ["bootstrap", "out/recipe.yaml", "--out", "run", "--quiet"]
    command += [part for change in (*tiny, *few) for part in ("--set", change)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    results = json.loads((place / "run" / "results.json").read_text())
    assert set(results["systems"]) == {"copy", "fdm"} and set(results["probe"]) == {"idm", "fdm"}
    assert {"annotation", "mining"}.isdisjoint(results)
    assert sorted(path.parent.name for path in (place / "run").glob("*/retrodict.json")) == ["fdm", "idm"]
    page = (place / "run" / "report.html").read_text()
    assert "labelled data only" in page and "annotated" not in page


def test_what_waits_is_kept_when_asked_and_actions_repeat(place: Path) -> None:
    assert collect("--unchanged", "--repeat", 3)[0] == 0
    rows = read_transitions(place / "out" / "labelled")
    moved = {row.action: set[int]() for row in rows}
    for row in rows:
        moved[row.action].add(at(row.target_image) - at(row.source_image))
    assert moved["wait"] == {0} and 3 in moved["go right"] and -3 in moved["go left"]


def test_actions_are_named_or_described(place: Path) -> None:
    (place / "names.yaml").write_text("{step back: [-1.0], step on: [1.0]}")
    code, said = collect("--env-arg", "continuous=true", "--names", "names.yaml")
    assert code == 0, said
    assert {row.action for row in read_transitions(place / "out" / "labelled")} == {"step back", "step on"}
    (place / "policy.py").write_text(
        "def policy(observation, actions, rng):\n    return 'go right' if observation < 15 else 0\n"
        "def describe(before, action, after, info):\n    return f'to {info[\"at\"]}' if after > before else None\n"
    )
    code, said = collect("--policy", "policy.py", "--test", 0, out="told")
    assert code == 0, said
    rows: list[Transition] = read_transitions(place / "told" / "labelled")
    assert all(row.action == f"to {at(row.target_image)}" and at(row.target_image) <= 15 for row in rows)
    assert "without words" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": "Nothing-v0"}, "Nothing-v0 cannot be made"),
        ({"env": "nothing_env:Line-v0"}, "needs nothing_env: install the package that brings it"),
        ({"--env-arg": "colour=1"}, "unexpected keyword argument 'colour'"),
        ({"--env-arg": "continuous=true"}, "have no names, as they are Box"),
        ({"--names": "[a, b, c, d]"}, "'d' is 3, which is no action of Discrete(3)"),
        ({"--names": "{a: left}"}, "'a' is left, which is no action of"),
        ({"--policy": "none.py"}, "There is no policy 'none.py'"),
        ({"--policy": "x = y"}, "policy.py does not run: NameError: name 'y' is not defined"),
        ({"--policy": "x = 1"}, "defines neither `policy` nor `describe`"),
        ({"--episodes": "0"}, "episodes is 0"),
        ({"--env-arg": "blind=true"}, "cannot render: a screen is not installed."),
        ({"--env-arg": "broken=step"}, "Line-v0 does not run: RuntimeError: the step"),
        ({"--env-arg": "broken=reset"}, "Line-v0 does not run: SystemExit: the reset"),
        ({"--env-arg": "broken=render"}, "Line-v0 does not run: KeyError: 'the render'"),
        ({"--env-arg": "broken=init"}, "Line-v0 does not run: RuntimeError: the init"),
        ({"--policy": "import sys; sys.exit(0)"}, "policy.py does not run: SystemExit: 0"),
        ({"--policy": "def policy(*_): return {}['x']"}, "policy.py does not run: KeyError: 'x'"),
        ({"--policy": "def policy(*_): return 'fly'"}, "policy.py chose 'fly', which is none of "),
        ({"--policy": "def describe(*_): return 5"}, "policy.py: `describe` returned 5, and not words"),
        ({"--names": "[a, b, a]"}, "names.yaml calls several actions 'a'"),
        ({"--names": "{on: 1, off: 0}"}, "names.yaml: True is no name; in YAML, names such as yes"),
        ({"--env-arg": "cells=1"}, "Not one pair of 6 episodes is of use for out/labelled: "),
    ],
)
def test_what_cannot_be_played_is_refused_in_a_line(arguments: dict[str, str], message: str, place: Path) -> None:
    env = arguments.pop("env", "line_env:Line-v0")
    for option, name in (("--names", "names.yaml"), ("--policy", "policy.py")):
        if arguments.get(option, "none.py") != "none.py":
            (place / name).write_text(arguments[option])
            arguments[option] = name
    code, said = collect(*(part for pair in arguments.items() for part in pair), env=env)
    assert (code, message in " ".join(said.split())) == (2, True), said
