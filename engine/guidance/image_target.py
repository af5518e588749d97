"""The picture that the model sees in the noisy render becomes the render's target.

HiFA (2305.18766, section 3.2) and MVDream (2308.16512, section 3.3) pull a render towards x0, the denoised estimate,
in latents or in pixels. In pixels the gradient skips the encoder: a small encoder's gradient lies off its manifold and paints
shapes in wild colours, a picture's does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine.guidance.ddim import denoise, falling_levels
from engine.guidance.denoiser import Denoiser, resize
from engine.guidance.distillation import GuidanceLoss, RmsLimit, distillation_loss, draw_noise, limit, sample_rms
from engine.scene.view_prompts import PromptEmbeds


@dataclass(frozen=True, kw_only=True)
class ImageTarget:
    r"""w(t)/2 |x - sg(target)|^2 with target = decode(x0_hat) in image space, or w(t)/2 |z - sg(x0_hat)|^2 in latent space.

    x0_hat is the classifier-free x0 with rescaled contrast, after `n_ddim_steps` deterministic steps. In latent space with one
    step and w uniform it is MVDream's x0 reconstruction loss with its CFG rescale (eqs. in its section 3.3; scale 50, phi 0.5).

    Size against SDS: in latent space with one step, z - x0_hat = sigma/alpha (eps_hat - eps), so `timestep_weight` "sds", which
    is alpha sigma, makes exactly the gradient of SDS with w = 1 - alpha_bar; "uniform" is MVDream's and weighs a level
    1 / (alpha sigma) times as much: more at both ends of the noise. In image space a render of any size is judged as if it had the
    denoiser's size (the sum over its pixels is scaled by image_size^2 / (H W)), so the balance with regularisers holds
    when the resolution grows.
    """

    guidance_scale: float = 4.0
    """Strength of the prompt. 0..1000."""
    rescale: float = 0.5
    """How far guidance's extra contrast is taken back: 0 not at all, 1 wholly. 0..1."""
    n_ddim_steps: int = 1
    """Denoising steps from the noisy render to the target; each costs one call of the U-Net. 1..50."""
    space: Literal["image", "latent"] = "image"
    """Whether pixels or latents are pulled."""
    timestep_weight: Literal["uniform", "sds"] = "uniform"
    """w(t): 1, or alpha sigma, which is the weight that SDS gives implicitly."""
    grad_clip: float = 0.0
    """Values of the difference to the target are kept within plus and minus this; 0 is off. 0..1000."""
    rms_limit: RmsLimit = "off"
    """Whether a sample's difference is scaled down to, or always scaled to, a root mean square of `rms`."""
    rms: float = 1.0
    """Root mean square for `rms_limit`. 1e-4..1000."""

    def loss(self, denoiser: Denoiser, images: Tensor, prompt: PromptEmbeds, timesteps: Tensor, generator: torch.Generator) -> GuidanceLoss:
        """Arguments as in `Guidance.loss`."""
        latents = denoiser.encode(images if self.space == "latent" else images.detach())
        noisy = self.noised(denoiser, latents.detach(), prompt, timesteps, generator)
        levels = falling_levels(timesteps, self.n_ddim_steps)
        clean = denoise(denoiser, noisy, levels, prompt, guidance_scale=self.guidance_scale, rescale_phi=self.rescale)
        weight = self.weight(denoiser.alpha_bar(timesteps))  # [B, 1, 1, 1]
        if self.space == "latent":
            grad = limit(weight * (latents.detach() - clean), self.grad_clip, self.rms_limit, self.rms)
            return GuidanceLoss(distillation_loss(latents, grad), {"grad_rms": sample_rms(grad)})
        with torch.no_grad():
            target = denoiser.decode(clean)  # [B, S, S, 3]
            height, width = images.shape[1:3]
            wanted = resize(target, height, width).clamp(0, 1)
            grad = limit(weight * (images - wanted), self.grad_clip, self.rms_limit, self.rms)
        per_pixel = denoiser.image_size**2 / (height * width)
        return GuidanceLoss(per_pixel * distillation_loss(images, grad), {"grad_rms": sample_rms(grad)}, target)

    def noised(self, denoiser: Denoiser, latents: Tensor, prompt: PromptEmbeds, timesteps: Tensor, generator: torch.Generator) -> Tensor:
        """Noisy latents [B, C, h, w] at `timesteps`, without gradient."""
        return denoiser.add_noise(latents, draw_noise(latents.shape, latents.device, generator), timesteps)

    def weight(self, alpha_bar: Tensor) -> Tensor:
        """w(t), of alpha_bar's shape."""
        if self.timestep_weight == "uniform":
            return torch.ones_like(alpha_bar)
        return (alpha_bar * (1 - alpha_bar)).sqrt()
