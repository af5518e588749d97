"""Dense multi-resolution grid: volumes from coarse to fine, added up before they are read.

The levels are a change of variables, as in a Laplacian pyramid: coarse ones carry large moves in few steps, fine ones the
detail. Because their sum is one volume, a sample costs one look at eight corners, whatever the number of levels.

Shapes: M positions, D features, N points per axis of the finest open level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.fields.field_config import FieldConfig
from engine.fields.gather import gather_sum
from engine.fields.levels import level_openness, level_resolutions
from engine.fields.trilinear import cell_of, corner_weights, dense_rows, resample

# Small enough to be mid-grey and blob alone, large enough that no two runs of different seed are the same.
_INITIAL_SPREAD = 1e-4


class DenseGrid(nn.Module):
    """Positions in [0, 1]^3 to features [M, D], trilinear, differentiable in the grid and in the positions.

    Attributes:
        n_features: D.
        max_level: fraction of the levels that is open, see `level_openness`.
    """

    def __init__(self, resolutions: tuple[int, ...], features: int, generator: torch.Generator) -> None:
        super().__init__()
        self.resolutions = resolutions
        self.n_features = features
        self.max_level = 1.0
        self.levels = nn.ParameterList(nn.Parameter(_small_noise((features, n + 1, n + 1, n + 1), generator)) for n in resolutions)

    @classmethod
    def from_config(cls, config: FieldConfig, generator: torch.Generator) -> DenseGrid:
        return cls(level_resolutions(config.n_levels, config.base_resolution, config.finest_resolution), config.features, generator)

    @property
    def n_levels(self) -> int:
        return len(self.resolutions)

    def volume(self) -> Tensor:
        """All open levels in one volume [D, N, N, N], axes x, y, z. Differentiable in the levels."""
        total: Tensor | None = None
        for level, openness in zip(self.levels, level_openness(self.n_levels, self.max_level)):
            if openness == 0.0:
                break
            part = level if openness == 1.0 else level * openness
            total = part if total is None else resample(total, part.shape[1]) + part
        assert total is not None
        return total

    def forward(self, positions: Tensor) -> Tensor:
        """Positions [M, 3] in [0, 1]^3 to features [M, D]."""
        volume = self.volume()
        return read_table(as_table(volume), volume.shape[1], positions)


def as_table(volume: Tensor) -> Tensor:
    """A volume [D, N, N, N] as a table [N^3, D] whose rows lie together in memory."""
    return volume.reshape(volume.shape[0], -1).t().contiguous()


def read_table(table: Tensor, n_points: int, positions: Tensor) -> Tensor:
    """Trilinear values [M, D] of a table [n_points^3, D] at positions [M, 3] in [0, 1]^3. Differentiable in both."""
    lower, fraction = cell_of(positions.t().contiguous(), n_points)
    return gather_sum(table, dense_rows(lower, n_points), corner_weights(fraction))


def _small_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator, device=generator.device) * 2.0 - 1.0) * _INITIAL_SPREAD
