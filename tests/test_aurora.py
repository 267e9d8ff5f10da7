"""AURORA-Bench: both layouts, the L1 protocol, and every metric with images with a known score."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tiny_editors import save_tiny_clip, save_tiny_dino

from retrodict.data.aurora import SOURCE_ONLY, SUBSETS, read_aurora
from retrodict.evaluation.baselines import other_targets
from retrodict.evaluation.bench import run_bench
from retrodict.evaluation.metrics import copying, flow_magnitude, l1
from retrodict.evaluation.similarity import magnitudes, split_by_motion
from retrodict.report import runs

SIZES = {"magicbrush": (96, 96), "ag": (80, 60), "something": (64, 48), "whatsup": (96, 64), "kubric": (64, 64)}


@pytest.fixture(scope="session")
def compact() -> Path:
    """The compact copy, whose images are not ours to publish."""
    given = os.environ.get("RETRODICT_SHARED_DATA")
    folder = (Path(given) if given else Path(__file__).parents[2] / "shared" / "data") / "aurora_bench_small"
    if not folder.is_dir():
        pytest.skip(f"no AURORA-Bench in {folder}; RETRODICT_SHARED_DATA names the folder that has it")
    return folder


def scene(size: tuple[int, int], place: int) -> Image.Image:
    """A textured image with a white square at `place`."""
    noise = np.random.default_rng(0).integers(40, 120, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ImageDraw.Draw(image).rectangle((place, 8, place + 15, 23), fill="white")
    return image


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public layout with made-up images: three items a subset, one target absent, one source half as large."""
    folder = tmp_path_factory.mktemp("native")
    records = []
    for subset in (*SUBSETS, *SOURCE_ONLY):
        for i in range(3):
            names = {side: f"data/{subset}/images/{subset}{i}/{side}.png" for side in ("input", "output")}
            size = SIZES.get(subset, (64, 64))
            (folder / names["input"]).parent.mkdir(parents=True)
            source = scene(size, 4)
            if (subset, i) == ("magicbrush", 0):
                source = source.resize((48, 48))
            source.save(folder / names["input"])
            if subset in SUBSETS and (subset, i) != ("something", 2):
                scene(size, 12 + 8 * i).save(folder / names["output"])
            record = {"input": names["input"], "instruction": f"move the square {i} right", "task": subset}
            if subset in SUBSETS:
                record["output"] = names["output"]
            records.append(record)
    (folder / "test.json").write_text(json.dumps(records))
    return folder


def test_the_five_subsets_with_targets_are_the_default_and_the_others_are_read_on_request(native: Path) -> None:
    items = read_aurora(native)
    assert [t.id for t in items[:4]] == ["magicbrush-001", "magicbrush-002", "magicbrush-003", "ag-001"]
    assert {t.category for t in items} == set(SUBSETS)
    assert [t.id for t in items if t.target is None] == ["something-003"]
    others = read_aurora(native, SOURCE_ONLY)
    assert [t.id for t in others[:1]] == ["clevr-001"]
    assert all(t.target is None for t in others)
    with pytest.raises(ValueError, match="has no moments"):
        read_aurora(native, ("moments",))


def test_copy_on_native_files_is_measured_at_the_targets_size(native: Path, tmp_path: Path) -> None:
    results = run_bench("aurora", out=tmp_path, data=native, model="copy")
    expected = defaultdict(list)
    for t in read_aurora(native):
        if t.target is not None:
            source = t.source_image.resize(t.target_image.size, Image.Resampling.LANCZOS)
            pair = [np.asarray(image, dtype=np.float64) / 255 for image in (source, t.target_image)]
            expected[t.category].append(float(np.abs(pair[0] - pair[1]).mean()))
    for subset, values in expected.items():
        found = results["subsets"][subset]["copy"]
        assert found["l1"] == pytest.approx(np.mean(values), rel=1e-6)
        assert found["n"] == (2 if subset == "something" else 3)
        assert results["subsets"][subset]["ground_truth"]["l1"] == 0
        assert results["metrics"]["copy"]["subsets"][subset]["copy"]["value"] == 1
        assert results["metrics"]["copy"]["subsets"][subset]["ground_truth"]["value"] == 0
    assert results["macro"]["copy"]["l1"] == pytest.approx(np.mean([np.mean(v) for v in expected.values()]))
    assert results["unscored"] == {"no target image": 1}
    lines = [json.loads(line) for line in (tmp_path / "items" / "copy.jsonl").read_text().splitlines()]
    lost = next(line for line in lines if line["id"] == "something-003")
    assert (lost["l1"]["copy"], lost["reason"], lost["motion"]["flow"]) == (None, "no target image", None)
    assert len(lines) == 15


