"""Generation: candidate images, N for each prompt as one batch, and actions in words, greedily or sampled.

A candidate's random numbers depend on the seed, its index and its prompt alone: the same seed gives the same candidate
whatever N, batch composition or order. Image tokens are sampled from the image rows of the head only.

Shape suffixes: P prompts, N candidates of a prompt, R rows (P x N), L tokens of one image, V text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from retrodict.dynamics.kv_cache import KVCache, PaddedBatch, device_of, tokens_per_pass
from retrodict.dynamics.sampling import sample_token, uniforms
from retrodict.dynamics.sequences import build
from retrodict.dynamics.speculative import decode_speculative
from retrodict.dynamics.stepwise import decode_stepwise
from retrodict.errors import check_count
from retrodict.models.protocol import Explanation, LogProb
from retrodict.models.token_family import FloatArray, IntArray, TokenFamily, TokenSequence
from retrodict.sampling import MOST_CANDIDATES, Sampling


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
        ValueError: `n` is below 1 or above 1,024, or an action cannot be expressed.
        SamplingError: the family cannot be sampled so.
    """
    check_count("n", n, MOST_CANDIDATES)
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
    return [written[0] for written in _written(family, sequences, 1, None, 0.0, max_tokens, at_once)]


@torch.inference_mode()
def sample_actions(
    family: TokenFamily,
    sequences: Sequence[TokenSequence],
    n: int,
    seed: int,
    temperature: float,
    max_tokens: int = 24,
    at_once: int | None = None,
) -> list[list[Explanation]]:
    """`n` sampled actions for each inverse prefix, equal ones too, with their log-probabilities at temperature 1."""
    return _written(family, sequences, n, seed, temperature, max_tokens, at_once)


def _written(
    family: TokenFamily,
    sequences: Sequence[TokenSequence],
    n: int,
    seed: int | None,
    temperature: float,
    max_tokens: int,
    at_once: int | None,
) -> list[list[Explanation]]:
    """`n` actions of each prefix; without a seed the likeliest tokens."""
    first: dict[bytes, int] = {}
    same_as = [first.setdefault(sequence.ids_T.tobytes(), i) for i, sequence in enumerate(sequences)]
    order = sorted(first.values(), key=lambda i: len(sequences[i].ids_T))
    written: dict[int, list[Explanation]] = {}
    while order:
        length = len(sequences[order[0]].ids_T)
        size = max(1, (at_once or tokens_per_pass(device_of(family))) // length)
        chunk, order = order[:size], order[size:]
        some = [sequences[i] for i in chunk]
        numbers_RS = None
        if seed is not None:
            numbers = [uniforms(seed, i, sequence, max_tokens) for sequence in some for i in range(n)]
            numbers_RS = torch.from_numpy(np.stack(numbers))
        explained = _write(family, some, n, numbers_RS, temperature, max_tokens)
        written.update({i: explained[row * n : (row + 1) * n] for row, i in enumerate(chunk)})
    return [written[i] for i in same_as]


def _write(
    family: TokenFamily,
    sequences: Sequence[TokenSequence],
    n: int,
    numbers_RS: Tensor | None,
    temperature: float,
    max_tokens: int,
) -> list[Explanation]:
    """The actions of a batch, `n` rows for each sequence; random numbers [rows, tokens], None for greedy ones."""
    batch = PaddedBatch(family, sequences, room=max_tokens)
    device = batch.device
    length_P = torch.tensor([len(s.ids_T) for s in sequences], device=device)
    longest = int(length_P.max())
    cache = KVCache(family, longest + max_tokens)
    inputs = {name: value_PT[:, :longest] for name, value_PT in batch.inputs.items()}
    hidden_RD = cache.prefill(batch.ids_RT[:, :longest], inputs, length_P[:, None] - 1)[:, 0]
    prompt_R = torch.arange(len(sequences), device=device).repeat_interleave(n)
    if n > 1:
        cache, hidden_RD = cache.fork(prompt_R), hidden_RD[prompt_R]
    row_R = torch.arange(len(prompt_R), device=device)  # those that are not finished
    logprob_R = torch.zeros(len(prompt_R), device=device)
    tokens: list[list[int]] = [[] for _ in prompt_R]
    for step in range(max_tokens):
        logprobs_RV = family.text_logits(hidden_RD).float().log_softmax(-1)
        token_R = logprobs_RV.argmax(-1)
        if numbers_RS is not None:
            token_R = sample_token((logprobs_RV / temperature).softmax(-1), numbers_RS.to(device)[row_R, step])
        logprob_R[row_R] += logprobs_RV.gather(-1, token_R[:, None])[:, 0]
        for row, token in zip(row_R.tolist(), token_R.tolist(), strict=True):
            tokens[row].append(token)
        open_R = (token_R != family.eos).nonzero()[:, 0]
        if step + 1 == max_tokens or not len(open_R):
            break
        if len(open_R) < len(row_R):
            row_R, token_R = row_R[open_R], token_R[open_R]
            cache = cache.fork(open_R)
        position_R1 = length_P[prompt_R[row_R]][:, None] + step
        inputs = batch.inputs_at(prompt_R[row_R], position_R1)
        hidden_R1D = cache.extend(token_R[:, None], inputs, position_R1, torch.ones_like(position_R1).bool())
        hidden_RD = hidden_R1D[:, 0]
    explanations = []
    for prompt, ids, logprob in zip(prompt_R.tolist(), tokens, logprob_R.tolist(), strict=True):
        words = [token for token in ids if token != family.eos]
        explanations.append(Explanation(family.text(words), LogProb(logprob, len(ids)), sequences[prompt].prompt))
    return explanations
