"""Frequency encoding: the smooth field of the first NeRFs, small and slow to find detail; and what a learned background sees by.

By a kernel where there is one (`cuda_ext/ops_frequency.py`), else by its twin here in torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cuda_ext import ops
from cuda_ext.ops_frequency import frequency_encode
from engine.fields.field_config import FieldConfig
from engine.fields.levels import level_openness


class FrequencyEncoding(nn.Module):
    """Positions in [0, 1]^3 to [M, 3 + 6 L]: themselves in [-1, 1], then sin and cos of 2^k times them for L bands.

    Closed bands give zeros; which are open, `level_openness` says, as for grids. No parameters; differentiable in positions.
    Source: NeRF (2003.08934), eq. 4, without its factor pi, as in stable-dreamfusion; bands opened as in Nerfies (2011.12948).

    Attributes:
        n_features: 3 + 6 L.
        max_level: fraction of the bands that is open.
    """

    def __init__(self, n_bands: int) -> None:
        super().__init__()
        self.n_levels = n_bands
        self.n_features = 3 + 6 * n_bands
        self.max_level = 1.0

    @classmethod
    def from_config(cls, config: FieldConfig, generator: torch.Generator) -> FrequencyEncoding:
        return cls(config.n_levels)

    def forward(self, positions: Tensor) -> Tensor:
        """Positions [M, 3] in [0, 1]^3 to features [M, 3 + 6 L]."""
        return waves(positions * 2.0 - 1.0, level_openness(self.n_levels, self.max_level))


def waves(x: Tensor, openness: Sequence[float]) -> Tensor:
    """x [M, 3] to [M, 3 + 6 L]: x, then for band k of L openness[k] * sin 2^k x and openness[k] * cos 2^k x. Twice differentiable."""
    return frequency_encode(x, openness) if ops.serves(x) else waves_twin(x, openness)


def waves_twin(x: Tensor, openness: Sequence[float]) -> Tensor:
    """What the kernel does, in torch."""
    features = [x]
    for k, open_part in enumerate(openness):
        scaled = 2.0**k * x
        features += [open_part * torch.sin(scaled), open_part * torch.cos(scaled)]
    return torch.cat(features, dim=-1)
