"""The page and the summary of a human study, from its `results.json`; the summary's tables are 5 and 6 of the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from retrodict.files import JsonMapping, JsonObject
from retrodict.report.kit.charts import Mark
from retrodict.report.kit.format import (
    MISSING,
    finite,
    number,
    p_value,
    percent,
    percent_span,
    plain,
    span,
    spoken_p,
    system_name,
)
from retrodict.report.kit.images import shape_of, uri
from retrodict.report.kit.tables import Cell, Table, estimate, markdown_table
from retrodict.stats import shown

_SHOWN = 12  # items of a judge's disagreements whose images are shown

ImageOf = Callable[[str, str], bytes]  # of item id and system; "" is the source


def page(results: JsonMapping, image: ImageOf) -> JsonObject:
    """What the template `study.html` shows; `image` reads those of items that people and a judge see differently."""
    judges = results["judges"]
    return {
        "results": results,
        "marks": _marks(results),
        "verdict": _verdict(results["pairs"]),
        "by_subset": _by_subset(results),
        "pairs": _pairs(results["pairs"]),
        "subset_pairs": {subset: _pairs(rows) for subset, rows in results["pairs_by_subset"].items()},
        "wins": _matrix(results["systems"], results["wins"]),
        "judges": {
            name: (one, _matrix(results["systems"], one["wins"]), _correlations(one))
            for name, one in judges.items()
            if one["n_items"]
        },
        "unscored": [name for name, one in judges.items() if not one["n_items"]],
        "strengths": _strengths(results),
        "agreement": _agreement(results),
        "raters": _raters(results),
        "interval": _interval_words(results["all"]),
        "score_words": _score_words(results["design"]),
        "notes": _notes(results),
        "exclusion": _exclusion(results),
        "questions": {
            text: (_scores(one["all"]), _pairs(one["pairs"])) for text, one in results["questions"].items() if one
        },
        "disagreements": {
            name: (_disagreements(rows), [_images(row, image) for row in rows[:_SHOWN]])
            for name, rows in results["disagreements"].items()
            if rows
        },
    }


def markdown(results: JsonMapping) -> str:
    parts = [
        f"# {plain(results['title'])}",
        _design(results),
        "## Best/worst score per subset (Table 5)",
        markdown_table(_by_subset(results)).rstrip(),
        f"{_score_words(results['design'])} Interval: {_interval_words(results['all'])}.",
        "\n".join(f"- {plain(sentence)}" for sentence in _verdict(results["pairs"])),
        "## Pairs",
        markdown_table(_pairs(results["pairs"])).rstrip(),
        f"Wilcoxon is the paper's test over judgements as if they were independent, which they are not (zero_method "
        f'"{results["methods"]["wilcoxon_zero_method"]}").',
        "## Pairwise win rates (Table 6)",
        "People (the row is placed above the column; ties count one half):",
        markdown_table(_matrix(results["systems"], results["wins"])).rstrip(),
    ]
    for name, judge in results["judges"].items():
        if judge["n_items"]:
            rho, best = judge["spearman"], judge["best"]
            parts += [
                f"{plain(name)} ({judge['n_items']} items, {judge['n_unscored']} without scores):",
                markdown_table(_matrix(results["systems"], judge["wins"])).rstrip(),
                f"Spearman with people: {number(rho['judgement']['rho'], 2)} over judgements, "
                f"{number(rho['item']['rho'], 2)} over items, {number(rho['system']['rho'], 2)} over systems. "
                f"Same best candidate: {percent(best['share'])} (chance {percent(best['chance'])}).",
            ]
        else:
            parts.append(f"{plain(name)}: no item on which it scored every system.")
    if left_out := _exclusion(results):
        rules, table = left_out
        parts += ["## With and without exclusion", plain(rules), markdown_table(table).rstrip()]
    for text, one in results["questions"].items():
        if one:
            parts += [f"## {plain(text)}", markdown_table(_scores(one["all"])).rstrip()]
            parts.append(markdown_table(_pairs(one["pairs"])).rstrip())
    parts += ["## Agreement", "\n".join(f"- {name}: {value}" for name, value in _agreement(results))]
    return "\n\n".join(parts) + "\n"


def _design(results: JsonMapping) -> str:
    every = results["all"]
    text = f"{every['n_judgements']} judgements of {every['n_items']} items by {every['n_raters']} raters."
    return " ".join([text, *map(plain, _notes(results))])


def _notes(results: JsonMapping) -> list[str]:
    """What a reader should know of the images before the scores."""
    design = results["design"]
    notes = [
        f"{name} had no image for {n} items, which were left out for all." for name, n in design["left_out"].items()
    ]
    return notes + [
        f"{name} had another image shape than the source in {n} items; they were shown whole, with grey bars."
        for name, n in design["reshaped"].items()
    ]


def _score_words(design: JsonMapping) -> str:
    shown = "" if design["shown"] == 0 else f" Raters saw {design['shown']} candidates at a time."
    if design["method"] == "rating":
        return f"The mean rating, from 1 to {design['points']}.{shown}"
    return f"A judgement gives +1 to the best system, -1 to the worst, 0 to the others shown.{shown}"


def _exclusion(results: JsonMapping) -> tuple[str, Table] | None:
    """The rules, and the scores with those raters that they leave out and without; None where there are no rules."""
    entry = results["exclusion"]
    if not entry["fixed"] and not entry["stated"]:
        return None
    rules = [f"{rule} (fixed at build)" for rule in entry["fixed"]] + [
        f"{rule} (stated afterwards)" for rule in entry["stated"]
    ]
    left_out = "; ".join(f"rater {rater} {reason}" for rater, reason in entry["raters"].items()) or "nobody"
    everybody = entry["without"].get("all", results["all"])
    rows = [
        (
            system_name(system),
            [estimate(part["systems"][system], "score", digits=2) for part in (results["all"], everybody)],
        )
        for system in results["systems"]
    ]
    counts = [f"{part['n_raters']} raters, {part['n_judgements']} judgements" for part in (results["all"], everybody)]
    table = Table([f"After the rules ({counts[0]})", f"Everybody ({counts[1]})"], rows)
    return (
        f"Rules of exclusion: {'; '.join(rules)}. They leave out: {left_out}. All other numbers are after the rules.",
        table,
    )


def _scores(part: JsonMapping) -> Table:
    return Table(
        ["Score"], [(system_name(s), [estimate(one, "score", digits=2)]) for s, one in part["systems"].items()]
    )


def _disagreements(rows: Sequence[JsonMapping], most: int = 20) -> Table:
    """Items on which the judge's best is another one than people's, the clearest first."""
    table = [
        (
            plain(row["id"]),
            [
                Cell(system_name(row["people"])),
                Cell(system_name(row["judge"])),
                Cell(number(row["gap"], 2), f"{row['n_raters']} raters"),
            ],
        )
        for row in rows[:most]
    ]
    return Table(["People's best", "Judge's best", "People put theirs ahead by"], table)


def _images(row: JsonMapping, image: ImageOf) -> JsonObject:
    source = image(row["id"], "")
    shown = {
        "Source": source,
        f"People: {system_name(row['people'])}": image(row["id"], row["people"]),
        f"Judge: {system_name(row['judge'])}": image(row["id"], row["judge"]),
    }
    return {
        "id": row["id"],
        "action": row["action"],
        "shape": shape_of(source),
        "images": [(text, uri(data, side=240, large=12_000)) for text, data in shown.items()],
    }


def _interval_words(entry: JsonMapping) -> str:
    if entry["interval"] == "two-way":
        return "bootstrap over items and over raters"
    return "bootstrap over items only, as there are fewer than 20 items or one rater"


def _marks(results: JsonMapping) -> list[Mark]:
    scores = results["all"]["systems"]
    points = results["design"]["points"]
    middle = (1 + points) / 2 if points else 0.0
    ends = [abs(v - middle) for one in scores.values() for v in (one["score"], *one["ci95"]) if finite(v)]
    scale = max([*ends, 0.1]) * 1.05
    ranked = sorted(scores.items(), key=lambda pair: -pair[1]["score"])
    return [Mark(system_name(name), one["score"], one["ci95"], scale, middle) for name, one in ranked]


def _verdict(pairs: Sequence[JsonMapping]) -> list[str]:
    """One sentence for each pair whose difference is shown, and one for the rest."""
    sentences, level = [], 0
    for row in pairs:
        side = shown(row["ci95"], row["p_holm"])
        if side:
            better, worse = (row["a"], row["b"]) if side > 0 else (row["b"], row["a"])
            sentences.append(
                f"{system_name(better)} is preferred to {system_name(worse)} ({spoken_p(row['p_holm'])} after Holm)."
            )
        level += not side
    if level:
        sentences.append(f"No difference is shown for {level} of {len(pairs)} pairs.")
    return sentences


def _by_subset(results: JsonMapping) -> Table:
    parts = [*results["subsets"].values(), results["all"]]
    rows = [
        (system_name(system), [estimate(part["systems"][system], "score", digits=2) for part in parts])
        for system in results["systems"]
    ]
    return Table([*results["subsets"], "All"], rows)


def _pairs(pairs: Sequence[JsonMapping]) -> Table:
    rows = [
        (
            f"{system_name(row['a'])} \N{MINUS SIGN} {system_name(row['b'])}",
            [
                estimate(row, "difference", digits=2),
                Cell(p_value(row["p"]), f"{row['n_items']} items"),
                Cell(p_value(row["p_holm"])),
                Cell(p_value(row["p_wilcoxon_paper"]), f"{row['n_judgements']} judgements"),
            ],
        )
        for row in pairs
    ]
    return Table(["Difference", "p, sign-flip over items", "p, Holm", "p, Wilcoxon (paper)"], rows)


def _matrix(systems: Sequence[str], rates: Sequence[Sequence[float]]) -> Table:
    rows = [
        (system_name(s), [Cell(MISSING if i == j else number(rates[i][j])) for j in range(len(systems))])
        for i, s in enumerate(systems)
    ]
    return Table([system_name(s) for s in systems], rows)


def _correlations(judge: JsonMapping) -> Table:
    names = {"judgement": "Every judgement", "item": "Mean over raters", "system": "Systems"}
    rows = [(names[level], [estimate(one, "rho", digits=2)]) for level, one in judge["spearman"].items()]
    return Table(["Spearman's rho"], rows)


def _strengths(results: JsonMapping) -> Table:
    ranked = sorted(results["bradley_terry"].items(), key=lambda pair: -pair[1]["log_strength"])
    rows = [(system_name(system), [estimate(one, "log_strength", digits=2)]) for system, one in ranked]
    return Table(["Log strength"], rows)


def _agreement(results: JsonMapping) -> list[tuple[str, str]]:
    """What there is to say about the raters, as name and value."""
    between, again, checks = results["agreement"], results["self_consistency"], results["attention"]["failed"]
    cant = results["cant_tell"]
    return [
        ("Krippendorff's alpha, ordinal", f"{number(between['alpha'], 2)} ({span(between['alpha_ci95'], 2)})"),
        (
            "Two raters pick the same best",
            f"{_share(between['same_best'], between['same_best_ci95'])}; chance {percent(between['same_best_chance'])}",
        ),
        *(
            (
                f"The same rater picks the same {end} again",
                f"{_share(again[end]['share'], again[end]['ci95'])}, {again[end]['n']} repeats",
            )
            for end in ("best", "worst")
        ),
        ("Attention checks failed", f"{_share(checks['share'], checks['ci95'])}, {checks['n']} checks"),
        ("Can't tell", f"{cant['count']} of {cant['n']}"),
    ]


def _share(value: float, interval: Sequence[float]) -> str:
    text = percent(value)
    return text if text == MISSING else f"{text} ({percent_span(interval)})"


def _raters(results: JsonMapping) -> Table:
    failed = results["attention"]["raters"]
    rows = []
    for rater, one in results["raters"].items():
        checks = failed.get(rater, {"failed": 0, "n": 0})
        cells = [str(one["judgements"]), f"{one['median_seconds']:.1f} s", f"{checks['failed']} of {checks['n']}"]
        rows.append((f"Rater {rater}", [Cell(text) for text in cells]))
    return Table(["Judgements", "Median time", "Checks failed"], rows)
