"""Questions about images: published files, answers that cannot be read, and chance."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from retrodict.cli import app
from retrodict.data.questions import read_embspatial, read_spatialmqa
from retrodict.evaluation.qa import VLMAnswerer, chance, majority, parse_answer, run_qa
from retrodict.models.protocol import LogProb
from retrodict.report import runs

SIDES = ["left of", "right of", "on/above", "below"]


def image(shade: int) -> Image.Image:
    return Image.new("RGB", (24, 16), (shade, shade, shade))


@pytest.fixture
def spatialmqa(tmp_path: Path) -> Path:
    records: list[dict[str, Any]] = [
        {"image": "1.jpg", "question": "Where is the cup?", "options": SIDES, "answer": "below"},
        {"image": "2.jpg", "question": "Where is the dog?", "options": SIDES[:2], "answer": "left of"},
        {"image": "1.jpg", "question": "Where is the hat?", "options": SIDES, "answer": "below"},
    ]
    for name in ("1.jpg", "2.jpg"):
        image(10 * int(name[0])).save(tmp_path / name)
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.fixture
def embspatial(tmp_path: Path) -> Path:
    buffer = io.BytesIO()
    image(30).save(buffer, "JPEG")
    record = {
        "question_id": "mp3d_0",
        "question": "Which is closest?",
        "answer_options": ["table", "door", "towel", "lamp"],
        "answer": 3,
        "relation": "close",
        "data_source": "mp3d",
        "image": base64.b64encode(buffer.getvalue()).decode(),
    }
    image(40).save(tmp_path / "b.jpg")
    other = {**record, "question_id": "mp3d_1", "relation": "left", "answer": 0, "image": "b.jpg"}
    file = tmp_path / "embspatial_bench.json"
    file.write_text(json.dumps([record, other]))
    return file


def test_published_files_are_read(spatialmqa: Path, embspatial: Path) -> None:
    first, second, _ = read_spatialmqa(spatialmqa, spatialmqa.parent)
    assert (first.options[first.answer], second.kind, first.kind) == ("below", "2 options", "4 options")
    one, two = read_embspatial(embspatial, embspatial.parent)
    assert (one.id, one.answer, one.kind, two.kind) == ("mp3d_0", 3, "close", "left")
    assert Image.open(io.BytesIO(one.image)).size == (24, 16)
    spatialmqa.write_text(json.dumps({"image": "../1.jpg", "question": "?", "options": ["a"], "answer": "a"}))
    with pytest.raises(ValueError, match="not a path inside"):
        read_spatialmqa(spatialmqa, spatialmqa.parent)
    for change, message in (({"answer": "behind"}, "none of the options"), ({"image": "9.jpg"}, "absent")):
        record = {"image": "1.jpg", "question": "?", "options": ["left"], "answer": "left", **change}
        spatialmqa.write_text(json.dumps(record))
        with pytest.raises(ValueError, match=message):
            read_spatialmqa(spatialmqa, spatialmqa.parent)


def test_an_answer_counts_if_it_names_one_option() -> None:
    options = ["left", "left of", "on/above", "in front of"]
    assert parse_answer("Left of.", options) == 1
    assert parse_answer("It is in front of the cup", options) == 3
    assert parse_answer("It is left of it", options) == 1  # "left" is only a part of what is named
    assert parse_answer("above", options) is None
    assert parse_answer("on/above or in front of", options) is None
    assert parse_answer("", options) is None


class Guesses:
    """Likes one option whatever it sees, another when blind; it mumbles about the second image."""

    def write(self, image: Image.Image | None, question: str) -> str:
        assert image is not None
        if "hat" in question:
            raise ValueError("too long")
        return "below" if image.getpixel((0, 0)) == (10, 10, 10) else "hm"

    def score(self, image: Image.Image | None, question: str, answers: Sequence[str]) -> list[LogProb]:
        liked = 0 if image is None else 3 if len(answers) == 4 else 1
        return [LogProb(-1.0 if i == liked else -2.0, 1 if i == liked else 4) for i, _ in enumerate(answers)]


def test_every_number_stands_beside_chance_and_what_was_lost(spatialmqa: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = runs.qa("spatialmqa", data=spatialmqa, images=spatialmqa.parent, model="g", out=out, answerer=Guesses())
    assert found["accuracy"]["likelihood_sum"]["share"] == 0.5  # right on the first, wrong on the second
    assert found["accuracy"]["likelihood_mean"]["share"] == 0.5  # longer options cost less a token: below is not liked
    assert found["accuracy"]["generation"]["share"] == 0.5
    assert found["accuracy"]["generation"]["n_unscored"] == 1
    assert found["parse_failures"] == {"count": 1, "n": 2, "share": 0.5}
    assert found["unscored"] == {"too long": 1}
    assert found["chance"] == pytest.approx((1 / 4 + 1 / 2 + 1 / 4) / 3)
    assert found["majority"] == pytest.approx(2 / 3)
    assert set(found["subsets"]) == {"2 options", "4 options"}
    assert "Chance" in (out / "report.html").read_text()
    assert len((out / "items" / "answers.jsonl").read_text().splitlines()) == 3
    questions = read_spatialmqa(spatialmqa, spatialmqa.parent)
    assert (chance(questions[:1]), majority(questions[1:2])) == (0.25, 1)
    with pytest.raises(ValueError, match="No questions"):
        run_qa("vqa", data=spatialmqa, images=tmp_path, model="g", out=out)


def test_an_interrupted_run_asks_only_what_is_missing(spatialmqa: Path, tmp_path: Path) -> None:
    record = {"image": "1.jpg", "options": ["left", "right"], "answer": "left"}
    spatialmqa.write_text("".join(json.dumps({**record, "question": f"Where is {i}?"}) + "\n" for i in range(40)))
    asked: list[str] = []

    class Stops(Guesses):
        def __init__(self, after: int) -> None:
            self.after = after

        def write(self, image: Image.Image | None, question: str) -> str:
            if len(asked) == self.after:
                raise KeyboardInterrupt
            asked.append(question)
            return super().write(image, question)

    def run(name: str, answerer: Guesses) -> bytes:
        asked.clear()
        out = tmp_path / name
        run_qa("spatialmqa", data=spatialmqa, images=spatialmqa.parent, model="g", out=out, answerer=answerer)
        return (out / "items" / "answers.jsonl").read_bytes()

    whole = run("whole", Guesses())
    with pytest.raises(KeyboardInterrupt):
        run("cut", Stops(35))
    assert len(asked) == 35
    assert run("cut", Stops(99)) == whole
    assert len(asked) == 8
    assert run("cut", Stops(0)) == whole


def test_a_tiny_model_answers(embspatial: Path, tmp_path: Path) -> None:
    save_tiny_vlm(tmp_path / "vlm")
    model = VLMAnswerer(tmp_path / "vlm", max_tokens=4)
    seen = model.score(image(10), "where?", ["left", "right"])
    other = model.score(image(250), "where?", ["left", "right"])
    blind = model.score(None, "where?", ["left", "right"])
    assert [one.count for one in seen] == [4, 5]
    assert len({seen[0].sum, other[0].sum, blind[0].sum}) == 3  # it looks at the image
    # The probability of two letters is that of the first and then of the second.
    one, two = model.score(image(10), "where?", ["l", "le"])
    assert two.sum < one.sum < 0
    assert two.sum - one.sum == pytest.approx(model.score(image(10), "where?l", ["e"])[0].sum, abs=1e-4)
    images, out = embspatial.parent, tmp_path / "out"
    found = run_qa("embspatial", data=embspatial, images=images, model=str(tmp_path / "vlm"), out=out)
    assert found["accuracy"]["likelihood_mean"]["n"] == 2
    assert not math.isnan(found["parse_failures"]["share"])
    with pytest.raises(ValueError, match="cannot be loaded"):
        VLMAnswerer(tmp_path)
    arguments = ["qa", "--bench", "embspatial", "--data", str(embspatial), "--model", str(tmp_path / "vlm")]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "cli"), "--quiet"])
    assert result.exit_code == 0
    assert "chance: 0.250" in result.stdout


def save_tiny_vlm(folder: Path) -> None:
    """A LLaVA of random weights that speaks in single letters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=["<image>"],
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        fast,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template="{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}",
        num_additional_image_tokens=1,
    )
    small: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(num_hidden_layers=2, image_size=16, patch_size=8, **small),
        text_config=LlamaConfig(vocab_size=len(words), num_hidden_layers=1, num_key_value_heads=2, **small),
        image_token_index=4,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():  # usual weights are so small that images hardly matter
            parameter.mul_(8 if parameter.ndim >= 2 else 1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
