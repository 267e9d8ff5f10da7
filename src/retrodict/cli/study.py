"""The human study: `retrodict study power | build | serve | links | forget | words | report`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar, cast, get_args

import typer

from retrodict.cli.app import Command, app, refuse_without
from retrodict.cli.options import OutDir, Quiet, Seed, choice
from retrodict.errors import check_output, guarded
from retrodict.files import JsonObject, text_lines
from retrodict.progress.view import open_progress
from retrodict.study.analysis.exclude import RULES
from retrodict.study.plan import PRESETS, Crowd, Method, read_key, read_plan

P = ParamSpec("P")
T = TypeVar("T")

study = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Ask people which prediction is best and which is worst, blind, in the browser.",
)
app.add_typer(study, name="study")

METHODS: tuple[str, ...] = get_args(Method)
PublicUrl = Annotated[
    str, typer.Option(help="Address that raters use, where a proxy with https stands in front; it may have a path.")
]
Folder = Annotated[Path, typer.Argument(metavar="STUDY", help="Folder that `retrodict study build` wrote.")]


def verb(function: Callable[P, T]) -> Callable[P, T]:
    return study.command(cls=Command)(guarded(function))


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
    raters: Annotated[int | None, typer.Option(min=0, help="How many personal links to make.")] = None,
    repeats: Annotated[
        float | None, typer.Option(min=0, max=0.5, help="Share of items that each rater sees twice.")
    ] = None,
    items_per_rater: Annotated[
        int | None, typer.Option(min=1, help="Items of one rater, spread evenly; by default all.")
    ] = None,
    raters_per_item: Annotated[
        int | None, typer.Option(min=1, help="Judgements after which an item is given to nobody else.")
    ] = None,
    method: Annotated[
        str, choice(METHODS, help="`best-worst`: which candidate is best, which worst; `rating`: how good each is.")
    ] = "best-worst",
    show: Annotated[
        int, typer.Option(min=0, max=9, help="Candidates on the page at a time; 2 is pairwise, 0 all.")
    ] = 0,
    points: Annotated[int, typer.Option(help="Points of the rating scale.")] = 5,
    question: Annotated[
        list[str] | None, typer.Option(help="Asked about each item; several are asked one after another.")
    ] = None,
    comments: Annotated[bool, typer.Option("--comments", help="Let raters write something about a task.")] = False,
    seconds: Annotated[int, typer.Option(min=0, help="How long candidates are in view; 0: no limit.")] = 0,
    break_every: Annotated[int, typer.Option(min=1, help="Tasks after which the page proposes a break.")] = 25,
    crowd: Annotated[
        bool, typer.Option("--crowd", help="One link for everybody whom a platform sends; needs --raters-per-item.")
    ] = False,
    crowd_id: Annotated[
        str, typer.Option(help="Query parameter that says who comes, such as PROLIFIC_PID; by default the known ones.")
    ] = "",
    code: Annotated[str, typer.Option(help="Completion code; by default one of each rater's own.")] = "",
    return_url: Annotated[
        str, typer.Option(help="Where the last page leads; {code} and {PARAMETER} are filled in.")
    ] = "",
    failed_checks: Annotated[
        int | None, typer.Option(min=0, help="With more failed attention checks a rater ends without a code.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help=f"Rule of exclusion, fixed now for the report: {RULES}.")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the first page.")] = "",
    consent: Annotated[
        Path | None,
        typer.Option(help="Text file for the consent page; blank lines part paragraphs."),
    ] = None,
    words: Annotated[
        Path | None, typer.Option(help="Words in another language: what `retrodict study words` prints, translated.")
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="Folder with worked examples of your own in `examples.json`.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out items that some system has no image for, and say so.")
    ] = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Make a study: choose items, hide which system made which image, make one link per rater.

    Example: retrodict study build runs/ft runs/fdm --out study
    """
    check_output(out)
    if not crowd:
        refuse_without("--crowd", "crowd_id", "code", "return_url", "failed_checks")
    if method != "rating":
        refuse_without("--method rating", "points")

    from retrodict.study.build import Texts, build
    from retrodict.study.words import read_words

    sizes: JsonObject = {
        "per_subset": per_subset,
        "raters": 0 if crowd and raters is None else raters,
        "repeat_share": repeats,
        "items_per_rater": items_per_rater,
        "raters_per_item": raters_per_item,
    }
    design = replace(
        PRESETS[preset],
        **{name: value for name, value in sizes.items() if value is not None},
        method=cast(Method, method),
        show=show,
        points=points,
        questions=tuple(question or ()),
        comments=comments,
        seconds=seconds,
        break_every=break_every,
    )
    texts = Texts(title, () if consent is None else _paragraphs(consent), read_words(words) if words else {}, examples)
    with open_progress(quiet, "retrodict study build") as progress:
        plan = build(
            systems,
            out,
            data=data,
            design=design,
            texts=texts,
            crowd=Crowd(crowd_id, code, return_url, failed_checks) if crowd else None,
            exclude=exclude or (),
            allow_missing=allow_missing,
            seed=seed,
            progress=progress,
        )
    typer.echo(f"{len(plan.items)} items, {plan.candidates} candidates each, {plan.design.raters} raters.")
    for system, count in read_key(out).reshaped.items():
        typer.echo(f"{system}: {count} images have another shape than their source: shown whole, with grey bars.")
    typer.echo(f"Next: retrodict study serve {out}")


