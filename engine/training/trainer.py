"""The training step: what a field, a renderer and a teacher do together. The loop round it is in loop.py.

Shapes: B views of a step, H = W pixels, M packed samples, R = B*H*W rays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from engine.config import JobConfig
from engine.errors import UserError
from engine.fields.field import RadianceField, make_field
from engine.rendering.march import box_share
from engine.rendering.occupancy import OccupancyGrid
from engine.rendering.render import PlainImages, RenderOutput, render, step_size_for
from engine.scene.cameras import Cameras, camera_rays
from engine.scene.sampling import sample_cameras, sample_lights
from engine.schedule import scheduled
from engine.training.adan import Adan
from engine.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from engine.training.collapse import diverged_error
from engine.training.ema import Ema
from engine.training.losses import entropy_loss, is_finite, opacity_loss, orientation_loss, smoothness_loss, tv_loss
from engine.training.reference import KnownView
from engine.training.trained import TrainedField

# Enough for a steady gradient, few enough to cost a tenth of a step.
SMOOTH_PLACES = 8192
# What a restart after a collapse changes: smaller steps, nothing that pushes the object away.
GENTLER_RATE = 0.5


class Teacher(Protocol):
    """What pulls renders towards the prompt: a diffusion model, or an oracle in tests."""

    def loss(self, images: Tensor, cameras: Cameras, shading: str, step: int, n_steps: int, generator: torch.Generator) -> Tensor:
        """Scalar whose gradient flows into `images` [B, H, W, 3]."""


@runtime_checkable
class LearningTeacher(Teacher, Protocol):
    """A teacher that trains something of its own in `loss`, which a checkpoint must hold."""

    def begin(self, generator: torch.Generator) -> None:
        """Start anew; called before the first step and after a collapse."""

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Parts of a checkpoint by name; may be none."""

    def restore(self, parts: Mapping[str, dict[str, Tensor]]) -> None:
        """Continue from a checkpoint's parts, of which there may be more and its own may be missing."""


def _adam(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    # DreamFusion-like fields need a short memory of the squared gradient: it falls a hundredfold over a run.
    # Fused: one pass over a dense grid instead of ten, 1.3 ms a step instead of 10 on one core.
    return torch.optim.Adam(groups, lr=lr, betas=(0.9, 0.99), eps=1e-15, fused=True)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], float], torch.optim.Optimizer]] = {"adam": _adam, "adan": Adan}


@dataclass(frozen=True)
class StepReport:
    """What a step saw, as scalars. Values stay on the device until somebody looks.

    box_opacity: mean opacity of the views as a share of what the whole box would cover. largest_density: per world unit.
    """

    loss: Tensor
    guidance_loss: Tensor
    box_opacity: Tensor
    largest_density: Tensor


