"""Decoding with shared prefixes and caches, against running everything again for each token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from family_checks import sharpened
from scipy import stats

from retrodict.dynamics.generate import sample_actions, sample_images, write_actions
from retrodict.dynamics.likelihood import score
from retrodict.dynamics.sampling import uniforms
from retrodict.dynamics.sequences import build
from retrodict.dynamics.speculative import decode_speculative
from retrodict.dynamics.stepwise import StepDecoder, decode_stepwise
from retrodict.models.registry import tiny_family
from retrodict.models.small.family import SmallFamily
from retrodict.models.token_family import IntArray, TokenFamily, TokenSequence
from retrodict.sampling import MOST_CANDIDATES, Sampling

ACTIONS = ["remove the red ball", "put the red cone on top of the green box", "push the blue box to the left"]
SOURCES = np.random.default_rng(0).integers(0, 12, (3, 9))


@torch.no_grad()
def last_hidden(family: SmallFamily, sequence: TokenSequence, length: int) -> torch.Tensor:
    """The hidden state at the end of the first `length` tokens, computed from nothing but them."""
    inputs = {name: torch.from_numpy(value[None, :length]) for name, value in family.features(sequence).items()}
    hidden: torch.Tensor = family.hidden(torch.from_numpy(sequence.ids_T[None, :length]), **inputs)
    return hidden[0, -1]


def slow_greedy(family: SmallFamily, source_L: IntArray, action: str) -> list[int]:
    target_L = np.zeros(family.spec.tokens, dtype=np.int64)
    for i in range(family.spec.tokens):
        sequence = build(family, "forward", source_L=source_L, target_L=target_L, action=action)
        assert sequence.segments.target is not None
        hidden = last_hidden(family, sequence, sequence.segments.target[0] + i)
        target_L[i] = int(family.image_logits(hidden).argmax())
    return list(target_L)


def test_greedy_images_are_those_of_full_forward_passes(family: SmallFamily) -> None:
    codes_PNL, logprobs_PN = sample_images(family, SOURCES, ACTIONS, 1, 0, Sampling(0))
    assert codes_PNL[:, 0].tolist() == [slow_greedy(family, s, a) for s, a in zip(SOURCES, ACTIONS, strict=True)]
    assert len(np.unique(codes_PNL)) > 1
    rows = zip(SOURCES, codes_PNL[:, 0], ACTIONS, strict=True)
    scored = score(family, [build(family, "forward", source_L=s, target_L=t, action=a) for s, t, a in rows])
    assert logprobs_PN[:, 0] == pytest.approx([found.sum for found in scored], abs=1e-4)


def test_actions_are_those_of_full_forward_passes(family: SmallFamily) -> None:
    targets = np.random.default_rng(1).integers(0, 12, (3, 9))
    prefixes = [build(family, "inverse", source_L=s, target_L=t) for s, t in zip(SOURCES, targets, strict=True)]
    written = write_actions(family, prefixes, max_tokens=5)
    assert len({found.action for found in written}) > 1
    for prefix, found in zip(prefixes, written, strict=True):
        ids, total = list(prefix.ids_T), 0.0
        while len(ids) < len(prefix.ids_T) + 5 and ids[-1] != family.eos:
            features = {name: np.pad(v, (0, len(ids) - len(v))) for name, v in family.features(prefix).items()}
            inputs = {name: torch.from_numpy(value[None]) for name, value in features.items()}
            with torch.no_grad():
                hidden = family.hidden(torch.tensor([ids]), **inputs)[0, -1]
                logprob, best = family.text_logits(hidden).log_softmax(-1).max(-1)
            ids.append(int(best))
            total += float(logprob)
        assert found.action == family.text([i for i in ids[len(prefix.ids_T) :] if i != family.eos])
        assert found.logprob.sum == pytest.approx(total, abs=1e-4)
        assert found.logprob.count == len(ids) - len(prefix.ids_T)


def test_sampled_actions_depend_on_seed_prompt_and_index_alone(family: SmallFamily) -> None:
    targets = np.random.default_rng(1).integers(0, 12, (3, 9))
    prefixes = [build(family, "inverse", source_L=s, target_L=t) for s, t in zip(SOURCES, targets, strict=True)]
    cold = sample_actions(family, prefixes, 2, 0, temperature=1e-4, max_tokens=5)
    greedy = write_actions(family, prefixes, max_tokens=5)
    assert [[e.action for e in row] for row in cold] == [[e.action] * 2 for e in greedy]
    assert cold[0][1].logprob.sum == pytest.approx(greedy[0].logprob.sum, abs=1e-4)
    warm = sample_actions(family, prefixes, 6, 3, temperature=1.5, max_tokens=5)
    assert len({e.action for row in warm for e in row}) > 6
    for i in range(3):
        alone = sample_actions(family, prefixes[i : i + 1], 2, 3, temperature=1.5, max_tokens=5)[0]
        assert [e.action for e in alone] == [e.action for e in warm[i][:2]]


def test_a_candidate_depends_on_seed_prompt_and_index_alone(family: SmallFamily) -> None:
    eight, logprobs = sample_images(family, SOURCES, ACTIONS, 8, seed=4)
    for i in range(3):
        alone, alone_logprobs = sample_images(family, SOURCES[i : i + 1], ACTIONS[i : i + 1], 3, seed=4)
        assert alone[0].tolist() == eight[i, :3].tolist()
        assert alone_logprobs[0] == pytest.approx(logprobs[i, :3], abs=1e-4)
    backwards, _ = sample_images(family, SOURCES[::-1].copy(), ACTIONS[::-1], 8, seed=4, at_once=8)
    assert backwards[::-1].tolist() == eight.tolist()
    other, _ = sample_images(family, SOURCES, ACTIONS, 8, seed=5)
    assert other.tolist() != eight.tolist()
    assert all(len(np.unique(pool, axis=0)) > 1 for pool in eight)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_are_those_of_the_softmax(family: SmallFamily, temperature: float) -> None:
    draws = MOST_CANDIDATES
    codes_PNL, _ = sample_images(family, SOURCES[:1], ACTIONS[:1], draws, 0, Sampling(temperature))
    sequence = build(family, "forward", source_L=SOURCES[0], target_L=SOURCES[0], action=ACTIONS[0])
    assert sequence.segments.target is not None
    logits = family.image_logits(last_hidden(family, sequence, sequence.segments.target[0])).double()
    expected = draws * (logits / temperature).softmax(-1).detach().numpy()
    seen = np.bincount(codes_PNL[0, :, 0], minlength=12)
    usual = expected >= 5  # the rest together, as the test is asymptotic
    observed, hoped = np.append(seen[usual], seen[~usual].sum()), np.append(expected[usual], expected[~usual].sum())
    kept = hoped > 0
    assert kept.sum() > 3
    assert stats.chisquare(observed[kept], hoped[kept]).pvalue > 0.001


def test_nothing_but_image_tokens_is_sampled(family: SmallFamily) -> None:
    with torch.no_grad():
        family.module.head[: family.spec.first_id] *= 100  # words that would win any sample that they took part in
    codes_PNL, _ = sample_images(family, SOURCES, ACTIONS, 4, seed=0)
    assert codes_PNL.shape == (3, 4, 9)
    assert codes_PNL.min() >= 0
    assert codes_PNL.max() < family.spec.codebook


@pytest.mark.parametrize(
    ("n", "sampling", "message"),
    [
        (0, {}, "n must be"),
        (10**9, {}, "n is 1,000,000,000, and 1,024 at most"),
        (1, {"temperature": -1.0}, "must not be negative"),
        (1, {"top_p": 0.0}, "top_p must be"),
        (1, {"top_k": -1}, "top_k must be"),
        (1, {"guidance": 2.0}, "classifier-free guidance is unavailable"),
    ],
)
def test_senseless_settings(family: SmallFamily, n: int, sampling: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_images(family, SOURCES, ACTIONS, n, 0, Sampling(**sampling))


def generated(family: TokenFamily, source_L: IntArray, action: str) -> list[int]:
    """The greedy image of `transformers.generate`, held to the block's schedule."""
    spec = family.spec
    prefix_T = build(family, "forward", source_L=source_L, action=action).ids_T

    def allowed(batch: int, ids_T: torch.Tensor) -> list[int]:
        forced = int(spec.schedule[len(ids_T) - len(prefix_T)])
        return [forced] if forced >= 0 else list(range(spec.first_id, spec.first_id + spec.codebook))

    model: Any = family.module
    ids_1T = torch.from_numpy(prefix_T)[None]
    length = len(spec.schedule)
    made_1T = model.generate(
        ids_1T,
        attention_mask=torch.ones_like(ids_1T),
        do_sample=False,
        max_new_tokens=length,
        min_new_tokens=length,
        prefix_allowed_tokens_fn=allowed,
    )
    codes: list[int] = spec.codes(made_1T[0, len(prefix_T) :].numpy()).tolist()
    return codes


