"""The small family's image tokenizer: what it keeps, what it proposes, what it says of itself."""

from __future__ import annotations

import io
import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from retrodict.models.small.config import ImageTokenizerConfig
from retrodict.models.small.image_tokenizer import ImageTokenizer, NetTokenizer, PatchTokenizer, RoundTrip, nearest
from retrodict.training import net_tokenizer
from retrodict.training.config import TokenizerConfig
from retrodict.training.image_tokenizer import describe, make_tokenizer, measure, propose
from retrodict.training.patches import Distinct, distinct, fit_table
from retrodict.transitions import Transition
from retrodict.worlds import get_world


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def cells(rows: int, columns: int, cell: int, count: int, seed: int = 0) -> list[Transition]:
    """Pairs of a grid world: five tiles with a pattern each, of which one moves from cell to cell."""
    rng = np.random.default_rng(seed)
    tiles = np.random.default_rng(1).integers(0, 256, (5, cell, cell, 3), dtype=np.uint8)
    made = []
    for i in range(count):
        board = rng.integers(0, 4, (rows, columns))
        frames = []
        for at in rng.choice(rows * columns, 2, replace=False):
            shown = board.copy()
            shown.flat[at] = 4
            frames.append(Image.fromarray(np.concatenate(np.concatenate(tiles[shown], 1), 1)))
        made.append(Transition(id=str(i), group=str(i // 2), source=png(frames[0]), target=png(frames[1]), action="go"))
    return made


def test_few_distinct_patches_are_the_table() -> None:
    patches = np.array([[0] * 12, [200] * 12, [0] * 12, [0] * 11 + [1]], np.uint8)
    found = distinct([patches[:2], patches[2:]])
    assert found.counts_D.tolist() == [2, 1, 1]
    assert fit_table(found, 3, seed=0).tolist() == found.patches_DP.tolist()
    assert found.patches_DP[0].tolist() == [0] * 12


def test_many_are_told_by_medians_and_rare_ones_get_an_entry() -> None:
    """Ten greys of a floor and one rare bright thing, in a table of two."""
    greys = np.repeat(np.array([[50], [51], [52], [90]], np.uint8), 12, axis=1)
    thing = np.full((1, 12), 250, np.uint8)
    found = Distinct(np.concatenate([greys, thing]), np.array([9, 100, 9, 4, 1]))
    table = fit_table(found, 2, seed=0)
    # The floor's entry is the median by roots of counts (3, 10, 3, 2), not the mean.
    assert sorted(table[:, 0].tolist()) == [51, 250]


def test_nearest_is_exact_for_long_patches() -> None:
    """Worked out with whole numbers: float32 alone would lose the last bits of sums as long as these."""
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (7, 3 * 32**2), dtype=np.uint8)
    patches = rng.integers(0, 256, (5, 3 * 32**2), dtype=np.uint8)
    slow = np.square(patches[:, None].astype(np.int64) - table).sum(-1)
    codes, distances = nearest(patches, table)
    assert codes.tolist() == slow.argmin(1).tolist()
    assert distances.tolist() == slow.min(1).tolist()


def test_the_same_table_whatever_the_threads() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 192), dtype=np.uint8)
    found = distinct([noise])
    threads = torch.get_num_threads()
    tables = []
    for count in (1, 2):
        torch.set_num_threads(count)
        tables.append(fit_table(found, 32, seed=3))
    torch.set_num_threads(threads)
    assert (tables[0] == tables[1]).all()
    assert (tables[0] != fit_table(found, 32, seed=4)).any()


