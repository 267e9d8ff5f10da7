"""Log-probabilities: against numbers from a table, and the same however sequences are batched."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodict.dynamics.batches import example
from retrodict.dynamics.likelihood import score
from retrodict.dynamics.sequences import build
from retrodict.models.small.family import SmallFamily
from retrodict.models.token_family import ImageSpec, TokenSequence, take

ACTIONS = ("remove the red ball", "push the blue box to the left", "put the red cone on top of the green box")


class Bigram:
    """A family whose next token depends on the last one alone: ids 0-5 special, 6 and 7 words, 8 to 10 codes."""

    bos, eos, pad = 1, 2, 0
    spec = ImageSpec(size=1, grid=(1, 2), codebook=3, first_id=8, opening=(3,), closing=(4,))
    prompts: ClassVar[dict[str, str]] = {"forward": "plain-forward-1", "inverse": "plain-inverse-1"}

    def __init__(self) -> None:
        self.table = torch.from_numpy(np.random.default_rng(0).normal(size=(11, 11)))
        self.module = torch.nn.Linear(1, 1)

    def text_ids(self, text: str) -> list[int]:
        return [{"a": 6, "b": 7}[word] for word in text.split()]

    template_ids = text_ids

    def features(self, sequence: TokenSequence) -> dict[str, Any]:
        return {}

    def hidden(self, ids_BT: torch.Tensor, at_BS: torch.Tensor | None = None, **inputs: Any) -> torch.Tensor:
        return take(torch.nn.functional.one_hot(ids_BT, 11).double(), at_BS)

    def text_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return (hidden @ self.table)[..., :8]

    def image_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return (hidden @ self.table)[..., 8:]


def log_softmax(row: Any, index: int) -> float:
    values = [math.exp(v) for v in row]
    return math.log(values[index] / sum(values))


def test_rows_with_an_end() -> None:
    """What ends each row of an image is the same in every one: it is fed, but neither supervised nor scored."""
    family: Any = Bigram()
    family.spec = ImageSpec(size=1, grid=(2, 1), codebook=3, first_id=8, opening=(3,), closing=(4,), row_end=(5,))
    made = build(family, "forward", source_L=np.array([0, 2]), action="a", target_L=np.array([1, 0]))
    assert made.ids_T.tolist() == [1, 3, 8, 5, 10, 5, 4, 6, 3, 9, 5, 8, 5, 4]
    supervised = example(family, made)
    assert supervised.positions_S.tolist() == [8, 10]
    assert supervised.ids_T.tolist() == made.ids_T[:11].tolist()  # nothing is predicted from what follows
    assert supervised.labels_S.tolist() == [1, 0]
    assert family.spec.codes(family.spec.block(np.array([2, 1]))).tolist() == [2, 1]


def test_by_hand() -> None:
    family: Any = Bigram()
    table = family.table.tolist()
    codes = {"source_L": np.array([0, 2]), "target_L": np.array([1, 1])}
    (action,) = score(family, [build(family, "inverse", action="a b", **codes)])
    # After the image's end (4) come a (6), b (7) and the end (2), each among the words.
    expected = log_softmax(table[4][:8], 6) + log_softmax(table[6][:8], 7) + log_softmax(table[7][:8], 2)
    assert (action.sum, action.count) == (pytest.approx(expected, abs=1e-5), 3)
    (image,) = score(family, [build(family, "forward", action="a b", **codes)])
    # After the image's beginning (3) come code 1 (9) and code 1 again, each among the codes.
    expected = log_softmax(table[3][8:], 1) + log_softmax(table[9][8:], 1)
    assert (image.sum, image.count) == (pytest.approx(expected, abs=1e-5), 2)
    assert image.mean == pytest.approx(expected / 2, abs=1e-5)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(1, 5), st.sampled_from(["forward", "inverse"]))
def test_scores_do_not_depend_on_padding_batch_or_order(
    make_family: Callable[[], SmallFamily], picks: list[int], batch: int, direction: Any
) -> None:
    family = make_family()
    rng = np.random.default_rng(0)
    known = [
        build(family, direction, source_L=s, target_L=t, action=ACTIONS[i % 3])
        for i, (s, t) in enumerate(rng.integers(0, 12, (6, 2, 9)))
    ]
    alone = [score(family, [sequence])[0] for sequence in known]
    together = score(family, [known[i] for i in picks], at_once=30 * batch)
    assert [found.count for found in together] == [alone[i].count for i in picks]
    assert [found.sum for found in together] == pytest.approx([alone[i].sum for i in picks], abs=1e-4)


def test_what_sequences_share_is_read_once(family: SmallFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four targets of one source with three actions each: 12 sequences of one source image and four target ones."""
    family.use_change_mask = False  # else the source is read with an eye on the target
    source_L, *targets = np.random.default_rng(0).integers(0, 12, (5, 9))
    texts = (*ACTIONS, "remove the blue box")
    together = [build(family, "inverse", source_L=source_L, target_L=t, action=a) for t in targets for a in texts]
    alone = [score(family, [sequence])[0] for sequence in together]
    read: list[int] = []
    hidden = family.hidden

    def counted(ids_BT: torch.Tensor, **inputs: Any) -> Any:
        read.append(ids_BT.numel())
        return hidden(ids_BT, **inputs)

    monkeypatch.setattr(family, "hidden", counted)
    found = score(family, together)
    assert [f.sum for f in found] == pytest.approx([f.sum for f in alone], abs=1e-4)
    assert len(read) == 3  # the source; the targets; the actions
    assert sum(read) < sum(len(sequence.ids_T) for sequence in together) / 2
    few_at_once = score(family, together, at_once=20)
    assert [f.sum for f in few_at_once] == pytest.approx([f.sum for f in alone], abs=1e-4)
