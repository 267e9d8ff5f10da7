"""The command line: parse, call one function per verb, print what came back.

Whatever is heavy is imported inside a command, so that `retrodict --help` answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer

from retrodict.errors import check_output, check_output_file, guarded
from retrodict.progress import open_progress

if TYPE_CHECKING:
    from retrodict.video import ClipRef

P = ParamSpec("P")
T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Retrodict what happened; predict what happens next.\n\n"
    "Start with [bold]retrodict demo[/bold]: it runs the whole loop on a simulated world in minutes.",
)


class Scale(StrEnum):
    QUICK = "quick"
    FULL = "full"


class Verifier(StrEnum):
    IDM = "idm"
    IDM_FDM = "idm_fdm"
    RANDOM = "random"
    NONE = "none"


class Benchmark(StrEnum):
    TABLETOP = "tabletop"
    AURORA = "aurora"


class Selection(StrEnum):
    EXACT = "exact"
    PAPER = "paper"


class Motion(StrEnum):
    FLOW = "flow"
    FAST = "fast"
    REFERENCE = "reference"


class Layout(StrEnum):
    FOLDER = "folder"
    UCF101 = "ucf101"
    KINETICS700 = "kinetics700"
    MOMENTS = "moments"
    EPIC100 = "epic100"
    SSV2 = "ssv2"
    LEROBOT = "lerobot"


class Executor(StrEnum):
    SERIAL = "serial"
    PROCESSES = "processes"
    RAY = "ray"


OutDir = Annotated[
    Path, typer.Option("--out", "-o", help="Folder to write to. The same command again continues there.")
]
Model = Annotated[
    str, typer.Option("--model", "-m", help="`small` (comes with retrodict), `copy`, a folder, or a model hub id.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random; the same seed gives the same result.")]
Many = Annotated[int, typer.Option("-n", min=1, help="How many candidates to draw; the verifier keeps the best one.")]
Check = Annotated[
    Verifier,
    typer.Option(
        help="What picks the best candidate: `idm` asks which action it shows, `idm_fdm` also how likely it is, "
        "`random` leaves it to chance, `none` takes the most likely frame."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a value of the recipe: --set forward.steps=200. Repeatable."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="Picture of the scene before the action.")]


def main() -> None:
    """Entry point of the `retrodict` command."""
    app()


def verb(function: Callable[P, T]) -> Callable[P, T]:
    """Register a command; what goes wrong in it becomes one line and an exit code."""
    return app.command()(guarded(function))


@verb
def demo(
    out: OutDir = Path("demo"),
    seed: Seed = 0,
    scale: Annotated[
        Scale, typer.Option(help="`quick` takes minutes on two cores, `full` trains longer.")
    ] = Scale.QUICK,
    quiet: Quiet = False,
) -> None:
    """Run the whole loop on a simulated world and write a report.

    An inverse model learns what actions look like, labels raw video, and so teaches and checks a forward model. Open
    report.html in the output folder when it is done.

    Example: retrodict demo --out demo
    """
    check_output(out)

    from retrodict.bootstrap.demo import run_demo

    with open_progress(quiet, "retrodict demo") as progress:
        run_demo(out=out, seed=seed, scale=scale.value, progress=progress)
    typer.echo(f"Report: {out / 'report.html'}\nNumbers: {out / 'results.json'}")


@verb
def mine(
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO_OR_FOLDER...", help="Video files, or folders of them.")
    ],
    out: OutDir,
    frames_per_clip: Annotated[int, typer.Option(min=2, help="How many frames to keep of each clip.")] = 6,
    min_gap: Annotated[
        str, typer.Option(help="Least distance between kept frames: frames (20) or time (0.8s).")
    ] = "20",
    selection: Annotated[
        Selection, typer.Option(help="`exact` keeps the frames with the most motion in all, `paper` goes greedily.")
    ] = Selection.EXACT,
    motion: Annotated[
        Motion, typer.Option(help="How motion is measured: optical flow, plain frame difference, or the paper's flow.")
    ] = Motion.FLOW,
    cuts: Annotated[bool, typer.Option(help="Look for shot boundaries and make no pair across one.")] = True,
    compensate_camera: Annotated[bool, typer.Option(help="Leave out the motion of the camera when ranking.")] = False,
    frames: Annotated[bool, typer.Option(help="Store the pictures; without them only their places are kept.")] = True,
    executor: Annotated[
        Executor, typer.Option(help="Where clips are mined: in this process, in several, or on a Ray cluster.")
    ] = Executor.PROCESSES,
    workers: Annotated[int | None, typer.Option(min=1, help="How many processes; one per core by default.")] = None,
    layout: Annotated[Layout, typer.Option(help="How the videos are laid out, where they are a known collection.")] = (
        Layout.FOLDER
    ),
    annotations: Annotated[
        Path | None, typer.Option(help="The collection's own list, where it does not lie beside the videos.")
    ] = None,
    snap: Annotated[str, typer.Option(help="How far a pick may move to a sharper frame; 0s never.")] = "0.3s",
    shard_clips: Annotated[
        int, typer.Option(min=1, help="Clips per Parquet file, which is what a killed run repeats.")
    ] = 128,
    timeout: Annotated[
        float, typer.Option(help="Seconds without a decoded frame after which a clip's worker is killed.")
    ] = 60.0,
    retries: Annotated[
        int, typer.Option(min=0, help="How often a clip that crashed or hung its worker is tried again.")
    ] = 2,
    quiet: Quiet = False,
) -> None:
    """Find frame pairs in videos between which something happened.

    Example: retrodict mine clips/ --out pairs
    """
    check_output(out)

    from retrodict.video import MineConfig
    from retrodict.video import mine as run
    from retrodict.video.tally import tally

    config = MineConfig(
        frames_per_clip=frames_per_clip,
        min_gap=min_gap,
        selection=selection.value,
        motion=motion.value,
        snap=snap,
        cuts=cuts,
        compensate_camera=compensate_camera,
        frames=frames,
    )
    with open_progress(quiet, "retrodict mine") as progress:
        progress.stage("mine", "find the moments between which something happens")
        result = run(
            _clips(videos, layout, annotations),
            out,
            config,
            executor_name=executor.value,
            workers=workers,
            shard_clips=shard_clips,
            timeout=timeout,
            retries=retries,
            progress=tally(progress),
        )
        progress.done(f"{result.pairs:,} pairs")
    typer.echo(f"{out}: {result.pairs} pairs from {result.clips} clips{_dropped(result.dropped)}")


@verb
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What to train on what, and how.")],
    out: OutDir,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Train one model: inverse (frame pair to action) or forward (frame and action to next frame).

    Example: retrodict train recipes/inverse.yaml --set training.steps=2000 --out runs/inverse
    """
    from retrodict.recipes import TrainRecipe, load_recipe

    loaded = load_recipe(recipe, overrides or (), TrainRecipe)
    check_output(out)

    from retrodict.training.recipe import train_recipe

    with open_progress(quiet, "retrodict train") as progress:
        train_recipe(loaded, out=out, progress=progress)
    typer.echo(f"Model: {out}")


