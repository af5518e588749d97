"""Variational Score Distillation. ProlificDreamer (2305.16213), eq. 9 and algorithm 1.

Shapes: B images, C h w latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.guidance.adapters import Adapters
from engine.guidance.denoiser import Denoiser
from engine.guidance.distillation import draw_noise
from engine.guidance.score_distillation import ScoreDistillation
from engine.guidance.scores import ScoreWeights
from engine.scene.view_prompts import PromptEmbeds

# Part of the training steps that are not told the camera, so that it does not lean on it: as threestudio does.
NO_CAMERA = 0.1


class RenderScore(Protocol):
    """What knows the score of the renders themselves, and learns it as they change."""

    def noise(self, noisy: Tensor, timesteps: Tensor, prompt: PromptEmbeds) -> Tensor:
        """Its epsilon for noisy renders [B, C, h, w], without gradient."""

    def learn(self, latents: Tensor, prompt: PromptEmbeds, generator: torch.Generator) -> None:
        """One training step on renders [B, C, h, w]."""


@dataclass(frozen=True, kw_only=True)
class VSD(ScoreDistillation):
    r"""g = w(t) (eps_hat - eps_phi), eps_phi the score of the renders: the model itself with adapters, trained as the run goes.

    SDS takes a render for a point and climbs to the likeliest picture, which is a smooth one. VSD moves the renders' own
    distribution towards the prompt's, so at a scale as low as in sampling they keep its variety and detail. The price is a
    second evaluation and a training step of the U-Net, and geometry that is less sure: it is for the late part of a run, or for
    a run that goes on from another (--start-from).
    """

    renders: RenderScore | None = None
    """The other score. Not a setting: it keeps its state from step to step, and must be there when `loss` is called."""
    guidance_scale: float = 7.5

    def weights(self, noise_levels: Tensor) -> ScoreWeights:
        return ScoreWeights(text=self.guidance_scale, negative=1 - self.guidance_scale, noise=-1)

    def noised(
        self, denoiser: Denoiser, latents: Tensor, prompt: PromptEmbeds, timesteps: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        noisy = denoiser.add_noise(latents, draw_noise(latents.shape, latents.device, generator), timesteps)
        if self.renders is None:
            raise ValueError("VSD needs the score of the renders")
        noise = self.renders.noise(noisy, timesteps, prompt)
        self.renders.learn(latents, prompt, generator)
        return noisy, noise


class AdaptedScore:
    """The denoiser's own network with adapters, as a `RenderScore`.

    Args:
        denoiser: whose `network` gets the adapters; it answers as before to everybody else.
        rank: of the adapters. 1..256.
        learning_rate: of AdamW. 1e-6..1.
        generator: where the adapters' first values are drawn from, on the CPU.
    Raises: UserError if the denoiser has no network that could be adapted.
    """

    def __init__(self, denoiser: Denoiser, rank: int, learning_rate: float, generator: torch.Generator) -> None:
        self._denoiser = denoiser
        self.adapters = Adapters(denoiser.network, rank, generator)
        self.optimizer = torch.optim.AdamW(self.adapters.parameters(), lr=learning_rate)

    @torch.no_grad()
    def noise(self, noisy: Tensor, timesteps: Tensor, prompt: PromptEmbeds) -> Tensor:
        with self.adapters.on(prompt.camera_to_world):
            return self._denoiser.predict_noise(noisy, timesteps, prompt.text)

    def learn(self, latents: Tensor, prompt: PromptEmbeds, generator: torch.Generator) -> None:
        """One step of `training_loss`, at noise levels from the whole range."""
        self.optimizer.zero_grad(set_to_none=True)
        self.training_loss(latents, prompt, generator).backward()
        self.optimizer.step()

    def training_loss(self, latents: Tensor, prompt: PromptEmbeds, generator: torch.Generator) -> Tensor:
        """Squared error of epsilon, or of v for a model that predicts v: a scalar with gradient in the adapters.

        Summed over an image and averaged over the batch: a mean's gradient would vanish in a U-Net of half precision, and AdamW
        does not mind the size.
        """
        denoiser, n = self._denoiser, len(latents)
        timesteps = torch.randint(denoiser.num_train_timesteps, (n,), generator=generator, device=generator.device).to(latents.device)
        with_camera = torch.rand(1, generator=generator, device=generator.device).item() >= NO_CAMERA
        noise = draw_noise(latents.shape, latents.device, generator)
        noisy = denoiser.add_noise(latents, noise, timesteps)
        with self.adapters.on(prompt.camera_to_world if with_camera else None):
            epsilon, clean = denoiser.predict(noisy, timesteps, prompt.text)
        error = epsilon - noise
        if denoiser.prediction_type == "v_prediction":  # v = a epsilon - s x0, so that zero SNR counts too
            alpha_bar = denoiser.alpha_bar(timesteps)
            error = alpha_bar.sqrt() * error - (1 - alpha_bar).sqrt() * (clean - latents)
        return error.square().sum() / n
