"""The kernels as torch operators, with gradients and shapes for torch.compile: torch.ops.dreamfusion.*

Ask `serves(tensor)` first; where it says no, the caller runs its plain torch twin.
Shapes: R rays, M packed samples, C channels, N points per axis, W numbers of a table row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cuda_ext.cpu import Argument, CpuKernels, find_kernels
from cuda_ext.cuda import CudaKernels, find_cuda_kernels

# Less work than this is not worth waking a thread for.
RAYS_GRAIN = 512
SAMPLES_GRAIN = 4096
# Each thread of a dense grid's gradient has planes of its own, but walks over all samples: beyond a few it mostly walks.
MOST_SLABS = 8
ACTIVATIONS = ("softplus", "exp")

_library = torch.library.Library("dreamfusion", "DEF")
_library.define("composite(Tensor densities, Tensor deltas, Tensor values, Tensor packed_info, float stop=0.0) -> (Tensor, Tensor, Tensor)")
_library.define(
    "composite_backward(Tensor deltas, Tensor values, Tensor packed_info, Tensor kept, Tensor weights, Tensor d_weights, "
    "Tensor d_sums) -> (Tensor, Tensor)"
)
_library.define(
    "dense_field(Tensor table, int n, Tensor positions, int activation, float scale, float blob_density, float blob_radius, "
    "float mist) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "dense_field_backward(int n, int width, Tensor positions, int activation, float scale, Tensor densities, Tensor albedo, "
    "Tensor normals, Tensor lengths, Tensor d_densities, Tensor d_albedo, Tensor d_normals) -> Tensor"
)


def serves(tensor: Tensor) -> bool:
    """Whether there are kernels for tensors like this one, here."""
    return tensor.dtype in (torch.float32, torch.float64) and _has_kernels(tensor.device)


@torch.compiler.assume_constant_result
def _has_kernels(device: torch.device) -> bool:
    return find_backend(device)[0] is not None


def find_backend(device: torch.device) -> tuple[CpuKernels | CudaKernels | None, str]:
    """The compiled kernels for a device, or None, and one line that says why."""
    if device.type == "cuda":
        return find_cuda_kernels(torch.cuda.current_device() if device.index is None else device.index)
    return find_kernels() if device.type == "cpu" else (None, f"no kernels for {device.type}")


def _kernels(tensor: Tensor) -> CpuKernels | CudaKernels:
    kernels, reason = find_backend(tensor.device)
    if kernels is None:
        raise RuntimeError(f"There are no compiled kernels here: {reason}. Ask serves() first.")
    return kernels


def _implement(name: str, function: Callable[..., Any]) -> None:
    """One function is the operator on every machine that has kernels: which ones, its tensors tell."""
    for key in ("CPU", "CUDA"):
        _library.impl(name, function, key)


def _flat(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Kernels read memory as it lies. The caller must keep these until the launch is over.

    Raises: ValueError for numbers of two sizes or memory of two machines, which a kernel would misread.
    """
    if len(devices := {tensor.device for tensor in tensors}) > 1:
        raise ValueError(f"All tensors of a kernel must be on one device, got {sorted(map(str, devices))}.")
    kinds = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if len(kinds) > 1:
        raise ValueError(f"All numbers of a kernel must be of one type, got {sorted(map(str, kinds))}.")
    return tuple(tensor.contiguous() for tensor in tensors)


# --- compositing ---------------------------------------------------------------------------------------------------------------


def composite(densities: Tensor, deltas: Tensor, values: Tensor, packed_info: Tensor, stop: float = 0.0) -> tuple[Tensor, Tensor]:
    """weights [M] and sums [R, C] = sum over each ray of weight * value. NeRF (2003.08934), eq. 3.

    Args:
        densities, deltas: [M]. values: [M, C]. packed_info: [R, 2] int64, first sample and number of samples of each
            ray; samples lie in ray order without gaps. What lies behind the last ray's is nobody's: weights and gradients 0.
        stop: a ray ends before the first sample that less than this share of light reaches; behind it weights and gradients are 0.
    Differentiable in densities and values, not in deltas; where a ray ends counts as given.
    """
    weights, sums, _kept = torch.ops.dreamfusion.composite(densities, deltas, values, packed_info, stop)
    return weights, sums


