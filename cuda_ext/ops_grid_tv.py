"""Total variation of a grid's levels at drawn places, as a torch operator. M places, L levels, D features, V rows of all levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cuda_ext.cpu import Argument, new_zeros
from cuda_ext.ops import SAMPLES_GRAIN, _flat, _implement, _kernels, _library
from cuda_ext.ops_hash import Levels, _check_table, _described

_LEVELS = "int[] resolutions, int[] sizes, float[] openness"
_library.define(f"grid_tv(Tensor table, Tensor positions, {_LEVELS}) -> Tensor")
_library.define(f"grid_tv_backward(Tensor table, Tensor positions, Tensor d_values, {_LEVELS}) -> Tensor")


def grid_tv(table: Tensor, positions: Tensor, levels: Levels) -> Tensor:
    """Squared differences [L, M]: openness^2 * sum over x, y, z of |row of the cell's next corner - row of its lowest corner|^2.

    Args:
        table: [V, D], or [D, V] transposed, which is read as it lies. positions: [M, 3] in [0, 1]^3, which choose the cells.
        levels: as for `hash_encode`; how the grid is read between its points does not matter.
    Differentiable once in the table; nothing changes with a position but the cell.
    Raises: as `hash_encode`.
    """
    _check_table(table, levels)
    values: Tensor = torch.ops.dreamfusion.grid_tv(table, positions, levels.resolutions, levels.sizes, levels.openness)
    return values


def _is_turned(table: Tensor) -> bool:
    """Whether it is a [D, V] transposed."""
    return not table.is_contiguous() and table.t().is_contiguous()


def _where(table: Tensor, positions: Tensor, *numbers: Any) -> tuple[tuple[Argument, ...], Tensor]:
    """The table and its levels as the kernels read them, up to their number, and the positions as they must lie."""
    (n_rows, width), is_turned = table.shape, _is_turned(table)
    table, positions = _flat(table.t() if is_turned else table, positions)
    resolutions, sizes, openness = numbers
    described = _described(table, Levels(resolutions, sizes, openness, False))[:4]
    return (table, width, *((1, n_rows) if is_turned else (width, 1)), *described), positions


def _forward(table: Tensor, positions: Tensor, *numbers: Any) -> Tensor:
    n_levels, n_samples, kernels = len(numbers[0]), positions.shape[0], _kernels(positions)
    values = table.new_empty(n_levels, n_samples)
    where, positions = _where(table, positions, *numbers)
    arguments = (*where, n_levels, positions, n_samples, values)
    kernels.run("grid_tv_forward", table.dtype, kernels.parts(n_levels * n_samples, SAMPLES_GRAIN), lambda _part: arguments)
    return values


def _backward(table: Tensor, positions: Tensor, d_values: Tensor, *numbers: Any) -> Tensor:
    _, d_values = _flat(positions, d_values)
    n_samples, kernels = positions.shape[0], _kernels(positions)
    d_table = new_zeros(table, *table.t().shape).t() if _is_turned(table) else new_zeros(table, *table.shape)
    whole = kernels.parts(len(numbers[0]), 1)  # each thread's levels, see the body
    where, positions = _where(table, positions, *numbers)
    kernels.run(
        "grid_tv_backward",
        table.dtype,
        [(0, (end - begin) * n_samples) for begin, end in whole],
        lambda part: (*where, whole[part][1] - whole[part][0], positions, n_samples, d_values, whole[part][0], d_table),
    )
    return d_table


_implement("grid_tv", _forward)
_implement("grid_tv_backward", _backward)


@torch.library.register_fake("dreamfusion::grid_tv", lib=_library)
def _(table: Tensor, positions: Tensor, resolutions: Sequence[int], *_rest: Any) -> Tensor:
    return table.new_empty(len(resolutions), positions.shape[0])


@torch.library.register_fake("dreamfusion::grid_tv_backward", lib=_library)
def _(table: Tensor, *_rest: Any) -> Tensor:
    return table.new_empty(table.t().shape).t() if _is_turned(table) else table.new_empty(table.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, positions, *ctx.numbers = inputs
    ctx.save_for_backward(table, positions)


def _grad(ctx: Any, d_values: Tensor) -> tuple[Tensor | None, ...]:
    d_table = torch.ops.dreamfusion.grid_tv_backward(*ctx.saved_tensors, d_values, *ctx.numbers) if ctx.needs_input_grad[0] else None
    return d_table, None, None, None, None


torch.library.register_autograd("dreamfusion::grid_tv", _grad, setup_context=_keep, lib=_library)
