"""The whole loop, on a simulated world or on one's own labelled pairs and videos.

videos -> mine -> inverse model on the labelled pairs -> annotate -> select -> forward models on the labelled pairs
alone (FT) and on labelled + annotated ones (FDM), and those of ablations -> verified predictions -> report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from retrodict.bootstrap import expert, measuring, stages
from retrodict.bootstrap.context import SECOND, Context, clips, held_out, in_round, validated
from retrodict.bootstrap.recipe import TINY, BootstrapRecipe
from retrodict.bootstrap.runner import Stage, Watch, read_records, run_stages
from retrodict.bootstrap.select import get_strategy
from retrodict.placement import chosen_device
from retrodict.progress import Progress
from retrodict.recipes import save_effective
from retrodict.run_folder import Input, claim
from retrodict.training.config import TrainConfig
from retrodict.training.distributed import is_main, join, meet, process_count
from retrodict.versions import command_line

SEQUENCES_PER_SECOND = 120  # that one core trains a small model with: only for the time left
RECIPES = Path(__file__).parent / "recipes"  # demo.yaml and its kin


def run_bootstrap(recipe: BootstrapRecipe, out: Path, progress: Progress) -> None:
    """Run the loop, or resume it, and write `results.json` and `report.html`.

    Args:
        recipe: what to learn from, and how.
        out: the run's folder.
        progress: reports every stage.

    Raises:
        ValueError: videos are missing, or there are no labelled pairs or none to test on; ranks cannot share a training
            step; or `out` holds a run with another recipe.
    """
    began = time.monotonic()
    _check(recipe)
    join()
    failed: BaseException | None = None
    try:
        if is_main() and claim(out, "bootstrap", recipe.model_dump(mode="json"), inputs=_inputs(recipe)):
            save_effective(recipe, out)
    except ValueError as error:
        failed = error
    meet(failed)
    if failed is not None:
        raise failed
    context = Context(out, recipe)
    plan = stages_of(context)
    # On a GPU one stage at a time: two models of billions of weights would seldom fit.
    workers = 2 if chosen_device().type == "cpu" else 1
    run_stages(plan, out, context, progress, workers, watch=_page(plan, out))
    if is_main():
        from retrodict.bootstrap.results import write_results

        progress.stage("report", "put everything on one page")
        write_results(context, command=command_line(), wall_seconds=time.monotonic() - began)
        progress.done("report.html")
    meet()


def _page(plan: Sequence[Stage[Context]], out: Path) -> Watch:
    """What keeps the run's page up to date while it runs."""
    from retrodict.report.live import LivePage, Step

    page = LivePage(out)

    def write(running: Sequence[str]) -> None:
        records = read_records(out)
        page.write(
            [
                Step(stage.name, stage.purpose, "done", records[stage.name]["seconds"], records[stage.name]["summary"])
                if stage.name in records
                else Step(stage.name, stage.purpose, "running" if stage.name in running else "waiting")
                for stage in plan
            ]
        )

    return write


def _inputs(recipe: BootstrapRecipe) -> dict[str, Input]:
    data = recipe.data
    return {
        "data.labelled": [source.path for source in data.labelled],
        "data.only_inverse": [source.path for source in data.only_inverse],
        "data.videos": [videos.path for videos in data.videos],
        "data.test": data.test,
        "init": None if recipe.init == TINY else recipe.init,
        "tokenizer": recipe.tokenizer.path,
        "labeller": recipe.labeller,
    }


def _check(recipe: BootstrapRecipe) -> None:
    """Hours of training later would be a bad time to find that something is missing."""
    if recipe.data.videos:
        clips(recipe)
    if recipe.world is None or recipe.data.test is not None:
        held_out(recipe)
    if recipe.world is None and recipe.validates:
        validated(recipe)
    for name, config in (("inverse", recipe.inverse), ("forward", recipe.forward)):
        if config.gradient_accumulation_steps % process_count():
            raise ValueError(
                f"{process_count()} ranks cannot share {config.gradient_accumulation_steps} forward passes a step: set "
                f"{name}.gradient_accumulation_steps to a multiple of {process_count()}."
            )


