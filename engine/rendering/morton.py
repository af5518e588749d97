"""A cube of yes or no as bits in Morton order, and back, in torch: what the kernels read and write (cuda_ext/bodies/morton.h).

A cell's number takes the bits of x, y and z in turn, x lowest, so that a byte is a cube of 2 x 2 x 2 cells.
Shapes: C cubes, N cells per axis, P the power of two at or above N, H = P / 2 bytes per axis.
"""

from __future__ import annotations

import torch
from torch import Tensor


def padded(resolution: int) -> int:
    """P."""
    return 1 << (resolution - 1).bit_length()


def bits_apart(x: Tensor) -> Tensor:
    """Two zeros between any two bits of whole numbers below 256."""
    x = (x * 0x101) & 0x00F00F
    x = (x * 0x11) & 0x0C30C3
    return (x * 0x5) & 0x249249


def morton_code(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Numbers of cells from integer coordinates 0..255, broadcast."""
    return bits_apart(x) | (bits_apart(y) << 1) | (bits_apart(z) << 2)


def _byte_places(resolution: int, device: torch.device) -> Tensor:
    """[H, H, H] int64: which byte each cube of 2 x 2 x 2 cells is."""
    index = torch.arange(padded(resolution) // 2, device=device)
    return morton_code(index[:, None, None], index[:, None], index)


def pack_cells(cells: Tensor) -> Tensor:
    """Bits [C, P^3 / 8] uint8 of cells [C, N, N, N] bool, indexed x, y, z; those beyond N are zero."""
    n_cubes, resolution = cells.shape[:2]
    side, device = padded(resolution), cells.device
    full = torch.zeros((n_cubes, side, side, side), dtype=torch.uint8, device=device)
    full[:, :resolution, :resolution, :resolution] = cells
    half = side // 2
    eight = full.view(n_cubes, half, 2, half, 2, half, 2).permute(0, 1, 3, 5, 6, 4, 2).reshape(n_cubes, half**3, 8)
    bits = torch.empty((n_cubes, half**3), dtype=torch.uint8, device=device)
    weights = torch.tensor([1 << k for k in range(8)], dtype=torch.uint8, device=device)
    bits[:, _byte_places(resolution, device).reshape(-1)] = (eight * weights).sum(dim=-1, dtype=torch.uint8)
    return bits


def unpack_cells(bits: Tensor, resolution: int) -> Tensor:
    """Cells [C, N, N, N] bool of bits [C, P^3 / 8]."""
    side = padded(resolution)
    half = side // 2
    eight = bits[:, _byte_places(resolution, bits.device).reshape(-1)][..., None] >> torch.arange(8, dtype=torch.uint8, device=bits.device)
    cells = (eight & 1).bool().view(-1, half, half, half, 2, 2, 2).permute(0, 1, 6, 2, 5, 3, 4).reshape(-1, side, side, side)
    return cells[:, :resolution, :resolution, :resolution]
