"""Two predictions side by side: which is better? Each pair is asked in both orders.

A choice that changes with the order says something about the judge and nothing about the images: it counts as a tie,
and how often that happens is reported. Images that are the same to the pixel tie without being asked about.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from retrodict.chat.client import Chat
from retrodict.chat.parsing import Failure, Reason, Reply
from retrodict.chat.request import Request, build, fingerprint
from retrodict.evaluation.judge.card import COPY, TRUTH, card_items
from retrodict.evaluation.judge.parsing import read_choice
from retrodict.evaluation.judge.predictions import Row
from retrodict.evaluation.judge.protocol import Question
from retrodict.evaluation.judge.results import groups
from retrodict.files import JsonMapping, JsonObject
from retrodict.progress import Progress
from retrodict.stats import adjust, paired_difference, share_interval, shown
from retrodict.transitions import Transition

_WORTH = {"first": 1.0, "second": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class Preference:
    """How a first prediction fares against a second: 1 better, 0 worse, 0.5 a tie; NaN with a reason."""

    outcome: float = math.nan
    reason: str = ""
    detail: str = ""
    choices: tuple[str, ...] = ()  # as given, in the order of asking
    asked: bool = False
    answers: tuple[str, ...] = ()

    @property
    def consistent(self) -> bool:
        """Whether both orders named the same prediction, or both a tie."""
        return self.choices in (("first", "second"), ("second", "first"), ("tie", "tie"))


@dataclass
class PairJudge(Chat):
    """A judge of pairs of predictions."""

    def __post_init__(self) -> None:
        if self.prompt.answer != "choice":
            raise ValueError(f"The prompt {self.prompt.id} does not compare two predictions.")
        if self.settings.repeats != 1:
            raise ValueError("A judge of pairs asks each pair twice already, in both orders: leave --repeats at 1.")

    def requests(self, pairs: Sequence[tuple[Question, Question]]) -> list[Request]:
        return [request for pair in pairs for request in self._both(*pair)]

    def _both(self, a: Question, b: Question) -> list[Request]:
        """The two orders; nothing where an image is missing or both are the same."""
        if a.prediction is None or b.prediction is None or self._same(a.prediction, b.prediction):
            return []
        orders = ((a.prediction, b.prediction), (b.prediction, a.prediction))
        return [
            build(a.id, self.prompt, self.settings, a.action, {"source": a.source, "first": x, "second": y})
            for x, y in orders
        ]

    def failure(self, reply: Reply) -> Reason:
        choice = read_choice(reply)
        return choice.reason if isinstance(choice, Failure) else ""

    def _same(self, a: bytes, b: bytes) -> bool:
        side = self.settings.max_side
        return fingerprint(a, side) == fingerprint(b, side)

    def prefer(self, pairs: Sequence[tuple[Question, Question]], progress: Progress | None = None) -> list[Preference]:
        """One preference per pair, in order."""
        asked = [self._both(a, b) for a, b in pairs]
        self.fetch([request for both in asked for request in both], progress)
        return [self._read(pair, both) for pair, both in zip(pairs, asked, strict=True)]

    def _read(self, pair: tuple[Question, Question], both: Sequence[Request]) -> Preference:
        if not both:
            missing = any(question.prediction is None for question in pair)
            return Preference(reason="missing", detail="no image") if missing else Preference(0.5)
        answers = [read_choice(self.reply(request)) for request in both]
        keys = tuple(request.key for request in both)
        for choice in answers:
            if isinstance(choice, Failure):
                return Preference(reason=choice.reason, detail=choice.detail, asked=True, answers=keys)
        choices = tuple(str(choice) for choice in answers)
        # The second question has the order reversed.
        outcome = _WORTH[choices[0]] if _WORTH[choices[0]] == 1 - _WORTH[choices[1]] else 0.5
        return Preference(outcome, choices=choices, asked=True, answers=keys)


def pairs_of(a: Row, b: Row) -> list[tuple[Question, Question]]:
    return list(zip(a.questions, b.questions, strict=True))


def truth_pairs(transitions: Sequence[Transition], count: int) -> list[tuple[Question, Question]]:
    """The card of a judge of pairs: the true target against a copy of the source."""
    pairs = []
    for item in card_items(transitions, count):
        assert item.source is not None
        right, copy = (Question(item.id, item.source, item.action, p) for p in (item.target, item.source))
        pairs.append((right, copy))
    return pairs


def make_pair_card(
    judge: PairJudge, transitions: Sequence[Transition], count: int, progress: Progress | None = None
) -> JsonObject:
    """Trusted: the interval of how often the truth beats the copy lies above one half, with p below 0.05."""
    items = card_items(transitions, count)
    entry = summarise(judge.prefer(truth_pairs(transitions, count), progress), items)
    trusted = shown(entry["ci95"], entry["p"], 0.5) > 0
    low, high = entry["ci95"]
    why = (
        f"it prefers the ground truth to a copy in {entry['share']:.0%} of cases, ties counted half "
        f"(95 % interval {low:.0%} to {high:.0%}, n = {entry['n']}, p = {entry['p']:.3f})"
    )
    return {"items": len(items), "rows": {f"{TRUTH} - {COPY}": entry}, "trusted": trusted, "why": why}


def summarise(preferences: Sequence[Preference], items: Sequence[Transition]) -> JsonObject:
    """`share` of wins, ties counting half, with its interval; `p` is against one half.

    `consistent` is the share of asked pairs whose two answers agree, `first` how often the first image was named
    among answers that named one: near one half where the order does not matter.
    """
    outcomes = [p.outcome for p in preferences]
    estimate = share_interval(outcomes, groups(items))
    answered = [p for p in preferences if p.choices]
    named = Counter(choice for p in answered for choice in p.choices)
    decided = named["first"] + named["second"]
    return {
        "share": estimate.mean,
        "ci95": estimate.ci95,
        "p": paired_difference(outcomes, [0.5] * len(outcomes), groups(items)).p,
        "n": estimate.n,
        "n_total": len(preferences),
        "n_unscored": estimate.n_unscored,
        "unscored": dict(sorted(Counter(p.reason for p in preferences if math.isnan(p.outcome)).items())),
        "same_picture": sum(not p.asked and not p.reason for p in preferences),
        "consistent": sum(p.consistent for p in answered) / len(answered) if answered else math.nan,
        "first": named["first"] / decided if decided else math.nan,
    }


def tournament(
    judge: PairJudge, rows: Sequence[Row], items: Sequence[Transition], progress: Progress | None = None
) -> tuple[JsonObject, list[JsonObject]]:
    """Every row against every other: numbers, and one record per pair and item.

    `wins[a][b]` is the share of items where a beats b; `wins[b][a]` is the rest of it, and a row ties with itself.
    """
    matches = list(combinations(rows, 2))
    answered = iter(judge.prefer([pair for a, b in matches for pair in pairs_of(a, b)], progress))
    wins: dict[str, dict[str, float]] = {row.name: {row.name: 0.5} for row in rows}
    entries, records = {}, []
    for a, b in matches:
        preferences = [next(answered) for _ in items]
        entry = summarise(preferences, items)
        entries[f"{a.name} - {b.name}"] = {"a": a.name, "b": b.name, **entry}
        wins[a.name][b.name], wins[b.name][a.name] = entry["share"], 1 - entry["share"]
        records += [_record(a.name, b.name, item, p) for item, p in zip(items, preferences, strict=True)]
    adjust(entries.values())
    return {"pairs": entries, "wins": wins}, records


def _record(a: str, b: str, item: Transition, preference: Preference) -> JsonObject:
    metadata: JsonMapping = {"id": item.id, "class": item.category, "group": item.cluster}
    return {
        "a": a,
        "b": b,
        **metadata,
        "action": item.action,
        "outcome": None if math.isnan(preference.outcome) else preference.outcome,
        "choices": list(preference.choices),
        "reason": preference.reason,
        "detail": preference.detail,
        "answers": list(preference.answers),
    }