def test_given_predictions_are_a_row_like_any_other(native: Path, tmp_path: Path) -> None:
    mine = tmp_path / "editor"
    mine.mkdir()
    for t in read_aurora(native)[:12]:
        (t.target_image if t.target else t.source_image).resize((32, 32)).save(mine / f"{t.id}.png")
    results = run_bench("aurora", out=tmp_path / "out", data=native, predictions=mine)
    assert set(results["all"]) == {"copy", "ground_truth", "random_target", "editor"}
    assert results["all"]["editor"]["n"] == 11  # no target for one, no image for three
    assert results["unscored"] == {"no image of this name": 3, "no target image": 1}
    assert set(results["comparisons"]) == {f"l1_{subset}" for subset in SUBSETS}
    with pytest.raises(ValueError, match="No L1 protocol"):
        run_bench("aurora", out=tmp_path / "x", data=native, protocol="mine")


def test_copy_diagnostics_by_hand() -> None:
    def square(place: int, shade: int = 0) -> Image.Image:
        image = Image.new("RGB", (64, 64), (shade, shade, shade))
        ImageDraw.Draw(image).rectangle((place, 0, place + 15, 15), fill="white")
        return image

    source, target = square(0), square(16)
    assert copying(source, source, target) == pytest.approx(copying(source.copy(), source, target))
    found = copying(source, source, target)
    assert (found.ratio, found.copy, found.change_iou) == (0, 1, 0)
    found = copying(target, source, target)
    assert (found.ratio, found.copy, found.change_iou) == (1, 0, 1)
    elsewhere = copying(square(32), source, target)  # the left half of the change is right, the other is elsewhere
    assert elsewhere.change_iou == pytest.approx(1 / 3)
    assert math.isnan(copying(source, source, source).ratio)
    # For a token model the copy is the source through its tokenizer, here a darker one.
    round_trip = square(0, 30)
    assert copying(round_trip, source, target).copy == 0
    assert copying(round_trip, source, target, round_trip).copy == 1
    assert copying(round_trip, source, target, round_trip).ratio == 0


def test_l1_protocols() -> None:
    target = Image.new("RGB", (8, 4), (255, 0, 0))
    other = Image.new("RGB", (3, 3), (204, 0, 0))
    for protocol in ("native-lanczos", "native-bicubic", "fixed512"):
        assert l1(other, target, protocol) == pytest.approx(51 / 255 / 3)


def test_motion_splits() -> None:
    still, moved = scene((96, 64), 20), scene((96, 64), 24)
    assert flow_magnitude(still, still) < 1e-4
    assert 0 < flow_magnitude(still, moved) < 0.05
    flow = [1.0, 2.0, 3.0, 10.0, 20.0, math.nan]
    assert split_by_motion(flow, ["a", "a", "a", "b", "b", "b"]) == ["low", "low", "high", "low", "high", ""]
    assert split_by_motion(flow, [""] * 6) == ["low", "low", "low", "high", "high", ""]


def test_a_random_target_is_anothers_and_never_ones_own(native: Path) -> None:
    items = read_aurora(native)
    found = other_targets(items)
    for transition, other in zip(items, found, strict=True):
        if other is not None:
            assert items[other].category == transition.category
            assert items[other].target != transition.target
    assert other_targets([items[0]]) == [None]


