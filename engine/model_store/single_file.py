"""A single .safetensors file with all parts of a model, unpacked into a folder that the engine loads.

Such a file holds weights alone. Settings, tokenizer and scheduler come from a model of the same family that is on this machine,
so nothing is fetched and nothing is guessed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.guidance.families import FAMILIES, kind_of
from engine.guidance.model_records import DOWNLOADING_NAME, models_root, read_added
from engine.guidance.model_table import Model, added_model, find_model, is_installed, model_folder, models
from engine.model_store.layout import read_header
from engine.model_store.progress import Report, Step

UNET, VAE, TEXT, TEXT_XL = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.embedders."
# SDXL's refiner has OpenCLIP's encoder alone, in the first place.
REFINER = TEXT_XL + "0.model."
# An empty tensor of this name says that the U-Net was trained on to predict v.
PREDICTS_V = "v_pred"
CROSS_ATTENTION = UNET + "input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
# Buffers that old files hold beside the weights.
NO_WEIGHTS = ("position_ids", "logit_scale", "attn_mask")
FIRST_LAYER = UNET + "input_blocks.0.0.weight"


def unpack(file: Path, folder: Path, like: str, report: Report) -> Path:
    """Write the parts of `file` to `folder`, in half precision; returns it. It is there whole or not at all.

    Args:
        like: id of the model whose settings it takes; "" the first of its family in the list. The shapes of a file do not tell
            the two of Stable Diffusion 2.1 apart: its base model predicts epsilon, the one of 768 pixels v.
    Raises: UserError, code "model", if the file is no whole Stable Diffusion 1.x, 2.x or XL model, or no model of its family is here.
    """
    if file.suffix != ".safetensors":
        raise UserError(f"{file.name} is no .safetensors file.", "Choose a .safetensors file or the folder of a model.", "model")
    n_features, n_channels = _family(file, like)
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


def _family(file: Path, like: str) -> tuple[int, int]:
    """Features of the text and channels of the latents that the U-Net takes, read from the shapes in the header."""
    shapes: dict[str, Any] = {name: entry.get("shape") for name, entry in read_header(file).items()}
    if any("lora_" in name or ".lora" in name for name in shapes):
        text = f"{file.name} is a LoRA: a change to a model, not a model."
        raise UserError(text, "Put it on top of the model that it was made for: --lora FILE.", "model")
    if any(name.startswith(REFINER) for name in shapes):
        raise UserError(f"{file.name} is SDXL's refiner, which cannot guide.", "Choose SDXL's base model, or one made from it.", "model")
    if PREDICTS_V in shapes and not like:
        text = f"{file.name} predicts v, which the model that its settings come from by itself may not."
        raise UserError(text, "Say with --like ID which model's settings it takes: one of its family that predicts v.", "model")
    parts: tuple[tuple[str, str | tuple[str, ...]], ...] = (("U-Net", UNET), ("VAE", VAE), ("text encoder", (TEXT, TEXT_XL)))
    missing = [part for part, prefix in parts if not any(name.startswith(prefix) for name in shapes)]
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
    families = {
        768: ("Stable Diffusion 1.x", "sd15"),
        1024: ("Stable Diffusion 2.x", "sd21-base"),
        2048: ("Stable Diffusion XL", "sdxl"),
    }
    family, example = families.get(n_features, ("", ""))
    if not family or n_channels != 4:
        text = f"The U-Net takes {n_features} features of text and {n_channels} channels: no family that this version knows."
        raise UserError(text, "Choose a text-to-image model of Stable Diffusion 1.x, 2.x or XL.", "model")
    text = f"A single file brings no settings; they come from a model of its family, {family}, and none is on this machine."
    raise UserError(text, f"First run: python -m engine models download {example}", "model")


def _takes(model: Model) -> tuple[object, object]:
    config = json.loads((model_folder(model) / "unet" / "config.json").read_text(encoding="utf-8"))
    return config.get("cross_attention_dim"), config.get("in_channels")


def _convert(file: Path, base: Path, folder: Path) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DIFFUSERS_DISABLE_REMOTE_CODE="1")
    from safetensors.torch import load_file

    try:
        converted = _converted(load_file(file), base)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{file.name} cannot be read as a model: {reason.rstrip('.')}.", "Choose another copy of it.", "model") from error
    for name, part in converted.items():
        part.save_pretrained(folder / name, safe_serialization=True)
    for name, stem in FAMILIES[kind_of(base)].parts.items():
        if not stem:  # tokenizers and the scheduler, which a file of weights does not bring
            shutil.copytree(base / name, folder / name)


def _converted(weights: dict[str, Any], base: Path) -> dict[str, Any]:
    """The parts by name, in half precision. Raises what diffusers raises, and ValueError if weights of a part are missing.

    diffusers fills what a file lacks with random numbers, unless accelerate is installed. Tensors correspond one to one, but for
    OpenCLIP's attention, which has one for q, k and v.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    settings: dict[str, Any] = {"config": str(base), "local_files_only": True, "torch_dtype": torch.float16}
    # A copy for each: the converters take out what they have used.
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel.from_single_file(dict(weights), subfolder="unet", **settings),
        "vae": AutoencoderKL.from_single_file(dict(weights), subfolder="vae", **settings),
    }
    is_xl = any(name.startswith(TEXT_XL) for name in weights)
    classes = {"text_encoder": CLIPTextModel} | ({"text_encoder_2": CLIPTextModelWithProjection} if is_xl else {})
    for name, cls in classes.items():
        parts[name] = create_diffusers_clip_model_from_ldm(cls, dict(weights), subfolder=name, **settings)
    prefixes = {"unet": UNET, "vae": VAE, "text_encoder": TEXT_XL + "0." if is_xl else TEXT, "text_encoder_2": TEXT_XL + "1."}
    for name, part in parts.items():
        wanted = set(part.state_dict())
        if any(key.startswith(prefixes[name] + "model.transformer.resblocks.") for key in weights):
            wanted = {re.sub(r"\.[qkv]_proj\.", ".in_proj.", key) for key in wanted}
        found = [key for key in weights if key.startswith(prefixes[name]) and not key.endswith(NO_WEIGHTS)]
        if len(wanted) > len(found):
            raise ValueError(f"it lacks {len(wanted) - len(found)} of the weights under {prefixes[name]}")
    return {name: part.to(torch.float16) for name, part in parts.items()}
