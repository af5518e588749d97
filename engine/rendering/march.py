"""From rays to packed samples in occupied space.

Samples lie on a fixed lattice of distances, t = (k + shift) * step_size, so that a change of the occupancy adds or removes
samples but moves none. Shapes: R rays, S lattice points of a ray, M packed samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cuda_ext import ops
from engine.rendering.occupancy import OccupancyGrid
from engine.scene.cameras import Cameras, camera_rays


class PackedSamples(NamedTuple):
    """Samples of all rays, in ray order, front to back.

    ray_indices [M] int64; t_starts, t_ends [M] float32, distances along the unit ray in world units; packed_info [R, 2] int64,
    first sample and number of samples of each ray; left_out, a scalar: share of the samples that did not fit, None where all do.
    A march of fixed size fills up with copies behind the last ray's samples, which have no length and are no ray's.
    """

    ray_indices: Tensor
    t_starts: Tensor
    t_ends: Tensor
    packed_info: Tensor
    left_out: Tensor | None = None


def intersect_box(rays_o: Tensor, rays_d: Tensor, aabb: Tensor) -> tuple[Tensor, Tensor]:
    """Distances t_near, t_far [R] at which rays cross a box aabb [2, 3]; t_near >= 0, and t_far <= t_near is a miss."""
    # A tiny number instead of zero: the slab is then crossed at +-huge, which is right inside and a miss outside.
    safe = torch.where(rays_d.abs() < 1e-9, torch.full_like(rays_d, 1e-9), rays_d)
    t_low, t_high = (aabb[0] - rays_o) / safe, (aabb[1] - rays_o) / safe
    t_near = torch.minimum(t_low, t_high).amax(dim=-1).clamp(min=0.0)
    return t_near, torch.maximum(t_low, t_high).amin(dim=-1)


def box_share(cameras: Cameras, size: int = 16) -> Tensor:
    """How much of the cameras' pictures the box [-1, 1]^3 covers, a scalar 0..1, by `size` x `size` rays each."""
    rays_o, rays_d = camera_rays(cameras, size, size)
    t_near, t_far = intersect_box(rays_o, rays_d, rays_o.new_tensor([[-1.0] * 3, [1.0] * 3]))
    return (t_far > t_near).to(rays_o.dtype).mean()


def pack(ray_indices: Tensor, n_rays: int) -> Tensor:
    """packed_info [n_rays, 2] of ascending ray_indices [M]."""
    counts = torch.bincount(ray_indices, minlength=n_rays)
    return torch.stack([counts.cumsum(0) - counts, counts], dim=-1)


@torch.no_grad()
def march(
    rays_o: Tensor,
    rays_d: Tensor,
    occupancy: OccupancyGrid,
    step_size: float,
    *,
    generator: torch.Generator | None = None,
    max_samples: int = 0,
) -> PackedSamples:
    """All samples of rays that lie in occupied cells of [-1, 1]^3.

    A sample belongs to the cell that its middle lies in; its length is always step_size.

    Args:
        rays_o, rays_d: [R, 3] float32, directions of unit length.
        step_size: world units, > 0.
        generator: moves each ray's lattice by a random part of a step; None takes the middle.
        max_samples: 0: as many as there are, for whose number the GPU is waited for. Else exactly so many (of one ray at least):
            each ray loses the same share of its far end if there are more. With kernels nobody waits then.
    Raises:
        ValueError: for another shape or a step size that is not positive.
    The twin waits for the GPU twice: the number of rays that hit and of samples.
    """
    if rays_o.ndim != 2 or rays_o.shape[-1] != 3 or rays_o.shape != rays_d.shape:
        raise ValueError(f"rays_o and rays_d must both be [R, 3], got {list(rays_o.shape)} and {list(rays_d.shape)}")
    if not step_size > 0:
        raise ValueError(f"step_size must be > 0, got {step_size}")
    R, device = rays_o.shape[0], rays_o.device
    if generator is None:
        shifts = torch.full((R,), 0.5, device=device)
    else:
        shifts = torch.rand(R, generator=generator, device=generator.device).to(device)
    is_fixed = max_samples > 0 and R > 0
    if not ops.serves(rays_o):
        samples = _march_twin(rays_o, rays_d, shifts, occupancy, step_size)
        return _fixed_twin(samples, max_samples, step_size) if is_fixed else samples
    shifts, bounds = shifts.to(rays_o.dtype), occupancy.bounds.to(rays_o.dtype)
    where = rays_o, rays_d, shifts, bounds, occupancy.occupied_cells, step_size
    if is_fixed:
        ray_indices, t_mids, packed_info, found = ops.march_fixed(*where, max_samples)
        return _with_lengths(ray_indices, t_mids, packed_info, found, step_size)
    ray_indices, t_mids, packed_info = ops.march(*where)
    return PackedSamples(ray_indices, t_mids - 0.5 * step_size, t_mids + 0.5 * step_size, packed_info)


