"""Commands that ask models about what is known, and that compare runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from retrodict.cli.app import verb
from retrodict.cli.options import (
    Bench,
    Data,
    Items,
    Limit,
    Model,
    OutDir,
    Quiet,
    Seed,
    Subsets,
    choice,
    options_of,
    runs_models,
)
from retrodict.data.questions import READERS
from retrodict.errors import check_output
from retrodict.progress.view import open_progress
from retrodict.prompts import Direction
from retrodict.shards import Sharing
from retrodict.worlds import DEFAULT


@verb
@runs_models
@options_of(Sharing)
def probe(
    out: OutDir,
    sharing: Sharing,
    bench: Bench = DEFAULT,
    data: Data = None,
    model: Model = "small",
    direction: Annotated[
        list[str] | None,
        choice(get_args(Direction), help="Direction to probe; by default those that the model has. Repeatable."),
    ] = None,
    items: Items = None,
    subset: Subsets = None,
    limit: Limit = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Ask whether a model finds what happened likelier than what did not: another action, another outcome, a copy, the
    reverse.

    Example: retrodict probe --model small --out runs/probe
    """
    check_output(out)

    from retrodict.report.runs import probe as run

    with open_progress(quiet, "retrodict probe") as progress:
        results = run(
            bench,
            out=out,
            model=model,
            directions=direction or (),
            data=data,
            seed=seed,
            items=items,
            subsets=subset or (),
            limit=limit,
            where=sharing.where(),
            progress=progress,
        )
    if not results:
        typer.echo(f"{out}: this share is answered; whichever process finds all of them measures.")
        return
    typer.echo(f"Numbers: {out / 'results.json'}")


@verb
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of another run on the same items.")],
    measure: Annotated[
        str, typer.Option(help="What to compare: score, l1, clip_i, ..., judge:NAME; by default what both runs have.")
    ] = "",
    row_a: Annotated[str, typer.Option(help="Row of A: a system, or fdm.k8.idm_fdm; by default its own.")] = "",
    row_b: Annotated[str, typer.Option(help="Row of B.")] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the numbers and a report; by default none."),
    ] = None,
) -> None:
    """Compare two runs item by item, per subset, with intervals and tests that account for several subsets.

    Example: retrodict compare runs/fdm runs/ft --measure score
    """
    if out is not None:
        check_output(out)

    from retrodict.evaluation.compare import compare_runs
    from retrodict.report import write_report
    from retrodict.report.compare import text

    typer.echo(text(compare_runs(a, b, measure=measure, rows=(row_a, row_b), out=out)))
    if out is not None:
        write_report(out)


@verb
@runs_models
def qa(
    model: Annotated[
        str, typer.Option("--model", "-m", help="Vision-language model that answers: a folder or model hub id.")
    ],
    data: Annotated[Path, typer.Option(help="The set's file: test.jsonl or embspatial_bench.json.")],
    out: OutDir,
    bench: Annotated[str, choice(READERS, help="Which set of questions.")] = "spatialmqa",
    images: Annotated[
        Path | None, typer.Option(help="Folder of the questions' images; by default where the file is.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    quiet: Quiet = False,
) -> None:
    """Ask a vision-language model where things are: likeliest option and written answer, beside chance.

    Example: retrodict qa --bench spatialmqa --data test.jsonl --images coco/test2017 --model models/vlm --out runs/qa
    """
    check_output(out)

    from retrodict.report.runs import qa as run

    with open_progress(quiet, "retrodict qa") as progress:
        results = run(
            bench,
            data=data,
            images=images or data.parent,
            model=model,
            out=out,
            limit=limit,
            progress=progress,
        )
    right, lost = results["accuracy"], results["parse_failures"]
    for way in ("likelihood_mean", "generation"):
        low, high = right[way]["ci95"]
        typer.echo(f"{way}: {right[way]['share']:.3f} right ({low:.3f} to {high:.3f}, n = {right[way]['n']})")
    typer.echo(f"chance: {results['chance']:.3f}; written answers that name no option: {lost['count']} of {lost['n']}")
    typer.echo(f"Numbers: {out / 'results.json'}")
