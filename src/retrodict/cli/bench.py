"""Commands that measure models and show the results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrodict.cli.app import refuse_all_but, refuse_beside, verb
from retrodict.cli.options import (
    SHAPES,
    Bench,
    Check,
    Data,
    Inverse,
    Items,
    Limit,
    Many,
    Model,
    OutDir,
    Quiet,
    Seed,
    Subsets,
    options_of,
    runs_models,
    takes_addresses,
)
from retrodict.cli.printing import print_numbers
from retrodict.dynamics.verifiers import NONE
from retrodict.errors import check_output, check_output_file
from retrodict.evaluation import L1Protocol
from retrodict.progress.view import open_progress
from retrodict.sampling import Sampling
from retrodict.shards import Sharing
from retrodict.worlds import DEFAULT


@verb
@takes_addresses
@runs_models
@options_of(Sampling)
@options_of(Sharing)
def bench(
    out: OutDir,
    sampling: Sampling,
    sharing: Sharing,
    bench: Bench = DEFAULT,
    data: Data = None,
    model: Model = "small",
    predictions: Annotated[
        Path | None,
        typer.Option(help="Folder of images named after the items (ag-001.png), to score instead of a model's."),
    ] = None,
    export: Annotated[
        bool,
        typer.Option("--export", help="Write the items' sources and actions to --out, for another program to predict."),
    ] = False,
    inverse: Inverse = "",
    n: Many = 8,
    verifier: Check = "idm_fdm",
    items: Items = None,
    subset: Subsets = None,
    limit: Limit = None,
    l1: Annotated[L1Protocol, typer.Option(help="How L1 compares images of unequal size.")] = "native-lanczos",
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Without exact states: also `clip`, `dino` or `bertscore`; or clip=FOLDER. Repeatable."),
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="JSON file of item ids and what their targets show, for CLIP-T.")
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Measure a model, or anybody's images, on a benchmark.

    Example: retrodict bench --model small -n 8 --out runs/bench
    """
    check_output(out)
    chosen_by = ("out", "bench", "data", "items", "subset", "limit", "seed", "quiet")
    if export:
        refuse_all_but("--export", *chosen_by)
        from retrodict.evaluation.benchmarks import export_items, open_benchmark

        chosen = open_benchmark(bench, data=data, items=items, subsets=subset or (), limit=limit, seed=seed)
        typer.echo(f"{out}: {export_items(chosen, out)} items; call predictions <id>.png, then --predictions FOLDER")
        return

    if verifier == NONE:
        refuse_beside("--verifier none", *SHAPES)
    if predictions is not None:
        refuse_all_but("--predictions", *chosen_by, "l1", "metric", "captions", "device", "dtype")
    from retrodict.report.runs import bench as run

    with open_progress(quiet, "retrodict bench") as progress:
        results = run(
            bench,
            out=out,
            data=data,
            model=model,
            inverse=inverse,
            predictions=predictions,
            n=n,
            verifier=verifier,
            sampling=sampling,
            items=items,
            subsets=subset or (),
            limit=limit,
            protocol=l1,
            metrics=metric or (),
            captions=captions,
            where=sharing.where(),
            seed=seed,
            progress=progress,
        )
    if not results:
        typer.echo(f"{out}: this share is predicted; whichever process finds all of them measures.")
        return
    print_numbers(out)
    typer.echo(f"Numbers: {out / 'results.json'}\nReport: {out / 'report.html'}")


@verb
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders that demo, bootstrap, bench, probe or qa wrote.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Page to write; report.html in the first folder by default.")
    ] = None,
) -> None:
    """Put the results of one or several runs on one self-contained page.

    Example: retrodict report runs/seed0 runs/seed1 --out report.html
    """
    if out is not None:
        check_output_file(out)

    from retrodict.report import write_report

    typer.echo(f"Report: {write_report(runs, out)}")


@verb
def view(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders that demo, bootstrap or bench wrote; several stand side by side."
        ),
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen, on this machine only; 0: a free one.")
    ] = 8377,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the pages as files, which need no server, and end.")
    ] = None,
) -> None:
    """Look at every item of runs in the browser: images, candidates, scores, judges' words.

    Example: retrodict view runs/bench runs/other
    """
    if out is not None:
        refuse_beside("--out", "port")
        check_output(out)

    from retrodict.report.view_server import server
    from retrodict.report.viewer import PAGE, Viewer

    viewer = Viewer(runs)
    if out is not None:
        size = viewer.write(out)
        typer.echo(f"Items: {len(viewer.items)}, {size / 1e6:,.1f} MB\nPage: {out / PAGE}")
        return
    with server(viewer, port) as listening:
        typer.echo(f"{len(viewer.items)} items: http://127.0.0.1:{listening.server_port}/  (Ctrl-C ends)")
        listening.serve_forever()