def test_copy_on_the_compact_copy_is_what_was_measured(compact: Path) -> None:
    expected = json.loads((compact / "meta.json").read_text())["copy_l1"]
    items = read_aurora(compact)
    values: dict[str, list[float]] = defaultdict(list)
    for t in items:
        if t.target is not None:
            values[t.category].append(l1(t.source_image, t.target_image))
    for subset, value in expected.items():
        assert round(float(np.mean(values[subset])), 5) == pytest.approx(value["small"], abs=1.1e-5)
        assert len(values[subset]) == value["n"]
    assert (len(items), sum(t.target is None for t in items)) == (250, 2)
    assert sum("counterfactual_action" in t.provenance["aurora"] for t in items) == 133


def test_motion_halves_of_the_compact_copy(compact: Path) -> None:
    items = [t for t in read_aurora(compact) if t.category in ("something", "kubric")]
    recorded = {r["id"]: r for r in json.loads((compact / "manifest.json").read_text())}
    halves = split_by_motion(magnitudes(items), [t.category for t in items])
    counts = {(t.category, half): 0 for t in items for half in ("high", "low")}
    for t, half in zip(items, halves, strict=True):
        if half:
            counts[t.category, half] += 1
    assert counts == {
        ("something", "high"): 24,
        ("something", "low"): 24,
        ("kubric", "high"): 25,
        ("kubric", "low"): 25,
    }
    agree = [recorded[t.id]["motion_within_subset"] == half for t, half in zip(items, halves, strict=True) if half]
    assert np.mean(agree) > 0.9


@pytest.mark.slow
def test_bench_on_the_compact_copy_with_the_small_model(compact: Path, tmp_path: Path) -> None:
    results = runs.bench("aurora", out=tmp_path, data=compact, model="small", n=2, limit=2)
    assert set(results["all"]) == {
        *("copy", "round_trip_source", "round_trip_target", "ground_truth", "random_target"),
        *("small", "small.k2.idm_fdm"),
    }
    assert results["all"]["round_trip_target"]["n"] == 10
    assert set(results["k_curve"]["k2"]) == {"oracle", "min_copy", "idm", "idm_fdm", "random"}
    assert set(results["idp"]["floors"]) == {"constant", "random"}
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert results["all"]["small"]["n"] == 10, "any sentence can be said"
    line = json.loads((tmp_path / "items" / "small.jsonl").read_text().splitlines()[0])
    assert set(line["metrics"]) == {"copy_ratio", "copy", "change_iou", "explained"}


def test_embedding_metrics_on_tiny_random_models(native: Path, tmp_path: Path) -> None:
    clip, dino = tmp_path / "clip", tmp_path / "dino"
    save_tiny_clip(clip)
    save_tiny_dino(dino)
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"ag-001": "a square"}))

    from retrodict.evaluation.features import Embedder

    embedder = Embedder("clip", str(clip))
    wide = Image.new("RGB", (300, 100))
    wide.paste("white", (120, 0, 180, 100))
    centre = wide.crop((100, 0, 200, 100))
    assert embedder.images([wide]) @ embedder.images([centre]).T == pytest.approx(
        1, abs=1e-3
    )  # the centre is what counts
    assert np.linalg.norm(embedder.texts(["put a cat on the seat " * 9])) == pytest.approx(1, abs=1e-5)

    results = run_bench(
        "aurora",
        out=tmp_path / "out",
        data=native,
        model="copy",
        subsets=["ag", "clevr"],
        limit=2,
        metrics=[f"clip={clip}", f"dino={dino}"],
        captions=captions,
    )
    metrics = results["metrics"]
    for metric in ("clip_i", "dino"):
        assert metrics[metric]["all"]["ground_truth"]["value"] == pytest.approx(1, abs=1e-5)
        assert metrics[metric]["subsets"]["ag"]["copy"]["value"] < 1
        assert metrics[metric]["subsets"]["clevr"]["copy"]["n"] == 0
    assert metrics["clip_t"]["all"]["copy"]["n"] == 1
    assert metrics["clip_instruction"]["all"]["copy"]["n"] == 4  # needs no target
    assert results["embeddings"]["clip"]["pinned"] is False
    with pytest.raises(ValueError, match="could not be loaded"):
        Embedder("dino", str(tmp_path))
    with pytest.raises(ValueError, match=r"--metric clip=nowhere: nowhere is no folder"):
        Embedder("clip", "nowhere")  # and is not looked for on the hub
