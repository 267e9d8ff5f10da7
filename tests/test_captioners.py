"""Models that only read images, as inverse models: tiny random ones, against running everything again by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_checks import ACTIONS, noise_images
from tokenizers import Tokenizer
from transformers import (
    BatchFeature,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from retrodict.bootstrap.annotate import annotate
from retrodict.dynamics.verify import InverseLikelihood, predict
from retrodict.images import encode_png
from retrodict.loading import load
from retrodict.models.checkpoint import no_bars
from retrodict.models.editors import CopyModel
from retrodict.models.tiny import tiny_tokenizer
from retrodict.models.vlm import Captioner, VisionLanguageModel
from retrodict.transitions import FramePair

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}


def words(special: list[str], **named: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(tiny_tokenizer(special, special, ACTIONS))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def sharpened(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.ndim == 2 else 1)
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(4)  # so that attention is not even, and positions matter
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SmolVLM's predecessor, Idefics3, whose processor needs nothing that is not installed here."""
    special = ["<pad>", "<s>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"]
    tokenizer = words(special, bos_token="<s>", eos_token="<end_of_utterance>", pad_token="<pad>")
    template = (
        "<s>{% for m in messages %}User:{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
        "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    images = Idefics3ImageProcessorPil(size={"longest_edge": 16}, max_image_size={"longest_edge": 16})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    config = Idefics3Config(
        vision_config={"image_size": 16, "patch_size": 4, "num_hidden_layers": 2, **SMALL},
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            **SMALL,
        },
        scale_factor=2,
        image_token_id=3,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    found = tmp_path_factory.mktemp("idefics3")
    torch.manual_seed(0)
    with no_bars():
        sharpened(Idefics3ForConditionalGeneration(config)).save_pretrained(found)
    processor.save_pretrained(found)
    return found


class QwenProcessor:
    """What Qwen2.5-VL's processor does; the library's needs torchvision for videos. The image processor is its own."""

    TEXT = "<|im_start|>user\n{}{}<|im_end|>\n<|im_start|>assistant\n"

    def __init__(self) -> None:
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
        self.tokenizer = words(special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
        self.image_processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=64, max_pixels=256)

    def apply_chat_template(self, messages: list[Any], tokenize: bool = False, **options: Any) -> Any:
        if not tokenize:
            return self.TEXT
        images = [part["image"] for (m,) in messages for part in m["content"] if part["type"] == "image"]
        prepared = self.image_processor(images, return_tensors="pt")
        counts = iter((prepared["image_grid_thw"].prod(1) // 4).tolist())
        texts = []
        for (message,) in messages:
            seen = ["<|vision_start|>" + "<|image_pad|>" * next(counts) + "<|vision_end|>" for _ in range(2)]
            texts.append(self.TEXT.format("".join(seen), message["content"][2]["text"]))
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == 5).int()
        return BatchFeature({**inputs, **prepared})


@pytest.fixture
def qwen() -> Captioner:
    processor = QwenProcessor()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = {"depth": 2, "out_hidden_size": 32, "num_heads": 2, "patch_size": 4, "window_size": 16}
    vision |= {"hidden_size": 32, "intermediate_size": 32, "spatial_merge_size": 2}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rope_parameters": rope,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
            **SMALL,
        },
        vision_config={**vision, "fullatt_block_indexes": [1]},
        image_token_id=5,
        video_token_id=len(processor.tokenizer) - 1,
        vision_start_token_id=3,
        vision_end_token_id=4,
    )
    torch.manual_seed(0)
    model = sharpened(Qwen2_5_VLForConditionalGeneration(config))
    model.generation_config.eos_token_id = [2, 0]
    return Captioner(VisionLanguageModel(processor, model), max_tokens=6)


@pytest.fixture
def idefics(folder: Path) -> Captioner:
    return Captioner.load(folder, max_tokens=6)


PAIRS = [(a, b) for a, b in zip(noise_images(3, 16, 0), noise_images(3, 24, 1), strict=True)]


