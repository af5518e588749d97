"""What a model makes of a render: the render, with noise, its one-step estimate, and denoised all the way. For the eye."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.guidance.ddim import denoise, falling_levels
from engine.guidance.denoiser import Denoiser, resize
from engine.guidance.distillation import draw_noise
from engine.scene.view_prompts import PromptEmbeds

N_STEPS = 20


@torch.no_grad()
def inspect(
    denoiser: Denoiser, images: Tensor, prompt: PromptEmbeds, timesteps: Tensor, *, guidance_scale: float, generator: torch.Generator
) -> Tensor:
    """One picture [B S, 4 S, 3] in [0, 1], S = the denoiser's image_size: a row for each view; render, noised, one step, denoised.

    Args:
        images: [B, H, W, 3] float32 in [0, 1].
        timesteps: [B] int64, the noise level that each is looked at.
    """
    latents = denoiser.encode(images)
    noisy = denoiser.add_noise(latents, draw_noise(latents.shape, denoiser.device, generator), timesteps)
    one_step = denoise(denoiser, noisy, [timesteps], prompt, guidance_scale=guidance_scale)
    denoised = denoise(denoiser, noisy, falling_levels(timesteps, N_STEPS), prompt, guidance_scale=guidance_scale)
    render = resize(images, denoiser.image_size, denoiser.image_size)
    tiles = [render, *(denoiser.decode(part) for part in (noisy, one_step, denoised))]
    return torch.cat(tiles, dim=2).flatten(0, 1).clamp(0, 1)
