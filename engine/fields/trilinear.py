"""Trilinear interpolation between grid points: which rows, with which weights, and volumes read along their axes.

Grid points stand on both faces of the cube: point i of n lies at i / (n - 1). Volumes are [D, n, n, n], axes x, y, z.
Shapes: M positions, n points per axis, D features.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def cell_of(positions: Tensor, n_points: int) -> tuple[Tensor, Tensor]:
    """The cell that each position lies in and where in it.

    Args:
        positions: [3, M] float in [0, 1]; what lies outside is moved to the nearest face.
        n_points: grid points per axis, >= 2.
    Returns:
        lower corner [3, M] int64 in [0, n_points - 2] and fraction [3, M] in [0, 1], differentiable in positions.
    """
    scaled = positions.clamp(0.0, 1.0) * (n_points - 1)
    lower = scaled.detach().floor().clamp_(max=n_points - 2)
    return lower.long(), scaled - lower


def corner_weights(fraction: Tensor) -> Tensor:
    """Weights [8, M] of a cell's corners, x slowest, z fastest: corner 4 * ix + 2 * iy + iz. They sum to 1.

    Corner by corner, not sample by sample: products of long rows are five times as fast on a CPU as products of pairs.
    """
    both = torch.stack([1.0 - fraction, fraction], dim=1)  # [3, 2, M]
    return (both[0][:, None, None] * both[1][None, :, None] * both[2][None, None, :]).reshape(8, -1)


def smoothstep(fraction: Tensor) -> Tensor:
    """t^2 (3 - 2 t) of fractions t in [0, 1]: flat at both ends, so that what is read has a continuous derivative."""
    return fraction.square() * (3.0 - 2.0 * fraction)


def dense_rows(lower: Tensor, n_points: int) -> Tensor:
    """Rows [8, M] int64 of a table [n_points^3, D] in x, y, z order, in the corner order of `corner_weights`."""
    n = n_points
    first = (lower[0] * n + lower[1]) * n + lower[2]
    steps = torch.tensor([0, 1, n, n + 1, n * n, n * n + 1, n * n + n, n * n + n + 1], device=lower.device)
    return first + steps[:, None]


def resample(volume: Tensor, n_points: int) -> Tensor:
    """Read a volume [D, n, n, n] at the points of another grid, linearly: [D, n_points, n_points, n_points], differentiable."""
    n = volume.shape[1]
    if n == n_points:
        return volume
    # Three matrix products; torch's own trilinear interpolate takes five times as long on a CPU.
    m = _resample_matrix(n, n_points, volume.device, volume.dtype)  # [N, n]
    for axis in range(3):
        volume = along_axis(m, volume, axis)
    return volume


def central_differences(volume: Tensor) -> Tensor:
    """Gradient [3, n, n, n] in world units of a volume [n, n, n] over [-1, 1]^3; one-sided on the faces. Differentiable."""
    m = _difference_matrix(volume.shape[0], volume.device, volume.dtype)
    return torch.cat([along_axis(m, volume[None], axis) for axis in range(3)])


def along_axis(matrix: Tensor, volume: Tensor, axis: int) -> Tensor:
    """Apply a matrix [N, n] to one of the axes 0, 1, 2 of a volume [D, a, b, c], whose size there is n."""
    D, a, b, c = volume.shape
    if axis == 0:
        return torch.matmul(matrix, volume.reshape(D, a, b * c)).reshape(D, -1, b, c)
    if axis == 1:
        return torch.matmul(matrix, volume.reshape(D * a, b, c)).reshape(D, a, -1, c)
    return (volume.reshape(D * a * b, c) @ matrix.t()).reshape(D, a, b, -1)


@functools.lru_cache(maxsize=64)
def _resample_matrix(n_from: int, n_to: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # what is cached must serve training too
        at = torch.linspace(0, n_from - 1, n_to, dtype=torch.float64)
        points = torch.arange(n_from, dtype=torch.float64)
        return (1.0 - (at[:, None] - points[None, :]).abs()).clamp(min=0.0).to(device=device, dtype=dtype)


@functools.lru_cache(maxsize=64)
def _difference_matrix(n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        spacing = 2.0 / (n - 1)
        rows = torch.arange(n)
        before, after = (rows - 1).clamp(min=0), (rows + 1).clamp(max=n - 1)
        length = (after - before).double() * spacing
        matrix = torch.zeros(n, n, dtype=torch.float64)
        matrix[rows, after] += 1.0 / length
        matrix[rows, before] -= 1.0 / length
        return matrix.to(device=device, dtype=dtype)
