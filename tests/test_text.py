"""Text metrics of written actions: numbers by hand, floors as they were measured, BERTScore on a tiny model."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrodict.evaluation.inverse_eval import measure_explanations, measure_texts
from retrodict.evaluation.text import agreement, bleu, floors, parts, random_texts, rouge
from retrodict.models.protocol import Explanation, LogProb, Pair
from retrodict.worlds import tabletop


def test_verb_and_objects() -> None:
    assert parts("Moving the red cup away from pen").verb == parts("move it").verb
    assert parts("Make her open the door") == parts("open the doors")
    assert parts("put the cup on the table").objects == {"cup", "tabl"}
    found = agreement("Move the cup to the left of the pen", "Move the cup to the right of the pen.")
    assert (found["verb"], found["objects"], found["exact"]) == (1, 1, 0)
    assert agreement("close the door.", "Close the door")["exact"] == 1
    assert agreement("", "Close the door")["verb"] == 0
    other, same = agreement("打开门", "关上窗户"), agreement("打开门", "打开门")
    assert (other["objects"], same["objects"], same["verb"]) == (0, 1, 1), "nothing in common is no agreement"


def test_rouge_and_bleu_by_hand() -> None:
    assert rouge("open a door", "open the door") == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert rouge("door open", "open door") == (1, pytest.approx(0.5))  # the longest common part is one word
    same = bleu(["put the red cup on the table"], ["put the red cup on the table"])
    assert same["bleu"] == pytest.approx(1)
    assert "tok:13a" in same["signature"]
    assert "case:mixed" in same["signature"]


def test_the_floors_of_the_compact_copy_are_as_measured() -> None:
    given = os.environ.get("RETRODICT_SHARED_DATA")
    folder = (Path(given) if given else Path(__file__).parents[2] / "shared" / "data") / "aurora_bench_small"
    if not folder.is_dir():
        pytest.skip(f"no AURORA-Bench in {folder}")
    records = json.loads((folder / "manifest.json").read_text())
    truths, subsets = [r["instruction"] for r in records], [r["subset"] for r in records]
    found = floors(truths, subsets, [r["id"] for r in records])
    for name, expected in {"constant": (0.365, 0.350, 0.135), "random": (0.271, 0.261, 0.066)}.items():
        row = found[name]
        values = (row["rouge1"]["value"], row["rougeL"]["value"], row["bleu"]["bleu"])
        assert values == pytest.approx(expected, abs=0.006)
    lowered = bleu([truth.casefold().rstrip(".") for truth in truths], truths)
    assert lowered["bleu"] == pytest.approx(0.847, abs=0.002)  # casing alone


class Reads:
    """Reads every action right but those about juggling, of which it knows nothing."""

    def __init__(self, truths: dict[bytes, str]) -> None:
        self.truths = truths

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        found = [self.truths[pair[0].tobytes()] for pair in pairs]  # type: ignore[union-attr]
        if any("juggle" in text for text in found):
            raise ValueError("unknown word: 'juggle'")
        return [Explanation(text, LogProb(-1.0, 3)) for text in found]

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        raise NotImplementedError


def test_explanations_are_measured_beside_their_floors(tmp_path: Path) -> None:
    items = [e.transition() for e in tabletop.sample(30, 1, suites=("spatial", "count_physics"))]
    items = [replace(t, action=f"juggle {t.id}") if i % 10 == 0 else t for i, t in enumerate(items)]
    model = Reads({t.source_image.tobytes(): t.action for t in items})
    found = measure_explanations(model, items, tmp_path)
    assert (found["all"]["rouge1"]["value"], found["all"]["rouge1"]["n"]) == (1, 27)
    assert found["all"]["exact"]["n_unscored"] == 3
    assert found["unscored"] == {"unknown word": 3}
    assert 0 < found["floors"]["random"]["rouge1"]["value"] < found["floors"]["constant"]["rouge1"]["value"] < 1
    assert set(found["subsets"]) == {"spatial", "count_physics"}
    lines = [json.loads(line) for line in (tmp_path / "items" / "explained.jsonl").read_text().splitlines()]
    assert sum(line["explained"] is None for line in lines) == 3
    given = measure_texts({items[1].id: items[1].action}, items, tmp_path / "given")
    assert (given["all"]["exact"]["value"], given["all"]["exact"]["n_unscored"]) == (1, 29)


def test_a_random_text_is_anothers() -> None:
    truths, subsets = ["a", "b", "c", "d"], ["x", "x", "y", "z"]
    assert random_texts(truths, subsets, 0) == ["b", "a", None, None]


@pytest.fixture(scope="module")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("roberta")
    words = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "open", "close", "the", "door", "a", "cup"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    size: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = RobertaConfig(vocab_size=10, num_hidden_layers=3, max_position_embeddings=40, **size)
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_bertscore_is_greedy_matching_rescaled(tiny_roberta: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from retrodict.evaluation.bertscore import BertScore, Setting

    score = BertScore(Setting(str(tiny_roberta), 2, 0.0))
    pairs = [("open the door", "close the door"), ("open the door", "open the door"), ("", "open the door")]
    found = score.scores([a for a, _ in pairs], [b for _, b in pairs])
    assert found[1:] == [pytest.approx(1, abs=1e-6), 0]
    # By hand: hidden states of layer 2, one sentence at a time; the ends may be matched, and count for nothing.
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_roberta), AutoModel.from_pretrained(tiny_roberta)
    with torch.no_grad():
        sides = [
            model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[2][0].numpy()
            for text in pairs[0]
        ]
    one, two = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    precision, recall = (one @ two.T).max(1)[1:-1].mean(), (one @ two.T).max(0)[1:-1].mean()
    assert found[0] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)
    rescaled = BertScore(Setting(str(tiny_roberta), 2, 0.5))
    assert rescaled.scores(["open a cup"], ["open a cup"])[0] == pytest.approx(1, abs=1e-6)
    assert rescaled.scores([pairs[0][0]], [pairs[0][1]])[0] == pytest.approx(2 * found[0] - 1, abs=1e-5)
    assert rescaled.scores([""], ["open a cup"]) == [-1], "what a score of 0 is on this scale"
    assert rescaled.signature.endswith("-rescaled")
    assert "_L2_no-idf" in rescaled.signature
    with pytest.raises(ValueError, match="3 layers"):
        BertScore(Setting(str(tiny_roberta), 4, 0.0))
    assert not math.isnan(found[0])


def test_bertscore_stands_beside_its_floors(tiny_roberta: Path, tmp_path: Path) -> None:
    from retrodict.evaluation.bertscore import BertScore, Setting

    bert = BertScore(Setting(str(tiny_roberta), 2, 0.0))
    items = [replace(e.transition(), id=str(i)) for i, e in enumerate(tabletop.sample(6, 1))]
    items = [replace(t, action="open the door" if i % 2 else "close a cup") for i, t in enumerate(items)]
    found = measure_texts({t.id: t.action for t in items[:5]}, items, tmp_path, bert=bert)["bertscore"]
    assert (found["model"]["value"], found["model"]["n"], found["model"]["n_unscored"]) == (pytest.approx(1), 5, 1)
    assert found["constant"]["n"] == 6
    line = json.loads((tmp_path / "items" / "explained.jsonl").read_text().splitlines()[0])
    assert line["bertscore"] == pytest.approx(1)
