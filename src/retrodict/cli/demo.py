"""The whole loop on a simulated world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from retrodict.cli.app import refuse_beside, verb
from retrodict.cli.options import OutDir, Overrides, Quiet, Seed, trains_models
from retrodict.cli.printing import print_numbers
from retrodict.errors import check_output
from retrodict.models.registry import UNIFIED
from retrodict.progress.view import open_progress
from retrodict.worlds import DEFAULT, WORLDS


@verb
@trains_models
def demo(
    out: OutDir = Path("demo"),
    seed: Seed = 0,
    scale: Annotated[
        Literal["quick", "full"],
        typer.Option(
            help="`quick` takes some five minutes on two cores. `full` trains FT, FDM and the ceiling three times, and "
            "all ablations."
        ),
    ] = "quick",
    world: Annotated[str, typer.Option(metavar="WORLD", help=f"The simulated world: {', '.join(WORLDS)}.")] = DEFAULT,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="FAMILY",
            help="Run a small loop on a tiny model of a family instead, to see that all parts work with it: "
            f"{', '.join(UNIFIED)}. Its weights are random: the numbers mean nothing.",
        ),
    ] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Run the whole loop on a simulated world and write a report.

    An inverse model learns what actions look like, labels raw video, and so teaches and checks a forward model. Open
    report.html in the output folder: it fills while the run goes on.

    Example: retrodict demo --out demo
    """
    check_output(out)
    if family:
        refuse_beside("--family", "scale")

    from retrodict.bootstrap.loop import RECIPES, run_bootstrap
    from retrodict.bootstrap.recipe import BootstrapRecipe
    from retrodict.recipes import load_recipe

    name = "demo-tiny" if family else "demo" if scale == "quick" else "demo-full"
    changes = [f"seed={seed}", f"world.name={world}", *([f"family={family}"] if family else []), *(overrides or ())]
    recipe = load_recipe(RECIPES / f"{name}.yaml", BootstrapRecipe, changes)
    if not quiet:
        typer.echo(f"{out / 'report.html'} shows the run while it goes on.", err=True)
    with open_progress(quiet, "retrodict demo") as progress:
        run_bootstrap(recipe, out, progress)
    if family:
        from retrodict.bootstrap.results import NOTE

        typer.echo(NOTE)
    else:
        print_numbers(out)
    typer.echo(f"Report: {out / 'report.html'}\nNumbers: {out / 'results.json'}")
