"""Images on the page: which ones, in which order, and as what.

Examples are chosen by the hash of their ids, never by eye; where right and wrong ones are shown apart, each part is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from retrodict.evaluation.metrics import L1_PROTOCOL, l1
from retrodict.evaluation.pool import ItemResult, Scored, chosen
from retrodict.evaluation.summary import default_selector
from retrodict.files import JsonMapping
from retrodict.report.kit.format import finite, percent, system_name
from retrodict.report.kit.images import Cells, Pair, hashed, pair, shape_of, uri
from retrodict.report.run import Run
from retrodict.transitions import Transition, decode_image
from retrodict.worlds.base import World

SAMPLE, WORST, LABELS, LOOKED_AT, HEATMAPS = 8, 4, 4, 400, 4


@dataclass(frozen=True)
class Shown:
    """One prediction: its image, its score, and whether it repeats the source.

    Without an exact score, `remarks` say what else is known of it.
    """

    image: str
    score: float
    copy: bool
    reason: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    source: str
    target: str
    action: str
    suite: str
    predictions: tuple[Shown, ...]
    cells: Cells = ()  # recognition weights of the target
    shape: float = 1.0  # width over height


@dataclass(frozen=True)
class Column:
    title: str
    note: str
    system: str
    pick: Callable[[ItemResult], Scored]
    row: str = ""  # its name where judges and metrics list it
    named: str = ""  # its name among the rows of a loop without scores, where that is another

    @property
    def measured_as(self) -> str:
        return self.named or self.row


def world(run: Run) -> list[Pair]:
    """One test transition of each suite."""
    firsts: dict[str, Transition] = {}
    for transition in _by_hash(run):
        firsts.setdefault(transition.category, transition)
    suites = list(run.world.suites) if run.world else []
    order = [*suites, *sorted(firsts.keys() - set(suites))]
    return [pair(firsts[suite], title=run.suite_title(suite)) for suite in order if suite in firsts][:6]


def labels(run: Run) -> dict[str, list[Pair]] | None:
    """Mined pairs with the inverse model's labels: right ones and wrong ones where the truth can be read off."""
    by_verdict: dict[str, list[Pair]] = {"right": [], "wrong": [], "unknown": []}
    for row in run.annotated(LOOKED_AT):
        verdict, truth = _verdict(row, run.world) if run.world else ("unknown", "")
        if verdict and len(by_verdict[verdict]) < LABELS:
            by_verdict[verdict].append(pair(row, logprob=row.logprob, truth=truth))
        if len(by_verdict["right"]) == len(by_verdict["wrong"]) == LABELS or len(by_verdict["unknown"]) == LABELS:
            break
    return by_verdict if any(by_verdict.values()) else None


def _verdict(row: Transition, world: World) -> tuple[str, str]:
    """Whether a label is right by the world's own rules; no verdict where no single action explains the pair."""
    true = world.action_between(row.source_image, row.target_image)
    if true is None:
        return "", ""
    return ("right", "") if world.same_action(row.action, true) else ("wrong", true)


def heatmaps(run: Run) -> list[Pair]:
    """Target images under their recognition weights, as cells whose opacity is the weight's share of the largest."""
    weighted = list(_recognition(run).items())[:HEATMAPS]
    return [pair(run.test[name], cells=cells) for name, cells in weighted if name in run.test]


def _recognition(run: Run) -> dict[str, Cells]:
    """Cells of the items whose recognition weights the run stored."""
    path = run.folder / "recognition.json"
    if not path.is_file():
        return {}
    records = json.loads(path.read_text(encoding="utf-8"))
    return {record["id"]: tuple(_cells(record["grid"], record["weights"])) for record in records}


