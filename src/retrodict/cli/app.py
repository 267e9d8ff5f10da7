"""The application that commands register with, and what runs it.

Whatever is heavy is imported inside a command, so that `retrodict --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
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