@pytest.fixture(params=["small", "chameleon", "liquid", "emu3", "janus"])
def any_family(request: pytest.FixtureRequest, family: SmallFamily) -> TokenFamily:
    if request.param == "small":
        return family
    torch.manual_seed(0)
    return sharpened(tiny_family(request.param)(ACTIONS))


@pytest.mark.parametrize("widths", [(1,), (1, 5, 16)])
@pytest.mark.parametrize("guided", [False, True])
def test_steps_and_drafts_give_the_same(any_family: TokenFamily, guided: bool, widths: tuple[int, ...]) -> None:
    """Steps of fixed shape, as a GPU replays them, against drafts of any length."""
    family, sampling = any_family, Sampling(0.8, top_p=0.95, top_k=9, guidance=1.5 if guided else None)
    sources_PL = np.random.default_rng(0).integers(0, family.spec.codebook, (3, family.spec.tokens))
    rows = zip(sources_PL, ACTIONS, strict=True)
    sequences = [build(family, "forward", source_L=s, target_L=s, action=a) for s, a in rows]
    if guided and family.name == "small":
        pytest.skip("the small family cannot be guided")
    draws = [uniforms(0, i, sequence, family.spec.tokens) for sequence in sequences for i in range(4)]
    uniforms_CL = torch.from_numpy(np.stack(draws))
    with torch.inference_mode():
        drafted_CL, drafted_C = decode_speculative(family, sequences, uniforms_CL, sampling)
        stepped_CL, stepped_C = decode_stepwise(family, sequences, uniforms_CL, sampling, 8, widths)
    assert stepped_CL.tolist() == drafted_CL.tolist()
    assert stepped_C.tolist() == pytest.approx(drafted_C.tolist(), rel=2e-5, abs=1e-3)
    assert len(drafted_CL.unique(dim=0)) > 6


