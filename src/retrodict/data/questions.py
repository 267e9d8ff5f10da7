"""Multiple-choice questions about images: SpatialMQA and EmbSpatial-Bench, in their authors' files."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrodict.data.files import inside, read_records
from retrodict.files import text_lines


@dataclass(frozen=True)
class Question:
    """`answer` is an index into `options`; `image` is encoded."""

    id: str
    image: bytes
    text: str
    options: tuple[str, ...]
    answer: int
    kind: str  # what sort of question it is


def read_spatialmqa(file: Path, images: Path) -> list[Question]:
    """SpatialMQA's `test.jsonl` (`image`, `question`, `options`, `answer` in words); images are COCO's, in `images`.

    Kinds are numbers of options, on which chance depends. Raises `ValueError` for a record that cannot be used and for
    an absent image.
    """
    questions = []
    for i, record in enumerate(_lines(file)):
        try:
            options, answer = tuple(record["options"]), record["answer"]
            text, name = record["question"], record["image"]
        except (KeyError, TypeError):
            raise ValueError(f"{file}, line {i + 1}: SpatialMQA has image, question, options and answer.") from None
        if answer not in options:
            raise ValueError(f"{file}, line {i + 1}: the answer {answer!r} is none of the options.")
        image = _read_image(images, name)
        questions.append(
            Question(f"spatialmqa-{i + 1:05d}", image, text, options, options.index(answer), _kind(options))
        )
    return questions


def _kind(options: tuple[str, ...]) -> str:
    return f"{len(options)} options"


def read_embspatial(file: Path, images: Path) -> list[Question]:
    """EmbSpatial-Bench's `embspatial_bench.json`: `question_id`, `question`, `answer_options`, `answer` (an index),
    `relation`, and `image`, which is base64 or a file in `images`. Kinds are relations.
    """
    questions = []
    for i, record in enumerate(read_records(file)):
        try:
            options, answer = tuple(record["answer_options"]), record["answer"]
            name, text, source = str(record["question_id"]), record["question"], record["image"]
        except (KeyError, TypeError):
            raise ValueError(
                f"{file}, record {i + 1}: EmbSpatial-Bench has question_id, question, answer_options, answer and image."
            ) from None
        if not isinstance(answer, int) or not 0 <= answer < len(options):
            raise ValueError(f"{file}, record {i + 1}: the answer {answer!r} is no index of an option.")
        image = _base64(source) or _read_image(images, source)
        questions.append(Question(name, image, text, options, answer, str(record.get("relation", ""))))
    return questions


READERS = {"spatialmqa": read_spatialmqa, "embspatial": read_embspatial}


def _lines(file: Path) -> Iterator[Any]:
    for line in text_lines(file):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file} is not JSON lines: {error}") from None


def _base64(text: str) -> bytes | None:
    """The bytes, if the text is a base64 image and no file name."""
    if len(text) < 64:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _read_image(folder: Path, name: str) -> bytes:
    path = inside(folder, name)
    if not path.is_file():
        raise ValueError(f"{path} is absent: --images names the folder that holds the questions' images.")
    return path.read_bytes()
