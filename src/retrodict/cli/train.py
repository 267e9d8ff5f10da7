"""Commands of the loop: from frame pairs and labels to trained models, at once or step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrodict.cli.app import verb
from retrodict.cli.options import (
    Model,
    OutDir,
    Overrides,
    Quiet,
    choice,
    options_of,
    runs_models,
    takes_addresses,
    trains_models,
)
from retrodict.cli.printing import print_counts, print_numbers
from retrodict.errors import check_output
from retrodict.models.registry import FAMILIES, UNIFIED
from retrodict.progress.view import open_progress
from retrodict.shards import Sharing

_PUBLISHED = [name for name in UNIFIED if FAMILIES[name].checkpoints]
MaybeOutDir = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder to write to. The same command again continues there.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what it would cost, and what is missing. Loads no weights.")
]


@verb
@trains_models
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What to train on what, and how.")],
    out: MaybeOutDir = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Train one model: inverse (frame pair to action) or forward (frame and action to next frame).

    On several GPUs: torchrun --nproc-per-node 4 -m retrodict train RECIPE.yaml --out DIR

    Example: retrodict train recipes/inverse.yaml --set training.steps=2000 --out runs/inverse
    """
    from retrodict.recipes import load_recipe
    from retrodict.training.config import TrainRecipe

    loaded = load_recipe(recipe, TrainRecipe, overrides or ())
    if dry_run:
        from retrodict.training.estimate import estimate

        typer.echo("\n".join(estimate(loaded).lines()))
        return
    if out is None:
        raise ValueError("Say where to write the model: --out DIR (or what it would cost: --dry-run).")
    check_output(out)

    from retrodict.evaluation.benchmarks import read_results
    from retrodict.training.distributed import is_main, leave
    from retrodict.training.recipe import train_recipe

    with open_progress(quiet or not is_main(), "retrodict train") as progress:
        train_recipe(loaded, out=out, progress=progress)
    leave()
    if is_main():
        from retrodict.report import PAGE, write_report
        from retrodict.training.action_meter import describe

        for direction, meter in (read_results(out).get("action_meter") or {}).items():
            typer.echo(f"The {direction} model: {describe(meter)}")
        page = out / PAGE
        typer.echo(f"Model: {out}\nReport: {page if page.is_file() else write_report(out)}")


@verb
@takes_addresses
@runs_models
@options_of(Sharing)
def annotate(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="Folder that `retrodict mine` wrote.")],
    out: OutDir,
    sharing: Sharing,
    model: Model = "small",
    quiet: Quiet = False,
) -> None:
    """Let an inverse model write down which action happened in each frame pair, and how sure it is.

    Several processes share the files: `--shard 1/4` to `--shard 4/4` anywhere, the ranks of torchrun, the tasks of a
    Slurm array, or `--executor ray`.

    Example: retrodict annotate pairs/ --model small --out labelled
    """
    check_output(out)

    from retrodict.bootstrap.annotate import annotate_dir
    from retrodict.models.hub import rows_folder

    with open_progress(quiet, "retrodict annotate") as progress:
        progress.stage("annotate", "the inverse model says which action each pair shows")
        made = annotate_dir(rows_folder(pairs), model=model, out=out, progress=progress, where=sharing.where())
        progress.done()
    if made:
        print_counts(out)
    else:
        typer.echo(f"{out}: this share is labelled; whichever process finds all files labelled counts them.")


@verb
@takes_addresses
def select(
    transitions: Annotated[Path, typer.Argument(metavar="TRANSITIONS", help="Folder that `retrodict annotate` wrote.")],
    top_k: Annotated[int, typer.Option(min=1, help="How many transitions to keep.")],
    out: OutDir,
) -> None:
    """Keep the transitions whose labels are most likely, round-robin over the video classes.

    Example: retrodict select labelled/ --top-k 7000 --out chosen
    """
    check_output(out)

    from retrodict.bootstrap.select import select_dir
    from retrodict.models.hub import rows_folder

    select_dir(rows_folder(transitions), top_k=top_k, out=out)
    print_counts(out)


@verb
@trains_models
def bootstrap(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Labelled pairs, videos, and every setting.")],
    out: MaybeOutDir = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole loop on your own labelled pairs and videos.

    Stages that are done are not done again: after an interruption the same command resumes. On several GPUs:
    torchrun --nproc-per-node 4 -m retrodict bootstrap RECIPE.yaml --out DIR

    Example: retrodict bootstrap recipes/bootstrap.yaml --set data.labelled=/data/pairs --out runs/mine
    """
    from retrodict.bootstrap.recipe import BootstrapRecipe
    from retrodict.recipes import load_recipe

    loaded = load_recipe(recipe, BootstrapRecipe, overrides or ())
    if dry_run:
        from retrodict.bootstrap.plan import plan

        typer.echo("\n".join(plan(loaded)))
        return
    if out is None:
        raise ValueError("Say where to write the run: --out DIR (or what it would cost: --dry-run).")
    check_output(out)

    from retrodict.bootstrap.loop import run_bootstrap
    from retrodict.training.distributed import is_main, leave

    with open_progress(quiet or not is_main(), "retrodict bootstrap") as progress:
        run_bootstrap(loaded, out=out, progress=progress)
    leave()
    if is_main():
        print_numbers(out)
        typer.echo(f"Report: {out / 'report.html'}\nModels and numbers: {out}")


@verb
def recipe(
    explain: Annotated[
        str, typer.Option("--explain", metavar="KEY", help="One key (`forward.steps`, or `steps` wherever it is).")
    ] = "",
) -> None:
    """Say what can stand in a recipe: every key with its type, default and meaning.

    Example: retrodict recipe --explain select.top_k
    """
    from retrodict.bootstrap.recipe import BootstrapRecipe
    from retrodict.recipes import reference
    from retrodict.training.config import TrainRecipe

    kinds = {"bootstrap": BootstrapRecipe, "train": TrainRecipe}
    if explain:
        typer.echo(reference.explain(kinds, explain))
    else:
        typer.echo("\n".join(f"[{name}] {key}" for name, kind in kinds.items() for key in reference.keys(kind)))


@verb
def scale(
    clips: Annotated[float, typer.Option(min=1, help="How many videos: 1e6.")] = 1e6,
    seconds: Annotated[float, typer.Option(min=0, help="How long each is.")] = 10.0,
    selected: Annotated[
        float | None, typer.Option(min=1, help="Pairs that the forward model learns from; by default a tenth of all.")
    ] = None,
    family: Annotated[str, choice(_PUBLISHED, help="Family that labels and learns.")] = _PUBLISHED[0],
    cores: Annotated[int, typer.Option(min=1, help="CPU cores that there are.")] = 64,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that there are.")] = 8,
) -> None:
    """Say what the loop costs on so many videos: hours, bytes, files, and what breaks first.

    Example: retrodict scale --clips 1e6 --gpus 8
    """
    from retrodict.bootstrap.scale import CONSTANTS, lines

    rows = clips * CONSTANTS["pairs"].value / 10 if selected is None else selected
    typer.echo("\n".join(lines(clips, seconds, rows, family, cores, gpus)))
