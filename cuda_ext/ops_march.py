"""Marching as torch operators: rays to packed samples in occupied cells.

Shapes: R rays, M packed samples, C cascades, P the power of two at or above the cells per axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cuda_ext.cpu import Argument
from cuda_ext.ops import RAYS_GRAIN, _flat, _implement, _kernels, _library

# Lattice points of which a word says which are samples; as in bodies/march.h.
_HITS_IN_WORD = 16
_BOX_DIAGONAL = 2.0 * math.sqrt(3.0)
# A step reaches half its length to either side of its middle, whose cell's neighbours are occupied too: so with steps of up to two cells no
# matter is stepped over.
_LARGEST_IN_CELLS = 2.0
# Below this angle a first step that grew would be hundreds of boxes away.
_LEAST_ANGLE = 1e-5

_MARCH = "Tensor rays_o, Tensor rays_d, Tensor shifts, Tensor bounds, Tensor bits, int resolution, float step, float angle"
_library.define(f"march({_MARCH}) -> (Tensor, Tensor, Tensor, Tensor)")
_library.define(f"march_fixed({_MARCH}, int capacity) -> (Tensor, Tensor, Tensor, Tensor, Tensor)")


class Lattice(NamedTuple):
    """Where samples lie on a ray, in world units: at t(k + shift) for whole k, each from t(k + shift - 1/2) to t(k + shift + 1/2).

    t(u) = u * step for angle 0. Else so only up to step / angle; from there on steps are angle * t, until they are `largest`, which
    takes `curved` of them; further out they stay so.
    """

    step: float
    angle: float
    largest: float
    curved: float


def lattice_of(step: float, angle: float, resolution: int) -> Lattice:
    """Steps of at least `step` and, where that is more, of `angle` times their distance, up to two cells of [-1, 1]^3 / resolution."""
    largest = max(step, _LARGEST_IN_CELLS * 2.0 / resolution)
    if angle < _LEAST_ANGLE or largest <= step:
        return Lattice(step, 0.0, step, 0.0)
    return Lattice(step, angle, largest, math.log(largest / step) / angle)


def march(
    rays_o: Tensor, rays_d: Tensor, shifts: Tensor, bounds: Tensor, bits: Tensor, resolution: int, step: float, angle: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ray_indices [M] int64, t_starts, t_ends [M] and packed_info [R, 2] int64 of all lattice points in occupied cells, in ray order.

    Args:
        rays_o, rays_d: [R, 3]. shifts: [R] in [0, 1), moves each ray's lattice. bounds: [2, 3] in [-1, 1], box round all occupied cells.
        bits: [C, P^3 / 8] uint8, the occupied cells in Morton order (see engine.rendering.morton), of [-2^-c, 2^-c]^3 for c = 0, 1, …
        resolution: cells per axis, 2..256. step, angle: > 0 and >= 0, see `lattice_of`.
    A sample's cell is that of its middle, in the finest cascade which that lies in and whose cells are longer than the step there.
    Raises: ValueError for bits that do not fit the resolution.
    """
    _check(bits, resolution)
    ray_indices, t_starts, t_ends, packed_info = torch.ops.dreamfusion.march(rays_o, rays_d, shifts, bounds, bits, resolution, step, angle)
    return ray_indices, t_starts, t_ends, packed_info


