"""Which pseudo-labels a model learns from: stratified top-K (arXiv 2506.06006, Algorithm 1), and what was tried beside
it. A strategy is one record of `STRATEGIES`."""

from __future__ import annotations

import math
import pickle
import shutil
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrodict.errors import check_count
from retrodict.files import visible, write_json
from retrodict.run_folder import RECORD, check, fingerprint, relative_path
from retrodict.transitions import (
    MANIFEST,
    NO_LIKELIHOOD,
    Transition,
    file_rows,
    read_notes,
    row_files,
    write_manifest,
    write_rows,
)

ROWS = "transitions-00000.parquet"
COLLECTION = "collection"  # in a row's provenance: the collection of videos that it comes from
_PART = 256  # rows that are in memory at a time, with their images; more where that would make too many parts
_MOST_PARTS = 500
_SCRATCH = ".parts"
_MADE_OF = b"retrodict.made_of"
FORWARD = "forward_logprob"  # in a checked row's provenance: log p(target | source, action) under a forward model
CHECK_WEIGHT = 0.5  # of that likelihood beside the inverse model's

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Strategy:
    """A way to order pseudo-labels.

    Attributes:
        about: completes "NAME ...", for help texts.
        value: how early a row of a group is taken, the higher the earlier, from the log-likelihoods of the group's
            actions under the inverse model and of its targets under the forward model.
        checked: whether it needs the second of them, which `annotate` with a forward model leaves.
        shares: whether each group gives the same share of its rows; else groups take turns. The groups are the classes,
            and with shares within them the kinds of action that the labels name (their first words), so that none
            starves that models find hard.
        limited: whether `top_k` limits it.
    """

    about: str
    value: Callable[[Values, Values], Values]
    checked: bool = False
    shares: bool = False
    limited: bool = True


