"""One process, DDP, FSDP2 and DeepSpeed ZeRO-2 on two CPU processes: the losses of the same 20 steps, also when killed.

    python benchmarks/ranks.py OUT [one ddp fsdp zero2]

Each run is the command line's: `torchrun --nproc-per-node 2 -m retrodict train RECIPE --out DIR`, of a tiny Chameleon
in float32. It is repeated in two other folders, where a rank, or everything, is killed after the checkpoint of step 10,
and the command given again. Prints the largest difference of the 20 losses to those of one process, and whether the
saved model loads.
DeepSpeed need not be installed: PYTHONPATH may name a folder of it (pip install --no-deps --target).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil

STEPS, SAVE = 20, 10
HOW = {
    "one": "",
    "ddp": "",
    "fsdp": ", fsdp: true",
    "zero2": ", deepspeed: zero2.json",
}
RECIPE = """
direction: forward
family: chameleon
init: ./base
data: {{train: [{{path: labelled}}, {{path: more, rows: 20}}], val_share: 0, cache: {how}-tokens}}
training: {{steps: {steps}, per_device_batch_size: 2, gradient_accumulation_steps: 2, optimizer: adamw, bf16: false,
  learning_rate: 0.001, warmup_steps: 2, save_steps: {save}, eval_steps: 1{options}}}
"""
ZERO2 = {
    "zero_optimization": {"stage": 2},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
}
ON_CPU = """
import sys
sys.path.insert(0, {tests!r})
from distributed_worker import shard_on_cpu
shard_on_cpu()
sys.argv = ["retrodict", *sys.argv[1:]]
from retrodict.cli import main
main()
"""


def prepare(out: Path) -> None:
    import torch

    from retrodict.files import write_json
    from retrodict.models.registry import CARD, tiny_family
    from retrodict.transitions import write_rows
    from retrodict.worlds import get_world

    world = get_world("tabletop")
    rows = world.sample(80, 0, namespace="train")
    write_rows(out / "labelled" / "0.parquet", rows[:20])
    write_rows(out / "labelled" / "1.parquet", rows[20:40])
    write_rows(out / "more" / "0.parquet", rows[40:])
    torch.manual_seed(0)
    tiny_family("chameleon")(world.vocabulary()).save(out / "base")
    write_json(out / "base" / CARD, {"family": "chameleon"})
    write_json(out / "zero2.json", ZERO2)
    # accelerate shards on accelerators only: on a CPU its state is told to, as in tests/test_distributed.py
    (out / "on_cpu.py").write_text(ON_CPU.format(tests=str(Path(__file__).parents[1] / "tests")))
    for how, options in HOW.items():
        text = RECIPE.format(how=how, steps=STEPS, save=SAVE, options=options)
        (out / f"{how}.yaml").write_text(text)


def start(out: Path, how: str, name: str) -> subprocess.Popen[str]:
    program = [str(out / "on_cpu.py")] if how == "fsdp" else ["-m", "retrodict"]
    train = ["train", str(out / f"{how}.yaml"), "--out", str(out / name), "-q"]
    ranks = [] if how == "one" else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, *ranks, *program, *train]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def losses(folder: Path) -> dict[int, float]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def kill(process: subprocess.Popen[str], folder: Path, everything: bool) -> None:
    """Once the first checkpoint is whole: the last rank (or the only process), or the launcher and all ranks."""
    while not (folder / "training" / f"checkpoint-{SAVE}" / "trainer_state.json").is_file():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    ranks = [*psutil.Process(process.pid).children()] or [psutil.Process(process.pid)]
    for victim in [psutil.Process(process.pid), *ranks] if everything else ranks[-1:]:
        victim.kill()
    process.communicate()


def loads(folder: Path) -> bool:
    from retrodict.loading import load_family

    return load_family(folder).name == "chameleon"


def main() -> None:
    out = Path(sys.argv[1]).absolute()
    prepare(out)
    chosen = sys.argv[2:] or list(HOW)
    for how in chosen:
        for name in (how, f"{how}-killed", f"{how}-all-killed"):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            process = start(out, how, name)
            if name != how:
                kill(process, out / name, everything=name.endswith("all-killed"))
                process = start(out, how, name)
            said = process.communicate()[0]
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            if process.returncode:
                print(f"{name}: exit code {process.returncode}: {said[-3000:]}", flush=True)
                continue
            mine, one = losses(out / name), losses(out / "one")
            worst = max(abs(mine[step] - one[step]) for step in range(1, STEPS + 1))
            print(
                f"{name}: {worst:.1e} from one process at most, loads: {loads(out / name)}, {spent:.0f} CPU-s",
                flush=True,
            )


if __name__ == "__main__":
    main()
