"""The image tokenizer of Chameleon, Anole and Liquid: a VQGAN (Esser et al. 2021), named as in taming-transformers.

Always float32: in bfloat16 some 8 % of the tokens come out different. The modules carry the names of the published
checkpoints, so that weights load without a table of names. `vqgan_files.py` finds and reads those checkpoints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from retrodict.models.hf import exact_float32
from retrodict.models.token_family import Codes, IntArray

BARS = (122, 116, 104)


@dataclass(frozen=True)
class VQGANConfig:
    """Sizes, by the names of `ddconfig` in a published yaml, and how images become square; the defaults are those of
    the released tokenizer."""

    size: int = 512  # pixels a side of the images that are tokenized
    resolution: int = 512  # what `attn_resolutions` count from
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = ()
    in_channels: int = 3
    out_ch: int = 3
    z_channels: int = 256
    embed_dim: int = 256
    n_embed: int = 8192

    fit: Literal["crop", "pad"] = "crop"  # what makes an image square: its middle, or bars (`square_pixels`)

    @property
    def stride(self) -> int:
        """Pixels a side of one token."""
        return int(2 ** (len(self.ch_mult) - 1))

    @property
    def grid(self) -> tuple[int, int]:
        return self.size // self.stride, self.size // self.stride


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)  # not `F.silu`: its last bit differs, and pixels are truncated


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class _ResnetBlock(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inside), nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2, self.conv2 = _norm(outside), nn.Conv2d(outside, outside, 3, padding=1)
        if inside != outside:
            self.nin_shortcut = nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(_swish(self.norm1(x)))
        h = self.conv2(_swish(self.norm2(h)))
        out: Tensor = (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h
        return out


class _AttnBlock(nn.Module):
    """Attention of one head over all positions of the grid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x_NDHW: Tensor) -> Tensor:
        h = self.norm(x_NDHW)
        q_NDL, k_NDL, v_NDL = (part(h).flatten(2) for part in (self.q, self.k, self.v))
        weights_NLL = (torch.bmm(q_NDL.transpose(1, 2), k_NDL) * x_NDHW.shape[1] ** -0.5).softmax(-1)
        out_NDHW = torch.bmm(v_NDL, weights_NLL.transpose(1, 2)).unflatten(2, x_NDHW.shape[2:])
        residual: Tensor = self.proj_out(out_NDHW)
        return x_NDHW + residual


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))  # padded on the right and below only
        return halved


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        wider: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return wider


class _Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1 = _ResnetBlock(channels, channels), _AttnBlock(channels)
        self.block_2 = _ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class _Level(nn.Module):
    """Blocks of one resolution, then a change of resolution unless it is the last level."""

    def __init__(self, inside: int, outside: int, blocks: int, attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(_ResnetBlock(inside if i == 0 else outside, outside) for i in range(blocks))
        self.attn = nn.ModuleList(_AttnBlock(outside) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        for resample in ("downsample", "upsample"):
            if hasattr(self, resample):
                x = getattr(self, resample)(x)
        return x


class _Encoder(nn.Module):
    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = nn.Conv2d(config.in_channels, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        for i, (inside, outside) in enumerate(zip([config.ch, *widths], widths, strict=False)):
            attention = config.resolution // 2**i in config.attn_resolutions
            level = _Level(inside, outside, config.num_res_blocks, attention)
            if i + 1 < len(widths):
                level.downsample = _Downsample(outside)
            self.down.append(level)
        self.mid = _Middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        out: Tensor = self.conv_out(_swish(self.norm_out(self.mid(h))))
        return out


class _Decoder(nn.Module):
    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1])
        self.up = nn.ModuleList()
        for i, (inside, outside) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True)):
            attention = config.resolution // 2**i in config.attn_resolutions
            level = _Level(inside, outside, config.num_res_blocks + 1, attention)
            if i > 0:
                level.upsample = _Upsample(outside)
            self.up.append(level)
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        out: Tensor = self.conv_out(_swish(self.norm_out(h)))
        return out


class _Quantizer(nn.Module):
    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.n_embed, config.embed_dim)

    def forward(self, z_PD: Tensor) -> Tensor:
        """Nearest codes, [P]. The square is expanded as the authors do, so that near ties fall as they do there."""
        codebook_KD = self.embedding.weight
        squares_PK = (z_PD**2).sum(1, keepdim=True) + (codebook_KD**2).sum(1)
        return (squares_PK - 2 * torch.einsum("pd,dk->pk", z_PD, codebook_KD.t())).argmin(1)


