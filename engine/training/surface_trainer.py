"""The training step of the stages that render a mesh instead of a field; `loop.train` runs it like any other trainer.

Shapes: B views of a step, H = W pixels, N pixels that see the surface.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.config import JobConfig
from engine.errors import UserError
from engine.meshing.cleanup import solid_pieces
from engine.meshing.rough_shape import RoughShape
from engine.rendering.march import box_share
from engine.rendering.render import PlainImages
from engine.scene.cameras import Cameras
from engine.scene.sampling import sample_cameras, sample_lights
from engine.training.checkpoint import Checkpoint
from engine.training.ema import Ema
from engine.training.losses import smoothness_loss
from engine.training.run_state import OPTIMIZERS, SMOOTH_PLACES, RunState, StepReport, Teacher
from engine.training.surface_losses import laplacian_loss, normal_consistency_loss
from engine.training.surface_model import SurfaceModel, albedo_of
from engine.training.surface_render import render_surface
from engine.training.surface_views import surface_picture

MakeModel = Callable[[torch.Generator], SurfaceModel]
"""Builds the model as it is before the first step."""


class SurfaceTrainer(RunState):
    """Everything that changes during a stage: model, averaged model, optimizer, generators, step."""

    def __init__(self, config: JobConfig, seed: int, device: torch.device, teacher: Teacher, make_model: MakeModel) -> None:
        super().__init__(config, seed, device, teacher)
        self._make_model = make_model
        self._begin()

    def _make(self) -> None:
        self._use(self._make_model(self.generator))

    def _use(self, model: SurfaceModel) -> None:
        """Train `model` from here on; what the optimizer remembered of another one is forgotten."""
        self.model = model
        self.ema: Ema[SurfaceModel] = Ema(model, self.config.training.ema_decay)
        self.optimizer = OPTIMIZERS[self.config.optimizer.method](self._groups(), 1.0)

    def _groups(self) -> list[dict[str, Any]]:
        groups = self.model.colors.parameter_groups(1.0, self.config.optimizer.weight_decay)
        if shape := self.model.shape_parameters():  # measured in cells
            scale = self.config.surface.shape_rate
            groups.append({"params": shape, "lr_scale": scale, "lr": scale, "name": "shape"})
        return groups

    def train_step(self) -> StepReport:
        """One optimizer update. Raises DivergedError."""
        cfg = self.config
        n_views, size = self.views(self.step)
        self._set_level()
        if (finer := self.model.refined(round(self.at(cfg.surface.resolution)))) is not None:
            self._use(finer)
        cameras = sample_cameras(cfg.camera, n_views, self.step, self.n_steps, generator=self.generator)
        shading, ambient_ratio = self._draw_shading()
        light = sample_lights(cfg.light, cameras, generator=self.generator).to(self.device)
        cameras = cameras.to(self.device)
        background = torch.rand(n_views, 1 if cfg.render.gray_background else 3, generator=self.generator).expand(n_views, 3)
        # Shape alone is shown as clay: over a brighter background, darkened as a whole (see Trainer.train_step).
        clay = cfg.light.clay if shading == "textureless" else 1.0
        surface = self.model.surface()
        out = render_surface(
            surface,
            lambda positions: albedo_of(self.model.colors, positions),
            cameras,
            size,
            size,
            background=background.to(self.device) / clay,
            shading=shading,
            ambient_ratio=ambient_ratio,
            light_direction=light,
        )
        guidance_loss = self.teacher.loss(out.image * clay, cameras, shading, self.step, self.n_steps, self.device_generator)
        loss = cfg.guidance.weight * guidance_loss
        if (weight := self.at(cfg.loss.lambda_smooth)) > 0 and len(out.positions):
            loss = loss + weight * self._color_smoothness(out.positions)
        if (weight := self.at(cfg.loss.lambda_grid_tv)) > 0 and len(out.positions):
            loss = loss + weight * self._grid_variation(self.model.colors, out.positions)
        if self.model.shape_parameters():
            loss = loss + self.at(cfg.surface.lambda_normal) * normal_consistency_loss(surface)
            loss = loss + self.at(cfg.surface.lambda_laplacian) * laplacian_loss(surface, self.model.cell)
        self._descend(loss)
        self.ema.update(self.model, self.step)
        self.step += 1
        box_opacity = out.opacity.detach().mean() / box_share(cameras).clamp(min=1e-6)
        return StepReport(loss.detach(), guidance_loss.detach(), box_opacity, torch.zeros(()))  # a surface has no density

    def _set_level(self) -> None:
        level = self.at(self.config.training.max_level)
        self.model.colors.max_level = level
        self.ema.module.colors.max_level = level

    def _draw_shading(self) -> tuple[str, float]:
        """Shading and ambient light of a step. Where the shape stays, showing it alone teaches nothing: color in light instead."""
        cfg = self.config.light
        draw, ambient = torch.rand(2, generator=self.generator).tolist()
        low, high = cfg.ambient_ratio
        textureless = self.at(cfg.textureless_ratio)
        if draw >= textureless + self.at(cfg.lambertian_ratio):
            return "albedo", 1.0
        is_shape = draw < textureless and bool(self.model.shape_parameters())
        return "textureless" if is_shape else "lambertian", low + (high - low) * ambient

    def _color_smoothness(self, positions: Tensor) -> Tensor:
        """Mean difference of color between some of the places seen and near ones, as the field's own stage has it."""
        generator = self.device_generator
        here = positions[torch.randint(len(positions), (SMOOTH_PLACES,), generator=generator, device=self.device)]
        offsets = torch.randn(here.shape, generator=generator, device=self.device) * self.config.loss.smooth_radius
        albedo = albedo_of(self.model.colors, torch.cat([here, (here + offsets).clamp(-1, 1)]))
        return smoothness_loss(*albedo.chunk(2))

    @torch.no_grad()
    def control_picture(self, cameras: Cameras, size: int) -> Tensor:
        """[B, size, size, 3] float32 in [0, 1]: depth or normals of the surface as it is trained now, for a ControlNet."""
        return surface_picture(self.config.model.control_kind, self.model.surface(), cameras, size)

    @torch.no_grad()
    def picture(self, cameras: Cameras, height: int, width: int) -> PlainImages:
        """The averaged surface through `cameras`, over white, the same every time."""
        model, background = self.ema.module, torch.ones(len(cameras), 3, device=self.device)
        with model.colors.frozen():
            out = render_surface(
                model.surface(),
                lambda positions: albedo_of(model.colors, positions),
                cameras.to(self.device),
                height,
                width,
                background=background,
            )
        return PlainImages(out.image, out.opacity, out.depth, None)

    @torch.no_grad()
    def rough_shape(self) -> RoughShape:
        """The averaged surface as it is. Raises UserError while there is nothing to be seen."""
        surface = self.ema.module.surface()
        if not len(surface.faces):
            raise UserError("The surface has vanished.", "Start again with another --seed.", "empty_field")
        vertices, faces = surface.vertices.cpu().numpy(), surface.faces.cpu().numpy()
        if self.model.shape_parameters():
            vertices, faces = solid_pieces(vertices, faces, min_component=self.config.mesh.min_component)
        return RoughShape(np.asarray(vertices, np.float32), np.asarray(faces, np.int32), self.model.cell)

    @torch.no_grad()
    def rough_colors(self, shape: RoughShape) -> np.ndarray[Any, np.dtype[np.float32]]:
        """[V, 3] float32 in [0, 1], sRGB-encoded, at the vertices of `shape`."""
        return albedo_of(self.ema.module.colors, torch.from_numpy(shape.vertices).to(self.device)).clamp(0, 1).cpu().numpy()

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        return {"field": dict(self.model.state_dict()), "ema": dict(self.ema.module.state_dict()), "occupancy": {}}

    def _meta(self) -> dict[str, Any]:
        return {"resolution": self.model.resolution, "cell": self.model.cell}

    def _load(self, checkpoint: Checkpoint) -> None:
        parts, meta = checkpoint.parts, checkpoint.meta
        self._use(self.model.fitting(parts["field"], meta["resolution"], meta["cell"]))
        self.model.load_state_dict(parts["field"])
        self.ema.module.load_state_dict(parts["ema"])
