"""What each stage of the loop does: it reads and writes folders of the run and says in a few words what it made."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrodict.bootstrap.recipe import TINY, BootstrapRecipe
from retrodict.bootstrap.select import COLLECTION, select_dir
from retrodict.files import JsonObject, made_once, write_json
from retrodict.images import encode_png
from retrodict.progress import Progress
from retrodict.prompts import Direction
from retrodict.shards import Share
from retrodict.training.config import METER, Weighting
from retrodict.training.data import Stored, joined, source_rows, stored_transitions
from retrodict.training.distributed import is_main, meet, process_count, process_number
from retrodict.transitions import (
    Transition,
    iter_rows,
    read_transitions,
    split_by_group,
    write_manifest,
    write_rows,
)
from retrodict.worlds import get_world

if TYPE_CHECKING:
    from retrodict.models.protocol import InverseModel, TokenFamily
    from retrodict.video import ClipRef

LABELLING = "labelling.json"
SEEDS_APART = 1_000_000  # between training runs: not the seed of somebody's other run
REPEATED = ("ft", "fdm", "fdm_true_labels")  # trained `runs` times


@dataclass(frozen=True)
class Context:
    """What every stage receives. Stages hand results to each other through folders in `out`."""

    out: Path
    recipe: BootstrapRecipe

    def dir(self, name: str) -> Path:
        return self.out / name

    @property
    def systems(self) -> tuple[str, ...]:
        """The forward models of the run. Without annotated pairs FT and FDM would be the same."""
        extra = [f"fdm_{name}" for name in ("weighted", "true_labels") if name in self.recipe.ablations]
        return (*(("ft",) if self.recipe.annotates else ()), "fdm", *extra)

    def runs_of(self, system: str) -> dict[int, str]:
        """The training runs of a system, from 1 on, each with the name of its folder."""
        count = self.recipe.runs if system in REPEATED else 1
        return {run: system if run == 1 else f"{system}_run{run}" for run in range(1, count + 1)}

    @property
    def inverse_models(self) -> dict[str, str]:
        """The run's inverse models by name, each as `load` takes it."""
        models = {"idm": self.recipe.labeller or str(self.dir("idm"))}
        if "no_change_mask" in self.recipe.ablations:
            models["idm_plain"] = str(self.dir("idm_plain"))
        return models

    @property
    def verifies(self) -> bool:
        """Whether the inverse model says how likely actions are: a chat endpoint does not."""
        return not self.inverse_models["idm"].startswith("chat:")

    def inverse(self) -> InverseModel:
        from retrodict.loading import load

        return load(self.inverse_models["idm"], role="inverse")


def labelled(context: Context, direction: Direction = "forward") -> Stored:
    """What models of a direction learn from besides annotated pairs: no group of it is tested on."""
    data = context.recipe.data
    if not data.labelled:
        return stored_transitions(context.dir("labelled"))
    rows = joined([source_rows(source) for source in data.labelled])
    if context.recipe.world is None and data.test is None:
        _, test = split_by_group(list(rows.rows), data.test_share, context.recipe.seed)
        held_out = {row.group or row.id for row in test}
    else:
        held_out = {row.group or row.id for row in stored_transitions(data.test or context.dir("test")).rows}
    if direction == "inverse":
        rows = joined([rows, *(source_rows(source) for source in data.only_inverse)])
    return rows.only([i for i, row in enumerate(rows.rows) if (row.group or row.id) not in held_out])


def held_out(recipe: BootstrapRecipe) -> Stored:
    """One's own transitions to test on, at most `bench.items`. Raises `ValueError` when there are none."""
    data = recipe.data
    if data.test is not None:
        rows = stored_transitions(data.test)
        chosen = list(range(len(rows)))
    else:
        rows = joined([source_rows(source) for source in data.labelled])
        test = {id(row) for row in split_by_group(list(rows.rows), data.test_share, recipe.seed)[1]}
        chosen = [i for i, row in enumerate(rows.rows) if id(row) in test]
    if not chosen:
        groups = len({row.group or row.id for row in rows.rows})
        raise ValueError(
            f"There is nothing to test on: {', '.join(str(s.path) for s in data.labelled)} has {groups} groups, too "
            f"few to set {data.test_share:.0%} of them aside. Name test pairs under data.test."
        )
    chosen.sort(key=lambda i: hashlib.sha256(rows.rows[i].id.encode()).digest())
    return rows.only(chosen[: recipe.bench.items])


