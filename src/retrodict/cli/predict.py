"""Commands that use trained models on images."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from retrodict.cli.app import refuse_beside, verb
from retrodict.cli.options import (
    SHAPES,
    Check,
    Inverse,
    Many,
    Model,
    Quiet,
    Seed,
    Source,
    SourceUrl,
    options_of,
    runs_models,
)
from retrodict.dynamics.verifiers import NONE
from retrodict.errors import check_output, check_output_file
from retrodict.progress.view import open_progress
from retrodict.sampling import MOST_CANDIDATES, Sampling


@verb
@runs_models
@options_of(Sampling)
def predict(
    source: SourceUrl,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="What happens, in words.")],
    sampling: Sampling,
    n: Many = 8,
    verifier: Check = "idm_fdm",
    model: Model = "small",
    inverse: Inverse = "",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Image to write.")] = Path("next.png"),
    stop_at: Annotated[
        float | None, typer.Option(help="Sample two at a time, and no more once a candidate scores at least this.")
    ] = None,
    sure: Annotated[
        float | None,
        typer.Option(help="The same, once a candidate is right with this probability; for a calibrated model."),
    ] = None,
    second: Annotated[
        str, typer.Option(help="Another forward model, whose most likely frame becomes the last candidate.")
    ] = "",
    reject_copies: Annotated[
        bool, typer.Option("--reject-copies", help="Choose a frame that shows no change only if there is no other.")
    ] = False,
) -> None:
    """Predict the next frame: sample candidates, and keep the one that shows the action best.

    Example: retrodict predict examples/frame.png "push the red ball to the left" -n 8 --out next.png
    """
    check_output_file(out)
    if verifier == NONE:
        refuse_beside("--verifier none", *SHAPES)

    from retrodict.api import predict as run
    from retrodict.images import write_image

    prediction = run(
        source,
        action,
        n=n,
        verifier=verifier,
        model=model,
        inverse=inverse or None,
        seed=seed,
        sampling=sampling,
        stop_at=stop_at,
        sure=sure,
        second=second or None,
        reject_copies=reject_copies,
    )
    write_image(out, prediction.image)
    sure_of = "" if math.isnan(prediction.confidence) else f", right with probability {prediction.confidence:.2f}"
    typer.echo(f"{out}: candidate {prediction.chosen + 1} of {len(prediction.candidates)}{sure_of}")
    if not prediction.fits:
        typer.echo("No candidate fits the action: it may be impossible here, or unlike any that the model learned.")


@verb
@runs_models
def explain(
    source: SourceUrl,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Image of the scene after the action.")],
    model: Model = "small",
) -> None:
    """Say which action happened between two frames.

    Example: retrodict explain before.png after.png
    """
    from retrodict.api import explain as run

    explanation = run(source, target, model=model)
    typer.echo(f"{explanation.action}  (log-probability {explanation.logprob.sum:.2f})")


@verb
@runs_models
@options_of(Sampling)
def rollout(
    source: Source,
    actions: Annotated[list[str], typer.Argument(metavar="ACTION...", help="What happens, step by step.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for one image per step.")],
    sampling: Sampling,
    n: Many = 8,
    verifier: Check = "idm_fdm",
    model: Model = "small",
    inverse: Inverse = "",
    seed: Seed = 0,
    reencode: Annotated[
        bool, typer.Option("--reencode", help="Hand each frame on as an image, not as its sampled image tokens.")
    ] = False,
) -> None:
    """Predict several steps: each predicted frame is where the next action starts.

    Example: retrodict rollout frame.png "push the red ball to the left" "paint the red ball blue" --out steps
    """
    check_output(out)
    if verifier == NONE:
        refuse_beside("--verifier none", *SHAPES)

    from retrodict.api import rollout as run
    from retrodict.files import write_json
    from retrodict.images import write_image
    from retrodict.run_folder import RECORD, Input, check

    settings = {
        "actions": actions,
        "n": n,
        "verifier": verifier,
        "model": model,
        "inverse": inverse,
        "seed": seed,
        **asdict(sampling),
        "reencode": reencode,
    }
    inputs: dict[str, Input] = {"source": source, "model weights": model, "inverse weights": inverse}
    record = check(out, "rollout", settings, inputs=inputs)
    steps = run(
        source,
        actions,
        n=n,
        verifier=verifier,
        model=model,
        inverse=inverse or None,
        seed=seed,
        sampling=sampling,
        reencode=reencode,
    )
    write_json(out / RECORD, record)  # not before: a model may not know a word of the actions
    for number, (action, step) in enumerate(zip(actions, steps, strict=True), start=1):
        path = out / f"step_{number:02d}.png"
        write_image(path, step.image)
        again = "" if math.isnan(step.drift) else f"  ({step.drift:.0%} of its tokens would differ if tokenized again)"
        typer.echo(f"{path}: {action}{again}")


@verb
@runs_models
def plan(
    start: Annotated[Path, typer.Argument(metavar="START", help="Image to begin with.")],
    goal: Annotated[Path, typer.Argument(metavar="GOAL", help="Image to reach.")],
    steps: Annotated[int, typer.Option(min=1, max=MOST_CANDIDATES, help="Actions, at most.")] = 3,
    model: Model = "small",
    inverse: Annotated[
        str, typer.Option(help="Inverse model that proposes; by default the one in --model.", show_default=False)
    ] = "",
    proposals: Annotated[
        int, typer.Option(min=1, max=MOST_CANDIDATES, help="Actions tried at each frame, at most.")
    ] = 16,
    beam: Annotated[int, typer.Option(min=1, max=MOST_CANDIDATES, help="Frames kept after each step.")] = 4,
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the film strip, as image and page, and the numbers.")
    ] = Path("plan"),
) -> None:
    """Find actions that lead from one image to another: the inverse model proposes, the forward model imagines.

    Example: retrodict plan start.png goal.png --steps 2 --out plan
    """
    check_output(out)

    from retrodict.api import plan as run
    from retrodict.files import write_json
    from retrodict.report.plan import title, write_plan
    from retrodict.run_folder import RECORD, Input, check

    settings = {
        "steps": steps,
        "model": model,
        "inverse": inverse,
        "proposals": proposals,
        "beam": beam,
        "seed": seed,
    }
    inputs: dict[str, Input] = {
        "start": start,
        "goal": goal,
        "model weights": model,
        "inverse weights": inverse,
    }
    record = check(out, "plan", settings, inputs=inputs)
    made = run(
        start, goal, steps=steps, model=model, inverse=inverse or None, proposals=proposals, beam=beam, seed=seed
    )
    write_json(out / RECORD, record)
    write_plan(out, made)
    typer.echo(title(made))
    for number, (action, probability) in enumerate(zip(made.actions, made.probabilities, strict=True), start=1):
        typer.echo(f"{number}. {action}  ({probability:.2f})")
    typer.echo(f"Film strip: {out / 'strip.png'}, {out / 'plan.html'}")


@verb
@runs_models
def rerank(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Image of the scene before the action.")] = "",
    action: Annotated[str, typer.Argument(metavar="ACTION", help="What should have happened, in words.")] = "",
    candidates: Annotated[
        list[str] | None, typer.Argument(metavar="CANDIDATE...", help="Images, made by any program.")
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(help="For many actions: a JSON Lines file with `file_name`, `action`, `candidates`."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="With --tasks: folder for ranked.jsonl and a contact sheet.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="With --tasks: folder that paths start from; by default that of the file.")
    ] = None,
    model: Model = "small",
    verifier: Check = "idm",
    inverse: Inverse = "",
    quiet: Quiet = False,
) -> None:
    """Sort images from any image editor by how well they show the action, best first.

    Example: retrodict rerank before.png "push the red ball to the left" a.png b.png c.png
    """
    from retrodict import api

    if tasks is None:
        if not source or not candidates:
            raise ValueError("Give SOURCE ACTION CANDIDATE..., or many of them in a file: --tasks FILE --out FOLDER.")
        if out is not None or images is not None:
            raise ValueError("--out and --images go with --tasks: leave them out.")
        ranked = api.rerank(source, action, candidates, model=model, verifier=verifier, inverse=inverse or None)
        for path, score in ranked:
            typer.echo(f"{score:10.3f}  {path}")
        return
    if source or out is None:
        raise ValueError("--tasks names everything: give --out, and neither SOURCE, ACTION nor CANDIDATE.")
    check_output(out)
    with open_progress(quiet, "retrodict rerank") as progress:
        progress.stage("rerank", "score the candidates of each action")
        records = api.rerank_tasks(
            tasks,
            out=out,
            model=model,
            verifier=verifier,
            inverse=inverse or None,
            images=images,
            progress=progress,
        )
        progress.done()
    entries = [entry for record in records for entry in record.get("ranked", ())]
    lost = sum("reason" in entry for entry in (*entries, *records))
    typer.echo(
        f"{len(records):,} actions, {len(entries):,} candidates"
        + f"; not scored, with their reasons: {lost}" * (lost > 0)
    )
    typer.echo(f"Contact sheet: {out / 'index.html'}\nScores: {out / 'ranked.jsonl'}")
