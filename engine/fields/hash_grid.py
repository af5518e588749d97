"""Multi-resolution hash grid (Instant NGP, 2201.05989): small levels are dense, large ones share a table by hash.

By a kernel where there is one (`cuda_ext/ops_hash.py`), else by its twin here in torch.

Shapes: M positions, L levels, D features per level, V rows of all tables together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cuda_ext import ops, ops_hash
from engine.fields.field_config import FieldConfig
from engine.fields.gather import gather_sum
from engine.fields.levels import level_openness, level_resolutions
from engine.fields.trilinear import cell_of, corner_weights, dense_rows, smoothstep

# Instant NGP, eq. 4: the first is 1 so that neighbours along one axis stay neighbours in memory.
_PRIMES = (1, 2654435761, 805459861)
_INITIAL_SPREAD = 1e-4


class HashGrid(nn.Module):
    """Positions in [0, 1]^3 to features [M, L * D]; closed levels give zeros. Differentiable in the table and in the positions.

    Attributes:
        n_features: L * D.
        max_level: fraction of the levels that is open, see `level_openness`.
        smooth: read by smoothstep along each axis in place of straight lines: then normals have no steps at cell faces.
        is_half: read from a copy of the table in half precision, summed in the table's own; gradients pass straight through the rounding
            to the table, which an optimizer's small steps add up in (Instant NGP, section 3, and tiny-cuda-nn).
    """

    def __init__(
        self,
        resolutions: tuple[int, ...],
        features: int,
        log2_table_size: int,
        generator: torch.Generator,
        *,
        smooth: bool = False,
        is_half: bool = False,
    ) -> None:
        super().__init__()
        self.smooth = smooth
        self.is_half = is_half
        self.resolutions = resolutions
        self.features = features
        self.n_features = len(resolutions) * features
        self.max_level = 1.0
        self.sizes = tuple(min((n + 1) ** 3, 2**log2_table_size) for n in resolutions)
        noise = torch.rand((sum(self.sizes), features), generator=generator, device=generator.device)
        self.table = nn.Parameter((noise * 2.0 - 1.0) * _INITIAL_SPREAD)

    @classmethod
    def from_config(cls, config: FieldConfig, generator: torch.Generator) -> HashGrid:
        resolutions = level_resolutions(config.n_levels, config.base_resolution, config.finest_resolution)
        smooth, is_half = config.interpolation == "smoothstep", config.table_precision == "float16"
        return cls(resolutions, config.features, config.log2_table_size, generator, smooth=smooth, is_half=is_half)

    @property
    def n_levels(self) -> int:
        return len(self.resolutions)

    def forward(self, positions: Tensor, mirror: Tensor | None = None) -> Tensor:
        """Positions [M, 3] in [0, 1]^3 to features [M, L * D].

        Args:
            mirror: what `mirror()` gave since the table last changed; None makes it anew.
        """
        if ops.serves(positions):
            return ops_hash.hash_encode(self.table, positions, self.levels(), self.mirror() if mirror is None else mirror)
        return self.forward_twin(positions)

    def mirror(self) -> Tensor | None:
        """The table as kernels read it, [V, D] float16; None where they read the table itself.

        Not kept: whoever looks several times while the table stays keeps it, so none is ever out of date.
        """
        return self.table.detach().half() if self.is_half else None

    def pull_back(self, positions: Tensor, d_features: Tensor, mirror: Tensor | None = None) -> Tensor:
        """Gradient [M, 3] by positions [M, 3] of the sum of features times d_features [M, L * D]; by the kernel, so ask `ops.serves`.

        Differentiable in the table, in d_features and in the positions. Mirror: as of `forward`.
        """
        return ops_hash.hash_pull_back(self.table, positions, d_features, self.levels(), self.mirror() if mirror is None else mirror)

    def levels(self) -> ops_hash.Levels:
        """The levels as kernels are told them, as far open as they are now."""
        return ops_hash.Levels(self.resolutions, self.sizes, level_openness(self.n_levels, self.max_level), self.smooth)

    def forward_twin(self, positions: Tensor) -> Tensor:
        """What the kernel does, in torch."""
        outputs = []
        across = positions.t().contiguous()  # [3, M]
        table: Tensor = self.table
        if self.is_half:
            table = table + (table.half().to(table.dtype) - table).detach()  # exact: the two are close, or one is zero
        tables = table.split(self.sizes)
        for rows, resolution, openness in zip(tables, self.resolutions, level_openness(self.n_levels, self.max_level)):
            if openness == 0.0:
                outputs.append(positions.new_zeros(positions.shape[0], self.features))
                continue
            lower, fraction = cell_of(across, resolution + 1)
            if self.smooth:
                fraction = smoothstep(fraction)
            features = gather_sum(rows, corner_rows(lower, resolution + 1, rows.shape[0]), corner_weights(fraction))
            outputs.append(features if openness == 1.0 else features * openness)
        return torch.cat(outputs, dim=1)


def corner_rows(lower: Tensor, n_points: int, table_size: int) -> Tensor:
    """Rows [8, M] of a cell's corners: in grid order if all points fit into the table, else xor of coordinate times prime."""
    if n_points**3 <= table_size:
        return dense_rows(lower, n_points)
    x, y, z = (torch.stack([axis, axis + 1]) * prime for axis, prime in zip(lower, _PRIMES))  # each [2, M]
    return (x[:, None, None] ^ y[None, :, None] ^ z[None, None, :]).reshape(8, -1) & (table_size - 1)
