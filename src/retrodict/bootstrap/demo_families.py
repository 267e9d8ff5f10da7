"""What the demo's models start from: the small family, learnt from nothing; or a tiny model of a large family.

The second has random weights and a few thousand parameters. It shows that every stage of the loop works with that
family, in minutes and without a download; what it predicts means nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from retrodict.bootstrap.demo_context import Context, Settings
from retrodict.models.protocol import TokenFamily

PLUMBING = Settings(labelled=24, test=12, videos=4, actions=4, top_k=8, steps=16, batch=8, candidates=2)
NOTE = "Tiny model with random weights: this run shows that all parts fit together, and its numbers mean nothing."


def starting_point(context: Context, *, use_change_mask: bool) -> Callable[[], TokenFamily]:
    """What makes a model to train. `use_change_mask` is the small family's; others have no such input."""
    from retrodict.loading import load_family
    from retrodict.models.small.family import SmallFamily
    from retrodict.models.small.image_tokenizer import ImageTokenizer
    from retrodict.models.small.words import Words
    from retrodict.worlds import tabletop

    if context.family is not None:
        return lambda: load_family(context.dir("base"))
    images = ImageTokenizer.load(context.dir("image_tokenizer"))
    words = Words.from_texts(tabletop.vocabulary())
    return lambda: SmallFamily.new(images, words, use_change_mask=use_change_mask)


def make_base(context: Context) -> str:
    """Write the model that all others start from, as one would download it."""
    import torch

    from retrodict.files import write_json
    from retrodict.models.registry import CARD, tiny_family
    from retrodict.worlds import tabletop

    assert context.family is not None
    torch.manual_seed(context.seed)
    base = context.dir("base")
    tiny_family(context.family)(tabletop.vocabulary()).save(base)
    write_json(base / CARD, {"family": context.family})
    return f"a tiny {context.family} with random weights"
