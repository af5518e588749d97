"""Deterministic DDIM (2010.02502, eq. 12 with sigma 0) through given noise levels, and plain sampling with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.guidance.distillation import classifier_free, draw_noise, rescale
from engine.guidance.scores import predict_scores
from engine.scene.view_prompts import PromptEmbeds


@torch.no_grad()
def denoise(
    denoiser: Denoiser, noisy: Tensor, levels: Sequence[Tensor], prompt: PromptEmbeds, *, guidance_scale: float, rescale_phi: float = 0.0
) -> Tensor:
    """Walk noisy latents down the noise levels and return the clean latents found at the last.

    At each level x0 = rescaled(x0_neg + s (x0_text - x0_neg)) and epsilon likewise; the next level's latents are
    sqrt(alpha_bar') x0 + sqrt(1 - alpha_bar') epsilon. One level is the plain x0 estimate.

    Args:
        noisy: [B, C, h, w] float32 at levels[0].
        levels: timesteps [B] int64 each, falling.
    Returns: [B, C, h, w] float32, without gradient.
    """
    clean = noisy
    for i, level in enumerate(levels):
        scores = predict_scores(denoiser, noisy, level, prompt, ("text", "negative"))
        text, uncond = scores["text"], scores["negative"]
        guided = classifier_free(text.clean, uncond.clean, guidance_scale)
        clean = rescale(guided, text.clean, rescale_phi, denoiser.views_per_sample)
        if i + 1 < len(levels):
            noise = classifier_free(text.noise, uncond.noise, guidance_scale)
            noisy = denoiser.add_noise(clean, noise, levels[i + 1])
    return clean


def falling_levels(timesteps: Tensor, n_steps: int) -> list[Tensor]:
    """n_steps levels [B] int64 from `timesteps` [B] down in equal steps; the way to the clean picture is the last one.

    Level t is the (t + 1)-th step from clean, so (t + 1) (1 - i/n) - 1: what diffusers' "trailing" spacing (2305.08891) has below t.
    """
    parts = [1 - i / n_steps for i in range(n_steps)]
    return [((timesteps + 1).float() * part).round().long().clamp(min=1) - 1 for part in parts]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    prompt: PromptEmbeds,
    *,
    n_steps: int,
    guidance_scale: float,
    generator: torch.Generator,
    rescale_phi: float = 0.0,
    height_px: int = 0,
    width_px: int = 0,
) -> Tensor:
    """Pictures [B, H, W, 3] from pure noise, one for each row of `prompt`. Spacing "trailing" (2305.08891).

    Args:
        height_px, width_px: of the pictures, multiples of `denoiser.pixels_per_latent`; 0 takes `image_size`.
    """
    n = len(prompt)
    height, width = (px // denoiser.pixels_per_latent or side for px, side in zip((height_px, width_px), denoiser.latent_shape[1:]))
    noisy = draw_noise((n, denoiser.latent_shape[0], height, width), denoiser.device, generator)
    n_train = denoiser.num_train_timesteps
    trailing = [round(n_train - i * n_train / n_steps) - 1 for i in range(n_steps)]
    levels = [torch.full((n,), level, dtype=torch.long, device=denoiser.device) for level in trailing]
    return denoiser.decode(denoise(denoiser, noisy, levels, prompt, guidance_scale=guidance_scale, rescale_phi=rescale_phi))
