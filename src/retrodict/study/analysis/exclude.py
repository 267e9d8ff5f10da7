"""Which raters a rule leaves out. Rules are best fixed when the study is built, before anybody's answers are seen."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from retrodict.files import JsonMapping
from retrodict.study.plan import Check

RULES = (
    "`checks:N` more than N failed attention checks; `speed:S` a median below S seconds per task; "
    "`raters:3,7` those raters"
)


@dataclass(frozen=True)
class Rule:
    text: str
    kind: str
    limit: float = 0.0
    raters: tuple[str, ...] = ()

    def reason(self, rater: str, seconds: float, failed: int) -> str:
        """Why it leaves a rater out; empty where it does not."""
        if self.kind == "checks" and failed > self.limit:
            return f"failed {failed} attention checks"
        if self.kind == "speed" and seconds < self.limit:
            return f"took {seconds:.1f} s per task"
        return "named by a rule" if rater in self.raters else ""


def parse_rules(texts: Sequence[str]) -> list[Rule]:
    """Rules from their texts; raises `ValueError` for what is none."""
    rules = []
    for text in texts:
        kind, _, value = text.partition(":")
        try:
            if kind == "raters" and value:
                rules.append(Rule(text, kind, raters=tuple(one.strip() for one in value.split(","))))
                continue
            limit = float(int(value) if kind == "checks" else value)
            if kind not in ("checks", "speed") or not 0 <= limit < float("inf"):
                raise ValueError
        except ValueError:
            raise ValueError(f"--exclude {text} is no rule. Rules: {RULES.replace('`', '')}.") from None
        rules.append(Rule(text, kind, limit))
    return rules


def failed_check(row: JsonMapping, check: Check) -> bool:
    """Whether noise was not the worst, or the truth was; with ratings, whether noise was not the lowest."""
    if row["ratings"]:
        by_name = dict(zip(row["order"], row["ratings"], strict=True))
        others = [value for name, value in by_name.items() if name != check.decoy] or [2]  # shown alone
        decoy = by_name[check.decoy]
        return bool(decoy > min(others) if check.kind == "noise" else decoy < min(others))
    is_worst = row["worst"] == check.decoy
    return is_worst if check.kind == "truth" else not is_worst


def excluded(rules: Sequence[Rule], rows: Sequence[JsonMapping], checks: Mapping[str, Check]) -> dict[str, str]:
    """Rater -> why the first rule that applies leaves them out."""
    seconds: dict[str, list[float]] = {}
    failed: dict[str, int] = {}
    for row in rows:
        seconds.setdefault(row["rater"], []).append(row["seconds"])
        if row["kind"] == "check":
            failed[row["rater"]] = failed.get(row["rater"], 0) + failed_check(row, checks[row["item"]])
    out = {}
    for rater, times in seconds.items():
        reasons = (rule.reason(str(rater), statistics.median(times), failed.get(rater, 0)) for rule in rules)
        if reason := next(filter(None, reasons), ""):
            out[rater] = reason
    return out
