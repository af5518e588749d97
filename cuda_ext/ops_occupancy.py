"""Which cells are worth sampling, as a torch operator. N cells per axis."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext.ops import _flat, _implement, _kernels, _library

CELLS_GRAIN = 16384

_library.define("occupancy_mark(Tensor densities, Tensor threshold) -> Tensor")


def occupancy_mark(densities: Tensor, threshold: Tensor) -> Tensor:
    """bool [N, N, N]: is a cell's density, or that of one of its 26 neighbours, at or above the threshold? No gradient.

    Args:
        densities: [N, N, N]. threshold: a scalar tensor, which is not waited for.
    Raises: ValueError for another shape.
    """
    if densities.ndim != 3 or len(set(densities.shape)) != 1 or threshold.numel() != 1:
        raise ValueError(f"densities must be [N, N, N] and threshold a scalar, got {list(densities.shape)} and {list(threshold.shape)}")
    cells: Tensor = torch.ops.dreamfusion.occupancy_mark(densities, threshold)
    return cells


def _mark(densities: Tensor, threshold: Tensor) -> Tensor:
    densities, threshold = _flat(densities, threshold)
    cells, n, kernels = densities.new_empty(densities.shape, dtype=torch.bool), densities.shape[0], _kernels(densities)
    kernels.run("occupancy_mark", densities.dtype, kernels.parts(n**3, CELLS_GRAIN), lambda _part: (densities, n, threshold, cells))
    return cells


_implement("occupancy_mark", _mark)


@torch.library.register_fake("dreamfusion::occupancy_mark", lib=_library)
def _(densities: Tensor, _threshold: Tensor) -> Tensor:
    return densities.new_empty(densities.shape, dtype=torch.bool)