def _paragraphs(path: Path) -> tuple[str, ...]:
    text = "".join(text_lines(path))
    paragraphs = tuple(" ".join(part.split()) for part in text.split("\n\n") if part.strip())
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
    public_url: PublicUrl = "",
    proxy: Annotated[
        str,
        typer.Option(
            help="Addresses of proxies whose X-Forwarded-For is believed, with commas. With --public-url and the "
            "default host: this machine's."
        ),
    ] = "",
) -> None:
    """Show the study to raters and print their personal links; Ctrl-C stops, the same command resumes.

    Example: retrodict study serve study
    """
    from retrodict.study.server import serve

    serve(folder, host=host, port=port, base=public_url, proxy=proxy, say=typer.echo)


@verb
def links(
    folder: Folder,
    public_url: PublicUrl = "http://127.0.0.1:8765",
    add: Annotated[int, typer.Option(min=0, help="Make so many more raters first.")] = 0,
) -> None:
    """Print the admin's token and the raters' links, also while the study is served.

    Example: retrodict study links study --add 2
    """
    from retrodict.study.plan import DATABASE
    from retrodict.study.server import links
    from retrodict.study.store import Store
    from retrodict.web.address import check_address

    check_address(public_url)
    if add:
        plan = read_plan(folder)
        with Store(folder / DATABASE) as store:
            added = store.add_raters(plan, add)
        if added < add:
            typer.echo(f"Every item has its {plan.design.raters_per_item} judgements: {added} raters added.")
    for line in links(folder, public_url):
        typer.echo(line)


@verb
def forget(
    folder: Folder, rater: Annotated[int, typer.Argument(help="The rater's number, as on the admin page.")]
) -> None:
    """Delete all that one rater has given and all that is known of them. Backups and exports keep it: delete it there.

    Example: retrodict study forget study 3
    """
    from retrodict.study.plan import DATABASE
    from retrodict.study.store import Store

    read_plan(folder)
    with Store(folder / DATABASE) as store:
        typer.echo(f"Rater {rater} is forgotten, with {store.forget(rater)} judgements.")


@verb
def words() -> None:
    """Print the English words of the raters' pages as JSON, to be translated for `build --words`.

    Example: retrodict study words > ar.json
    """
    from retrodict.study.words import ENGLISH

    typer.echo(ENGLISH.read_text(encoding="utf-8"), nl=False)


@verb
def power(
    difference: Annotated[
        float, typer.Option(help="Difference of two systems' best/worst scores that matters to you.")
    ],
    systems: Annotated[int, typer.Option(min=2, max=9, help="Systems in the study.")] = 4,
    raters_per_item: Annotated[
        list[int] | None, typer.Option(min=1, help="Judgements of each item; repeatable, by default 1, 3 and 5.")
    ] = None,
    items_per_rater: Annotated[int, typer.Option(min=0, help="Items of one rater; 0: all.")] = 0,
    luck: Annotated[
        float, typer.Option(min=0, help="What an image is worth by chance to all raters, in units of one rater's whim.")
    ] = 0.5,
    dropout: Annotated[float, typer.Option(min=0, max=0.9, help="Share of judgements that never come.")] = 0.0,
    goal: Annotated[float, typer.Option(min=0.5, max=0.99, help="Share of studies that must show it.")] = 0.8,
    studies: Annotated[int, typer.Option(min=50, help="Simulated studies per design.")] = 200,
    seed: Seed = 0,
) -> None:
    """Say how many items and raters a study needs to show a difference, by simulating it with the report's own tests.

    Example: retrodict study power --difference 0.2
    """
    from retrodict.study.analysis.power import Assumption, needed

    assumption = Assumption(difference, systems, luck, dropout, items_per_rater)
    typer.echo("judgements per item | items | raters | judgements | power (95 % interval)")
    for per_item in raters_per_item or (1, 3, 5):
        typer.echo(needed(assumption, per_item, goal=goal, studies=studies, seed=seed))


@verb
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="STUDY...", help="Folders that `retrodict study build` wrote; several are put together."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write to; `report` inside the study by default.")
    ] = None,
    judgements: Annotated[
        list[Path] | None,
        typer.Option(help="Blind export (JSON lines) that is read in place of the database; may be given repeatedly."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help=f"Rule of exclusion, beyond those fixed at build: {RULES}.")
    ] = None,
) -> None:
    """Say what the raters chose: scores with intervals, tests, agreement. This is where systems get their names back.

    Example: retrodict study report study
    """
    if out is None and len(folders) > 1:
        raise ValueError("Several studies are put together: name a folder for their report with --out.")
    out = check_output(out or folders[0] / "report")

    from retrodict.study.report import write_report

    typer.echo(f"Report: {write_report(folders, out, exports=judgements or (), exclude=exclude or ())}")
