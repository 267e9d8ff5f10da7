"""Options that several commands share, so that the same thing has the same name and the same help everywhere."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.models import OptionInfo

from retrodict.dynamics.verifiers import NONE, VERIFIERS
from retrodict.evaluation import PUBLISHED
from retrodict.placement import AUTO, DTYPES, asked_for
from retrodict.sampling import MOST_CANDIDATES
from retrodict.worlds import WORLDS

SHAPES = ("temperature", "top_p", "top_k")  # of samples: a greedy frame has none of them
Given = str | list[str] | None


def one_of(names: Iterable[str]) -> Callable[[Given], Given]:
    """A callback that refuses other values; also for what may be given repeatedly."""
    known = tuple(names)

    def check(value: Given) -> Given:
        for given in [value] if isinstance(value, str) else value or ():
            if given not in known:
                raise typer.BadParameter(f"'{given}' is not one of {', '.join(known)}.")
        return value

    return check


def choice(names: Iterable[str], *flags: str, help: str) -> OptionInfo:
    """An option with these values, from the place that defines them; also one that may be given repeatedly."""
    known = tuple(names)
    option: OptionInfo = typer.Option(*flags, callback=one_of(known), metavar=f"<{'|'.join(known)}>", help=help)
    return option


OutDir = Annotated[
    Path, typer.Option("--out", "-o", help="Folder to write to. The same command again continues there.")
]
Model = Annotated[
    str, typer.Option("--model", "-m", help="`small` (comes with retrodict), `copy`, a folder, or a model hub id.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random; the same seed gives the same result.")]
Many = Annotated[
    int,
    typer.Option("-n", min=1, max=MOST_CANDIDATES, help="Number of candidates to sample; the verifier keeps the best."),
]
Check = Annotated[
    str,
    choice(
        (*VERIFIERS, NONE),
        help="What picks the best candidate: "
        + "; ".join(f"`{name}` {kind.about}" for name, kind in VERIFIERS.items())
        + f"; `{NONE}` decodes one frame greedily.",
    ),
]
Inverse = Annotated[
    str, typer.Option(help="Inverse model behind the verifier; by default the one in --model.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a value of the recipe: --set forward.steps=200. Repeatable."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="Image of the scene before the action.")]
SourceUrl = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Image of the scene before the action: a file, or its URL.")
]
Bench = Annotated[
    str,
    typer.Option(
        help=f"What to measure on: {', '.join((*WORLDS, *PUBLISHED))}, or a folder of transitions (Parquet files of "
        "any stage, or images beside a metadata.jsonl).",
    ),
]
Data = Annotated[Path | None, typer.Option(help="Folder of the benchmark's data, where it does not make its own.")]
Items = Annotated[
    int | None,
    typer.Option(min=1, help="How many items, the subsets in turn; by default all, or 300 of a world."),
]
_Device = Annotated[
    str, typer.Option(help="Where models run: cpu, cuda, cuda:1, mps; by default on a GPU where there is one.")
]
_Dtype = Annotated[
    str,
    choice((AUTO, *DTYPES), help="The type of models' weights; by default the one that they are stored in."),
]
Subsets = Annotated[
    list[str] | None,
    typer.Option(help="A subset to keep; by default all (of AURORA-Bench those with target images). Repeatable."),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Only the first so many items of each subset: a try, not a result.")
]

T = TypeVar("T")
_BY_NAME = inspect.Parameter.KEYWORD_ONLY


def runs_models(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command `--device` and `--dtype`, which hold while it runs."""
    return _runs(command, {"device": _Device, "dtype": _Dtype})


def trains_models(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command `--device`, which holds while it runs; in which type a model is trained, its recipe says."""
    return _runs(command, {"device": _Device})


def takes_addresses(command: Callable[..., T]) -> Callable[..., T]:
    """Let a command's folders, files and models be addresses (s3, gs, hf, http): it works on copies of them."""

    @functools.wraps(command)
    def call(**given: Any) -> T:
        from retrodict.remote import address_of, on_this_machine

        values = (one for value in given.values() for one in (value if isinstance(value, list) else [value]))
        if not any(map(address_of, values)):
            return command(**given)
        with on_this_machine(given) as local:
            return command(**local)

    return call


def _runs(command: Callable[..., T], options: dict[str, Any]) -> Callable[..., T]:
    @functools.wraps(command)
    def call(**given: Any) -> T:
        asked = {name: given.pop(name) for name in options}
        with asked_for(asked["device"], asked.get("dtype", AUTO)):
            return command(**given)

    given = inspect.signature(command, eval_str=True).parameters.values()
    added = [inspect.Parameter(name, _BY_NAME, default=AUTO, annotation=option) for name, option in options.items()]
    return _signed(call, [*(one.replace(kind=_BY_NAME) for one in given), *added])


def _signed(call: Callable[..., T], parameters: list[inspect.Parameter]) -> Callable[..., T]:
    """`call` with these parameters, as Typer reads them."""
    signed: Any = call
    signed.__signature__ = inspect.Signature(parameters)
    signed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def options_of(settings: type[Any]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Give a command one option for each field of a dataclass in place of the parameter that takes it.

    Names, types, defaults and help (`metadata["help"]`) are the dataclass's own, so that they are written down once.
    """

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        hints, fields = get_type_hints(settings), dataclasses.fields(settings)

        signature = inspect.signature(command, eval_str=True).parameters.values()
        (taken,) = (parameter.name for parameter in signature if parameter.annotation is settings)

        @functools.wraps(command)
        def call(**given: Any) -> T:
            config = settings(**{field.name: given.pop(field.name) for field in fields})
            return command(**{taken: config}, **given)

        parameters = []
        for parameter in signature:
            if parameter.name != taken:
                parameters.append(parameter.replace(kind=_BY_NAME))
                continue
            for field in fields:
                kind: Any = str if hints[field.name] == int | str else hints[field.name]
                default = str(field.default) if kind is str else field.default
                option: Any = Annotated[kind, typer.Option(help=field.metadata["help"])]
                parameters.append(inspect.Parameter(field.name, _BY_NAME, default=default, annotation=option))
        return _signed(call, parameters)

    return decorate
