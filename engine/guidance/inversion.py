"""DDIM backwards (2010.02502, section 4.3): the noise under which a render would have come out of the model.

Drawn noise has nothing to do with the render, so each step asks for another picture and their mean is soft. Inverted noise
fits the render. ISM and SDI use the same walk with other prompts.

Shapes: B images, C h w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.guidance.distillation import draw_noise
from engine.guidance.scores import Score


@torch.no_grad()
def invert(
    denoiser: Denoiser,
    noisy: Tensor,
    levels: Sequence[Tensor],
    predict: Callable[[Tensor, Tensor], Score],
    *,
    generator: torch.Generator,
    eta: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Walk latents up the noise levels; each step keeps x0 and epsilon and asks anew.

    Args:
        noisy: [B, C, h, w] float32 at levels[0].
        levels: at least two timesteps [B] int64 each, rising; each step costs one call of `predict`.
        predict: noisy latents and their timesteps to a score.
        generator: used with `eta` alone.
        eta: how much of DDPM's own noise is added after each step, as SDI does; 0 is deterministic. 0..1.
    Returns:
        latents at the last level and the epsilon that the last step was made with, [B, C, h, w] each.
    """
    for level, following in zip(levels, levels[1:]):
        score = predict(noisy, level)
        noisy = denoiser.add_noise(score.clean, score.noise, following)
        if eta > 0:
            std = ddpm_std(denoiser.alpha_bar(level), denoiser.alpha_bar(following))
            noisy = noisy + eta * std * draw_noise(noisy.shape, noisy.device, generator)
    return noisy, score.noise


def ddpm_std(alpha_bar: Tensor, alpha_bar_above: Tensor) -> Tensor:
    """Standard deviation of DDPM's step between two levels, sqrt((1 - a) / (1 - a') (1 - a' / a)), a' the noisier. 2006.11239, eq. 7."""
    return ((1 - alpha_bar) / (1 - alpha_bar_above) * (1 - alpha_bar_above / alpha_bar)).clamp(min=0).sqrt()


def rising_levels(timesteps: Tensor, n_steps: int) -> list[Tensor]:
    """n_steps + 1 levels [B] int64 from 0 to `timesteps` [B] in equal steps."""
    return [(timesteps.double() * i / n_steps).round().long() for i in range(n_steps + 1)]
