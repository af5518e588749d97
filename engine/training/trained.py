"""What a run has trained, to be looked at: previews, pictures and the mesh are all made of this one averaged field."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.config import JobConfig
from engine.errors import UserError
from engine.fields.field import RadianceField, make_field
from engine.rendering.occupancy import OccupancyGrid
from engine.rendering.render import PlainImages, render_image, step_size_for
from engine.scene.cameras import Cameras
from engine.schedule import scheduled
from engine.training.checkpoint import Checkpoint
from engine.training.training_config import RenderConfig


@dataclass(frozen=True)
class TrainedField:
    """The averaged field, the space it fills, and how finely it is looked at (step and angle as of `march`)."""

    field: RadianceField
    occupancy: OccupancyGrid
    step_size: float
    cone_angle: float = 0.0

    @property
    def device(self) -> torch.device:
        return self.occupancy.bounds.device

    @torch.no_grad()
    def picture(
        self,
        cameras: Cameras,
        height: int,
        width: int,
        *,
        shading: str = "albedo",
        ambient_ratio: float = 1.0,
        with_normals: bool = False,
    ) -> PlainImages:
        """Pictures over white, lit from each camera, the same every time. Arguments as of `render_image`."""
        return render_image(
            self.field,
            cameras.to(self.device),
            height,
            width,
            self.occupancy,
            step_size=self.step_size,
            cone_angle=self.cone_angle,
            background=torch.ones(len(cameras), 3, device=self.device),
            shading=shading,
            ambient_ratio=ambient_ratio,
            with_normals=with_normals,
        )


def half_steps(config: RenderConfig) -> tuple[float, float]:
    """Step size and cone angle for pictures to look at: twice as fine as in training."""
    return step_size_for(config.n_samples) / 2, config.cone_angle / 2


def load_trained(config: JobConfig, checkpoint: Checkpoint, device: torch.device) -> TrainedField:
    """What the run of this checkpoint has trained; needs no diffusion model. Raises UserError if it is of other settings."""
    field = make_field(config.field, torch.Generator(device=device)).requires_grad_(False)
    occupancy = OccupancyGrid(config.render.occupancy_resolution, config.render.occupancy_cascades).to(device)
    try:
        field.load_state_dict(checkpoint.parts["ema"])
        if occupancy.fits(checkpoint.parts["occupancy"]):  # else all of space is looked at
            occupancy.load_state_dict(checkpoint.parts["occupancy"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(
            "The checkpoint does not fit this job's settings.", "Make the job again in another folder.", "checkpoint"
        ) from error
    field.max_level = scheduled(config.training.max_level, checkpoint.meta["step"], config.training.n_steps)
    return TrainedField(field, occupancy, *half_steps(config.render))
