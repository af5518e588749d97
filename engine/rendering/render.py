"""Images of a field: with gradient for training (`render`), without and in pieces for looking at (`render_image`).

Shapes: B cameras, H W pixels, R = B*H*W rays, M packed samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.fields.field import RadianceField
from engine.rendering.composite import accumulate, weights_from_density
from engine.rendering.march import PackedSamples, march, pack
from engine.rendering.occupancy import OccupancyGrid
from engine.rendering.shading import needs_normals, shade
from engine.scene.cameras import Cameras, camera_rays

# Below half of 1/255 a sample cannot change an 8-bit channel, so marching may stop there.
MIN_VISIBLE_TRANSMITTANCE = 0.5 / 255
BOX_DIAGONAL = 2.0 * math.sqrt(3.0)


@dataclass(frozen=True)
class RenderOutput:
    """Images, and per sample what losses need.

    Attributes:
        image: [B, H, W, 3] in [0, 1], over the background.
        opacity: [B, H, W] in [0, 1].
        depth: [B, H, W], sum of weight times distance along the unit ray in world units; not divided by opacity.
        normal_image: [B, H, W, 3] in [0, 1], (n + 1) / 2 over mid-grey; None if the shading needs no normals.
        weights: [M] in [0, 1].
        ray_indices: [M] int64, ascending, in (camera, row, column) order.
        positions: [M, 3]. directions: [M, 3] unit, of the ray. normals: [M, 3] unit outward or None.
        densities: [M]. t_mids, deltas: [M] world units.
        n_rays: B * H * W.
    """

    image: Tensor
    opacity: Tensor
    depth: Tensor
    normal_image: Tensor | None
    weights: Tensor
    ray_indices: Tensor
    positions: Tensor
    directions: Tensor
    normals: Tensor | None
    densities: Tensor
    t_mids: Tensor
    deltas: Tensor
    n_rays: int


@dataclass(frozen=True)
class PlainImages:
    """image [B, H, W, 3], opacity [B, H, W], depth [B, H, W] (not divided by opacity), normal_image [B, H, W, 3] or None."""

    image: Tensor
    opacity: Tensor
    depth: Tensor
    normal_image: Tensor | None


def step_size_for(n_samples: int) -> float:
    """Step in world units that gives a ray along the box's diagonal `n_samples` samples."""
    return BOX_DIAGONAL / n_samples


