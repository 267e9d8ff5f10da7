"""Whole runs: the same bytes whoever runs them, resumed after kill -9, through crashes, hangs and broken files."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import retrodict
from retrodict.cli import app
from retrodict.progress import EventProgress
from retrodict.report.mining import in_words
from retrodict.transitions import read_rows
from retrodict.video import ClipRef, MineConfig, mine
from retrodict.video.executors import Worker
from retrodict.video.mining import clip_progress, with_images

CONFIG = MineConfig(min_gap=4, frames_per_clip=4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """24 short clips of drifting noise in three folders, one still, one empty, and one that is a text."""
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for number in range(24):
        folder = root / ["", "run", "jump"][number % 3]
        folder.mkdir(exist_ok=True)
        image = np.kron(rng.integers(0, 255, (8, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        with av.open(str(folder / f"clip{number:02d}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height = 96, 64
            for step in range(24):
                moved = image if number == 5 else np.roll(image, step * (1 + number % 4) // 4, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
            container.mux(stream.encode())
    (root / "empty.mkv").touch()
    (root / "run" / "notes.mp4").write_text("not a video\n")
    return root


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def expected(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "out"
    mine(videos, out, CONFIG, executor_name="serial", shard_clips=5)
    return contents(out)


def test_pairs_load_as_images_and_carry_where_they_come_from(videos, tmp_path):
    out = tmp_path / "out"
    result = mine(videos, out, CONFIG, workers=2)
    assert result.clips == 26 and result.dropped == {"empty": 1, "static": 1, "unreadable": 1}
    rows = read_rows(out)
    assert len(rows) == result.pairs == 69 and len({row.id for row in rows}) == 69
    assert {row.category for row in rows} == {"", "run", "jump"}
    row = rows[-1]
    assert row.source_image.size == (96, 64)
    assert row.group == row.clip == "run/clip22.mp4" and len(row.clip_sha256) == 64
    assert row.provenance["pts"] == [512 * row.frame_source, 512 * row.frame_target]
    assert row.provenance["time_base"] == "1/12800" and row.t_target == row.frame_target / 25
    assert row.provenance["config"] == CONFIG.digest() and "av" in row.provenance["versions"]
    ledger = [json.loads(line) for line in (out / "clips.jsonl").read_text().splitlines()]
    assert len({clip["clip"] for clip in ledger}) == 26 and sum(clip["pairs"] for clip in ledger) == 69
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "parquet", data_files=str(out / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(loaded.features["source"], datasets.Image) and loaded[0]["target"].size == (96, 64)


def test_the_same_bytes_from_every_executor(videos, expected, tmp_path):
    for workers in (1, 3):
        mine(videos, tmp_path / str(workers), CONFIG, workers=workers, shard_clips=5)
        assert contents(tmp_path / str(workers)) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray warns of its own settings
def test_the_same_bytes_from_ray(videos, expected, tmp_path):
    pytest.importorskip("ray")
    told = []
    mine(videos, tmp_path / "out", CONFIG, executor_name="ray", workers=1, shard_clips=5, progress=told.append)
    assert contents(tmp_path / "out") == expected
    assert [clip["done"] for clip in told] == list(range(1, 27)) and {clip["total"] for clip in told} == {26}


def test_a_long_video_is_cut_into_windows_that_resume(videos, tmp_path):
    """Its windows give what they hold, all of one group, and none is left over when the file gets shorter."""
    folder, out = tmp_path / "long", tmp_path / "out"
    folder.mkdir()
    clip = next(path for path in sorted(videos.rglob("*.mp4")))
    with av.open(str(clip)) as source:
        length = source.duration / av.time_base
    shutil.copy(clip, folder / "a.mp4")
    config = replace(CONFIG, segment=f"{length / 3:.3f}s")
    whole = mine(folder, out, config, executor_name="serial")
    rows = list(read_rows(out))
    assert whole.clips == 3 and {row.group for row in rows} == {"a.mp4"}
    assert sorted({row.clip for row in rows}) == [f"a.mp4#0000{i}" for i in range(3)]
    for row in rows:
        start, stop = row.provenance["segment"]
        assert start - 0.1 <= row.t_source < row.t_target < (stop or length)
    assert list(with_images(rows, folder)) and mine(folder, out, config, executor_name="serial").resumed == 3
    with av.open(str(folder / "a.mp4"), "w") as container:  # half as long now
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 96, 64
        for step in range(12):
            frame = np.roll(np.kron(np.arange(96).reshape(8, 12, 1) * 2, np.ones((8, 8, 3))), step, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert mine(folder, out, config, executor_name="serial").clips == 2
    assert {row.clip for row in read_rows(out)} <= {"a.mp4#00000", "a.mp4#00001"}


def test_some_clips_are_the_first_by_name_or_a_sample_that_a_seed_fixes(videos, tmp_path):
    every = sorted(path.relative_to(videos).as_posix() for path in videos.rglob("*.m*"))

    def chosen(out, *options):
        settings = ["--min-gap", "4", "--frames-per-clip", "2", "--executor", "serial", "--quiet"]
        result = CliRunner().invoke(app, ["mine", str(videos), "--out", str(tmp_path / out), *settings, *options])
        assert result.exit_code == 0, result.output
        return [json.loads(line)["clip"] for line in (tmp_path / out / "clips.jsonl").read_text().splitlines()]

    assert chosen("first", "--limit", "3") == every[:3]
    sample = chosen("sample", "--sample", "4")
    assert len(sample) == 4 and sample == sorted(sample) != every[:4]
    assert chosen("again", "--sample", "4") == sample != chosen("other", "--sample", "4", "--seed", "1")
    assert set(sample) < set(chosen("more", "--sample", "9")), "a larger sample holds the smaller one"
    assert chosen("all", "--sample", "99") == chosen("sample", "--limit", "99") == every
    assert len(chosen("both", "--sample", "4", "--limit", "2")) == 2


def copied(path, out, scale, quality):
    """A clip encoded anew, smaller and worse."""
    with av.open(str(path)) as container, av.open(str(out), "w") as made:
        source = container.streams.video[0]
        stream = made.add_stream("libx264", rate=source.average_rate)
        stream.width, stream.height = (int(side * scale) // 2 * 2 for side in (source.width, source.height))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": str(quality), "preset": "ultrafast"}
        for frame in container.decode(source):
            made.mux(stream.encode(frame.reformat(stream.width, stream.height, "yuv420p")))
        made.mux(stream.encode())


def same_as(out):
    return {name: clip["same_as"] for name, clip in ledger(out).items() if "same_as" in clip}


def test_clips_that_show_the_same_are_found_and_can_be_left_out(shared_data, tmp_path):
    """Copies under other names, smaller and worse; and no two takes of one scene by one camera that stands still."""
    clips = shared_data / "clips"
    (tmp_path / "videos").mkdir()
    for name in ("asl_book.mkv", "asl_eat.mkv", "asl_walk.mkv", "asl_want.mkv", "ucf101_Archery.avi"):
        shutil.copy(clips / name, tmp_path / "videos" / name)
    shutil.copy(clips / "asl_eat.mkv", tmp_path / "videos" / "b.mkv")
    copied(clips / "ucf101_Archery.avi", tmp_path / "videos" / "zz.mp4", 0.6, 33)
    same = {"b.mkv": "asl_eat.mkv", "zz.mp4": "ucf101_Archery.avi"}

    kept = mine(tmp_path / "videos", tmp_path / "kept", CONFIG, executor_name="serial")
    assert same_as(tmp_path / "kept") == same
    assert kept.near_duplicates == 2 and {row.clip for row in read_rows(tmp_path / "kept")} >= set(same)

    config = replace(CONFIG, near_duplicates="drop")
    dropped = mine(tmp_path / "videos", tmp_path / "dropped", config, executor_name="serial", shard_clips=3)
    assert dropped.dropped == {"near_duplicate": 2} and dropped.near_duplicates == 2
    assert {row.clip for row in read_rows(tmp_path / "dropped")} == {clip.name for clip in clips.glob("asl_*")} | {
        "ucf101_Archery.avi"
    }
    once = contents(tmp_path / "dropped")
    assert mine(tmp_path / "videos", tmp_path / "dropped", config, executor_name="serial").resumed == 7
    assert contents(tmp_path / "dropped") == once
    shutil.copy(clips / "asl_book.mkv", tmp_path / "videos" / "asl_eat.mkv")  # so that b.mkv is alone again
    mine(tmp_path / "videos", tmp_path / "dropped", config, executor_name="serial")
    assert same_as(tmp_path / "dropped") == {"asl_eat.mkv": "asl_book.mkv", "zz.mp4": "ucf101_Archery.avi"}
    assert "b.mkv" in {row.clip for row in read_rows(tmp_path / "dropped")}


def test_images_that_were_left_out_are_decoded_on_demand(videos, expected, tmp_path):
    mine(videos, tmp_path / "with", CONFIG, executor_name="serial")
    mine(videos, tmp_path / "without", MineConfig(min_gap=4, frames_per_clip=4, frames=False), executor_name="serial")
    bare = read_rows(tmp_path / "without")
    assert bare[0].source is None
    restored = list(with_images(bare, videos))
    assert [(r.source, r.target) for r in restored] == [(r.source, r.target) for r in read_rows(tmp_path / "with")]


def start(videos, out):
    code = (
        "from pathlib import Path; from retrodict.video import mine, MineConfig; import sys; "
        "mine(Path(sys.argv[1]), Path(sys.argv[2]), MineConfig(min_gap=4, frames_per_clip=4), workers=2, shard_clips=5)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(retrodict.__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", code, str(videos), str(out)], env=environment)


@pytest.mark.slow
def test_kill_9_of_the_run_loses_nothing_and_repeats_nothing(videos, expected, tmp_path):
    out = tmp_path / "out"

    def finished():
        return {path: path.stat().st_mtime_ns for path in out.glob("pairs-*.parquet")}

    for _ in range(2):
        before, run = len(finished()), start(videos, out)
        while run.poll() is None and len(finished()) == before:
            time.sleep(0.01)
        run.kill()
        run.wait()
    there = finished()
    assert there
    assert start(videos, out).wait() == 0
    assert contents(out) == expected
    assert there.items() <= finished().items()


def children():
    """Process ids of the workers of this process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            command = stat.with_name("cmdline").read_bytes()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == os.getpid() and b"retrodict.video.worker" in command:
            found.append(int(stat.parent.name))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_killed_or_hangs_is_replaced(videos, expected, tmp_path, blow):
    """SIGSTOP stands for a hang: the worker is there, but makes no progress."""
    seen = []

    def strike(clip):
        seen.append(clip)
        if len(seen) in (4, 11):
            for worker in children()[:1]:
                os.kill(worker, blow)

    out = tmp_path / "out"
    patience = 60.0 if blow == signal.SIGKILL else 8.0  # a busy machine must not look like a hang
    mine(videos, out, CONFIG, workers=2, shard_clips=5, timeout=patience, progress=strike)
    assert contents(out) == expected
    assert len(seen) == 26 and not children()


