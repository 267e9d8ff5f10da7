"""The command that gets published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrodict.cli.app import verb
from retrodict.errors import check_output


@verb
def download(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A recipe's file, a family (chameleon, liquid, ...), or a hub id.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder to write to; a recipe says itself, a hub id goes to the hub's cache."),
    ] = None,
) -> None:
    """Get the weights that a recipe or a family needs, and say what else it needs and where that is.

    The same command again goes on where it stopped. What cannot be fetched is listed, one line each (exit code 2).

    Example: retrodict download liquid --out models/liquid
    """
    from retrodict.training.prerequisites import fetch

    if out is not None:
        check_output(out)
    fetched, missing = fetch(name, out)
    for line in fetched:
        typer.echo(line)
    for line in missing:
        typer.echo(f"retrodict: missing: {line}", err=True)
    if missing:
        raise typer.Exit(2)