@pytest.mark.parametrize(("rows", "columns", "cell"), [(4, 7, 16), (6, 5, 12)])
def test_a_grid_world_of_any_shape_comes_back_to_the_last_bit(
    rows: int, columns: int, cell: int, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(cells(rows, columns, cell, 40), TokenizerConfig())
    assert (tokenizer.config.grid, tokenizer.config.patch, tokenizer.config.codes) == ((rows, columns), cell, 5)
    assert tokenizer.round_trip is not None
    assert (tokenizer.round_trip.exact, tokenizer.round_trip.error, tokenizer.round_trip.shown) == (1, 0, 1)
    assert describe(tokenizer).endswith("held-out patches come back exactly")
    unseen = [row.target_image for row in cells(rows, columns, cell, 10, seed=5)]
    tokenizer.save(tmp_path)
    loaded = ImageTokenizer.load(tmp_path)
    assert [i.tobytes() for i in loaded.decode(loaded.encode(unseen).codes_NL)] == [i.tobytes() for i in unseen]
    assert (loaded.fingerprint, loaded.round_trip) == (tokenizer.fingerprint, tokenizer.round_trip)


def test_tabletop_comes_back_to_the_last_bit() -> None:
    rows = get_world("tabletop").sample(200, 0, namespace="tokenizer-test")
    tokenizer = make_tokenizer(rows, TokenizerConfig())
    assert tokenizer.config.grid == (6, 6)
    assert tokenizer.round_trip is not None and tokenizer.round_trip.exact == 1


@pytest.mark.parametrize(
    ("size", "given", "image_size", "patch"),
    [
        ((64, 64), {}, (64, 64), 8),
        ((96, 96), {}, (96, 96), 8),
        ((160, 210), {}, (104, 80), 8),  # 13 x 10 tokens
        ((1920, 1080), {}, (72, 128), 8),  # 9 x 16
        ((100, 60), {"patch": 4}, (36, 60), 4),
        ((100, 60), {"image_size": (32, 64)}, (32, 64), 4),
        ((100, 60), {"image_size": 48, "patch": 24}, (48, 48), 24),
        ((5, 3), {}, (8, 8), 8),
    ],
)
def test_images_without_cells_get_small_patches_of_their_aspect_ratio(
    size: tuple[int, int], given: dict[str, int], image_size: tuple[int, int], patch: int
) -> None:
    rng = np.random.default_rng(0)
    blots = [Image.fromarray(rng.integers(0, 256, (7, 11, 3), dtype=np.uint8)) for _ in range(6)]
    images = [blot.resize(size, Image.Resampling.BICUBIC) for blot in blots]
    assert propose(images, TokenizerConfig(**given)) == (image_size, patch)  # type: ignore[arg-type]


def test_large_flat_cells_are_found() -> None:
    """Arrows of four directions and six colours, on two grounds: a cell is a token, and no quarter of one."""
    rng = random.Random(0)
    arrows = []
    for ground, colour in product((0, 76), ("red", "lime", "blue", "purple", "yellow", "grey")):
        cell = Image.new("RGB", (32, 32), (100, 100, 100))
        draw = ImageDraw.Draw(cell)
        draw.rectangle((1, 1, 31, 31), (ground,) * 3)
        draw.polygon([(4, 6), (28, 16), (4, 26)], colour)
        arrows += [cell.rotate(90 * turn) for turn in range(4)]
    images = []
    for _ in range(100):
        image = Image.new("RGB", (192, 192))
        for at in range(36):
            image.paste(rng.choice(arrows), (at % 6 * 32, at // 6 * 32))
        images.append(image)
    assert propose(images, TokenizerConfig()) == ((192, 192), 32)


def test_large_patches_that_few_images_repeat_are_no_cells() -> None:
    """A view that moves over a textured map: neighbouring frames are alike, and the next map is another."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(10):
        texture = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((128, 128))
        images += [texture.crop((at, 0, at + 64, 64)) for at in (0, 0, 1, 1, 2, 2)]
    assert propose(images, TokenizerConfig()) == ((64, 64), 8)


def test_compressed_cells_are_found() -> None:
    rows = get_world("tabletop").sample(60, 0, namespace="tokenizer-test")
    compressed = [
        Image.open(io.BytesIO(png(image, "JPEG"))) for row in rows for image in (row.source_image, row.target_image)
    ]
    assert propose(compressed, TokenizerConfig()) == ((96, 96), 16)


def table(*greys: int) -> PatchTokenizer:
    """A tokenizer of 1 x 2 patches of two pixels a side that knows some greys."""
    config = ImageTokenizerConfig(kind="patches", image_size=(2, 4), patch=2, codes=len(greys))
    made = PatchTokenizer(config)
    made.patches.copy_(torch.tensor(greys)[:, None].expand(-1, 12))
    return made


def test_the_round_trip_in_numbers() -> None:
    pairs = np.empty((2, 2, 2, 4, 3), np.uint8)
    pairs[0, 0], pairs[0, 1] = 100, 100
    pairs[0, 1, :, :2] = 180  # the left patch changes by 80 and comes back as 200: off by 20, nearer to 180 than to 100
    pairs[1, 0], pairs[1, 1] = 100, 100
    pairs[1, 1, :, 2:] = 140  # the right one changes by 40 and comes back as 100: a copy
    measured = measure(table(100, 200), pairs)
    assert measured == RoundTrip(pairs=2, patches=8, exact=6 / 8, changed=2, error=30, copying=60, shown=0.5, worst=40)
    assert measured.share == 0.5


def test_a_tokenizer_that_loses_changes_says_so() -> None:
    tokenizer = table(100)
    tokenizer.round_trip = RoundTrip(10, 20, 0.5, 7, 36, 60, 0.714, 40)
    said, warning = describe(tokenizer).split(". ")
    assert said == "1 codes for 1 x 2 patches of 2 px; error on 7 held-out changed patches: 0.60 of copying's"
    assert warning.startswith("Warning: a perfect model could show at most 71% of the changes")


def test_nothing_to_learn_from() -> None:
    with pytest.raises(ValueError, match="no images to make the image tokenizer from"):
        make_tokenizer([], TokenizerConfig())


@pytest.mark.parametrize("steps", [1, 10])
def test_a_net_of_few_steps(steps: int) -> None:
    config = TokenizerConfig(
        image_size=24, patch=8, codes=6, code_dim=4, width=8, context=1, warm_steps=steps, steps=steps, batch_size=2
    )
    rows = get_world("tabletop").sample(6, 0, namespace="tokenizer-test")
    trained = make_tokenizer(rows, config)
    assert isinstance(trained, NetTokenizer) and trained.round_trip is not None
    codes = trained.encode([row.source_image for row in rows]).codes_NL
    assert codes.shape == (6, 9)
    assert trained.decode(codes)[0].size == (24, 24)


def test_a_net_trains_until_it_gets_no_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat images are learned in no time, so that few of the steps are needed."""
    monkeypatch.setattr(net_tokenizer, "CHECK", 10)
    seen: list[int] = []
    row = Transition(
        id="a", source=png(Image.new("RGB", (16, 16), "red")), target=png(Image.new("RGB", (16, 16), "blue"))
    )
    config = TokenizerConfig(
        image_size=16, patch=8, codes=4, code_dim=4, width=8, context=1, warm_steps=9000, steps=9000, batch_size=2
    )
    trained = make_tokenizer([row, row], config, report=lambda step, total, error: seen.append(step))
    assert trained.round_trip is not None and trained.round_trip.share < 0.1
    assert max(step for step in seen if step <= 9000) < 9000


def test_images_unlike_the_training_are_told_apart() -> None:
    rows = get_world("tabletop").sample(60, 0, namespace="tokenizer-test")
    tokenizer = make_tokenizer(rows, TokenizerConfig(image_size=96, patch=16))
    held = [row.target_image for row in get_world("tabletop").sample(20, 1, namespace="tokenizer-test")]
    compressed = [Image.open(io.BytesIO(png(image, "JPEG"))) for image in held]
    noise = Image.effect_noise((96, 96), 120).convert("RGB")
    assert not any(tokenizer.is_unfamiliar(image) for image in (*held, *compressed))
    assert tokenizer.is_unfamiliar(noise) and tokenizer.is_unfamiliar(Image.new("RGB", (40, 30), "red"))
    assert not table(100).is_unfamiliar(noise), "nobody has measured it"
