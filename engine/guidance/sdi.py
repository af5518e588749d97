"""Score Distillation via Inversion (2405.15891)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.guidance.distillation import classifier_free
from engine.guidance.image_target import ImageTarget
from engine.guidance.inversion import invert, rising_levels
from engine.guidance.scores import Score, predict_scores
from engine.scene.view_prompts import PromptEmbeds


@dataclass(frozen=True, kw_only=True)
class SDI(ImageTarget):
    r"""The image target, but the render is noised by inverting the model under the prompt, not by a draw.

    z_t comes from the render by DDIM backwards with the negative guidance scale `inversion_scale`; x0_hat, the target, from
    z_t with `guidance_scale`. So each target continues the path on which the render already is. The paper's own settings
    are space "latent", rescale 0, levels falling linearly from 0.98 to 0.25.
    """

    guidance_scale: float = 7.5
    inversion_scale: float = -7.5
    """Strength of the prompt on the way to the noise. -1000..1000."""
    inversion_eta: float = 0.3
    """How much of DDPM's own noise each inversion step adds. 0..1."""
    n_inversion_steps: int = 10
    """Inversion steps at the highest noise level, at others in proportion; each costs one call of the U-Net. 1..50."""

    def noised(self, denoiser: Denoiser, latents: Tensor, prompt: PromptEmbeds, timesteps: Tensor, generator: torch.Generator) -> Tensor:
        part = int(timesteps.max()) / denoiser.num_train_timesteps  # waits for the GPU, once for several calls of the U-Net
        levels = rising_levels(timesteps, max(1, math.ceil(part * self.n_inversion_steps)))

        def predict(noisy: Tensor, level: Tensor) -> Score:
            scores = predict_scores(denoiser, noisy, level, prompt, ("text", "negative"))
            pairs = zip(scores["text"], scores["negative"])
            return Score(*(classifier_free(text, uncond, self.inversion_scale) for text, uncond in pairs))

        return invert(denoiser, latents, levels, predict, generator=generator, eta=self.inversion_eta)[0]
