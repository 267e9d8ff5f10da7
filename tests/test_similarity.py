"""Measures of own data, which have no exact state: exact patches by hand, and the page that shows them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from retrodict.dynamics.unified import UnifiedModel
from retrodict.evaluation.baselines import Predicted, nearest_targets
from retrodict.evaluation.patches import Patches
from retrodict.evaluation.pool import Scored, item_result
from retrodict.evaluation.predictions import write_predictions
from retrodict.evaluation.similarity import measure
from retrodict.files import JsonObject, write_json
from retrodict.images import encode_png
from retrodict.models.protocol import Explanation, LogProb, Pair
from retrodict.models.small.config import ImageTokenizerConfig
from retrodict.models.small.family import SmallFamily
from retrodict.models.small.image_tokenizer import PatchTokenizer
from retrodict.models.small.words import Words
from retrodict.report import write_report
from retrodict.report.kit.tables import claim
from retrodict.transitions import Transition, write_rows

SHADES = (0, 80, 160, 240)


def frame(*cells: int) -> Image.Image:
    """2 x 2 cells of 8 pixels."""
    array = np.kron(np.array([SHADES[c] if c < 4 else c for c in cells]).reshape(2, 2), np.ones((8, 8)))
    return Image.fromarray(np.repeat(array[..., None].astype(np.uint8), 3, -1))


def row(name: str, action: str, source: Sequence[int], target: Sequence[int]) -> Transition:
    return Transition(id=name, source=encode_png(frame(*source)), target=encode_png(frame(*target)), action=action)


def scored(*cells: int, **verifiers: float) -> Scored:
    return Scored(image=encode_png(frame(*cells)), reason="no exact state", verifiers=verifiers)


class Reader:
    """Reads "paint" off every change and "wait" off none."""

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        texts = ["wait" if np.array_equal(np.asarray(s), np.asarray(t)) else "Paint" for s, t in pairs]
        return [Explanation(text, LogProb(-1.0, 1)) for text in texts]

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        raise NotImplementedError


@pytest.fixture
def table_family() -> SmallFamily:
    """Whose images are at half the size, each cell one of four patches."""
    images = PatchTokenizer(ImageTokenizerConfig(kind="patches", image_size=(8, 8), patch=4, codes=4))
    images.patches.copy_(torch.tensor(SHADES, dtype=torch.uint8)[:, None].expand(-1, 48))
    return SmallFamily.new(images, Words.from_texts(["paint wait"]), hidden=16, layers=1, heads=2)


ITEMS = [
    row("a", "paint", (0, 0, 0, 0), (1, 0, 2, 0)),
    row("b", "paint", (0, 1, 0, 0), (0, 2, 0, 0)),
    row("c", "wait", (3, 3, 0, 0), (3, 3, 0, 0)),
]
TRAINING = [
    row("t1", "wait", (0, 0, 0, 0), (0, 0, 0, 0)),
    row("t2", "paint", (0, 1, 0, 1), (0, 2, 0, 1)),
    row("t3", "paint", (0, 0, 0, 1), (1, 0, 0, 1)),
]


def measured(family: SmallFamily, out: Path) -> JsonObject:
    greedy = [scored(1, 0, 0, 0), scored(0, 2, 0, 0), scored(3, 3, 0, 0)]
    pools = [
        (scored(1, 0, 2, 0, idm=-1.0), scored(0, 0, 0, 0, idm=-2.0)),
        (scored(0, 1, 0, 0, idm=-2.0), scored(0, 2, 0, 0, idm=-1.0)),
        (scored(3, 3, 0, 0, idm=-1.0), scored(3, 3, 1, 0, idm=-2.0)),
    ]
    results = [item_result(t, g, pool) for t, g, pool in zip(ITEMS, greedy, pools, strict=True)]
    write_predictions(out / "predictions" / "fdm.parquet", results)
    write_predictions(out / "predictions" / "ft.parquet", results)
    main = Predicted("fdm", UnifiedModel(family), ["idm"], ITEMS, results)
    other = Predicted("ft", None, (), ITEMS, [item_result(t, scored(0, 0, 0, 0)) for t in ITEMS])
    return measure(main, out, others=[other], training=TRAINING, reader=Reader(), items_file="rows")


def test_measures_by_hand(table_family: SmallFamily, tmp_path: Path) -> None:
    results = measured(table_family, tmp_path)
    values = {name: {r: e["value"] for r, e in m["all"].items()} for name, m in results["metrics"].items()}
    assert results["round_trip_exact"] == 1
    exact = values["exact_patches"]  # over a and b: nothing changes in c
    assert {name: exact[name] for name in ("copy", "round_trip_target", "ground_truth")} == {
        "copy": 0,
        "round_trip_target": 1,
        "ground_truth": 1,
    }
    assert (exact["ft"], exact["fdm"], exact["fdm.k2.idm"], exact["random_target"]) == (0, 0.75, 1, 0)
    assert exact["nearest"] == pytest.approx((0.5 + 1) / 2)  # t3 shows one of the two changes of a, t2 that of b
    frames = values["exact_frames"]
    assert frames["fdm"] == pytest.approx(2 / 3)
    assert (frames["fdm.k2.idm"], frames["ground_truth"]) == (1, 1)
    assert values["explained"]["fdm"] == values["explained"]["ground_truth"] == 1
    assert values["explained"]["copy"] == pytest.approx(1 / 3)
    curve = results["k_curve_exact"]
    assert (curve["k1"]["random"]["value"], curve["k2"]["idm"]["value"], curve["k1"]["idm"]["value"]) == (0.5, 1, 0.5)
    assert results["k_curve"]["k2"]["idm"]["l1"] == 0
    verified = results["comparisons"]["verified_vs_greedy"]
    assert (verified["difference"], verified["measure"], verified["groups"]) == (0.25, "exact_patches", 2)
    assert results["comparisons"]["fdm_vs_ft"]["difference"] == 0.75
    assert claim(verified).headline.startswith(
        "Too few groups of items (2) to tell FDM (best of 2 by IDM) and FDM apart"
    )


def test_nearest_neighbours_have_the_same_action_where_there_is_one() -> None:
    assert [t.id for t in nearest_targets(ITEMS, TRAINING)] == ["t3", "t2", "t1"]
    assert [t.id for t in nearest_targets([row("d", "new words", (0, 0, 0, 0), (0,) * 4)], TRAINING)] == ["t1"]


def test_exactness_is_not_told_of_a_tokenizer_that_is_not(table_family: SmallFamily) -> None:
    blurred = Patches(table_family, [row("e", "paint", (0, 0, 0, 0), (1, 0, 100, 0))])
    assert blurred.share == 0.5
    assert not blurred.can_tell
    assert blurred.right(0, [frame(1, 0, 1, 0)]) == [(0.0, 0.5)]  # the nearest patch is not the target's


def test_the_page_shows_images_first_and_no_gaps(table_family: SmallFamily, tmp_path: Path) -> None:
    write_rows(tmp_path / "test" / "rows.parquet", ITEMS)
    results = measured(table_family, tmp_path)
    systems = {name: {"greedy": {"copy_rate": 0.0, "n": 0, "score": None}} for name in ("copy", "ft", "fdm")}
    write_json(tmp_path / "results.json", {"kind": "bootstrap", "systems": systems, **results})
    page = re.sub("<style.*?</style>", "", write_report(tmp_path).read_text(encoding="utf-8"), flags=re.S)
    assert page.index('src="data:image/png') < page.index("Patches that change and are exactly right")
    assert "\N{EN DASH}" not in page
    two = write_report([tmp_path, tmp_path], tmp_path / "two.html").read_text(encoding="utf-8")
    assert "Item by item" in two  # what `compare` says of them, from the items' file
    for said in ("Nearest neighbour", "Changed patches exact", "Explained right", "Too few groups"):
        assert said in page
