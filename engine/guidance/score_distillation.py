"""One step of every method that hands a weighted sum of scores to the render as a gradient.

Shapes: B images, C h w latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.guidance.distillation import GuidanceLoss, RmsLimit, distillation_loss, draw_noise, limit, sample_rms
from engine.guidance.scores import ScoreWeights, combine, predict_scores
from engine.scene.view_prompts import PromptEmbeds

NoiseLevelWeight = Literal["sigma", "uniform", "x0"]
# sigma / alpha has no bound at zero SNR; there it stops at 100.
MIN_ALPHA_BAR = 1e-4


def noise_level_weight(kind: NoiseLevelWeight, alpha_bar: Tensor) -> Tensor:
    """w(t) of a direction in epsilon: "sigma" 1 - alpha_bar (DreamFusion), "uniform" 1, "x0" sigma / alpha.

    "x0" makes the direction the difference of the render's latents to x0. alpha_bar and the result: [B, 1, 1, 1].
    """
    if kind == "sigma":
        return 1 - alpha_bar
    if kind == "uniform":
        return torch.ones_like(alpha_bar)
    return ((1 - alpha_bar) / alpha_bar.clamp(min=MIN_ALPHA_BAR)).sqrt()


@dataclass(frozen=True, kw_only=True)
class ScoreDistillation(ABC):
    r"""g = w(t) sum_r weight_r eps_r, through the encoder into the render, without the U-Net's own Jacobian.

    A method says with which weights, and, where it is not plain noise, from where the noisy latents and the noise come.
    """

    guidance_scale: float
    """Strength s of the prompt. 0..1000."""
    timestep_weight: NoiseLevelWeight = "sigma"
    """w(t): "sigma" is 1 - alpha_bar as in DreamFusion, "uniform" is 1, "x0" is sigma / alpha."""
    grad_clip: float = 0.0
    """Values of the latent gradient are kept within plus and minus this; 0 is off. 0..1000."""
    rms_limit: RmsLimit = "off"
    """Whether a sample's gradient is scaled down to, or always scaled to, a root mean square of `rms`."""
    rms: float = 1.0
    """Root mean square for `rms_limit`. 1e-4..1000."""

    @abstractmethod
    def weights(self, noise_levels: Tensor) -> ScoreWeights:
        """The method's sum, for images at noise_levels [B] float32: timesteps as fractions 0..1 of the model's."""

    def noised(
        self, denoiser: Denoiser, latents: Tensor, prompt: PromptEmbeds, timesteps: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Noisy latents at `timesteps` and the noise that the sum subtracts, [B, C, h, w] each, without gradient."""
        noise = draw_noise(latents.shape, latents.device, generator)
        return denoiser.add_noise(latents, noise, timesteps), noise

    def loss(self, denoiser: Denoiser, images: Tensor, prompt: PromptEmbeds, timesteps: Tensor, generator: torch.Generator) -> GuidanceLoss:
        """1/2 |z - sg(z - g)|^2 / B with z = encode(images); arguments as in `Guidance.loss`."""
        latents = denoiser.encode(images)  # [B, C, h, w], with gradient
        noisy, noise = self.noised(denoiser, latents.detach(), prompt, timesteps, generator)
        weights = self.weights(timesteps / denoiser.num_train_timesteps)
        scores = predict_scores(denoiser, noisy, timesteps, prompt, weights.roles())
        direction = noise_level_weight(self.timestep_weight, denoiser.alpha_bar(timesteps)) * combine(scores, weights, noise)
        grad = limit(direction, self.grad_clip, self.rms_limit, self.rms)
        return GuidanceLoss(distillation_loss(latents, grad), {"grad_rms": sample_rms(grad)})
