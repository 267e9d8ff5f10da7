"""Tiny vision-language models with random weights, as folders that the library writes; and a server that runs one
behind the dialects of OpenAI and vLLM, with faults."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import torch
from family_checks import ACTIONS
from loopback import JsonHandler, listening
from tokenizers import Tokenizer
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from retrodict.images import read_image
from retrodict.models.checkpoint import no_bars
from retrodict.models.tiny import tiny_tokenizer
from retrodict.models.vlm import GREEDY, Captioner

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
IDEFICS_TEMPLATE = (  # that of SmolVLM
    "<s>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


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


def llama(tokenizer: Any) -> dict[str, Any]:
    """The configuration of a language model of two layers, for the words of a tokenizer."""
    return {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **SMALL,
    }


def idefics3(folder: Path) -> Path:
    """A SmolVLM's predecessor, Idefics3, whose processor needs nothing that is not installed here."""
    special = ["<pad>", "<s>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"]
    tokenizer = words(special, bos_token="<s>", eos_token="<end_of_utterance>", pad_token="<pad>")
    images = Idefics3ImageProcessorPil(size={"longest_edge": 16}, max_image_size={"longest_edge": 16})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=IDEFICS_TEMPLATE)
    config = Idefics3Config(
        vision_config={"image_size": 16, "patch_size": 4, "num_hidden_layers": 2, **SMALL},
        text_config=llama(tokenizer),
        scale_factor=2,
        image_token_id=3,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with no_bars():
        sharpened(Idefics3ForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def smolvlm(folder: Path) -> Path:
    """SmolVLM's own processor wants num2words for videos; that of Idefics3 does the same for images."""
    idefics3(folder)
    config = SmolVLMConfig(
        **{k: v for k, v in Idefics3Config.from_pretrained(folder).to_dict().items() if k != "model_type"}
    )
    torch.manual_seed(0)
    with no_bars():
        sharpened(SmolVLMForConditionalGeneration(config)).save_pretrained(folder)
    return folder


def llava(folder: Path) -> Path:
    special = ["<unk>", "<s>", "</s>", "<image>"]
    tokenizer = words(special, bos_token="<s>", eos_token="</s>", pad_token="<unk>")
    template = (
        "<s>{% for m in messages %}{{ m['role'] | upper }}: {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
        "{% if m['role'] == 'user' %} {% else %}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    )
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "image_size": 16,
            "patch_size": 4,
            "num_hidden_layers": 2,
            **SMALL,
        },
        text_config=llama(tokenizer),
        image_token_index=3,
    )
    torch.manual_seed(0)
    with no_bars():
        sharpened(LlavaForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def qwen2_5_vl(folder: Path) -> Path:
    """As it is published: the processor's part for videos needs torchvision, which is not installed here."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    tokenizer = words(special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = {"depth": 2, "out_hidden_size": 32, "num_heads": 2, "patch_size": 4, "window_size": 16}
    vision |= {"hidden_size": 32, "intermediate_size": 32, "spatial_merge_size": 2}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
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
        video_token_id=len(tokenizer) - 1,
        vision_start_token_id=3,
        vision_end_token_id=4,
    )
    torch.manual_seed(0)
    model = sharpened(Qwen2_5_VLForConditionalGeneration(config))
    model.generation_config.eos_token_id = [2, 0]
    with no_bars():
        model.save_pretrained(folder)
    Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=64, max_pixels=256).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "preprocessor_config.json"
    published = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    file.write_text(json.dumps(json.loads(file.read_text()) | published))
    return folder


FAULTS = ("429", "500", "cut", "no likelihood", "another model")


class Served:
    """A model behind `/v1/chat/completions`, as vLLM or OpenAI answers; every fifth attempt meets a fault.

    Attributes:
        paid: How often each question was answered in full, by the model, with what was asked for.
        faults: How often each fault was met.
    """

    def __init__(self, model: Captioner, name: str, *, vllm: bool = True, share: float = 0.0) -> None:
        self.model, self.name, self.vllm, self.share = model, name, vllm, share
        self.paid: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def servers(self, count: int) -> Iterator[str]:
        """The addresses of several servers, with commas between them."""
        if not count:
            yield ""
            return
        handler = type("Handler", (_Handler,), {"served": self})
        with listening(handler) as url, self.servers(count - 1) as others:
            yield ",".join(filter(None, (f"{url}/v1", others)))

    def fault(self, raw: bytes) -> str:
        question = hashlib.sha256(raw).hexdigest()
        with self._lock:
            self._attempts[question] += 1
            chance = hashlib.sha256(f"{question} {self._attempts[question]}".encode()).digest()
        return FAULTS[chance[1] % len(FAULTS)] if chance[0] < 256 * self.share else ""

    def count(self, raw: bytes, fault: str, asks: str) -> None:
        with self._lock:
            self.faults.update([fault] if fault else [])
            if not fault or (fault == "no likelihood" and asks != "score"):  # the words of an answer are of use alone
                self.paid[hashlib.sha256(raw).hexdigest()] += 1

    @torch.inference_mode()
    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        vlm, messages = self.model.vlm, [_message(m) for m in body["messages"]]
        with self._lock:
            inputs = vlm.processor.apply_chat_template(
                [messages],
                add_generation_prompt=body.get("add_generation_prompt", True),
                continue_final_message=body.get("continue_final_message", False),
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
            special = sorted({*vlm.tokenizer.all_special_ids} - vlm.ends)
            (written,) = vlm.generate(inputs, body["max_tokens"], suppress_tokens=special, **GREEDY)
            answer = vlm.until_end(written)
            logprobs = [vlm.score(inputs, [answer[: i + 1]])[0].sum for i in range(len(answer))]
            choice: dict[str, Any] = {
                "index": 0,
                "finish_reason": "stop" if answer[-1] in vlm.ends else "length",
            }
            choice["message"] = {"role": "assistant", "content": vlm.texts([answer])[0]}
            if body.get("logprobs"):
                each = [logprob - before for logprob, before in zip(logprobs, [0.0, *logprobs], strict=False)]
                pieces = list(zip(vlm.tokenizer.batch_decode([[token] for token in answer]), each, strict=True))
                pieces = pieces if self.vllm or answer[-1] not in vlm.ends else pieces[:-1]
                choice["logprobs"] = {"content": [{"token": token, "logprob": value} for token, value in pieces]}
            asked = inputs["input_ids"].shape[1]
            found = {"id": "x", "object": "chat.completion", "model": self.name, "choices": [choice]}
            found["usage"] = {
                "prompt_tokens": asked,
                "completion_tokens": len(answer),
                "total_tokens": asked + len(answer),
            }
            if body.get("prompt_logprobs") is not None:
                ids = inputs["input_ids"][0]
                values = vlm.model(**inputs).logits[0, :-1].float().log_softmax(-1).gather(1, ids[1:, None])[:, 0]
                rows = zip(ids[1:].tolist(), values.tolist(), strict=True)
                found["prompt_logprobs"] = [None, *({str(i): {"logprob": v, "rank": 1}} for i, v in rows)]
            return found


class _Handler(JsonHandler, BaseHTTPRequestHandler):
    served: Served

    def do_POST(self) -> None:
        raw, served = self.rfile.read(int(self.headers["Content-Length"])), self.served
        body = json.loads(raw)
        asks = "score" if "prompt_logprobs" in body else "answer"
        unknown = {"prompt_logprobs", "add_generation_prompt", "continue_final_message", "repetition_penalty"}
        if not served.vllm and (names := sorted(unknown & body.keys())):
            return self.send(400, {"error": {"message": f"Unrecognized request argument supplied: {names[0]}"}})
        fault = served.fault(raw)
        if fault == "429":
            served.count(raw, fault, asks)
            return self.send(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"})
        if fault == "500":
            served.count(raw, fault, asks)
            return self.send(500, {"error": {"message": "out of luck"}})
        found = served.complete(body)
        if fault == "cut":
            served.count(raw, fault, asks)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return None
        if fault == "no likelihood":
            found.pop("prompt_logprobs", None)
            found["choices"][0].pop("logprobs", None)
        if fault == "another model":
            found["model"] = "somebody-else"
        served.count(raw, fault, asks)
        return self.send(200, found)


def _message(message: dict[str, Any]) -> dict[str, Any]:
    content: str | Sequence[dict[str, Any]] = message["content"]
    if isinstance(content, str):
        return {"role": message["role"], "content": [{"type": "text", "text": content}]}
    parts: list[dict[str, Any]] = []
    for part in content:
        if part["type"] == "text":
            parts.append(part)
        else:
            data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            parts.append({"type": "image", "image": read_image(data)})
    return {"role": message["role"], "content": parts}
