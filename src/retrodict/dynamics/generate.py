"""Generation: candidate images, N for each prompt as one batch, and actions in words, greedily.

A candidate's random numbers depend on the seed, its index and its prompt alone: the same seed gives the same candidate
whatever N, batch composition or order. Image tokens are sampled from the image rows of the head only.

Shape suffixes: P prompts, N candidates of a prompt, L tokens of one image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from retrodict.dynamics.kv_cache import KVCache, PaddedBatch, device_of, tokens_per_pass
from retrodict.dynamics.sampling import uniforms
from retrodict.dynamics.sequences import build
from retrodict.dynamics.speculative import decode_speculative
from retrodict.dynamics.stepwise import decode_stepwise
from retrodict.models.protocol import Explanation, FloatArray, IntArray, LogProb, TokenFamily, TokenSequence
from retrodict.sampling import Sampling


@torch.inference_mode()
def sample_images(
    family: TokenFamily,
    sources_PL: IntArray,
    actions: Sequence[str],
    n: int,
    seed: int,
    sampling: Sampling = Sampling(),
    at_once: int | None = None,
) -> tuple[IntArray, FloatArray]:
    """Sample `n` next frames for each (source, action). Which of the two decoders runs is a matter of speed alone.

    Args:
        family: the model.
        sources_PL: image tokens of the source frames.
        actions: one action per source, in words.
        n: candidates of each prompt.
        seed: the same seed gives the same candidates.
        sampling: how tokens are sampled.
        at_once: tokens of one forward pass, at most; not for CUDA.

    Returns:
        Image tokens [P, N, L], and their log-probabilities [P, N] at temperature 1, without guidance.

    Raises:
        ValueError: `n` is below 1, or an action cannot be expressed.
        SamplingError: the family cannot be sampled so.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")
    sequences = [
        build(family, "forward", source_L=source_L, action=action, target_L=source_L)
        for source_L, action in zip(sources_PL, actions, strict=True)
    ]
    tokens = family.spec.tokens
    sampled, uniforms_CL = 1, None  # greedy candidates are all equal
    if sampling.temperature > 0:
        sampled = n
        numbers = [uniforms(seed, i, sequence, tokens) for sequence in sequences for i in range(n)]
        uniforms_CL = torch.from_numpy(np.stack(numbers)) if numbers else torch.zeros(0, tokens)
    if device_of(family).type == "cuda":
        codes_CL, logprob_C = decode_stepwise(family, sequences, uniforms_CL, sampling)
    else:
        codes_CL, logprob_C = decode_speculative(family, sequences, uniforms_CL, sampling, at_once)
    codes_PNL = codes_CL.cpu().numpy().reshape(len(sequences), sampled, tokens)
    logprobs_PN = logprob_C.cpu().numpy().reshape(len(sequences), sampled)
    return codes_PNL.repeat(n // sampled, 1), logprobs_PN.repeat(n // sampled, 1)


@torch.inference_mode()
def write_actions(
    family: TokenFamily, sequences: Sequence[TokenSequence], max_tokens: int = 24, at_once: int | None = None
) -> list[Explanation]:
    """Greedy actions for inverse prefixes (sequences built without their action), with their log-probabilities.

    Equal prefixes are decoded once. `at_once` bounds the tokens of one forward pass.
    """
    first: dict[bytes, int] = {}
    same_as = [first.setdefault(sequence.ids_T.tobytes(), i) for i, sequence in enumerate(sequences)]
    order = sorted(first.values(), key=lambda i: len(sequences[i].ids_T))
    written: dict[int, Explanation] = {}
    while order:
        length = len(sequences[order[0]].ids_T)
        size = max(1, (at_once or tokens_per_pass(device_of(family))) // length)
        chunk, order = order[:size], order[size:]
        written.update(zip(chunk, _write(family, [sequences[i] for i in chunk], max_tokens), strict=True))
    return [written[i] for i in same_as]


def _write(family: TokenFamily, sequences: Sequence[TokenSequence], max_tokens: int) -> list[Explanation]:
    batch = PaddedBatch(family, sequences, room=max_tokens)
    device = batch.device
    length_P = torch.tensor([len(s.ids_T) for s in sequences], device=device)
    longest = int(length_P.max())
    cache = KVCache(family, longest + max_tokens)
    inputs = {name: value_PT[:, :longest] for name, value_PT in batch.inputs.items()}
    hidden_PD = cache.prefill(batch.ids_RT[:, :longest], inputs, length_P[:, None] - 1)[:, 0]
    row_P = torch.arange(len(sequences), device=device)  # of those that are not finished
    logprob_P = torch.zeros(len(sequences), device=device)
    tokens: list[list[int]] = [[] for _ in sequences]
    for step in range(max_tokens):
        best_P, token_P = family.text_logits(hidden_PD).float().log_softmax(-1).max(-1)
        logprob_P[row_P] += best_P
        for row, token in zip(row_P.tolist(), token_P.tolist(), strict=True):
            tokens[row].append(token)
        open_P = (token_P != family.eos).nonzero()[:, 0]
        if step + 1 == max_tokens or not len(open_P):
            break
        if len(open_P) < len(row_P):
            row_P, token_P = row_P[open_P], token_P[open_P]
            cache = cache.fork(open_P)
        position_P1 = length_P[row_P][:, None] + step
        hidden_P1D = cache.extend(
            token_P[:, None], batch.inputs_at(row_P, position_P1), position_P1, torch.ones_like(position_P1).bool()
        )
        hidden_PD = hidden_P1D[:, 0]
    explanations = []
    for sequence, ids, logprob in zip(sequences, tokens, logprob_P.tolist(), strict=True):
        words = [token for token in ids if token != family.eos]
        explanations.append(Explanation(family.text(words), LogProb(logprob, len(ids)), sequence.prompt))
    return explanations
