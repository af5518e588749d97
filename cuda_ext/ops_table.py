"""The table that a dense grid is read from, as a torch operator. N points per axis."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cuda_ext.ops import _flat, _implement, _kernels, _library

POINTS_GRAIN = 16384

_library.define("dense_table(Tensor volume, float scale, bool with_gradient) -> Tensor")
_library.define("dense_table_backward(Tensor d_table, int n, float scale) -> Tensor")


def dense_table(volume: Tensor, scale: float, *, with_gradient: bool) -> Tensor:
    """A volume [4, N, N, N] over [-1, 1]^3 as [N^3, 4], or as [N^3, 7] with scale times the gradient of volume[0]. Differentiable.

    Raises: ValueError for another shape.
    """
    if volume.ndim != 4 or volume.shape[0] != 4 or len(set(volume.shape[1:])) != 1 or volume.shape[1] < 2:
        raise ValueError(f"volume must be [4, N, N, N] with N >= 2, got {list(volume.shape)}")
    table: Tensor = torch.ops.dreamfusion.dense_table(volume, scale, with_gradient)
    return table


def _forward(volume: Tensor, scale: float, with_gradient: bool) -> Tensor:
    (volume,) = _flat(volume)
    n, width, kernels = volume.shape[1], 7 if with_gradient else 4, _kernels(volume)
    table = volume.new_empty(n**3, width)
    arguments = (volume, n, width, float(scale), table)
    kernels.run("dense_table_forward", volume.dtype, kernels.parts(n**3, POINTS_GRAIN), lambda _part: arguments)
    return table


def _backward(d_table: Tensor, n: int, scale: float) -> Tensor:
    (d_table,) = _flat(d_table)
    d_volume, kernels = d_table.new_empty(4, n, n, n), _kernels(d_table)
    arguments = (d_table, n, d_table.shape[1], float(scale), d_volume)
    kernels.run("dense_table_backward", d_table.dtype, kernels.parts(n**3, POINTS_GRAIN), lambda _part: arguments)
    return d_volume


_implement("dense_table", _forward)
_implement("dense_table_backward", _backward)


@torch.library.register_fake("dreamfusion::dense_table", lib=_library)
def _(volume: Tensor, scale: float, with_gradient: bool) -> Tensor:
    return volume.new_empty(volume.shape[1] ** 3, 7 if with_gradient else 4)


@torch.library.register_fake("dreamfusion::dense_table_backward", lib=_library)
def _(d_table: Tensor, n: int, scale: float) -> Tensor:
    return d_table.new_empty(4, n, n, n)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    volume, ctx.scale, _ = inputs
    ctx.n = volume.shape[1]


def _grad(ctx: Any, d_table: Tensor) -> tuple[Tensor, None, None]:
    return torch.ops.dreamfusion.dense_table_backward(d_table, ctx.n, ctx.scale), None, None


torch.library.register_autograd("dreamfusion::dense_table", _grad, setup_context=_keep, lib=_library)
