"""Interval Score Matching. LucidDreamer (2311.11284), section 4."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.guidance.distillation import draw_noise
from engine.guidance.inversion import invert, rising_levels
from engine.guidance.score_distillation import NoiseLevelWeight, ScoreDistillation
from engine.guidance.scores import Score, ScoreWeights, predict_scores
from engine.scene.view_prompts import PromptEmbeds


@dataclass(frozen=True, kw_only=True)
class ISM(ScoreDistillation):
    r"""g = w(t) (eps_hat(z_t) - eps_empty(z_s)), z_s and z_t inverted from the render with the empty prompt, s = t - gap.

    The two ends of one interval of the same path are compared, so the drawn noise and the inversion's own error cancel.
    What is left at s = 1 is how the model changes its mind within the interval, which is nearly nothing: the prompt's strength
    is the guidance's.
    """

    guidance_scale: float = 7.5
    timestep_weight: NoiseLevelWeight = "x0"
    inversion_gap: float = 0.08
    """How far s lies below t, as a fraction of the model's steps. 0.001..1."""
    n_inversion_steps: int = 5
    """Steps from the render to z_s; each costs one call of the U-Net, as does the one from there to z_t. 1..50."""

    def weights(self, noise_levels: Tensor) -> ScoreWeights:
        return ScoreWeights(text=self.guidance_scale, negative=1 - self.guidance_scale, noise=-1)

    def noised(
        self, denoiser: Denoiser, latents: Tensor, prompt: PromptEmbeds, timesteps: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        gap = max(1, round(self.inversion_gap * denoiser.num_train_timesteps))
        levels = [*rising_levels((timesteps - gap).clamp(min=0), self.n_inversion_steps), timesteps]
        start = denoiser.add_noise(latents, draw_noise(latents.shape, latents.device, generator), levels[0])

        def predict(noisy: Tensor, level: Tensor) -> Score:
            return predict_scores(denoiser, noisy, level, prompt, ("empty",))["empty"]

        return invert(denoiser, start, levels, predict, generator=generator)
