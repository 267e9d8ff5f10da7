"""Log-probability of a completion under a token family: the scorer behind annotation, verification and probing.

Scores are sums over the completion's tokens, with the count beside them; they do not depend on padding, batch size or
order. Image tokens are scored among image codes only, text tokens among text tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from retrodict.models.protocol import Direction, LogProb, TokenFamily, TokenSequence
from retrodict.training.batches import collate, example, supervised_logits, token_nll


@torch.inference_mode()
def score(family: TokenFamily, sequences: Sequence[TokenSequence], batch: int = 128) -> list[LogProb]:
    """log p(completion | prefix) of each sequence, all of one direction."""
    # Candidates of one prompt are often equal: each sequence is scored once.
    first: dict[bytes, int] = {}
    same_as = [first.setdefault(sequence.ids_T.tobytes(), i) for i, sequence in enumerate(sequences)]
    # Sequences of like length share a batch, so that little is padded.
    order = sorted(first.values(), key=lambda i: len(sequences[i].ids_T))
    found: dict[int, LogProb] = {}
    for start in range(0, len(order), batch):
        indices = order[start : start + batch]
        found.update(zip(indices, _score_batch(family, [sequences[i] for i in indices]), strict=True))
    return [found[i] for i in same_as]


def _score_batch(family: TokenFamily, sequences: Sequence[TokenSequence]) -> list[LogProb]:
    direction: Direction = sequences[0].direction
    assert all(s.direction == direction for s in sequences), "one direction a call"
    examples = [example(family, s) for s in sequences]
    device = next(family.module.parameters()).device
    tensors = {name: value.to(device) for name, value in collate(examples, family.pad).items()}
    nll_BS = token_nll(supervised_logits(family, direction, tensors), tensors["labels"])
    sums = (-nll_BS.sum(1)).tolist()
    return [LogProb(total, len(e.labels_S)) for total, e in zip(sums, examples, strict=True)]
