"""A model as a job's settings want it: its family's Denoiser, LoRAs and ControlNet on top, as thrifty with memory as asked."""

from __future__ import annotations

from pathlib import Path

import torch

from engine.guidance.denoiser import Denoiser
from engine.guidance.denoiser_config import DenoiserConfig, parse_loras
from engine.guidance.families import load_denoiser
from engine.guidance.lora import merge_lora
from engine.guidance.memory import save_memory
from engine.guidance.precision import job_dtype

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_configured(root: Path, device: torch.device | str, config: DenoiserConfig) -> Denoiser:
    """The model in a folder with its LoRAs and its ControlNet on top, in the wanted precision, as thrifty as `config.vram` asks.

    Raises: UserError, code "model" or "option".
    """
    denoiser = load_denoiser(root, device, PRECISIONS.get(config.precision) or job_dtype(torch.device(device)))
    for lora in parse_loras(config.lora):
        merge_lora(denoiser, lora)
    if config.control_net:
        denoiser.use_control_net(Path(config.control_net).expanduser(), config.control_scale)
    if config.tiny_vae:
        denoiser.use_tiny_encoder(Path(config.tiny_vae).expanduser(), config.tiny_vae_until)
    save_memory(denoiser, config.vram)
    return denoiser
