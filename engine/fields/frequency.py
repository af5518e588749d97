"""Frequency encoding of positions: the smooth field of the first NeRFs, small and slow to find detail."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
        x = positions * 2.0 - 1.0
        features = [x]
        for k, openness in enumerate(level_openness(self.n_levels, self.max_level)):
            scaled = 2.0**k * x
            features += [openness * torch.sin(scaled), openness * torch.cos(scaled)]
        return torch.cat(features, dim=-1)