def clips(recipe: BootstrapRecipe) -> list[Path] | list[ClipRef]:
    """One's own videos, as `mine` takes them. Raises `ValueError` when there are none."""
    from retrodict.data.layouts import read_clips
    from retrodict.video.clips import folder_clips

    videos = recipe.data.videos
    if recipe.select.per_collection:
        return [
            replace(ref, meta={**ref.meta, COLLECTION: video.path.name})
            for video in videos
            for ref in read_clips(video.layout, video.path, video.annotations)
        ]
    plain = [video.path for video in videos if video.layout == "folder"]
    refs = folder_clips(plain) if plain else []
    if len(plain) == len(videos):
        return plain
    for video in videos:
        if video.layout != "folder":
            refs += read_clips(video.layout, video.path, video.annotations)
    return refs


def data(context: Context, progress: Progress) -> str:
    """Write what the world gives, and set aside what is tested on."""
    recipe, counts = context.recipe, []
    if recipe.world is not None:
        world = get_world(recipe.world.name)
        own = {"labelled": bool(recipe.data.labelled), "test": recipe.data.test is not None}
        for name, count in (("labelled", recipe.world.labelled), ("test", recipe.world.test)):
            if not own[name]:
                split = "train" if name == "labelled" else "test"
                rows = world.sample(count, recipe.seed, namespace=f"demo-{name}", split=split)
                _write(context.dir(name), rows, {"seed": recipe.seed, "world": world.name})
                counts.append(f"{count:,} {name}")
    if recipe.world is None or recipe.data.test is not None:
        rows = [replace(row, split="test") for row in held_out(recipe)]
        _write(context.dir("test"), rows, {"seed": recipe.seed, "data": recipe.data.model_dump(mode="json")})
        counts.append(f"{len(rows):,} to test on")
    return ", ".join(counts)


def previewing(recipe: BootstrapRecipe) -> str | None:
    """The model that predicts a frame while the run's own are being trained."""
    from retrodict.loading import shipped_for

    return shipped_for(recipe.world.name) if recipe.preview and recipe.world is not None else None


def preview(context: Context, progress: Progress) -> str:
    """Let a trained model predict the first test action, for whoever waits for the run's own models."""
    from retrodict.dynamics.verify import InverseAndForwardLikelihood, predict
    from retrodict.loading import load
    from retrodict.report.live import PREVIEW

    model = previewing(context.recipe)
    assert model is not None
    first = min(read_transitions(context.dir("test")), key=lambda row: hashlib.sha256(row.id.encode()).digest())
    forward, n = load(model, role="forward"), 8
    verifier = InverseAndForwardLikelihood(load(model, role="inverse"))
    began = time.monotonic()
    prediction = predict(forward, verifier, first.source_image, first.action, n=n, seed=context.recipe.seed)
    took = time.monotonic() - began
    folder = context.dir(PREVIEW)
    folder.mkdir(exist_ok=True)
    (folder / "source.png").write_bytes(encode_png(first.source_image))
    (folder / "predicted.png").write_bytes(encode_png(prediction.image))
    note = f"the best of {n} predictions of the model '{model}' ({took:.1f} s)"
    write_json(folder / "prediction.json", {"action": first.action, "note": note})
    return f"{first.action}: {note}"


def _write(folder: Path, rows: list[Transition], config: JsonObject) -> None:
    write_rows(folder / "transitions-00000.parquet", rows)
    write_manifest(folder, kind="transitions", config=config, kept=len(rows), dropped={})


