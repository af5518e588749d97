"""What each differentiable operator is tried with: its kernel and its plain torch twin on the same random inputs, on any device."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cuda_ext import ops
from cuda_ext.ops_adan import adan_step
from cuda_ext.ops_frequency import frequency_encode
from cuda_ext.ops_grid_tv import grid_tv
from cuda_ext.ops_occupancy import occupancy_update
from cuda_ext.ops_raster import raster_count, raster_fragments, raster_nearest
from cuda_ext.ops_spherical import spherical_encode
from cuda_ext.ops_table import dense_table
from engine.fields.field import make_field, table_twin
from engine.fields.field_config import FieldConfig
from engine.fields.frequency import waves_twin
from engine.fields.grid_variation import squares_twin
from engine.fields.hash_grid import HashGrid
from engine.fields.spherical_harmonics import harmonics_twin
from engine.meshing.raster import _covered_twin, _fragments_twin, _nearest_twin
from engine.rendering.composite import accumulate, weights_from_density
from engine.rendering.march import pack
from engine.rendering.occupancy import _update_twin
from engine.training.adan import _twin_step

# Enough for many blocks of threads, and few enough cells that hundreds of them add to the same place.
N_RAYS, N_POSITIONS, FINEST = 700, 20_000, 12


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def composite_case(device: torch.device, dtype: torch.dtype, *, kernel: bool, n_rest: int = 0, stop: float = 0.0) -> list[Tensor]:
    """Rays of 0 to 39 samples, some opaque; and behind them n_rest samples that are no ray's. With `stop` most rays end early."""
    generator = generator_of(1)
    counts = torch.randint(0, 40, (N_RAYS,), generator=generator)
    ray_indices = torch.repeat_interleave(torch.arange(N_RAYS), counts)
    n_owned = len(ray_indices)
    n = n_owned + n_rest
    densities = torch.rand(n, generator=generator, dtype=dtype) * 6
    densities[::97] = 200.0
    deltas = torch.rand(n, generator=generator, dtype=dtype) * 0.2 + 0.05
    values = torch.randn(n, 5, generator=generator, dtype=dtype)
    densities, deltas, values, ray_indices = (tensor.to(device) for tensor in (densities, deltas, values, ray_indices))
    densities.requires_grad_(), values.requires_grad_()
    packed_info = pack(ray_indices, N_RAYS)
    if kernel:
        outputs = ops.composite(densities, deltas, values, packed_info, stop)
    else:
        weights, _ = weights_from_density(densities[:n_owned], deltas[:n_owned], packed_info, stop)
        outputs = torch.cat([weights, weights.new_zeros(n_rest)]), accumulate(weights, values[:n_owned], ray_indices, N_RAYS)
    return with_gradients(outputs, [densities, values])


def dense_field_case(activation: str, *, with_normals: bool) -> Callable[..., list[Tensor]]:
    """Positions in and around the box, one in its middle, where the blob has no slope."""

    def case(device: torch.device, dtype: torch.dtype, *, kernel: bool) -> list[Tensor]:
        config = FieldConfig(activation=activation, finest_resolution=FINEST, n_levels=2)  # type: ignore[arg-type]
        field = make_field(config, generator_of(2))
        levels: list[Tensor] = list(field.encoding.levels)  # type: ignore[arg-type]
        with torch.no_grad():
            for level in levels:
                level.add_(torch.randn(level.shape, generator=generator_of(3)) * 0.3)
        field.to(device, dtype)
        positions = torch.rand(N_POSITIONS, 3, generator=generator_of(4)).to(device, dtype) * 2.2 - 1.1
        positions[0] = 0.0
        field._has_kernel = lambda _positions: kernel  # type: ignore[method-assign]
        outputs = [part for part in field.evaluate(positions, with_normals=with_normals) if part is not None]
        return with_gradients(outputs, list(field.encoding.levels))  # type: ignore[arg-type]

    return case


def with_gradients(outputs: list[Tensor] | tuple[Tensor, ...], leaves: list[Tensor]) -> list[Tensor]:
    """The outputs, and the gradients of the leaves under random gradients of the outputs."""
    found = [out for out in outputs if out.requires_grad]
    grads = [torch.randn(out.shape, generator=generator_of(5)).to(out) for out in found]
    return [*(out.detach() for out in outputs), *torch.autograd.grad(found, leaves, grads)]


