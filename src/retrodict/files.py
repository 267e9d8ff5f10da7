"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

JsonObject = dict[str, Any]  # what JSON files hold
JsonMapping = Mapping[str, Any]  # the same, to be read only


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary)` and rename the result to `path`, so that no reader and no crash sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Write JSON. A number that there is not (NaN, infinity) is null: readers in other languages refuse NaN."""
    write_text(path, json.dumps(_finite(value), indent=1, sort_keys=False, allow_nan=False) + "\n")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def number_of(value: float | str | None) -> float:
    """A number as `write_json` and columns of lines have it: null is NaN."""
    return math.nan if value is None else float(value)


def write_lines(path: Path, records: Iterable[JsonMapping]) -> None:
    """Write JSON lines, whole or not at all."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records))


def read_lines(path: Path) -> list[JsonObject]:
    """JSON lines up to one that a kill cut off; none where there is no file."""
    records: list[JsonObject] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return records


def text_lines(path: Path) -> Iterator[str]:
    """Lines of a text that people wrote. Raises `ValueError`, naming the file, where it is not UTF-8."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            yield from lines
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8: save it as that.") from None


def is_text(text: str) -> bool:
    """Whether it can be written: JSON and names of files can hold half a character, which no text can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


LONGEST_ACTION = 2_000  # characters of an action that people ask for or learn from; it is a sentence, not a book
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters by their class, of which nothing is to be seen


def _is_seen(one: str) -> bool:
    return (one.isprintable() or not is_text(one)) and not one.isspace() and one not in _BLANK


def visible(text: str) -> str:
    """A text from the first to the last character that can be seen; empty where there is none.

    This decides what an empty action is: zero-width spaces, byte order marks and soft hyphens say nothing either. Half
    characters stay, so that they can be told.
    """
    shown = [i for i, one in enumerate(text) if _is_seen(one)]
    if all(unicodedata.category(text[i])[0] == "M" for i in shown):  # accents on nothing, variations of nothing
        return ""
    return text[shown[0] : shown[-1] + 1]


@contextmanager
def as_written(*folders: Path) -> Iterator[None]:
    """Reads what a run wrote to a folder, and says which one where files are not as any run writes them."""
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:  # whatever may be raised by reading what others have edited; a line of ours goes on
        if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            raise
        names = " or ".join(map(str, folders))
        raise ValueError(
            f"{names} holds something that no run writes ({type(error).__name__}: {error}): make it again. If nothing "
            "was changed there, this is our fault, and RETRODICT_DEBUG=1 shows it."
        ) from error


def write_text(path: Path, text: str) -> None:
    write_atomic(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def made_once(file: Path, make: Callable[[], T], whole: Callable[[T], bool] = lambda value: True) -> Any:
    """The JSON value in `file`, else made, and written where it is `whole`. Floats come back bit by bit, NaN too."""
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    made = make()
    text = json.dumps(made, indent=1) + "\n"
    if whole(made):
        write_text(file, text)  # for ourselves alone, so that NaN may stay what it is
    return json.loads(text)
