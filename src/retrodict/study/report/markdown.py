"""The summary, in the shape of Tables 5 and 6 of arXiv 2506.06006."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrodict.report.formatting import MISSING, number, percent, span


def markdown(results: dict[str, Any]) -> str:
    parts = [
        f"# {_text(results['title'])}",
        _design(results),
        "## Best/worst score per subset (Table 5)",
        _table(["", *map(_text, results["subsets"]), "All", "95 % interval"], _scores(results)),
        "A judgement gives +1 to the best system, -1 to the worst, 0 to the others; a row of systems sums to 0. "
        f"Interval: {interval_words(results['all'])}.",
        "## Pairs",
        _table(
            ["", "Difference", "95 % interval", "p, sign-flip over items", "p, Holm", "p, Wilcoxon (paper)"],
            [pair_row(row) for row in results["pairs"]],
        ),
        f"Wilcoxon is the paper's test over judgements as if they were independent, which they are not (zero_method "
        f'"{results["methods"]["wilcoxon_zero_method"]}").',
        "## Pairwise win rates (Table 6)",
        "People (the row is placed above the column; ties count one half):",
        _matrix(results["systems"], results["wins"]),
    ]
    for name, judge in results["judges"].items():
        if judge["n_items"]:
            rho, best = judge["spearman"], judge["best"]
            parts += [
                f"{_text(name)} ({judge['n_items']} items, {judge['n_unscored']} without scores):",
                _matrix(results["systems"], judge["wins"]),
                f"Spearman with people: {number(rho['judgement']['rho'], 2)} over judgements, "
                f"{number(rho['item']['rho'], 2)} over items, {number(rho['system']['rho'], 2)} over systems. "
                f"Same best candidate: {percent(best['share'])} (chance {percent(best['chance'])}).",
            ]
        else:
            parts.append(f"{_text(name)}: no item on which it scored every system.")
    parts += ["## Agreement", "\n".join(f"- {name}: {value}" for name, value in agreement_rows(results))]
    return "\n\n".join(parts) + "\n"


def _design(results: dict[str, Any]) -> str:
    every = results["all"]
    text = f"{every['n_judgements']} judgements of {every['n_items']} items by {every['n_raters']} raters."
    for system, count in results["design"]["left_out"].items():
        text += f" {_text(system)} lacked {count} items, which were left out for all."
    return text


def interval_words(entry: dict[str, Any]) -> str:
    if entry["interval"] == "two-way":
        return "bootstrap over items and over raters"
    return "bootstrap over items only, as there are fewer than 20 items or one rater"


def _scores(results: dict[str, Any]) -> list[list[str]]:
    return [
        [
            _text(system),
            *(number(part["systems"][system]["score"], 2) for part in results["subsets"].values()),
            number(results["all"]["systems"][system]["score"], 2),
            span(results["all"]["systems"][system]["ci95"], 2),
        ]
        for system in results["systems"]
    ]


def pair_row(row: dict[str, Any]) -> list[str]:
    return [
        f"{_text(row['a'])} - {_text(row['b'])}",
        number(row["difference"], 2),
        span(row["ci95"], 2),
        p_value(row["p"]),
        p_value(row["p_holm"]),
        p_value(row["p_wilcoxon_paper"]),
    ]


def p_value(p: float) -> str:
    return "< .001" if p < 0.001 else number(p, 3)


def agreement_rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What there is to say about the raters, as name and value."""
    between, self_, checks = results["agreement"], results["self_consistency"], results["attention"]["failed"]
    cant = results["cant_tell"]
    return [
        ("Krippendorff's alpha, ordinal", f"{number(between['alpha'], 2)} ({span(between['alpha_ci95'], 2)})"),
        (
            "Two raters pick the same best",
            f"{_share(between['same_best'], between['same_best_ci95'])}; chance {percent(between['same_best_chance'])}",
        ),
        (
            "The same rater picks the same best again",
            f"{_share(self_['best']['share'], self_['best']['ci95'])}, {self_['best']['n']} repeats",
        ),
        (
            "The same rater picks the same worst again",
            f"{_share(self_['worst']['share'], self_['worst']['ci95'])}, {self_['worst']['n']} repeats",
        ),
        ("Attention checks failed", f"{_share(checks['share'], checks['ci95'])}, {checks['n']} checks"),
        ("Can't tell", f"{cant['count']} of {cant['n']}"),
    ]


def _share(value: float, interval: Sequence[float]) -> str:
    text = percent(value)
    return text if text == MISSING else f"{text} ({percent(interval[0])} to {percent(interval[1])})"


def _matrix(systems: Sequence[str], rates: Sequence[Sequence[float]]) -> str:
    rows = [
        [_text(system), *(MISSING if i == j else number(rates[i][j], 3) for j in range(len(systems)))]
        for i, system in enumerate(systems)
    ]
    return _table(["", *map(_text, systems)], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: str) -> str:
    """Text of others inside a table: no line ends, no column ends, no markup."""
    clean = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\|*_`[]":
        clean = clean.replace(mark, f"\\{mark}")
    return clean
