"""GRPO (group-relative policy optimization, arXiv 2402.03300) of a forward model, with an inverse model as the reward.

Each step samples a group of frames for each of some prompts. The reward of a frame is log p(action | source, frame)
under an inverse model that does not change; its advantage is how many standard deviations that lies above the group's
mean; and the log-probability of its image tokens is raised or lowered by that. A KL penalty holds the model to the one
it started as. A step takes one gradient from samples of its own, so no ratio of probabilities needs clipping.

Shape suffixes: P prompts, N samples of each, R samples, L image tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from retrodict.dynamics.batches import Example, collate, example, supervised_logits, token_nll
from retrodict.dynamics.kv_cache import device_of
from retrodict.dynamics.sequences import build
from retrodict.dynamics.unified import UnifiedModel
from retrodict.dynamics.verify import Pool, inverse_logprobs
from retrodict.files import JsonObject, write_lines
from retrodict.models.protocol import InverseModel
from retrodict.models.token_family import FloatArray, TokenFamily
from retrodict.progress import Progress
from retrodict.sampling import Sampling
from retrodict.training.config import GrpoConfig
from retrodict.training.lora import freeze_embeddings

SPREAD = 0.1  # nats: a smaller standard deviation of a group's rewards is none, or it would count as much as any other
MAX_GRAD_NORM = 1.0


class Sample(NamedTuple):
    """One of the distinct samples of a step."""

    example: Example
    advantage: float
    share: float  # of the step's samples, that it stands for


def optimize(
    policy: UnifiedModel,
    reference: UnifiedModel,
    inverse: InverseModel,
    prompts: Sequence[tuple[Image.Image, str]],
    config: GrpoConfig,
    *,
    n: int,
    temperature: float,
    seed: int,
    at_once: int,
    log: Path,
    progress: Progress,
) -> None:
    """Go through the prompts once and train `policy` in place; all of it, in float32.

    Args:
        policy: The forward model. What is trained is what is sampled: its probabilities at `temperature`.
        reference: The forward model to stay near.
        inverse: The reward.
        prompts: Source frames and actions.
        config: Prompts of a step, learning rate and KL penalty.
        n: Samples of a prompt, which are its group.
        temperature: Of sampling, above 0.
        seed: The same seed gives the same samples, and so the same model.
        at_once: Samples of a forward and backward pass; a step's gradient is that of all its samples.
        log: Gets a line for every step: `{"step", "reward", "kl", "told_apart"}`, the mean reward in nats, the share of
            the groups whose rewards differ, and the KL divergence from `reference` of their samples in nats per image
            token.
        progress: Told after each step.
    """
    family = policy.family
    family.module.float()
    freeze_embeddings(family)
    trained = [parameter for parameter in family.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    lines: list[JsonObject] = []
    for start in range(0, len(prompts), config.prompts_per_step):
        sources, actions = zip(*prompts[start : start + config.prompts_per_step], strict=True)
        candidates = policy.sample(sources, actions, n, seed, Sampling(temperature=temperature))
        pools = [Pool(*one) for one in zip(sources, actions, candidates, strict=True)]
        rewards_PN = np.array([[logprob.sum for logprob in row] for row in inverse_logprobs(inverse, pools)])
        samples = list(_samples(policy, pools, advantages(rewards_PN)))
        kl = 0.0
        for at in range(0, len(samples), at_once):
            kl += _backward(family, reference.family, samples[at : at + at_once], temperature, config.kl)
        if samples:
            torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad()
        told_apart = float((rewards_PN.std(1) >= SPREAD).mean())
        step = {"step": len(lines) + 1, "reward": float(rewards_PN.mean()), "kl": kl, "told_apart": told_apart}
        lines.append(step)
        progress.advance(start + len(pools), len(prompts))
    write_lines(log, lines)


def advantages(rewards_PN: FloatArray) -> FloatArray:
    """How many standard deviations each reward lies above its group's mean [P, N]; 0 where a group's are all equal."""
    spread_P1 = rewards_PN.std(1, keepdims=True)
    differ_P1 = spread_P1 >= SPREAD
    centred_PN = rewards_PN - rewards_PN.mean(1, keepdims=True)
    return np.where(differ_P1, centred_PN / np.where(differ_P1, spread_P1, 1), 0)


def policy_loss(logprob_RL: Tensor, advantage_R: Tensor, share_R: Tensor, divergence_RL: Tensor, kl: float) -> Tensor:
    """The loss of a step, or the part of some of its samples: -advantage * log p + kl * divergence, a mean over image
    tokens, summed over samples by their share."""
    loss_RL = kl * divergence_RL - advantage_R[:, None] * logprob_RL
    return (share_R * loss_RL.mean(1)).sum()


def divergence(logprob_RL: Tensor, reference_RL: Tensor) -> Tensor:
    """KL divergence from the reference by its samples, token by token: r - 1 - log r, where r is the reference's
    probability over the model's. It is never negative, and right on average (Schulman 2020, "k3")."""
    log_ratio_RL = reference_RL - logprob_RL
    return log_ratio_RL.exp() - 1 - log_ratio_RL


def _samples(policy: UnifiedModel, pools: Sequence[Pool], advantages_PN: FloatArray) -> Iterator[Sample]:
    """The distinct samples of the groups whose rewards differ; others teach nothing."""
    family = policy.family
    sources_PL = policy.codes([pool.source for pool in pools])
    for pool, source_L, advantages_N in zip(pools, sources_PL, advantages_PN, strict=True):
        if not advantages_N.any():
            continue
        targets_NL = policy.codes(pool.candidates)
        for i, count in zip(*np.unique(targets_NL, axis=0, return_index=True, return_counts=True)[1:], strict=True):
            sequence = build(family, "forward", source_L=source_L, target_L=targets_NL[i], action=pool.action)
            yield Sample(example(family, sequence), float(advantages_N[i]), count / advantages_PN.size)


def _backward(
    family: TokenFamily, reference: TokenFamily, samples: Sequence[Sample], temperature: float, kl: float
) -> float:
    """Add the gradient of some samples; what they add to the step's KL divergence."""
    device = device_of(family)
    inputs = {name: value.to(device) for name, value in collate([s.example for s in samples], family.pad).items()}
    advantage_R, share_R = torch.tensor([[s.advantage, s.share] for s in samples], device=device).T
    with torch.no_grad():
        reference_RL = _logprobs(reference, inputs, temperature)
    logprob_RL = _logprobs(family, inputs, temperature)
    divergence_RL = divergence(logprob_RL, reference_RL)
    policy_loss(logprob_RL, advantage_R, share_R, divergence_RL, kl).backward()
    return float((share_R * divergence_RL.detach().mean(1)).sum())


def _logprobs(family: TokenFamily, inputs: dict[str, Tensor], temperature: float) -> Tensor:
    """log p of each image token of each sample [R, L], at a temperature."""
    return -token_nll(supervised_logits(family, "forward", inputs) / temperature, inputs["labels"])
