"""How near decoding comes to the memory bandwidth, at the sizes of Chameleon-7B and Liquid-8B.

    python benchmarks/gpu/decode.py                       # needs a GPU with 40 GB; random bf16 weights, no download
    python benchmarks/gpu/decode.py --tiny --device cpu   # that everything runs

For each family: milliseconds per step and tokens per second for 1 and 8 candidates and for 8 with guidance; the floor,
which is what a step must read (weights, keys and values) at the bandwidth that a copy reaches in the same run; one
image with a draft that holds and with one that does not, against a token at a time; pairs labelled a second; and
best-of-8 with its scores against one unverified sample. Text embeddings are smaller than the released ones: no step
reads them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retrodict.dynamics.generate import sample_images, write_actions
from retrodict.dynamics.likelihood import score
from retrodict.dynamics.sampling import uniforms
from retrodict.dynamics.sequences import build
from retrodict.dynamics.stepwise import WIDTHS, StepDecoder, decode_stepwise
from retrodict.files import write_json
from retrodict.models.tiny import tiny_chameleon, tiny_liquid, tiny_vqgan
from retrodict.models.token_family import TokenFamily
from retrodict.models.vqgan import VQGAN, VQGANConfig
from retrodict.sampling import Sampling
from retrodict.versions import versions

ACTION = "push the red ball to the left"
SIZES: dict[str, dict[str, int]] = {
    "chameleon": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "liquid": {
        "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 16, "head_dim": 256,
    },
}  # fmt: skip
IMAGES = VQGANConfig(ch=32)  # the released grid (32 x 32) and codebook; narrow, as no image is encoded here
COPY_BYTES = 2**31


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes in float32")
    parser.add_argument("--families", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--steps", type=int, default=200, help="steps that are timed")
    parser.add_argument("--out", type=Path)
    parsed = parser.parse_args(arguments)
    device = torch.device(parsed.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --tiny --device cpu shows that everything runs.")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    reached = bandwidth(device, 2**20 if parsed.tiny else COPY_BYTES)
    results: dict[str, Any] = {"device": name, "bytes_per_second": reached}
    for family_name in parsed.families:
        family = random_family(family_name, device, tiny=parsed.tiny)
        results[family_name] = measure(family, device, reached, parsed.steps)
        print(json.dumps({family_name: results[family_name]}, indent=1), flush=True)
        del family
    if parsed.out:
        write_json(parsed.out, results | {"versions": versions()})


def random_family(name: str, device: torch.device, *, tiny: bool) -> TokenFamily:
    torch.manual_seed(0)
    images = tiny_vqgan() if tiny else VQGAN(IMAGES).requires_grad_(False).eval()
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if tiny else torch.bfloat16)
    try:
        with device:
            make = {"chameleon": tiny_chameleon, "liquid": tiny_liquid}[name]
            family: TokenFamily = make([ACTION], images=images, **({} if tiny else SIZES[name]))
    finally:
        torch.set_default_dtype(dtype)
    family.module.to(device)
    return family


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes per second that a copy reads and writes, the best of ten."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / min(_seconds(device, lambda: target.copy_(source)) for _ in range(10))


@torch.inference_mode()
def measure(family: TokenFamily, device: torch.device, bytes_per_second: float, steps: int) -> dict[str, Any]:
    source_L = np.random.default_rng(0).integers(0, family.spec.codebook, family.spec.tokens)
    ways = {"1": (1, None), "8": (8, None), "8 guided": (8, 3.0)}
    timings: dict[str, Any] = {
        label: _steps(family, device, source_L, n, guidance, bytes_per_second, steps)
        for label, (n, guidance) in ways.items()
    }

    def best_of(n: int, *, scored: bool) -> None:
        codes_1NL, _ = sample_images(family, source_L[None], [ACTION], n, 0)
        if scored:
            score(
                family, [build(family, "inverse", source_L=source_L, target_L=t, action=ACTION) for t in codes_1NL[0]]
            )

    drafts = _drafts(family, device, source_L)
    annotated = _annotated(family, device, source_L)
    best_of(8, scored=True)  # compiles
    one = min(_seconds(device, lambda: best_of(1, scored=False)) for _ in range(2))
    verified = min(_seconds(device, lambda: best_of(8, scored=True)) for _ in range(2))
    return (
        timings
        | drafts
        | annotated
        | {"one_sample_s": one, "verified_of_8_s": verified, "verified_over_one": verified / one}
    )


def _drafts(family: TokenFamily, device: torch.device, source_L: Any) -> dict[str, Any]:
    """One greedy image: a token at a time, with a draft that holds but for 1 % of its tokens, and with one of which
    nothing holds; passes and seconds of each, and how many times quicker the first two make it."""
    greedy = Sampling(temperature=0.0)

    def decode(draft_L: Any, widths: tuple[int, ...]) -> tuple[Any, int, float]:
        sequence = build(family, "forward", source_L=source_L, target_L=draft_L, action=ACTION)
        decode_stepwise(family, [sequence], None, greedy, widths=widths)  # compiles
        decoder = StepDecoder(family, [sequence], 1, None, greedy, widths)
        seconds = _seconds(device, lambda: codes.append(decoder.run()[0][0].cpu().numpy()))
        return codes.pop(), decoder.passes, seconds

    codes: list[Any] = []
    answer_L, passes, alone = decode(source_L, (1,))
    near_L = answer_L.copy()
    near_L[:: max(1, len(near_L) // max(1, len(near_L) // 100))] += 1
    near_L %= family.spec.codebook
    measured: dict[str, Any] = {"plain": {"passes": passes, "seconds": alone}}
    for name, draft_L in (("draft holds", near_L), ("nothing holds", (answer_L + 1) % family.spec.codebook)):
        codes_L, passes, seconds = decode(draft_L, WIDTHS)
        same = bool((codes_L == answer_L).all())  # in bfloat16 a near tie may fall otherwise
        measured[name] = {"passes": passes, "seconds": seconds, "times_quicker": alone / seconds, "same": same}
    return {"drafts": measured}


def _annotated(family: TokenFamily, device: torch.device, source_L: Any, pairs: int = 16) -> dict[str, float]:
    """Frame pairs a second that the inverse direction labels, image tokens given; the model says whatever it says, to
    the greatest length that is allowed."""
    targets_NL = [np.roll(source_L, i + 1) for i in range(pairs)]
    sequences = [build(family, "inverse", source_L=source_L, target_L=target_L) for target_L in targets_NL]
    write_actions(family, sequences[:1])
    return {"pairs_per_second": pairs / _seconds(device, lambda: write_actions(family, sequences))}


def _steps(
    family: TokenFamily,
    device: torch.device,
    source_L: Any,
    n: int,
    guidance: float | None,
    bytes_per_second: float,
    steps: int,
) -> dict[str, float]:
    sequence = build(family, "forward", source_L=source_L, target_L=source_L, action=ACTION)
    uniforms_NL = torch.from_numpy(np.stack([uniforms(0, i, sequence, family.spec.tokens) for i in range(n)]))
    decoder = StepDecoder(family, [sequence], n, uniforms_NL, Sampling(guidance=guidance))
    step = decoder.stepper()
    steps = min(steps, len(family.spec.schedule) - 2)
    step(1)
    seconds = _seconds(device, lambda: [step(1) for _ in range(steps)]) / steps
    branches = len(family.guidance(sequence, guidance))
    floor = (_weights(family) + n * branches * decoder.row_bytes) / bytes_per_second
    return {
        "ms_per_step": 1000 * seconds,
        "tokens_per_second": n / seconds,
        "floor_ms": 1000 * floor,
        "over_floor": seconds / floor,
    }


def _weights(family: TokenFamily) -> int:
    """Bytes of weights that a step reads: the layers, and the image rows of the head."""
    layers = [p for name, p in family.module.named_parameters() if ".layers." in name and "vq" not in name]
    width = family.module.get_parameter("lm_head.weight").shape[1]
    size = layers[0].element_size()
    return size * (sum(p.numel() for p in layers) + family.spec.codebook * width)


def _seconds(device: torch.device, run: Callable[[], object]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
