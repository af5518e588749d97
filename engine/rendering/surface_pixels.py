"""Triangles as pixels, with gradient: where vertices fall in the picture, and what a surface shows at the pixels that see it.

Which triangle a pixel sees is a matter of counting and has no gradient; whoever calls brings it (`engine.meshing.raster`).
Everything that changes smoothly with the vertices is computed here, by torch, so autograd gives its gradient. What happens where
the seen triangle itself changes, at silhouettes, is in `antialias.py`.

Shapes: B cameras, H W pixels, V vertices, F faces, N pixels that see a surface, C channels. Pixels are counted from the top left;
the centre of pixel (column, row) is (column + 0.5, row + 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.scene.cameras import Cameras

# A corner nearer than this to the camera plane cannot be projected (cameras stand outside).
NEAR = 1e-3


@dataclass(frozen=True)
class Projection:
    """pixels [B, V, 2], from the top left; depths [B, V], distance from the camera plane in world units; differentiable."""

    pixels: Tensor
    depths: Tensor
    orthographic: bool


@dataclass(frozen=True)
class SurfacePixels:
    """The pixels that see a surface.

    Attributes:
        index: [N] int64 into B*H*W, ascending.
        view: [N] int64, camera. face: [N] int64, the triangle seen.
        weights: [N, 3], perspective-correct weights of its corners, summing to 1; differentiable in the vertices.
    """

    index: Tensor
    view: Tensor
    face: Tensor
    weights: Tensor


def project(vertices: Tensor, cameras: Cameras, height: int, width: int) -> Projection:
    """Where vertices [V, 3] in world space fall. The type of `vertices` is kept, so float64 is exact enough for differences."""
    camera_to_world = cameras.camera_to_world.to(vertices)
    rotation, position = camera_to_world[:, :3, :3], camera_to_world[:, :3, 3]
    local = (vertices[None] - position[:, None]) @ rotation  # [B, V, 3]
    depths = -local[..., 2]
    plane = local[..., :2] if cameras.orthographic else local[..., :2] / depths.clamp(min=NEAR)[..., None]
    left, right, bottom, top = cameras.window.to(vertices)[:, None].unbind(-1)  # each [B, 1]
    x = (plane[..., 0] - left) / (right - left) * width
    y = (plane[..., 1] - top) / (bottom - top) * height
    return Projection(torch.stack([x, y], dim=-1), depths, cameras.orthographic)


def surface_pixels(projection: Projection, faces: Tensor, seen: Tensor) -> SurfacePixels:
    """The pixels of a picture, from the triangle that each sees.

    Args:
        faces: [F, 3] int64.
        seen: [B, H, W] int64, triangle that the pixel's centre sees, -1 for none.
    """
    height, width = seen.shape[1:]
    index = (seen.reshape(-1) >= 0).nonzero()[:, 0]
    view, place = index // (height * width), index % (height * width)
    face = seen.reshape(-1)[index]
    corners = faces[face]  # [N, 3]
    a, b, c = (projection.pixels[view, corners[:, i]] for i in range(3))
    center = torch.stack([place % width + 0.5, place // width + 0.5], dim=1).to(a)
    flat = torch.stack([_cross(b - center, c - center), _cross(c - center, a - center), _cross(a - center, b - center)], dim=1)
    if not projection.orthographic:  # 1/depth is what varies linearly over the picture
        flat = flat / torch.stack([projection.depths[view, corners[:, i]] for i in range(3)], dim=1)
    total = flat.sum(dim=1, keepdim=True)
    return SurfacePixels(index, view, face, flat / torch.where(total == 0, torch.ones_like(total), total))


def interpolate(values: Tensor, faces: Tensor, pixels: SurfacePixels) -> Tensor:
    """Values at vertices [V, C] as the pixels see them, [N, C]. Differentiable in the values and in the vertices."""
    return (pixels.weights[..., None] * values[faces[pixels.face]]).sum(dim=1)


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Normals [F, 3] as long as twice the area, outward where corners run counter-clockwise seen from outside."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return torch.linalg.cross(b - a, c - a)


def smooth_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals at vertices [V, 3]: mean of the faces round a vertex weighted by area. Zero where there is none. Differentiable."""
    per_face = face_normals(vertices, faces)
    total = torch.zeros_like(vertices).index_add(0, faces.reshape(-1), per_face.repeat_interleave(3, dim=0))
    return torch.nn.functional.normalize(total, dim=-1, eps=1e-20)


def _cross(u: Tensor, v: Tensor) -> Tensor:
    """z of the cross product of vectors [..., 2] in the plane."""
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]
