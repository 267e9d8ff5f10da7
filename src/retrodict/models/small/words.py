"""The small family's text side: whole lower-case words over bytes, from the `tokenizers` library.

A word that the labels hold is one token. Any other is spelled: the longest known beginning, then bytes (`pillows` after
`pillow` is `pillow` + `s`). So every sentence has a tokenization, and only one. Scripts that put no spaces between
words are told by their characters.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import NFC, Lowercase, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as PreTokenizers

SPECIALS = ("<pad>", "<bos>", "<eos>", "<boi>", "<eoi>", "<unk>")
SPACE = "\u0120"  # how bytes are written as letters: the space before every word
# Thai to Khmer, kana, Han: what is written without spaces.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")


class Words:
    """An open vocabulary. Ids 0-5 are `SPECIALS`, then come the known words, then what spells others."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._specials = [f" {name}" for name in SPECIALS]  # which no text holds
        self.first_byte = len(self) - len(ByteLevel.alphabet())
        ids = [tokenizer.token_to_id(name) for name in (*self._specials, SPACE)]
        if ids[:-1] != list(range(len(SPECIALS))) or ids[-1] is None:
            raise ValueError("it holds no bytes, as of a model of an earlier version: train that anew")
        self.pad, self.bos, self.eos, self.boi, self.eoi, self.unknown = range(len(SPECIALS))

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Words:
        """The vocabulary of all words in `texts`, in alphabetical order, so that it depends on their set alone."""
        normalizer = Normalizers(
            [NFC(), Lowercase(), Replace(Regex(r'"|[.,;:!?]+(?![0-9])'), " ")]  # 2.5 and 1,000 stay whole
        )
        words = {word for text in texts for word in normalizer.normalize_str(text).split()}
        whole = sorted(word for word in words if not _UNSPACED.search(word))
        characters = sorted({character for word in words for character in word if not character.isascii()})
        splitter = PreTokenizers([WhitespaceSplit(), ByteLevel(add_prefix_space=True, use_regex=False)])
        tokens = [
            *(f" {name}" for name in SPECIALS),
            *(_as_bytes(word) for word in whole),
            *(_as_bytes(character).removeprefix(SPACE) for character in characters),
            *sorted(ByteLevel.alphabet()),
        ]
        vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
        model = WordPiece(
            vocabulary, unk_token=" <unk>", continuing_subword_prefix="", max_input_chars_per_word=1_000_000
        )
        tokenizer = Tokenizer(model)
        tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, splitter, ByteDecoder()
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path) -> Words:
        """Raises `ValueError` when the file is missing, damaged or of an earlier version."""
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises nothing more precise
            raise ValueError(f"{path} cannot be read: {error}") from None

    def save(self, path: Path) -> None:
        self._tokenizer.save(str(path))

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens and bytes that are no text."""
        tokens = [self._tokenizer.id_to_token(i) for i in ids]
        kept = [token for token in tokens if token is not None and token not in self._specials]
        text: str = self._tokenizer.decoder.decode(kept)
        return " ".join(text.replace("\ufffd", "").split())

    def unfamiliar(self, text: str) -> list[str]:
        """The words of a text that no label of the training held, quoted, each with the nearest that one did."""
        words = dict.fromkeys(self._tokenizer.normalizer.normalize_str(text).split())
        unknown = [word for word in words if not self._is_known(word)]
        if not unknown:
            return []
        known, hints = self._known(), []
        for word in unknown:
            near = [f"'{w}'" for w in difflib.get_close_matches(word, known, n=2, cutoff=0.7)]
            hints.append(f"'{word}'" + (f" (did you mean {' or '.join(near)}?)" if near else ""))
        return hints

    def _known(self) -> list[str]:
        starts = (token for token in self._tokenizer.get_vocab() if token.startswith(SPACE) and token != SPACE)
        return [self._tokenizer.decoder.decode([token]).strip() for token in starts]

    def _is_known(self, word: str) -> bool:
        tokens: list[str] = self._tokenizer.encode(word, add_special_tokens=False).tokens
        return len(tokens) == 1 or (tokens[0] == SPACE and all(len(token) > 1 for token in tokens[1:]))


def _as_bytes(text: str) -> str:
    """A word as the pre-tokenizer hands it on: a space before it, and each of its bytes as a letter."""
    ((token, _),) = ByteLevel(add_prefix_space=True, use_regex=False).pre_tokenize_str(text)
    return str(token)
