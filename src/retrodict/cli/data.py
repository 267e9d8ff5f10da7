"""Commands that make the first folder of the loop: frame pairs out of video, transitions out of labelled data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrodict.cli.app import Command, app, refuse_beside, refuse_without, verb
from retrodict.cli.options import OutDir, Quiet, Seed, choice, one_of, options_of, takes_addresses
from retrodict.cli.printing import dropped, print_counts
from retrodict.data.config import CollectConfig
from retrodict.data.layouts import FOLDER, LAYOUTS, PRESETS, labelled_layouts, video_layouts
from retrodict.errors import check_output, guarded
from retrodict.files import JsonObject
from retrodict.progress.view import open_progress
from retrodict.shards import Sharing, share_of_process
from retrodict.video.config import ExecutorName, MineConfig
from retrodict.worlds import WORLDS

if TYPE_CHECKING:
    from retrodict.data import Columns, Item
    from retrodict.video import ClipRef

_UNREAD = ("missing", "empty", "unreadable", "undecodable")  # reasons why a clip gives no pair: it shows nothing
Cameras = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Of a robot set, a camera to read; by default the first by name. Repeatable."),
]


@verb
@takes_addresses
@options_of(MineConfig)
def mine(
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO_OR_FOLDER...", help="Video files, or folders of them.")
    ],
    out: OutDir,
    config: MineConfig,
    executor: Annotated[
        ExecutorName, typer.Option(help="Where clips are mined: in this process, in several, or on a Ray cluster.")
    ] = "processes",
    workers: Annotated[int | None, typer.Option(min=1, help="How many processes; one per core by default.")] = None,
    layout: Annotated[
        str, choice(video_layouts(), help="How the videos are laid out, where they are a known collection.")
    ] = (FOLDER),
    annotations: Annotated[
        Path | None, typer.Option(help="The collection's own list, where it does not lie next to the videos.")
    ] = None,
    camera: Cameras = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many clips: a try.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Only so many clips, chosen at random.")] = None,
    seed: Annotated[int, typer.Option(help="Of --sample.")] = 0,
    shard_clips: Annotated[
        int, typer.Option(min=1, help="Clips per Parquet file, which is what a killed run repeats.")
    ] = 128,
    timeout: Annotated[
        float, typer.Option(help="Seconds without a decoded frame after which a clip's worker is killed.")
    ] = 60.0,
    retries: Annotated[
        int, typer.Option(min=0, help="How often a clip that crashed or hung its worker is tried again.")
    ] = 2,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Mine again what hung, crashed or could not be read before.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Find frame pairs in videos between which something happened.

    Example: retrodict mine clips/ --out pairs
    """
    check_output(out)
    if sample is None:
        refuse_without("--sample", "seed")
    if executor == "serial":
        refuse_beside("--executor serial", "workers", "timeout", "retries")

    from retrodict.report.mining import mine as run
    from retrodict.video.mining import clip_progress

    with open_progress(quiet, "retrodict mine") as progress:
        progress.stage("mine", "find the moments between which something happens")
        result = run(
            _some(_clips(videos, layout, annotations, camera or ()), limit, sample, seed),
            out,
            config,
            executor_name=executor,
            workers=workers,
            shard_clips=shard_clips,
            timeout=timeout,
            retries=retries,
            retry_failed=retry_failed,
            progress=clip_progress(progress),
        )
        progress.done(f"{result.pairs:,} pairs")
    typer.echo(f"{out}: {result.pairs} pairs from {result.clips} clips{dropped(result.dropped)}")
    if result.near_duplicates and config.near_duplicates == "keep":
        typer.echo(
            f"{result.near_duplicates} clips show the same as another one: --near-duplicates drop leaves them out."
        )
    if sum(result.dropped.get(reason, 0) for reason in _UNREAD) == result.clips:
        raise ValueError(f"Not one of the videos could be read: {out / 'clips.jsonl'} says why.")


