"""Signed distance to a triangle mesh, on a lattice once and then anywhere by interpolation.

Inside is where rays meet the surface an odd number of times, asked along the three axes, the majority counts: so small holes
and flaws of a mesh file do no harm (Nooruddin and Turk, "Simplification and repair of polygonal models", 2003, section 3).

Shapes: V vertices, F faces, X Y Z lattice points, M positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from engine.errors import UserError
from engine.meshing.raster import triangle_fragments

# Points on the surface for every lattice cell that it crosses, and how many of the nearest ones name a triangle to look at.
SAMPLES_PER_CELL, NEAREST = 4.0, 3
# Rays pass a hair beside the lattice points, so that none runs along an edge of a mesh made on such a lattice.
OFF_GRID = (0.00137, 0.00091)


@dataclass(frozen=True)
class SignedDistance:
    """values [X, Y, Z] float32 in world units, negative inside, at origin [3] + spacing * index."""

    values: NDArray[np.float32]
    origin: NDArray[np.float64]
    spacing: float

    def at(self, positions: Tensor) -> Tensor:
        """Signed distance [M] at positions [M, 3], trilinear; beyond the lattice that of its border."""
        size = (np.array(self.values.shape) - 1) * self.spacing
        unit = (positions - torch.from_numpy(self.origin).to(positions)) / torch.from_numpy(size).to(positions) * 2 - 1
        grid = torch.from_numpy(self.values).to(positions)[None, None]  # [1, 1, X, Y, Z]: grid_sample calls the last axis x
        place = unit.flip(-1).reshape(1, 1, 1, -1, 3)
        return F.grid_sample(grid, place, mode="bilinear", padding_mode="border", align_corners=True).reshape(-1)


def signed_distance(vertices: NDArray[np.floating], faces: NDArray[np.integer], *, resolution: int, margin_cells: int) -> SignedDistance:
    """Distance to a mesh on a lattice with `resolution` cells along its longest side, and a margin round it.

    Raises: UserError if the mesh encloses nothing.
    """
    low, high = vertices.min(axis=0).astype(np.float64), vertices.max(axis=0).astype(np.float64)
    spacing = float((high - low).max() / resolution)
    shape = np.ceil((high - low) / spacing).astype(int) + 2 * margin_cells + 1
    origin = (low + high) / 2 - spacing * (shape - 1) / 2
    votes = np.stack([_inside_along(vertices, faces, origin, spacing, shape, axis) for axis in range(3)])
    inside = votes.sum(axis=0) >= 2
    if not inside.any():
        raise UserError("The mesh encloses nothing, so it has no inside.", "Close its holes and give it thickness first.", "mesh")
    axes = [origin[i] + spacing * np.arange(shape[i]) for i in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    distance = unsigned_distance(points, vertices, faces, spacing).reshape(tuple(shape))
    return SignedDistance(np.where(inside, -distance, distance).astype(np.float32), origin, spacing)


def unsigned_distance(
    points: NDArray[np.floating], vertices: NDArray[np.floating], faces: NDArray[np.integer], cell: float
) -> NDArray[np.float64]:
    """Distance [n] of points [n, 3] to the surface. Exact where one of the triangles near the nearest samples is the nearest one."""
    import trimesh

    triangles = np.asarray(vertices, np.float64)[faces]
    samples, owner = _spread(triangles, cell / np.sqrt(SAMPLES_PER_CELL))
    near, index = cKDTree(samples).query(points, k=NEAREST)
    best = near[:, 0].copy()
    close = np.flatnonzero(best < 3 * cell)  # farther away the samples are dense enough
    for k in range(NEAREST):
        surface = trimesh.triangles.closest_point(triangles[owner[index[close, k]]], points[close])
        best[close] = np.minimum(best[close], np.linalg.norm(surface - points[close], axis=1))
    return best


def _spread(triangles: NDArray[np.float64], gap: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points [n, 3] on triangles [F, 3, 3] at most about `gap` apart, and the triangle of each: a regular lattice on each."""
    edges = np.linalg.norm(triangles - np.roll(triangles, 1, axis=1), axis=2).max(axis=1)
    rows = np.clip(np.ceil(edges / gap), 1, 400).astype(np.int64)
    points, owner = [triangles.mean(axis=1)], [np.arange(len(triangles))]
    for n in np.unique(rows[rows > 1]):
        members = np.flatnonzero(rows == n)
        i, j = (side[np.add(*np.mgrid[: n + 1, : n + 1]) <= n] / n for side in np.mgrid[: n + 1, : n + 1])
        weights = np.stack([1 - i - j, i, j], axis=1)  # [m, 3]
        points.append(np.einsum("mk,fkd->fmd", weights, triangles[members]).reshape(-1, 3))
        owner.append(np.repeat(members, len(weights)))
    return np.concatenate(points), np.concatenate(owner)


def _inside_along(
    vertices: NDArray[np.floating],
    faces: NDArray[np.integer],
    origin: NDArray[np.float64],
    spacing: float,
    shape: NDArray[np.integer],
    axis: int,
) -> NDArray[np.bool_]:
    """[X, Y, Z]: is the number of surfaces below each lattice point along `axis` odd?"""
    others = [i for i in range(3) if i != axis]
    local = (np.asarray(vertices, np.float64) - origin) / spacing  # lattice points at whole numbers
    # As pixels: the lattice point (i, j) of the two other axes is the centre (i + 0.5, j + 0.5).
    flat = local[:, others] + 0.5 + np.array(OFF_GRID)
    width, height, depth = int(shape[others[0]]), int(shape[others[1]]), int(shape[axis])
    found = triangle_fragments(flat[faces], height, width)
    crossing = (found.barycentric * local[:, axis][faces[found.face]]).sum(axis=1)
    above = np.clip(np.ceil(crossing), 0, depth).astype(np.int64)  # the first lattice point beyond the surface
    count = np.zeros((height * width, depth + 1), np.int32)
    np.add.at(count, (found.pixel, above), 1)
    below = count.cumsum(axis=1)
    odd = (below[:, :depth] % 2 == 1) & (below[:, -1:] % 2 == 0)  # a ray that never comes out again went through a hole
    odd = odd.reshape(height, width, depth)  # [other 1, other 0, axis]
    return np.moveaxis(odd, (0, 1, 2), (others[1], others[0], axis))