@verb
def annotate(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="Folder that `retrodict mine` wrote.")],
    out: OutDir,
    model: Model = "small",
    quiet: Quiet = False,
) -> None:
    """Let an inverse model write down which action happened in each frame pair, and how sure it is.

    Example: retrodict annotate pairs/ --model small --out labelled
    """
    check_output(out)

    from retrodict.bootstrap.annotate import annotate_dir

    with open_progress(quiet, "retrodict annotate") as progress:
        progress.stage("annotate", "the inverse model says which action each pair shows")
        annotate_dir(pairs, model=model, out=out, progress=progress)
        progress.done()
    _print_counts(out)


@verb
def select(
    transitions: Annotated[Path, typer.Argument(metavar="TRANSITIONS", help="Folder that `retrodict annotate` wrote.")],
    top_k: Annotated[int, typer.Option(min=1, help="How many transitions to keep.")],
    out: OutDir,
) -> None:
    """Keep the transitions whose labels are most likely, going round the video classes in turn.

    Example: retrodict select labelled/ --top-k 7000 --out chosen
    """
    check_output(out)

    from retrodict.bootstrap.select import select_dir

    select_dir(transitions, top_k=top_k, out=out)
    _print_counts(out)


@verb
def bootstrap(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Labelled pairs, videos, and every setting.")],
    out: OutDir,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Run the whole loop on your own labelled pairs and videos.

    Stages that are done are not done again: after an interruption the same command goes on.

    Example: retrodict bootstrap recipes/bootstrap.yaml --set data.labelled=/data/pairs --out runs/mine
    """
    from retrodict.recipes import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    check_output(out)

    from retrodict.bootstrap.pipeline import run_bootstrap

    with open_progress(quiet, "retrodict bootstrap") as progress:
        run_bootstrap(loaded, out=out, progress=progress)
    typer.echo(f"Models and numbers: {out}")


@verb
def predict(
    source: Source,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="What happens, in words.")],
    n: Many = 8,
    verifier: Check = Verifier.IDM_FDM,
    model: Model = "small",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write.")] = Path("next.png"),
) -> None:
    """Predict the next frame: draw candidates, and keep the one that shows the action best.

    Example: retrodict predict examples/frame.png "push the red ball to the left" -n 8 --out next.png
    """
    check_output_file(out)

    from retrodict.api import predict as run
    from retrodict.api import write_picture

    prediction = run(source, action, n=n, verifier=verifier.value, model=model, seed=seed)
    write_picture(out, prediction.image)
    typer.echo(f"{out}: candidate {prediction.chosen + 1} of {len(prediction.candidates)}")


@verb
def explain(
    source: Source,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Picture of the scene after the action.")],
    model: Model = "small",
) -> None:
    """Say which action happened between two frames.

    Example: retrodict explain before.png after.png
    """
    from retrodict.api import explain as run

    explanation = run(source, target, model=model)
    typer.echo(f"{explanation.action}  (log-probability {explanation.logprob.sum:.2f})")


@verb
def rollout(
    source: Source,
    actions: Annotated[list[str], typer.Argument(metavar="ACTION...", help="What happens, step by step.")],
    out: OutDir,
    n: Many = 8,
    verifier: Check = Verifier.IDM_FDM,
    model: Model = "small",
    seed: Seed = 0,
) -> None:
    """Predict several steps: each predicted frame is where the next action starts.

    Example: retrodict rollout frame.png "push the red ball to the left" "paint the red ball blue" --out steps
    """
    check_output(out)

    from retrodict.api import rollout as run
    from retrodict.api import write_picture

    steps = run(source, actions, n=n, verifier=verifier.value, model=model, seed=seed)
    for number, (action, step) in enumerate(zip(actions, steps, strict=True), start=1):
        path = out / f"step_{number:02d}.png"
        write_picture(path, step.image)
        typer.echo(f"{path}: {action}")


@verb
def rerank(
    source: Source,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="What should have happened, in words.")],
    candidates: Annotated[list[Path], typer.Argument(metavar="CANDIDATE...", help="Pictures, made by any program.")],
    model: Model = "small",
    verifier: Check = Verifier.IDM,
) -> None:
    """Sort pictures from any image editor by how well they show the action, best first.

    Example: retrodict rerank before.png "push the red ball to the left" a.png b.png c.png
    """
    from retrodict.api import rerank as run

    for path, score in run(source, action, candidates, model=model, verifier=verifier.value):
        typer.echo(f"{score:10.3f}  {path}")


@verb
def bench(
    out: OutDir,
    bench: Annotated[Benchmark, typer.Option(help="Which benchmark.")] = Benchmark.TABLETOP,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the benchmark's data, where it does not make its own.")
    ] = None,
    model: Model = "small",
    predictions: Annotated[Path | None, typer.Option(help="Score these pictures instead of a model's.")] = None,
    n: Many = 8,
    verifier: Check = Verifier.IDM_FDM,
    items: Annotated[int, typer.Option(min=1, help="How many scenes to draw from the simulated world.")] = 300,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Measure a model, or anybody's pictures, on a benchmark.

    Example: retrodict bench --bench tabletop --model small -n 8 --out runs/bench
    """
    check_output(out)

    from retrodict.evaluation.bench import run_bench

    with open_progress(quiet, "retrodict bench") as progress:
        run_bench(
            bench.value,
            out=out,
            data=data,
            model=model,
            predictions=predictions,
            n=n,
            verifier=verifier.value,
            items=items,
            seed=seed,
            progress=progress,
        )
    typer.echo(f"Numbers: {out / 'results.json'}")


@verb
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that demo, bootstrap or bench wrote.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Page to write; report.html in the first folder by default.")
    ] = None,
) -> None:
    """Put the results of one or several runs on one self-contained page.

    Example: retrodict report runs/seed0 runs/seed1 --out report.html
    """
    if out is not None:
        check_output_file(out)

    from retrodict.evaluation.report import write_report

    typer.echo(f"Report: {write_report(runs, out)}")