def stages_of(context: Context) -> list[Stage[Context]]:
    """The stages of a recipe, those that should begin first at the front."""
    recipe, run = context.recipe, stages
    world, trains = recipe.world, recipe.labeller is None
    inverse = _seconds(recipe.inverse)
    test = recipe.bench.items if world is None else world.test
    bench = 5 + 0.008 * test * (1 + recipe.bench.n)
    data = "world" if world else "split"
    films = world if not recipe.data.videos else None
    learns = recipe.init is None or recipe.init == TINY
    base = "tokenizer" if learns else data
    learn_from = (data,) if world or not recipe.annotates else (data, "mine")
    tokens = "make a tiny model" if recipe.init else f"a codebook of at most {recipe.tokenizer.codes} image tokens"
    idm = ("idm",) if trains else ()

    def stage(
        name: str, purpose: str, seconds: float, needs: tuple[str, ...], *, shared: bool = False
    ) -> Stage[Context]:
        return Stage(name, purpose, seconds, _function(name), needs, shared)

    plan = [Stage(data, "labelled and test transitions", 4, run.data)]
    if previews := stages.previewing(recipe):
        plan.append(stage("preview", f"what {previews} predicts meanwhile", 3, (data,)))
    if learns:
        plan.append(stage("tokenizer", tokens, 4, learn_from if recipe.init is None else (data,)))
    if films:
        plan.append(stage("videos", "film unlabelled videos of the same world", 0.025 * films.videos, ()))
    if trains:
        plan.append(stage("idm", "learn which action lies between two frames", inverse, (base,), shared=True))
    if recipe.annotates:
        labels = "check" if get_strategy(recipe.select.strategy).checked else "annotate"
        plan += [
            stage("mine", "find moments between which something happened", 35, ("videos",) if films else ()),
            *_forward_stages(context, "ft", "learn to predict from the labelled pairs alone", (base,)),
            stage("annotate", "let the inverse model label the mined pairs", 80, ("mine", *idm), shared=True),
            stage("select", "keep some of the labels", 3, (labels,)),
        ]
    if recipe.checks:
        plan.append(stage("check", "let FT check the labels", 60, ("annotate", "ft"), shared=True))
    selected = ("select",) if recipe.annotates else ()
    purposes = {
        "fdm": "learn to predict from "
        + ("labelled and annotated pairs" if recipe.annotates else "the labelled pairs"),
        "fdm_true_labels": "the same with true labels: the ceiling",
        "fdm_weighted": "the same with recognition-weighted loss",
        "fdm_weighted_true_labels": "both: true labels and recognition-weighted loss",
    }
    for system, purpose in purposes.items():
        if system in context.systems:
            plan += _forward_stages(context, system, purpose, (*selected, base))
    for number in range(2, recipe.rounds + 1):
        plan += _round(context, number)
    if "no_change_mask" in recipe.ablations:
        plan.append(stage("idm_plain", "an inverse model without the change mask", inverse, (base,), shared=True))
    plain = ("idm_plain",) if "no_change_mask" in recipe.ablations else ()
    forward = tuple(name for name in ("ft", "fdm") if name in context.systems)
    kept = in_round("validate", recipe.rounds) if recipe.rounds > 1 else "fdm"  # when the run's models are known
    idm = (kept,) if recipe.rounds > 1 else idm
    plan.append(
        stage("probe", "ask which of two transitions each model prefers", 60, (*forward, *idm, *plain), shared=True)
    )
    if films:
        plan.append(stage("check_labels", "compare the labels with what really happened", 6, ("select",)))
    if recipe.bench.calibrate:
        purpose = "how probable it is that a prediction is right"
        plan.append(Stage("calibrate", purpose, bench / 2, measuring.calibrate, (*idm, kept)))
    if recipe.expert:
        seconds = recipe.expert.iterations * (_seconds(recipe.forward) + 40)
        purpose = "learn from its own verified samples"
        plan.append(Stage("expert", purpose, seconds, expert.run, (*idm, kept), shared=True))
    trained = {"fdm_expert": "expert", f"fdm_{SECOND}": "ft"}
    return plan + [
        Stage(
            f"bench_{name}",
            f"predict the test actions with {name}, verified",
            bench,
            partial(measuring.bench, name),
            (trained.get(name, name), *idm, *((kept,) if name in trained else ())),
            shared=True,
        )
        for system in context.systems
        for name in context.runs_of(system).values()
    ]


def _function(name: str) -> Callable[..., str]:
    """What a stage of this name does."""
    function: Callable[..., str] = getattr(measuring if hasattr(measuring, name) else stages, name)
    return function


def _round(context: Context, number: int) -> list[Stage[Context]]:
    """The stages of a later round."""
    recipe = context.recipe

    def stage(
        name: str, purpose: str, seconds: float, needs: tuple[str, ...], *, of: int = number, shared: bool = False
    ) -> Stage[Context]:
        run = partial(_function(name), number=of)
        return Stage(in_round(name, of), f"{purpose}, round {of}", seconds, run, needs, shared)

    def here(name: str) -> str:
        return in_round(name, number)

    before = in_round("validate", number - 1)
    judged = "how its models do on validation pairs"
    plan = [stage("validate", judged, 10, ("idm", "fdm"), of=1)] if number == 2 else []
    if number > 2:
        labels = (in_round("annotate", number - 1), before)
        plan.append(stage("check", "let a forward model check the labels", 60, labels, of=number - 1, shared=True))
    checked = (in_round("check", number - 1),)
    inverse = _seconds(recipe.inverse)
    plan += [
        stage("idm", "learn from labelled and checked pairs", inverse, checked, shared=True),
        stage("annotate", "label the mined pairs again", 80, (here("idm"),), shared=True),
        stage("select", "keep some of the labels", 3, (here("annotate"),)),
        *_forward_stages(context, "fdm", "learn to predict from better labels", (here("select"),), number),
        stage("validate", judged, 10, (here("idm"), here("fdm"), before)),
    ]
    if recipe.world and not recipe.data.videos:
        plan.append(stage("check_labels", "compare the labels with what really happened", 6, (here("select"),)))
    return plan


def _forward_stages(
    context: Context, system: str, purpose: str, needs: tuple[str, ...], number: int = 1
) -> list[Stage[Context]]:
    """The training runs of a forward model, in a round."""
    train, seconds = getattr(stages, system), _seconds(context.recipe.forward)
    if number > 1:
        train, purpose = partial(train, number=number), f"{purpose}, round {number}"
    return [
        Stage(name, purpose if run == 1 else f"{purpose}, run {run}", seconds, partial(train, run=run), needs, True)
        for run, name in context.runs_of(in_round(system, number)).items()
    ]


def _seconds(training: TrainConfig) -> float:
    return 5 + training.steps * training.batch / SEQUENCES_PER_SECOND
