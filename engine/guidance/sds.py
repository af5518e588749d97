"""Score Distillation Sampling. DreamFusion (2209.14988), eq. 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.guidance.distillation import (
    GuidanceLoss,
    RmsLimit,
    classifier_free,
    distillation_loss,
    draw_noise,
    limit,
    predict_both,
    sample_rms,
)
from engine.scene.view_prompts import PromptEmbeds


@dataclass(frozen=True, kw_only=True)
class SDS:
    r"""g = w(t) (eps_hat - eps), eps_hat = eps_neg + s (eps_text - eps_neg), through the encoder into the render.

    The gradient is what the denoiser finds in the noisy render beyond the noise that was put in: the way to a likelier
    picture, without the U-Net's own Jacobian.
    """

    guidance_scale: float = 100.0
    """Strength s of the prompt. 0..1000."""
    timestep_weight: Literal["sigma", "uniform"] = "sigma"
    """w(t): "sigma" is 1 - alpha_bar as in DreamFusion, "uniform" is 1."""
    grad_clip: float = 0.0
    """Values of the latent gradient are kept within plus and minus this; 0 is off. 0..1000."""
    rms_limit: RmsLimit = "off"
    """Whether a sample's gradient is scaled down to, or always scaled to, a root mean square of `rms`."""
    rms: float = 1.0
    """Root mean square for `rms_limit`. 1e-4..1000."""

    def latent_grad(self, eps_text: Tensor, eps_uncond: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
        """All noises [B, C, h, w]; alpha_bar [B, 1, 1, 1] in [0, 1]. Returns the limited g [B, C, h, w], detached."""
        grad = classifier_free(eps_text, eps_uncond, self.guidance_scale) - noise
        if self.timestep_weight == "sigma":
            grad = (1 - alpha_bar) * grad
        return limit(grad.detach(), self.grad_clip, self.rms_limit, self.rms)

    def loss(self, denoiser: Denoiser, images: Tensor, prompt: PromptEmbeds, timesteps: Tensor, generator: torch.Generator) -> GuidanceLoss:
        """1/2 |z - sg(z - g)|^2 / B with z = encode(images); arguments as in `Guidance.loss`."""
        latents = denoiser.encode(images)  # [B, C, h, w], with gradient
        noise = draw_noise(latents.shape, latents.device, generator)
        noisy = denoiser.add_noise(latents.detach(), noise, timesteps)
        (eps_text, _), (eps_uncond, _) = predict_both(denoiser, noisy, timesteps, prompt)
        grad = self.latent_grad(eps_text, eps_uncond, noise, denoiser.alpha_bar(timesteps))
        return GuidanceLoss(distillation_loss(latents, grad), {"grad_rms": sample_rms(grad)})
