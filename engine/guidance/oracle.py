"""The exact denoiser of known pictures: a Gaussian mixture round them, in pixel space.

A real diffusion model is judged by eye; under this one the right answer of every guidance is known. Tests and benchmarks
run whole trainings against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser, resize


def linear_alphas_cumprod(n_timesteps: int = 1000) -> Tensor:
    """Stable Diffusion's noise levels [n] float32: square roots of beta from 0.00085 to 0.012 in equal steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, n_timesteps, dtype=torch.float64).square()
    return (1 - betas).cumprod(0).float()


class OracleDenoiser(Denoiser):
    r"""Exact epsilon and x0 for the density p(z) = sum_k c_k N(z; mu_k, std^2).

    Noised to alpha_bar = a^2 = 1 - s^2 it is p_t(z) = sum_k c_k N(z; a mu_k, v), v = a^2 std^2 + s^2, so with
    responsibilities r_k ~ c_k exp(-|z - a mu_k|^2 / 2v):
        epsilon = -s grad log p_t = s sum_k r_k (z - a mu_k) / v,    x0 = sum_k r_k (mu_k s^2 + a std^2 z) / v.

    "Latents" are the pictures themselves, channels first, in [-1, 1]. "Embeddings" [P, 1, N] are the c_k: a text names
    picture k if it contains names[k]; the longest name that a text contains wins; a text that names none gets all alike.

    Args:
        images: [N, S, S, 3] float32 in [0, 1], the mu_k.
        names: N words or phrases, one for each picture; None names none, so all texts mean all pictures.
        std: spread round each picture, in latent units (the whole range is 2). 0 is allowed.
        alphas_cumprod: [n] noise levels; None takes Stable Diffusion's.
    """

    def __init__(self, images: Tensor, names: list[str] | None = None, *, std: float = 0.0, alphas_cumprod: Tensor | None = None) -> None:
        if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
            raise ValueError(f"images must be [N, S, S, 3], got {list(images.shape)}")
        if names is not None and len(names) != len(images):
            raise ValueError(f"names must be as many as images, got {len(names)} and {len(images)}")
        levels = linear_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod
        super().__init__(levels.to(device=images.device), images.shape[1], (3, images.shape[1], images.shape[1]))
        self._centers = (2 * images.float() - 1).permute(0, 3, 1, 2).contiguous()  # [N, 3, S, S]
        self._names = [] if names is None else names
        self._variance = std**2

    def embed(self, prompts: list[str]) -> Tensor:
        rows = torch.zeros(len(prompts), 1, len(self._centers), device=self.device)
        for row, prompt in zip(rows, prompts):
            hits = [name for name in self._names if name and name in prompt]
            row[0, self._names.index(max(hits, key=len)) if hits else slice(None)] = 1.0
        return rows / rows.sum(dim=-1, keepdim=True)

    def encode(self, images: Tensor) -> Tensor:
        self.check_images(images)
        return 2 * resize(images, self.image_size, self.image_size).permute(0, 3, 1, 2) - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alpha_bar(timesteps)  # [B, 1, 1, 1]
        a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        v = alpha_bar * self._variance + 1 - alpha_bar
        offsets = noisy_latents[:, None] - a[:, None] * self._centers  # [B, N, 3, S, S]
        logits = embeds[:, 0].log() - offsets.square().sum(dim=(2, 3, 4)) / (2 * v.view(-1, 1))  # [B, N]
        mean = torch.einsum("bn,nchw->bchw", logits.softmax(dim=1), self._centers)
        noise = s * (noisy_latents - a * mean) / v
        clean = (mean * (1 - alpha_bar) + a * self._variance * noisy_latents) / v
        return noise, clean
