"""What a ControlNet reads of a mesh: pictures of its depth or its normals, as their estimators paint them.

Shapes: B cameras, S pixels along a side, N pixels that see the surface.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from engine.meshing.raster import seen_triangles
from engine.rendering.surface_pixels import face_normals, interpolate, project, smooth_normals, surface_pixels
from engine.scene.cameras import Cameras
from engine.training.surface_render import Surface

ControlKind = Literal["depth", "normal"]
SurfaceView = Callable[[Cameras], Tensor]
"""Maps B cameras to what each sees of a surface, [B, S, S, 3] float32 in [0, 1]."""
# MiDaS looks at so many pixels a side: what a ControlNet learned from is no finer, and ours cost time on the CPU.
CONTROL_PX = 384
# What is farthest of the object is this bright: an estimator sees it stand out from the nothing behind it.
FARTHEST = 0.2


def surface_picture(kind: ControlKind, surface: Surface, cameras: Cameras, size: int) -> Tensor:
    """[B, size, size, 3] float32 in [0, 1], without gradient, on the device of the surface."""
    return {"depth": depth_pictures, "normal": normal_pictures}[kind](surface, cameras, size)


@torch.no_grad()
def depth_pictures(surface: Surface, cameras: Cameras, size: int) -> Tensor:
    """As MiDaS (1907.01341) paints them: one over the depth, so white is near, black is nothing.

    MiDaS knows it up to scale and shift, so each picture has its own: from 1, what is nearest, to `FARTHEST`.
    """
    _, depth = seen_triangles(surface.vertices, surface.faces, cameras, size, size)  # [B, S, S], inf where nothing is
    is_seen = depth.isfinite()
    nearness = -depth if cameras.orthographic else 1 / depth
    nearest = nearness.where(is_seen, nearness.new_tensor(-torch.inf)).amax(dim=(1, 2), keepdim=True)
    farthest = nearness.where(is_seen, nearness.new_tensor(torch.inf)).amin(dim=(1, 2), keepdim=True)
    share = (nearest - nearness) / (nearest - farthest).clamp(min=1e-6)
    picture = torch.where(is_seen, 1 - (1 - FARTHEST) * share, 0.0)
    return picture[..., None].expand(-1, -1, -1, 3)


@torch.no_grad()
def normal_pictures(surface: Surface, cameras: Cameras, size: int) -> Tensor:
    """0.5 + 0.5 n in the camera's axes: red right, green up, blue towards the camera; where nothing is, a wall that faces it."""
    device, n = surface.vertices.device, len(cameras)
    cameras = cameras.to(device)
    seen, _ = seen_triangles(surface.vertices, surface.faces, cameras, size, size)
    pixels = surface_pixels(project(surface.vertices, cameras, size, size), surface.faces, seen)
    normals = interpolate(smooth_normals(surface.vertices, surface.faces), surface.faces, pixels)
    toward = cameras.positions[pixels.view] - interpolate(surface.vertices, surface.faces, pixels)
    is_back = (face_normals(surface.vertices, surface.faces)[pixels.face] * toward).sum(-1) < 0  # of an open mesh
    normals = torch.where(is_back[:, None], -normals, normals)
    local = torch.einsum("nij,ni->nj", cameras.camera_to_world[pixels.view, :3, :3], normalize(normals, dim=-1, eps=1e-6))
    picture = torch.tensor([0.5, 0.5, 1.0], device=device).repeat(n * size * size, 1)
    picture[pixels.index] = 0.5 + 0.5 * local
    return picture.reshape(n, size, size, 3)
