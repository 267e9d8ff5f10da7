"""The open vocabulary of the small family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrodict.models.small.words import SPECIALS, Words

SENTENCES = [
    "push the pillow to the left",
    "put 17 teapots on the shelf at 2.5 cm",
    "schiebe die größte kiste nach links",
    "把绿球放在盒子上",
    "передвинь шар",
    "move 🤖 left",
    "say <eos> and <unk> aloud",
    "x" * 300,
]


@pytest.fixture
def words() -> Words:
    return Words.from_texts(["Push the red ball, please!", "pillow", "把红球放在盒子上"])


@pytest.mark.parametrize("text", SENTENCES)
def test_every_sentence_can_be_said_and_read_back(words: Words, text: str, tmp_path: Path) -> None:
    ids = words.encode(text)
    assert min(ids) >= len(SPECIALS), "what users write is no control token"
    assert words.decode(ids) == text
    words.save(tmp_path / "words.json")
    loaded = Words.load(tmp_path / "words.json")
    assert (loaded.encode(text), loaded.decode(ids), len(loaded)) == (ids, text, len(words))


def test_known_words_are_one_token_and_others_begin_as_a_known_one(words: Words) -> None:
    assert len(words.encode("push the red pillow")) == 4
    assert words.encode("pillows")[:1] == words.encode("pillow")
    assert len(words.encode("pillows")) == 2
    assert words.encode("Push, the ball!") == words.encode("push the ball")
    assert words.encode(" ... ") == []
    # A space and six characters, each a token of its own, as it was in the labels.
    assert len(words.encode("把盒子放在球上")) == 8


def test_what_the_labels_never_said_is_named_with_its_nearest(words: Words) -> None:
    assert words.unfamiliar("push the red ball") == words.unfamiliar("把盒子放在球上") == []
    assert words.unfamiliar("push the pilow 3 times 3") == ["'pilow' (did you mean 'pillow'?)", "'3'", "'times'"]
    assert words.unfamiliar("把绿球") == ["'把绿球'"]


def test_any_tokens_give_text(words: Words) -> None:
    """Half a character, specials and numbers beyond the vocabulary leave no trace."""
    half = words.encode("é")[:-1]
    assert words.decode([words.bos, *words.encode("red"), *half, words.unknown, len(words) + 5]) == "red"


def test_a_vocabulary_of_an_earlier_version(tmp_path: Path) -> None:
    vocabulary = {word: i for i, word in enumerate((*SPECIALS, "ball", "push"))}
    stored = {
        "version": "1.0",
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }
    (tmp_path / "words.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"words.json cannot be read: it holds no bytes, .* train that anew"):
        Words.load(tmp_path / "words.json")