def _informative(inverse: Values, forward: Values) -> Values:
    """The surer half of the labels comes first, those whose target the forward model expects least at the front."""
    half = -(-len(inverse) // 2)
    trusted = np.isin(np.arange(len(inverse)), np.argsort(-inverse, kind="stable")[:half])
    return np.where(trusted, -forward, inverse - 1e9)


STRATEGIES = {
    "likeliest": Strategy(
        "takes the labels that the inverse model is surest of, class by class in turn (the paper's Algorithm 1)",
        lambda inverse, forward: inverse,
    ),
    "checked": Strategy(
        "takes those after which the forward model expects the target, too, the same share of each kind of action",
        lambda inverse, forward: inverse + CHECK_WEIGHT * forward,
        checked=True,
        shares=True,
    ),
    "informative": Strategy(
        "takes sure labels whose target the forward model expects least, the same share of each kind of action",
        _informative,
        checked=True,
        shares=True,
    ),
    "all": Strategy("takes every label", lambda inverse, forward: inverse, limited=False),
}
DEFAULT = "likeliest"


@dataclass
class _Keys:
    """What decides on each row."""

    ids: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    inverse: array[float] = field(default_factory=lambda: array("d"))
    forward: array[float] = field(default_factory=lambda: array("d"))
    collections: list[str] = field(default_factory=list)

    def add(self, row: Transition) -> None:
        self.ids.append(row.id)
        self.classes.append(sys.intern(row.category))
        self.kinds.append(sys.intern(kind_of(row.action)))
        self.inverse.append(row.logprob)
        self.forward.append(row.provenance.get(FORWARD, math.nan))
        self.collections.append(sys.intern(str(row.provenance.get(COLLECTION, ""))))


def kind_of(action: str) -> str:
    """The kind of an action: its first word, in small letters, such as "push"; empty for no words."""
    return next(iter(visible(action).casefold().split()), "")


def select(
    transitions: Sequence[Transition], top_k: int, *, strategy: str = DEFAULT, without_likelihood: bool = False
) -> list[Transition]:
    """Take labels in the order of a strategy, until `top_k` are taken.

    By default each class's most likely remaining label in turn. Classes take turns in alphabetical order, and equals
    are ordered by id, so that the result depends on the set of transitions alone. Those without a likelihood are never
    taken, or last with `without_likelihood`. Fewer than `top_k` come back when there are no more.
    """
    keys = _Keys()
    for row in transitions:
        keys.add(row)
    return [transitions[i] for i in _ranking(keys, range(len(transitions)), top_k, strategy, without_likelihood)]


def _ranking(keys: _Keys, rows: Sequence[int], top_k: int, strategy: str, without_likelihood: bool) -> list[int]:
    """The rows to take, out of `rows`, in the order in which they are taken."""
    check_count("top_k", top_k)
    chosen = get_strategy(strategy)
    groups: dict[tuple[str, str], list[int]] = {}
    for i in sorted(rows, key=lambda i: keys.ids[i]):
        if without_likelihood or not math.isnan(keys.inverse[i]):
            kind = keys.kinds[i] if chosen.shares else ""
            groups.setdefault((keys.classes[i], kind), []).append(i)
    taken: list[tuple[float, int, int]] = []  # when a row's turn comes, the number of its group, the row
    for number, (_, group) in enumerate(sorted(groups.items())):
        inverse, forward = (np.array([values[i] for i in group]) for values in (keys.inverse, keys.forward))
        values = np.nan_to_num(chosen.value(inverse, forward), nan=-np.inf, neginf=-np.inf)
        for turn, n in enumerate(np.argsort(-values, kind="stable")):
            taken.append(((turn + 0.5) / len(group) if chosen.shares else turn, number, group[n]))
    taken.sort(key=lambda one: one[:2])
    return [i for _, _, i in taken[: top_k if chosen.limited else None]]


def get_strategy(name: str) -> Strategy:
    """The strategy of that name. Raises `ValueError` for an unknown one."""
    if name not in STRATEGIES:
        raise ValueError(f'No strategy "{name}": use one of {", ".join(STRATEGIES)}.')
    return STRATEGIES[name]


def select_dir(
    transitions: Path,
    *,
    top_k: int,
    out: Path,
    strategy: str = DEFAULT,
    without_likelihood: bool = False,
    per_collection: bool = False,
) -> None:
    """Select among a directory of annotated transitions; the same call again does it anew if they have changed.

    Two passes: what decides is read of all rows, the images of the chosen ones alone.

    Args:
        transitions: directory that `annotate` wrote.
        top_k: how many to keep.
        out: a new directory, or that of an earlier call with the same directory and `top_k`.
        strategy: which labels come first, a key of `STRATEGIES`.
        without_likelihood: whether rows without a likelihood are taken, too, after all others.
        per_collection: keep so many of each collection of videos, one after the other.

    Raises:
        ValueError: no row has a likelihood or an action, no forward model has checked labels of which the strategy asks
            that, or `out` is another run's or the transitions' own directory.
    """
    files = row_files(transitions)
    settings = {
        "transitions": relative_path(transitions, out),
        "top_k": top_k,
        "without_likelihood": without_likelihood,
        **({"per_collection": True} if per_collection else {}),
        **({"strategy": strategy} if strategy != DEFAULT else {}),
    }
    record = check(out, "select", settings, apart=[transitions])
    made_of = fingerprint(transitions).encode()
    if (out / MANIFEST).is_file() and read_notes(out / ROWS).get(_MADE_OF) == made_of:
        return
    decides = get_strategy(strategy)
    keys, starts = _what_decides(transitions, files, provenance=per_collection or decides.checked)
    if decides.checked and all(map(math.isnan, keys.forward)):
        raise ValueError(
            f'No forward model has checked the labels in {transitions}, which the strategy "{strategy}" asks for.'
        )
    rows_of: dict[str, list[int]] = {}
    for i, collection in enumerate(keys.collections):
        rows_of.setdefault(collection if per_collection else "", []).append(i)
    chosen = [
        row for _, rows in sorted(rows_of.items()) for row in _ranking(keys, rows, top_k, strategy, without_likelihood)
    ]
    if not chosen:
        raise ValueError(f"No transition in {transitions} has a likelihood: {_remedy(files)}.")
    write_json(out / RECORD, record)
    (out / MANIFEST).unlink(missing_ok=True)
    write_rows(out / ROWS, _in_order(files, starts, chosen, out / _SCRATCH), notes={_MADE_OF: made_of})
    unscored = sum(map(math.isnan, keys.inverse))
    dropped = Counter({"no likelihood": unscored, "below the top": len(keys.ids) - unscored - len(chosen)})
    write_manifest(out, kind="transitions", config={"top_k": top_k}, kept=len(chosen), dropped=+dropped)


def _remedy(files: Sequence[Path]) -> str:
    """What to do about labels of which none has a likelihood."""
    first = next((row for file in files for row in file_rows(file, ["provenance"], {0})), None)
    reason = first and first.provenance.get(NO_LIKELIHOOD)
    if not reason:
        return "run `retrodict annotate` first"
    return (
        f"{reason}. Run `annotate` with a model that says how likely its labels are (one on this machine, or served by "
        "vLLM), or train on the annotated folder itself"
    )


def _what_decides(transitions: Path, files: Sequence[Path], *, provenance: bool) -> tuple[_Keys, list[int]]:
    """What decides on all rows, and the number of the first row of each file."""
    keys = _Keys()
    starts: list[int] = []
    columns = ["class", "logprob", "action", *(["provenance"] if provenance else [])]
    for file in files:
        starts.append(len(keys.ids))
        for row in file_rows(file, columns):
            if not isinstance(row, Transition):
                raise ValueError(f"{transitions} holds frame pairs without actions: run `retrodict annotate` on it.")
            keys.add(row)
    return keys, starts


def _in_order(
    files: Sequence[Path], starts: Sequence[int], chosen: Sequence[int], scratch: Path
) -> Iterator[Transition]:
    """The chosen rows with their images. Each file is read once; the rows are sorted through parts on disk."""
    size = max(_PART, math.ceil(len(chosen) / _MOST_PARTS))
    order_of = {number: n for n, number in enumerate(chosen)}
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        with ExitStack() as stack:
            parts = [stack.enter_context((scratch / str(n)).open("w+b")) for n in range(math.ceil(len(chosen) / size))]
            for file, start, stop in zip(files, starts, [*starts[1:], None], strict=True):
                only = {number - start for number in order_of if start <= number and (stop is None or number < stop)}
                numbers = sorted(only)
                for number, row in zip(numbers, file_rows(file, only=only), strict=True):
                    n = order_of[start + number]
                    pickle.dump((n, row), parts[n // size])
            for n, part in enumerate(parts):
                part.seek(0)
                count = min(size, len(chosen) - n * size)
                yield from (row for _, row in sorted((pickle.load(part) for _ in range(count)), key=lambda one: one[0]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