BUSY_MACHINE = """
import time
from dataclasses import replace
for _ in range(40):  # it runs, but little, as on a machine that has much else to do
    busy = time.process_time() + 0.01
    while time.process_time() < busy:
        pass
    time.sleep(0.03)
print("done", flush=True)
"""


def test_a_worker_that_hardly_runs_does_not_hang():
    worker = Worker(CONFIG, timeout=0.8)
    process = subprocess.Popen([sys.executable, "-c", BUSY_MACHINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    began = time.monotonic()
    worker._wait(process, process.stdout.fileno())
    assert time.monotonic() - began > 0.8
    assert process.communicate()[0] == b"done\n"


def test_a_clip_that_always_crashes_its_worker_is_given_up(videos, tmp_path, monkeypatch):
    """A codec that dies on one clip, put into the worker by a start-up file of its Python."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, av\n"
        "real = av.open\n"
        "def opened(name, *rest, **more):\n"
        "    if 'clip03' in name: os.abort()\n"
        "    return real(name, *rest, **more)\n"
        "av.open = opened\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "out"
    result = mine(videos, out, CONFIG, workers=2, retries=1)
    assert result.clips == 26 and result.dropped["crashed"] == 1 and result.pairs == 66
    crashed = next(
        c for c in map(json.loads, (out / "clips.jsonl").read_text().splitlines()) if c["reason"] == "crashed"
    )
    assert crashed["clip"] == "clip03.mp4" and "signal 6; tried 2 times" in crashed["detail"]


def mutate(data, rng):
    data = bytearray(data)
    how = rng.choice(["flip", "cut", "both", "zero"])
    if how in ("flip", "both"):
        for _ in range(rng.choice([1, 20, 400])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    if how == "zero":
        begin = rng.randrange(len(data))
        data[begin : begin + 3000] = bytes(len(data[begin : begin + 3000]))
    return bytes(data[: rng.randrange(len(data))] if how in ("cut", "both") else data)


def test_broken_copies_are_all_accounted_for(shared_data, videos, tmp_path):
    rng = random.Random(3)
    names = ["asl_eat.mkv", "ucf101_Archery.avi", "dog_snow_5fps.mp4", "edge_h265.mp4", "edge_av1.mkv"]
    sources = [shared_data / "clips" / name for name in names]
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(30):
        source = rng.choice(sources)
        (folder / f"{number:02d}{source.suffix}").write_bytes(mutate(source.read_bytes(), rng))
    result = mine(folder, tmp_path / "out", MineConfig(min_gap=4), workers=2, timeout=20)
    assert result.clips == 30 and not {"crashed", "hung"} & result.dropped.keys()
    assert sum(result.dropped.values()) < 30


def test_a_second_run_does_only_what_is_new(videos, tmp_path):
    folder, out = tmp_path / "videos", tmp_path / "out"
    shutil.copytree(videos / "run", folder)
    first = mine(folder, out, CONFIG, executor_name="serial")
    shutil.copy(videos / "jump" / "clip02.mp4", folder / "a-new-one.mp4")
    seen = []
    second = mine(folder, out, CONFIG, executor_name="serial", progress=seen.append)
    assert [clip["clip"] for clip in seen] == ["a-new-one.mp4"]
    assert (second.resumed, second.clips, second.pairs) == (first.clips, first.clips + 1, first.pairs + 3)
    with pytest.raises(ValueError, match="holds a run with frames_per_clip 4 and not 6"):
        mine(folder, out, MineConfig(min_gap=5))


def test_what_the_user_can_fix_is_said_in_one_line(videos, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    cases = [
        (tmp_path / "nowhere", tmp_path / "out", "does not exist"),
        (Path("s3://bucket/videos"), tmp_path / "out", "s3://bucket/videos is an address"),
        (tmp_path / "bare", tmp_path / "out", "holds no video"),
        (videos, tmp_path / "full", "not empty"),
        (videos, videos / "empty.mkv", "is a file"),
        ([], tmp_path / "out", "No video was given"),
        ([ClipRef(path=videos, name="x")] * 2, tmp_path / "out", "unique"),
    ]
    for given, out, message in cases:
        with pytest.raises(ValueError, match=message) as raised:
            mine(given, out)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_names_of_strangers_are_escaped_and_the_page_stands_alone(videos, tmp_path):
    folder = tmp_path / "<script>alert(1)<"
    folder.mkdir()
    shutil.copy(videos / "clip00.mp4", folder / "<b>&.mp4")
    (folder / "<i>.mp4").touch()
    retrodict.mine(tmp_path, tmp_path / "out", CONFIG, executor_name="serial")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "&lt;b&gt;&amp;.mp4" in page and "&lt;i&gt;.mp4" in page
    assert "<script" not in page and "<b>" not in page and "http" not in page
    assert page.count("data:image/jpeg;base64,") == 6
    assert "<h3>The file is empty: 1</h3>" in page and '&lt;i&gt;.mp4 <a href="clips.jsonl">line 2</a>' in page
    assert (
        "<p>Up to 4 frames of each clip are kept, 4 frames apart or more: as many as fit, then the most motion." in page
    )


def test_settings_are_said_in_words():
    plain = in_words(MineConfig())
    assert plain[0].endswith(
        "of each clip are kept, 20 frames apart or more: as many as fit, then the most motion. Motion is optical flow."
    )
    assert plain[1:3] == [
        "Each was moved by at most 0.3 s to where it is sharp, or to where an action rests.",
        "No pair joins two shots.",
    ]
    other = MineConfig(
        min_gap="0.8s", segment="10s/5s", selection="paper", motion="reference", cuts=False, frames=False
    )
    said = " ".join(in_words(other))
    for words in (
        "each window are kept, 0.8 s apart",
        "greedily, as in the paper",
        "Cuts were not",
        "one every 5 s",
        "No images",
    ):
        assert words in said
    assert "of each shot" in in_words(MineConfig(segment="shot"))[0]


def test_progress_tells_speed_pairs_and_failures(videos, tmp_path):
    events = []
    progress = EventProgress(events.append)
    clock = iter(range(100))
    mine(
        videos, tmp_path / "out", CONFIG, executor_name="serial", progress=clip_progress(progress, lambda: next(clock))
    )
    assert (events[-1]["done"], events[-1]["total"]) == (26, 26)
    assert events[-1]["note"] == "1.0 clips/s · 1 video-s/s · 69 pairs · 3 clips without"


def ledger(out):
    return {clip["clip"]: clip for clip in map(json.loads, (out / "clips.jsonl").read_text().splitlines())}


def test_what_changed_or_arrived_is_mined_anew_and_nothing_else(videos, tmp_path):
    folder, out, seen = tmp_path / "in", tmp_path / "out", []
    shutil.copytree(videos / "run", folder)
    whole = (folder / "clip04.mp4").read_bytes()
    (folder / "clip04.mp4").write_bytes(whole[: len(whole) // 2])  # half downloaded

    def again(**options):
        seen.clear()
        run = mine(folder, out, CONFIG, executor_name="serial", progress=seen.append, shard_clips=3, **options)
        assert run.pairs == len(rows := read_rows(out)) == len({row.id for row in rows})
        return run, [clip["clip"] for clip in seen]

    first, _ = again()
    assert first.dropped == {"unreadable": 2} and ledger(out)["clip04.mp4"]["reason"] == "unreadable"
    assert again()[1] == []
    (folder / "clip04.mp4").write_bytes(whole)
    run, mined = again()
    assert mined == ["clip04.mp4"] and run.pairs == first.pairs + 3 and run.dropped == {"unreadable": 1}
    (folder / "clip07.mp4").touch()  # another time, the same bytes
    assert again()[1] == []
    shutil.copy(folder / "clip10.mp4", folder / "clip07.mp4")
    run, mined = again()
    assert mined == ["clip07.mp4"] and ledger(out)["clip07.mp4"]["sha256"] == ledger(out)["clip10.mp4"]["sha256"]
    (folder / "clip07.mp4").unlink()  # what was made of it stays
    assert again()[0].pairs == run.pairs
    assert again(retry_failed=True)[1] == ["notes.mp4"]


def test_folders_that_are_hidden_or_closed_stop_nothing(videos, tmp_path, monkeypatch):
    for name in (".ipynb_checkpoints", "@eaDir", "ok", "lost+found"):
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(videos / "clip00.mp4", tmp_path / "in" / name)
    real = os.scandir

    def scandir(path):
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = mine(tmp_path / "in", tmp_path / "out", CONFIG, executor_name="serial")
    assert (result.clips, result.dropped) == (2, {"unreadable": 1})
    assert ledger(tmp_path / "out")["lost+found"]["detail"] == "the folder cannot be opened"


def test_mining_where_the_system_does_not_count_usable_cores(videos, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert mine(videos / "clip00.mp4", tmp_path / "out", CONFIG).pairs == 3


def test_any_file_name_and_linked_folders_are_mined(videos, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "more").symlink_to(videos / "run", target_is_directory=True)
    (folder / "round").symlink_to(folder, target_is_directory=True)
    shutil.copy(videos / "clip00.mp4", os.fsencode(folder) + b"/bad\xff.mp4")
    mine(folder, tmp_path / "out", CONFIG, workers=1)
    names = [json.loads(line)["clip"] for line in (tmp_path / "out" / "clips.jsonl").read_text().splitlines()]
    assert names[0] == "bad\\xff.mp4" and len(names) == 1 + len(list((videos / "run").iterdir()))
    assert all(name.startswith("more/") for name in names[1:])


def test_two_runs_do_not_share_an_output(videos, tmp_path):
    out = tmp_path / "out"
    failures = []

    def intrude(clip):
        if not failures:
            with pytest.raises(ValueError, match="Another run") as raised:
                mine(videos, out, CONFIG, executor_name="serial")
            failures.append(raised.value)

    mine(videos, out, CONFIG, executor_name="serial", progress=intrude)
    assert len(failures) == 1 and threading.active_count() < 20


def test_shard_footers_hold_the_ledger(videos, tmp_path):
    mine(videos, tmp_path / "out", CONFIG, executor_name="serial", shard_clips=10)
    files = sorted((tmp_path / "out").glob("*.parquet"))
    ledgers = [json.loads(pq.read_metadata(file).metadata[b"retrodict.clips"]) for file in files]
    assert [len(ledger) for ledger in ledgers] == [10, 10, 6]
