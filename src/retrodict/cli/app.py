"""The application that commands register with, and what runs it.

Whatever is heavy is imported inside a command, so that `retrodict --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
import typer.core

from retrodict import __version__
from retrodict.errors import guarded

P = ParamSpec("P")
T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Retrodict what happened; predict what happens next.\n\n"
    "Start with [bold]retrodict demo[/bold]: it runs the whole loop on a simulated world in minutes.",
)


class Command(typer.core.TyperCommand):
    """A command that takes no empty argument: a path would mean the current folder, and a shell variable was unset."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "" in args:
            before = args[args.index("") - 1] if args.index("") else ""
            where = f" after {before}" if before else ""
            typer.echo(f"retrodict: there is an empty argument{where}: is a variable of the shell not set?", err=True)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        running = _RUNNING.set(ctx)
        try:
            return super().invoke(ctx)
        finally:
            _RUNNING.reset(running)


_RUNNING: ContextVar[Any] = ContextVar("running", default=None)  # Typer's context of the command that runs


def _typed() -> dict[str, str]:
    """The options that were typed, by the names of their parameters; not those that an environment variable gave."""
    context = _RUNNING.get()
    return {
        option.name: option.opts[0]
        for option in (context.command.params if context else ())
        if option.opts[0].startswith("-") and context.get_parameter_source(option.name).name == "COMMANDLINE"
    }


def refuse_beside(flag: str, *names: str) -> None:
    """Refuse options that do nothing beside `flag`. Raises `ValueError` when one was typed."""
    for name, other in _typed().items():
        if name in names:
            raise ValueError(f"{flag} and {other} do not go together: leave one of them out.")


def refuse_all_but(flag: str, *names: str) -> None:
    """The same of all options but these, which do something beside `flag`."""
    refuse_beside(flag, *(name for name, other in _typed().items() if name not in names and other != flag))


def refuse_without(flag: str, *names: str) -> None:
    """Refuse options that do nothing without `flag`. Raises `ValueError` when one was typed."""
    for name, other in _typed().items():
        if name in names:
            raise ValueError(f"{other} does nothing without {flag}: give both, or neither.")


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the `retrodict` command."""
    app()


def verb(function: Callable[P, T]) -> Callable[P, T]:
    """Register a command; what goes wrong in it becomes one line and an exit code."""
    return app.command(cls=Command)(guarded(function))
