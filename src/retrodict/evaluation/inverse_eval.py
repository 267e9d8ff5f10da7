"""Inverse dynamics prediction: actions that a model reads off true pairs, against what people wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrodict.evaluation.bertscore import BertScore
from retrodict.evaluation.pool import BATCH, reason_counts
from retrodict.evaluation.text import agreement, compare_texts, constant_texts, floors, random_texts
from retrodict.files import JsonObject, made_once, write_lines
from retrodict.models.protocol import InverseModel
from retrodict.stats import mean_interval
from retrodict.transitions import Transition


def measure_explanations(
    model: InverseModel, transitions: Sequence[Transition], out: Path, *, bert: BertScore | None = None
) -> JsonObject:
    """Text metrics of the actions that `model` reads off the pairs with a target, beside their floors.

    Writes `items/explained.jsonl`, described in docs/evaluation.md, and `explained.json`, which a repeated run reads.
    """

    def explain() -> tuple[dict[str, str | None], dict[str, str]]:
        texts: dict[str, str | None] = {}
        reasons: dict[str, str] = {}
        kept = [t for t in transitions if t.target is not None]
        for start in range(0, len(kept), BATCH):
            _explain(model, kept[start : start + BATCH], texts, reasons)
        return texts, reasons

    texts, reasons = made_once(out / "explained.json", explain)
    return measure_texts(texts, transitions, out, reasons=reasons, bert=bert)


def _explain(
    model: InverseModel, batch: Sequence[Transition], texts: dict[str, str | None], reasons: dict[str, str]
) -> None:
    try:
        explanations = model.explain([(t.source_image, t.target_image) for t in batch])
    except ValueError as error:
        if len(batch) > 1:  # one pair that the model cannot read must not cost its neighbours their scores
            for one in batch:
                _explain(model, [one], texts, reasons)
            return
        texts[batch[0].id], reasons[batch[0].id] = None, str(error)
        return
    texts.update({t.id: explanation.action for t, explanation in zip(batch, explanations, strict=True)})


def measure_texts(
    texts: Mapping[str, str | None],
    transitions: Sequence[Transition],
    out: Path,
    *,
    reasons: Mapping[str, str] | None = None,
    bert: BertScore | None = None,
) -> JsonObject:
    """The same for anybody's texts, by item id; an item without one is unscored."""
    reasons = reasons or {}
    kept = [t for t in transitions if t.target is not None]
    given = [texts.get(t.id) for t in kept]
    truths, subsets = [t.action for t in kept], [t.category for t in kept]
    groups = [t.cluster for t in kept]
    results: JsonObject = {"all": compare_texts(given, truths, groups), "floors": floors(truths, subsets, groups)}
    results["subsets"] = {
        subset: compare_texts(*_part(subset, subsets, given, truths, groups)) for subset in dict.fromkeys(subsets)
    }
    records = [
        {
            "id": t.id,
            "class": t.category,
            "group": t.group,
            "action": t.action,
            "explained": text,
            **({} if text is None else agreement(text, t.action)),
            **({"reason": reasons.get(t.id, "no text for this item")} if text is None else {}),
        }
        for t, text in zip(kept, given, strict=True)
    ]
    if bert is not None:
        results["bertscore"] = _bertscore(bert, given, truths, subsets, groups, records)
    write_lines(out / "items" / "explained.jsonl", records)
    results["unscored"] = reason_counts(str(record["reason"]) for record in records if "reason" in record)
    return results


def _bertscore(
    bert: BertScore,
    given: Sequence[str | None],
    truths: Sequence[str],
    subsets: Sequence[str],
    groups: Sequence[str],
    records: Sequence[JsonObject],
) -> JsonObject:
    rows = {"model": given, "constant": constant_texts(truths, subsets), "random": random_texts(truths, subsets, 0)}
    results: JsonObject = {"signature": bert.signature}
    for name, texts in rows.items():
        known = [i for i, text in enumerate(texts) if text is not None]
        scores = bert.scores([str(texts[i]) for i in known], [truths[i] for i in known])
        values = [float("nan")] * len(texts)
        for i, score in zip(known, scores, strict=True):
            values[i] = score
            if name == "model":
                records[i]["bertscore"] = score
        results[name] = mean_interval(values, groups, (-math.inf, 1.0)).entry("value")
    return results


def _part(subset: str, subsets: Sequence[str], *columns: Sequence[Any]) -> list[list[Any]]:
    return [[value for value, name in zip(column, subsets, strict=True) if name == subset] for column in columns]
