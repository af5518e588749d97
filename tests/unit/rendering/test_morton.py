"""Bits in Morton order: there and back, and where a cell's bit lies."""

from __future__ import annotations

import pytest
import torch

from engine.rendering.morton import morton_code, pack_cells, padded, unpack_cells
from engine.rendering.occupancy import OccupancyGrid


@pytest.mark.parametrize("resolution", [2, 3, 8, 20, 37])
def test_cells_come_back_from_their_bits(resolution: int) -> None:
    cells = torch.rand(2, resolution, resolution, resolution, generator=torch.Generator().manual_seed(0)) < 0.4
    bits = pack_cells(cells)
    assert bits.dtype == torch.uint8 and bits.shape == (2, padded(resolution) ** 3 // 8)
    assert torch.equal(unpack_cells(bits, resolution), cells)
    assert int(cells.sum()) == sum(bin(byte).count("1") for byte in bits.flatten().tolist())  # nothing is set beyond


@pytest.mark.parametrize("place", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 5, 6), (19, 18, 17)])
def test_a_cell_is_the_bit_that_its_interleaved_coordinates_name(place: tuple[int, int, int]) -> None:
    cells = torch.zeros(1, 20, 20, 20, dtype=torch.bool)
    cells[(0, *place)] = True
    code = sum(((coordinate >> k) & 1) << (3 * k + axis) for axis, coordinate in enumerate(place) for k in range(5))
    assert int(morton_code(*(torch.tensor(coordinate) for coordinate in place))) == code
    (where,) = pack_cells(cells)[0].nonzero().tolist()
    assert where == [code >> 3] and int(pack_cells(cells)[0, code >> 3]) == 1 << (code & 7)


def test_codes_of_a_whole_grid_are_all_different() -> None:
    index = torch.arange(256)
    codes = morton_code(index[:, None, None], index[:, None], index[:64])
    assert len(codes.unique()) == 256 * 256 * 64 and int(codes.max()) < 1 << 24


def test_a_grids_cells_follow_its_bits() -> None:
    """They are unpacked once; whatever changes the bits must show, however it is done."""
    grid, other = OccupancyGrid(8), OccupancyGrid(8)
    assert grid.cells().all() and grid.cells() is grid.cells()
    grid.bits.zero_()
    assert not grid.cells().any()
    grid.load_state_dict(other.state_dict())
    assert grid.cells().all()
    grid.bits = torch.zeros_like(grid.bits)
    assert not grid.cells().any()
    grid.update(lambda x: (x[:, 0] > 0.5).float(), 0, torch.Generator().manual_seed(0))
    assert torch.equal(grid.cells(), unpack_cells(grid.bits, 8)) and grid.cells().any() and not grid.cells().all()