def import_labelled(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            callback=one_of((*labelled_layouts(), *PRESETS)),
            help=f"Collections whose clips or steps have an action: {', '.join(labelled_layouts())}. Files of image "
            f"pairs: {', '.join(PRESETS)}; see --column.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Folder of the collection, for lerobot also OWNER/NAME on the hub, for minari also its id; or a .csv, "
            ".json, .jsonl or .parquet file.",
        ),
    ],
    out: OutDir,
    annotations: Annotated[
        Path | None, typer.Option(help="The collection's own list, where it does not lie next to the videos.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder that image paths start from; by default that of the file. `/` allows whole paths."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS",
            help="Which column holds what: --column source=before. Ours: source, target, action, category, group, id. "
            "Repeatable.",
        ),
    ] = None,
    camera: Cameras = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many: a try.")] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Only so many, of which --seed decides; the others are not read.")
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N", help="Only the I-th of N shares of the files; whoever is last finishes. As for annotate."
        ),
    ] = "",
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Turn data whose actions are known into transitions that training reads.

    What cannot be read is left out; left_out.jsonl lists it with its reason.

    Example: retrodict import pairs mine.jsonl --column source=before --column action=text --out labelled
    """
    check_output(out)

    from retrodict.data import image_pairs, labelled_clips, write_transitions
    from retrodict.data.convert import IMAGES, LEFT_OUT
    from retrodict.data.items import sampled
    from retrodict.run_folder import relative_path

    if sample is None:
        refuse_without("--sample", "seed")
    items: Iterable[Item]
    given: JsonObject = {"format": kind, "data": relative_path(data, out), "limit": limit}
    if kind in labelled_layouts():
        if images or column:
            raise ValueError(f"{kind} is a collection: --images and --column are for image pairs.")
        items = labelled_clips(kind, data, annotations, camera or ())
        if LAYOUTS[kind].named(data):
            given["data"] = str(data)
        given["annotations"] = annotations and relative_path(annotations, out)
        given |= {"cameras": camera} if camera else {}
    else:
        if camera:
            raise ValueError(f"{kind} has no cameras: leave out --camera.")
        if annotations:
            raise ValueError(f"{kind} names its actions in the file: leave out --annotations.")
        columns = _columns(PRESETS[kind], column or ())
        items = image_pairs(data, columns, root=images)
        given |= {"columns": asdict(columns), "images": images and relative_path(images, out)}
    if sample is not None:
        if limit is not None:
            raise ValueError("--sample and --limit both say how many: give one.")
        items = sampled(items, sample, seed)
        given |= {"sample": sample, "seed": seed}
    total = min(len(items), limit or len(items)) if isinstance(items, list) else 0
    with open_progress(quiet, "retrodict import") as progress:
        progress.stage("import", "read pairs of images and what happened between them")
        inputs = [path for path in (data, annotations, images) if path is not None]
        left_out = write_transitions(
            islice(items, limit),
            out,
            source=given,
            inputs=inputs,
            total=total,
            share=share_of_process(shard),
            progress=progress,
        )
        progress.done()
    if left_out is None:
        typer.echo(f"{out}: this share is read; whichever process finds all of it counts.")
        return
    print_counts(out)
    if left_out["outside_folder"]:
        typer.echo(IMAGES)
    if left_out:
        typer.echo(f"{out / LEFT_OUT} lists what was left out.")


app.command("import", cls=Command)(guarded(takes_addresses(import_labelled)))


@verb
def export(
    labelled: Annotated[
        Path, typer.Argument(metavar="LABELLED", help="Pairs that were mined from DATA and annotated.")
    ],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of a LeRobotDataset v3.")],
    out: OutDir,
) -> None:
    """Write annotated actions into a copy of the LeRobot data set that they come from, as subtasks with a confidence.

    Example: retrodict export labelled aloha --out aloha-subtasks
    """
    check_output(out)

    from retrodict.data import export_lerobot

    counts = export_lerobot(labelled, data, out)
    left_out = {reason: count for reason, count in counts.items() if reason != "subtasks"}
    typer.echo(f"{out}: {counts['subtasks']} subtasks{dropped(left_out)}")


@verb
@options_of(CollectConfig)
def collect(
    environment: Annotated[
        str,
        typer.Argument(
            metavar="ENV", help="A Gymnasium id, or MODULE:ID where importing a module registers the environment."
        ),
    ],
    out: OutDir,
    config: CollectConfig,
    env_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Argument of the environment: --env-arg continuous=false. Repeatable."),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(
            help="YAML or JSON with what actions are called: a list in the order of a discrete space, or a mapping "
            "from names to actions of any space, of which only these are played."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Play a Gymnasium environment: labelled pairs, pairs to test on, videos, and a recipe that learns from them.

    Example: retrodict collect MiniGrid-DoorKey-6x6-v0 --out doorkey
    """
    check_output(out)

    from retrodict.data.collect import collect as run
    from retrodict.recipes.values import parse_override

    arguments = dict(parse_override(text, "--env-arg", "continuous=false") for text in env_arg or ())
    with open_progress(quiet, "retrodict collect") as progress:
        written = run(environment, out, config, arguments=arguments, names=names, progress=progress)
    for name in ("labelled", "test"):
        if counts := written.get(name):
            actions = ", ".join(f"{count:,} {action}" for action, count in counts["actions"].items())
            total = sum(counts["actions"].values())
            typer.echo(f"{out / name}: {total:,} pairs of {counts['episodes']} episodes ({actions})")
            if reasons := ", ".join(f"{count:,} {why}" for why, count in counts["left_out"].items() if count):
                typer.echo(f"  left out: {reasons}")
    if written.get("videos"):
        typer.echo(f"{out / 'videos'}: {written['videos']} videos")
    typer.echo(f"Next: retrodict bootstrap {out / 'recipe.yaml'} --out runs/{out.name}")


