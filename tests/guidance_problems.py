"""Small problems under which the right answer of a guidance is known, and the smallest whole training."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.guidance.distillation import Guidance
from engine.guidance.timesteps import draw
from engine.scene.view_prompts import PromptEmbeds
from engine.schedule import Scheduled


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompt_of(denoiser: Denoiser, texts: list[str], negative: str = "", flaws: str = "foggy") -> PromptEmbeds:
    """As `ViewPrompts` makes it: without a negative prompt "negative" and "empty" are one tensor."""
    n = len(texts)
    empty = denoiser.embed([""] * n)
    return PromptEmbeds(
        text=denoiser.embed(texts),
        negative=denoiser.embed([negative] * n) if negative else empty,
        empty=empty,
        flawed=denoiser.embed([f"{text}, {flaws}" for text in texts]),
    )


def gradient(guidance: Guidance, denoiser: Denoiser, images: Tensor, prompt: PromptEmbeds, timesteps: Tensor, seed: int = 5) -> Tensor:
    images = images.clone().requires_grad_()
    guidance.loss(denoiser, images, prompt, timesteps, generator(seed)).loss.backward()
    assert images.grad is not None
    return images.grad


def optimise(
    guidance: Guidance,
    denoiser: Denoiser,
    prompt: PromptEmbeds,
    size: int = 8,
    n_steps: int = 250,
    *,
    start: Tensor | None = None,
    t_range: tuple[Scheduled, Scheduled] = (0.02, (0.0, 0.98, 1.0, 0.3)),
) -> Tensor:
    """Pixels under Adam with a falling rate; gray at first, noise levels sliding, unless told otherwise."""
    images = torch.full((len(prompt), size, size, 3), 0.5) if start is None else start.clone()
    images.requires_grad_()
    optimizer = torch.optim.Adam([images], lr=0.03)
    source = generator(11)
    for step in range(n_steps):
        timesteps = draw(step, n_steps, t_range, len(prompt), source, alphas_cumprod=denoiser.alphas_cumprod)
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / n_steps)
        optimizer.zero_grad()
        guidance.loss(denoiser, images, prompt, timesteps, source).loss.backward()
        optimizer.step()
    return images.detach()
