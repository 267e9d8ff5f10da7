"""The whole loop from published checkpoints, on two ranks, after a kill, and in another world."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from loop_data import moving_square, write_checkpoint, write_labelled, write_video
from loopback import free_port
from typer.testing import CliRunner

import retrodict
from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.cli import app
from retrodict.evaluation.predictions import read_predictions
from retrodict.images import read_image
from retrodict.recipes import load_recipe
from retrodict.transitions import read_transitions

RECIPE = """
data: {labelled: labelled, test: test, videos: [videos]}
lora: {rank: 2, alpha: 400, dropout: 0.0}
mine: {min_gap: 2, frames_per_clip: 4, min_motion: 0.0, cuts: false}
inverse: &training
  {steps: 3, per_device_batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 0.01, warmup_steps: 1,
  optimizer: adamw, bf16: false}
forward: *training
select: {top_k: 2}
bench: {n: 2, items: 4}
"""


def make_data(folder: Path, *, labelled: int = 8, test: int = 3) -> Path:
    write_labelled(folder / "labelled", moving_square(labelled + 1), labelled)
    write_labelled(folder / "test", moving_square(test + 1, seed=1), test, "test")
    write_video(folder / "videos" / "square.mp4", moving_square(30, seed=2))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


@pytest.mark.parametrize(  # liquid: on one and two ranks, below
    "family", ["janus", *(pytest.param(name, marks=pytest.mark.slow) for name in ("chameleon", "emu3"))]
)
def test_a_published_checkpoint_goes_from_pairs_and_video_to_a_report(family: str, tmp_path: Path) -> None:
    recipe, out = make_data(tmp_path, labelled=6, test=2), tmp_path / "out"
    write_checkpoint(tmp_path / "checkpoint", family)
    command = ["bootstrap", str(recipe), "--out", str(out), "--quiet"]
    command += [f"--set=family={family}", f"--set=init={tmp_path / 'checkpoint'}"]
    if family == "chameleon":  # after three steps it says what cannot be read
        command += ["--set=inverse.steps=10"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    check_whole(out, tmp_path / "checkpoint", 2)


def check_whole(out: Path, checkpoint: Path, items: int) -> None:
    """All that a loop from a published checkpoint leaves."""
    results = json.loads((out / "results.json").read_text())
    assert {"copy", "round_trip_target", "ft", "fdm", "fdm, best by idm_fdm"} <= set(results["all"])
    assert results["all"]["fdm"]["n"] == items
    assert results["annotation"]["selected"] in (1, 2)  # models of random weights do not always find words
    assert {row.action_source for row in read_transitions(out / "selected")} == {"idm"}
    assert not (out / "image_tokenizer").exists()
    for name in ("idm", "ft", "fdm"):  # adapters, not copies of the model
        assert (out / name / "adapter_model.safetensors").is_file()
        assert json.loads((out / name / "retrodict.json").read_text())["base"] == str(checkpoint)
    assert (out / "report.html").is_file()


SMALL = [
    "lora=null",
    "tokenizer={image_size: 96, patch: 32, codes: 8, width: 16, code_dim: 4, warm_steps: 3, steps: 3}",
]
SMALL += ["model={hidden: 16, layers: 1, heads: 2}"]


def start(recipe: Path, out: Path, ranks: int, sets: list[str]) -> list[subprocess.Popen[str]]:
    """The command as `torchrun` starts it on each rank."""
    command = [sys.executable, "-m", "retrodict", "bootstrap", str(recipe), "--out", str(out), "-q"]
    command += [f"--set={value}" for value in sets]
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            command,
            env=os.environ | ({"RANK": str(rank), "LOCAL_RANK": str(rank), **shared} if ranks > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for rank in range(ranks)
    ]


def finish(started: list[subprocess.Popen[str]]) -> list[str]:
    try:
        return [process.communicate(timeout=1800)[0] for process in started]
    finally:
        for process in started:
            process.kill()


def outcome(out: Path) -> dict[str, Any]:
    results = json.loads((out / "results.json").read_text())
    items = [item for name in ("ft", "fdm") for item in read_predictions(out / "predictions" / f"{name}.parquet")]
    return {
        "labels": [(row.id, row.action) for row in read_transitions(out / "annotated")],
        "selected": [(row.id, row.action) for row in read_transitions(out / "selected")],
        "nll": {name: entry["per_token"]["mean"] for name, entry in results["loglik"].items()},
        "probe": set(results["probe"]),
        "items": [item.id for item in items],
        "frames": np.stack(
            [np.asarray(read_image(frame.image)) for item in items for frame in (item.greedy, *item.pool)]
        ).astype(int),
    }


def check_same(two: dict[str, Any], one: dict[str, Any]) -> None:
    for key in ("labels", "selected", "items", "probe"):
        assert two[key] == one[key]
    assert np.abs(two["frames"] - one["frames"]).max() <= 1, "the same image tokens, but for the rounding of a pixel"
    assert two["nll"] == pytest.approx(one["nll"], abs=1e-5)


@pytest.mark.slow
def test_two_ranks_give_what_one_gives_and_a_kill_costs_nothing(tmp_path: Path) -> None:
    # Two batches of predictions; neither 10 nor 13 rows are whole steps of 4 sequences.
    recipe = make_data(tmp_path, labelled=10, test=34)
    write_video(tmp_path / "videos" / "other.mp4", moving_square(30, seed=3))
    sets = [*SMALL, "bench.items=34", "select.top_k=3", "inverse.steps=4", "forward.steps=4"]
    (alone,) = start(recipe, tmp_path / "alone", 1, sets)
    said = alone.communicate(timeout=1800)[0]
    assert alone.returncode == 0, said

    out = tmp_path / "together"
    killed = start(recipe, out, 2, sets)
    deadline = time.monotonic() + 1200
    while not (out / "stages" / "idm.json").is_file():
        assert all(process.poll() is None for process in killed), finish(killed)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for process in killed:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    before = (out / "stages" / "idm.json").read_text()
    again = start(recipe, out, 2, sets)
    lines = finish(again)
    assert [process.returncode for process in again] == [0, 0], "\n".join(lines)
    assert (out / "stages" / "idm.json").read_text() == before

    check_same(outcome(out), outcome(tmp_path / "alone"))


@pytest.mark.slow
def test_two_ranks_train_adapters_of_a_published_model_as_one_does(tmp_path: Path) -> None:
    recipe = make_data(tmp_path, labelled=6, test=3)
    write_checkpoint(tmp_path / "checkpoint", "liquid")
    sets = ["family=liquid", f"init={tmp_path / 'checkpoint'}", "bench.items=3"]
    for name, ranks in (("alone", 1), ("together", 2)):
        started = start(recipe, tmp_path / name, ranks, sets)
        said = finish(started)
        assert [process.returncode for process in started] == [0] * ranks, "\n".join(said)
    check_whole(tmp_path / "alone", tmp_path / "checkpoint", 3)
    check_same(outcome(tmp_path / "together"), outcome(tmp_path / "alone"))


@pytest.mark.slow
def test_rounds_resume_after_a_kill(tmp_path: Path) -> None:
    recipe, out, again = make_data(tmp_path, labelled=24, test=2), tmp_path / "out", tmp_path / "again"
    sets = [*SMALL, "rounds=2", "inverse.steps=4", "forward.steps=4", "select.top_k=3", "bench={items: 2, n: 2}"]
    (killed,) = start(recipe, out, 1, sets)
    while not (out / "stages" / "check.json").is_file():
        assert killed.poll() is None, finish([killed])
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)  # while the second inverse model learns
    killed.communicate(timeout=60)
    whole = load_recipe(recipe, BootstrapRecipe, sets)
    retrodict.run_bootstrap(whole, out=out)
    shutil.copytree(out, again)
    second = ("check.json", "validate", "probe", "bench", "results", "predictions", "items", "checked", "trusted")
    for path in (*again.iterdir(), *(again / "stages").iterdir()):
        if "_round2" in path.name or path.name.startswith(second):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    retrodict.run_bootstrap(whole, out=again)
    one, other = (json.loads((folder / "results.json").read_text()) for folder in (out, again))
    assert one["rounds"] == other["rounds"] and one["kept"] == other["kept"] and one["all"] == other["all"]
    assert [entry["round"] for entry in one["rounds"]] == [1, 2]
    assert {"idm", "idm_round2", "ft", "fdm", "fdm_round2"} == set(one["action_meter"])
    assert "go round once more" in (out / "report.html").read_text()


@pytest.mark.slow
def test_when_one_rank_fails_all_end(tmp_path: Path) -> None:
    recipe = make_data(tmp_path)
    (tmp_path / "videos" / "square.mp4").write_bytes(b"no video")
    started = start(recipe, tmp_path / "out", 2, SMALL)
    said = finish(started)
    assert [process.returncode for process in started] == [2, 2], "\n".join(said)
    assert "No frame pairs were found" in said[0]
    assert "rank 0 failed" in said[1]


FAIL = """
import torch
from retrodict.training.distributed import RankError, is_main, join, meet
join()
try:
    meet(ValueError("no disk") if is_main() else None)
