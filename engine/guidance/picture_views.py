"""Pictures as a prompt: from where each was taken, how near a camera is to them, and what that makes of a gradient.

Shapes: B cameras, R pictures, S pixels along a side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from engine.scene.cameras import Cameras, camera_angles

# A picture's say falls with the angle to it; below a tenth of the nearest one's it has none (stable-dreamfusion's numbers).
NEAREST_DEG = 0.01
LEAST_SHARE = 0.1


@dataclass(frozen=True)
class PictureViews:
    """R pictures of one object and the cameras that took them.

    Attributes:
        pictures: [R, S, S, 3] float32 in [0, 1], over white.
        cameras: R cameras, each picture's own.
        weights: [R] float32, how much each is trusted, against the others; at least one above 0.
    """

    pictures: Tensor
    cameras: Cameras
    weights: Tensor

    def __post_init__(self) -> None:
        n = len(self.cameras)
        if n == 0 or self.pictures.ndim != 4 or len(self.pictures) != n or self.weights.shape != (n,):
            raise ValueError(
                f"pictures must be [R, S, S, 3] and weights [R] for {n} > 0 cameras, "
                f"got {list(self.pictures.shape)} and {list(self.weights.shape)}"
            )

    def to(self, device: torch.device | str) -> PictureViews:
        return PictureViews(self.pictures.to(device), self.cameras.to(device), self.weights.to(device))


@runtime_checkable
class PicturePrompted(Protocol):
    """A denoiser whose prompt is pictures: it must look at them before it judges anything."""

    def look_at(self, views: PictureViews) -> None: ...


def angles_between_deg(cameras: Cameras, others: Cameras) -> Tensor:
    """[B, R] in 0..180: the angle at the origin between where each of B cameras and each of R others stands."""
    here = torch.nn.functional.normalize(cameras.positions.double(), dim=-1)
    there = torch.nn.functional.normalize(others.positions.double(), dim=-1)
    # From sine and cosine: the cosine alone tells small angles badly.
    sines = torch.linalg.cross(here[:, None], there[None], dim=-1).norm(dim=-1)
    return torch.rad2deg(torch.atan2(sines, here @ there.T)).float()


def shares(cameras: Cameras, views: PictureViews) -> Tensor:
    """[B, R], rows sum to 1: how much each picture says about what each camera sees.

    Its weight times one over its angle to the camera; pictures much farther than the nearest say nothing.
    Source: stable-dreamfusion's Zero123 guidance with several references.
    """
    angles = angles_between_deg(cameras, views.cameras).clamp(min=NEAREST_DEG)
    nearness = angles.amin(dim=1, keepdim=True) / angles  # 1 for the nearest
    wanted = views.weights * torch.where(nearness < LEAST_SHARE, 0.0, nearness)
    lost = wanted.sum(dim=1, keepdim=True) == 0  # only pictures without weight are near
    wanted = torch.where(lost, views.weights * nearness, wanted)
    return wanted / wanted.sum(dim=1, keepdim=True)


def angle_scale(cameras: Cameras, others: Cameras) -> Tensor:
    """[B] in 0..1: the angle to the nearest of R known cameras over 180 / R degrees, at most 1.

    Where the picture itself says what is seen, the model need not guess. Source: stable-dreamfusion, zero123_grad_scale "angle".
    """
    nearest = angles_between_deg(cameras, others).amin(dim=1)
    return (nearest / (180.0 / len(others))).clamp(max=1.0)


def scale_gradient(images: Tensor, factors: Tensor) -> Tensor:
    """`images` [B, ...] unchanged, but their gradient comes back times `factors` [B]."""
    factors = factors.view(-1, *[1] * (images.ndim - 1))
    return images.detach() + factors * (images - images.detach())


def relative_angles_deg(cameras: Cameras, others: Cameras) -> tuple[Tensor, Tensor]:
    """Azimuth and elevation of B cameras less those of R others, [B, R] each; azimuths in no particular turn."""
    (azimuth, elevation), (other_azimuth, other_elevation) = camera_angles(cameras), camera_angles(others)
    return azimuth[:, None] - other_azimuth, elevation[:, None] - other_elevation


def half_heights(cameras: Cameras) -> Tensor:
    """[B] world units from the middle to the edge of what a camera sees at the origin: how large it shows the object."""
    half = (cameras.window[:, 3] - cameras.window[:, 2]) / 2
    return half if cameras.orthographic else half * cameras.positions.norm(dim=-1)