def videos(context: Context, progress: Progress) -> str:
    section = context.recipe.world
    assert section is not None
    world, size = get_world(section.name), 20
    for start in range(0, section.videos, size):
        count = min(start + size, section.videos)
        world.write_videos(
            context.dir("videos"), count, context.recipe.seed, actions=section.actions, truth=context.dir("truth")
        )
        progress.advance(count, section.videos)
    return f"{section.videos} videos of {section.actions} actions"


def mine(context: Context, progress: Progress) -> str:
    from retrodict.video import mine as run
    from retrodict.video.mining import clip_progress

    recipe = context.recipe
    result = run(
        clips(recipe) if recipe.data.videos else context.dir("videos"),
        context.dir("pairs"),
        recipe.mine,
        workers=max(1, (os.cpu_count() or 1) // 2),  # models train meanwhile
        progress=clip_progress(progress),
    )
    if not result.pairs:
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in result.dropped.items())
        raise ValueError(f"No frame pairs were found in {result.clips} clips ({reasons}): see mine.min_gap.")
    return f"{result.pairs:,} pairs of {result.clips:,} clips"


def tokenizer(context: Context, progress: Progress) -> str:
    """Learn an image tokenizer; or make the tiny model to start from."""
    from retrodict.training.image_tokenizer import learn_tokenizer
    from retrodict.training.recipe import report_loss

    recipe = context.recipe
    if recipe.init == TINY:
        return _make_tiny(context)
    rows = labelled(context)
    if recipe.data.videos and recipe.world is None:  # a world's labelled scenes show all there is: no need to wait
        rows = joined([rows, stored_transitions(context.dir("pairs"), labelled=False)])
    return learn_tokenizer(rows, recipe.tokenizer, recipe.seed, context.dir("image_tokenizer"), report_loss(progress))


def _make_tiny(context: Context) -> str:
    """Write the model that all others start from, as one would download it."""
    import torch

    from retrodict.models.registry import CARD, tiny_family

    family = context.recipe.family
    torch.manual_seed(context.recipe.seed)
    tiny_family(family)(_texts(context)).save(context.dir("base"))
    write_json(context.dir("base") / CARD, {"family": family})
    return f"a tiny {family} with random weights"


def _texts(context: Context) -> list[str]:
    """Sentences with the words that models know: a world's, else those of the labelled pairs."""
    world = context.recipe.world
    return get_world(world.name).vocabulary() if world else [row.action for row in labelled(context, "inverse").rows]


def train(
    context: Context,
    progress: Progress,
    folder: Path,
    direction: Direction,
    rows: Stored,
    weighting: Weighting,
    *,
    use_change_mask: bool = True,
    run: int = 1,
) -> str:
    """Train one model. Those of a direction and run start alike and see the same number of sequences."""
    from retrodict.training.action_meter import describe
    from retrodict.training.recipe import absolute, report_loss
    from retrodict.training.run import train_model

    recipe, test = context.recipe, stored_transitions(context.dir("test"))
    config = recipe.inverse if direction == "inverse" else recipe.forward
    train_model(
        _start(context, direction, use_change_mask),
        direction,
        rows,
        config,
        folder,
        seed=recipe.seed + SEEDS_APART * (run - 1),
        weighting=weighting,
        lora=recipe.lora,
        base=absolute(str(context.dir("base")) if recipe.init == TINY else recipe.init),
        cache=context.dir("tokens"),
        report=report_loss(progress),
        held_out=test,
    )
    said = f"{config.total_steps(len(rows)):,} steps on {len(rows):,} transitions"
    if not is_main():
        return said
    meter = _meter(context, folder, direction, test)
    return f"{said}. {describe(meter)}" if meter["warning"] else said


