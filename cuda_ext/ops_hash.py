"""The hash grid's kernels as torch operators: features, and their first and second derivatives without a double backward in torch.

One form, the sum over corners of weight(x) * table[row] . features, in three contractions; each operator's gradient is made of
the other two. `directions` v turns the weights into their derivatives along v, which is how the second order comes about.
A `mirror` is the table in half precision, which is read in its place; the table's gradient is that in what was read, passed straight
through the rounding as tiny-cuda-nn does. All numbers but the mirror's are of one type, in which is summed.
Shapes: M samples, L levels, D features per level, V rows of all levels together.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cuda_ext.cpu import Argument, new_zeros
from cuda_ext.ops import SAMPLES_GRAIN, _flat, _implement, _kernels, _library

MOST_FEATURES = 32


class Levels(NamedTuple):
    """resolutions [L] cells per axis, sizes [L] rows (a power of two where points share rows), openness [L] in 0..1, smooth: smoothstep."""

    resolutions: Sequence[int]
    sizes: Sequence[int]
    openness: Sequence[float]
    smooth: bool


_LEVELS = "int[] resolutions, int[] sizes, float[] openness, bool smooth"
_MIRROR = "Tensor? mirror=None"
_library.define(f"hash_encode(Tensor table, Tensor positions, Tensor? directions, {_LEVELS}, {_MIRROR}) -> Tensor")
_library.define(f"hash_table_grad(Tensor positions, Tensor? directions, Tensor d_features, {_LEVELS}) -> Tensor")
_library.define(
    f"hash_position_grad(Tensor table, Tensor positions, Tensor? directions, Tensor d_features, {_LEVELS}, {_MIRROR}) -> Tensor"
)


def hash_encode(table: Tensor, positions: Tensor, levels: Levels, mirror: Tensor | None = None) -> Tensor:
    """Features [M, L * D] of positions [M, 3] in [0, 1]^3 in a table [V, D], twice differentiable in both. Closed levels give zeros.

    Args:
        mirror: [V, D] float16, the table as it is read; None reads the table itself. Made anew whenever the table has changed.
    Raises: ValueError if the table has not the rows that the levels say, more than MOST_FEATURES features or another mirror.
    """
    _check_table(table, levels, mirror)
    features: Tensor = torch.ops.dreamfusion.hash_encode(table, positions, None, *levels, mirror)
    return features


def hash_pull_back(table: Tensor, positions: Tensor, d_features: Tensor, levels: Levels, mirror: Tensor | None = None) -> Tensor:
    """Gradient [M, 3] by positions of the sum of features times d_features [M, L * D]: what normals are made of.

    Differentiable once more in table, positions and d_features. Mirror and raises: as `hash_encode`.
    """
    _check_table(table, levels, mirror)
    gradient: Tensor = torch.ops.dreamfusion.hash_position_grad(table, positions, None, d_features, *levels, mirror)
    return gradient


def _check_table(table: Tensor, levels: Levels, mirror: Tensor | None = None) -> None:
    if table.shape[0] != sum(levels.sizes) or not 1 <= table.shape[1] <= MOST_FEATURES:
        raise ValueError(f"table must be [{sum(levels.sizes)}, 1..{MOST_FEATURES}], got {list(table.shape)}")
    if mirror is not None and (mirror.shape != table.shape or mirror.dtype != torch.float16 or mirror.device != table.device):
        wanted = f"{list(table.shape)} torch.float16 on {table.device}"
        raise ValueError(f"mirror must be {wanted}, got {list(mirror.shape)} {mirror.dtype} on {mirror.device}")


def _as_read(mirror: Tensor | None) -> Argument:
    """The mirror as kernels read it, a row at once: contiguous, rows of 2 or 4 numbers where their size divides the address."""
    if mirror is None:
        return 0
    return mirror.contiguous() if mirror.data_ptr() % 8 == 0 else mirror.clone(memory_format=torch.contiguous_format)


def _described(like: Tensor, levels: Levels) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int]:
    """The levels as kernels read them: resolutions, sizes, first rows, openness, their number, smooth."""
    numbers = tuple(levels.resolutions), tuple(levels.sizes), tuple(levels.openness)
    return *_on_device(*numbers, like.dtype, like.device), len(levels.sizes), int(levels.smooth)


@functools.lru_cache(maxsize=64)
def _on_device(
    resolutions: tuple[int, ...], sizes: tuple[int, ...], openness: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Copied once: a copy waits for the GPU, and a CUDA graph that is being recorded does not allow one."""
    rows = torch.tensor(sizes, device=device)
    return torch.tensor(resolutions, device=device), rows, rows.cumsum(0) - rows, torch.tensor(openness, dtype=dtype, device=device)


