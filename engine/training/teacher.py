"""The diffusion model's side of a training step: view prompts, noise levels and guidance, put together from the settings."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.guidance.distillation import Guidance
from engine.guidance.guidances import GUIDANCES
from engine.guidance.picture_views import angle_scale, scale_gradient
from engine.guidance.timesteps import draw
from engine.scene.cameras import Cameras, camera_angles
from engine.scene.view_prompts import ViewPrompts
from engine.schedule import scheduled
from engine.training.training_config import GuidanceConfig


class DiffusionTeacher:
    """Judges renders by a denoiser that was told what they shall show.

    Args:
        known_cameras: where pictures were taken; the nearer a view is to one of them, the less the model has to say
            (`angle_scale`). None: as much everywhere.
    """

    def __init__(self, denoiser: Denoiser, prompts: ViewPrompts, config: GuidanceConfig, known_cameras: Cameras | None = None) -> None:
        self.denoiser = denoiser
        self.prompts = prompts
        self.config = config
        self.known_cameras = known_cameras

    def loss(self, images: Tensor, cameras: Cameras, shading: str, step: int, n_steps: int, generator: torch.Generator) -> Tensor:
        """Scalar, averaged over the batch; see `engine.training.trainer.Teacher`."""
        cfg = self.config
        per_sample = self.denoiser.views_per_sample
        timesteps = draw(
            step,
            n_steps,
            (cfg.t_low, cfg.t_high),
            len(cameras) // per_sample,
            generator,
            num_train_timesteps=self.denoiser.num_train_timesteps,
            annealing=cfg.annealing,
        ).repeat_interleave(per_sample)
        prompt = self.prompts.embeds(*camera_angles(cameras), shading)
        prompt = self.denoiser.condition(prompt, cameras)
        if self.known_cameras is not None:
            images = scale_gradient(images, angle_scale(cameras, self.known_cameras))
        guidance = make_guidance(cfg, step, n_steps)
        return guidance.loss(self.denoiser, images, prompt, timesteps.to(images.device), generator).loss


def make_guidance(config: GuidanceConfig, step: int, n_steps: int) -> Guidance:
    """The guidance of this step: settings that the method knows, resolved; the rest of its fields keep their defaults."""
    cls = GUIDANCES[config.method]
    names = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]  # every row is a dataclass
    wanted: dict[str, Any] = {item.name: getattr(config, item.name) for item in dataclasses.fields(config) if item.name in names}
    wanted["guidance_scale"] = scheduled(config.guidance_scale, step, n_steps)
    if wanted["guidance_scale"] == 0:
        del wanted["guidance_scale"]
    if wanted.get("timestep_weight") == "auto":
        del wanted["timestep_weight"]
    return cls(**wanted)
