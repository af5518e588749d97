"""What all guidances share: classifier-free guidance, its rescaling, limits on a gradient, and a loss that has this gradient.

Shapes: B images, C h w latents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.scene.view_prompts import PromptEmbeds

RmsLimit = Literal["off", "clip", "normalize"]


@dataclass(frozen=True)
class GuidanceLoss:
    """What one guidance says about a batch of renders.

    Attributes:
        loss: scalar float32 with gradient; a sum over one image's values, averaged over the batch.
        metrics: name to scalar tensor, detached, on the device; reading one waits for the GPU.
        target_images: [B, S, S, 3] float32, what the model would have liked to see, where the method makes it; for previews.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    target_images: Tensor | None = None


class Guidance(Protocol):
    """A way to combine a denoiser's scores. Settings are the fields of a frozen dataclass; nothing is kept between
    calls but what VSD was handed to train."""

    def loss(self, denoiser: Denoiser, images: Tensor, prompt: PromptEmbeds, timesteps: Tensor, generator: torch.Generator) -> GuidanceLoss:
        """The loss of a batch of renders.

        Args:
            denoiser: the diffusion model.
            images: [B, H, W, 3] float32 in [0, 1] of any size, with gradient.
            prompt: what each image shall be.
            timesteps: [B] int64, the noise level each image is judged at.
            generator: where the noise is drawn from, on the device of `images` or on the CPU.
        Differentiable in images only.
        """
        ...


def draw_noise(shape: torch.Size | tuple[int, ...], device: torch.device, generator: torch.Generator) -> Tensor:
    """Standard normal float32, drawn on the generator's device (so a CPU generator gives the same run everywhere)."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device=device)


def classifier_free(text: Tensor, uncond: Tensor, guidance_scale: float) -> Tensor:
    """uncond + s (text - uncond), the project's only definition (2207.12598, eq. 6, with s = 1 + its w)."""
    return uncond + guidance_scale * (text - uncond)


def rescale(guided: Tensor, text: Tensor, phi: float, views_per_sample: int = 1) -> Tensor:
    """Pull the contrast that classifier-free guidance adds back to the contrast of the text's own prediction.

    guided' = phi f guided + (1 - phi) guided, f = std(text) / std(guided) of each sample. phi 0 leaves it alone.
    2305.08891, eqs. 15 and 16, applied to x0 as MVDream (2308.16512, section 3.3) does.

    Args:
        guided, text: [B, C, h, w].
        views_per_sample: so many neighbours share one factor, taken over all their values: views that were denoised as one
            picture keep their contrast against each other. B is a multiple of it.
    """
    if phi == 0:
        return guided
    samples = (-1, views_per_sample * guided[0].numel())
    factor = text.reshape(samples).std(dim=1) / guided.reshape(samples).std(dim=1).clamp(min=1e-6)
    return guided * (phi * factor + (1 - phi)).repeat_interleave(views_per_sample).view(-1, 1, 1, 1)


def limit(latent_grad: Tensor, clip: float, rms_limit: RmsLimit, rms: float) -> Tensor:
    """Keep a gradient [B, C, h, w] from throwing a young field away.

    Args:
        clip: each value is kept within +-clip; 0 is off. D-SDS's score debiasing (2303.15413, section 4.1).
        rms_limit: "clip" scales a sample down to a root mean square of `rms`, "normalize" scales it to `rms` always.
        rms: > 0.
    """
    if clip > 0:
        latent_grad = latent_grad.clamp(-clip, clip)
    if rms_limit == "off":
        return latent_grad
    factor = rms / latent_grad.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-8)
    return latent_grad * (factor.clamp(max=1.0) if rms_limit == "clip" else factor)


def distillation_loss(latents: Tensor, latent_grad: Tensor) -> Tensor:
    """1/2 |z - sg(z - g)|^2 / B: a scalar whose gradient in the latents is exactly g / B."""
    target = (latents - latent_grad).detach()
    return 0.5 * (latents - target).square().sum() / latents.shape[0]


def sample_rms(values: Tensor) -> Tensor:
    """Root mean square over all values, a detached scalar, for metrics."""
    return values.detach().square().mean().sqrt()
