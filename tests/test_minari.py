"""Recorded episodes as transitions: data sets made by Minari's own collector, from environments of others."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.images import read_image
from retrodict.transitions import read_rows

pytest.importorskip("minari")
pytestmark = [  # of the library: it says where metadata is missing, and leaves the removal of folders to the collector
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "ResourceWarning")
]

STEPS = (0, 1, 2, 2, 6, 1, 2, 0, 0, 2)
WORDS = ("left", "right", "forward", "forward", "done", "right", "forward", "left", "left", "forward")


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Writes two episodes of MiniGrid where Minari keeps its data sets, with images or with the engine's codes."""
    import gymnasium
    import minari
    import minigrid  # noqa: F401  registers
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def record(stored):
        env = gymnasium.make("MiniGrid-Empty-5x5-v0", render_mode="rgb_array")
        frames, buffers = [], []
        for number, seed in enumerate((3, 4)):
            seen = [env.reset(seed=seed)[0]]
            shown = [env.render()]
            for action in STEPS:
                seen.append(env.step(action)[0])
                shown.append(env.render())
            image = shown if stored else [one["image"] for one in seen]
            ends = [False] * len(STEPS)
            buffers.append(
                EpisodeBuffer(
                    number, seed, None, {"image": image}, list(STEPS), [0.0] * len(STEPS), ends, [*ends[1:], True], {}
                )
            )
            frames.append(shown)
        view = gymnasium.spaces.Box(0, 255, shown[0].shape, np.uint8) if stored else env.observation_space["image"]
        minari.create_dataset_from_buffers(
            "grid/walk-v0", buffers, env, observation_space=gymnasium.spaces.Dict(image=view)
        )
        env.close()
        return frames

    return record


@pytest.mark.parametrize("stored", [False, True])
def test_the_steps_of_recorded_episodes(recorded, tmp_path, stored):
    frames = recorded(stored)
    result = CliRunner().invoke(app, ["import", "minari", "grid/walk-v0", "--out", str(tmp_path / "labelled"), "-q"])
    assert result.exit_code == 0, result.output
    rows = list(read_rows(tmp_path / "labelled"))
    changed = [
        (episode, step)
        for episode in range(2)
        for step in range(10)
        if not np.array_equal(*frames[episode][step : step + 2])
    ]
    assert [(row.provenance["episode"], row.provenance["step"]) for row in rows] == changed
    assert 12 < len(changed) < 20, "'done' changes nothing, nor does a step into a wall"
    assert [row.action for row in rows] == [WORDS[step] for _, step in changed]
    assert rows[0].group == "episode-000000" and rows[-1].group == "episode-000001"
    if not stored:  # what Minari stores are JPEGs
        np.testing.assert_array_equal(np.asarray(read_image(rows[-1].target)), frames[1][changed[-1][1] + 1])
    left_out = [json.loads(line) for line in (tmp_path / "labelled" / "left_out.jsonl").read_text().splitlines()]
    assert {entry["reason"] for entry in left_out} == {"nothing_changed"} and len(left_out) == 20 - len(changed)


def test_an_episode_counts_as_far_as_its_environment_answers_as_it_did(recorded, tmp_path):
    import h5py

    recorded(False)
    file = tmp_path / "minari" / "grid" / "walk-v0" / "data" / "main_data.hdf5"
    with h5py.File(file, "r+") as data:
        data["episode_1/observations/image"][4] = 9
    result = CliRunner().invoke(
        app, ["import", "minari", str(file.parents[1]), "--out", str(tmp_path / "labelled"), "-q"]
    )
    assert result.exit_code == 0, result.output
    rows = [row.provenance for row in read_rows(tmp_path / "labelled")]
    assert max(row["step"] for row in rows if row["episode"] == 1) == 2
    assert "not_reproduced" in (tmp_path / "labelled" / "left_out.jsonl").read_text()


def test_what_is_no_data_set_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "empty").mkdir()
    for data in (str(tmp_path / "empty"), "nobody"):
        result = CliRunner().invoke(app, ["import", "minari", data, "--out", str(tmp_path / "out")])
        assert result.exit_code == 2 and data in result.output, result.output
    result = CliRunner().invoke(app, ["mine", str(tmp_path / "empty"), "--layout", "minari", "--out", "x"])
    assert result.exit_code == 2
