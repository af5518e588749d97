"""CLIP beside a diffusion model: a second opinion on what the renders show, as stable-dreamfusion has it for pictures with words.

Shapes: B views, K crops of each, R reference pictures, D dimension of the embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from engine.guidance.clip import crop_embeds
from engine.guidance.configured import load_configured
from engine.guidance.denoiser import Denoiser
from engine.guidance.denoiser_config import DenoiserConfig, Precision
from engine.guidance.guidance_config import GuidanceConfig
from engine.guidance.model_table import find_model, model_folder
from engine.guidance.picture_views import PictureViews, angles_between_deg
from engine.scene.cameras import Cameras, camera_angles
from engine.scene.scene_config import CameraConfig
from engine.scene.view_prompts import ViewPrompts
from engine.schedule import scheduled
from engine.training.teacher import make_prompts


class ClipTeacher:
    r"""weight (1 - cos(f(x), text) + sum_r p_r a_r (1 - cos(f(x), f(picture_r)))), mean over views and crops x.

    a_r falls from 1 at the picture's own camera to 0 on the other side, where it shows nothing that the view could be like; the
    p_r are the pictures' weights, with the sum 1. stable-dreamfusion lets the words fade in the same way; ours say what the view is.
    """

    def __init__(self, clip: Denoiser, prompts: ViewPrompts | None, config: GuidanceConfig, pictures: PictureViews | None) -> None:
        self.clip = clip
        self.prompts = prompts
        self.config = config
        self.pictures = pictures
        with torch.no_grad():
            self._seen = None if pictures is None else clip.encode(pictures.pictures)[:, :, 0, 0]  # [R, D]

    def loss(self, images: Tensor, cameras: Cameras, shading: str, step: int, n_steps: int, generator: torch.Generator) -> Tensor:
        """Scalar, averaged over the batch; see `engine.training.run_state.Teacher`."""
        embeds = crop_embeds(self.clip, images, self.config.n_crops, generator)  # [K, B, D]
        loss = images.new_zeros(())
        if self.prompts is not None:
            prompt = self.prompts.embeds(*camera_angles(cameras), shading)
            loss = loss + (1 - cosine_similarity(embeds, prompt.text[:, 0], dim=-1)).mean()
        if self.pictures is not None and self._seen is not None:
            near = 1 - angles_between_deg(cameras, self.pictures.cameras) / 180  # [B, R]
            share = near * self.pictures.weights / self.pictures.weights.sum()
            unlike = 1 - cosine_similarity(embeds[:, :, None], self._seen, dim=-1)  # [K, B, R]
            loss = loss + (share * unlike).sum(dim=-1).mean()
        return scheduled(self.config.clip_weight, step, n_steps) * loss


def make_clip_teacher(
    prompt: str, config: GuidanceConfig, camera: CameraConfig, pictures: PictureViews | None, device: torch.device, precision: Precision
) -> ClipTeacher:
    """The CLIP of `config.clip_model`, told the prompt (which may be empty if there are pictures). Raises UserError."""
    model = find_model(config.clip_model)
    clip = load_configured(model_folder(model), device, DenoiserConfig(precision=precision))
    prompts = make_prompts(clip, model, prompt, "", config, camera) if prompt.strip() else None
    clip.drop_text_encoder()
    return ClipTeacher(clip, prompts, config, None if pictures is None else pictures.to(device))
