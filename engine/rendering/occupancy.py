"""Which parts of space are worth sampling: a running maximum of the density per cell, and a bit that says yes or no.

Shapes: C cascades, G cells per axis, P the power of two at or above G, M positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext import ops
from cuda_ext.ops_occupancy import occupancy_update
from engine.rendering.morton import morton_code, pack_cells, unpack_cells

# A ray that crosses the whole object through matter this thin keeps four fifths of its light; thinner is haze, not shape.
DEFAULT_THRESHOLD = 0.2
MOST_CASCADES = 4
# A cell that was dense is forgotten after some twenty looks that find it empty (stable-dreamfusion uses the same factor).
_DECAY = 0.85
# However thin everything is, space within a factor of ten of the densest cell stays: else a faint field could never come back.
_RELATIVE_THRESHOLD = 0.1


class OccupancyGrid(nn.Module):
    """Running density per cell, and the cells that are occupied: above the threshold, or neighbour of one that is.

    The neighbours are what lets a shape grow: a cell next to matter is always rendered and so gets gradients.
    Cascade c has G^3 cells of [-2^-c, 2^-c]^3 (instant-ngp, 2201.05989, appendix C, turned inside out: our object ends at 1). A cell
    is never less than the finer cells in it, so that whoever looks at a coarse one misses nothing.
    Before the first update all cells are occupied. All state is in buffers: state_dict() is complete.
    """

    densities: Tensor
    bits: Tensor
    bounds: Tensor

    def __init__(self, resolution: int, cascades: int = 1, *, threshold: float = DEFAULT_THRESHOLD) -> None:
        """Raises: ValueError unless resolution is 2..256, cascades 1..4, and with more than one of them resolution a multiple of 4,
        so that a finer cell lies in one coarser."""
        super().__init__()
        if not 2 <= resolution <= 256:
            raise ValueError(f"resolution must be in 2..256, got {resolution}")
        if not 1 <= cascades <= MOST_CASCADES or (cascades > 1 and resolution % 4):
            raise ValueError(f"cascades must be 1..{MOST_CASCADES}, and 1 unless 4 divides the resolution, got {cascades} of {resolution}")
        self.resolution = resolution
        self.cascades = cascades
        self.threshold = threshold
        shape = (cascades, *(resolution,) * 3)
        self.register_buffer("densities", torch.zeros(shape))  # [C, G, G, G], indexed x, y, z
        self.register_buffer("bits", pack_cells(torch.ones(shape, dtype=torch.bool)))  # [C, P^3 / 8] uint8, see morton.py
        self.register_buffer("bounds", torch.tensor([[-1.0] * 3, [1.0] * 3]))  # [2, 3], box round all occupied cells
        self._unpacked = self.bits, -1, self.bits  # of which bits, of which of their versions, the cells

    @torch.no_grad()
    def update(self, density_at: Callable[[Tensor], Tensor], step: int, generator: torch.Generator) -> None:
        """Look at one random point in each cell. Nobody waits for the device.

        Args:
            density_at: positions [M, 3] to densities [M] per world unit, >= 0.
            step: at step 0 what was known before is forgotten.
        """
        found = self._pulled_up(density_at(self._points(generator).view(-1, 3)).reshape(self.densities.shape))
        decay = 0.0 if step == 0 else _DECAY
        greatest = torch.maximum(self.densities.max() * decay, found.max())
        threshold = (greatest * _RELATIVE_THRESHOLD).clamp(max=self.threshold)
        look = occupancy_update if ops.serves(self.densities) else _update_twin
        self.densities, bits = look(self.densities, found.to(self.densities.dtype), decay, threshold)
        self.bits.copy_(bits)
        self._fit_bounds(threshold)

    def _points(self, generator: torch.Generator) -> Tensor:
        """A random point in each cell, [C, G, G, G, 3]."""
        G, device = self.resolution, self.densities.device
        positions = torch.rand((*self.densities.shape, 3), generator=generator, device=generator.device).to(device)
        index = torch.arange(G, device=device)
        for axis, along in enumerate((index[:, None, None], index[:, None], index)):
            positions[..., axis] += along
        positions.mul_(2.0 / G).sub_(1.0)
        for cascade in range(1, self.cascades):
            positions[cascade] *= 2.0**-cascade
        return positions

    def _pulled_up(self, found: Tensor) -> Tensor:
        """[C, G, G, G]: in a cascade's middle no less than the next one's eight cells in each cell."""
        if self.cascades == 1:
            return found
        found, middle = found.clone(), slice(self.resolution // 4, self.resolution * 3 // 4)
        for cascade in range(self.cascades - 1, 0, -1):
            coarser = found[cascade - 1, middle, middle, middle]
            coarser.copy_(torch.maximum(coarser, F.max_pool3d(found[cascade][None, None], 2)[0, 0]))
        return found

    def _fit_bounds(self, threshold: Tensor) -> None:
        """The box of the coarsest cascade's cells, in which the others' are: round the dense ones, and a neighbour further."""
        G, densities = self.resolution, self.densities[0]
        along_z = densities.amax(dim=2)
        is_dense = torch.stack([along_z.amax(dim=1), along_z.amax(dim=0), densities.amax(dim=(0, 1))]) >= threshold  # [3, G]
        axis = torch.arange(G, device=densities.device)
        low = torch.where(is_dense, axis - 1, G).amin(dim=1).clamp(min=0)
        high = torch.where(is_dense, axis + 2, 0).amax(dim=1).clamp(max=G)
        self.bounds[0] = low * (2.0 / G) - 1.0
        self.bounds[1] = high * (2.0 / G) - 1.0

    def cells(self) -> Tensor:
        """[C, G, G, G] bool, indexed x, y, z: the bits unpacked, once after each change. To be read only."""
        bits, version, cells = self._unpacked
        if bits is not self.bits or version != self.bits._version:
            cells = unpack_cells(self.bits, self.resolution)
            self._unpacked = self.bits, self.bits._version, cells
        return cells

    def occupied(self, positions: Tensor) -> Tensor:
        """[M] bool: does each position [M, 3] lie in an occupied cell, of the finest cascade round it? False outside [-1, 1]^3."""
        G, reach = self.resolution, positions.abs().amax(dim=-1)
        cascade = sum((reach < 2.0**-c).long() for c in range(1, self.cascades)) + torch.zeros_like(reach, dtype=torch.long)
        cell = ((positions * 2.0 ** cascade[:, None] + 1.0) * (G / 2)).long().clamp_(0, G - 1)
        bit = morton_code(*cell.unbind(dim=-1))
        found = (self.bits[cascade, bit >> 3] >> (bit & 7).to(torch.uint8)) & 1
        return found.bool() & (reach <= 1.0)

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a state_dict is of as many cells."""
        return _with_cascades(state["densities"]).shape == self.densities.shape

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Before there were cascades, a cell was a byte."""
        if (cells := state_dict.pop(f"{prefix}occupied_cells", None)) is not None:
            state_dict[f"{prefix}bits"] = pack_cells(_with_cascades(cells))
            state_dict[f"{prefix}densities"] = _with_cascades(state_dict[f"{prefix}densities"])
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _with_cascades(cells: Tensor) -> Tensor:
    """[C, G, G, G] of that or of [G, G, G]."""
    return cells[None] if cells.ndim == 3 else cells


def _update_twin(before: Tensor, found: Tensor, decay: float, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """What the kernel does, in torch."""
    densities = torch.maximum(before * decay, found)
    # 3^3 maximum as three lines of 3: a ninth of the reads
    grown = densities[:, None]
    for kernel in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
        grown = F.max_pool3d(grown, kernel, stride=1, padding=tuple(k // 2 for k in kernel))
    return densities, pack_cells(grown[:, 0] >= threshold)
