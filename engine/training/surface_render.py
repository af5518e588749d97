"""Pictures of a triangle mesh whose color is a field, with gradient to both.

Shapes: B cameras, H W pixels, V vertices, F faces, N pixels that see a surface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.meshing.raster import seen_triangles
from engine.rendering.antialias import Edges, antialias, edges_of
from engine.rendering.render import expand_background
from engine.rendering.shading import needs_normals, shade
from engine.rendering.surface_pixels import face_normals, interpolate, project, smooth_normals, surface_pixels
from engine.scene.cameras import Cameras

AlbedoFn = Callable[[Tensor], Tensor]
"""Maps positions [N, 3] to albedo [N, 3] in [0, 1], sRGB-encoded."""


@dataclass(frozen=True)
class Surface:
    """vertices [V, 3] float32 in world space, may need gradient; faces [F, 3] int64, counter-clockwise from outside."""

    vertices: Tensor
    faces: Tensor
    edges: Edges = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", edges_of(self.faces))


@dataclass(frozen=True)
class SurfaceImages:
    """What cameras see.

    Attributes:
        image: [B, H, W, 3] in [0, 1], over the background. opacity: [B, H, W] in [0, 1].
        depth: [B, H, W], distance along the ray in world units, 0 where nothing is; without gradient.
        positions: [N, 3], the places seen, without gradient.
    """

    image: Tensor
    opacity: Tensor
    depth: Tensor
    positions: Tensor


def render_surface(
    surface: Surface,
    albedo_at: AlbedoFn,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    background: Tensor,
    shading: str = "albedo",
    ambient_ratio: float = 1.0,
    light_direction: Tensor | None = None,
) -> SurfaceImages:
    """Images with gradient to the vertices (silhouettes and, in lit shadings, normals) and to what albedo_at depends on.

    Args:
        background: [B, H, W, 3] or [B, 3] in [0, 1]. Other arguments: as `engine.rendering.render.render`.
    """
    n = len(cameras)
    seen, plane_depth = seen_triangles(surface.vertices, surface.faces, cameras, height, width)
    projection = project(surface.vertices, cameras, height, width)
    pixels = surface_pixels(projection, surface.faces, seen)
    # Detached: a color that slides over the surface would move it, and noise in colors would become noise in shape.
    positions = interpolate(surface.vertices, surface.faces, pixels).detach()
    toward = cameras.positions[pixels.view] - positions
    normals = None
    if needs_normals(shading):
        normals = interpolate(smooth_normals(surface.vertices, surface.faces), surface.faces, pixels)
        normals = torch.nn.functional.normalize(normals, dim=-1, eps=1e-6)
        outward = face_normals(surface.vertices.detach(), surface.faces)[pixels.face]
        normals = torch.where(((outward * toward).sum(-1) < 0)[:, None], -normals, normals)  # the back of an open mesh
    light = torch.nn.functional.normalize(toward, dim=-1) if light_direction is None else light_direction[pixels.view]
    colors = shade(albedo_at(positions), normals, light, ambient_ratio, shading)  # [N, 3]
    canvas = expand_background(background, n, height, width).reshape(-1, 3)
    canvas = torch.cat([canvas, canvas.new_zeros(len(canvas), 1)], dim=1)
    canvas = canvas.index_put((pixels.index,), torch.cat([colors, torch.ones_like(colors[:, :1])], dim=1))
    images = antialias(canvas.reshape(n, height, width, 4), projection, surface.edges, plane_depth)
    along = plane_depth.new_zeros(n * height * width)
    along[pixels.index] = plane_depth.reshape(-1)[pixels.index] - cameras.near
    if not cameras.orthographic:
        along[pixels.index] = toward.norm(dim=-1) * along[pixels.index] / plane_depth.reshape(-1)[pixels.index]
    return SurfaceImages(images[..., :3], images[..., 3], along.reshape(n, height, width), positions)