def _encode(
    table: Tensor,
    positions: Tensor,
    directions: Tensor | None,
    resolutions: list[int],
    sizes: list[int],
    openness: list[float],
    smooth: bool,
    mirror: Tensor | None = None,
) -> Tensor:
    levels = Levels(resolutions, sizes, openness, smooth)
    table, positions = _flat(table, positions)
    v: Argument = 0 if directions is None else _flat(positions, directions)[1]
    n_samples, n_levels, kernels = positions.shape[0], len(levels.sizes), _kernels(positions)
    features = table.new_empty(n_samples, n_levels * table.shape[1])
    parts = kernels.parts(n_levels * n_samples, SAMPLES_GRAIN)
    chunk = max(1, -(-n_samples // len(parts)))  # each thread takes its own samples through all levels
    where = table, _as_read(mirror), table.shape[1], *_described(table, levels)
    arguments: tuple[Argument, ...] = (*where, positions, v, n_samples, chunk, features)
    kernels.run("hash_encode", table.dtype, parts, lambda _part: arguments)
    return features


def _table_grad(positions: Tensor, directions: Tensor | None, d_features: Tensor, *numbers: Any) -> Tensor:
    levels = Levels(*numbers)
    positions, d_features = _flat(positions, d_features)
    v: Argument = 0 if directions is None else _flat(positions, directions)[1]
    n_samples, n_levels, kernels = positions.shape[0], len(levels.sizes), _kernels(positions)
    d_table = new_zeros(d_features, sum(levels.sizes), d_features.shape[1] // n_levels)
    *lists, _all, smooth = _described(d_features, levels)
    whole = kernels.parts(n_levels, 1)  # each thread's levels, see the body
    fixed = (smooth, positions, v, n_samples, d_features, d_table.shape[1])
    kernels.run(
        "hash_table_grad",
        d_features.dtype,
        [(0, (end - begin) * n_samples) for begin, end in whole],
        lambda part: (*lists, whole[part][1] - whole[part][0], *fixed, whole[part][0], n_levels, d_table),
    )
    return d_table


def _position_grad(
    table: Tensor,
    positions: Tensor,
    directions: Tensor | None,
    d_features: Tensor,
    resolutions: list[int],
    sizes: list[int],
    openness: list[float],
    smooth: bool,
    mirror: Tensor | None = None,
) -> Tensor:
    levels = Levels(resolutions, sizes, openness, smooth)
    table, positions, d_features = _flat(table, positions, d_features)
    v: Argument = 0 if directions is None else _flat(positions, directions)[1]
    d_positions, kernels = torch.empty_like(positions), _kernels(positions)
    where = table, _as_read(mirror), table.shape[1], *_described(table, levels)
    arguments: tuple[Argument, ...] = (*where, positions, v, d_features, d_positions)
    kernels.run("hash_position_grad", table.dtype, kernels.parts(positions.shape[0], SAMPLES_GRAIN // 8), lambda _part: arguments)
    return d_positions


_implement("hash_encode", _encode)
_implement("hash_table_grad", _table_grad)
_implement("hash_position_grad", _position_grad)


@torch.library.register_fake("dreamfusion::hash_encode", lib=_library)
def _(table: Tensor, positions: Tensor, _directions: Tensor | None, *numbers: Any) -> Tensor:
    return table.new_empty(positions.shape[0], len(numbers[0]) * table.shape[1])


@torch.library.register_fake("dreamfusion::hash_table_grad", lib=_library)
def _(_positions: Tensor, _directions: Tensor | None, d_features: Tensor, *numbers: Any) -> Tensor:
    sizes = Levels(*numbers).sizes
    return d_features.new_empty(sum(sizes), d_features.shape[1] // len(sizes))


@torch.library.register_fake("dreamfusion::hash_position_grad", lib=_library)
def _(_table: Tensor, positions: Tensor, *_rest: Any) -> Tensor:
    return torch.empty_like(positions)


# Gradients. With F(table, x, v, g) the bilinear form: encode = dF/dg, table_grad = dF/dtable, position_grad = dF/dx, dF/dv is
# position_grad without v. An operator contracted with a cotangent is F again, with the cotangent in the place of what it was derived by.

ops = torch.ops.dreamfusion
_NO_LEVELS = (None,) * len(Levels._fields)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors = [value for value in inputs if value is None or isinstance(value, Tensor)]
    ctx.levels = [value for value in inputs if not (value is None or isinstance(value, Tensor))]
    ctx.save_for_backward(*tensors)


def _encode_grad(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    table, x, v, mirror = ctx.saved_tensors
    need = ctx.needs_input_grad
    d_table = ops.hash_table_grad(x, v, g, *ctx.levels) if need[0] else None
    d_x = ops.hash_position_grad(table, x, v, g, *ctx.levels, mirror) if need[1] else None
    d_v = ops.hash_position_grad(table, x, None, g, *ctx.levels, mirror) if need[2] else None
    return d_table, d_x, d_v, *_NO_LEVELS, None


def _table_grad_grad(ctx: Any, table: Tensor) -> tuple[Tensor | None, ...]:
    """Here the table is a gradient of a gradient, which has no mirror."""
    x, v, g = ctx.saved_tensors
    need = ctx.needs_input_grad
    d_x = ops.hash_position_grad(table, x, v, g, *ctx.levels) if need[0] else None
    d_v = ops.hash_position_grad(table, x, None, g, *ctx.levels) if need[1] else None
    d_g = ops.hash_encode(table, x, v, *ctx.levels) if need[2] else None
    return d_x, d_v, d_g, *_NO_LEVELS


def _position_grad_grad(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
    table, x, v, g, mirror = ctx.saved_tensors
    if v is not None:
        raise NotImplementedError("The hash grid's kernel has no third derivative in positions.")
    need = ctx.needs_input_grad
    d_table = ops.hash_table_grad(x, u, g, *ctx.levels) if need[0] else None
    d_x = ops.hash_position_grad(table, x, u, g, *ctx.levels, mirror) if need[1] else None
    d_g = ops.hash_encode(table, x, u, *ctx.levels, mirror) if need[3] else None
    return d_table, d_x, None, d_g, *_NO_LEVELS, None


torch.library.register_autograd("dreamfusion::hash_encode", _encode_grad, setup_context=_keep, lib=_library)
torch.library.register_autograd("dreamfusion::hash_table_grad", _table_grad_grad, setup_context=_keep, lib=_library)
torch.library.register_autograd("dreamfusion::hash_position_grad", _position_grad_grad, setup_context=_keep, lib=_library)