@verb
def info() -> None:
    """Print versions, the models that come with retrodict, and the threads in use; put this into a bug report."""
    import torch

    from retrodict.versions import versions

    for name, version in versions().items():
        typer.echo(f"{name:24}{version}")
    typer.echo(f"{'device':24}{'cuda' if torch.cuda.is_available() else 'cpu'}")
    typer.echo(f"{'threads':24}{torch.get_num_threads()} of {os.cpu_count()} cores")
    weights = Path(__file__).parent / "weights"
    shipped = sorted(folder.name for folder in weights.glob("*") if folder.is_dir())
    typer.echo(f"{'shipped models':24}{', '.join(shipped) or 'none'}")


def _clips(videos: list[Path], layout: Layout, annotations: Path | None) -> list[Path] | list[ClipRef]:
    """What to mine: files and folders as they are, or the clips of one known collection."""
    if layout is Layout.FOLDER and annotations is None:
        return videos
    if len(videos) > 1:
        raise ValueError(f"--layout {layout.value} reads one folder: give the collection's folder alone.")

    from retrodict.data import read_clips

    return read_clips(layout.value, videos[0], annotations)


def _print_counts(out: Path) -> None:
    """One line of what a stage kept, and what it dropped and why."""
    import json

    from retrodict.transitions import MANIFEST

    counts = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["counts"]
    typer.echo(f"{out}: {counts['kept']} kept{_dropped(counts['dropped'])}")


def _dropped(counts: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
    return f"; dropped: {reasons}" if reasons else ""
