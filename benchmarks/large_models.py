"""The real architectures of large diffusion models, with random weights: for what they cost, where there is no network to fetch them.

Settings are the published ones, in the words of diffusers' classes; what those classes have by default is not repeated. That they are
right shows in the number of parameters, see `PARAMETERS` and the test.

Sources: unet/config.json, vae/config.json and scheduler_config.json of stable-diffusion-v1-5/stable-diffusion-v1-5 and
stabilityai/stable-diffusion-xl-base-1.0; DeepFloyd/IF-I-XL-v1.0 by diffusers' scripts/convert_if.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine.guidance.loading  # noqa: F401  # isort: skip - before diffusers, see there

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from engine.guidance.deepfloyd import DeepFloyd
from engine.guidance.denoiser import Denoiser
from engine.guidance.stable_diffusion import StableDiffusion
from engine.guidance.stable_diffusion_xl import StableDiffusionXL

N_TOKENS = 77
SD_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True)
class Architecture:
    """One model without weights.

    Attributes:
        kind: row of `engine.guidance.families.FAMILIES`.
        unet, vae, scheduler: settings for diffusers' classes; vae None for a model of pixels.
        embed_shape: (T, D) of one prompt's embedding as the family's Denoiser takes it.
        tiny_vae: settings of the tiny encoder; the published TAESD is the class's default.
    """

    kind: str
    unet: Mapping[str, Any]
    vae: Mapping[str, Any] | None
    scheduler: Mapping[str, Any]
    embed_shape: tuple[int, int]
    tiny_vae: Mapping[str, Any]


def _vae(**settings: Any) -> dict[str, Any]:
    """The encoder and decoder that Stable Diffusion 1.x, 2.x and XL share but for its weights and its scale."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, **blocks, **settings}


ARCHITECTURES: dict[str, Architecture] = {
    "sd15": Architecture(
        kind="stable-diffusion",
        unet={"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8, "cross_attention_dim": 768},
        vae=_vae(sample_size=512, scaling_factor=0.18215),
        scheduler=SD_NOISE,
        embed_shape=(N_TOKENS, 768),
        tiny_vae={},
    ),
    "sdxl": Architecture(
        kind="stable-diffusion-xl",
        unet={
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        vae=_vae(sample_size=1024, scaling_factor=0.13025, force_upcast=True),
        scheduler=SD_NOISE,
        embed_shape=(N_TOKENS + 1, 2048),  # the pooled text is the last row
        tiny_vae={},
    ),
    "if": Architecture(
        kind="deepfloyd",
        unet={
            "sample_size": 64,
            "in_channels": 3,
            "out_channels": 6,
            "block_out_channels": (704, 1408, 2112, 2816),
            "layers_per_block": 3,
            "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
            "attention_head_dim": 64,
            "cross_attention_dim": 2816,
            "cross_attention_norm": "group_norm",
            "encoder_hid_dim": 4096,
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": 64,
            "resnet_time_scale_shift": "scale_shift",
            "act_fn": "gelu",
        },
        vae=None,
        scheduler={"beta_schedule": "squaredcos_cap_v2"},
        embed_shape=(N_TOKENS, 4096),
        tiny_vae={},
    ),
}

PARAMETERS = {"sd15": 859_520_964, "sdxl": 2_567_463_684, "if": 4_304_695_110}
"""Of each U-Net, as published (IF: "4.3B" in its README)."""


def make_parts(architecture: Architecture, device: torch.device | str, dtype: torch.dtype) -> dict[str, nn.Module]:
    """U-Net and VAE, if there is one, with random weights that were never anything but `dtype`; on "meta" without any."""
    with torch.device("meta"):
        parts: dict[str, nn.Module] = {"unet": UNet2DConditionModel(**architecture.unet)}
        if architecture.vae is not None:
            parts["vae"] = AutoencoderKL(**architecture.vae)
    return {name: fill(part, device, vae_dtype(architecture, dtype) if name == "vae" else dtype) for name, part in parts.items()}


def make_tiny_vae(architecture: Architecture, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """As `make_parts`, of the tiny encoder."""
    with torch.device("meta"):
        tiny = AutoencoderTiny(**architecture.tiny_vae)
    return fill(tiny, device, dtype)


def vae_dtype(architecture: Architecture, dtype: torch.dtype) -> torch.dtype:
    """SDXL's own VAE overflows in float16 and computes in float32 then; see `StableDiffusionXL.load`."""
    return torch.float32 if dtype == torch.float16 and (architecture.vae or {}).get("force_upcast") else dtype


def fill(module: nn.Module, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """A module of shapes alone with weights on a device, frozen: matrices and kernels keep the size of what goes through them."""
    assert not list(module.buffers()), "to_empty leaves buffers undefined"
    module = nn.Module.to(module, dtype=dtype).eval().requires_grad_(False)  # diffusers' own `to` warns at length of casting
    if torch.device(device).type == "meta":
        return module
    module = module.to_empty(device=device)
    generator = torch.Generator(device=device).manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, weight[0].numel() ** -0.5, generator=generator)
            else:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
    return module


def make_denoiser(architecture: Architecture, device: torch.device | str, dtype: torch.dtype) -> Denoiser:
    """The family's own Denoiser around random weights; it embeds no text (`random_embeds` stands in)."""
    parts = make_parts(architecture, device, dtype)
    scheduler = DDIMScheduler(**architecture.scheduler)
    if architecture.kind == "deepfloyd":
        return DeepFloyd(Path(), parts["unet"], scheduler, device=device, dtype=dtype)
    unet, vae = parts["unet"], parts["vae"]
    if architecture.kind == "stable-diffusion-xl":
        nobody = (None, None)
        return StableDiffusionXL(unet, vae, nobody, nobody, scheduler, zeros_for_empty=True, device=device, dtype=dtype)
    return StableDiffusion(unet, vae, None, None, scheduler, device=device, dtype=dtype)


def random_embeds(architecture: Architecture, n_prompts: int, device: torch.device | str) -> Tensor:
    """[P, T, D] float32, standard normal: what a text encoder would give has no influence on the time."""
    return torch.randn(n_prompts, *architecture.embed_shape, generator=torch.Generator().manual_seed(1)).to(device)
