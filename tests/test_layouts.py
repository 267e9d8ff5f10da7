"""Readers of published collections of videos, on their own annotation files and on clips put where those say."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest
from loop_data import counting_video, number_on
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.data import labelled_clips, read_clips, transitions
from retrodict.data.ssv2 import shows_action
from retrodict.transitions import read_rows
from retrodict.video import MineConfig, mine
from retrodict.video.mining import with_images


def place(source, *targets):
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


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
    (tmp_path / "list.csv").write_text("playing+fun/yt-abc_d_12.mp4,playing+fun,3,1\n../x.mp4,playing+fun,3,1\n")
    assert [clip.unusable for clip in read_clips("moments", tmp_path, tmp_path / "list.csv")] == ["", "bad_row"]


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


@pytest.mark.parametrize(("part", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-8"), (",", "utf-16")])
def test_lists_come_in_other_dialects(tmp_path, part, encoding):
    table = tmp_path / "list.csv"
    rows = [("label", "youtube_id", "time_start", "time_end"), ("abseiling", "AAAAAAAAAAA", "1", "11")]
    rows += [("abseiling", "BBBBBBBBBBB", "1", "5", "11")]  # 1,5 without quotation marks: what is what?
    table.write_text("".join(part.join(row) + "\r\n" for row in rows), encoding=encoding)
    clip, other = read_clips("kinetics700", tmp_path, table)
    assert other.unusable == "bad_row"
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


def test_a_bad_or_repeated_row_of_a_list_is_counted(shared_data, tmp_path):
    clip = "AAAAAAAAAAA_000001_000011.mkv"
    place(shared_data / "clips" / "asl_eat.mkv", tmp_path / "v" / clip)
    row = "label,youtube_id,time_start,time_end\neating,AAAAAAAAAAA,1,11\n"
    (tmp_path / "k.csv").write_text(row + "eating,AAAAAAAAAAA,1,11\neating,x,inf,1\neating,BBBBBBBBBBB,1,11\n")
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
    (tmp_path / "epic" / "EPIC_100_train.csv").write_text(
        header + times + times + "".join(times.replace("00:00:00.00", t) for t in ("1.5", "00:00:nan", "-1:00:00"))
    )
    result = CliRunner().invoke(app, ["import", "epic100", str(tmp_path / "epic"), "--out", str(tmp_path / "labelled")])
    assert "1 kept; dropped: 3 bad row, 1 repeated id\n" in result.output


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