class Trainer:
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
        self.config = config
        self.device = device
        self.teacher = teacher
        self.known_views = known_views
        self.initialise = initialise  # what a new field is given before the first step
        self.generator = torch.Generator().manual_seed(seed)  # cameras, lights, backgrounds: the same on every device
        self.device_generator = torch.Generator(device=device).manual_seed(seed)  # noise, timesteps, places on rays
        self.restarts = 0
        self.restart_reason = ""
        self._begin()

    def _begin(self) -> None:
        cfg = self.config
        self.step = 0
        self.field: RadianceField = make_field(cfg.field, self.generator).to(self.device)
        if self.initialise is not None:
            self.field.max_level = self.at(cfg.training.max_level)
            self.initialise(self.field)
        self.ema: Ema[RadianceField] = Ema(self.field, cfg.training.ema_decay)
        self.occupancy = OccupancyGrid(cfg.render.occupancy_resolution).to(self.device)
        self.optimizer = OPTIMIZERS[cfg.optimizer.method](self.field.parameter_groups(1.0), 1.0)
        if isinstance(self.teacher, LearningTeacher):
            self.teacher.begin(self.generator)

    @property
    def n_steps(self) -> int:
        return self.config.training.n_steps

    def at(self, value: float | tuple[float, ...]) -> float:
        """A scheduled setting at this step."""
        return scheduled(value, self.step, self.n_steps)

    def restart(self, reason: str) -> None:
        """Begin again after a collapse, gently, with other random draws."""
        self.restarts += 1
        self.restart_reason = reason
        self._begin()

    def views(self, step: int) -> tuple[int, int]:
        """Batch size and picture size in pixels at `step`."""
        cfg = self.config
        size = 8 * round(scheduled(cfg.render.size_px, step, self.n_steps) / 8)
        return max(1, round(scheduled(cfg.training.batch_size, step, self.n_steps))), max(16, size)

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
            background=self._background(cameras, size) / clay,
            shading=shading,
            ambient_ratio=ambient_ratio,
            light_direction=light,
            generator=self.device_generator,
        )
        guidance_loss = self.teacher.loss(out.image * clay, cameras, shading, self.step, self.n_steps, self.device_generator)  # 3.
        loss = cfg.guidance.weight * guidance_loss + self._regularisers(out)  # 4.
        if self.known_views and self.step % cfg.reference.every == 0:
            loss = loss + self._known_view_loss(self._draw_known_view(), size)
        self.optimizer.zero_grad(set_to_none=True)  # 5.
        loss.backward()
        self._check(loss)  # before the optimizer, which would keep a NaN for ever
        self._set_rate()
        self.optimizer.step()
        self.ema.update(self.field, self.step)
        self.step += 1
        box_opacity = out.opacity.detach().mean() / box_share(cameras).clamp(min=1e-6)
        densities = out.densities.detach()
        largest = densities.max() if len(densities) else densities.new_zeros(())
        return StepReport(loss.detach(), guidance_loss.detach(), box_opacity, largest)

    @property
    def step_size(self) -> float:
        """Length of a sample in world units."""
        return step_size_for(self.config.render.n_samples)

    def _set_level(self) -> None:
        level = self.at(self.config.training.max_level)
        self.field.max_level = level
        self.ema.module.max_level = level

    def _set_rate(self) -> None:
        cfg = self.config.optimizer
        rate = self.at(cfg.learning_rate) * min(1.0, (self.step + 1) / (cfg.warm_up_steps + 1)) * GENTLER_RATE**self.restarts
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        if cfg.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.field.parameters(), cfg.max_grad_norm)

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
            background=background,
            generator=self.device_generator,
            with_normals=normal_weight > 0,
        )
        rgb, mask = view.losses(out, background)
        loss = self.at(cfg.lambda_rgb) * rgb + self.at(cfg.lambda_mask) * mask
        if depth_weight > 0:
            loss = loss + depth_weight * view.depth_loss(out)
        if normal_weight > 0:
            loss = loss + normal_weight * view.normal_loss(out)
        return loss

    def _check(self, loss: Tensor) -> None:
        if self.device.type == "cpu" or self.step % self.config.training.check_every == 0:  # a wait for the GPU
            gradients = [p.grad for p in self.field.parameters() if p.grad is not None]
            total = torch.stack(list(torch._foreach_norm(gradients))).sum() if gradients else loss
            if not is_finite(loss, total):
                raise diverged_error("the gradient", self.step)

    @torch.no_grad()
    def picture(self, cameras: Cameras, height: int, width: int, *, shading: str = "albedo") -> PlainImages:
        """The averaged field through `cameras`, over white, the same every time."""
        return self.trained.picture(cameras, height, width, shading=shading)

    @property
    def trained(self) -> TrainedField:
        """What there is to look at by now; it changes with the next step."""
        return TrainedField(self.ema.module, self.occupancy, self.step_size / 2)

    def checkpoint(self) -> Checkpoint:
        """All that the next step depends on."""
        parts = {
            "field": dict(self.field.state_dict()),
            "ema": dict(self.ema.module.state_dict()),
            "optimizer": optimizer_tensors(self.optimizer),
            "occupancy": dict(self.occupancy.state_dict()),
            "generators": {"host": self.generator.get_state(), "device": self.device_generator.get_state()},
        }
        if isinstance(self.teacher, LearningTeacher):
            parts |= self.teacher.state()
        meta = {"step": self.step, "restarts": self.restarts, "restart_reason": self.restart_reason, "device": self.device.type}
        return Checkpoint(parts, meta)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue exactly where `checkpoint` was taken. Raises UserError."""
        parts, meta = checkpoint.parts, checkpoint.meta
        try:
            self.field.load_state_dict(parts["field"])
            self.ema.module.load_state_dict(parts["ema"])
            if parts["occupancy"]["densities"].shape == self.occupancy.densities.shape:  # else of a coarser run: looked at anew
                self.occupancy.load_state_dict(parts["occupancy"])
            restore_optimizer(self.optimizer, parts["optimizer"])
            if isinstance(self.teacher, LearningTeacher):
                self.teacher.restore(parts)
            if not meta.get("new_seed"):  # else this run's own draws, not those of the run it goes on from
                self._restore_generators(parts["generators"], meta["device"])
            self.step, self.restarts, self.restart_reason = meta["step"], meta["restarts"], meta["restart_reason"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError("The checkpoint does not fit this job's settings.", "Start again in another folder.", "checkpoint") from error
        self._set_level()

    def _restore_generators(self, states: dict[str, Tensor], device_type: str) -> None:
        self.generator.set_state(states["host"])
        if device_type == self.device.type:
            self.device_generator.set_state(states["device"])