def render(
    field: RadianceField,
    cameras: Cameras,
    height: int,
    width: int,
    occupancy: OccupancyGrid,
    *,
    step_size: float,
    background: Tensor,
    shading: str = "albedo",
    ambient_ratio: float = 1.0,
    light_direction: Tensor | None = None,
    generator: torch.Generator | None = None,
    with_normals: bool = False,
    prune: bool = True,
) -> RenderOutput:
    """Images with gradient.

    Args:
        step_size: distance between samples in world units.
        background: [B, H, W, 3] or [B, 3] in [0, 1].
        shading: albedo, lambertian, textureless or normal, see `shade`.
        ambient_ratio: 0..1, 1 = unlit.
        light_direction: [B, 3] unit, from the surface towards the light; None lights from each camera.
        generator: jitters pixels and samples; None takes the middles, the same image each time.
        with_normals: return normals even if the shading needs none.
        prune: leave out samples that no light reaches (transmittance below MIN_VISIBLE_TRANSMITTANCE); costs one look without
            gradient, saves the gradient of everything behind a surface.
    Returns:
        RenderOutput, differentiable in the field's parameters and in the background.
    Raises:
        ValueError: if the background or light does not fit the cameras.
    """
    n = len(cameras)
    background = expand_background(background, n, height, width)
    if light_direction is not None and light_direction.shape != (n, 3):
        raise ValueError(f"light_direction must be [{n}, 3], got {list(light_direction.shape)}")
    rays_o, rays_d = camera_rays(cameras, height, width, jitter=generator)
    n_rays = rays_o.shape[0]
    with_normals = with_normals or needs_normals(shading)
    samples = march(rays_o, rays_d, occupancy, step_size, generator=generator)
    with field.frozen():
        if prune:
            samples = visible_samples(field, rays_o, rays_d, samples)
        ray_indices, directions, t_mids, positions = _locate(rays_o, rays_d, samples)
        found = field.evaluate(positions, with_normals=with_normals)
    deltas = samples.t_ends - samples.t_starts
    weights, _ = weights_from_density(found.densities, deltas, samples.packed_info)
    light = -directions if light_direction is None else light_direction[ray_indices // (height * width)]
    colors = shade(found.albedo, found.normals, light, ambient_ratio, shading)
    image, opacity, depth, normal_image = _compose(weights, colors, t_mids, found.normals, ray_indices, n_rays, background.reshape(-1, 3))
    shape = (n, height, width)
    return RenderOutput(
        image=image.reshape(*shape, 3),
        opacity=opacity.reshape(shape),
        depth=depth.reshape(shape),
        normal_image=None if normal_image is None else normal_image.reshape(*shape, 3),
        weights=weights,
        ray_indices=ray_indices,
        positions=positions,
        directions=directions,
        normals=found.normals,
        densities=found.densities,
        t_mids=t_mids,
        deltas=deltas,
        n_rays=n_rays,
    )


@torch.no_grad()
def render_image(
    field: RadianceField,
    cameras: Cameras,
    height: int,
    width: int,
    occupancy: OccupancyGrid,
    *,
    step_size: float,
    background: Tensor,
    shading: str = "albedo",
    ambient_ratio: float = 1.0,
    light_direction: Tensor | None = None,
    with_normals: bool = False,
    max_rays_per_chunk: int = 16384,
) -> PlainImages:
    """Images without gradient at any resolution, in bounded memory. Deterministic. Arguments as in `render`."""
    n = len(cameras)
    background = expand_background(background, n, height, width).reshape(-1, 3)
    rays_o, rays_d = camera_rays(cameras, height, width)
    with_normals = with_normals or needs_normals(shading)
    pieces = []
    with field.frozen():
        for start in range(0, rays_o.shape[0], max_rays_per_chunk):
            part = slice(start, start + max_rays_per_chunk)
            samples = march(rays_o[part], rays_d[part], occupancy, step_size)
            samples = visible_samples(field, rays_o[part], rays_d[part], samples)
            ray_indices, directions, t_mids, positions = _locate(rays_o[part], rays_d[part], samples)
            found = field.evaluate(positions, with_normals=with_normals)
            weights, _ = weights_from_density(found.densities, samples.t_ends - samples.t_starts, samples.packed_info)
            light = -directions if light_direction is None else light_direction[(ray_indices + start) // (height * width)]
            colors = shade(found.albedo, found.normals, light, ambient_ratio, shading)
            pieces.append(_compose(weights, colors, t_mids, found.normals, ray_indices, rays_o[part].shape[0], background[part]))
    shape = (n, height, width)
    image, opacity, depth = (torch.cat([piece[k] for piece in pieces if piece[k] is not None]) for k in range(3))  # type: ignore[misc]
    normal_image = torch.cat([p[3] for p in pieces if p[3] is not None]).reshape(*shape, 3) if with_normals else None
    return PlainImages(image.reshape(*shape, 3), opacity.reshape(shape), depth.reshape(shape), normal_image)


def expand_background(background: Tensor, n: int, height: int, width: int) -> Tensor:
    """[B, 3] or [B, H, W, 3] to [B, H, W, 3]. Raises ValueError for anything else."""
    if background.shape == (n, 3):
        return background[:, None, None, :].expand(n, height, width, 3)
    if background.shape != (n, height, width, 3):
        raise ValueError(f"background must be [{n}, 3] or [{n}, {height}, {width}, 3], got {list(background.shape)}")
    return background


@torch.no_grad()
def visible_samples(field: RadianceField, rays_o: Tensor, rays_d: Tensor, samples: PackedSamples) -> PackedSamples:
    """The samples that light still reaches. Looks at the density once, without gradient."""
    _, _, _, positions = _locate(rays_o, rays_d, samples)
    deltas = samples.t_ends - samples.t_starts
    _, transmittance = weights_from_density(field.density(positions), deltas, samples.packed_info)
    kept = (transmittance >= MIN_VISIBLE_TRANSMITTANCE).nonzero()[:, 0]
    ray_indices = samples.ray_indices[kept]
    return PackedSamples(ray_indices, samples.t_starts[kept], samples.t_ends[kept], pack(ray_indices, rays_o.shape[0]))


def _locate(rays_o: Tensor, rays_d: Tensor, samples: PackedSamples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ray_indices = samples.ray_indices
    t_mids = 0.5 * (samples.t_starts + samples.t_ends)  # [M]
    directions = rays_d.index_select(0, ray_indices)  # [M, 3]
    return ray_indices, directions, t_mids, torch.addcmul(rays_o.index_select(0, ray_indices), t_mids[:, None], directions)


def _compose(
    weights: Tensor, colors: Tensor, t_mids: Tensor, normals: Tensor | None, ray_indices: Tensor, n_rays: int, background: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """image [R, 3], opacity [R], depth [R], normal_image [R, 3] or None, in one pass over the samples."""
    values = [colors, torch.ones_like(t_mids)[:, None], t_mids[:, None]]
    if normals is not None:
        values.append(normals)
    sums = accumulate(weights, torch.cat(values, dim=1), ray_indices, n_rays)  # [R, 5 or 8]
    # Rounding may carry the sum a little over 1, and a background must not be subtracted.
    opacity = sums[:, 3].clamp(max=1.0)
    image = sums[:, :3] + (1.0 - opacity[:, None]) * background
    return image, opacity, sums[:, 4], None if normals is None else sums[:, 5:8] * 0.5 + 0.5
