"""A Ray driver and a node that die: what is made stays, and in the end all files are those of one calm process.

    python benchmarks/ray_kills.py

`retrodict generate --executor ray` makes 40 files; once 8 are there its driver gets SIGKILL, and the command is given
again. Then a cluster of two nodes, of which one is taken away once 8 files are there, while the driver goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PAIRS, FILES = 20_000, 40
GENERATE = (sys.executable, "-m", "retrodict", "generate", "tabletop", "--pairs", str(PAIRS), "--quiet")
RAY = ("--executor", "ray", "--workers", "2")
ENVIRONMENT = os.environ | {"RAY_worker_niceness": "0"}


def made(folder: Path) -> int:
    return len(list(folder.glob("*.parquet")))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.parquet")}


def wait_for(folder: Path, files: int) -> None:
    while made(folder) < files:
        time.sleep(0.02)


def driver_dies(out: Path) -> int:
    """How many files there were when it had died."""
    command = [*GENERATE, "--out", str(out), *RAY]
    process = subprocess.Popen(command, env=ENVIRONMENT)
    wait_for(out, 8)
    process.kill()
    process.wait()
    before = made(out)
    subprocess.run(command, check=True, env=ENVIRONMENT)
    return before


def node_dies(out: Path) -> int:
    """How many files there were when it was taken away."""
    from ray.cluster_utils import Cluster

    before = 0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()

    def take_away() -> None:
        nonlocal before
        wait_for(out, 8)
        cluster.remove_node(node, allow_graceful=False)
        before = made(out)

    thread = threading.Thread(target=take_away)
    thread.start()
    subprocess.run([*GENERATE, "--out", str(out), *RAY], check=True, env=ENVIRONMENT | {"RAY_ADDRESS": cluster.address})
    thread.join()
    cluster.shutdown()
    return before


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([*GENERATE, "--out", str(folder / "calm")], check=True)
        calm = contents(folder / "calm")
        assert len(calm) == FILES
        for what, dies in (("driver", driver_dies), ("node", node_dies)):
            out = folder / what
            out.mkdir()
            before = dies(out)
            print(f"{what} killed with {before} of {FILES} files there; in the end all equal: {contents(out) == calm}")


if __name__ == "__main__":
    main()
