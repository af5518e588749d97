"""Cameras: Blender's conventions, batched, and the rays that leave them.

World: right-handed, Z up, the object's front is -Y. A camera looks along its local -Z with +Y up and +X right.
Angles are degrees at every interface. `azimuth_deg` 0 is the front (camera at -Y), 90 shows the object's left side
(camera at +X). `elevation_deg` 0 is the horizon, 90 looks straight down.

Shapes: B cameras, H W pixels, R = B*H*W rays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """A batch of cameras.

    Attributes:
        camera_to_world: [B, 4, 4] float32, rigid; columns right, up, back, position.
        window: [B, 4] float32, the picture's left, right, bottom, top edge in camera space. For a perspective camera at
            distance 1 (so +-tan(fov/2) without shift), for an orthographic one in world units. Lens shift, sensor fit and
            pixel aspect are all in these four numbers.
        orthographic: True if rays are parallel.
        near: distance in world units of the plane on which rays start, in front of the camera; may be negative for
            orthographic cameras, which also see what lies behind them (Blender's viewport does).
    """

    camera_to_world: Tensor
    window: Tensor
    orthographic: bool = False
    near: float = 0.0

    def __post_init__(self) -> None:
        n = self.camera_to_world.shape[0]
        if self.camera_to_world.shape != (n, 4, 4) or self.window.shape != (n, 4):
            raise ValueError(
                f"camera_to_world must be [B, 4, 4] and window [B, 4], got {list(self.camera_to_world.shape)} and {list(self.window.shape)}"
            )

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __getitem__(self, index: slice) -> Cameras:
        return Cameras(self.camera_to_world[index], self.window[index], self.orthographic, self.near)

    def to(self, device: torch.device | str) -> Cameras:
        return Cameras(self.camera_to_world.to(device), self.window.to(device), self.orthographic, self.near)

    @property
    def positions(self) -> Tensor:
        """[B, 3] float32, world position of each camera."""
        return self.camera_to_world[:, :3, 3]


def orbit_cameras(azimuth_deg: Tensor, elevation_deg: Tensor, radius: Tensor, fov_y_deg: Tensor, *, aspect: float = 1.0) -> Cameras:
    """Cameras on a sphere that look at the origin, world Z up.

    Args:
        azimuth_deg, elevation_deg: [B] float32. At +-90 degrees elevation the azimuth still decides which way is up.
        radius: [B] float32 > 0, distance to the origin in world units.
        fov_y_deg: [B] float32 in (0, 180), vertical field of view.
        aspect: picture width / height.
    """
    az, el = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    back = torch.stack([el.cos() * az.sin(), -el.cos() * az.cos(), el.sin()], dim=-1)  # [B, 3], from the origin to the camera
    right = torch.stack([az.cos(), az.sin(), torch.zeros_like(az)], dim=-1)
    up = torch.linalg.cross(back, right)
    rotation = torch.stack([right, up, back], dim=-1)  # [B, 3, 3]
    camera_to_world = torch.eye(4, device=az.device).repeat(len(az), 1, 1)
    camera_to_world[:, :3, :3] = rotation
    camera_to_world[:, :3, 3] = back * radius[:, None]
    half = torch.tan(torch.deg2rad(fov_y_deg) / 2)
    window = torch.stack([-half * aspect, half * aspect, -half, half], dim=-1)
    return Cameras(camera_to_world, window)


def camera_angles(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Azimuth and elevation [B] in degrees of where each camera stands, seen from the origin. Azimuth in (-180, 180]."""
    x, y, z = cameras.positions.unbind(-1)
    azimuth = torch.rad2deg(torch.atan2(x, -y))
    # Straight above or below the position says nothing about azimuth, but the camera's right axis still does.
    right = cameras.camera_to_world[:, :3, 0]
    from_right = torch.rad2deg(torch.atan2(right[:, 1], right[:, 0]))
    polar = torch.hypot(x, y) < 1e-4 * z.abs()
    elevation = torch.rad2deg(torch.atan2(z, torch.hypot(x, y)))
    return torch.where(polar, from_right, azimuth), elevation


def camera_rays(cameras: Cameras, height: int, width: int, *, jitter: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """One ray a pixel, rows from the top, in (camera, row, column) order.

    Args:
        jitter: draws the position inside each pixel from this generator; None takes pixel centres.
    Returns:
        rays_o, rays_d: [B*H*W, 3] float32; rays_d of unit length.
    """
    device = cameras.window.device
    n = len(cameras)
    shift = torch.full((n, height, width, 2), 0.5, device=device)
    if jitter is not None:
        shift = torch.rand((n, height, width, 2), generator=jitter, device=jitter.device).to(device)
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)[None, :]
    left, right, bottom, top = (edge[:, None, None] for edge in cameras.window.unbind(-1))
    x = left + (columns + shift[..., 0]) / width * (right - left)  # [B, H, W]
    y = top + (rows + shift[..., 1]) / height * (bottom - top)
    rotation = cameras.camera_to_world[:, :3, :3]
    position = cameras.positions[:, None, None, :]
    if cameras.orthographic:
        offset = torch.stack([x, y, torch.full_like(x, -cameras.near)], dim=-1)
        rays_o = position + torch.einsum("bij,bhwj->bhwi", rotation, offset)
        rays_d = (-rotation[:, None, None, :, 2]).expand_as(rays_o)
    else:
        direction = torch.einsum("bij,bhwj->bhwi", rotation, torch.stack([x, y, -torch.ones_like(x)], dim=-1))
        rays_d = torch.nn.functional.normalize(direction, dim=-1)
        rays_o = position + cameras.near * direction
    return rays_o.reshape(-1, 3), rays_d.reshape(-1, 3)


def fit_radius(fov_y_deg: float, object_radius: float = 1.0) -> float:
    """Distance at which a ball of `object_radius` round the origin just touches the picture's upper and lower edge."""
    return object_radius / math.sin(math.radians(fov_y_deg) / 2)
