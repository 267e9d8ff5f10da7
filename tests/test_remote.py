"""Data by address, against a real S3 server that is killed in the middle; and videos in packs."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import free_port
from pyarrow import fs
from typer.testing import CliRunner

from retrodict import remote
from retrodict.cli import app
from retrodict.models.protocol import Explanation, LogProb, Pair, image_of
from retrodict.video import MineConfig, mine
from retrodict.video.clips import folder_clips


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of drifting noise, of two classes."""
    root = tmp_path_factory.mktemp("data") / "videos"
    rng = np.random.default_rng(0)
    for number in range(8):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = np.kron(rng.integers(0, 255, (8, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        with av.open(str(folder / f"clip{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height = 96, 64
            for step in range(20):
                moved = np.roll(image, step * (1 + number % 4) // 4, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
            container.mux(stream.encode())
    return root


class Grey:
    """Names the brightness of the target."""

    asked = 0

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        Grey.asked += len(pairs)
        return [Explanation(f"grey {np.asarray(image_of(t)).mean():.0f}", LogProb(-1.0, 2)) for _, t in pairs]

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        return [LogProb(-1.0, 2) for _ in pairs]


SERVER = """
import sys, threading, urllib.request
from moto.server import ThreadedMotoServer
inside, port, again = sys.argv[1:]
ThreadedMotoServer("127.0.0.1", port=int(inside), verbose=False).start()
for step in ["replay-recording"] * int(again) + ["start-recording"]:  # what it held is there before it listens
    request = urllib.request.Request(f"http://127.0.0.1:{inside}/moto-api/recorder/{step}", method="POST")
    urllib.request.urlopen(request).close()
ThreadedMotoServer("127.0.0.1", port=int(port), verbose=False).start()
threading.Event().wait()
"""


class S3:
    """A server that can be killed; what it held comes back with it."""

    def __init__(self, folder: Path) -> None:
        self._ports = [free_port(), free_port()]
        self.url = f"http://127.0.0.1:{self._ports[1]}"
        self._log = folder / "requests.jsonl"
        self.start()

    def start(self, again: bool = False) -> None:
        command = [sys.executable, "-c", SERVER, *map(str, (*self._ports, int(again)))]
        recorded = {**os.environ, "MOTO_RECORDER_FILEPATH": str(self._log)}
        self.process = subprocess.Popen(
            command, env=recorded, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while True:
            assert time.monotonic() < until, "the server does not start"
            assert self.process.poll() is None, "the server ends"
            try:
                urllib.request.urlopen(f"{self.url}/moto-api/", timeout=30).close()
                return
            except OSError:
                time.sleep(0.05)

    def restart(self) -> None:
        self.process.kill()
        self.process.wait()
        time.sleep(0.3)
        self.start(again=True)


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        pytest.skip("no S3 server: pip install 'moto[server]'")
    server = S3(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setattr(remote, "EVERY", 0.05)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments), "-q"])
    assert done.exit_code == 0, done.output
    return done.output


def stages(root: str) -> None:
    run("mine", f"{root}/videos", "--out", f"{root}/pairs", "--min-gap", 4, "--shard-clips", 2, "--executor", "serial")
    run("annotate", f"{root}/pairs", "--model", "grey", "--out", f"{root}/labels")
    run("bench", "--bench", f"{root}/labels", "--model", "copy", "--verifier", "none", "--out", f"{root}/bench")


def files(folder: Path) -> dict[str, bytes]:
    """All but what tells when and where a run was."""
    apart = ("run.json", "results.json", "index.html", "report.html")
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found if path.name not in apart}


@pytest.mark.slow
def test_stages_on_a_store_that_dies_give_what_they_give_here(
    s3: S3, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrodict.bootstrap.annotate.load", lambda name, role: Grey())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store, _ = remote._open("s3", "bucket")
    urllib.request.urlopen(urllib.request.Request(f"{s3.url}/bucket", method="PUT"), timeout=30).close()
    for path in sorted(videos.rglob("*.mp4")):
        with store.open_output_stream(f"bucket/run/videos/{path.relative_to(videos).as_posix()}") as out:
            out.write(path.read_bytes())

    remote.Mirror("s3://bucket/run/videos").fetch()
    here = tmp_path / "here"
    shutil.copytree(tmp_path / "cache" / "retrodict" / "remote" / "s3" / "bucket" / "run", here)  # with its times
    stages(str(here))

    died = threading.Event()

    def kill_in_the_middle() -> None:
        """As soon as the first file of pairs has arrived."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            time.sleep(0.05)
            sent = store.get_file_info(fs.FileSelector("bucket/run/pairs", allow_not_found=True))
            if any(info.path.endswith(".parquet") for info in sent):
                s3.restart()
                died.set()
                return

    killer = threading.Thread(target=kill_in_the_middle, daemon=True)
    killer.start()
    stages("s3://bucket/run")
    killer.join()
    assert died.is_set()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    asked = Grey.asked
    run("annotate", "s3://bucket/run/pairs", "--model", "grey", "--out", "s3://bucket/run/labels")
    assert Grey.asked == asked, "another machine goes on with what is there"
    for stage in ("pairs", "labels", "bench"):
        copy = remote.Mirror(f"s3://bucket/run/{stage}")
        copy.fetch()
        if stage == "labels":  # they note when the pairs that they are made of were written
            ours, theirs = (
                [pq.read_table(f) for f in sorted(d.glob("*.parquet"))] for d in (copy.folder, here / stage)
            )
            assert len(ours) == 4
            assert all(a.equals(b) for a, b in zip(ours, theirs, strict=True))
        else:
            assert files(copy.folder) == files(here / stage)
            assert files(copy.folder), stage
    done = CliRunner().invoke(app, ["annotate", "s3://bucket/nothing", "--model", "grey", "--out", str(tmp_path / "x")])
    assert (done.exit_code, "s3://bucket/nothing does not exist" in done.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine", "ftp://host/videos", "--out", "x"], "ftp://host/videos is an address of a kind that is not read: s3"),
        (["annotate", "pairs", "--out", "https://host/x"], "nothing is written to http addresses; give one of s3"),
        (["mine", "s3://bucket/../x", "--out", "x"], "give an address without '..'"),
    ],
)
def test_addresses_that_are_not_for_this_say_so(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_packs_are_mined_as_the_files_in_them(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clips = sorted(videos.rglob("*.mp4"))
    for number in range(2):
        with tarfile.open(tmp_path / f"shard-{number}.tar", "w") as tar:
            for key, clip in enumerate(clips[number::2]):
                tar.add(clip, f"{clip.parent.name}/{key:03d}.mp4")
                caption = tarfile.TarInfo(f"{clip.parent.name}/{key:03d}.txt")
                tar.addfile(caption, io.BytesIO())
    refs = folder_clips(sorted(tmp_path.glob("*.tar")))
    assert [ref.name for ref in refs][:2] == ["a/shard-0-000.mp4", "a/shard-0-001.mp4"]
    assert sorted(ref.path.read_bytes() for ref in refs) == sorted(clip.read_bytes() for clip in clips)
    assert {ref.category for ref in refs} == {"a", "b"}

    features = {"video": {"_type": "Video"}, "label": {"_type": "ClassLabel", "names": ["fall", "rise"]}}
    rows = [{"video": {"bytes": c.read_bytes(), "path": c.name}, "label": i % 2} for i, c in enumerate(clips[:4])]
    table = pa.Table.from_pylist(rows).replace_schema_metadata(
        {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    )
    (tmp_path / "hub").mkdir()
    pq.write_table(table, tmp_path / "hub" / "train.parquet")
    mined = mine(tmp_path / "hub", tmp_path / "out", MineConfig(min_gap=4), executor_name="serial")
    assert (mined.clips, mined.pairs > 0) == (4, True)
    assert [ref.category for ref in folder_clips(tmp_path / "hub")] == ["fall", "fall", "rise", "rise"]
    with pytest.raises(
        ValueError, match=r"pairs.*parquet holds no video: looked for a column of the Hugging Face type"
    ):
        folder_clips(tmp_path / "out")
    (tmp_path / "half.tar").write_bytes((tmp_path / "shard-0.tar").read_bytes()[:-20_000])
    with pytest.raises(ValueError, match=r"half\.tar is .*damaged: unexpected end of data"):
        folder_clips(tmp_path / "half.tar")
