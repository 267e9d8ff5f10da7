"""The command that has a judge look at predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from retrodict.chat import Detail
from retrodict.cli.app import refuse_all_but, refuse_beside, verb
from retrodict.cli.options import Quiet, Seed, choice, options_of, runs_models
from retrodict.errors import check_output, check_output_file
from retrodict.evaluation import Frames
from retrodict.evaluation.judge.kinds import JUDGES
from retrodict.files import JsonObject
from retrodict.progress.view import open_progress
from retrodict.shards import ALL, Sharing, Where

if TYPE_CHECKING:
    from retrodict.chat.parsing import Reason
    from retrodict.evaluation.judge.plan import Plan

_ASKING = ("repeats", "temperature", "max_tokens", "max_side", "offline", "again", "width", "detail")
_SENDING = ("schema", "price_in", "price_out", "max_cost", "timeout", "attempts")


@verb
@runs_models
@options_of(Sharing)
def judge(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Folder that demo, bootstrap or bench wrote; with --on, one to write to."),
    ],
    sharing: Sharing,
    judge: Annotated[
        str, choice(JUDGES, help="; ".join(f"`{name}` {kind.about}" for name, kind in JUDGES.items()) + ".")
    ] = "endpoint",
    model: Annotated[
        str, typer.Option("--model", "-m", help="Name under which the endpoint serves the judge; or a local folder.")
    ] = "",
    base_url: Annotated[
        str,
        typer.Option(
            envvar="OPENAI_BASE_URL",
            help="Address of the endpoint. Its key is read from RETRODICT_JUDGE_KEY or OPENAI_API_KEY.",
        ),
    ] = "https://api.openai.com/v1",
    prompt: Annotated[
        str,
        typer.Option(
            help="What is asked: paper_fig10_v1, viescore_style_v1, editscore_style_v1, pairwise_v1, or a .yaml file."
        ),
    ] = "paper_fig10_v1",
    name: Annotated[str, typer.Option(help="Name of the result; made of model and prompt by default.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="Folder of the benchmark's images, where the run does not hold them.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many items of each subset; with --on, so many pairs.")
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            metavar="SET",
            help="Compare with what people chose: editreward or mmrb2 (folder: --data), or a file of JSON lines.",
        ),
    ] = "",
    verifier: Annotated[
        str,
        typer.Option(
            help="With --on, in place of a judge: idm, idm_mean, contrast (of the inverse model --model), least_copy, "
            "or weights: clip_t=FOLDER, editreward=FOLDER, editscore=FOLDER."
        ),
    ] = "",
    frames: Annotated[
        Frames,
        typer.Option(help="`best` judges greedy frames and those that the verifier chose, `all` every candidate."),
    ] = "best",
    repeats: Annotated[int, typer.Option(min=1, help="How often each question is asked.")] = 1,
    temperature: Annotated[
        str, typer.Option(help="Sampling temperature; `default` sends none, for models that refuse one.")
    ] = "0",
    seed: Seed = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 400,
    max_side: Annotated[int, typer.Option(min=16, help="Longest image side sent to the judge, in pixels.")] = 768,
    detail: Annotated[Detail, typer.Option(help="How closely an OpenAI model looks at images.")] = "high",
    schema: Annotated[bool, typer.Option(help="Ask for a JSON schema where the server can.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent and cost.")] = False,
    price_in: Annotated[float | None, typer.Option(help="Price of a million prompt tokens.")] = None,
    price_out: Annotated[float | None, typer.Option(help="Price of a million answer tokens.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Stop before this command costs more; needs prices.")] = None,
    batch_out: Annotated[Path | None, typer.Option(help="Write an OpenAI batch file, and send nothing.")] = None,
    batch_in: Annotated[Path | None, typer.Option(help="Read a batch's answers, and send nothing.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where answers are kept; in the run's folder by default.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Score from kept answers alone.")] = False,
    again: Annotated[
        str,
        typer.Option(
            metavar="REASONS", help="Ask anew where the kept answer was one of parse, range, refused, filtered."
        ),
    ] = "",
    card_items: Annotated[int, typer.Option(min=2, help="How many items the judge is tried on first.")] = 50,
    force: Annotated[bool, typer.Option("--force", help="Go on with a judge that fails its card.")] = False,
    width: Annotated[int, typer.Option(min=1, help="How many requests are under way at a time.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for one answer.")] = 120.0,
    attempts: Annotated[int, typer.Option(min=1, help="How often a request is tried before it is given up.")] = 8,
    quiet: Quiet = False,
) -> None:
    """Have a vision-language model judge the predictions of a run, once it has shown that it can.

    Answers are kept as they arrive: the same command again asks only for what is missing. Several processes share the
    questions: `--shard 1/4` to `--shard 4/4`; whichever finds all answers scores them.

    Example: retrodict judge runs/bench --model gpt-4o-2024-11-20 --dry-run
    """
    if run.is_file():
        raise ValueError(f"{run} is a file: name a folder that demo, bootstrap or bench wrote.")
    check_output(run)
    where = sharing.where()
    if on and where != ALL:
        raise ValueError("--shard and --executor are for the predictions of a run: leave them out with --on.")
    if verifier:
        if not on:
            raise ValueError("--verifier needs --on: judges are asked about runs, verifiers are in their `bench`.")
        refuse_all_but("--verifier", "on", "model", "data", "limit", "quiet", "device", "dtype")
        return _agreement(run, on, data, None, verifier, model or "small", limit, quiet)
    if on:
        refuse_beside("--on", "name", "frames", "card_items", "force", "dry_run", "batch_out", "batch_in")
    if dry_run:
        refuse_beside("--dry-run", "batch_out", "batch_in")
    if batch_out is not None:
        refuse_beside("--batch-out", "batch_in")
        check_output_file(batch_out)
    if JUDGES[judge].asks is None:
        refuse_beside(f"--judge {judge}", "model", "base_url", "prompt", *_ASKING, *_SENDING)
    elif judge == "local":
        refuse_beside(f"--judge {judge}", "base_url", *_SENDING)

    from retrodict.chat.cost import Prices
    from retrodict.chat.request import Settings
    from retrodict.evaluation.judge.plan import Plan

    if (price_in is None) != (price_out is None):
        raise ValueError("Give both prices, --price-in and --price-out.")
    settings = None
    if JUDGES[judge].asks is not None:
        settings = Settings(
            model=model,
            served=base_url,
            temperature=_temperature(temperature),
            seed=seed,
            max_tokens=max_tokens,
            detail=detail,
            max_side=max_side,
            schema="auto" if schema else "off",
            repeats=repeats,
        )
    plan = Plan(
        kind=judge,
        settings=settings,
        prompt=prompt,
        name=name,
        data=data,
        limit=limit,
        frames=frames,
        card_items=card_items,
        force=force,
        prices=None if price_in is None or price_out is None else Prices(price_in, price_out),
        max_cost=max_cost,
        width=width,
        timeout=timeout,
        attempts=attempts,
        cache=cache,
        online=not (offline or batch_in),
        again=cast("tuple[Reason, ...]", tuple(filter(None, (word.strip() for word in again.split(","))))),
    )
    if on:
        return _agreement(run, on, data, plan, "", "", limit, quiet)
    return _act(run, plan, where, dry_run, batch_out, batch_in, quiet)


def _agreement(
    out: Path, on: str, data: Path | None, plan: Plan | None, verifier: str, model: str, limit: int | None, quiet: bool
) -> None:
    from retrodict.evaluation.judge.agreement import agreement

    with open_progress(quiet, "retrodict judge") as progress:
        shares = agreement(
            out, on, data=data, plan=plan, verifier=verifier, model=model, limit=limit, progress=progress
        )
    for key, words in (("right", "of what people chose, chosen too"), ("same", "the same, ties included")):
        entry = shares[key]
        low, high = entry["ci95"]
        typer.echo(f"{entry['share']:.1%} [{low:.1%} to {high:.1%}] {words}, n = {entry['n']}")
    ties, orders = shares["ties"]["share"], shares["consistent"]
    typer.echo(f"{ties:.1%} ties; {shares['n_unscored']} pairs without an answer, {shares['left_out']} left out")
    if orders is not None:
        typer.echo(f"both orders agree in {orders:.1%}; the first image was named in {shares['first'] or 0:.1%}")
    typer.echo(f"Numbers: {out / 'results.json'}")


def _temperature(text: str) -> float | None:
    if text == "default":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2:
        raise ValueError("--temperature is a number from 0 to 2, or default.")
    return value


def _act(
    run: Path, plan: Plan, where: Where, dry_run: bool, batch_out: Path | None, batch_in: Path | None, quiet: bool
) -> None:
    from retrodict.evaluation.judge import offline
    from retrodict.evaluation.judge.run import judge_run

    if dry_run:
        return _say_cost(offline.dry_run(run, plan))
    if batch_out is not None:
        paths = offline.batch_out(run, plan, batch_out)
        typer.echo("\n".join(f"Batch: {path}" for path in paths) or "Every answer is there already: nothing to ask.")
        return None
    if batch_in is not None:
        taken = offline.batch_in(run, plan, batch_in)
        typer.echo(
            f"Answers: {taken.answered} new, {taken.already} known before, {len(taken.lost)} lost, "
            f"{taken.unknown} of other questions"
        )
    with open_progress(quiet, "retrodict judge") as progress:
        measured = judge_run(run, plan, progress, where)
    if not measured:
        typer.echo(f"{run}: this share is answered; whichever process finds all answers scores them.")
        return None
    typer.echo("\n".join(_lines(measured)))
    typer.echo(f"Card: {measured['card']['why']}")
    typer.echo(f"Numbers: {run / 'judge' / measured['name']}.json")
    return None


def _lines(measured: JsonObject) -> list[str]:
    entries, lines = measured.get("rows") or measured["pairs"], []
    for name, entry in entries.items():
        if "share" in entry:
            score = (
                f"{entry['a']} beats {entry['b']} in {entry['share']:.0%}, orders agree in {entry['consistent']:.0%}"
            )
            lines.append(f"{score}, {entry['n']} of {entry['n_total']} scored")
        else:
            low, high = entry["bounds"]
            score = f"{entry['score']:.2f} of 10" if entry["n"] else "no score"
            lines.append(f"{name}: {score}, {entry['n']} of {entry['n_total']} scored (bounds {low:.2f} to {high:.2f})")
    if any({"unsent", "transport"} & set(entry["unscored"]) for entry in entries.values()):
        lines.append("Some questions have no answer yet: the same command asks only those.")
    for setting, count in ((measured.get("usage") or {}).get("without") or {}).items():
        lines.append(f"The endpoint takes no {setting}: {count:,} answers came without.")
    return lines


def _say_cost(estimate: JsonObject) -> None:
    typer.echo(f"To send: {estimate['requests']} requests; {estimate.get('answered', 0)} answers are there already.")
    if estimate["requests"]:
        typer.echo(
            f"Tokens: about {estimate['prompt_tokens']:,} to read, "
            f"at most {estimate['completion_tokens_at_most']:,} to write ({estimate['note']})."
        )
        cost = estimate["cost_at_most"]
        typer.echo("Cost: give --price-in and --price-out." if cost is None else f"Cost: at most about {cost:.2f}.")
