"""The diffusion model's side of a training step: view prompts, noise levels and guidance, put together from the settings."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.guidance.distillation import Guidance
from engine.guidance.guidances import GUIDANCES
from engine.guidance.inspection import inspect
from engine.guidance.timesteps import draw
from engine.scene.cameras import Cameras, camera_angles
from engine.scene.view_prompts import ViewPrompts
from engine.schedule import scheduled
from engine.training.training_config import GuidanceConfig


class DiffusionTeacher:
    """Judges renders by a denoiser that was told what they shall show."""

    def __init__(self, denoiser: Denoiser, prompts: ViewPrompts, config: GuidanceConfig) -> None:
        self.denoiser = denoiser
        self.prompts = prompts
        self.config = config

    def loss(self, images: Tensor, cameras: Cameras, shading: str, step: int, n_steps: int, generator: torch.Generator) -> Tensor:
        """Scalar, averaged over the batch; see `engine.training.trainer.Teacher`."""
        cfg = self.config
        self.denoiser.at(step / n_steps)
        timesteps = draw(
            step,
            n_steps,
            (cfg.t_low, cfg.t_high),
            len(cameras),
            generator,
            num_train_timesteps=self.denoiser.num_train_timesteps,
            annealing=cfg.annealing,
        )
        prompt = self.prompts.embeds(*camera_angles(cameras), shading)
        guidance = make_guidance(cfg, step, n_steps)
        return guidance.loss(self.denoiser, images, prompt, timesteps.to(images.device), generator).loss

    def inspect(self, images: Tensor, cameras: Cameras, step: int, n_steps: int, generator: torch.Generator) -> Tensor:
        """What the model makes of renders [B, H, W, 3] now, as one picture; see `engine.guidance.inspection`. At the middle of the
        step's noise levels, with the strength of the step's guidance."""
        cfg = self.config
        middle = (scheduled(cfg.t_low, step, n_steps) + scheduled(cfg.t_high, step, n_steps)) / 2
        n_levels = self.denoiser.num_train_timesteps
        timesteps = torch.full((len(cameras),), min(int(middle * n_levels), n_levels - 1), device=images.device)
        prompt = self.prompts.embeds(*camera_angles(cameras), "albedo")
        scale = getattr(make_guidance(cfg, step, n_steps), "guidance_scale", 1.0)
        return inspect(self.denoiser, images, prompt, timesteps, guidance_scale=scale, generator=generator)


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
