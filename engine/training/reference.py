"""The known view: a picture of the object and the camera that took it, beside the views that the model judges.

Shapes: S = side of the picture, H = W pixels of a render.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.guidance.normal_estimate import estimate_normals
from engine.guidance.picture_views import PictureViews
from engine.protocol import FurtherView, JobRequest, with_kept_pictures
from engine.rendering.render import RenderOutput
from engine.scene.cameras import Cameras, fit_radius, orbit_cameras
from engine.scene.depth_estimate import estimate_depth
from engine.scene.reference_view import FRAME, read_depth, read_normals, read_picture
from engine.training.training_config import ReferenceConfig

# A pixel that shows less of the object says nothing about its depth or its normals.
MIN_OPACITY = 1e-3
# Standard deviation below which a correlation's gradient must not grow any more: a flat or an empty render knows no order yet.
MIN_SPREAD = 1e-3
# In world units; nearer than any camera stands to the object.
MIN_DEPTH = 1e-2


class KnownView:
    """What the object looks like from one side.

    Args:
        picture: [S, S, 4] in [0, 1], sRGB and straight alpha, in the frame of `engine.scene.reference_view`.
        config: where its camera stands, how large the object is, how much the picture counts.
        normals: [S, S, 3] in [0, 1], (n + 1) / 2 with n right, up and towards the camera.
    """

    def __init__(
        self,
        picture: Tensor,
        config: ReferenceConfig,
        device: torch.device,
        *,
        normals: Tensor | None = None,
    ) -> None:
        self.cameras: Cameras = known_camera(config).to(device)
        self.weight = config.weight
        self.depth: Tensor | None = None
        self.normals = None if normals is None else (2 * normals - 1).permute(2, 0, 1)[None].to(device)  # [1, 3, S, S]
        self._depth_is_near = False
        color, alpha = picture[..., :3], picture[..., 3:]
        self._picture = torch.cat([color * alpha, alpha], dim=-1).permute(2, 0, 1)[None].to(device)  # [1, 4, S, S] premultiplied

    def set_normals(self, normals: Tensor) -> None:
        """A normal map [S, S, 3] in [0, 1] for `normal_loss`."""
        self.normals = (2 * normals - 1).permute(2, 0, 1)[None].to(self._picture.device)  # [1, 3, S, S]

    def set_depth(self, depth: Tensor, *, is_near: bool) -> None:
        """A depth map [S, S] in [0, 1] for `depth_loss`; `is_near`: whether what is near is bright, not what is far."""
        self.depth = depth[None, None].to(self._picture.device)  # [1, 1, S, S]
        self._depth_is_near = is_near

    @property
    def over_white(self) -> Tensor:
        """[1, S, S, 3] in [0, 1]."""
        return (self._picture[:, :3] + 1 - self._picture[:, 3:]).permute(0, 2, 3, 1)

    def target(self, size: int) -> tuple[Tensor, Tensor]:
        """Premultiplied color [1, size, size, 3] and opacity [1, size, size] in [0, 1]; each pixel the mean of what it covers."""
        small = F.interpolate(self._picture, (size, size), mode="area").permute(0, 2, 3, 1)
        return small[..., :3], small[..., 3]

    def losses(self, out: RenderOutput, background: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared errors of color, over `background` [1, 3] as it was rendered, and of opacity."""
        color, opacity = self.target(out.image.shape[1])
        wanted = color + (1 - opacity[..., None]) * background[:, None, None, :]
        return F.mse_loss(out.image, wanted), F.mse_loss(out.opacity, opacity)

    def depth_loss(self, out: RenderOutput) -> Tensor:
        """One less Pearson's correlation of the map with the render's depth along the camera's axis, where the object is seen.

        In 0..2. Neither scale nor offset of the map matters; of a map of nearness, one over the depth is compared.
        Source: stable-dreamfusion's known-view loss.
        """
        assert self.depth is not None
        size = out.depth.shape[1]
        wanted, inside = self._map_at(self.depth, size)
        found = out.depth / out.opacity.clamp(min=MIN_OPACITY) * axis_cosines(self.cameras, size)  # [1, size, size]
        if self._depth_is_near:
            found = 1 / found.clamp(min=MIN_DEPTH)
        return 1 - pearson(found[inside], wanted[..., 0][inside])

    def normal_loss(self, out: RenderOutput) -> Tensor:
        """Mean of one less the cosine between the map's normals and the render's, where the object is seen. In 0..2.

        Raises: ValueError if the render has none.
        """
        assert self.normals is not None
        if out.normal_image is None:
            raise ValueError("normal_loss needs a render with normals")
        wanted, inside = self._map_at(self.normals, out.depth.shape[1])
        in_world = F.normalize(wanted @ self.cameras.camera_to_world[0, :3, :3].T, dim=-1)
        found = F.normalize(2 * out.normal_image - 1, dim=-1, eps=MIN_OPACITY)
        return (1 - (found * in_world).sum(-1))[inside].mean()

    def _map_at(self, values: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """A map's values [1, size, size, C], each the mean of what lies on the object, and where the object is [1, size, size]."""
        alpha = self._picture[:, 3:]
        covered = F.interpolate(alpha, (size, size), mode="area")
        small = F.interpolate(values * alpha, (size, size), mode="area") / covered.clamp(min=MIN_OPACITY)
        return small.permute(0, 2, 3, 1), covered[:, 0] > 0.5


def pearson(one: Tensor, other: Tensor) -> Tensor:
    """Correlation of two [N] in -1..1; nearer to 0 where one of them varies by less than MIN_SPREAD."""
    one, other = one - one.mean(), other - other.mean()
    least = MIN_SPREAD * max(1, len(one)) ** 0.5
    return (one * other).sum() / (one.norm().clamp(min=least) * other.norm().clamp(min=least))


def axis_cosines(cameras: Cameras, size: int) -> Tensor:
    """[B, size, size]: what turns a distance along a pixel's ray into one along the camera's axis. Perspective cameras."""
    left, right, bottom, top = (edge[:, None, None] for edge in cameras.window.unbind(-1))
    middle = (torch.arange(size, device=cameras.window.device) + 0.5) / size
    x, y = left + middle * (right - left), top + middle[:, None] * (bottom - top)
    return (1 + x.square() + y.square()).rsqrt()


def load_known_views(request: JobRequest, folder: Path, config: ReferenceConfig, device: torch.device) -> list[KnownView]:
    """All pictures of a job, from the copies in its folder; the first is where the settings say. Raises UserError."""
    if not request.reference_image:
        return []
    kept = with_kept_pictures(request, str(folder))
    first = FurtherView(
        image=kept.reference_image,
        azimuth_deg=config.azimuth_deg,
        elevation_deg=config.elevation_deg,
        weight=config.weight,
        depth=kept.reference_depth,
        normal=kept.reference_normal,
    )
    return [_load(view, config, device) for view in (first, *kept.further_views)]


def _load(view: FurtherView, config: ReferenceConfig, device: torch.device) -> KnownView:
    placed = replace(config, azimuth_deg=view.azimuth_deg, elevation_deg=view.elevation_deg, weight=view.weight)
    normals = torch.from_numpy(read_normals(Path(view.normal))) if view.normal else None
    known = KnownView(torch.from_numpy(read_picture(Path(view.image))), placed, device, normals=normals)
    if view.depth:
        known.set_depth(torch.from_numpy(read_depth(Path(view.depth))), is_near=config.depth_map == "nearness")
    elif config.depth_model:
        depth, is_near = estimate_depth(Path(config.depth_model), known.over_white[0])
        known.set_depth(depth, is_near=is_near)
    if normals is None and config.normal_model:
        known.set_normals(estimate_normals(Path(config.normal_model), known.over_white[0]))
    return known


def as_prompt(views: list[KnownView]) -> PictureViews:
    """The pictures for a model whose prompt they are."""
    weights = torch.tensor([view.weight for view in views], dtype=torch.float32)
    return PictureViews(torch.cat([view.over_white for view in views]), joined_cameras(views), weights)


def joined_cameras(views: list[KnownView]) -> Cameras:
    return Cameras(torch.cat([view.cameras.camera_to_world for view in views]), torch.cat([view.cameras.window for view in views]))


def known_camera(config: ReferenceConfig) -> Cameras:
    """[1] camera whose picture is the frame: it stands where a unit ball would fill its field of view."""
    distance = fit_radius(config.fov_y_deg)
    place = (config.azimuth_deg, config.elevation_deg, distance, config.fov_y_deg)
    cameras = orbit_cameras(*(torch.tensor([value]) for value in place))
    half = FRAME * config.object_radius / distance
    return Cameras(cameras.camera_to_world, torch.tensor([[-half, half, -half, half]]))
