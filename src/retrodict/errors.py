"""Errors for people: one line on stderr, and an exit code. 2: the user can fix it. 1: our fault. 130: interrupted."""

from __future__ import annotations

import errno
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, ParamSpec, SupportsIndex, TypeVar

import typer

P = ParamSpec("P")
T = TypeVar("T")

DEBUG = "RETRODICT_DEBUG"

_USERS_TO_FIX = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_USERS_TO_FIX_NUMBERS = (  # disks, and what they and the system allow
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE),
)


class UnansweredError(ValueError):
    """A model elsewhere does not answer now, or not us: the same command goes on where this one stopped."""


def guarded(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, whose exceptions end the program with one line each; with RETRODICT_DEBUG=1 they stay exceptions."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            _leave("stopped; the same command continues", 130)
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            if _is_users_to_fix(error):
                _leave(_message(error), 2)
            _leave(f"{type(error).__name__}: {_message(error)} (for the traceback: {DEBUG}=1)", 1)

    return call


def _leave(message: str, code: int) -> NoReturn:
    typer.echo(f"retrodict: {message}", err=True)
    raise typer.Exit(code)


def _is_users_to_fix(error: Exception) -> bool:
    if isinstance(error, OSError):
        unreadable_image = type(error).__name__ == "UnidentifiedImageError"  # Pillow's, without importing Pillow
        return isinstance(error, _USERS_TO_FIX) or error.errno in _USERS_TO_FIX_NUMBERS or unreadable_image
    if isinstance(error, ImportError):
        return "pip install" in str(error)  # an extra that is not installed
    nested = isinstance(error, RecursionError) and "JSON" in str(error)  # a file of brackets
    return isinstance(error, ValueError) or nested or _is_full_disk(error)


def _is_full_disk(error: Exception) -> bool:
    """Whether a library that writes weights found the disk full, which it says with an exception of its own."""
    return any(words in str(error) for words in ("No space left on device", "PytorchStreamWriter failed"))


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror.lower()}"
    if _is_full_disk(error):
        return os.strerror(errno.ENOSPC).lower()
    return " ".join(str(error).split()) or type(error).__name__


def check_count(name: str, value: object, most: int | None = None) -> None:
    """Refuse a count that is none, or is above `most`. Raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or value.__index__() < 1:  # NumPy's are welcome
        raise ValueError(f"{name} must be at least 1, a whole number, not {value!r}.")
    if most is not None and value.__index__() > most:
        raise ValueError(f"{name} is {value.__index__():,}, and {most:,} at most: all of them are in memory together.")


def check_output(path: Path) -> Path:
    """`path`, once it is sure that a folder of that name can be written; nothing is created yet.

    Raises `ValueError` or `OSError`. Called before work starts, so that hours are not lost to a read-only disk.
    """
    if path.is_file():
        raise ValueError(f"{path} is a file: --out names a folder.")
    folder = path.absolute()
    while not folder.exists():
        if folder.is_symlink():
            raise ValueError(f"{path} cannot be made: {folder} is a link that leads nowhere.")
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{path} cannot be made: {folder} is a file.")
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        reason = f"{os.strerror(error.errno or 0)}, so nothing can be written there"
        raise OSError(error.errno, reason, str(path)) from None
    return path


def check_output_file(path: Path) -> Path:
    """The same for a file."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: --out names a file.")
    check_output(path.absolute().parent)
    return path
