"""What all tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from retrodict.models.small.family import SmallFamily

# Before any library reads them: no test reaches for a model hub, and two test processes do not fight over cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples everywhere, and as much time as a busy machine needs.
settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


def pytest_collection_finish() -> None:
    """What all tests import stays; looking through it at each collection would be a sixth of their time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips and annotation samples, which are not ours to publish; tests that need them skip without them."""
    given = os.environ.get("RETRODICT_SHARED_DATA")
    folder = Path(given) if given else Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "clips" / "manifest.csv").is_file():
        pytest.skip(f"no real clips in {folder}; RETRODICT_SHARED_DATA names their folder")
    return folder


@pytest.fixture(scope="session")
def annotations(shared_data: Path) -> Path:
    return shared_data / "annotations"


def tiny_family() -> SmallFamily:
    """Random weights: 3 x 3 image tokens of 8 px, 12 codes, and the words of *tabletop*. Made in milliseconds."""
    import torch

    from retrodict.models.small.config import ImageTokenizerConfig
    from retrodict.models.small.family import SmallFamily
    from retrodict.models.small.image_tokenizer import NetTokenizer
    from retrodict.models.small.words import Words
    from retrodict.worlds import tabletop

    torch.manual_seed(0)
    images = NetTokenizer(ImageTokenizerConfig(image_size=(24, 24), patch=8, codes=12, code_dim=4, width=16)).eval()
    words = Words.from_texts(tabletop.vocabulary())
    torch.manual_seed(16)  # of those tried, one whose greedy sentences and samples differ
    family = SmallFamily.new(images, words, hidden=32, layers=2, heads=2)
    # Weights of the usual size give nearly even probabilities, under which a wrong choice would go unnoticed.
    with torch.no_grad():
        for parameter in family.module.parameters():
            parameter.mul_(3 if parameter.ndim == 2 else 1)
    family.module.eval()
    return family


@pytest.fixture(scope="session")
def make_family() -> Callable[[], SmallFamily]:
    """Makes families that are all alike."""
    return tiny_family


@pytest.fixture
def family() -> SmallFamily:
    return tiny_family()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `inverse/` and `forward/`, both of random weights."""
    from retrodict.loading import save_model

    folder = tmp_path_factory.mktemp("tiny")
    save_model(tiny_family(), "inverse", folder / "inverse")
    save_model(tiny_family(), "forward", folder / "forward")
    return folder


@pytest.fixture(scope="module")  # no longer, as it runs an event loop in this thread
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright
    from study_browser import FLAGS, chromium

    path = chromium()
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


STUDIED = ("quokka", "wombat", "numbat", "bilby")


@pytest.fixture(scope="session")
def studied_runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four systems for a human study of 3 subsets x 8 items: three runs of bench, and a folder of JPEG images.

    Everything about their files differs by system (size, format, metadata), so that whatever leaks is seen.
    """
    import numpy as np
    from PIL import Image, PngImagePlugin

    from retrodict.evaluation.pool import ItemResult, Scored
    from retrodict.evaluation.predictions import write_predictions
    from retrodict.files import write_json
    from retrodict.images import encode_png
    from retrodict.transitions import Transition, write_rows

    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("studied")
    items = [
        Transition(
            id=f"{subset}-{i}",
            category=subset,
            group=f"{subset}/{i // 2}",  # two items share a scene
            action=f"move <b>block {i}</b> of {subset} & wait",
            source=encode_png(image),
            target=encode_png(image.rotate(90, expand=False)),
        )
        for subset in ("edit", "motion", "space")
        for i in range(8)
        for image in [Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))]
    ]

    def frame(item: Transition, system: int) -> tuple[Image.Image, PngImagePlugin.PngInfo]:
        metadata = PngImagePlugin.PngInfo()
        metadata.add_text("Software", STUDIED[system])
        image = item.source_image.resize((40 + 10 * system, 30 + 8 * system))
        image.paste((60 * system, 200, 90), (2, 2, 10 + 5 * system, 20))
        return image, metadata

    for system, name in enumerate(STUDIED[:3]):
        results = []
        for i, item in enumerate(items):
            image, metadata = frame(item, system)
            file = folder / "frame.png"
            image.save(file, pnginfo=metadata)
            scored = Scored(image=file.read_bytes(), es=1, me=1, score=(system + i % 2) / 4)
            results.append(ItemResult(item.id, item.category, item.group, item.action, scored))
        write_predictions(folder / name / "predictions" / f"{name}.parquet", results)
        write_rows(folder / name / "test" / "test.parquet", items)
        write_json(folder / name / "results.json", {"kind": "bench", "bench": "tabletop", "system": name})
    (folder / STUDIED[3]).mkdir()
    for item in items:
        image, _ = frame(item, 3)
        exif = Image.Exif()
        exif[305] = STUDIED[3]
        image.save(folder / STUDIED[3] / f"{item.id}.jpg", exif=exif)
    return [str(folder / name) for name in STUDIED]
