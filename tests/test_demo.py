"""The whole loop at tiny size, in real processes that are really stopped. It proves the plumbing, not the method."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell would have it ignored
if __name__ == "__main__":
    from retrodict.cli import main
    training = "{steps: 30, per_device_batch_size: 8}"
    sets = [
        "world={name: tabletop, labelled: 40, test: 20, videos: 5, actions: 5}", f"inverse={training}",
        f"forward={training}", "tokenizer={warm_steps: 20, steps: 20}", "select.top_k=12", "bench.n=2", "runs=2",
        "still=0.1", "expert.prompts=20", "world.validation=12",
    ]
    sys.argv = ["retrodict", "demo", "--scale", "full", "--out", sys.argv[1], *(f"--set={value}" for value in sets)]
    main()
"""


def start(script: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(script), str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 1200
    while not path.is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.05)


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=120)
    assert not alive, "workers outlived the run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted, killed, and finished by the same command."""
    folder = tmp_path_factory.mktemp("demo")
    script, out = folder / "run.py", folder / "out"
    script.write_text(RUN)
    interrupted = start(script, out)
    wait_for(out / "stages" / "world.json", interrupted)
    os.killpg(interrupted.pid, signal.SIGINT)
    stderr = interrupted.communicate(timeout=60)[1]
    assert interrupted.returncode == 130, stderr
    assert "same command" in stderr
    page = (out / "report.html").read_text()
    assert "The loop is running" in page and "Waiting" in page

    killed = start(script, out)
    wait_for(out / "stages" / "tokenizer.json", killed)
    workers = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.communicate(timeout=60)  # until its workers, which hold the pipe, are gone too
    wait_until_gone(workers)
    assert "data:image/png" in (out / "report.html").read_text(), "test transitions, before any model is there"
    before = {path.name: path.read_text() for path in (out / "stages").glob("*.json")}

    last = start(script, out)
    stderr = last.communicate(timeout=1800)[1]
    assert last.returncode == 0, stderr
    # What was done before was not done again.
    assert before.items() <= {path.name: path.read_text() for path in (out / "stages").glob("*.json")}.items()
    return out


def test_results_have_what_the_report_and_scripts_rely_on(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    trained = ("ft", "fdm", "fdm_round2", "fdm_weighted", "fdm_true_labels", "fdm_weighted_true_labels", "fdm_expert")
    for name in ("copy", *trained, "fdm_second_proposer"):
        system = results["systems"][name]
        assert {"score", "es", "me", "ci95", "n", "copy_rate"} <= system["greedy"].keys()
        assert system["greedy"]["n"] == 20
        if name != "copy":
            assert {"idm", "idm_fdm", "random", "oracle"} <= system["k2"].keys()
    for name in ("ft", "fdm", "fdm_round2", "fdm_true_labels"):
        greedy = results["runs"][name]["greedy"]
        assert greedy["runs"] == len(greedy["each"]) == 2
        assert greedy["score"] == pytest.approx(sum(greedy["each"]) / 2)
        assert greedy["each"][0] == results["systems"][name]["greedy"]["score"]
    assert results["comparisons"]["fdm_vs_ft"]["runs"] == results["comparisons"]["idm_fdm_vs_greedy"]["runs"] == 2
    assert "runs" not in results["comparisons"]["weighted_vs_fdm"]
    assert (finished / "preview" / "predicted.png").is_file()
    assert results["systems"]["copy"]["greedy"]["score"] == 0
    assert results["ground_truth"]["score"] == 1
    assert {"exact", "floor", "n"} <= results["idm"].keys()
    assert 0 <= results["annotation"]["exact"] <= 1
    assert results["peak_memory_mb"] > 0
    assert set(results["probe"]) == {"idm", "idm_round2", "idm_plain", "ft", "fdm"}
    assert [entry["round"] for entry in results["rounds"]] == [1, 2]
    assert results["rounds"][1]["validation"]["idm"]["against"]["n"] == 12
    assert set(results["still"]) == set(trained)
    assert all(entry["n"] == 100 for entry in results["still"].values())
    main = results["kept"]["fdm"]
    assert main in ("fdm", "fdm_round2") and (finished / main / "confidence.json").is_file()
    told = results["confidence"]["idm_fdm"]
    assert told["n"] == 20 and 1 <= told["adaptive"]["candidates"] <= 2
    assert told["impossible"]["n"] == 100
    assert sum(told["reject"][part]["n"] for part in ("accepted", "rejected")) == 20
    compared = results["comparisons"]
    assert {"expert_vs_verified", "second_vs_verified", "fdm_round2_vs_fdm"} <= compared.keys()
    assert len(results["expert"]["iterations"]) == 2
    assert ("expert_vs_fdm" in compared) == (results["expert"]["kept"] == 1), "a model is not compared with itself"
    page = (finished / "report.html").read_text()
    for title in ("go round once more", "How sure can one be?", "When nothing happens", "its own verified samples"):
        assert title in page
    assert "FDM" in page and "http" not in page.replace("http://www.w3.org", "")


def test_pools_are_scored_once_and_kept(finished: Path) -> None:
    lines = (finished / "items" / "fdm.jsonl").read_text().splitlines()
    items = [json.loads(line) for line in lines]
    assert len({item["id"] for item in items}) == len(items) == 20
    assert all(len(item["pool"]) == 2 for item in items)
    assert all({"idm", "idm_fdm"} <= frame["verifiers"].keys() for item in items for frame in item["pool"])


def test_another_seed_does_not_overwrite(finished: Path) -> None:
    command = [sys.executable, "-m", "retrodict", "demo", "--out", str(finished), "--seed", "5"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "choose another --out" in found.stderr