except RankError as error:
    print(error)
assert not torch.distributed.is_initialized()
"""


def test_ranks_that_know_of_a_failure_leave_their_group_before_they_end() -> None:
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FAIL], env=os.environ | shared | {"RANK": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    assert finish(started) == ["", "rank 0 failed: no disk\n"]
    assert [process.returncode for process in started] == [0, 0]


def test_ranks_that_cannot_share_a_step_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_data(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "3")
    command = ["bootstrap", str(recipe), "--out", str(tmp_path / "out"), *(f"--set={value}" for value in SMALL)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "set inverse.gradient_accumulation_steps to a multiple of 3" in done.output
    assert not (tmp_path / "out").exists()


def test_a_saved_inverse_model_labels_and_verifies_in_place_of_one_that_is_trained(tmp_path: Path) -> None:
    saved = str(files("retrodict").joinpath("weights", "small", "inverse"))
    recipe, out = make_data(tmp_path, labelled=4), tmp_path / "out"
    sets = [*SMALL, f"labeller={saved}", "forward.steps=2"]
    retrodict.run_bootstrap(load_recipe(recipe, BootstrapRecipe, sets), out=out)
    assert not (out / "idm").exists()
    assert {row.action_source for row in read_transitions(out / "annotated")} == {"idm"}
    assert "fdm, best by idm_fdm" in json.loads((out / "results.json").read_text())["all"]


def pixels(encoded: bytes | None) -> bytes:
    assert encoded is not None
    return read_image(encoded).tobytes()


class Labeller(BaseHTTPRequestHandler):
    """A chat endpoint that answers every question with the same action."""

    asked: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        message = {"role": "assistant", "content": json.dumps({"action": "lift the cup"})}
        answer = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def test_a_chat_endpoint_labels_without_likelihoods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Labeller)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    recipe, out = make_data(tmp_path, labelled=4), tmp_path / "out"
    sets = [*SMALL, f"labeller=chat:some@http://127.0.0.1:{server.server_port}/v1", "select.without_likelihood=true"]
    command = ["bootstrap", str(recipe), "--out", str(out), "-q", *(f"--set={s}" for s in (*sets, "forward.steps=2"))]
    try:
        done = CliRunner().invoke(app, command)
    finally:
        server.shutdown()
        server.server_close()
    assert done.exit_code == 0, done.output
    labels = read_transitions(out / "annotated")
    assert {row.action for row in labels} == {"lift the cup"}
    results = json.loads((out / "results.json").read_text())
    assert results["annotation"]["selected"] == min(2, len(labels))
    assert "fdm, best by idm_fdm" not in results["all"], "nothing says how likely an action is, so nothing verifies"
    pairs = [(row.source, row.target) for row in (*labels, *read_transitions(out / "test"))]
    shown = [asked for asked in Labeller.asked if "image_url" in asked]
    assert len(shown) == len({tuple(map(pixels, pair)) for pair in pairs}), "every pair is paid once"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ablations=[no_change_mask]", "needs models that start from nothing"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_at_once(change: str, said: str, tmp_path: Path) -> None:
    command = ["bootstrap", str(make_data(tmp_path)), "--out", str(tmp_path / "out"), "--set=init=some/model"]
    done = CliRunner().invoke(app, [*command, f"--set={change}"])
    assert done.exit_code == 2
    assert said in done.output
    assert not (tmp_path / "out").exists()


DOTS = """
from retrodict.worlds import WORLDS

WORLDS["dots"] = "toy_world"
if __name__ == "__main__":
    from retrodict.cli import main
    main()
"""


@pytest.mark.slow
def test_a_world_of_one_file_runs_the_demo(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(DOTS)
    training = "{steps: 2, per_device_batch_size: 4}"
    sets = ["world={name: dots, labelled: 8, test: 6, videos: 3, actions: 4}", "mine.min_motion=0", "mine.min_gap=4"]
    sets += [
        f"inverse={training}",
        f"forward={training}",
        "tokenizer={warm_steps: 3, steps: 3}",
        "select.top_k=2",
    ]
    sets += ["bench.n=2", "ablations=[true_labels]"]
    command = [sys.executable, str(tmp_path / "main.py"), "demo", "--out", str(tmp_path / "out"), "-q"]
    done = subprocess.run(
        [*command, *(f"--set={value}" for value in sets)],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["ground_truth"]["score"] == 1
    assert results["systems"]["copy"]["greedy"]["score"] == 0
    assert results["annotation"]["single_action"] > 0