def _cells(grid: list[int], weights: list[float]) -> Iterator[tuple[float, float, float, float, float]]:
    rows, columns = grid
    largest = max((w for w in weights if finite(w)), default=0.0) or 1.0
    for i, weight in enumerate(weights):
        if finite(weight) and weight / largest >= 0.02:
            left, top = 100 * (i % columns) / columns, 100 * (i // columns) / rows
            yield left, top, 100 / columns, 100 / rows, round(weight / largest, 3)


def columns(run: Run) -> list[Column]:
    """The predictions that stand side by side: the baseline, the run's model, and what its verifier chose."""
    if run.main is None:
        return []
    shown = []
    if run.is_loop and run.predictions("ft"):
        shown.append(Column("FT", "labelled data only", "ft", lambda item: item.greedy, "ft"))
    if items := run.predictions(run.main):
        note = "with annotated video" if run.is_loop and run.get("annotation") else "greedy"
        shown.append(Column(system_name(run.main), note, run.main, lambda item: item.greedy, run.main))
        size = min(len(item.pool) for item in items.values())
        selector = run.get("systems", run.main, f"k{size}", "selector") or _selector(items.values())
        if size > 1 and selector not in ("", "random"):
            note = f"best of {size}"
            row = f"{run.main}.k{size}.{selector}"
            named = f"{run.main}, best by {selector}" if run.is_loop else ""
            shown.append(Column("Verified", note, run.main, lambda item: _verified(item, selector), row, named))
    return shown


def _selector(items: Iterable[ItemResult]) -> str:
    """What chooses where no score says which verifier is the default one."""
    return default_selector(dict.fromkeys(v for item in items for frame in item.pool for v in frame.verifiers))


def _verified(item: ItemResult, selector: str) -> Scored:
    best = chosen(item, selector)
    return Scored(reason="no candidate was scored") if best is None else item.pool[best]


def sample(run: Run) -> list[Row]:
    """The first items by hash; those without any predicted image, which are counted separately, come last."""
    items = [t for t in _by_hash(run) if _complete(run, t)]
    return list(_rows(run, sorted(items, key=lambda t: not _predicted(run, t))[:SAMPLE]))


def without_image(run: Run) -> int:
    """How many test items have no predicted image in any column."""
    return sum(not _predicted(run, t) for t in run.test.values() if _complete(run, t))


def _predicted(run: Run, transition: Transition) -> bool:
    return any(c.pick(run.predictions(c.system)[transition.id]).image for c in columns(run))


def worst(run: Run) -> list[Row]:
    """The items on which the last column does worst; equals in the order of their hashes."""
    shown = columns(run)
    if not shown:
        return []
    value = _value(run, shown[-1])
    exact = run.has_scores or run.get("metrics", "exact_patches")
    top = 1.0 if exact else math.inf  # what is all right is no worst case
    scored = [t for t in _by_hash(run) if _complete(run, t) and finite(value(t)) and value(t) < top]
    return list(_rows(run, sorted(scored, key=value)[:WORST]))


def _value(run: Run, column: Column) -> Callable[[Transition], float]:
    """How good a prediction is: by the exact state, else by the first judge, else by its exact patches, else how much
    nearer than a copy it is."""
    if run.has_scores:
        items = run.predictions(column.system)
        return lambda t: column.pick(items[t.id]).score
    if run.judges:
        verdicts = run.judges[0]["verdicts"]
        return lambda t: _float(verdicts.get((column.row, t.id)))
    records = _records(run, column)

    if run.get("metrics", "exact_patches"):
        return lambda t: _float(_exact(records.get(t.id), column))

    def saved(t: Transition) -> float:
        return _distance(run, "copy", t, records, t.source) - _distance(
            run, column.measured_as, t, records, column.pick(run.predictions(column.system)[t.id]).image
        )

    return saved


def _distance(
    run: Run, row: str, transition: Transition, records: Mapping[str, JsonMapping], image: bytes | None
) -> float:
    """L1 to the true frame, as the run recorded it, or else of the stored images."""
    if recorded := (records.get(transition.id) or {}).get("l1"):
        return _float(recorded.get(row))
    if not image or not transition.target:
        return math.nan
    return l1(decode_image(image, "prediction"), transition.target_image, run.get("protocol") or L1_PROTOCOL)


def _float(value: object) -> float:
    return value if finite(value) else math.nan


def _complete(run: Run, transition: Transition) -> bool:
    shown = columns(run)
    return bool(shown) and all(transition.id in run.predictions(c.system) for c in shown)


def _rows(run: Run, transitions: Iterable[Transition]) -> Iterator[Row]:
    cells = _recognition(run)
    records = {} if run.has_scores else {c.system: _records(run, c) for c in columns(run)}
    for t in transitions:
        shown = tuple(_shown(run, column, t, records) for column in columns(run))
        shape = shape_of(t.source)
        title = run.suite_title(t.category)
        yield Row(uri(t.source), uri(t.target), t.action, title, shown, cells.get(t.id, ()), shape)


def _shown(run: Run, column: Column, transition: Transition, records: Mapping[str, Mapping[str, JsonMapping]]) -> Shown:
    frame = column.pick(run.predictions(column.system)[transition.id])
    if run.has_scores:
        return Shown(uri(frame.image), frame.score, frame.copy == 1, frame.reason)
    remarks = []
    for judge in run.judges:
        score = judge["verdicts"].get((column.row, transition.id))
        remarks.append(f"{judge['name']}: {score:g} of 10" if finite(score) else f"{judge['name']}: not scored")
    own = records.get(column.system) or {}
    distance = _distance(run, column.measured_as, transition, own, frame.image)
    exact = _exact(own.get(transition.id), column)
    if finite(exact):
        remarks.append(f"{percent(exact)} of the change exact")
    elif finite(distance):
        remarks.append(f"L1 {distance:.3f}, copy {_distance(run, 'copy', transition, own, transition.source):.3f}")
    copied = ((own.get(transition.id) or {}).get("metrics") or {}).get("copy") or {}
    reason = "" if frame.image else frame.reason or "no image"
    return Shown(uri(frame.image), math.nan, 1 in (copied.get(column.measured_as), frame.copy), reason, tuple(remarks))


def _records(run: Run, column: Column) -> dict[str, JsonMapping]:
    """What was measured of each item, all rows together, by item id."""
    return dict(run.records("rows") or run.records(column.system))


def _exact(record: JsonMapping | None, column: Column) -> object:
    """The share of an item's changed patches that are exactly right, where that was measured."""
    return (((record or {}).get("metrics") or {}).get("exact_patches") or {}).get(column.measured_as)


def _by_hash(run: Run) -> list[Transition]:
    return sorted(run.test.values(), key=lambda t: hashed(t.id))