@verb
@options_of(Sharing)
def generate(
    world: Annotated[str, typer.Argument(metavar="WORLD", callback=one_of(WORLDS), help=f"{', '.join(WORLDS)}.")],
    out: OutDir,
    sharing: Sharing,
    pairs: Annotated[int, typer.Option(min=1, help="How many transitions.")] = 10_000,
    split: Annotated[
        str, choice(("train", "val", "test"), help="Those of val and test start from scenes that no others show.")
    ] = "train",
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Write labelled transitions of a simulated world, as many as you like, in as many processes as you like.

    Example: retrodict generate tabletop --pairs 50000 --out labelled
    """
    check_output(out)

    from retrodict.data.generate import generate_dir

    with open_progress(quiet, "retrodict generate") as progress:
        progress.stage("generate", f"transitions of {world}")
        made = generate_dir(world, out, pairs=pairs, seed=seed, split=split, where=sharing.where(), progress=progress)
        progress.done()
    if made:
        print_counts(out)
    else:
        typer.echo(f"{out}: this share is written; whichever process finds all files counts them.")


def _clips(
    videos: list[Path], layout: str, annotations: Path | None, cameras: Sequence[str]
) -> list[Path] | list[ClipRef]:
    """What to mine: files and folders as they are, or the clips of one known collection."""
    if layout == FOLDER and annotations is None and not cameras:
        return videos
    if len(videos) > 1:
        raise ValueError(f"--layout {layout} reads one folder: give the collection's folder alone.")

    from retrodict.data import read_clips

    return read_clips(layout, videos[0], annotations, cameras)


def _some(
    clips: list[Path] | list[ClipRef], limit: int | None, sample: int | None, seed: int
) -> list[Path] | list[ClipRef]:
    """At most `limit` of the clips, by name, or `sample` of them by a hash that goes with the seed."""
    if limit is None and sample is None:
        return clips

    from retrodict.video.clips import ClipRef, folder_clips

    refs = [one for one in clips if isinstance(one, ClipRef)] or folder_clips([Path(str(one)) for one in clips])
    if sample is not None:
        refs = sorted(refs, key=lambda ref: sha256(f"{seed}/{ref.name}".encode()).digest())[:sample]
    return sorted(refs, key=lambda ref: ref.name)[:limit]


def _columns(preset: Columns, given: Sequence[str]) -> Columns:
    """The preset with the columns of `--column OURS=THEIRS` in place of its own."""
    known = [field.name for field in fields(preset) if field.name != "group_pattern"]
    pairs = [text.partition("=") for text in given]
    for text, (ours, _, theirs) in zip(given, pairs, strict=True):
        if ours not in known or not theirs:
            raise ValueError(f"--column {text}: give OURS=THEIRS, where OURS is one of {', '.join(known)}.")
    columns = replace(preset, **{ours: theirs for ours, _, theirs in pairs})
    if twice := next((ours for ours, _, _ in pairs if sum(ours == other for other, _, _ in pairs) > 1), ""):
        raise ValueError(f"--column names several columns for {twice}: name one.")
    if columns.source == columns.target:
        raise ValueError(f"source and target are both the column {columns.source}: name another with --column.")
    return columns
