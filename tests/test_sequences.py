"""The one builder of sequences, against ids that were worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from retrodict.dynamics.sequences import build
from retrodict.models.small.config import ImageTokenizerConfig
from retrodict.models.small.family import SmallFamily
from retrodict.models.small.image_tokenizer import NetTokenizer
from retrodict.models.small.words import Words

SOURCE, TARGET = np.array([0, 1, 2, 3]), np.array([4, 1, 2, 0])
LEFT, PUSH, CODE = 6, 7, 8 + 256  # ids: 6 specials, the words in alphabetical order, the bytes, the codes
SOURCE_IDS = [3, CODE, CODE + 1, CODE + 2, CODE + 3, 4]  # <boi> ... <eoi>
TARGET_IDS = [3, CODE + 4, CODE + 1, CODE + 2, CODE, 4]


@pytest.fixture(scope="module")
def two_words() -> SmallFamily:
    images = NetTokenizer(ImageTokenizerConfig(image_size=(16, 16), patch=8, codes=5, code_dim=4, width=8))
    return SmallFamily.new(images, Words.from_texts(["Push left!"]), hidden=8, layers=1, heads=2)


def test_forward(two_words: SmallFamily) -> None:
    built = build(two_words, "forward", source_L=SOURCE, target_L=TARGET, action="push left")
    assert built.ids_T.tolist() == [1, *SOURCE_IDS, PUSH, LEFT, *TARGET_IDS]
    assert built.segments == ((2, 6), (10, 14), (10, 14))
    assert built.prompt == "plain-forward-1"
    features = two_words.features(built)
    # The position before a target token predicts it, and has features of where it lies and what the source shows there.
    assert features["aligned"].tolist() == [0] * 9 + [1, 2, 3, 4, 0, 0]
    assert features["row"].tolist() == [0, 0, 1, 1, 2, 2, 0, 0, 0, 1, 1, 2, 2, 0, 0]
    assert features["column"].tolist() == [0, 0, 1, 2, 1, 2, 0, 0, 0, 1, 2, 1, 2, 0, 0]
    assert not features["changed"].any()


def test_inverse(two_words: SmallFamily) -> None:
    built = build(two_words, "inverse", source_L=SOURCE, target_L=TARGET, action="Push left.")
    assert built.ids_T.tolist() == [1, *SOURCE_IDS, *TARGET_IDS, PUSH, LEFT, 2]
    assert built.segments == ((2, 6), (8, 12), (13, 16))  # the action and the end of the sequence
    features = two_words.features(built)
    assert features["before"][8:12].tolist() == [1, 2, 3, 4]
    assert features["changed"][2:6].tolist() == features["changed"][8:12].tolist() == [2, 1, 1, 2]


def test_prefixes_end_where_generation_begins(two_words: SmallFamily) -> None:
    forward = build(two_words, "forward", source_L=SOURCE, action="push left")
    assert forward.ids_T.tolist() == [1, *SOURCE_IDS, PUSH, LEFT, 3]
    assert forward.segments == ((2, 6), None, None)
    inverse = build(two_words, "inverse", source_L=SOURCE, target_L=TARGET)
    assert inverse.ids_T.tolist() == [1, *SOURCE_IDS, *TARGET_IDS]
    assert inverse.segments == ((2, 6), (8, 12), None)


def test_features_do_not_tell_what_is_to_be_predicted(two_words: SmallFamily) -> None:
    one, other = (
        two_words.features(build(two_words, "forward", source_L=SOURCE, target_L=t, action="push"))
        for t in (TARGET, SOURCE)
    )
    assert all(np.array_equal(one[name], other[name]) for name in one)
    whole = two_words.features(build(two_words, "inverse", source_L=SOURCE, target_L=TARGET, action="push"))
    prefix = two_words.features(build(two_words, "inverse", source_L=SOURCE, target_L=TARGET))
    assert all(np.array_equal(whole[name][: len(prefix[name])], prefix[name]) for name in prefix)


@pytest.mark.parametrize("action", ["", "  ", "...", "?!"])
def test_an_action_without_words_is_refused(two_words: SmallFamily, action: str) -> None:
    for direction in ("forward", "inverse"):
        with pytest.raises(ValueError, match="The action is empty"):
            build(two_words, direction, source_L=SOURCE, target_L=TARGET, action=action)  # type: ignore[arg-type]