def _meter(context: Context, folder: Path, direction: Direction, test: Stored) -> JsonObject:
    """Whether a trained model uses what it is told, on pairs that nothing is chosen by."""
    from retrodict.loading import load_family
    from retrodict.placement import place
    from retrodict.training.action_meter import ActionMeter

    def measure() -> JsonObject:
        family = load_family(folder)
        place(family.module)
        return ActionMeter(family, direction, test, context.dir("tokens")).measure()

    meter: JsonObject = made_once(folder / METER, measure)
    return meter


def _start(context: Context, direction: Direction, use_change_mask: bool) -> Callable[[], TokenFamily]:
    """What makes a model to train; `use_change_mask` is for one that starts from nothing."""
    from retrodict.training.recipe import from_nothing, started_from

    recipe = context.recipe
    if recipe.init is not None:
        init = context.dir("base") if recipe.init == TINY else recipe.init
        return started_from(init, recipe.family, direction, recipe.lora)
    return from_nothing(context.dir("image_tokenizer"), _texts(context), recipe.model, use_change_mask=use_change_mask)


def idm(context: Context, progress: Progress) -> str:
    return train(context, progress, context.dir("idm"), "inverse", labelled(context, "inverse"), Weighting())


def idm_plain(context: Context, progress: Progress) -> str:
    rows = labelled(context, "inverse")
    return train(context, progress, context.dir("idm_plain"), "inverse", rows, Weighting(), use_change_mask=False)


def ft(context: Context, progress: Progress, run: int = 1) -> str:
    return _forward(context, progress, "ft", labelled(context), Weighting(), run)


def bootstrapped(context: Context) -> Stored:
    """What FDM learns from."""
    own = labelled(context)
    return joined([own, stored_transitions(context.dir("selected"))]) if context.recipe.annotates else own


def fdm(context: Context, progress: Progress, run: int = 1) -> str:
    return _forward(context, progress, "fdm", bootstrapped(context), context.recipe.weighting, run)


def fdm_weighted(context: Context, progress: Progress, run: int = 1) -> str:
    return _forward(context, progress, "fdm_weighted", bootstrapped(context), Weighting(method="softened"), run)


def fdm_true_labels(context: Context, progress: Progress, run: int = 1) -> str:
    from retrodict.bootstrap.labels import with_true_labels

    assert context.recipe.world is not None
    selected = stored_transitions(context.dir("selected"))
    true = with_true_labels(get_world(context.recipe.world.name), selected, context.dir("truth"))
    rows = joined([labelled(context), true])
    return _forward(context, progress, "fdm_true_labels", rows, context.recipe.weighting, run)


def _forward(context: Context, progress: Progress, system: str, rows: Stored, weighting: Weighting, run: int) -> str:
    folder = context.dir(context.runs_of(system)[run])
    return train(context, progress, folder, "forward", rows, weighting, run=run)


def annotate(context: Context, progress: Progress) -> str:
    from retrodict.bootstrap.annotate import annotate_dir

    annotate_dir(
        context.dir("pairs"),
        model=context.inverse_models["idm"],
        out=context.dir("annotated"),
        progress=progress,
        share=Share(process_number(), process_count()),
    )
    meet()
    if is_main():  # to write the manifest, where others were still at their shares
        annotate_dir(context.dir("pairs"), model=context.inverse_models["idm"], out=context.dir("annotated"))
    labels = sum(1 for _ in iter_rows(context.dir("annotated"), ["id"]))
    if not labels:
        raise ValueError(
            "The inverse model found no words for any mined pair, so it has not learned to explain: "
            "begin anew with more labelled pairs or more inverse.steps."
        )
    return f"{labels:,} labels"


def select(context: Context, progress: Progress) -> str:
    section = context.recipe.select
    select_dir(
        context.dir("annotated"),
        top_k=section.top_k,
        out=context.dir("selected"),
        per_collection=section.per_collection,
        without_likelihood=section.without_likelihood,
    )
    return f"{sum(1 for _ in iter_rows(context.dir('selected'), ['id'])):,} transitions"


