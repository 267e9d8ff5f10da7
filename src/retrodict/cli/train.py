"""Commands of the loop: from frame pairs and labels to trained models, at once or step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrodict.cli.app import verb
from retrodict.cli.options import Model, OutDir, Overrides, Part, Quiet, runs_models, trains_models
from retrodict.cli.printing import print_counts, print_numbers
from retrodict.errors import check_output
from retrodict.progress.view import open_progress

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
@runs_models
def annotate(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="Folder that `retrodict mine` wrote.")],
    out: OutDir,
    model: Model = "small",
    shard: Part = "",
    quiet: Quiet = False,
) -> None:
    """Let an inverse model write down which action happened in each frame pair, and how sure it is.

    Several processes share the files: `--shard 1/4` to `--shard 4/4` anywhere, the ranks of torchrun, or the tasks of a
    Slurm array.

    Example: retrodict annotate pairs/ --model small --out labelled
    """
    check_output(out)

    from retrodict.bootstrap.annotate import annotate_dir
    from retrodict.shards import share_of_process

    with open_progress(quiet, "retrodict annotate") as progress:
        progress.stage("annotate", "the inverse model says which action each pair shows")
        made = annotate_dir(pairs, model=model, out=out, progress=progress, share=share_of_process(shard))
        progress.done()
    if made:
        print_counts(out)
    else:
        typer.echo(f"{out}: this share is labelled; whichever process finds all files labelled counts them.")


@verb
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

    select_dir(transitions, top_k=top_k, out=out)
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
