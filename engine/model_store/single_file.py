"""A single .safetensors file with all parts of a model, unpacked into a folder that the engine loads.

Such a file holds weights alone. Settings, tokenizer and scheduler come from a model of the same family that is on this machine,
so nothing is fetched and nothing is guessed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.guidance.model_records import DOWNLOADING_NAME, models_root, read_added
from engine.guidance.model_table import Model, added_model, find_model, is_installed, model_folder, models
from engine.model_store.layout import read_header
from engine.model_store.progress import Report, Step

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
CROSS_ATTENTION = UNET + "input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
FIRST_LAYER = UNET + "input_blocks.0.0.weight"


def unpack(file: Path, folder: Path, like: str, report: Report) -> Path:
    """Write the parts of `file` to `folder`, in half precision; returns it. It is there whole or not at all.

    Args:
        like: id of the model whose settings it takes; "" the first of its family in the list. The shapes of a file do not tell
            the two of Stable Diffusion 2.1 apart: its base model predicts epsilon, the one of 768 pixels v.
    Raises: UserError, code "model", if the file is no whole Stable Diffusion 1.x or 2.x model, or no model of its family is here.
    """
    if file.suffix != ".safetensors":
        raise UserError(f"{file.name} is no .safetensors file.", "Choose a .safetensors file or the folder of a model.", "model")
    n_features, n_channels = _family(file)
    base = _base(n_features, n_channels, like)
    staging = models_root() / DOWNLOADING_NAME / f"{folder.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    size = file.stat().st_size
    report(Step("unpack", 0, size, file.name))
    try:
        _convert(file, model_folder(base), staging)
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    report(Step("unpack", size, size, f"{file.name}, with the settings of {base.id}"))
    return folder


def _family(file: Path) -> tuple[int, int]:
    """Features of the text and channels of the latents that the U-Net takes, read from the shapes in the header."""
    shapes: dict[str, Any] = {name: entry.get("shape") for name, entry in read_header(file).items()}
    if any("lora_" in name or ".lora" in name for name in shapes):
        text = f"{file.name} is a LoRA: a change to a model, not a model."
        raise UserError(text, "Put it on top of the model that it was made for: --lora FILE.", "model")
    if any(name.startswith("conditioner.embedders.") for name in shapes):
        raise UserError(
            f"{file.name} is of the SDXL family, whose single files are not read.", "Add its folder in diffusers' layout instead.", "model"
        )
    missing = [
        part for part, prefix in (("U-Net", UNET), ("VAE", VAE), ("text encoder", TEXT)) if not any(n.startswith(prefix) for n in shapes)
    ]
    attention = next((shapes[name] for i in range(12) if (name := CROSS_ATTENTION.format(i)) in shapes), None)
    if missing or attention is None or FIRST_LAYER not in shapes:
        lacks = f" (it lacks the {', the '.join(missing)})" if missing else ""
        raise UserError(
            f"{file.name} is not a whole Stable Diffusion model{lacks}.", "Choose a full checkpoint, or a model's folder.", "model"
        )
    return int(attention[-1]), int(shapes[FIRST_LAYER][1])


def _base(n_features: int, n_channels: int, like: str) -> Model:
    """A model on this machine whose U-Net takes the same."""
    if like:
        if _takes(find_model(like)) != (n_features, n_channels):
            raise UserError(
                f"The file is not of the family of {like}: its shapes differ.", "Leave --like out, or name another model.", "model"
            )
        return find_model(like)
    for model in [*models().values(), *(added_model(record) for record in read_added(models_root()).values())]:
        if is_installed(model) and _takes(model) == (n_features, n_channels):
            return model
    family, example = {768: ("Stable Diffusion 1.x", "sd15"), 1024: ("Stable Diffusion 2.x", "sd21-base")}.get(n_features, ("", ""))
    if not family or n_channels != 4:
        text = f"The U-Net takes {n_features} features of text and {n_channels} channels: no family that this version knows."
        raise UserError(text, "Choose a text-to-image model of Stable Diffusion 1.x or 2.x.", "model")
    text = f"A single file brings no settings; they come from a model of its family, {family}, and none is on this machine."
    raise UserError(text, f"First run: python -m engine models download {example}", "model")


def _takes(model: Model) -> tuple[object, object]:
    config = json.loads((model_folder(model) / "unet" / "config.json").read_text(encoding="utf-8"))
    return config.get("cross_attention_dim"), config.get("in_channels")


def _convert(file: Path, base: Path, folder: Path) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DIFFUSERS_DISABLE_REMOTE_CODE="1")
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from safetensors.torch import load_file
    from transformers import CLIPTextModel

    settings: dict[str, Any] = {"config": str(base), "local_files_only": True, "torch_dtype": torch.float16}
    try:
        weights = load_file(file)
        # A copy for each: the converters take out what they have used.
        unet = UNet2DConditionModel.from_single_file(dict(weights), subfolder="unet", **settings)
        vae = AutoencoderKL.from_single_file(dict(weights), subfolder="vae", **settings)
        text_encoder = create_diffusers_clip_model_from_ldm(CLIPTextModel, dict(weights), subfolder="text_encoder", **settings)
        # diffusers fills what a file lacks with random numbers, unless accelerate is installed. Tensors correspond one to one.
        for part, prefix in ((unet, "model.diffusion_model."), (vae, "first_stage_model.")):
            n_lacking = len(part.state_dict()) - sum(name.startswith(prefix) for name in weights)
            if n_lacking > 0:
                raise ValueError(f"it lacks {n_lacking} of the weights under {prefix}")
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{file.name} cannot be read as a model: {reason.rstrip('.')}.", "Choose another copy of it.", "model") from error
    for part, name in ((unet, "unet"), (vae, "vae"), (text_encoder, "text_encoder")):
        part.to(torch.float16).save_pretrained(folder / name, safe_serialization=True)
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(base / name, folder / name)