class VQGAN(nn.Module):
    """Images to tokens and back. Pixels are in [-1, 1], shape [N, 3, height, width]; any multiple of the stride."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quantize = _Quantizer(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)

    def features(self, pixels_N3HW: Tensor) -> Tensor:
        """What is quantised, [N, D, rows, columns]: `quant_conv` of the encoder's output, in the codebook's space."""
        features_NDHW: Tensor = self.quant_conv(self.encoder(pixels_N3HW))
        return features_NDHW

    def quantise(self, features_NDHW: Tensor) -> Tensor:
        """Codes [N, rows, columns]."""
        flat_PD = features_NDHW.permute(0, 2, 3, 1).flatten(0, 2)
        codes_P: Tensor = self.quantize(flat_PD)
        return codes_P.view(len(features_NDHW), *features_NDHW.shape[2:])

    def reconstruct(self, codes_NHW: Tensor) -> Tensor:
        """Pixels of codes [N, rows, columns], not clamped."""
        latents_NDHW = self.quantize.embedding(codes_NHW).permute(0, 3, 1, 2).contiguous()
        pixels_N3HW: Tensor = self.decoder(self.post_quant_conv(latents_NDHW))
        return pixels_N3HW

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image], batch: int = 8) -> Codes:
        """Tokenize images of any size: they become a square of `config.size` pixels by `square_pixels`."""
        tokens, width = self.config.grid[0] * self.config.grid[1], self.config.embed_dim
        codes = [np.zeros((0, tokens), dtype=np.int64)]
        features = [np.zeros((0, tokens, width), dtype=np.float32)]
        device = self.quant_conv.weight.device
        for start in range(0, len(images), batch):
            chunk = [square_pixels(image, self.config.size, self.config.fit) for image in images[start : start + batch]]
            with exact_float32(device):
                features_NDHW = self.features(torch.stack(chunk).to(device))
                codes.append(self.quantise(features_NDHW).flatten(1).cpu().numpy())
            features.append(features_NDHW.flatten(2).transpose(1, 2).cpu().numpy())
        return Codes(np.concatenate(codes), np.concatenate(features))

    @torch.inference_mode()
    def decode(self, codes_NL: IntArray, batch: int = 8) -> list[Image.Image]:
        images: list[Image.Image] = []
        device = self.quant_conv.weight.device
        for start in range(0, len(codes_NL), batch):
            codes_NHW = torch.as_tensor(codes_NL[start : start + batch], device=device).unflatten(1, self.config.grid)
            with exact_float32(device):
                images += to_images(self.reconstruct(codes_NHW))
        return images

    def padding(self) -> VQGAN:
        """The same, for images that get bars in place of being cropped."""
        self.config = replace(self.config, fit="pad")
        return self

    def fingerprint(self) -> str:
        """Names this tokenizer: two with the same name give the same tokens to the same image."""
        settings = asdict(self.config)
        if self.config.fit == "crop":
            del settings["fit"]  # older than this setting: what was tokenized keeps its name
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(memoryview(value.cpu().contiguous().numpy()).cast("B"))
        return "vqgan-" + digest.hexdigest()[:12]


def square_pixels(image: Image.Image, size: int, fit: Literal["crop", "pad"] = "crop") -> Tensor:
    """[3, size, size] in [-1, 1].

    `crop` is how Chameleon's authors prepare images: transparency on white, the shorter side resized to `size`
    (Lanczos, the other side rounded), the middle cropped. `pad` is how SWIRL's (arXiv 2602.06130) prepare Liquid's:
    bars in the mean colour of photographs, then the whole resized (Lanczos).
    """
    image = _on_white(image)
    if fit == "pad" and image.width != image.height:
        side = max(image.size)
        square = Image.new("RGB", (side, side), BARS)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    scale = size / min(image.size)
    if image.size != (size, size):
        image = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.LANCZOS)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    values_HW3 = np.asarray(image) / 255.0 * 2 - 1  # in float64, then rounded once
    return torch.from_numpy(values_HW3).permute(2, 0, 1).float()


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    rgba = np.asarray(image.convert("RGBA"))
    if (rgba[..., 3] == 255).all():
        return image.convert("RGB")
    alpha = rgba[..., 3:] / 255.0
    return Image.fromarray(((1 - alpha) * 255 + alpha * rgba[..., :3]).astype(np.uint8))


def to_images(pixels_N3HW: Tensor) -> list[Image.Image]:
    """Images of pixels in [-1, 1], truncated to whole numbers as the authors do (not rounded)."""
    values = ((pixels_N3HW.clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8)
    return [Image.fromarray(value) for value in values.permute(0, 2, 3, 1).cpu().numpy()]
