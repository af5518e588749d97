"""A normal map of a picture by Marigold (2312.02145; the weights for normals), through diffusers.

Its normals stand as ours do: x to the right, y up, z towards the camera. Shapes: S = side of the picture, in pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import UserError
from engine.guidance.loading import dtype_for, loading_errors, weights_of

PIPELINE = "MarigoldNormalsPipeline"
# Where the folder does not say; its picture's own size then.
STEPS = 4


@torch.no_grad()
def estimate_normals(folder: Path, image: Tensor) -> Tensor:
    """Normal map [S, S, 3] in [0, 1], (n + 1) / 2, of `image` [S, S, 3] in [0, 1]. The same for the same picture.

    Args:
        folder: model in diffusers' layout with safetensors; nothing outside it is read, no code in it is run.
    Raises: UserError, code "model", if it is no such model or cannot be loaded.
    """
    try:
        with loading_errors(folder):
            pipeline, settings = _load(folder, image.device)
    except UserError as error:
        fix = "Give --reference.normal-model a folder of Marigold for normals with .safetensors, or leave it out."
        raise UserError(error.text.replace("The model in", "The normal model in", 1), fix, "model") from error
    pipeline.set_progress_bar_config(disable=True)
    found: Tensor = pipeline(
        image.permute(2, 0, 1)[None],
        num_inference_steps=settings.get("default_denoising_steps") or STEPS,
        processing_resolution=settings.get("default_processing_resolution") or 0,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).prediction
    return F.normalize(found[0].float(), dim=0).permute(1, 2, 0) * 0.5 + 0.5


def _load(folder: Path, device: torch.device) -> tuple[Any, dict[str, Any]]:
    """The pipeline, each part loaded by its class, and what its folder says of steps and size."""
    from diffusers import AutoencoderKL, DDIMScheduler, LCMScheduler, MarigoldNormalsPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    settings = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    if settings.get("_class_name") != PIPELINE:
        raise ValueError(f"it is a {settings.get('_class_name')}, not a {PIPELINE}")
    schedulers = {"DDIMScheduler": DDIMScheduler, "LCMScheduler": LCMScheduler}
    kind = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))["_class_name"]
    if kind not in schedulers:
        raise ValueError(f"its scheduler is a {kind}, not one of {', '.join(schedulers)}")
    dtype = dtype_for(device, None)
    parts = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    loaded = {
        name: cls.from_pretrained(str(folder / name), **weights_of(folder / name, dtype)).eval().to(device) for name, cls in parts.items()
    }
    pipeline = MarigoldNormalsPipeline(
        **loaded,
        scheduler=schedulers[kind].from_pretrained(str(folder / "scheduler"), local_files_only=True),
        tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True),
        prediction_type="normals",
        use_full_z_range=settings.get("use_full_z_range", True),
    )
    return pipeline, settings
