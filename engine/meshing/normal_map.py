"""Bake the relief that simplification took away into a tangent-space normal map.

The frame at each corner is the one of MikkTSpace, which Blender, glTF viewers and game engines rebuild from positions,
normals and UVs: a triangle's direction of growing u, laid into the plane of the vertex normal, averaged by angle over the
triangles that share vertex and UV. Between corners, frames are interpolated without normalising, as renderers do.

Shapes: V vertices, F faces, N texels, S texture size; H vertices of the fine surface.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from engine.meshing.bake import corner_angles, fill_gutters, vertex_normals
from engine.meshing.raster import triangle_fragments
from engine.meshing.unwrap import uv_to_pixels

# The normal at a point is a mean over the fine surface's nearest vertices, weighted by a bell this many lattice cells wide:
# less shows the triangles of marching cubes, more blurs what the map is for.
BLUR_CELLS = 0.6
N_NEAREST = 12
# A stored normal leans at most this far out of the surface; steeper ones come from the far side of a thin part.
MIN_UP = 0.1
FLAT = (0.5, 0.5, 1.0)


def corner_tangents(
    vertices: NDArray[np.floating], faces: NDArray[np.integer], corner_uvs: NDArray[np.floating], normals: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """MikkTSpace's frame at every corner.

    Args:
        vertices: [V, 3]. faces: [F, 3]. corner_uvs: [F, 3, 2]. normals: [V, 3], unit.
    Returns:
        tangents [F, 3, 3], unit or zero where the UVs span no area, and signs [F]: bitangent = sign * cross(normal, tangent).
    """
    faces = np.asarray(faces, np.int64)
    a, b, c = (np.asarray(vertices, np.float64)[faces[:, i]] for i in range(3))
    uv = np.asarray(corner_uvs, np.float64)
    s, t = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    area = s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]
    sign = np.where(area < 0, -1.0, 1.0)
    along_u = sign[:, None] * (t[:, 1:] * (b - a) - s[:, 1:] * (c - a))  # [F, 3]
    normal = np.asarray(normals, np.float64)[faces]  # [F, 3, 3]
    flat = along_u[:, None] - (along_u[:, None] * normal).sum(-1, keepdims=True) * normal
    weighted = _unit(flat) * corner_angles(vertices, faces)[..., None] * (area != 0)[:, None, None]
    # Corners that share vertex, UV and handedness share one tangent.
    key = np.concatenate([faces.reshape(-1, 1), uv.reshape(-1, 2), np.repeat(sign, 3)[:, None]], axis=1)
    _, group = np.unique(key, axis=0, return_inverse=True)
    group = group.reshape(-1)
    total: NDArray[np.float64] = np.stack([np.bincount(group, weighted.reshape(-1, 3)[:, i]) for i in range(3)], axis=1)
    return _unit(total)[group].reshape(-1, 3, 3), sign


def fine_normals(
    points: NDArray[np.floating], facing: NDArray[np.floating], vertices: NDArray[np.floating], faces: NDArray[np.integer], cell: float
) -> NDArray[np.float64]:
    """Unit normals [N, 3] of a fine surface (vertices [H, 3], faces) next to points [N, 3].

    Only what looks the same way as `facing` [N, 3] counts, so that the far side of a thin wall does not; where nothing does, the
    answer is `facing`. `cell` is the spacing of the lattice that the surface was cut from, in world units.
    """
    distance, index = cKDTree(vertices).query(points, k=min(N_NEAREST, len(vertices)))
    distance, index = distance.reshape(len(points), -1), index.reshape(len(points), -1)
    normals = vertex_normals(vertices, faces).astype(np.float64)[index]  # [N, k, 3]
    weights = np.exp((distance[:, :1] ** 2 - distance**2) / (2 * (BLUR_CELLS * cell) ** 2))
    weights = weights * ((normals * facing[:, None]).sum(-1) > 0)
    total = (normals * weights[..., None]).sum(1)
    return np.where(np.linalg.norm(total, axis=1, keepdims=True) > 1e-6, _unit(total), _unit(facing))


def bake_normals(
    vertices: NDArray[np.floating],
    faces: NDArray[np.integer],
    corner_uvs: NDArray[np.floating],
    fine_vertices: NDArray[np.floating],
    fine_faces: NDArray[np.integer],
    *,
    texture_size: int,
    cell: float,
) -> NDArray[np.float32]:
    """The normals of the fine surface in the tangent frames of the simplified one.

    Args:
        vertices [V, 3], faces [F, 3], corner_uvs [F, 3, 2] in [0, 1], origin bottom left: the finished mesh, shaded smooth.
        fine_vertices [H, 3], fine_faces: the surface before simplification. cell: see `fine_normals`.
    Returns: [S, S, 3] float32 in [0, 1], (n + 1) / 2 with x along u, y along v, z outward; rows from the top, gutters filled.
    """
    size = texture_size
    found = triangle_fragments(uv_to_pixels(corner_uvs, size, size), size, size)
    if not len(found.pixel):
        return np.full((size, size, 3), FLAT, np.float32)
    normals = vertex_normals(vertices, faces).astype(np.float64)
    tangents, sign = corner_tangents(vertices, faces, corner_uvs, normals)
    corners, weights = faces[found.face], found.barycentric[..., None]  # [N, 3], [N, 3, 1]
    point = (weights * np.asarray(vertices, np.float64)[corners]).sum(1)
    normal = (weights * normals[corners]).sum(1)
    tangent = (weights * tangents[found.face]).sum(1)
    bitangent = sign[found.face][:, None] * np.cross(normal, tangent)
    wanted = fine_normals(point, normal, fine_vertices, fine_faces, cell)
    # wanted = x tangent + y bitangent + z normal, up to length: Cramer's rule for the three axes, which are not quite square.
    local = np.stack(
        [
            (wanted * np.cross(bitangent, normal)).sum(1),
            (wanted * np.cross(normal, tangent)).sum(1),
            (wanted * np.cross(tangent, bitangent)).sum(1),
        ],
        axis=1,
    )
    volume = (tangent * np.cross(bitangent, normal)).sum(1)
    local = _unit(local * np.sign(volume)[:, None])
    local = np.where(np.abs(volume)[:, None] > 1e-9, local, [0.0, 0.0, 1.0])
    local[:, 2] = np.maximum(local[:, 2], MIN_UP)
    texture = np.zeros((size * size, 3))
    texture[found.pixel] = _unit(local) * 0.5 + 0.5
    baked = np.zeros(size * size, bool)
    baked[found.pixel] = True
    return fill_gutters(texture.reshape(size, size, 3), baked.reshape(size, size)).astype(np.float32)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Vectors [..., 3] of length 1; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 1e-20, length, 1.0)
