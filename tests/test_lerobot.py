"""LeRobot data sets, of both versions: read by folder and by hub id, and written back with annotated subtasks."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub import hub_with, online
from loop_data import counting_video, number_on
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.data import export_lerobot, labelled_clips, read_clips, transitions
from retrodict.data.lerobot import lerobot
from retrodict.transitions import Transition, write_rows
from retrodict.transitions import read_transitions as read_written


def lerobot_set(root, subtasks):
    """Two episodes of 30 and 20 frames in one video file, as LeRobotDataset v3 lays them out."""
    counting_video(root / "videos" / "cam" / "chunk-000" / "file-000.mp4", 50)
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (root / "data" / "chunk-000").mkdir(parents=True)
    features = {"cam": {"dtype": "video"}, "depth": {"dtype": "video", "info": {"video.is_depth_map": True}}}
    if subtasks:
        features["language_persistent"] = {"dtype": "language"}
    info = {
        "codebase_version": "v3.0",
        "fps": 10,
        "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta" / "info.json").write_text(json.dumps(info))
    episodes = [
        {
            "episode_index": number,
            "tasks": [task],
            "length": round(10 * (end - begin)),
            "data/chunk_index": 0,
            "data/file_index": 0,
            "videos/cam/chunk_index": 0,
            "videos/cam/file_index": 0,
            "videos/cam/from_timestamp": begin,
            "videos/cam/to_timestamp": end,
        }
        for number, (task, begin, end) in enumerate([("fold the cloth", 0.0, 3.0), ("stack the cups", 3.0, 5.0)])
    ]
    pq.write_table(pa.Table.from_pylist(episodes), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    spans = [
        {"role": "assistant", "content": text, "style": style, "timestamp": at, "camera": None}
        for text, style, at in [
            ("grasp the corner", "subtask", 0.0),
            ("fold it over", "subtask", 1.2),
            ("x", "plan", 0.0),
        ]
    ]
    rows = [{"episode_index": int(n >= 30), "language_persistent": spans if n < 30 else []} for n in range(50)]
    pq.write_table(pa.Table.from_pylist(rows), root / "data" / "chunk-000" / "file-000.parquet")


@pytest.mark.parametrize("subtasks", [True, False])
def test_lerobot_subtasks_else_tasks(tmp_path, subtasks):
    lerobot_set(tmp_path, subtasks)
    rows = list(transitions(labelled_clips("lerobot", tmp_path), Counter()))
    ends = [(row.action, number_on(row.source_image), number_on(row.target_image)) for row in rows]
    whole = [("fold the cloth", 0, 29)]
    parts = [("grasp the corner", 0, 11), ("fold it over", 12, 29)]
    assert ends == (parts if subtasks else whole) + [("stack the cups", 30, 49)]
    assert {row.group for row in rows} == {"episode-000000", "episode-000001"}
    assert rows[0].category == "fold the cloth"


def test_lerobot_cameras_are_chosen_and_may_be_several(tmp_path):
    lerobot_set(tmp_path, True)
    counting_video(tmp_path / "videos" / "wrist" / "chunk-000" / "file-000.mp4", 50)
    info = json.loads((tmp_path / "meta" / "info.json").read_text())
    info["features"]["wrist"] = {"dtype": "video"}
    (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
    file = tmp_path / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    rows = pq.read_table(file).to_pylist()
    wrist = [{k.replace("/cam/", "/wrist/"): v for k, v in row.items() if "/cam/" in k} for row in rows]
    pq.write_table(pa.Table.from_pylist([a | b for a, b in zip(rows, wrist, strict=True)]), file)
    names = ["episode-000000/000", "episode-000000/001", "episode-000001"]
    assert [ref.name for ref in read_clips("lerobot", tmp_path)] == names
    (ref, *_) = read_clips("lerobot", tmp_path, cameras=["wrist"])
    assert ref.name == names[0] and "wrist" in ref.path.parts and ref.meta["camera"] == "wrist"
    both = read_clips("lerobot", tmp_path, cameras=["wrist", "cam"])
    assert [ref.name for ref in both] == [f"{camera}/{name}" for camera in ("wrist", "cam") for name in names]
    assert len({ref.group for ref in both}) == 2
    with pytest.raises(ValueError, match="has no camera 'top': choose of cam, wrist"):
        read_clips("lerobot", tmp_path, cameras=["top"])
    with pytest.raises(ValueError, match=r"--camera is for layouts with several \(lerobot\)"):
        read_clips("ucf101", tmp_path, cameras=["top"])


def test_annotated_pairs_become_subtasks_that_lerobot_reads(tmp_path):
    """Pairs of two episodes; a less sure one that overlaps another; a plan that stays; old subtasks, which go."""
    lerobot_set(tmp_path / "set", True)
    file = tmp_path / "set" / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(file)
    times = pa.array([n / 10 if n < 30 else (n - 30) / 10 for n in range(50)], pa.float32())
    pq.write_table(table.append_column("timestamp", times), file)
    before = file.read_bytes()

    def pair(name, start, stop, action, logprob, episode):
        return Transition(
            id=name,
            t_source=start,
            t_target=stop,
            action=action,
            action_source="idm",
            logprob=logprob,
            tokens=2,
            provenance={"camera": "cam", "episode": episode},
        )

    rows = [
        pair("a", 0.5, 1.0, "lift it", -0.2, 0),
        pair("b", 0.8, 1.5, "drop it", -2.0, 0),
        pair("c", 2.0, 2.5, "turn it", -0.4, 0),
        pair("d", 3.5, 4.0, "push it", -1.0, 1),  # half a second into the second episode
    ]
    write_rows(tmp_path / "labelled" / "rows.parquet", rows)
    command = ["export", str(tmp_path / "labelled"), str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "3 subtasks; dropped: 1 overlapping" in result.output, result.output
    assert file.read_bytes() == before

    out = pq.read_table(tmp_path / "out" / "data" / "chunk-000" / "file-000.parquet")
    cells = out["language_persistent"].to_pylist()
    said = [[(row["style"], row["content"], round(row["timestamp"], 3)) for row in cell] for cell in cells]
    assert said[:30] == [[("plan", "x", 0.0), ("subtask", "lift it", 0.5), ("subtask", "turn it", 2.0)]] * 30
    assert said[30:] == [[("subtask", "push it", 0.5)]] * 20
    confidence = out["subtask_confidence"].to_numpy()
    assert [round(float(confidence[n]), 3) for n in (4, 5, 10, 11, 20, 25, 26, 35, 41)] == [
        0,
        0.905,
        0.905,
        0,
        0.819,
        0.819,
        0,
        0.607,
        0,
    ]
    features = json.loads((tmp_path / "out" / "meta" / "info.json").read_text())["features"]
    assert features["language_persistent"]["dtype"] == features["language_events"]["dtype"] == "language"
    clips = [(clip.ref.start, clip.ref.stop, clip.action) for clip in lerobot(tmp_path / "out")]
    assert clips == [(0.5, 2.0, "lift it"), (2.0, 3.0, "turn it"), (3.5, 5.0, "push it")]
    assert CliRunner().invoke(app, command).exit_code == 0, "the same again changes nothing"

    datasets = pytest.importorskip("datasets")
    text = datasets.Value("string")
    language = {"role": text, "content": text, "style": text, "timestamp": datasets.Value("float32"), "camera": text}
    language["tool_calls"] = datasets.List(datasets.Json())  # as lerobot 0.6 declares it
    events = {name: kind for name, kind in language.items() if name != "timestamp"}
    loaded = datasets.Dataset.from_parquet(
        [str(tmp_path / "out" / "data" / "chunk-000" / "file-000.parquet")],
        features=datasets.Features(
            {
                "episode_index": datasets.Value("int64"),
                "language_persistent": datasets.List(language),
                "timestamp": datasets.Value("float32"),
                "subtask_confidence": datasets.Value("float32"),
                "language_events": datasets.List(events),
            }
        ),
        cache_dir=str(tmp_path / "cache"),
    )
    assert [row["content"] for row in loaded[40]["language_persistent"]] == ["push it"]

    write_rows(tmp_path / "labelled" / "rows.parquet", [replace(rows[0], provenance={"camera": "top", "episode": 0})])
    with pytest.raises(ValueError, match="a is no labelled pair of"):
        export_lerobot(tmp_path / "labelled", tmp_path / "set", tmp_path / "other")


def test_lerobot_v2_has_a_file_for_each_episode(tmp_path):
    (tmp_path / "meta").mkdir()
    info = {
        "codebase_version": "v2.1",
        "fps": 10,
        "chunks_size": 1,
        "features": {"cam": {"dtype": "video"}},
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
    episodes = [{"episode_index": n, "tasks": [f"task {n}"], "length": 20 + n} for n in range(2)]
    (tmp_path / "meta" / "episodes.jsonl").write_text("\n".join(map(json.dumps, episodes)) + "\n")
    for n in range(2):
        counting_video(tmp_path / "videos" / f"chunk-{n:03d}" / "cam" / f"episode_{n:06d}.mp4", 20 + n)
    rows = list(transitions(labelled_clips("lerobot", tmp_path), Counter()))
    assert [(row.action, row.group, number_on(row.target_image)) for row in rows] == [
        ("task 0", "episode-000000", 19),
        ("task 1", "episode-000001", 20),
    ]


def test_lerobot_by_hub_id(tmp_path):
    """As `pip` users get it: nothing is downloaded before, and the same command reads its cache."""
    lerobot_set(tmp_path / "set", False)
    files = {str(file.relative_to(tmp_path / "set")): file.read_bytes() for file in (tmp_path / "set").rglob("*.*")}
    command = ("import", "lerobot", "some/set", "--out", "labelled", "--quiet")
    with hub_with("some/set", files | {"README.md": b"never wanted"}, kind="dataset") as (address, fetched):
        done = online(address, tmp_path, *command)
        assert done.returncode == 0, done.stderr
        assert sorted(fetched) == sorted(files)
        assert online(address, tmp_path, *command).returncode == 0
        assert len(fetched) == len(files)
        missing = online(address, tmp_path, "import", "lerobot", "no/such", "--out", "other")
    rows = [row.action for row in read_written(tmp_path / "labelled")]
    assert sorted(rows) == ["fold the cloth", "stack the cups"]
    assert missing.returncode == 2 and missing.stderr.startswith("retrodict: The data set 'no/such' is no folder here")
    assert missing.stderr.count("\n") == 1


def test_lerobot_templates_stay_inside(tmp_path):
    lerobot_set(tmp_path, False)
    info = tmp_path / "meta" / "info.json"
    info.write_text(info.read_text().replace("videos/{video_key}", "../{video_key}"))
    with pytest.raises(ValueError, match="not a path inside"):
        read_clips("lerobot", tmp_path)
