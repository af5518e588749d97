"""The diffusion model's side of a training step: view prompts, noise levels and guidance, put together from the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.guidance.distillation import Guidance
from engine.guidance.guidance_config import DEFAULT_NEGATIVES, METHOD_SETTINGS, GuidanceConfig
from engine.guidance.guidances import GUIDANCES
from engine.guidance.inspection import inspect
from engine.guidance.model_table import Model
from engine.guidance.picture_views import angle_scale, scale_gradient
from engine.guidance.timesteps import draw
from engine.guidance.vsd import VSD, AdaptedScore
from engine.scene.cameras import Cameras, camera_angles
from engine.scene.scene_config import CameraConfig
from engine.scene.view_prompts import PromptEmbeds, ViewPrompts
from engine.scene.view_weights import VIEWS
from engine.schedule import scheduled
from engine.training.checkpoint import optimizer_tensors, restore_optimizer
from engine.training.run_state import Teacher
from engine.training.surface_views import SurfaceView


class DiffusionTeacher:
    """Judges renders by a denoiser that was told what they shall show.

    Args:
        known_cameras: where pictures were taken; the nearer a view is to one of them, the less the model has to say
            (`angle_scale`). None: as much everywhere.
        beside: another teacher, whose loss is added.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompts: ViewPrompts,
        config: GuidanceConfig,
        known_cameras: Cameras | None = None,
        beside: Teacher | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.prompts = prompts
        self.config = config
        self.known_cameras = known_cameras
        self.beside = beside
        self._renders: AdaptedScore | None = None
        self._surface_view: SurfaceView | None = None

    def watch(self, surface_view: SurfaceView) -> None:
        """From now on the denoiser is shown this surface from each camera before it judges; for a ControlNet."""
        self._surface_view = surface_view

    def begin(self, generator: torch.Generator) -> None:
        """What the method trains beside the field starts anew; drawn from `generator`, on the CPU. Raises UserError."""
        if GUIDANCES[self.config.method] is not VSD:
            return
        if self._renders is not None:
            self._renders.adapters.remove()
        self._renders = AdaptedScore(self.denoiser, self.config.lora_rank, self.config.lora_rate, generator)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Parts of a checkpoint by name; none for most methods."""
        if self._renders is None:
            return {}
        return {"adapters": dict(self._renders.adapters.state_dict()), "adapters_optimizer": optimizer_tensors(self._renders.optimizer)}

    def restore(self, parts: Mapping[str, dict[str, Tensor]]) -> None:
        """Inverse of `state`. A checkpoint of a run with another method has none of it: then it starts anew."""
        if self._renders is not None and "adapters" in parts:
            self._renders.adapters.load_state_dict(parts["adapters"])
            restore_optimizer(self._renders.optimizer, parts["adapters_optimizer"])

    def loss(self, images: Tensor, cameras: Cameras, shading: str, step: int, n_steps: int, generator: torch.Generator) -> Tensor:
        """Scalar, averaged over the batch; see `engine.training.trainer.Teacher`."""
        cfg = self.config
        self.denoiser.at(step / n_steps)
        per_sample = self.denoiser.views_per_sample
        timesteps = draw(
            step,
            n_steps,
            (cfg.t_low, cfg.t_high),
            len(cameras) // per_sample,
            generator,
            alphas_cumprod=self.denoiser.alphas_cumprod,
            annealing=cfg.annealing,
        ).repeat_interleave(per_sample)
        perp_neg = scheduled(cfg.perp_neg, step, n_steps)
        contrast = 0.0 if cfg.method == "clip" else scheduled(cfg.view_contrast, step, n_steps)
        prompt = self.prompts.embeds(*camera_angles(cameras), shading, perp_neg=perp_neg, contrast=contrast)
        prompt = self._told(prompt, cameras)
        renders = images
        if self.known_cameras is not None:
            images = scale_gradient(images, angle_scale(cameras, self.known_cameras))
        guidance = make_guidance(cfg, step, n_steps)
        if isinstance(guidance, VSD):
            guidance = dataclasses.replace(guidance, renders=self._renders)
            prompt = dataclasses.replace(prompt, camera_to_world=cameras.camera_to_world)
        images = clip_gradient(images, cfg.image_grad_clip)
        loss = guidance.loss(self.denoiser, images, prompt, timesteps.to(images.device), generator).loss
        if self.beside is not None:
            loss = loss + self.beside.loss(renders, cameras, shading, step, n_steps, generator)
        return loss

    def _told(self, prompt: PromptEmbeds, cameras: Cameras) -> PromptEmbeds:
        """The prompt as the denoiser takes it, after it was shown what it must see of these B views."""
        if self._surface_view is not None:
            self.denoiser.show_surface(self._surface_view(cameras))
        return self.denoiser.condition(prompt, cameras)

    def inspect(self, images: Tensor, cameras: Cameras, step: int, n_steps: int, generator: torch.Generator) -> Tensor:
        """What the model makes of renders [B, H, W, 3] now, as one picture; see `engine.guidance.inspection`. At the middle of the
        step's noise levels, with the strength of the step's guidance."""
        cfg = self.config
        middle = (scheduled(cfg.t_low, step, n_steps) + scheduled(cfg.t_high, step, n_steps)) / 2
        n_levels = self.denoiser.num_train_timesteps
        timesteps = torch.full((len(cameras),), min(int(middle * n_levels), n_levels - 1), device=images.device)
        prompt = self._told(self.prompts.embeds(*camera_angles(cameras), "albedo"), cameras)
        scale = getattr(make_guidance(cfg, step, n_steps), "guidance_scale", 1.0)
        return inspect(self.denoiser, images, prompt, timesteps, guidance_scale=scale, generator=generator)


def make_guidance(config: GuidanceConfig, step: int, n_steps: int) -> Guidance:
    """The guidance of this step: settings that the method knows, resolved; what is 0 or "auto" for "its own" keeps its default."""
    wanted: dict[str, Any] = {}
    for name in METHOD_SETTINGS[config.method]:
        value = getattr(config, name)
        wanted[name] = scheduled(value, step, n_steps) if isinstance(value, tuple) else value
    for name, own in (("guidance_scale", 0), ("n_inversion_steps", 0), ("timestep_weight", "auto")):
        if wanted.get(name) == own:
            del wanted[name]
    if "n_ddim_steps" in wanted:
        wanted["n_ddim_steps"] = round(wanted["n_ddim_steps"])
    return GUIDANCES[config.method](**wanted)


def make_prompts(denoiser: Denoiser, model: Model, prompt: str, negative: str, config: GuidanceConfig, camera: CameraConfig) -> ViewPrompts:
    """All texts of a run, embedded: after this the denoiser's text encoder may go.

    Without a negative prompt a model of free prompts gets the method's own, if it has one.
    """
    if not negative.strip() and model.takes_free_prompts:
        negative = DEFAULT_NEGATIVES.get(config.method, "")
    return ViewPrompts(
        prompt,
        negative,
        denoiser.embed,
        view_words={view: "" for view in VIEWS} if config.view_prompts == "off" else model.view_words,
        shading_words=model.shading_words,
        mode="named" if config.view_prompts == "named" else "interpolated",
        front_deg=camera.front_deg,
        overhead_deg=camera.overhead_deg,
        own_texts=config.own_texts(),
        flaws=config.flaws if "bridge" in METHOD_SETTINGS[config.method] else "",
    )


def clip_gradient(images: Tensor, limit: float) -> Tensor:
    """`images`, whose gradient on the way back is kept within +-limit, value by value; 0 leaves it."""
    if limit == 0 or not images.requires_grad:
        return images
    clipped = images.view_as(images)
    clipped.register_hook(lambda grad: grad.clamp(-limit, limit))
    return clipped
