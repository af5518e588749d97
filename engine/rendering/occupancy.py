"""Which parts of space are worth sampling: a running maximum of the density per cell.

Shapes: G cells per axis of [-1, 1]^3, M positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext import ops
from cuda_ext.ops_occupancy import occupancy_mark

# A ray that crosses the whole object through matter this thin keeps four fifths of its light; thinner is haze, not shape.
DEFAULT_THRESHOLD = 0.2
# A cell that was dense is forgotten after some twenty looks that find it empty (stable-dreamfusion uses the same factor).
_DECAY = 0.85
# However thin everything is, space within a factor of ten of the densest cell stays: else a faint field could never come back.
_RELATIVE_THRESHOLD = 0.1


class OccupancyGrid(nn.Module):
    """Running density per cell, and the cells that are occupied: above the threshold, or neighbour of one that is.

    The neighbours are what lets a shape grow: a cell next to matter is always rendered and so gets gradients.
    Before the first update all cells are occupied. All state is in buffers: state_dict() is complete.
    """

    densities: Tensor
    occupied_cells: Tensor
    bounds: Tensor

    def __init__(self, resolution: int, *, threshold: float = DEFAULT_THRESHOLD) -> None:
        super().__init__()
        if resolution < 2:
            raise ValueError(f"resolution must be at least 2, got {resolution}")
        self.resolution = resolution
        self.threshold = threshold
        self.register_buffer("densities", torch.zeros((resolution,) * 3))  # [G, G, G], indexed x, y, z
        self.register_buffer("occupied_cells", torch.ones((resolution,) * 3, dtype=torch.bool))
        self.register_buffer("bounds", torch.tensor([[-1.0] * 3, [1.0] * 3]))  # [2, 3], box round all occupied cells

    @torch.no_grad()
    def update(self, density_at: Callable[[Tensor], Tensor], step: int, generator: torch.Generator) -> None:
        """Look at one random point in each cell.

        Args:
            density_at: positions [M, 3] to densities [M] per world unit.
            step: at step 0 what was known before is forgotten.
        """
        G, device = self.resolution, self.densities.device
        positions = torch.rand((G, G, G, 3), generator=generator, device=generator.device).to(device)
        index = torch.arange(G, device=device)
        for axis, along in enumerate((index[:, None, None], index[:, None], index)):
            positions[..., axis] += along
        found = density_at(positions.reshape(-1, 3).mul_(2.0 / G).sub_(1.0)).reshape(G, G, G)
        self.densities.copy_(found if step == 0 else torch.maximum(self.densities * _DECAY, found))
        self._mark()

    def _mark(self) -> None:
        threshold = (self.densities.max() * _RELATIVE_THRESHOLD).clamp(max=self.threshold)
        mark = occupancy_mark if ops.serves(self.densities) else _mark_twin
        self.occupied_cells.copy_(mark(self.densities, threshold))
        self._fit_bounds()

    def _fit_bounds(self) -> None:
        G = self.resolution
        axis = torch.arange(G, device=self.densities.device)
        for k, others in enumerate(((1, 2), (0, 2), (0, 1))):
            used = self.occupied_cells.any(dim=others[1]).any(dim=others[0])
            low = torch.where(used, axis, G).min()
            high = torch.where(used, axis + 1, 0).max()
            self.bounds[0, k] = low * (2.0 / G) - 1.0
            self.bounds[1, k] = high * (2.0 / G) - 1.0

    def occupied(self, positions: Tensor) -> Tensor:
        """[M] bool: does each position [M, 3] lie in an occupied cell? False outside [-1, 1]^3."""
        G = self.resolution
        inside = (positions.abs() <= 1.0).all(dim=-1)
        cells = ((positions + 1.0) * (G / 2)).long().clamp_(0, G - 1)
        return self.occupied_cells[cells[:, 0], cells[:, 1], cells[:, 2]] & inside


def _mark_twin(densities: Tensor, threshold: Tensor) -> Tensor:
    """What the kernel does, in torch."""
    # 3^3 maximum as three lines of 3: a ninth of the reads
    grown = densities[None, None]
    for kernel in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
        grown = F.max_pool3d(grown, kernel, stride=1, padding=tuple(k // 2 for k in kernel))
    return grown[0, 0] >= threshold
