"""The training step: what a field, a renderer and a teacher do together. The loop round it is in loop.py.

Shapes: B views of a step, H = W pixels, M packed samples, R = B*H*W rays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.config import JobConfig
from engine.fields.field import RadianceField, make_field
from engine.rendering.march import box_share
from engine.rendering.occupancy import OccupancyGrid
from engine.rendering.render import PlainImages, RenderOutput, render, step_size_for
from engine.scene.cameras import Cameras, camera_rays
from engine.scene.sampling import sample_cameras, sample_lights
from engine.training.checkpoint import Checkpoint
from engine.training.ema import Ema
from engine.training.losses import entropy_loss, opacity_loss, orientation_loss, smoothness_loss, tv_loss
from engine.training.reference import KnownView
from engine.training.run_state import OPTIMIZERS, SMOOTH_PLACES, RunState, StepReport, Teacher
from engine.training.trained import TrainedField, half_steps


class Trainer(RunState):
    """Everything that changes during a run: field, averaged field, occupancy, optimizer, generators, step."""

    def __init__(
        self,
        config: JobConfig,
        seed: int,
        device: torch.device,
        teacher: Teacher,
        known_views: Sequence[KnownView] = (),
        initialise: Callable[[RadianceField], None] | None = None,
    ) -> None:
        super().__init__(config, seed, device, teacher)
        self.known_views = known_views
        self.initialise = initialise  # what a new field is given before the first step
        self._begin()

    def _make(self) -> None:
        cfg = self.config
        self.field: RadianceField = make_field(cfg.field, self.generator).to(self.device)
        if self.initialise is not None:
            self.field.max_level = self.at(cfg.training.max_level)
            self.initialise(self.field)
        self.ema: Ema[RadianceField] = Ema(self.field, cfg.training.ema_decay)
        self.occupancy = OccupancyGrid(cfg.render.occupancy_resolution, cfg.render.occupancy_cascades).to(self.device)
        self.optimizer = OPTIMIZERS[cfg.optimizer.method](self.field.parameter_groups(1.0, cfg.optimizer.weight_decay), 1.0)

    def train_step(self) -> StepReport:
        """One optimizer update. Raises DivergedError."""
        # All looks of a step share what depends on the parameters alone, like the sum of a dense grid's levels. The optimizer changes
        # them when the last look is over.
        with self.field.frozen():
            return self._update()

    def _update(self) -> StepReport:
        cfg = self.config
        n_views, size = self.views(self.step)
        self._set_level()
        if self.step % cfg.render.occupancy_every == 0:
            with torch.no_grad():
                self.occupancy.update(self.field.density, self.step, self.device_generator)

        cameras = sample_cameras(cfg.camera, n_views, self.step, self.n_steps, generator=self.generator)  # 1. where to look from
        shading, ambient_ratio = self._draw_shading()
        light = sample_lights(cfg.light, cameras, generator=self.generator).to(self.device)
        cameras = cameras.to(self.device)
        # The renderer's textureless surface is white. Rendered over a brighter background and darkened as a whole, it is clay.
        clay = cfg.light.clay if shading == "textureless" else 1.0
        out = render(  # 2. image [B, H, W, 3]
            self.field,
            cameras,
            size,
            size,
            self.occupancy,
            step_size=self.step_size,
            cone_angle=cfg.render.cone_angle,
            background=self._background(cameras, size) / clay,
            shading=shading,
            ambient_ratio=ambient_ratio,
            light_direction=light,
            generator=self.device_generator,
            max_samples=cfg.render.max_samples,
        )
        guidance_loss = self.teacher.loss(out.image * clay, cameras, shading, self.step, self.n_steps, self.device_generator)  # 3.
        loss = cfg.guidance.weight * guidance_loss + self._regularisers(out)  # 4.
        if self.known_views and self.step % cfg.reference.every == 0:
            loss = loss + self._known_view_loss(self._draw_known_view(), size)
        self._descend(loss)  # 5.
        self.ema.update(self.field, self.step)
        self.step += 1
        box_opacity = out.opacity.detach().mean() / box_share(cameras).clamp(min=1e-6)
        densities = out.densities.detach()
        largest = densities.max() if len(densities) else densities.new_zeros(())
        return StepReport(loss.detach(), guidance_loss.detach(), box_opacity, largest, out.left_out)

    @property
    def step_size(self) -> float:
        """Length of a sample in world units, of the shortest where there is a cone angle."""
        return step_size_for(self.config.render.n_samples)

    def _set_level(self) -> None:
        level = self.at(self.config.training.max_level)
        self.field.max_level = level
        self.ema.module.max_level = level

    def _draw_shading(self) -> tuple[str, float]:
        cfg = self.config.light
        draw, ambient = torch.rand(2, generator=self.generator).tolist()
        low, high = cfg.ambient_ratio
        textureless = self.at(cfg.textureless_ratio)
        if draw < textureless:
            return "textureless", low + (high - low) * ambient
        if draw < textureless + self.at(cfg.lambertian_ratio):
            return "lambertian", low + (high - low) * ambient
        if draw < textureless + self.at(cfg.lambertian_ratio) + self.at(cfg.normal_ratio):
            return "normal", 1.0
        return "albedo", 1.0

    def _background(self, cameras: Cameras, size: int) -> Tensor:
        """[B, H, W, 3], or [B, 3] for one colour a view."""
        cfg, n = self.config.render, len(cameras)
        if cfg.background == "solid":
            return torch.tensor(cfg.solid_rgb, device=self.device).expand(n, 3)
        alike = self.config.camera.views_per_group  # what belongs together stands before one background
        color = torch.rand(n // alike, 1 if cfg.gray_background else 3, generator=self.generator).repeat_interleave(alike, dim=0)
        color = color.expand(n, 3).to(self.device)
        use_learned = torch.rand(n, generator=self.generator) < {"random": 0.0, "learned": 1.0, "mixed": 0.5}[cfg.background]
        if not bool(use_learned.any()):
            return color
        _, directions = camera_rays(cameras, size, size)
        learned = self.field.background(directions).view(n, size, size, 3)
        return torch.where(use_learned.to(self.device)[:, None, None, None], learned, color[:, None, None, :])

    def _regularisers(self, out: RenderOutput) -> Tensor:
        cfg = self.config.loss
        loss = out.image.new_zeros(())
        if (weight := self.at(cfg.lambda_opacity)) > 0 and not self.restarts:
            loss = loss + weight * opacity_loss(out.opacity)
        if (weight := self.at(cfg.lambda_entropy)) > 0:
            loss = loss + weight * entropy_loss(out.opacity)
        if (weight := self.at(cfg.lambda_tv)) > 0:
            loss = loss + weight * tv_loss(out.opacity)
        if (weight := self.at(cfg.lambda_orientation)) > 0 and out.normals is not None:
            loss = loss + weight * orientation_loss(out.weights, out.normals, out.directions, out.n_rays)
        if (weight := self.at(cfg.lambda_smooth)) > 0 and len(out.positions):
            loss = loss + weight * self._smoothness(out.positions)
        if (weight := self.at(cfg.lambda_grid_tv)) > 0 and len(out.positions):
            loss = loss + weight * self._grid_variation(self.field, out.positions)
        return loss

    def _smoothness(self, positions: Tensor) -> Tensor:
        """At some of the places [M, 3] that this step looked at, so that empty space costs nothing."""
        generator = self.device_generator
        chosen = torch.randint(len(positions), (SMOOTH_PLACES,), generator=generator, device=self.device)
        here = positions[chosen].detach()
        offsets = torch.randn(here.shape, generator=generator, device=self.device) * self.config.loss.smooth_radius
        densities, albedo = self.field(torch.cat([here, (here + offsets).clamp(-1, 1)]))
        alphas = 1 - torch.exp(-densities * self.step_size)  # what counts is what is seen, not how dense the inside is
        values = torch.cat([alphas[:, None], albedo * alphas.detach()[:, None]], dim=1)  # [2M, 4]
        return smoothness_loss(*values.chunk(2))

    def _draw_known_view(self) -> KnownView:
        """One picture a look, drawn by weight: in the mean the weighted sum of all their losses, at the price of one."""
        if len(self.known_views) == 1:
            return self.known_views[0]
        weights = torch.tensor([view.weight for view in self.known_views], dtype=torch.float32)
        return self.known_views[int(torch.multinomial(weights, 1, generator=self.generator))]

    def _known_view_loss(self, view: KnownView, size: int) -> Tensor:
        """How far the field's picture [1, size, size, 3] is from the one that the run follows."""
        cfg = self.config.reference
        background = torch.rand(1, 3, generator=self.generator).to(self.device)  # no colour can hide in it
        depth_weight = self.at(cfg.lambda_depth) if view.depth is not None else 0.0
        normal_weight = self.at(cfg.lambda_normal) if view.normals is not None else 0.0
        out = render(
            self.field,
            view.cameras,
            size,
            size,
            self.occupancy,
            step_size=self.step_size,
            cone_angle=self.config.render.cone_angle,
            background=background,
            generator=self.device_generator,
            with_normals=normal_weight > 0,
            max_samples=self.config.render.max_samples,
        )
        rgb, mask = view.losses(out, background)
        loss = self.at(cfg.lambda_rgb) * rgb + self.at(cfg.lambda_mask) * mask
        if depth_weight > 0:
            loss = loss + depth_weight * view.depth_loss(out)
        if normal_weight > 0:
            loss = loss + normal_weight * view.normal_loss(out)
        return loss

    @torch.no_grad()
    def picture(self, cameras: Cameras, height: int, width: int, *, shading: str = "albedo") -> PlainImages:
        """The averaged field through `cameras`, over white, the same every time."""
        return self.trained.picture(cameras, height, width, shading=shading)

    @property
    def trained(self) -> TrainedField:
        """What there is to look at by now; it changes with the next step."""
        return TrainedField(self.ema.module, self.occupancy, *half_steps(self.config.render))

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        return {
            "field": dict(self.field.state_dict()),
            "ema": dict(self.ema.module.state_dict()),
            "occupancy": dict(self.occupancy.state_dict()),
        }

    def _load(self, checkpoint: Checkpoint) -> None:
        parts = checkpoint.parts
        self.field.load_state_dict(parts["field"])
        self.ema.module.load_state_dict(parts["ema"])
        if self.occupancy.fits(parts["occupancy"]):  # else of a coarser run: looked at anew
            self.occupancy.load_state_dict(parts["occupancy"])
