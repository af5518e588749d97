"""Trilinear interpolation between grid points: which rows, with which weights.

Grid points stand on both faces of the cube: point i of n lies at i / (n - 1). Shapes: M positions, n points per axis.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def cell_of(positions: Tensor, n_points: int) -> tuple[Tensor, Tensor]:
    """The cell that each position lies in and where in it.

    Args:
        positions: [M, 3] float in [0, 1]; what lies outside is moved to the nearest face.
        n_points: grid points per axis, >= 2.
    Returns:
        lower corner [M, 3] int64 in [0, n_points - 2] and fraction [M, 3] in [0, 1], differentiable in positions.
    """
    scaled = positions.clamp(0.0, 1.0) * (n_points - 1)
    lower = scaled.detach().floor().clamp_(max=n_points - 2)
    return lower.long(), scaled - lower


def corner_weights(fraction: Tensor) -> Tensor:
    """Weights [M, 8] of a cell's corners, x slowest, z fastest: corner 4 * ix + 2 * iy + iz. Rows sum to 1."""
    both = torch.stack([1.0 - fraction, fraction], dim=-1)  # [M, 3, 2]
    xy = both[:, 0, :, None] * both[:, 1, None, :]  # [M, 2, 2]
    return (xy[..., None] * both[:, 2, None, None, :]).reshape(-1, 8)


def dense_rows(lower: Tensor, n_points: int) -> Tensor:
    """Rows [M, 8] int64 of a table [n_points^3, D] in x, y, z order, in the corner order of `corner_weights`."""
    n = n_points
    first = (lower[:, 0] * n + lower[:, 1]) * n + lower[:, 2]
    steps = torch.tensor([0, 1, n, n + 1, n * n, n * n + 1, n * n + n, n * n + n + 1], device=lower.device)
    return first[:, None] + steps


@functools.lru_cache(maxsize=64)
def _resample_matrix(n_from: int, n_to: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # what is cached must serve training too
        return _build_resample_matrix(n_from, n_to).to(device=device, dtype=dtype)


def _build_resample_matrix(n_from: int, n_to: int) -> Tensor:
    at = torch.linspace(0, n_from - 1, n_to, dtype=torch.float64)
    points = torch.arange(n_from, dtype=torch.float64)
    return (1.0 - (at[:, None] - points[None, :]).abs()).clamp(min=0.0)


def resample(volume: Tensor, n_points: int) -> Tensor:
    """Read a volume at the points of another grid, linearly along each axis.

    Args:
        volume: [n, n, n, D] float.
        n_points: points per axis of the result.
    Returns:
        [n_points, n_points, n_points, D], differentiable in volume.
    """
    n, D = volume.shape[0], volume.shape[3]
    if n == n_points:
        return volume
    # Three matrix products; torch's own trilinear interpolate takes five times as long on a CPU.
    m = _resample_matrix(n, n_points, volume.device, volume.dtype)  # [N, n]
    along_x = (m @ volume.reshape(n, n * n * D)).reshape(n_points, n, n * D)
    along_y = torch.matmul(m, along_x).reshape(n_points * n_points, n, D)
    return torch.matmul(m, along_y).reshape(n_points, n_points, n_points, D)
