"""The whole loop on the simulated world."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retrodict.cli.app import verb
from retrodict.cli.options import OutDir, Quiet, Seed
from retrodict.errors import check_output
from retrodict.models.registry import FAMILIES, get_family
from retrodict.progress.view import open_progress


class Scale(StrEnum):
    QUICK = "quick"
    FULL = "full"


@verb
def demo(
    out: OutDir = Path("demo"),
    seed: Seed = 0,
    scale: Annotated[
        Scale, typer.Option(help="`quick` takes minutes on two cores, `full` trains longer.")
    ] = Scale.QUICK,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="FAMILY",
            help="Run a small loop on a tiny model of a family instead, to see that all parts work with it: "
            f"{', '.join(FAMILIES)}. Its weights are random: the numbers mean nothing.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run the whole loop on a simulated world and write a report.

    An inverse model learns what actions look like, labels raw video, and so teaches and checks a forward model. Open
    report.html in the output folder when it is done.

    Example: retrodict demo --out demo
    """
    check_output(out)
    if family is not None:
        get_family(family)

    from retrodict.bootstrap.demo import run_demo

    with open_progress(quiet, "retrodict demo") as progress:
        run_demo(out, seed, scale.value, progress, family)
    typer.echo(f"Report: {out / 'report.html'}\nNumbers: {out / 'results.json'}")
    if family is not None:
        from retrodict.bootstrap.demo_families import NOTE

        typer.echo(NOTE)
