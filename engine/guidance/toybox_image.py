"""Toybox from a picture: a Zero123 on Toybox's own U-Net and autoencoder, put together in memory when it is loaded.

Its folder is Zero123's without vae and scheduler, which are Toybox's; and of the U-Net it holds what differs from Toybox's:

    LAYER.lora_A.weight, LAYER.lora_B.weight    a low-rank change of that layer, as in a LoRA file (`engine.guidance.lora`)
    NAME                                        what takes the place of Toybox's: the input layer, norms, biases

`unet/config.json` names the model that it is added to ("base"). Matrices are stored as whole numbers of 8 bits, with a scale beside
them (NAME.scale) for each row, or each column where there are fewer: half the size of fp16, and as good.

Shapes: C channels of the latents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.guidance.loading import dtype_for, loading_errors, weights_of  # isort: skip - before diffusers, see there

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from engine.guidance.clip_pixels import ClipPixels
from engine.guidance.families import DIFFUSERS_STEM, TRANSFORMERS_STEM
from engine.guidance.lora import changes_of, merge_changes
from engine.guidance.model_table import find_model, model_folder
from engine.guidance.zero123 import Zero123, load_projection

UNET_CLASS = "UNet2DConditionModelChange"
UNET_FILE = f"unet/{DIFFUSERS_STEM}.safetensors"
ENCODER_FILE = f"image_encoder/{TRANSFORMERS_STEM}.safetensors"
SCALE = ".scale"
LOW_RANK = ".lora_"
LARGEST = 127


class ToyboxImage(Zero123):
    """Once loaded, a Zero123 like any other."""

    @staticmethod
    def load(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Zero123:
        """Raises: UserError, code "model", if a file is missing, damaged or made for another Toybox."""
        dtype = dtype_for(device, dtype)
        with loading_errors(root):
            base = model_folder(find_model(json.loads((root / "unet" / "config.json").read_text(encoding="utf-8"))["base"]))
        with loading_errors(base):
            plain = UNet2DConditionModel.from_pretrained(base, subfolder="unet", **weights_of(base / "unet", torch.float32))
            vae = AutoencoderKL.from_pretrained(base, subfolder="vae", **weights_of(base / "vae", dtype))
            scheduler = DDIMScheduler.from_pretrained(base, subfolder="scheduler", local_files_only=True)
        with loading_errors(root):
            unet = widened(plain)
            change_unet(unet, unpack(load_file(root / UNET_FILE)), root / UNET_FILE)
            encoder = image_encoder(json.loads((root / "image_encoder" / "config.json").read_text(encoding="utf-8")))
            encoder.load_state_dict(unpack(load_file(root / ENCODER_FILE)))
            projection = load_projection(root / "clip_camera_projection")
            pixels = ClipPixels.load(root / "feature_extractor" / "preprocessor_config.json")
        unet, encoder = unet.to(dtype=dtype), encoder.to(dtype=dtype)
        return ToyboxImage(unet, vae, encoder, projection, scheduler, pixels, is_stable=False, device=device, dtype=dtype)


@torch.no_grad()
def widened(unet: Any) -> Any:
    """A U-Net of the same weights that takes the latents of a picture beside the noisy ones, [B, 2 C, h, w]; still blind to them."""
    settings = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    wide = type(unet)(**{**settings, "in_channels": 2 * unet.config.in_channels})
    state = unet.state_dict()
    state["conv_in.weight"] = torch.cat([state["conv_in.weight"], torch.zeros_like(state["conv_in.weight"])], dim=1)
    wide.load_state_dict(state)
    return wide.eval()


@torch.no_grad()
def change_unet(unet: Any, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put what was trained into a widened U-Net; `path` is named in errors. Raises UserError, RuntimeError or ValueError."""
    low_rank = {f"unet.{name}": value for name, value in tensors.items() if LOW_RANK in name}
    replaced = {name: value for name, value in tensors.items() if LOW_RANK not in name}
    unknown = unet.load_state_dict(replaced, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"its U-Net has no {unknown[0]}")
    merge_changes({"unet": unet}, changes_of(low_rank, path), path)


def image_encoder(settings: Mapping[str, Any]) -> Any:
    """CLIP's vision transformer with random weights, at the size that `settings` say."""
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**settings)).eval()


def pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 with their scales, float16; vectors as float16."""
    packed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if value.ndim < 2:
            packed[name] = value.half().contiguous()
            continue
        kept = 0 if len(value) <= value[0].numel() else 1
        others = [dim for dim in range(value.ndim) if dim != kept]
        scale = (value.float().abs().amax(dim=others, keepdim=True) / LARGEST).clamp_min(1e-6).half()  # rounding knows what is stored
        whole = (value.float() / scale.float()).round().clamp(-LARGEST, LARGEST)
        packed[name], packed[name + SCALE] = whole.to(dtype=torch.int8).contiguous(), scale.contiguous()
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `pack`, float32. Raises KeyError if a matrix has no scale."""
    return {
        name: value.float() * packed[name + SCALE].float() if value.dtype == torch.int8 else value.float()
        for name, value in packed.items()
        if not name.endswith(SCALE)
    }
