"""The whole loop on real clips: what it leaves behind, and that the same command does nothing twice."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import pytest
from PIL import Image
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.images import encode_png
from retrodict.transitions import Transition, read_transitions, write_rows

CLIPS = {
    "asl_book": "sign the word book",
    "asl_eat": "sign the word eat",
    "asl_walk": "sign the word walk",
    "asl_want": "sign the word want",
}
TINY = """
data: {labelled: labelled, test: test, videos: [videos]}
tokenizer: {image_size: 64, patch: 16, codes: 32, context: 1, warm_steps: 10, steps: 10, batch_size: 4}
model: {hidden: 32, layers: 1, heads: 2}
inverse: &short {steps: 40, per_device_batch_size: 8, warmup_steps: 2}
forward: *short
weighting: {method: softened}
select: {top_k: 3}
bench: {n: 2, ks: [1, 2]}
"""


def frames_of(clip: Path) -> list[Image.Image]:
    with av.open(str(clip)) as video:
        found = [frame.to_image(width=64, height=48) for frame in video.decode(video=0)]
    return found[:: max(1, len(found) // 4)]


def labelled(clips: Path) -> list[Transition]:
    """Pairs of first and later frames of a clip, captioned by its class, and pairs in the middle to test on."""
    rows = []
    for name, caption in CLIPS.items():
        frames = [encode_png(frame) for frame in frames_of(clips / f"{name}.mkv")]
        pairs = [(frames[0], later) for later in frames[1:]] + list(pairwise(frames[1:]))
        for i, (source, target) in enumerate(pairs):
            split = "train" if source is frames[0] else "test"
            rows.append(Transition(id=f"{name}-{i}", source=source, target=target, action=caption, split=split))
    rows[-1] = replace(rows[-1], action="sign something that nobody taught")
    return rows


@pytest.fixture
def recipe(shared_data: Path, tmp_path: Path) -> Path:
    rows = labelled(shared_data / "clips")
    for split, folder in (("train", "labelled"), ("test", "test")):
        write_rows(tmp_path / folder / "rows.parquet", [row for row in rows if row.split == split])
    (tmp_path / "videos").mkdir()
    for name in ("asl_eat", "asl_want"):
        (tmp_path / "videos" / f"{name}.mkv").symlink_to(shared_data / "clips" / f"{name}.mkv")
    (tmp_path / "recipe.yaml").write_text(TINY)
    return tmp_path / "recipe.yaml"


@pytest.mark.slow
def test_the_loop_on_real_clips(recipe: Path) -> None:
    out = recipe.parent / "out"
    command = ["bootstrap", str(recipe), "--out", str(out)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    results = json.loads((out / "results.json").read_text())
    test = read_transitions(out / "test")
    assert {row.split for row in test} == {"test"}
    assert set(results["all"]) >= {"copy", "round_trip_target", "ft", "fdm", "fdm, best by idm_fdm"}
    counted = {name: row["n"] for name, row in results["all"].items() if name in ("copy", "fdm")}
    assert counted == {"copy": len(test), "fdm": len(test)}, "a word that was never trained has an image, too"
    assert {"ground_truth", "random_target", "nearest"} <= results["all"].keys()
    assert all(0 < row["l1"] < 1 for name, row in results["all"].items() if name != "ground_truth")
    assert {row["n"] for row in results["metrics"]["explained"]["all"].values()} == {len(test)}
    assert {"fdm_vs_ft", "verified_vs_greedy", "fdm_vs_ft_likelihood"} <= results["comparisons"].keys()
    assert results["systems"]["copy"]["greedy"]["copy_rate"] == 1
    assert results["systems"]["fdm"]["greedy"]["n"] == 0  # no exact state, so no score, and none is made up
    assert results["systems"]["fdm"]["unscored"] == {"no exact state": len(test)}
    assert results["probe"]["fdm"]["copy"]["n"] == results["loglik"]["fdm"]["sum"]["n"] == len(test)
    assert results["probe_left_out"] == 0
    assert results["mining"]["pairs"] >= results["annotation"]["mined"] >= results["annotation"]["selected"] == 3
    selected = read_transitions(out / "selected")
    assert {row.action_source for row in selected} == {"idm"}
    words = {word for caption in CLIPS.values() for word in caption.split()}
    assert all(set(row.action.split()) <= words and row.logprob < 0 for row in selected)
    page = (out / "report.html").read_text()
    assert "Learn to explain" in page
    assert "\N{EN DASH}" not in re.sub("<style.*?</style>", "", page, flags=re.S), "what was not measured is left out"
    assert all((out / name / "log.jsonl").is_file() for name in ("idm", "ft", "fdm"))
    assert set(results["action_meter"]) == {"idm", "ft", "fdm"}

    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    (out / "results.json").unlink()
    (out / "stages" / "select.json").unlink()
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == made
    assert json.loads((out / "results.json").read_text())["all"] == results["all"]
    other = CliRunner().invoke(app, [*command, "--set", "select.top_k=2"])
    assert (other.exit_code, "select.top_k 3 and not 2" in other.output) == (2, True)