def _composite_kernel(
    densities: Tensor, deltas: Tensor, values: Tensor, packed_info: Tensor, stop: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    densities, deltas, values, packed_info = _flat(densities, deltas, values, packed_info)
    n_rays, channels = packed_info.shape[0], values.shape[1]
    weights, sums = torch.empty_like(densities), values.new_empty(n_rays, channels)
    kept = packed_info.new_empty(n_rays, dtype=torch.int32)
    kernels = _kernels(densities)
    arguments = (densities, deltas, values, channels, packed_info, n_rays, values.shape[0], float(stop), weights, sums, kept)
    kernels.run("composite_forward", densities.dtype, kernels.parts(n_rays, RAYS_GRAIN), lambda _part: arguments)
    return weights, sums, kept


def _composite_backward_kernel(
    deltas: Tensor, values: Tensor, packed_info: Tensor, kept: Tensor, weights: Tensor, d_weights: Tensor, d_sums: Tensor
) -> tuple[Tensor, Tensor]:
    deltas, values, packed_info, kept, weights, d_weights, d_sums = _flat(deltas, values, packed_info, kept, weights, d_weights, d_sums)
    d_densities, d_values = torch.empty_like(weights), torch.empty_like(values)
    kernels = _kernels(weights)
    sizes = packed_info.shape[0], values.shape[0]
    arguments = (deltas, values, values.shape[1], packed_info, kept, *sizes, weights, d_weights, d_sums, d_densities, d_values)
    kernels.run("composite_backward", weights.dtype, kernels.parts(packed_info.shape[0], RAYS_GRAIN), lambda _part: arguments)
    return d_densities, d_values


_implement("composite", _composite_kernel)
_implement("composite_backward", _composite_backward_kernel)


@torch.library.register_fake("dreamfusion::composite", lib=_library)
def _(densities: Tensor, deltas: Tensor, values: Tensor, packed_info: Tensor, stop: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    n_rays = packed_info.shape[0]
    return torch.empty_like(densities), values.new_empty(n_rays, values.shape[1]), packed_info.new_empty(n_rays, dtype=torch.int32)


@torch.library.register_fake("dreamfusion::composite_backward", lib=_library)
def _(_deltas: Tensor, values: Tensor, _packed_info: Tensor, _kept: Tensor, weights: Tensor, *_rest: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weights), torch.empty_like(values)


def _keep_composite(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, deltas, values, packed_info, _ = inputs
    weights, _, kept = output
    ctx.save_for_backward(deltas, values, packed_info, kept, weights)


def _composite_grad(ctx: Any, d_weights: Tensor | None, d_sums: Tensor | None, _d_kept: None) -> tuple[Tensor | None, ...]:
    deltas, values, packed_info, kept, weights = ctx.saved_tensors
    d_weights = torch.zeros_like(weights) if d_weights is None else d_weights
    d_sums = values.new_zeros(packed_info.shape[0], values.shape[1]) if d_sums is None else d_sums
    d_densities, d_values = torch.ops.dreamfusion.composite_backward(deltas, values, packed_info, kept, weights, d_weights, d_sums)
    return d_densities, None, d_values, None, None


torch.library.register_autograd("dreamfusion::composite", _composite_grad, setup_context=_keep_composite, lib=_library)


# --- a dense grid that is density and colour -----------------------------------------------------------------------------------


def dense_field(
    table: Tensor, n: int, positions: Tensor, activation: str, scale: float, blob_density: float, blob_radius: float, mist: float
) -> tuple[Tensor, Tensor, Tensor]:
    """densities [M], albedo [M, 3] and normals [M, 3] (or [0, 3] without them) at positions [M, 3] in [-1, 1]^3.

    Args:
        table: [N^3, W], W = 4: raw density and colour; W = 7: and the gradient of scale * raw density in world units.
        n: N. activation: one of ACTIVATIONS. The others: as engine.fields.activations has them.
    Differentiable in the table, not in positions.
    """
    index = ACTIVATIONS.index(activation)
    found = torch.ops.dreamfusion.dense_field(table, n, positions, index, scale, blob_density, blob_radius, mist)
    densities, albedo, normals, _ = found
    return densities, albedo, normals


def _dense_field_kernel(table: Tensor, n: int, positions: Tensor, activation: int, *numbers: float) -> tuple[Tensor, ...]:
    """Densities, albedo, normals, and the lengths [M] that normals were divided by (or [0])."""
    table, positions = _flat(table, positions)
    outputs = _dense_field_outputs(table, n, positions)
    kernels = _kernels(positions)
    arguments: tuple[Argument, ...] = (table, table.shape[1], n, positions, activation, *map(float, numbers), *outputs)
    kernels.run("dense_field_forward", table.dtype, kernels.parts(positions.shape[0], SAMPLES_GRAIN), lambda _part: arguments)
    return outputs


def _dense_field_outputs(table: Tensor, _n: int, positions: Tensor, *_numbers: float) -> tuple[Tensor, ...]:
    n_samples = positions.shape[0]
    n_normals = n_samples if table.shape[1] == 7 else 0
    return tuple(positions.new_empty(shape) for shape in ((n_samples,), (n_samples, 3), (n_normals, 3), (n_normals,)))


def _dense_field_backward_kernel(
    n: int, width: int, positions: Tensor, activation: int, scale: float, *outputs_and_gradients: Tensor
) -> Tensor:
    positions, *rest = _flat(positions, *outputs_and_gradients)
    kernels, n_samples = _kernels(positions), positions.shape[0]
    d_table = positions.new_zeros(n**3, width)
    slabs = _slabs(positions, n, kernels.parts(n, 2, max(1, min(MOST_SLABS, n_samples // SAMPLES_GRAIN))))
    fixed: tuple[Argument, ...] = (width, n, positions, activation, float(scale), *rest)
    whole = [(0, n_samples)] * len(slabs)
    kernels.run("dense_field_backward", positions.dtype, whole, lambda part: (*fixed, *slabs[part], d_table))
    return d_table


def _slabs(positions: Tensor, n: int, parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The grid's planes [0, n) in as many parts as given, with about as many samples in each: quantiles of a thousand of them."""
    if len(parts) == 1:
        return parts
    some = positions[:: max(1, positions.shape[0] // 1024), 0].sort().values
    borders = some[torch.arange(1, len(parts)) * len(some) // len(parts)]
    edges = [0, *((borders.clamp(-1, 1) * 0.5 + 0.5) * (n - 1)).round().int().tolist(), n]
    return list(zip(edges, edges[1:]))


_implement("dense_field", _dense_field_kernel)
_implement("dense_field_backward", _dense_field_backward_kernel)


torch.library.register_fake("dreamfusion::dense_field", _dense_field_outputs, lib=_library)


@torch.library.register_fake("dreamfusion::dense_field_backward", lib=_library)
def _(n: int, width: int, positions: Tensor, *_rest: Any) -> Tensor:
    return positions.new_empty(n**3, width)


def _keep_dense_field(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    table, ctx.n, positions, ctx.activation, ctx.scale, *_ = inputs
    ctx.width = table.shape[1]
    ctx.save_for_backward(positions, *output)


def _dense_field_grad(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    positions, *outputs = ctx.saved_tensors
    full = (torch.zeros_like(output) if grad is None else grad for grad, output in zip(grads, outputs[:3]))
    numbers = ctx.n, ctx.width, positions, ctx.activation, ctx.scale
    d_table = torch.ops.dreamfusion.dense_field_backward(*numbers, *outputs, *full)
    return d_table, None, None, None, None, None, None, None


torch.library.register_autograd("dreamfusion::dense_field", _dense_field_grad, setup_context=_keep_dense_field, lib=_library)