def hash_case(features: int, *, smooth: bool, is_half: bool = False) -> Callable[..., list[Tensor]]:
    """Dense and hashed levels, the finest half open; some positions outside. is_half: read in half precision."""

    def case(device: torch.device, dtype: torch.dtype, *, kernel: bool) -> list[Tensor]:
        grid = HashGrid((4, 9, 16, 30), features, 10, generator_of(6), smooth=smooth, is_half=is_half)
        grid.max_level = 0.9
        with torch.no_grad():
            grid.table.copy_(torch.randn(grid.table.shape, generator=generator_of(7)))
        grid.to(device, dtype)
        positions = (torch.rand(4000, 3, generator=generator_of(8)).to(device, dtype) * 1.2 - 0.1).requires_grad_()
        out = grid(positions) if kernel else grid.forward_twin(positions)
        (d_positions,) = torch.autograd.grad(out.square().sum(), positions, create_graph=True)
        return with_gradients([out, d_positions], [grid.table, positions])

    return case


def grid_tv_case(features: int, *, turned: bool) -> Callable[..., list[Tensor]]:
    """Levels as in hash_case; turned: the table lies feature by feature. More samples than rows, so that many add to the same place."""

    def case(device: torch.device, dtype: torch.dtype, *, kernel: bool) -> list[Tensor]:
        grid = HashGrid((4, 9, 16, 30), features, 10, generator_of(6))
        grid.max_level = 0.9
        table = torch.randn(grid.table.shape[:: -1 if turned else 1], generator=generator_of(18)).to(device, dtype).requires_grad_()
        positions = torch.rand(4000, 3, generator=generator_of(19)).to(device, dtype) * 1.2 - 0.1
        squares = (grid_tv if kernel else squares_twin)(table.t() if turned else table, positions, grid.levels())
        return with_gradients([squares], [table])

    return case


def frequency_case(device: torch.device, dtype: torch.dtype, *, kernel: bool) -> list[Tensor]:
    """Five bands, one half open and one closed, and the gradient's own gradient, which normals need."""
    x = (torch.rand(3001, 3, generator=generator_of(20)).to(device, dtype) * 2.4 - 1.2).requires_grad_()
    out = (frequency_encode if kernel else waves_twin)(x, (1.0, 1.0, 1.0, 0.5, 0.0))
    (d_x,) = torch.autograd.grad(out.square().sum(dim=-1).sin().sum(), x, create_graph=True)
    return with_gradients([out, d_x], [x])


def spherical_case(degree: int) -> Callable[..., list[Tensor]]:
    """The gradient's own gradient too, on the sphere and a little off it, where features are still those polynomials."""

    def case(device: torch.device, dtype: torch.dtype, *, kernel: bool) -> list[Tensor]:
        x = torch.nn.functional.normalize(torch.randn(3001, 3, generator=generator_of(21), dtype=torch.float64), dim=-1)
        x[::2] *= 0.9
        x[:3] = torch.eye(3)
        x = x.to(device, dtype).requires_grad_()
        out = (spherical_encode if kernel else harmonics_twin)(x, degree)
        weights = torch.linspace(-1, 1, degree**2, dtype=dtype).to(device) / degree**2
        (d_x,) = torch.autograd.grad((out.square() * weights).sum(), x, create_graph=True)
        return with_gradients([out, d_x], [x])

    return case


def dense_table_case(device: torch.device, dtype: torch.dtype, *, kernel: bool) -> list[Tensor]:
    volume = torch.randn(4, 21, 21, 21, generator=generator_of(9)).to(device, dtype).requires_grad_()
    return with_gradients([(dense_table if kernel else table_twin)(volume, 2.0, with_gradient=True)], [volume])


def occupancy_case(device: torch.device, dtype: torch.dtype, *, kernel: bool) -> list[Tensor]:
    """Rows that are no multiple of a block or of two, two cascades, and few cells above the threshold."""
    before, found = torch.rand(2, 2, 37, 37, 37, generator=generator_of(10)).to(device, dtype)
    threshold = torch.tensor(0.97).to(device, dtype)
    return [*(occupancy_update if kernel else _update_twin)(before, found, 0.9, threshold)]


