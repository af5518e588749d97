"""The hash grid of tiny-cuda-nn, where the package tinycudann is installed: the same features as `HashGrid`, fused for NVIDIA GPUs."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import UserError
from engine.fields.field_config import FieldConfig
from engine.fields.levels import level_openness


class TcnnGrid(nn.Module):
    """Positions in [0, 1]^3 to features [M, L * D]; closed levels give zeros. Differentiable in the table and, twice, in the positions.

    Attributes:
        n_features: L * D.
        max_level: fraction of the levels that is open, see `level_openness`.
    Raises:
        UserError: if the package is not installed, or finds no NVIDIA GPU.
    """

    def __init__(self, config: FieldConfig, seed: int) -> None:
        super().__init__()
        package = _package()
        self.n_levels = config.n_levels
        self.features = config.features
        self.n_features = config.n_levels * config.features
        self.max_level = 1.0
        growth = (config.finest_resolution / config.base_resolution) ** (1.0 / max(config.n_levels - 1, 1))
        settings = {
            "otype": "HashGrid",
            "n_levels": config.n_levels,
            "n_features_per_level": config.features,
            "log2_hashmap_size": config.log2_table_size,
            "base_resolution": config.base_resolution,
            "per_level_scale": growth,
            # Smoothed corners: a linear grid has no second derivative, and normals that learn need one.
            "interpolation": "Smoothstep",
        }
        self.table: nn.Module = package.Encoding(n_input_dims=3, encoding_config=settings, seed=seed, dtype=torch.float32)

    @classmethod
    def from_config(cls, config: FieldConfig, generator: torch.Generator) -> TcnnGrid:
        return cls(config, int(torch.randint(2**31 - 1, (1,), generator=generator, device=generator.device)))

    def forward(self, positions: Tensor) -> Tensor:
        """Positions [M, 3] in [0, 1]^3 to features [M, L * D]."""
        features = self.table(positions).to(positions)
        openness = level_openness(self.n_levels, self.max_level)
        if min(openness) == 1.0:
            return features
        return features * features.new_tensor(openness).repeat_interleave(self.features)


def _package() -> Any:
    try:
        return importlib.import_module("tinycudann")
    except (ImportError, OSError) as error:  # OSError: it finds no GPU of the kind it was built for
        raise UserError(
            f"field.encoding is tcnn, but the package tinycudann cannot be used here ({str(error).splitlines()[0][:120]}).",
            "Use --field.encoding hash, which gives the same features and needs nothing.",
            "option",
        ) from error
