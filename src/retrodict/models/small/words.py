"""The small family's text side: whole lower-case words, from the `tokenizers` library."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import WhitespaceSplit

SPECIALS = ("<pad>", "<bos>", "<eos>", "<boi>", "<eoi>", "<unk>")
LISTED = 60  # words that an error message shows: all of a small world's, not all of a language's


class Words:
    """A closed vocabulary of words. Ids 0-5 are `SPECIALS`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        assert [tokenizer.token_to_id(s) for s in SPECIALS] == list(range(len(SPECIALS))), "not a small vocabulary"
        self.pad, self.bos, self.eos, self.boi, self.eoi, self.unknown = range(len(SPECIALS))

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Words:
        """The vocabulary of all words in `texts`, in alphabetical order, so that it depends on their set alone."""
        normalizer = _normalizer()
        words = sorted({word for text in texts for word in normalizer.normalize_str(text).split()})
        vocabulary = {word: i for i, word in enumerate((*SPECIALS, *words))}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = WhitespaceSplit()
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path) -> Words:
        """Raises `ValueError` when the file is missing or damaged."""
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises nothing more precise
            raise ValueError(f"{path} is missing or damaged: {error}") from None

    def save(self, path: Path) -> None:
        self._tokenizer.save(str(path))

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        encoding = self._tokenizer.encode(text)
        ids: list[int] = encoding.ids
        if self.unknown in ids:
            normal = self._tokenizer.normalizer.normalize_str(text).split()
            raise ValueError(self._explain_unknown([w for w, i in zip(normal, ids, strict=True) if i == self.unknown]))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        words = [self._tokenizer.id_to_token(i) for i in ids]
        return " ".join(word for word in words if word is not None and word not in SPECIALS)

    def _explain_unknown(self, words: list[str]) -> str:
        known = [word for word in self._tokenizer.get_vocab() if word not in SPECIALS]
        hints = []
        for word in dict.fromkeys(words):
            near = [f"'{w}'" for w in difflib.get_close_matches(word, known, n=2, cutoff=0.7)]
            hints.append(f"'{word}'" + (f" (did you mean {' or '.join(near)}?)" if near else ""))
        shown = sorted(known)[:LISTED]
        rest = f" and {len(known) - LISTED:,} more" if len(known) > LISTED else ""
        return f"This model does not know {', '.join(hints)}. Its words are: {', '.join(shown)}{rest}."


def _normalizer() -> Normalizers:
    return Normalizers([Lowercase(), Replace(Regex(r"[.,;:!?\"]+"), " ")])