def test_drafts_that_hold_save_passes_and_others_cost_few(any_family: TokenFamily) -> None:
    """A draft that is the answer but for one token, and one of which nothing holds."""
    family, widths, sampling = any_family, (1, 5, 16), Sampling(0)
    tokens = family.spec.tokens
    source_L = np.random.default_rng(0).integers(0, family.spec.codebook, tokens)

    def decoded(draft_L: IntArray, widths: tuple[int, ...]) -> tuple[list[int], int]:
        sequence = build(family, "forward", source_L=source_L, target_L=draft_L, action=ACTIONS[0])
        decoder = StepDecoder(family, [sequence], 1, None, sampling, widths)
        with torch.inference_mode():
            codes_CL, _ = decoder.run()
        return codes_CL[0].tolist(), decoder.passes

    block = len(family.spec.schedule)
    answer, passes = decoded(source_L, (1,))
    assert passes == block
    near_L = np.array(answer)
    near_L[tokens // 2] = (near_L[tokens // 2] + 1) % family.spec.codebook
    codes, passes = decoded(near_L, widths)
    assert codes == answer and passes < block / 3, "behind the wrong token the draft is what the model made of it"
    wrong_L = (np.array(answer) + 1) % family.spec.codebook
    codes, passes = decoded(wrong_L, widths)
    assert codes == answer and passes <= block


@pytest.mark.parametrize("name", ["liquid", "emu3"])
def test_greedy_images_are_those_of_generate(name: str) -> None:
    """The library's own loop. (It blocks Chameleon's image tokens, and has another loop for Janus' images.)"""
    torch.manual_seed(0)
    family = sharpened(tiny_family(name)(ACTIONS))
    sources_PL = np.random.default_rng(1).integers(0, family.spec.codebook, (2, family.spec.tokens))
    codes_PNL, _ = sample_images(family, sources_PL, ACTIONS[:2], 1, 0, Sampling(0))
    assert codes_PNL[:, 0].tolist() == [generated(family, s, a) for s, a in zip(sources_PL, ACTIONS, strict=False)]
