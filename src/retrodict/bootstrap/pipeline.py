"""The whole loop on one's own labelled pairs and videos.

videos -> mine -> image tokenizer on all frames -> inverse model on the labelled pairs -> annotate -> select -> forward
models on the labelled pairs alone (FT) and on labelled + annotated ones (FDM) -> verified predictions -> report.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from retrodict.bootstrap import pipeline_stages
from retrodict.bootstrap.pipeline_stages import Context, split
from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.bootstrap.stages import Stage, run_stages
from retrodict.progress import Progress
from retrodict.recipes import save_effective
from retrodict.run_folder import Input, claim
from retrodict.training.config import TrainConfig
from retrodict.versions import command_line

SEQUENCES_PER_SECOND = 100  # that one core trains a small model with: only for the time left


def run_bootstrap(recipe: BootstrapRecipe, out: Path, progress: Progress) -> None:
    """Run the loop in `out`, or go on with it, and write `results.json` and `report.html`.

    Raises `ValueError` when there are no videos, no labelled pairs or none to test on, or when `out` holds a run with
    another recipe.
    """
    from retrodict.bootstrap.pipeline_results import write_results
    from retrodict.video.clips import folder_clips

    began = time.monotonic()
    if not recipe.data.videos:
        raise ValueError("The recipe names no videos: put video files, or folders of them, under data.videos.")
    context = Context(out, recipe)
    folder_clips(recipe.data.videos)  # hours of training later would be a bad time to find that there are none
    split(recipe)
    data = recipe.data
    inputs: dict[str, Input] = {"data.labelled": data.labelled, "data.videos": data.videos, "data.test": data.test}
    if claim(out, "bootstrap", recipe.model_dump(mode="json"), inputs=inputs):
        save_effective(recipe, out)
    run_stages(_stages(recipe), out, context, progress)
    progress.stage("report", "put everything on one page")
    command = command_line()
    write_results(context, command=command, wall_seconds=time.monotonic() - began)
    progress.done("report.html")


def _stages(recipe: BootstrapRecipe) -> list[Stage]:
    run, size = pipeline_stages, recipe.tokenizer
    inverse, forward = _seconds(recipe.inverse), _seconds(recipe.forward)
    bench = 1 + 0.01 * recipe.bench.items * recipe.sample.n
    return [
        Stage("split", "set labelled pairs aside to test on", 2, run.hold_out),
        Stage("mine", "find moments between which something happened", 60, run.mine),
        Stage(
            "tokenizer",
            f"learn to write pictures as {math.prod(size.grid)} codes",
            20 + 0.05 * (size.warm_steps + size.steps),
            run.tokenizer,
            ("split", "mine"),
        ),
        Stage("idm", "learn which action lies between two frames", inverse, run.idm, ("tokenizer",)),
        Stage("ft", "learn to predict from the labelled pairs alone", forward, run.ft, ("tokenizer",)),
        Stage("annotate", "let the inverse model label the mined pairs", 30, run.annotate, ("idm",)),
        Stage("select", "keep the labels it is most sure of", 3, run.select, ("annotate",)),
        Stage("fdm", "learn to predict from labelled and annotated pairs", forward, run.fdm, ("select",)),
        Stage("bench_ft", "predict the held-out actions with FT, verified", bench, run.bench_ft, ("ft", "idm")),
        Stage("bench_fdm", "predict the held-out actions with FDM, verified", bench, run.bench_fdm, ("fdm",)),
        Stage("probe", "ask each model how likely it finds what happened", 20, run.probe, ("ft", "fdm")),
    ]


def _seconds(training: TrainConfig) -> float:
    return 5 + training.steps * training.batch / SEQUENCES_PER_SECOND
