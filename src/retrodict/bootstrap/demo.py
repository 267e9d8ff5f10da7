"""The whole loop on the simulated world: every stage of the method, with exact numbers, on two cores.

Videos -> mine -> inverse model on a small labelled set -> annotate -> select -> forward models on the labelled set
alone (FT), on labelled + annotated (FDM), the same with recognition weights, and the same with the simulator's own
labels (the ceiling of labelling) -> best-of-n -> bench -> report.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from retrodict.bootstrap import demo_stages
from retrodict.bootstrap.demo_context import SCALES, Context, Scale
from retrodict.bootstrap.demo_families import PLUMBING
from retrodict.bootstrap.stages import Stage, run_stages
from retrodict.progress import Progress
from retrodict.run_folder import claim
from retrodict.versions import command_line

STAGES = (
    Stage("world", "draw labelled and test scenes", 4, demo_stages.world),
    Stage("tokenizer", "learn to write pictures as 36 codes", 20, demo_stages.tokenizer, ("world",)),
    Stage("videos", "film unlabelled videos of the same world", 60, demo_stages.videos),
    Stage("idm", "learn which action lies between two frames", 115, demo_stages.idm, ("tokenizer",)),
    Stage("mine", "find moments between which something happened", 35, demo_stages.mine, ("videos",)),
    Stage("ft", "learn to predict from the labelled pairs alone", 125, demo_stages.ft, ("tokenizer",)),
    Stage("annotate", "let the inverse model label the mined pairs", 80, demo_stages.annotate, ("mine", "idm")),
    Stage("select", "keep the labels it is most sure of", 3, demo_stages.select, ("annotate",)),
    Stage("fdm", "learn to predict from labelled and annotated pairs", 125, demo_stages.fdm, ("select",)),
    Stage("fdm_true_labels", "the same with true labels: the ceiling", 125, demo_stages.fdm_true_labels, ("select",)),
    Stage("fdm_weighted", "the same with recognition-weighted loss", 120, demo_stages.fdm_weighted, ("select",)),
    Stage("idm_plain", "an inverse model that is not told what changed", 120, demo_stages.idm_plain, ("tokenizer",)),
    Stage(
        "probe",
        "ask which of two transitions each model prefers",
        60,
        demo_stages.probe,
        ("fdm", "ft", "idm", "idm_plain"),
    ),
    Stage("check_labels", "compare the labels with what really happened", 6, demo_stages.check_labels, ("select",)),
    *(
        Stage(f"bench_{name}", f"predict the test scenes with {name}, verified", 40, run, (name, "idm"))
        for name, run in demo_stages.BENCHES.items()
    ),
)


def run_demo(out: Path, seed: int, scale: Scale, progress: Progress, family: str | None = None) -> None:
    """Run the loop in `out`, or go on with it, and write `results.json` and `report.html`.

    With a large `family` it runs at a size of its own, on tiny models with random weights (`demo_families.NOTE`).

    Raises `ValueError` when `out` holds a demo with another seed or scale.
    """
    began = time.monotonic()
    context = Context(out, seed, SCALES[scale] if family is None else PLUMBING, family)
    settings = {"scale": scale, "seed": seed, "family": family, **asdict(context.settings)}
    claim(out, "demo", settings)
    run_stages(STAGES, out, context, progress)

    from retrodict.bootstrap.demo_results import write_results

    progress.stage("report", "put everything on one page")
    command = command_line()
    write_results(context, scale=scale, command=command, wall_seconds=time.monotonic() - began)
    progress.done("report.html")