def check_labels(context: Context, progress: Progress) -> str:
    from retrodict.bootstrap.labels import labelling

    assert context.recipe.world is not None
    annotated, selected = (stored_transitions(context.dir(name)).rows for name in ("annotated", "selected"))
    checked = labelling(get_world(context.recipe.world.name), annotated, selected, context.dir("truth"))
    write_json(context.dir(LABELLING), checked)
    return f"{checked['exact']:.0%} exact, {checked['selected_exact']:.0%} of the selected ones"


def bench(name: str, context: Context, progress: Progress) -> str:
    """One greedy frame and a pool of candidates for every test action, with all verifiers' scores."""
    from retrodict.bootstrap.scoring import scorer
    from retrodict.dynamics.verify import InverseAndForwardLikelihood, InverseLikelihood
    from retrodict.evaluation.predict import evaluate
    from retrodict.evaluation.predictions import write_items
    from retrodict.loading import load

    recipe = context.recipe
    test = read_transitions(context.dir("test"))
    forward: Any = load(context.dir(name), role="forward")
    inverse = context.inverse() if context.verifies else None
    predict = partial(
        evaluate,
        forward,
        test,
        scorer=scorer(test, forward.family),
        verifiers=[InverseLikelihood(inverse), InverseAndForwardLikelihood(inverse)] if inverse else (),
        n=recipe.bench.n,
        seed=recipe.seed,
        sampling=recipe.sampling,
        keep=context.dir("predictions") / f"{name}.parquet",
        progress=progress,
    )
    if process_count() > 1:
        predict(share=Share(process_number(), process_count()))
        meet()
        if not is_main():
            return ""
    items = predict()
    write_items(context.dir("items") / f"{name}.jsonl", items)
    return f"{len(items)} actions, {1 + recipe.bench.n} frames each"


def probe(context: Context, progress: Progress) -> str:
    """What each model prefers, how likely it finds what happened, and which actions inverse models name."""
    names = _probed(context)
    for done, name in enumerate(names, start=1):
        if done % process_count() == process_number() and not _probe_file(context, name).is_file():
            write_json(_probe_file(context, name), _probe(context, name))
        progress.advance(done, len(names))
    return ", ".join(names)


def _probed(context: Context) -> list[str]:
    return [*context.inverse_models, *(name for name in ("ft", "fdm") if name in context.systems)]


def _probe(context: Context, name: str) -> JsonObject:
    from retrodict.evaluation.probe import probe_forward, probe_inverse
    from retrodict.loading import load
    from retrodict.training.validation import can_say, log_likelihoods
    from retrodict.worlds import world_of

    test = read_transitions(context.dir("test"))
    world = world_of(test)
    options: Any = {"seed": context.recipe.seed, "explains": None if world is None else world.explains}
    model: Any
    if name not in context.inverse_models:
        model = load(context.dir(name), role="forward")
        asked = [row for row in test if can_say(model.family, row.action)]
        answers = {"left_out": len(test) - len(asked), "probe": probe_forward(model, asked, **options)}
        if world is None:
            answers["loglik"] = [[one.sum, one.count] for one in log_likelihoods(model, "forward", test)]
        return answers
    model = load(context.inverse_models[name], role="inverse")
    explained = [e.action for e in model.explain([(row.source_image, row.target_image) for row in test])]
    if not context.verifies:
        return {"explained": explained}
    ours = hasattr(model, "family")
    asked = [row for row in test if not ours or can_say(model.family, row.action)]
    answers = {"explained": explained, "left_out": len(test) - len(asked)}
    answers["probe"] = probe_inverse(model, asked, **options)
    if world is None and ours:
        answers["loglik"] = [[one.sum, one.count] for one in log_likelihoods(model, "inverse", test)]
    return answers


def _probe_file(context: Context, name: str) -> Path:
    return context.dir("probe") / f"{name}.json"


def read_probe(context: Context) -> Iterator[tuple[str, JsonObject]]:
    """What `probe` wrote, by model."""
    for name in _probed(context):
        yield name, json.loads(_probe_file(context, name).read_text())
