"""Pictures as CLIP's image encoders want them. The numbers come from the model's own preprocessor_config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ClipPixels:
    """What CLIPImageProcessor does to a square picture: resize, then subtract `mean` and divide by `std`."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def load(path: Path) -> ClipPixels:
        """From preprocessor_config.json. Raises OSError, ValueError or KeyError."""
        body = json.loads(path.read_text(encoding="utf-8"))
        crop = body["crop_size"]
        return ClipPixels(int(crop["height"] if isinstance(crop, dict) else crop), tuple(body["image_mean"]), tuple(body["image_std"]))

    def __call__(self, images: Tensor) -> Tensor:
        """[R, S, S, 3] in [0, 1] to [R, 3, size, size]."""
        small = F.interpolate(images.permute(0, 3, 1, 2), (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (small - mean) / std
