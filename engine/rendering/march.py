"""From rays to packed samples in occupied space.

Samples lie on a fixed lattice of distances, t = (k + shift) * step_size, so that a change of the occupancy adds or removes
samples but moves none. With a cone angle they lie on another, which far away is wider (`Lattice`), but as fixed.
Shapes: R rays, S lattice points of a ray, M packed samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cuda_ext import ops, ops_march
from cuda_ext.ops_march import Lattice, lattice_of
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
    cone_angle: float = 0.0,
    generator: torch.Generator | None = None,
    max_samples: int = 0,
) -> PackedSamples:
    """All samples of rays that lie in occupied cells of [-1, 1]^3.

    A sample belongs to the cell that its middle lies in, of the finest cascade there whose cells are longer than it.

    Args:
        rays_o, rays_d: [R, 3] float32, directions of unit length.
        step_size: world units, > 0; every sample's length, or the least.
        cone_angle: what a sample's length is at least of its distance, >= 0: pixels see wider there too. Up to two of the occupancy's
            coarsest cells, so that nothing is stepped over. instant-ngp's cone_angle, stable-dreamfusion's dt_gamma.
        generator: moves each ray's lattice by a random part of a step; None takes the middle.
        max_samples: 0: as many as there are, for whose number the GPU is waited for. Else exactly so many (of one ray at least):
            each ray loses the same share of its far end if there are more. With kernels nobody waits then.
    Raises:
        ValueError: for another shape, a step size that is not positive or a negative angle.
    The twin waits for the GPU twice: the number of rays that hit and of samples.
    """
    if rays_o.ndim != 2 or rays_o.shape[-1] != 3 or rays_o.shape != rays_d.shape:
        raise ValueError(f"rays_o and rays_d must both be [R, 3], got {list(rays_o.shape)} and {list(rays_d.shape)}")
    if not step_size > 0:
        raise ValueError(f"step_size must be > 0, got {step_size}")
    if not cone_angle >= 0:
        raise ValueError(f"cone_angle must be >= 0, got {cone_angle}")
    R, device = rays_o.shape[0], rays_o.device
    if generator is None:
        shifts = torch.full((R,), 0.5, device=device)
    else:
        shifts = torch.rand(R, generator=generator, device=generator.device).to(device)
    is_fixed = max_samples > 0 and R > 0
    if not ops.serves(rays_o):
        samples = _march_twin(rays_o, rays_d, shifts, occupancy, lattice_of(step_size, cone_angle, occupancy.resolution))
        return _fixed_twin(samples, max_samples) if is_fixed else samples
    shifts, bounds = shifts.to(rays_o.dtype), occupancy.bounds.to(rays_o.dtype)
    where = rays_o, rays_d, shifts, bounds, occupancy.bits, occupancy.resolution, step_size, cone_angle
    if is_fixed:
        ray_indices, t_starts, t_ends, packed_info, n_found = ops_march.march_fixed(*where, max_samples)
        return PackedSamples(ray_indices, t_starts, t_ends, packed_info, _left_out(packed_info, n_found))
    return PackedSamples(*ops_march.march(*where))


def _left_out(packed_info: Tensor, n_found: Tensor) -> Tensor:
    return (n_found - packed_info[-1].sum()) / n_found.clamp(min=1)


def _fixed_twin(samples: PackedSamples, max_samples: int) -> PackedSamples:
    """What the kernel makes of all samples, in torch."""
    first, counts = samples.packed_info.unbind(1)
    kept, n_found = ops_march.shares(counts, max_samples)
    place = torch.arange(len(samples.t_starts), device=first.device) - first[samples.ray_indices]
    chosen = place < kept[samples.ray_indices]
    ray_indices, t_starts, t_ends = (
        torch.cat([some[chosen], some.new_zeros(max_samples)])[:max_samples]
        for some in (samples.ray_indices, samples.t_starts, samples.t_ends)
    )
    packed_info = torch.stack([kept.cumsum(0) - kept, kept], dim=-1)
    filled = ops_march.fill_up(ray_indices, t_starts, t_ends, kept.sum())
    return PackedSamples(*filled, packed_info, _left_out(packed_info, n_found))


def _march_twin(rays_o: Tensor, rays_d: Tensor, shifts: Tensor, occupancy: OccupancyGrid, lattice: Lattice) -> PackedSamples:
    """What the kernel does, in torch."""
    R, device = rays_o.shape[0], rays_o.device
    t_near, t_far = intersect_box(rays_o, rays_d, occupancy.bounds)
    hits = (t_far > t_near).nonzero()[:, 0]
    if hits.numel() == 0:
        empty = torch.zeros(0, device=device)
        return PackedSamples(hits, empty, empty, torch.zeros(R, 2, dtype=torch.int64, device=device))
    t_near, t_far, shift = t_near[hits, None], t_far[hits, None], shifts[hits, None]
    first = torch.ceil(_place_of(t_near, lattice) - shift)  # the first lattice point behind t_near
    n_points = int((_place_of(t_far, lattice) - _place_of(t_near, lattice)).max()) + 2  # one more than can be, for rounding
    points = first + torch.arange(n_points, device=device)  # [hits, S]
    if lattice.angle == 0:
        t_mids = (points + shift) * lattice.step
        t_starts, t_ends = t_mids - 0.5 * lattice.step, t_mids + 0.5 * lattice.step
    else:
        t_starts, t_ends = (_distance_at(points + k + (shift - 0.5), lattice) for k in (0, 1))
        t_mids = 0.5 * (t_starts + t_ends)
    kept = _occupied_along(rays_o[hits], rays_d[hits], t_mids, occupancy, lattice) & (t_mids < t_far)
    local, point = kept.nonzero().unbind(1)
    ray_indices = hits[local]
    return PackedSamples(ray_indices, t_starts[local, point], t_ends[local, point], pack(ray_indices, R))


def _distance_at(u: Tensor, lattice: Lattice) -> Tensor:
    """t(u) of a lattice with an angle."""
    bend = 1 / lattice.angle
    beyond = (u - bend).clamp(min=0)
    grown = torch.expm1(lattice.angle * beyond.clamp(max=lattice.curved)) * (lattice.step * bend)
    return lattice.step * u.clamp(max=bend) + grown + lattice.largest * (beyond - lattice.curved).clamp(min=0)


def _place_of(t: Tensor, lattice: Lattice) -> Tensor:
    """The other way round: u for a distance."""
    if lattice.angle == 0:
        return t / lattice.step
    bend, end = lattice.step / lattice.angle, lattice.largest / lattice.angle
    curve = (t.clamp(bend, end) / bend).log() / lattice.angle
    return t.clamp(max=bend) / lattice.step + curve + (t - end).clamp(min=0) / lattice.largest


def _occupied_along(rays_o: Tensor, rays_d: Tensor, t_mids: Tensor, occupancy: OccupancyGrid, lattice: Lattice) -> Tensor:
    """[R, S] bool: is the cell at each distance occupied? One axis at a time: [R, S, 3] would cost three times the memory traffic."""
    G = occupancy.resolution
    flat, scale = _cascades_along(rays_o, rays_d, t_mids, occupancy, lattice) if occupancy.cascades > 1 else (None, None)
    start, slope = (rays_o + 1.0) * (G / 2), rays_d * (G / 2)
    for axis in range(3):
        place = torch.addcmul(start[:, axis, None], slope[:, axis, None], t_mids)
        if scale is not None:
            place = (place - G / 2) * scale + G / 2
        cell = place.clamp_(0, G - 0.5).int()  # rounding may put a point on the box's face just outside
        flat = cell if flat is None else flat.mul_(G).add_(cell)
    assert flat is not None
    return occupancy.cells().reshape(-1).index_select(0, flat.reshape(-1)).reshape(flat.shape)


def _cascades_along(rays_o: Tensor, rays_d: Tensor, t_mids: Tensor, occupancy: OccupancyGrid, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """[R, S] int32: the finest cascade that a sample's middle lies in and whose cells are longer than it; and 2 to its power."""
    reach = torch.zeros_like(t_mids)
    for axis in range(3):
        reach = torch.maximum(reach, torch.addcmul(rays_o[:, axis, None], rays_d[:, axis, None], t_mids).abs_())
    length = (lattice.angle * t_mids).clamp(lattice.step, lattice.largest)
    cascade = torch.zeros_like(t_mids, dtype=torch.int32)
    for c in range(1, occupancy.cascades):
        cascade += (reach * 2.0**c < 1.0) & (length * (2.0**c * occupancy.resolution / 2) < 1.0)
    return cascade, (2.0**cascade).to(t_mids.dtype)
