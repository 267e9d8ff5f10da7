"""The demo's stages. Each reads and writes folders under `context.out` and returns a few words on what it made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from retrodict.bootstrap.demo_context import Context
from retrodict.bootstrap.demo_families import make_base, starting_point
from retrodict.files import write_json
from retrodict.progress import Progress
from retrodict.prompts import Direction
from retrodict.training.config import Weighting
from retrodict.transitions import Transition, read_rows, read_transitions, write_manifest, write_rows
from retrodict.worlds import get_world

LABELLING = "labelling.json"
FORWARD = ("ft", "fdm", "fdm_weighted", "fdm_true_labels")


def world(context: Context, progress: Progress) -> str:
    from retrodict.worlds import tabletop

    for split, count in (("labelled", context.settings.labelled), ("test", context.settings.test)):
        examples = tabletop.sample(count, context.seed, namespace=f"demo-{split}")
        rows = [example.transition("train" if split == "labelled" else "test") for example in examples]
        write_rows(context.dir(split) / "transitions-00000.parquet", rows)
        write_manifest(context.dir(split), kind="transitions", config={"seed": context.seed}, kept=count, dropped={})
    return f"{context.settings.labelled:,} labelled, {context.settings.test:,} test"


def videos(context: Context, progress: Progress) -> str:
    from retrodict.worlds import tabletop

    settings, size = context.settings, 20
    for start in range(0, settings.videos, size):
        count = min(start + size, settings.videos)
        tabletop.write_videos(
            context.dir("videos"), count, context.seed, truth=context.dir("truth"), actions=settings.actions
        )
        progress.advance(count, settings.videos)
    return f"{settings.videos} videos of {settings.actions} actions"


def mine(context: Context, progress: Progress) -> str:
    from retrodict.video import MineConfig
    from retrodict.video import mine as run
    from retrodict.video.mining import tally

    settings = context.settings
    config = MineConfig(frames_per_clip=settings.frames_per_clip, min_gap=settings.min_gap)
    result = run(context.dir("videos"), context.dir("pairs"), config, workers=1, progress=tally(progress))
    return f"{result.pairs:,} pairs of {result.clips} clips"


def tokenizer(context: Context, progress: Progress) -> str:
    from retrodict.training.config import TokenizerConfig
    from retrodict.training.image_tokenizer import train_image_tokenizer

    if context.family is not None:
        return make_base(context)
    rows = read_transitions(context.dir("labelled"))
    images = [image for row in rows for image in (row.source_image, row.target_image)]
    steps = context.settings.tokenizer_steps
    config = TokenizerConfig(warm_steps=steps, steps=steps)
    trained = train_image_tokenizer(images, config, context.seed, partial(_report_loss, progress))
    trained.save(context.dir("image_tokenizer"))
    return f"{trained.config.codes} codes from {len(images):,} pictures"


def _report_loss(progress: Progress, step: int, total: int, loss: float) -> None:
    progress.advance(step, total, f"loss {loss:.3f}")


def _train(
    context: Context, progress: Progress, folder: Path, direction: Direction, rows: Sequence[Transition], **options: Any
) -> str:
    """Train one model of the demo. All have the same size and see the same number of sequences."""
    from retrodict.training.config import TrainConfig
    from retrodict.training.run import train_model

    settings = context.settings
    train_model(
        starting_point(context, use_change_mask=options.pop("use_change_mask", True)),
        direction,
        rows,
        TrainConfig(steps=settings.steps, per_device_batch_size=settings.batch, learning_rate=settings.lr),
        folder,
        seed=context.seed,
        cache=context.dir("tokens"),
        report=partial(_report_loss, progress),
        **options,
    )
    return f"{settings.steps:,} steps on {len(rows):,} transitions"


def train_inverse(context: Context, progress: Progress, folder: Path, *, use_change_mask: bool) -> str:
    rows = read_transitions(context.dir("labelled"))
    return _train(context, progress, folder, "inverse", rows, use_change_mask=use_change_mask)


def train_forward(
    context: Context, progress: Progress, folder: Path, rows: Sequence[Transition], weighting: Weighting
) -> str:
    return _train(context, progress, folder, "forward", rows, weighting=weighting)


def idm(context: Context, progress: Progress) -> str:
    return train_inverse(context, progress, context.dir("idm"), use_change_mask=True)


def idm_plain(context: Context, progress: Progress) -> str:
    return train_inverse(context, progress, context.dir("idm_plain"), use_change_mask=False)


def annotate(context: Context, progress: Progress) -> str:
    from retrodict.bootstrap.annotate import annotate_dir

    annotate_dir(context.dir("pairs"), model=context.dir("idm"), out=context.dir("annotated"), progress=progress)
    return f"{len(read_rows(context.dir('annotated'), ['id'])):,} labels"


def select(context: Context, progress: Progress) -> str:
    from retrodict.bootstrap.select import select_dir

    select_dir(context.dir("annotated"), top_k=context.settings.top_k, out=context.dir("selected"))
    return f"the best {context.settings.top_k:,}, going round the classes"


def check_labels(context: Context, progress: Progress) -> str:
    from retrodict.bootstrap.labelling import labelling

    annotated, selected = read_transitions(context.dir("annotated")), read_transitions(context.dir("selected"))
    found = labelling(annotated, selected, context.dir("truth"))
    write_json(context.dir(LABELLING), found)
    return f"{found['exact']:.0%} exact, {found['selected_exact']:.0%} of the selected ones"


def ft(context: Context, progress: Progress) -> str:
    return train_forward(context, progress, context.dir("ft"), read_transitions(context.dir("labelled")), Weighting())


def bootstrapped(context: Context) -> list[Transition]:
    return read_transitions(context.dir("labelled")) + read_transitions(context.dir("selected"))


def fdm(context: Context, progress: Progress) -> str:
    return train_forward(context, progress, context.dir("fdm"), bootstrapped(context), Weighting())


def fdm_weighted(context: Context, progress: Progress) -> str:
    return train_forward(
        context, progress, context.dir("fdm_weighted"), bootstrapped(context), Weighting(method="softened")
    )


def fdm_true_labels(context: Context, progress: Progress) -> str:
    from retrodict.bootstrap.truth import with_true_labels

    labelled, selected = read_transitions(context.dir("labelled")), read_transitions(context.dir("selected"))
    rows = labelled + with_true_labels(selected, context.dir("truth"))
    return train_forward(context, progress, context.dir("fdm_true_labels"), rows, Weighting())


def _bench(name: str, context: Context, progress: Progress) -> str:
    """Greedy and a pool of candidates for every test scene, each with its exact score and both verifiers' scores."""
    from retrodict.dynamics.verify import InverseAndForwardLikelihood, InverseLikelihood
    from retrodict.evaluation.bench import evaluate, write_items
    from retrodict.evaluation.pool import exact_scorer
    from retrodict.loading import load
    from retrodict.sampling import Sampling

    test = read_transitions(context.dir("test"))
    inverse = load(context.dir("idm"), role="inverse")
    items = evaluate(
        load(context.dir(name), role="forward"),
        test,
        scorer=exact_scorer(get_world("tabletop")),
        verifiers=[InverseLikelihood(inverse), InverseAndForwardLikelihood(inverse)],
        n=context.settings.candidates,
        seed=context.seed,
        sampling=Sampling(context.settings.temperature),
        keep=context.dir("predictions") / f"{name}.parquet",
        progress=progress,
    )
    write_items(context.dir("items") / f"{name}.jsonl", items)
    return f"{len(items)} scenes, {1 + context.settings.candidates} frames each"


BENCHES: dict[str, Callable[[Context, Progress], str]] = {name: partial(_bench, name) for name in FORWARD}


def probe(context: Context, progress: Progress) -> str:
    """Preference probes of both directions, and how often each inverse model names the exact action."""
    from retrodict.evaluation.probe import probe_forward, probe_inverse
    from retrodict.loading import load

    test, explains = read_transitions(context.dir("test")), get_world("tabletop").explains
    found: dict[str, Any] = {"probe": {}, "explained": {}}
    names = ("idm", "idm_plain", "ft", "fdm")
    for i, name in enumerate(names):
        model: Any
        if name.startswith("idm"):
            model = load(context.dir(name), role="inverse")
            found["probe"][name] = probe_inverse(model, test, seed=context.seed, explains=explains)
            explanations = model.explain([(row.source_image, row.target_image) for row in test])
            found["explained"][name] = [explanation.action for explanation in explanations]
        else:
            model = load(context.dir(name), role="forward")
            found["probe"][name] = probe_forward(model, test, seed=context.seed, explains=explains)
        progress.advance(i + 1, len(names))
    write_json(context.dir("probe") / "probe.json", found)
    return ", ".join(names)


def read_probe(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "probe" / "probe.json").read_text())
    return found
