"""Readers of published layouts, on their own annotation files and on clips put where those say."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub import hub_with, online
from PIL import Image
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.data import (
    PRESETS,
    Columns,
    Item,
    UnusableError,
    export_lerobot,
    image_pairs,
    labelled_clips,
    read_clips,
    transitions,
    write_transitions,
)
from retrodict.data.files import inside
from retrodict.data.lerobot import lerobot
from retrodict.data.ssv2 import shows_action
from retrodict.transitions import Transition, read_rows, write_rows
from retrodict.transitions import read_transitions as read_written
from retrodict.video import MineConfig, mine
from retrodict.video.mining import with_images


@pytest.fixture(scope="session")
def annotations(shared_data):
    return shared_data / "annotations"


def place(source, *targets):
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def counting_video(path, frames, fps=10):
    """A video whose frame n tells n by the grey levels of its halves: sixteens on the left, ones on the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width = stream.height = 64
        stream.gop_size = 25
        for number in range(frames):
            image = np.full((64, 64, 3), 8 + 16 * (number // 16), np.uint8)
            image[:, 32:] = 8 + 16 * (number % 16)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def number_on(image):
    left, right = (float(half.mean()) for half in np.split(np.asarray(image), 2, axis=1))
    return 16 * round((left - 8) / 16) + round((right - 8) / 16)


def test_ucf101(shared_data, annotations, tmp_path):
    clip = shared_data / "clips" / "ucf101_Archery.avi"
    place(clip, *(tmp_path / "Archery" / f"v_Archery_g08_c0{n}.avi" for n in (1, 2)))
    clips = read_clips("ucf101", tmp_path)
    assert [(c.category, c.group) for c in clips] == [("Archery", "Archery_g08")] * 2
    listed = read_clips("ucf101", tmp_path, annotations / "ucf101_trainlist01.txt")
    assert len(listed) == len((annotations / "ucf101_trainlist01.txt").read_text().split("\n")) - 1
    assert {"ApplyEyeMakeup", "Archery"} <= {c.category for c in listed}
    found = mine([c for c in listed if "Archery_g08_c0" in c.name], tmp_path / "out", executor_name="serial")
    assert found.pairs == 10 and set(found.dropped) <= {"missing"}


def test_kinetics_with_and_without_its_list(shared_data, annotations, tmp_path):
    clip = shared_data / "clips" / "asl_eat.mkv"
    place(clip, tmp_path / "testifying" / "---QUuC4vJs_000084_000094.mp4")
    plain = read_clips("kinetics700", tmp_path)
    assert (plain[0].category, plain[0].group) == ("testifying", "---QUuC4vJs")
    listed = read_clips("kinetics700", tmp_path, annotations / "kinetics700_sample.csv")
    assert [c.category for c in listed] == ["testifying", "washing feet", "air drumming"]
    result = mine(listed, tmp_path / "out", executor_name="serial")
    assert (result.pairs, result.dropped) == (2, {"missing": 2})


def test_moments(shared_data, tmp_path):
    place(shared_data / "clips" / "asl_eat.mkv", tmp_path / "playing+fun" / "yt-abc_d_12.mp4")
    (tmp_path / "list.csv").write_text("playing+fun/yt-abc_d_12.mp4,playing+fun,3,1\n")
    for listed in (None, tmp_path / "list.csv"):
        (clip,) = read_clips("moments", tmp_path, listed)
        assert (clip.category, clip.group, clip.name) == ("playing fun", "yt-abc_d", "playing+fun/yt-abc_d_12.mp4")


def test_epic_segments_give_first_and_last_frame(annotations, tmp_path):
    counting_video(tmp_path / "P01" / "videos" / "P01_11.MP4", 120)
    table = annotations / "EPIC_100_validation_head50.csv"
    dropped = Counter()
    first, second, *_ = transitions(labelled_clips("epic100", tmp_path, table), dropped)
    assert (first.action, first.category, first.group) == ("take plate", "take", "P01")
    # 0 s to 1.89 s at 10 frames/s, then 1.56 s to 2.45 s.
    assert (number_on(first.source_image), number_on(first.target_image)) == (0, 18)
    assert (number_on(second.source_image), number_on(second.target_image)) == (second.frame_source, 24) == (16, 24)
    assert dropped.total() == 50 - 2 and set(dropped) <= {"undecodable", "missing", "too_short"}
    clips = read_clips("epic100", tmp_path, table)
    result = mine(
        clips[:2],
        tmp_path / "out",
        MineConfig(motion="fast", min_gap=3, cuts=False, frames=False),
        executor_name="serial",
    )
    assert result.clips == 2 and result.pairs > 0
    rows = list(with_images(read_rows(tmp_path / "out"), tmp_path))
    assert all(number_on(row.target_image) == row.frame_target for row in rows)


def unpacked(root, files):
    """A folder of empty files, or of those texts."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


KINETICS = "label,youtube_id,time_start,time_end,split\n"
EPIC = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,narration,verb,noun\n"


@pytest.mark.parametrize(
    ("layout", "annotations", "files", "expected"),
    [
        (
            "epic100",
            None,  # the download script's folder beside a clone of the annotations
            {
                "EPIC-KITCHENS/P01/videos/P01_01.MP4": "",
                "EPIC-KITCHENS/P01/rgb_frames/P01_01.tar": "",
                "epic-kitchens-100-annotations/EPIC_100_noun_classes.csv": "key,noun\n0,tap\n",
                "epic-kitchens-100-annotations/EPIC_100_train.csv": EPIC
                + "P01_01_0,P01,P01_01,00:00:00.14,00:00:03.37,open door,open,door\n",
            },
            [("P01_01_0", "EPIC-KITCHENS/P01/videos/P01_01.MP4", "open", "P01")],
        ),
        (
            "ssv2",
            None,  # labels.zip beside the joined archive of the videos
            {
                "20bn-something-something-v2/78687.webm": "",
                "labels/labels.json": '{"Holding something": "0"}',
                "labels/train.json": json.dumps(
                    [
                        {
                            "id": "78687",
                            "label": "moving cup up",
                            "template": "Moving [something] up",
                            "placeholders": ["cup"],
                        }
                    ]
                ),
                "labels/validation.json": "[]",
            },
            [("78687", "20bn-something-something-v2/78687.webm", "Moving something up", "78687")],
        ),
        (
            "kinetics700",
            "annotations",  # CVDF: classes of K700-2020 unpacked in train/, lists beside them
            {
                "train/abseiling/0347ZoDXyP0_000095_000105.mp4": "",
                "annotations/test.csv": "youtube_id,time_start,time_end,split\n",
                "annotations/train.csv": KINETICS + "abseiling,0347ZoDXyP0,95,105,train\n",
            },
            [
                (
                    "0347ZoDXyP0_000095_000105.mp4",
                    "train/abseiling/0347ZoDXyP0_000095_000105.mp4",
                    "abseiling",
                    "0347ZoDXyP0",
                )
            ],
        ),
        (
            "moments",
            "trainingSet.csv",
            {
                "training/clapping/yt-abc_3.mp4": "",
                "validation/clapping/yt-def_4.mp4": "",
                "moments_categories.txt": "clapping,0\n",
                "trainingSet.csv": "clapping/yt-abc_3.mp4,clapping,3,0\n",
            },
            [("training/clapping/yt-abc_3.mp4", "training/clapping/yt-abc_3.mp4", "clapping", "yt-abc")],
        ),
        (
            "ucf101",
            "ucfTrainTestlist/trainlist01.txt",
            {
                "UCF-101/Archery/v_Archery_g08_c01.avi": "",
                "UCF-101/Archery/v_Archery_g01_c01.avi": "",
                "ucfTrainTestlist/classInd.txt": "1 Archery\n",
                "ucfTrainTestlist/trainlist01.txt": "Archery/v_Archery_g08_c01.avi 1\n",
            },
            [
                (
                    "UCF-101/Archery/v_Archery_g08_c01.avi",
                    "UCF-101/Archery/v_Archery_g08_c01.avi",
                    "Archery",
                    "Archery_g08",
                )
            ],
        ),
    ],
)
def test_collections_as_their_official_downloads_unpack(tmp_path, layout, annotations, files, expected):
    unpacked(tmp_path, files)
    clips = read_clips(layout, tmp_path, annotations and tmp_path / annotations)
    found = [(clip.name, clip.path.relative_to(tmp_path).as_posix(), clip.category, clip.group) for clip in clips]
    assert found == expected and all(clip.path.is_file() for clip in clips)


def test_ssv2_leaves_out_what_two_frames_do_not_show(shared_data, annotations, tmp_path):
    labels = json.loads((annotations / "ssv2_labels_sample.json").read_text())
    shown = [item for item in labels if shows_action(item["label"])]
    assert 0 < len(shown) < len(labels)
    place(shared_data / "clips" / "asl_eat.mkv", tmp_path / "videos" / f"{shown[0]['id']}.webm")
    dropped = Counter()
    (row,) = transitions(labelled_clips("ssv2", tmp_path, annotations / "ssv2_labels_sample.json"), dropped)
    assert row.action == shown[0]["label"] and (row.frame_source, row.frame_target) == (0, 46)
    assert dropped == {"excluded_label": len(labels) - len(shown), "missing": len(shown) - 1}
    assert (
        "[" not in row.category
        and row.category.lower() == shown[0]["template"].replace("[", "").replace("]", "").lower()
    )


def test_aurora_words():
    assert not shows_action("Pretending to put a cup on a table") and not shows_action("a cup falls off the table")
    assert shows_action("pushing a cup so it almost falls off but doesn't") and shows_action("Closing a book")


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


@pytest.mark.parametrize(("part", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-8"), (",", "utf-16")])
def test_lists_come_in_other_dialects(tmp_path, part, encoding):
    table = tmp_path / "list.csv"
    rows = [("label", "youtube_id", "time_start", "time_end"), ("abseiling", "AAAAAAAAAAA", "1", "11")]
    table.write_text("".join(part.join(row) + "\r\n" for row in rows), encoding=encoding)
    (clip,) = read_clips("kinetics700", tmp_path, table)
    assert (clip.name, clip.category) == ("AAAAAAAAAAA_000001_000011.mp4", "abseiling")


def test_labels_with_placeholders_are_filled_or_counted_and_hidden_folders_left_out(tmp_path):
    counting_video(tmp_path / ".trash" / "1.mp4", 5)
    for number in (1, 2):
        counting_video(tmp_path / "videos" / f"{number}.mp4", 5)
    label = "Putting [something] on [something]"
    items = [{"id": 1, "label": label, "placeholders": ["a cup", r"the \d table"]}, {"id": 2, "label": label}]
    (tmp_path / "train.json").write_text(json.dumps(items))
    dropped = Counter()
    (row,) = transitions(labelled_clips("ssv2", tmp_path), dropped)
    assert (row.action, row.provenance["file"]) == (r"Putting a cup on the \d table", "videos/1.mp4")
    assert dropped == {"unfilled_label": 1}


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


@pytest.mark.parametrize("name", ["../x.mp4", "/etc/passwd", "a/../../x", "C:/x", "..\\x", "", "a\0b"])
def test_manifests_cannot_leave_their_folder(tmp_path, name):
    with pytest.raises(ValueError, match="not a path inside"):
        inside(tmp_path, name)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("/etc")
    with pytest.raises(ValueError, match="outside"):
        inside(tmp_path / "in", "link/passwd")


def image(level):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def test_aurora_json_with_its_own_columns_and_groups(annotations, tmp_path):
    groups = {}
    for name, file in [
        ("action-genome", "aurora_ag_train_sample.json"),
        ("aurora-magicbrush", "aurora_magicbrush_train_sample.json"),
    ]:
        rows = json.loads((annotations / file).read_text())
        for row in rows:
            for side in ("input", "output"):
                target = tmp_path / row[side]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(image(1))
        shutil.copy(annotations / file, tmp_path / file)
        made = list(transitions(image_pairs(tmp_path / file, PRESETS[name]), Counter()))
        assert [row.action for row in made] == [row["instruction"].strip() for row in rows]
        groups[name] = [row.group for row in made]
    where = tmp_path / "repository" / "data" / "ag" / "train.json"  # as it is published: paths start two folders above
    shutil.copytree(tmp_path / "data" / "ag" / "images", where.parent / "images")
    shutil.copy(annotations / "aurora_ag_train_sample.json", where)
    assert (
        len(list(transitions(image_pairs(where, PRESETS["action-genome"]), dropped := Counter()))) > 1 and not dropped
    )
    assert "1K0SU" in groups["action-genome"] and groups["aurora-magicbrush"].count("435242") >= 2


def test_rows_without_target_or_image_are_counted(annotations, tmp_path):
    rows = json.loads((annotations / "aurora_bench_test_sample.json").read_text())
    shutil.copy(annotations / "aurora_bench_test_sample.json", tmp_path / "test.json")
    with_target = [row for row in rows if "output" in row]
    for row in with_target[1:]:
        for side in ("input", "output"):
            (tmp_path / row[side]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / row[side]).write_bytes(image(3))
    (tmp_path / with_target[0]["input"]).unlink(missing_ok=True)
    dropped = write_transitions(image_pairs(tmp_path / "test.json"), tmp_path / "out", source={"file": "test.json"})
    kept = len(read_written(tmp_path / "out"))
    assert kept + dropped.total() == len(rows) and dropped["missing_image"] >= 1
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert counts == {"kept": kept, "dropped": dict(sorted(dropped.items()))}


def test_magicbrush_parquet_and_a_wrong_column(tmp_path):
    names = ["img_id", "source_img", "target_img", "instruction"]
    good = ["7", {"bytes": image(9), "path": "a.png"}, {"bytes": image(8), "path": None}, "add a hat"]
    bad = ["8", {"bytes": b"no image", "path": None}, None, "x"]
    rows = [dict(zip(names, row, strict=True)) for row in (good, bad)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    dropped = Counter()
    (row,) = transitions(image_pairs(tmp_path, PRESETS["magicbrush"]), dropped)
    assert (row.group, row.action, row.target) == ("7", "add a hat", image(8))
    assert dropped.total() == 1
    with pytest.raises(ValueError, match="no column 'text'"):
        list(image_pairs(tmp_path / "train.parquet", Columns(source="source_img", target="target_img", action="text")))


class Collection:
    """Items whose labels, files and order a test changes; `asked` says which were read."""

    def __init__(self, out):
        self.out, self.asked, self.labels, self.missing, self.stop = out, [], dict.fromkeys(range(7), "go"), {1}, None

    def item(self, number):
        def read():
            self.asked.append(number)
            if number == self.stop:
                raise KeyboardInterrupt
            if number in self.missing:
                raise UnusableError("missing")
            return Transition(id=str(number), source=image(number), target=image(9), action=self.labels[number])

        return Item(str(number), lambda: f"{number} {self.labels[number]} {number in self.missing}", read)

    def write(self, **source):
        self.asked.clear()
        return write_transitions([self.item(n) for n in self.labels], self.out, source={"a": 1} | source)

    def rows(self):
        return {row.id: row.action for row in read_written(self.out)}


def test_import_reads_what_is_new_or_changed_and_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr("retrodict.data.convert._ITEMS", 2)
    data = Collection(tmp_path / "out")
    data.stop = 5
    with pytest.raises(KeyboardInterrupt):
        data.write()
    data.stop = None
    assert (data.write(), data.asked) == ({"missing": 1}, [4, 5, 6])  # files that were complete are not read again
    assert list(data.rows()) == ["0", "2", "3", "4", "5", "6"]
    assert (data.write(), data.asked) == ({"missing": 1}, [])
    data.missing = set()  # a clip arrives,
    data.labels[3] = "corrected"  # a label is corrected,
    del data.labels[0]  # one is gone,
    data.labels = {8: "new", **data.labels}  # and one comes first
    assert (data.write(), data.asked) == ({}, [8, 1, 3])
    assert data.rows() == dict(zip("2456831", ["go"] * 4 + ["new", "corrected", "go"], strict=True))
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"] == {"kept": 7, "dropped": {}}
    with pytest.raises(ValueError, match="holds a run with a 1 and not 2"):
        data.write(a=2)
    data.missing = set(data.labels)  # the disk is not mounted
    with pytest.raises(ValueError, match="No transition could be read"):
        data.write()
    assert len(data.rows()) == 7


def test_of_several_items_with_one_id_the_first_counts(tmp_path):
    data = Collection(tmp_path / "out")
    for _ in range(2):
        dropped = write_transitions([data.item(n) for n in (0, 2, 0)], data.out, source={})
        assert dropped == {"repeated_id": 1} and list(data.rows()) == ["0", "2"]


def test_whole_paths_and_rows_that_lead_elsewhere(tmp_path):
    """A path outside costs its own row only, and `--images` takes whole paths that lie in it."""
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    (images / "a.png").write_bytes(image(1))
    paths = [str(images / "a.png"), "../images/a.png", "/etc/passwd", "a.png"]
    (tmp_path / "lists").mkdir()
    rows = "".join(json.dumps({"input": p, "output": p, "instruction": "go"}) + "\n" for p in paths)
    (tmp_path / "lists" / "pairs.jsonl").write_text(rows)
    command = ["import", "pairs", str(tmp_path / "lists" / "pairs.jsonl"), "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "1 missing_image, 3 outside_folder" in result.output
    assert "--images" in result.output and not out.exists()
    result = CliRunner().invoke(app, [*command, "--images", str(images)])
    assert "3 kept; dropped: 1 outside folder\n" in result.output


def test_a_bad_or_repeated_row_of_a_list_is_counted(shared_data, tmp_path):
    clip = "AAAAAAAAAAA_000001_000011.mkv"
    place(shared_data / "clips" / "asl_eat.mkv", tmp_path / "v" / clip)
    row = "label,youtube_id,time_start,time_end\neating,AAAAAAAAAAA,1,11\n"
    (tmp_path / "k.csv").write_text(row + "eating,AAAAAAAAAAA,1,11\n,,,\neating,BBBBBBBBBBB,1,11\n")
    arguments = ["mine", tmp_path / "v", "--layout", "kinetics700", "--annotations", tmp_path / "k.csv"]

    def run():
        result = CliRunner().invoke(app, [*map(str, arguments), "--out", str(tmp_path / "pairs"), "--quiet"])
        return result.output.splitlines()[0].partition(": ")[2]

    assert run() == "2 pairs from 4 clips; dropped: 1 repeated, 1 missing, 1 bad row"
    place(shared_data / "clips" / "asl_eat.mkv", tmp_path / "v" / "later" / "BBBBBBBBBBB_000001_000011.mkv")
    assert run() == "4 pairs from 4 clips; dropped: 1 repeated, 1 bad row"
    (tmp_path / "k.csv").write_text(row + "sleeping,BBBBBBBBBBB,1,11\n")
    assert run().startswith("4 pairs from")
    assert Counter(r.category for r in read_rows(tmp_path / "pairs")) == {"eating": 2, "sleeping": 2}
    header = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,narration,verb\n"
    times = "a,P01,P01_01,00:00:00.00,00:00:01.00,eat,eat\n"
    place(shared_data / "clips" / "asl_eat.mkv", tmp_path / "epic" / "P01_01.mkv")
    (tmp_path / "epic" / "EPIC_100_train.csv").write_text(header + times + times + times.replace("00:00:00.00", "1.5"))
    result = CliRunner().invoke(app, ["import", "epic100", str(tmp_path / "epic"), "--out", str(tmp_path / "labelled")])
    assert "1 kept; dropped: 1 bad row, 1 repeated id\n" in result.output


def test_import_on_the_command_line(tmp_path):
    rows = [{"before": f"{n}.png", "after": f"{n}.png", "text": "go" if n else ""} for n in range(3)]
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(image(n))
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [f"--column={ours}={theirs}" for ours, theirs in zip(("source", "target", "action"), rows[0], strict=True)]

    def run(*arguments):
        return CliRunner().invoke(app, ["import", *map(str, arguments)])

    result = run("pairs", tmp_path / "mine.jsonl", "--out", tmp_path / "out", *names)
    assert f"{tmp_path / 'out'}: 2 kept; dropped: 1 no action\n" in result.output
    assert [row.source for row in read_written(tmp_path / "out")] == [image(1), image(2)]
    for seed, chosen in (0, [1]), (3, [2]):  # row 0 has no action; which ones the seed takes depends on ids alone
        sample = ["--sample", "2", "--seed", seed]
        assert run("pairs", tmp_path / "mine.jsonl", "--out", tmp_path / f"s{seed}", *names, *sample).exit_code == 0
        assert [row.source for row in read_written(tmp_path / f"s{seed}")] == [image(n) for n in chosen]
    assert (
        run("pairs", tmp_path / "mine.jsonl", "--out", tmp_path / "other", *names, "--sample=1", "--limit=1").exit_code
        == 2
    )
    for arguments in (names[:1], ["--column=colour=red"], ["--annotations=x.csv"], ["--column=source="]):
        assert run("pairs", tmp_path / "mine.jsonl", "--out", tmp_path / "other", *arguments).exit_code == 2
    assert run("ssv2", tmp_path, "--images", tmp_path, "--out", tmp_path / "other").exit_code == 2
    assert not list(tmp_path.glob("other/*"))


def test_a_wrong_layout_says_what_it_looked_for(tmp_path):
    for layout, message in [
        ("epic100", "EPIC_100"),
        ("lerobot", "info.json"),
        ("imagenet", "choose one of"),
        ("folder", "names no"),
    ]:
        with pytest.raises(ValueError, match=message):
            labelled_clips(layout, tmp_path)
    (tmp_path / "EPIC_100_train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column 'narration_id'"):
        read_clips("epic100", tmp_path)
    assert Path(tmp_path).exists()