def _with_lengths(ray_indices: Tensor, t_mids: Tensor, packed_info: Tensor, found: Tensor, step_size: float) -> PackedSamples:
    """None for the copies: a length of zero has no weight and no gradient."""
    kept = packed_info[-1].sum()
    half = 0.5 * step_size * (torch.arange(len(t_mids), device=t_mids.device) < kept)
    return PackedSamples(ray_indices, t_mids - half, t_mids + half, packed_info, (found - kept) / found.clamp(min=1))


def _fixed_twin(samples: PackedSamples, max_samples: int, step_size: float) -> PackedSamples:
    """What the kernel makes of all samples, in torch."""
    first, counts = samples.packed_info.unbind(1)
    kept, found = ops.shares(counts, max_samples)
    place = torch.arange(len(samples.t_starts), device=first.device) - first[samples.ray_indices]
    chosen = place < kept[samples.ray_indices]
    both = samples.ray_indices, 0.5 * (samples.t_starts + samples.t_ends)
    ray_indices, t_mids = (torch.cat([some[chosen], some.new_zeros(max_samples)])[:max_samples] for some in both)
    packed_info = torch.stack([kept.cumsum(0) - kept, kept], dim=-1)
    return _with_lengths(*ops.fill_up(ray_indices, t_mids, kept.sum()), packed_info, found, step_size)


def _march_twin(rays_o: Tensor, rays_d: Tensor, shifts: Tensor, occupancy: OccupancyGrid, step_size: float) -> PackedSamples:
    """What the kernel does, in torch."""
    R, device = rays_o.shape[0], rays_o.device
    t_near, t_far = intersect_box(rays_o, rays_d, occupancy.bounds)
    hits = (t_far > t_near).nonzero()[:, 0]
    if hits.numel() == 0:
        empty = torch.zeros(0, device=device)
        return PackedSamples(hits, empty, empty, torch.zeros(R, 2, dtype=torch.int64, device=device))
    t_near, t_far, shift = t_near[hits, None], t_far[hits, None], shifts[hits, None]
    first = torch.ceil(t_near / step_size - shift)  # the first lattice point behind t_near
    n_points = int(((t_far - t_near) / step_size).max()) + 1
    t_mids = (first + torch.arange(n_points, device=device) + shift) * step_size  # [hits, S]
    kept = _occupied_along(rays_o[hits], rays_d[hits], t_mids, occupancy) & (t_mids < t_far)
    local, _ = (where := kept.nonzero()).unbind(1)
    middle = t_mids[local, where[:, 1]]
    ray_indices = hits[local]
    return PackedSamples(ray_indices, middle - 0.5 * step_size, middle + 0.5 * step_size, pack(ray_indices, R))


def _occupied_along(rays_o: Tensor, rays_d: Tensor, t_mids: Tensor, occupancy: OccupancyGrid) -> Tensor:
    """[R, S] bool: is the cell at each distance occupied? One axis at a time: [R, S, 3] would cost three times the memory traffic."""
    G = occupancy.resolution
    start, slope = (rays_o + 1.0) * (G / 2), rays_d * (G / 2)
    flat: Tensor | None = None
    for axis in range(3):
        # rounding may put a point on the box's face just outside
        cell = torch.addcmul(start[:, axis, None], slope[:, axis, None], t_mids).clamp_(0, G - 0.5).int()
        flat = cell if flat is None else flat.mul_(G).add_(cell)
    assert flat is not None
    return occupancy.occupied_cells.reshape(-1).index_select(0, flat.reshape(-1)).reshape(flat.shape)