def adan_case(device: torch.device, dtype: torch.dtype, *, kernel: bool) -> list[Tensor]:
    """Two steps of one tensor, the second with a gradient of another layout."""
    p, *moments = (torch.randn(40, 50, generator=generator_of(11 + k)).to(device, dtype) for k in range(5))
    moments[-1].square_()
    group = {"betas": (0.98, 0.92, 0.99), "lr": 1e-2, "eps": 1e-8, "weight_decay": 0.1}
    for k, grad in enumerate((torch.randn(40, 50, generator=generator_of(16)), torch.randn(50, 40, generator=generator_of(17)).t()), 1):
        grad = grad.to(device, dtype)
        if kernel:
            adan_step(p, grad, tuple(moments), group["betas"], k, group["lr"], group["eps"], group["weight_decay"])  # type: ignore[arg-type]
        else:
            _twin_step(p, grad, tuple(moments), group, k)
    return [p, *moments]


def raster_case(device: torch.device, dtype: torch.dtype, *, kernel: bool) -> list[Tensor]:
    """Triangles of all sizes, many beside the picture in part or whole, none with an edge through a pixel's centre: how many cover each
    pixel, which, and with what weights; and the nearest, both ways of depth. What lies on edges: test_raster.py."""
    height, width, generator = 70, 93, generator_of(9)
    spread = torch.rand(120, 1, 1, generator=generator) ** 3 * 90
    corners = torch.rand(120, 1, 2, generator=generator) * 120 - 15 + torch.randn(120, 3, 2, generator=generator) * spread
    depths = torch.rand(120, 3, generator=generator) * 4 - 0.1
    corners, depths = corners.to(device, dtype), depths.to(device, dtype)
    if kernel:
        found = [raster_count(corners, height, width), *raster_fragments(corners, height, width)]
        nearest = [raster_nearest(corners, depths, height, width, orthographic=flat, near=1e-3) for flat in (True, False)]
        return [*found, *(part for view in nearest for part in view)]
    flat_corners, flat_depths = corners.cpu().double().numpy(), depths.cpu().double().numpy()
    fragments = _fragments_twin(flat_corners, height, width)
    order = np.lexsort((fragments.face, fragments.pixel))  # the twin's go triangle by triangle
    counts = np.bincount(_covered_twin(flat_corners, height, width)[0], minlength=height * width).astype(np.int32)
    views = [_nearest_twin(flat_corners, flat_depths, height, width, flat) for flat in (True, False)]
    parts = [
        counts,
        fragments.pixel[order],
        fragments.face[order],
        fragments.barycentric[order],
        *(part for view in views for part in view),
    ]
    tensors = [torch.from_numpy(part).to(device) for part in parts]
    return [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]


CASES: dict[str, Callable[..., list[Tensor]]] = {
    "composite": composite_case,
    "composite of fixed size": functools.partial(composite_case, n_rest=1999),
    "composite that stops": functools.partial(composite_case, n_rest=77, stop=0.01),
    "dense_field softplus": dense_field_case("softplus", with_normals=True),
    "dense_field exp": dense_field_case("exp", with_normals=True),
    "dense_field without normals": dense_field_case("exp", with_normals=False),
    "dense_table": dense_table_case,
    "hash_encode of 2": hash_case(2, smooth=True),
    "hash_encode of 3": hash_case(3, smooth=False),
    "hash_encode of 2 halves": hash_case(2, smooth=True, is_half=True),
    "hash_encode of 3 halves": hash_case(3, smooth=False, is_half=True),
    "hash_encode of 4 halves": hash_case(4, smooth=False, is_half=True),
    "frequency_encode": frequency_case,
    "spherical_encode of 3": spherical_case(3),
    "spherical_encode of 8": spherical_case(8),
    "grid_tv of 2": grid_tv_case(2, turned=False),
    "grid_tv of 3, number by number": grid_tv_case(3, turned=True),
    "occupancy_update": occupancy_case,
    "adan_step": adan_case,
    "raster": raster_case,
}