@torch.inference_mode()
def logprobs_after(captioner: Captioner, pair: Any, answer: list[int]) -> torch.Tensor:
    """Log-probabilities of all tokens after a question and the beginning of an answer, run alone and whole."""
    inputs = dict(captioner.ask([pair]))
    asked = inputs["input_ids"].shape
    tail = torch.tensor([answer], dtype=torch.long)
    for name, value in inputs.items():
        if value.shape == asked and answer:
            filled = {"input_ids": tail, "attention_mask": torch.ones_like(tail)}.get(name, torch.zeros_like(tail))
            inputs[name] = torch.cat([value, filled], 1)
    found: torch.Tensor = captioner.vlm.model(**inputs).logits[0, -1].float().log_softmax(-1)
    return found


@pytest.mark.parametrize("name", ["idefics", "qwen"])
def test_scores_and_actions_are_those_of_full_forward_passes(name: str, request: pytest.FixtureRequest) -> None:
    captioner: Captioner = request.getfixturevalue(name)
    tokenizer, end = captioner.vlm.tokenizer, captioner.vlm.tokenizer.eos_token_id
    lead = {"idefics": " ", "qwen": ""}[name]
    together = captioner.score(PAIRS, ACTIONS)
    for pair, action, found in zip(PAIRS, ACTIONS, together, strict=True):
        answer = [*tokenizer(lead + action, add_special_tokens=False).input_ids, end]
        slow = sum(float(logprobs_after(captioner, pair, answer[:i])[token]) for i, token in enumerate(answer))
        assert found.sum == pytest.approx(slow, abs=2e-3)
        assert found.count == len(answer)
        assert captioner.score([pair], [action])[0].sum == pytest.approx(found.sum, abs=2e-3)
    assert len({round(found.sum, 2) for found in together}) == 3
    for pair, explained in zip(PAIRS, captioner.explain(PAIRS), strict=True):
        ids: list[int] = []
        total = 0.0
        while len(ids) < 6 and end not in ids:
            logprobs = logprobs_after(captioner, pair, ids)
            chosen = logprobs.clone()
            chosen[[i for i in tokenizer.all_special_ids if i not in captioner._ends]] = -torch.inf
            ids.append(int(chosen.argmax()))
            total += float(logprobs[ids[-1]])
        assert explained.action == " ".join(tokenizer.decode(ids, skip_special_tokens=True).split())
        assert explained.logprob.sum == pytest.approx(total, abs=2e-3)
        assert explained.prompt == "chat-inverse-1"


def test_positions_of_images_reach_the_model(qwen: Captioner) -> None:
    """Qwen-VL without the row that says which tokens are images gives other scores, and no error."""
    (right,) = qwen.score(PAIRS[:1], ACTIONS[:1])
    processor: Any = qwen.vlm.processor
    ask = processor.apply_chat_template

    def forgetful(*args: Any, **options: Any) -> Any:
        inputs = ask(*args, **options)
        del inputs["mm_token_type_ids"]
        return inputs

    processor.apply_chat_template = forgetful
    (wrong,) = qwen.score(PAIRS[:1], ACTIONS[:1])
    assert abs(right.sum - wrong.sum) > 1e-2


def test_a_folder_is_an_inverse_model(folder: Path) -> None:
    model = load(folder, "inverse")
    rows = [
        FramePair(id=str(i), source=encode_png(source), target=encode_png(target))
        for i, (source, target) in enumerate(PAIRS)
    ]
    assert all(np.isfinite(row.logprob) for row in annotate(model, rows, "tiny"))
    found = predict(CopyModel(), InverseLikelihood(model), PAIRS[0][0], ACTIONS[0], n=2, seed=0)
    assert np.isfinite(found.scores).all()
    with pytest.raises(ValueError, match="writes no images: it only explains"):
        load(folder, "forward")
    with pytest.raises(ValueError, match="action is empty"):
        model.score(PAIRS[:1], [" "])


def test_unreadable_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match="cannot be loaded as a vision-language model"):
        load(tmp_path, "inverse")
