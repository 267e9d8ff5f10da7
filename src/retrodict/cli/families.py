"""Commands that get published weights and turn them into model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrodict.cli.app import verb
from retrodict.errors import check_output
from retrodict.models.registry import FAMILIES, UNIFIED

PUBLISHED = [family.name for family in FAMILIES.values() if family.checkpoints]
CONVERTED = [name for name in PUBLISHED if name in UNIFIED]


@verb
def convert(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help=f"What it is: {', '.join(CONVERTED)}.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of the downloaded checkpoint.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the model to.")],
    image_tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder with vqgan.ckpt and vqgan.yaml, where the checkpoint comes without a decoder."),
    ] = None,
    pad: Annotated[
        bool,
        typer.Option("--pad", help="Make images square by bars, not by cropping: as SWIRL's Liquid was trained."),
    ] = False,
) -> None:
    """Turn a published checkpoint into a model folder that every other command takes.

    Reads the authors' original format of Chameleon and Anole as well as the layout of transformers. Which files each
    family needs, and where they come from, is in docs/families.md.

    Example: retrodict convert chameleon Anole-7b-v0.1 --out anole
    """
    check_output(out)

    from retrodict.models.hub import convert as run

    run(family, source, out, image_tokenizer, pad=pad)
    typer.echo(f"{out}: a {family} model that nobody has trained yet")


@verb
def download(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help=f"A recipe's file, a hub id, or one of {', '.join(PUBLISHED)}.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder to write to; a recipe says itself, a hub id goes to the hub's cache."),
    ] = None,
) -> None:
    """Get the weights that a recipe or a family needs, and say what else it needs and where that is.

    The same command again resumes where it stopped. What cannot be fetched is listed, one line each (exit code 2).

    Example: retrodict download liquid --out models/liquid
    """
    from retrodict.bootstrap.plan import fetch_recipe
    from retrodict.training.prerequisites import fetch

    if out is not None:
        check_output(out)
    fetched, missing = fetch_recipe(Path(name), out) if name.endswith((".yaml", ".yml")) else fetch(name, out)
    for line in fetched:
        typer.echo(line)
    for line in missing:
        typer.echo(f"retrodict: missing: {line}", err=True)
    if missing:
        raise typer.Exit(2)


@verb
def push(
    folder: Annotated[Path, typer.Argument(help="A model, an adapter, rows of any stage, or a run.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where on the Hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and show the card.")] = False,
    public: Annotated[bool, typer.Option("--public", help="For all to see; by default it is private.")] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Also images that no simulated world drew: you may pass them on.")
    ] = False,
) -> None:
    """Push a folder to the Hugging Face Hub, with a card that has its numbers, command and licence.

    Example: retrodict push runs/mine OWNER/NAME --dry-run
    """
    from retrodict import hub

    if dry_run:
        typer.echo("\n".join(hub.prepare(folder, repository, public=public, pictures=pictures).lines()))
    else:
        typer.echo(hub.push(folder, repository, public=public, pictures=pictures))
