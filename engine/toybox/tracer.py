"""Sphere tracing of a placed prop into picture buffers with exact ground truth.

Shapes: B views, H W pixels, N rays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.scene.cameras import Cameras, camera_rays
from engine.toybox.prop import PlacedProp

# Approximate distances (ellipsoids, smooth unions, cones) may overshoot a little; shorter steps keep thin parts.
STEP_FACTOR = 0.9
HIT_DISTANCE = 2e-3
MAX_STEPS = 48
# A ray can enter the object only inside this ball (the prop lies within OBJECT_RADIUS = 0.9).
BOUND_RADIUS = 0.95


@dataclass(frozen=True)
class Buffers:
    """What is seen, before light: all [B, H, W, ...] float32.

    Attributes:
        opacity: [B, H, W] in [0, 1], antialiased coverage.
        normals: [B, H, W, 3], world space, unit where covered.
        positions: [B, H, W, 3], world space; averaged over what covers the pixel.
        color: [B, H, W, 3], natural sRGB colour.
        tint: [B, H, W] in [0, 1], how much of the pixel takes the prompt's colour.
        shade: [B, H, W], factor on the prompt's colour.
        depth: [B, H, W], distance along the ray.
    """

    opacity: Tensor
    normals: Tensor
    positions: Tensor
    color: Tensor
    tint: Tensor
    shade: Tensor
    depth: Tensor


def _ball_span(rays_o: Tensor, rays_d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Near and far distance [N] of each ray inside the bounding ball, and whether it meets it."""
    middle = -(rays_o * rays_d).sum(-1)
    square = BOUND_RADIUS**2 - ((rays_o + middle[:, None] * rays_d).square().sum(-1))
    half = square.clamp_min(0.0).sqrt()
    return (middle - half).clamp_min(0.0), middle + half, (square > 0) & (middle + half > 0)


def _normals(placed: PlacedProp, positions: Tensor, step: float = 2e-3) -> Tensor:
    """Unit gradient [N, 3] of the distance, from four tetrahedron taps."""
    taps = positions.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    values = placed.distance((positions[None] + step * taps[:, None]).reshape(-1, 3)).reshape(4, -1)
    return F.normalize(torch.einsum("kn,kd->nd", values, taps), dim=-1, eps=1e-9)


def _trace(placed: PlacedProp, rays_o: Tensor, rays_d: Tensor) -> tuple[Tensor, Tensor]:
    """(hit [N] bool, distance along the ray [N])."""
    near, far, meets = _ball_span(rays_o, rays_d)
    along, hit = near.clone(), torch.zeros_like(meets)
    active = meets.nonzero().squeeze(-1)
    for _ in range(MAX_STEPS):
        if len(active) == 0:
            break
        distance = placed.distance(rays_o[active] + along[active, None] * rays_d[active])
        hit[active[distance < HIT_DISTANCE]] = True
        along[active] += distance.clamp_min(0.0) * STEP_FACTOR
        active = active[(distance >= HIT_DISTANCE) & (along[active] < far[active])]
    hit[active] = placed.distance(rays_o[active] + along[active, None] * rays_d[active]) < 4 * HIT_DISTANCE
    return hit, along


@torch.no_grad()
def render_buffers(placed: PlacedProp, cameras: Cameras, height: int, width: int, *, supersample: int = 2) -> Buffers:
    """Trace `supersample`^2 rays a pixel and average; colours, normals and positions are averaged over the covered rays."""
    s = supersample
    rays_o, rays_d = camera_rays(cameras, height * s, width * s)
    hit, along = _trace(placed, rays_o, rays_d)
    surface = rays_o[hit] + along[hit, None] * rays_d[hit]
    part = placed.distances(surface).argmin(dim=0) if len(surface) else torch.zeros(0, dtype=torch.long)
    parts = placed.prop.parts
    table = torch.tensor([[*p.color, float(p.tinted), p.shade] for p in parts], dtype=torch.float32)
    values = torch.zeros(len(rays_o), 13)
    values[hit] = torch.cat([torch.ones(len(surface), 1), _normals(placed, surface), surface, table[part], along[hit, None]], dim=-1)
    grid = values.view(len(cameras) * height, s, width, s, 13).mean(dim=(1, 3)).view(len(cameras), height, width, 13)
    opacity = grid[..., 0]
    grid = grid / opacity.clamp_min(1e-6)[..., None]
    return Buffers(
        opacity=opacity,
        normals=F.normalize(grid[..., 1:4], dim=-1, eps=1e-6),
        positions=grid[..., 4:7],
        color=grid[..., 7:10],
        tint=grid[..., 10],
        shade=grid[..., 11],
        depth=grid[..., 12],
    )
