"""A model as a job's settings want it: its family's Denoiser, LoRAs and ControlNet on top, as thrifty with memory as asked."""

from __future__ import annotations

from pathlib import Path

import torch

from engine.guidance.denoiser import Denoiser
from engine.guidance.denoiser_config import DenoiserConfig, parse_loras
from engine.guidance.families import load_denoiser
from engine.guidance.helpers import fetched_helper, helper_folder
from engine.guidance.lora import merge_lora
from engine.guidance.memory import save_memory
from engine.guidance.precision import job_dtype

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_configured(root: Path, device: torch.device | str, config: DenoiserConfig, model_id: str = "") -> Denoiser:
    """The model in a folder with its LoRAs and its ControlNet on top, in the wanted precision, as thrifty as `config.vram` asks.

    Args:
        model_id: what the table calls it; by that its tiny encoder is found.
    Raises: UserError, code "model" or "option".
    """
    denoiser = load_denoiser(root, device, PRECISIONS.get(config.precision) or job_dtype(torch.device(device)))
    loras = parse_loras(config.lora)
    if loras:
        denoiser.load_text_encoder()  # which a LoRA may change
    for lora in loras:
        merge_lora(denoiser, lora)
    if config.control_net:
        denoiser.use_control_net(helper_folder(config.control_net, "control-net"), config.control_scale)
    tiny = tiny_encoder(config, model_id)
    if tiny is not None:
        denoiser.use_tiny_encoder(tiny, config.tiny_vae_until)
    save_memory(denoiser, config.vram)
    return denoiser


def tiny_encoder(config: DenoiserConfig, model_id: str) -> Path | None:
    """The folder of the tiny encoder that stands in for the model's own, None for none. Raises UserError if it is not there."""
    if config.tiny_vae == "auto":  # what was not fetched is not missed: then the encoder is the model's own
        return fetched_helper("tiny-vae", model_id) if config.vram == "low" else None
    return helper_folder(config.tiny_vae, "tiny-vae") if config.tiny_vae not in ("", "none") else None
