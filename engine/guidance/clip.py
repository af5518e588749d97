"""CLIP's opinion alone: the render is pulled towards pictures that fit the prompt. Dream Fields (2112.01455), section 3.

No diffusion model, no noise. Cheap, and good at saying what is seen, not how it looks: used alone it paints textures that please
CLIP more than people.

Shapes: B images, K crops of each, D dimension of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from engine.guidance.denoiser import Denoiser, resize
from engine.guidance.distillation import GuidanceLoss
from engine.scene.view_prompts import PromptEmbeds

# A crop's side as a part of the picture's. The whole object must stay mostly in sight: the prompt is of all of it.
SMALLEST_CROP = 0.7


@dataclass(frozen=True, kw_only=True)
class ClipSimilarity:
    r"""s (1 - cos(f(x_k), text) + n cos(f(x_k), negative)), mean over random crops x_k of a render; f is CLIP's image encoder.

    Crops: a pattern that pleases CLIP at one place only would otherwise be found, and no object. Without a negative prompt n is 0.
    """

    guidance_scale: float = 1000.0
    """Strength s of the prompt: cosines of real pictures move by tenths, the other guidances by hundreds. 0..1000."""
    negative_scale: float = 1.0
    """Strength n of the negative prompt against the prompt's. 0..1000."""
    n_crops: int = 4
    """Random crops of each render. 1..64."""

    def loss(self, denoiser: Denoiser, images: Tensor, prompt: PromptEmbeds, timesteps: Tensor, generator: torch.Generator) -> GuidanceLoss:
        """Arguments as in `Guidance.loss`; `denoiser` is an `engine.guidance.clip_model.Clip`, `timesteps` say nothing.

        Raises: ValueError for a denoiser whose latents are no embedding.
        """
        embeds = crop_embeds(denoiser, images, self.n_crops, generator)
        fit = cosine_similarity(embeds, prompt.text[:, 0], dim=-1)  # [K, B]
        loss = 1 - fit
        if prompt.empty is not None and prompt.empty is not prompt.negative:  # else there is no negative prompt
            loss = loss + self.negative_scale * cosine_similarity(embeds, prompt.negative[:, 0], dim=-1)
        return GuidanceLoss(self.guidance_scale * loss.mean(), {"similarity": fit.detach().mean()})


def crop_embeds(denoiser: Denoiser, images: Tensor, n_crops: int, generator: torch.Generator) -> Tensor:
    """Random crops of images [B, H, W, 3] as CLIP's unit vectors [K, B, D]. Differentiable. Raises ValueError if it is no CLIP."""
    if denoiser.latent_shape[1:] != (1, 1):
        raise ValueError(f"the clip guidance needs CLIP, got latents of the shape {list(denoiser.latent_shape)}")
    crops = random_crops(images, n_crops, denoiser.image_size, generator)  # [K B, S, S, 3]
    return denoiser.encode(crops)[:, :, 0, 0].unflatten(0, (n_crops, -1))


def random_crops(images: Tensor, n_crops: int, size: int, generator: torch.Generator) -> Tensor:
    """Squares out of images [B, H, W, C], resized: [n_crops B, size, size, C], the B first crops before the B second ones.

    A side is drawn between `SMALLEST_CROP` and all of the shorter one, then its place. Waits for the GPU if the generator is there.
    """
    n, height, width = images.shape[:3]
    draws = torch.rand(n_crops, n, 3, generator=generator, device=generator.device).tolist()
    crops = []
    for k in range(n_crops):
        for image, (share, down, right) in zip(images, draws[k]):
            side = max(1, round(min(height, width) * (SMALLEST_CROP + (1 - SMALLEST_CROP) * share)))
            top, left = round(down * (height - side)), round(right * (width - side))
            crops.append(resize(image[None, top : top + side, left : left + side], size, size))
    return torch.cat(crops)