def march_fixed(
    rays_o: Tensor, rays_d: Tensor, shifts: Tensor, bounds: Tensor, bits: Tensor, resolution: int, step: float, angle: float, capacity: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `march`, but samples are `capacity` >= 1 whatever the rays meet, and nobody waits for the device.

    If there is more, each ray keeps the same share of its samples, from its front; behind the last ray's are copies of the first ones
    without length, which are nobody's (see `composite`). R >= 1. Returns also the number of samples that there would be, a scalar.
    """
    _check(bits, resolution)
    ray_indices, t_starts, t_ends, packed_info, found = torch.ops.dreamfusion.march_fixed(
        rays_o, rays_d, shifts, bounds, bits, resolution, step, angle, capacity
    )
    return ray_indices, t_starts, t_ends, packed_info, found


def _check(bits: Tensor, resolution: int) -> None:
    side = 1 << (resolution - 1).bit_length()
    if bits.dtype != torch.uint8 or bits.ndim != 2 or bits.shape[1] != side**3 // 8 or not 1 <= bits.shape[0] <= 4 or side > 256:
        raise ValueError(f"bits must be [1..4, {side**3 // 8}] uint8 for {resolution} cells an axis, got {list(bits.shape)} {bits.dtype}")


def shares(counts: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """counts [R], less where their sum is above capacity: each the same share, rounded down; and the sum that they had."""
    found = counts.sum()
    return torch.where(found > capacity, counts * capacity // found.clamp(min=1), counts), found


def fill_up(ray_indices: Tensor, t_starts: Tensor, t_ends: Tensor, n_samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All [capacity]: behind the first n_samples (a scalar) the same ones over and over, shrunk to their middles."""
    place = torch.arange(len(t_starts), device=t_starts.device)
    source, is_own = place % n_samples.clamp(min=1), place < n_samples
    middles = (0.5 * (t_starts + t_ends))[source]
    return ray_indices[source], torch.where(is_own, t_starts, middles), torch.where(is_own, t_ends, middles)


_Write = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _march_kernel(*where: Tensor | int | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rays_o, counts, write = _count(*where)  # type: ignore[arg-type]
    total = int(counts.sum())
    samples = counts.new_empty(total), rays_o.new_empty(total), rays_o.new_empty(total)
    return *samples, write(counts, *samples)


def _march_fixed_kernel(*where_and_capacity: Tensor | int | float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    *where, capacity = where_and_capacity
    rays_o, counts, write = _count(*where)  # type: ignore[arg-type]
    kept, found = shares(counts, int(capacity))
    # Zeros: where no ray meets anything, the copies are of the first ray's origin.
    samples = counts.new_zeros(int(capacity)), rays_o.new_zeros(int(capacity)), rays_o.new_zeros(int(capacity))
    packed_info = write(kept, *samples)
    return *fill_up(*samples, kept.sum()), packed_info, found


def _count(
    rays_o: Tensor, rays_d: Tensor, shifts: Tensor, bounds: Tensor, bits: Tensor, resolution: int, step: float, angle: float
) -> tuple[Tensor, Tensor, _Write]:
    """The rays, how many samples each has [R], and what writes so many as it is then told into ray_indices, t_starts and t_ends, and
    gives packed_info back."""
    rays_o, rays_d, shifts, bounds, bits = _flat(rays_o, rays_d, shifts, bounds, bits)
    n_rays, dtype, kernels = rays_o.shape[0], rays_o.dtype, _kernels(rays_o)
    parts, lattice = kernels.parts(n_rays, RAYS_GRAIN), tuple(float(number) for number in lattice_of(step, angle, resolution))
    counts, firsts = bits.new_empty(n_rays, dtype=torch.int64), torch.empty_like(shifts)
    n_words = int(_BOX_DIAGONAL / step) // _HITS_IN_WORD + 2
    hits = bits.new_empty(n_rays, n_words, dtype=torch.int16)
    given: tuple[Argument, ...] = (rays_o, rays_d, shifts, bounds, bits, bits.shape[0], resolution, *lattice)
    kernels.run("march_count", dtype, parts, lambda _part: (*given, counts, firsts, hits, n_words))

    def write(kept: Tensor, *samples: Tensor) -> Tensor:
        packed_info = torch.stack([kept.cumsum(0) - kept, kept], dim=-1)
        arguments: tuple[Argument, ...] = (shifts, *lattice, packed_info, firsts, hits, n_words, *samples)
        kernels.run("march_write", dtype, parts, lambda _part: arguments)
        return packed_info

    return rays_o, counts, write


_implement("march", _march_kernel)
_implement("march_fixed", _march_fixed_kernel)


@torch.library.register_fake("dreamfusion::march", lib=_library)
def _(rays_o: Tensor, _rays_d: Tensor, _shifts: Tensor, _bounds: Tensor, bits: Tensor, *_rest: float) -> tuple[Tensor, ...]:
    total = torch.library.get_ctx().new_dynamic_size()
    index = bits.new_empty(total, dtype=torch.int64)
    return index, rays_o.new_empty(total), rays_o.new_empty(total), index.new_empty(rays_o.shape[0], 2)


@torch.library.register_fake("dreamfusion::march_fixed", lib=_library)
def _(
    rays_o: Tensor, _rays_d: Tensor, _shifts: Tensor, _bounds: Tensor, bits: Tensor, _resolution: int, _step: float, _angle: float,
    capacity: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    index = bits.new_empty(capacity, dtype=torch.int64)
    packed_info = index.new_empty(rays_o.shape[0], 2)
    return index, rays_o.new_empty(capacity), rays_o.new_empty(capacity), packed_info, index.new_empty(())
