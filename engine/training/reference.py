"""The known view: a picture of the object and the camera that took it, beside the views that the model judges.

Shapes: S = side of the picture, H = W pixels of a render.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.rendering.render import RenderOutput
from engine.scene.cameras import Cameras, fit_radius, orbit_cameras
from engine.scene.reference_view import FRAME, read_picture
from engine.training.training_config import ReferenceConfig


class KnownView:
    """What the object looks like from one side.

    Args:
        picture: [S, S, 4] in [0, 1], sRGB and straight alpha, in the frame of `engine.scene.reference_view`.
        config: where its camera stands and how large the object is.
    """

    def __init__(self, picture: Tensor, config: ReferenceConfig, device: torch.device) -> None:
        self.cameras: Cameras = known_camera(config).to(device)
        color, alpha = picture[..., :3], picture[..., 3:]
        self._picture = torch.cat([color * alpha, alpha], dim=-1).permute(2, 0, 1)[None].to(device)  # [1, 4, S, S] premultiplied

    @classmethod
    def load(cls, path: Path, config: ReferenceConfig, device: torch.device) -> KnownView:
        """From a prepared picture. Raises UserError."""
        return cls(torch.from_numpy(read_picture(path)), config, device)

    def target(self, size: int) -> tuple[Tensor, Tensor]:
        """Premultiplied color [1, size, size, 3] and opacity [1, size, size] in [0, 1]; each pixel the mean of what it covers."""
        small = F.interpolate(self._picture, (size, size), mode="area").permute(0, 2, 3, 1)
        return small[..., :3], small[..., 3]

    def losses(self, out: RenderOutput, background: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared errors of color, over `background` [1, 3] as it was rendered, and of opacity."""
        color, opacity = self.target(out.image.shape[1])
        wanted = color + (1 - opacity[..., None]) * background[:, None, None, :]
        return F.mse_loss(out.image, wanted), F.mse_loss(out.opacity, opacity)


def known_camera(config: ReferenceConfig) -> Cameras:
    """[1] camera whose picture is the frame: it stands where a unit ball would fill its field of view."""
    distance = fit_radius(config.fov_y_deg)
    place = (config.azimuth_deg, config.elevation_deg, distance, config.fov_y_deg)
    cameras = orbit_cameras(*(torch.tensor([value]) for value in place))
    half = FRAME * config.object_radius / distance
    return Cameras(cameras.camera_to_world, torch.tensor([[-half, half, -half, half]]))
