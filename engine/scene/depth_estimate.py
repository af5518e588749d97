"""A depth map of a picture by a monocular estimator: Depth Anything (2401.10891) or DPT (2103.13413), through transformers.

Shapes: S = side of the picture, in pixels.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import UserError

# The estimators whose numbers are known to mean nearness (unless they say that they are metric), by `model_type`.
KNOWN = ("depth_anything", "dpt")
METRIC = "metric"


@torch.no_grad()
def estimate_depth(folder: Path, image: Tensor) -> tuple[Tensor, bool]:
    """Depth map [S, S] in [0, 1] of `image` [S, S, 3] in [0, 1], and whether bright is near.

    Args:
        folder: model in transformers' layout with safetensors; nothing outside it is read, no code in it is run.
    Raises: UserError, code "model", if it is no such model or cannot be loaded.
    """
    from transformers import AutoModelForDepthEstimation

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        pixels = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        if config["model_type"] not in KNOWN:
            raise ValueError(f"its kind is {config['model_type']}, not one of {', '.join(KNOWN)}")
        size, mean, std = pixels["size"], pixels["image_mean"], pixels["image_std"]
        loaded = AutoModelForDepthEstimation.from_pretrained(str(folder), use_safetensors=True, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The depth model in {folder} cannot be loaded: {reason.rstrip('.')}.",
            "Give --reference.depth-model a folder of Depth Anything or DPT with .safetensors, or leave it out.",
            "model",
        ) from error
    model = loaded.eval().to(image.device)
    nchw = F.interpolate(image.permute(2, 0, 1)[None], (size["height"], size["width"]), mode="bicubic", antialias=True).clamp(0, 1)
    centered = (nchw - nchw.new_tensor(mean).view(3, 1, 1)) / nchw.new_tensor(std).view(3, 1, 1)
    found: Tensor = model(centered).predicted_depth[None].float()  # [1, 1, h, w]
    found = F.interpolate(found, image.shape[:2], mode="bilinear", align_corners=False)[0, 0]
    low, high = found.amin(), found.amax()
    return (found - low) / (high - low).clamp(min=torch.finfo(found.dtype).tiny), config.get("depth_estimation_type") != METRIC
