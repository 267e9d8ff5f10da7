"""The human study: `retrodict study build | serve | report`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import typer

from retrodict.cli.app import app
from retrodict.cli.options import OutDir, Quiet, Seed, choice
from retrodict.errors import check_output, guarded
from retrodict.files import JsonObject
from retrodict.progress.view import open_progress
from retrodict.study.plan import PRESETS

P = ParamSpec("P")
T = TypeVar("T")

study = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Ask people which prediction is best and which is worst, blind, in the browser.",
)
app.add_typer(study, name="study")

Folder = Annotated[Path, typer.Argument(metavar="STUDY", help="Folder that `retrodict study build` wrote.")]


def verb(function: Callable[P, T]) -> Callable[P, T]:
    return study.command()(guarded(function))


@verb
def build(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="BENCH_DIR...",
            help="What to compare: folders that bench wrote, or folders of images named after items. NAME=FOLDER "
            "names a system; FOLDER@idm shows the candidate that this verifier chooses in place of the greedy one.",
        ),
    ],
    out: OutDir,
    data: Annotated[
        Path | None, typer.Option(help="Folder of AURORA-Bench, for systems that were measured on it.")
    ] = None,
    preset: Annotated[
        str,
        choice(
            PRESETS,
            help="; ".join(
                f"`{name}` {d.per_subset} items per subset, {d.raters} raters" for name, d in PRESETS.items()
            )
            + ".",
        ),
    ] = "default",
    per_subset: Annotated[int | None, typer.Option(min=1, help="Items of each subset.")] = None,
    raters: Annotated[int | None, typer.Option(min=1, help="How many personal links to make.")] = None,
    repeats: Annotated[
        float | None, typer.Option(min=0, max=0.5, help="Share of items that each rater sees twice.")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the first page.")] = "Which picture shows what happens next?",
    consent: Annotated[
        Path | None,
        typer.Option(help="Text file for the consent page; blank lines part paragraphs."),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out items that some system has no image for, and say so.")
    ] = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Make a study: choose items, hide which system made which image, print one link per rater.

    Example: retrodict study build runs/ft runs/fdm --out study
    """
    check_output(out)

    from dataclasses import replace

    from retrodict.study.build import CONSENT, build

    asked: JsonObject = {"per_subset": per_subset, "raters": raters, "repeat_share": repeats}
    design = replace(PRESETS[preset], **{name: value for name, value in asked.items() if value is not None})
    with open_progress(quiet, "retrodict study build") as progress:
        plan = build(
            systems,
            out,
            data=data,
            design=design,
            title=title,
            consent=CONSENT if consent is None else _paragraphs(consent),
            allow_missing=allow_missing,
            seed=seed,
            progress=progress,
        )
    typer.echo(f"{len(plan.items)} items, {plan.candidates} candidates each, {plan.raters} raters.")
    typer.echo(f"Next: retrodict study serve {out}")


def _paragraphs(path: Path) -> tuple[str, ...]:
    paragraphs = tuple(
        " ".join(part.split()) for part in path.read_text(encoding="utf-8").split("\n\n") if part.strip()
    )
    if not paragraphs:
        raise ValueError(f"{path} is empty: a consent page needs words.")
    return paragraphs


@verb
def serve(
    folder: Folder,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The default is this machine only; 0.0.0.0 is the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8765,
    public_url: Annotated[
        str, typer.Option(help="Address that raters use, where a proxy with https stands in front.")
    ] = "",
) -> None:
    """Show the study to raters and print their personal links; Ctrl-C stops, the same command resumes.

    Example: retrodict study serve study
    """
    from retrodict.study.server import serve

    serve(folder, host=host, port=port, base=public_url, say=typer.echo)


@verb
def report(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write to; `report` inside the study by default.")
    ] = None,
) -> None:
    """Say what the raters chose: scores with intervals, tests, agreement. This is where systems get their names back.

    Example: retrodict study report study
    """
    out = check_output(out or folder / "report")

    from retrodict.study.report import write_report

    typer.echo(f"Report: {write_report(folder, out)}")
