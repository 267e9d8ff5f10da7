"""Miniature copies of what recipes/paper/README.md downloads, in the published layouts, to try every step in minutes.

    python recipes/paper/miniature.py mini && cd mini && python recipes/paper/walk.py

makes `mini/recipes/paper` with this folder's files, its data and checkpoints in the places that the README names, and
recipes shortened to a few steps. The models are random and the images are of the simulated world, under the names of
the published files: the walk shows that every step finds what the one before it wrote, and no number means anything.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from retrodict.files import write_json
from retrodict.models.registry import get_family, load_named
from retrodict.video.encode import write_video
from retrodict.worlds import tabletop
from retrodict.worlds.tabletop import Example

HERE = Path(__file__).parent
SHORT = {
    "epochs: 10": "steps: 2",
    "epochs: 40": "steps: 2",
    "per_device_batch_size: 8": "per_device_batch_size: 1",
    "gradient_accumulation_steps: 8 ": "gradient_accumulation_steps: 2 ",
    "gradient_accumulation_steps: 12": "gradient_accumulation_steps: 2",
    "warmup_steps: 500": "warmup_steps: 1",
    "warmup_steps: 400": "warmup_steps: 1",
    "top_k: 7000": "top_k: 2",
    "test_share: 0.01": "test_share: 0.2",
    "seed: 0\nfamily": "seed: 0\nbench: {items: 2, n: 2}\nfamily",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--family", default="chameleon", choices=("chameleon", "liquid"))
    arguments = parser.parse_args()
    make(arguments.out, arguments.family)


def make(out: Path, family: str = "chameleon") -> None:
    """Write all of it to a new folder."""
    paper = out / "recipes" / "paper"
    paper.mkdir(parents=True)
    for file in HERE.iterdir():
        if file.suffix == ".yaml":
            (paper / file.name).write_text(shortened(file.read_text()))
        elif file.is_file():
            shutil.copy(file, paper / file.name)
    examples = tabletop.sample(45, 0)
    checkpoint(paper / "models" / family, family, [e.text for e in examples])
    data = paper / "data"
    aurora(data, examples)
    something(data / "something-v2", examples[:4])
    epic(data / "EPIC-KITCHENS", examples[:4])
    unlabelled(data)


def shortened(recipe: str) -> str:
    for long, short in SHORT.items():
        assert long in recipe, f"no recipe says {long!r} any more"
        recipe = recipe.replace(long, short)
    return recipe


def checkpoint(folder: Path, family: str, texts: Sequence[str]) -> None:
    """What `retrodict download` leaves: the layout of transformers, no card of ours."""
    torch.manual_seed(0)
    load_named(get_family(family).tiny)(texts, grid=3).save(folder)  # 9 tokens an image


def aurora(data: Path, examples: Sequence[Example]) -> None:
    """The repository with its lists, whose paths start from its top; and the archives beside it."""
    top = data / "AURORA"
    names = {"ag": "A{}.mp4_3_{}", "kubric": "closer/{}/{}", "magicbrush": "{}-{}"}
    for subset, name in names.items():
        rows = []
        folder = top / "data" / subset
        folder.mkdir(parents=True)
        with zipfile.ZipFile(data / f"{subset}_images.zip", "w") as archive:
            for i, example in enumerate(examples[:8]):
                row = {"instruction": example.text}
                for side, state in (("input", example.source), ("output", example.target)):
                    word = {"input": "left", "output": "right"}[side] if subset == "ag" else side
                    image = f"images/{name.format(i, word)}.png"
                    with archive.open(image, "w") as file:
                        tabletop.draw(state).save(file, "PNG")
                    row[side] = f"data/{subset}/{image}"
                rows.append(row | ({"mask": f"{i}-mask.png", "img_id": str(i)} if subset == "magicbrush" else {}))
        write_json(folder / "train.json", rows)
    bench = []
    for i, subset in enumerate(("magicbrush", "ag", "something", "whatsup", "kubric") * 5):
        example, row = examples[20 + i], {"instruction": examples[20 + i].text, "task": subset}
        for side, state in (("input", example.source), ("output", example.target)):
            row[side] = f"data/{subset}/images/test{i}/{side}.png"
            (top / row[side]).parent.mkdir(parents=True, exist_ok=True)
            tabletop.draw(state).save(top / row[side])
        bench.append(row)
    write_json(top / "test.json", bench)


def something(folder: Path, examples: Sequence[Example]) -> None:
    """Something-Something v2: `ID.webm` in one folder (here MPEG-4 under that name), labels in JSON."""
    labels = []
    for i, example in enumerate(examples):
        write_video(folder / "20bn-something-something-v2" / f"{i}.webm", held(example))
        labels.append({"id": str(i), "label": example.text, "template": "Moving [something]", "placeholders": []})
    write_json(folder / "labels" / "train.json", labels)


def epic(folder: Path, examples: Sequence[Example]) -> None:
    """EPIC-KITCHENS-100: one long video of a participant, segments in a CSV."""
    names = [
        "narration_id",
        "participant_id",
        "video_id",
        "start_timestamp",
        "stop_timestamp",
        "narration",
        "verb",
        "noun",
    ]
    write_video(folder / "P01" / "videos" / "P01_01.MP4", [image for e in examples for image in held(e)])
    rows = [
        [f"P01_01_{i}", "P01", "P01_01", f"00:00:{i:02d}.00", f"00:00:{i + 1:02d}.00", e.text, "move"]
        for i, e in enumerate(examples)
    ]
    write_csv(folder / "EPIC_100_train.csv", [names, *rows])


def unlabelled(data: Path) -> None:
    """Two clips of each of Moments in Time, Kinetics-700 and UCF-101."""
    for i in range(2):
        moments = data / "moments" / "Moments_in_Time_Raw" / "training" / f"class{i}"
        write_video(moments / f"yt-{i}_1.mp4", moving(i))
        write_video(data / "kinetics700" / "train" / f"abcdefghij{i}_000001_000011.mp4", moving(2 + i))
        write_video(data / "ucf101" / "UCF-101" / f"Class{i}" / f"v_Class{i}_g01_c01.avi", moving(4 + i))
    rows = [["juggling", f"abcdefghij{i}", 1, 11, "train"] for i in range(2)]
    write_csv(data / "kinetics700" / "train.csv", [["label", "youtube_id", "time_start", "time_end", "split"], *rows])


def held(example: Example) -> list[Image.Image]:
    """A second of video: before, then after."""
    return [tabletop.draw(example.source)] * 5 + [tabletop.draw(example.target)] * 5


def moving(seed: int) -> list[Image.Image]:
    """45 frames in which a square moves."""
    frames = []
    for i in range(45):
        image = Image.effect_noise((64, 64), 20).convert("RGB") if not frames else frames[0].copy()
        ImageDraw.Draw(image).rectangle((i, 8 * seed, i + 12, 8 * seed + 12), fill="red")
        frames.append(image)
    return frames


def write_csv(file: Path, rows: Sequence[Sequence[object]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)


if __name__ == "__main__":
    main()
