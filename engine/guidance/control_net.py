"""ControlNet (2302.05543): a copy of a U-Net's first half that reads a picture of the surface and adds what it found.

With the depth or the normals of a known mesh the model paints that mesh and no other shape. Depth as MiDaS gives it: white is near,
black is far or nothing. Normals as colors: red to the right, green up, blue towards the camera, each 0.5 + 0.5 n.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.guidance.loading import loading_errors, weights_of  # isort: skip - before diffusers, see there

import torch
from diffusers import ControlNetModel
from torch import Tensor

from engine.errors import UserError
from engine.guidance.control_folder import check_control_folder
from engine.guidance.denoiser import resize


class ControlNet:
    """A frozen ControlNet and the pictures it reads now.

    Args:
        scale: how strongly it acts; 1 as it was trained, 0 not at all.
    """

    def __init__(self, net: Any, scale: float, pixels_per_latent: int) -> None:
        self.net = net
        self._scale = scale
        self._pixels_per_latent = pixels_per_latent
        self._pictures: Tensor | None = None

    @staticmethod
    def load(root: Path, unet: Any, scale: float, pixels_per_latent: int, device: torch.device) -> ControlNet:
        """From a folder in diffusers' layout (config.json and safetensors in it), made for models like `unet`.

        Raises: UserError, code "model", if it is no such folder or was made for another family.
        """
        check_control_folder(root)
        with loading_errors(root):
            net = ControlNetModel.from_pretrained(root, **weights_of(root, unet.dtype))
        for name in ("in_channels", "cross_attention_dim", "block_out_channels", "addition_embed_type"):
            ours, wanted = (str(getattr(config, name, None)).strip("[]()") for config in (net.config, unet.config))
            if ours != wanted:
                text = f"The ControlNet in {root} was made for another model: its {name} is {ours}, the model's is {wanted}."
                raise UserError(text, "Choose one for this model's family.", "model")
        return ControlNet(net.to(device=device).eval().requires_grad_(False), scale, pixels_per_latent)

    def show(self, pictures: Tensor) -> None:
        """The pictures [B, H, W, 3] in [0, 1] of the views that are judged next, in their order."""
        self._pictures = pictures

    def residuals(self, noisy: Tensor, timesteps: Tensor, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the U-Net takes from it, for rows [k B, C, h, w] that repeat the B views k times. `inputs`: the U-Net's own.

        Raises: ValueError if nothing was shown.
        """
        if self._pictures is None:
            raise ValueError("a ControlNet needs pictures of the surface; call show() before predict()")
        height, width = (side * self._pixels_per_latent for side in noisy.shape[2:])
        pictures = resize(self._pictures, height, width).permute(0, 3, 1, 2)
        down, mid = self.net(
            noisy,
            timesteps,
            controlnet_cond=pictures.repeat(len(noisy) // len(pictures), 1, 1, 1).to(dtype=noisy.dtype, device=noisy.device),
            conditioning_scale=self._scale,
            return_dict=False,
            **inputs,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
