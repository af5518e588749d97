"""A ControlNet for a tiny model, from the real classes; see tests/tiny_sd.py."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel


def build_control_net(root: Path, model: Path) -> Path:
    """For the tiny model, with weights that do something: a new ControlNet's last layers are zeros."""
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    net.save_pretrained(root, safe_serialization=True)
    return root
