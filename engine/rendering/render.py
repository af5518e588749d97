"""Images of a field: with gradient for training (`render`), without and in pieces for looking at (`render_image`).

Shapes: B cameras, H W pixels, R = B*H*W rays, M packed samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.fields.field import FieldSamples, RadianceField
from engine.rendering.composite import accumulate, composite, weights_from_density
from engine.rendering.march import PackedSamples, march, pack
from engine.rendering.occupancy import OccupancyGrid
from engine.rendering.shading import needs_normals, shade
from engine.scene.cameras import Cameras, camera_rays

# Below half of 1/255 a sample cannot change an 8-bit channel, so marching may stop there.
MIN_VISIBLE_TRANSMITTANCE = 0.5 / 255
# In training a ray ends where less light than this is left: a fortieth of 1/255, and a gradient that much fainter than the front's
# (the number of instant-ngp and torch-ngp).
STOP_TRANSMITTANCE = 1e-4
# Samples of a ray that are looked at before asking whether anything still passes: enough to keep the machine busy.
SLAB_SAMPLES = 12
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
        left_out: share of the samples that max_samples left out, a scalar; None without a limit.
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
    left_out: Tensor | None = None


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
    cone_angle: float = 0.0,
    background: Tensor,
    shading: str = "albedo",
    ambient_ratio: float = 1.0,
    light_direction: Tensor | None = None,
    generator: torch.Generator | None = None,
    with_normals: bool = False,
    prune: bool = False,
    max_samples: int = 0,
) -> RenderOutput:
    """Images with gradient.

    Args:
        step_size, cone_angle: distance between samples in world units, and what it is at least of the distance from the eye, see `march`.
        background: [B, H, W, 3] or [B, 3] in [0, 1].
        shading: albedo, lambertian, textureless or normal, see `shade`.
        ambient_ratio: 0..1, 1 = unlit.
        light_direction: [B, 3] unit, from the surface towards the light; None lights from each camera.
        generator: jitters pixels and samples; None takes the middles, the same image each time.
        with_normals: return normals even if the shading needs none.
        prune: leave out samples that no light reaches (transmittance below MIN_VISIBLE_TRANSMITTANCE); costs one look without
            gradient, saves the gradient of everything behind a surface. Measured on a CPU with a dense grid: a loss unless
            more than half of all samples are hidden, so it is for short steps and costly fields.
        max_samples: see `march`; not together with prune.
    Returns:
        RenderOutput, differentiable in the field's parameters and in the background.
    Raises:
        ValueError: if the background or light does not fit the cameras, or a fixed number of samples shall be pruned.
    """
    n = len(cameras)
    if prune and max_samples:
        raise ValueError("prune leaves out samples, max_samples fixes their number: not both")
    background = expand_background(background, n, height, width)
    if light_direction is not None and light_direction.shape != (n, 3):
        raise ValueError(f"light_direction must be [{n}, 3], got {list(light_direction.shape)}")
    rays_o, rays_d = camera_rays(cameras, height, width, jitter=generator)
    n_rays = rays_o.shape[0]
    with_normals = with_normals or needs_normals(shading)
    samples = march(rays_o, rays_d, occupancy, step_size, cone_angle=cone_angle, generator=generator, max_samples=max_samples)
    with field.frozen():
        if prune:
            samples = visible_samples(field, rays_o, rays_d, samples)
        ray_indices, directions, t_mids, positions = _locate(rays_o, rays_d, samples)
        found = field.evaluate(positions, with_normals=with_normals)
    deltas = samples.t_ends - samples.t_starts
    light = -directions if light_direction is None else light_direction[ray_indices // (height * width)]
    colors = shade(found.albedo, found.normals, light, ambient_ratio, shading)
    values = _channels(colors, t_mids, found.normals)
    weights, sums = composite(found.densities, deltas, values, ray_indices, samples.packed_info, STOP_TRANSMITTANCE)
    image, opacity, depth, normal_image = _finish(sums, background.reshape(-1, 3))
    shape = (n, height, width)
    return RenderOutput(
        image=image.reshape(*shape, 3),
        opacity=opacity.reshape(shape),
        depth=depth.reshape(shape),
        normal_image=normal_image.reshape(*shape, 3) if with_normals else None,
        weights=weights,
        ray_indices=ray_indices,
        positions=positions,
        directions=directions,
        normals=found.normals,
        densities=found.densities,
        t_mids=t_mids,
        deltas=deltas,
        n_rays=n_rays,
        left_out=samples.left_out,
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
    cone_angle: float = 0.0,
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
            samples = march(rays_o[part], rays_d[part], occupancy, step_size, cone_angle=cone_angle)
            sums = rays_o.new_zeros(rays_o[part].shape[0], 8 if with_normals else 5)
            for ray_indices, weights, found, t_mids, directions in _slabs(field, rays_o[part], rays_d[part], samples, with_normals):
                light = -directions if light_direction is None else light_direction[(ray_indices + start) // (height * width)]
                colors = shade(found.albedo, found.normals, light, ambient_ratio, shading)
                sums += accumulate(weights, _channels(colors, t_mids, found.normals), ray_indices, sums.shape[0])
            pieces.append(_finish(sums, background[part]))
    shape = (n, height, width)
    image, opacity, depth = (torch.cat([piece[k] for piece in pieces]) for k in range(3))
    normal_image = torch.cat([piece[3] for piece in pieces]).reshape(*shape, 3) if with_normals else None
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
    return _select(samples, transmittance >= MIN_VISIBLE_TRANSMITTANCE)


def _locate(rays_o: Tensor, rays_d: Tensor, samples: PackedSamples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ray_indices = samples.ray_indices
    t_mids = 0.5 * (samples.t_starts + samples.t_ends)  # [M]
    directions = rays_d.index_select(0, ray_indices)  # [M, 3]
    return ray_indices, directions, t_mids, torch.addcmul(rays_o.index_select(0, ray_indices), t_mids[:, None], directions)


def _slabs(
    field: RadianceField, rays_o: Tensor, rays_d: Tensor, samples: PackedSamples, with_normals: bool
) -> Iterator[tuple[Tensor, Tensor, FieldSamples, Tensor, Tensor]]:
    """ray_indices, weights, values, t_mids and directions of the samples, some of each ray at a time, front to back.

    Rays that nothing passes any more are left out of the next slab: no sample is looked at twice, few in vain.
    """
    place = torch.arange(samples.ray_indices.shape[0], device=rays_o.device) - samples.packed_info[samples.ray_indices, 0]
    passing = rays_o.new_ones(rays_o.shape[0])
    for first in range(0, int(samples.packed_info[:, 1].max()), SLAB_SAMPLES):
        in_slab = (place >= first) & (place < first + SLAB_SAMPLES)
        slab = _select(samples, in_slab & (passing >= MIN_VISIBLE_TRANSMITTANCE)[samples.ray_indices])
        ray_indices, directions, t_mids, positions = _locate(rays_o, rays_d, slab)
        found = field.evaluate(positions, with_normals=with_normals)
        weights, _ = weights_from_density(found.densities, slab.t_ends - slab.t_starts, slab.packed_info)
        yield ray_indices, weights * passing[ray_indices], found, t_mids, directions
        passing = passing * (1.0 - accumulate(weights, None, ray_indices, rays_o.shape[0])[:, 0]).clamp(min=0.0)


def _select(samples: PackedSamples, kept: Tensor) -> PackedSamples:
    """The samples where `kept` [M] is true."""
    ray_indices = samples.ray_indices[kept]
    return PackedSamples(ray_indices, samples.t_starts[kept], samples.t_ends[kept], pack(ray_indices, samples.packed_info.shape[0]))


def _channels(colors: Tensor, t_mids: Tensor, normals: Tensor | None) -> Tensor:
    """What is summed along rays, [M, 5 or 8]: color, 1, distance, normal. In one, for one pass over the samples."""
    values = [colors, torch.ones_like(t_mids)[:, None], t_mids[:, None]]
    return torch.cat(values if normals is None else [*values, normals], dim=1)


def _finish(sums: Tensor, background: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """image [R, 3], opacity [R], depth [R], normal_image [R, 3] (or [R, 0]) from sums of `_channels` and background [R, 3]."""
    # Rounding may carry the sum a little over 1, and a background must not be subtracted.
    opacity = sums[:, 3].clamp(max=1.0)
    return sums[:, :3] + (1.0 - opacity[:, None]) * background, opacity, sums[:, 4], sums[:, 5:] * 0.5 + 0.5
