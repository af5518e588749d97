"""Total variation of a grid: how much what it stores differs between neighbouring points, at drawn places.

By a kernel where there is one (`cuda_ext/ops_grid_tv.py`), else by its twin here in torch.
Shapes: M places, L levels, D features, V rows of all levels together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import ops
from cuda_ext.ops_grid_tv import grid_tv
from cuda_ext.ops_hash import Levels
from engine.fields.dense_grid import DenseGrid
from engine.fields.hash_grid import HashGrid, corner_rows
from engine.fields.levels import level_openness
from engine.fields.trilinear import cell_of

# A cell's next corners along x, y, z in the order of `corner_weights`; its lowest is corner 0.
_NEXT = (4, 2, 1)


def total_variation(grid: HashGrid | DenseGrid, positions: Tensor) -> Tensor:
    """Mean over L levels, M places and D features of openness^2 * sum over a in x, y, z of (T[c + a] - T[c])^2, a scalar >= 0.

    c is the lowest corner of the cell of a level that a place lies in, c + a the next point along an axis, T what the level stores.
    Closed levels count as 0. Of squares, so that noise is taken away before what a surface needs.

    Args:
        positions: [M, 3] in [0, 1]^3, M >= 1; they choose cells and have no gradient.
    Source: total variation of torch-ngp's grid, with the plain square's gradient.
    """
    if isinstance(grid, HashGrid):
        return _squares(grid.table, positions, grid.levels()).mean() / grid.features
    total = positions.new_zeros(())
    for level, resolution, openness in zip(grid.levels, grid.resolutions, level_openness(grid.n_levels, grid.max_level)):
        if openness > 0.0:
            described = Levels((resolution,), ((resolution + 1) ** 3,), (openness,), False)
            total = total + _squares(level.flatten(1).t(), positions, described).mean()
    return total / (grid.n_levels * grid.n_features)


def _squares(table: Tensor, positions: Tensor, levels: Levels) -> Tensor:
    return grid_tv(table, positions, levels) if ops.serves(positions) else squares_twin(table, positions, levels)


def squares_twin(table: Tensor, positions: Tensor, levels: Levels) -> Tensor:
    """What the kernel does, in torch: [L, M] of a table [V, D], differentiable in the table."""
    across = positions.detach().t().contiguous()  # [3, M]
    squares = []
    for part, resolution, openness in zip(table.split(tuple(levels.sizes)), levels.resolutions, levels.openness):
        if openness == 0.0:
            squares.append(positions.new_zeros(positions.shape[0]))
            continue
        rows = corner_rows(cell_of(across, resolution + 1)[0], resolution + 1, part.shape[0])  # [8, M]
        here = part.index_select(0, rows[0])
        steps = torch.stack([part.index_select(0, rows[corner]) - here for corner in _NEXT])  # [3, M, D]
        squares.append(openness**2 * steps.square().sum(dim=(0, 2)))
    return torch.stack(squares)
