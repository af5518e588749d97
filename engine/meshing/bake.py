"""Bake the field's color into a texture.

Every texel that an island touches is asked at several points (supersampling), each point of the UV map being a point of the
surface. During training only samples along rays that carried weight learned a color, and they lie a little inside the cut;
so colors are read where a ray along the inward normal would see them on average, not at the cut itself.

Shapes: V vertices, F faces, N samples, S texture size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from engine.meshing.isosurface import DensityFn, query
from engine.meshing.raster import triangle_fragments
from engine.meshing.unwrap import uv_to_pixels

AlbedoFn = Callable[[Tensor], Tensor]
"""Maps positions [M, 3] float32 to albedo [M, 3] float32 in [0, 1], sRGB-encoded."""

# The inward ray starts this many lattice cells outside the surface and ends this many inside.
INSET_OUTSIDE_CELLS, INSET_INSIDE_CELLS, INSET_SAMPLES = 1.0, 8.0, 27


def corner_angles(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> NDArray[np.float64]:
    """Angle of every triangle at each of its corners in radians, [F, 3] float64; 0 where an edge has no length."""
    corners = np.asarray(vertices, np.float64)[faces]  # [F, 3, 3]
    ahead, behind = np.roll(corners, -1, axis=1) - corners, np.roll(corners, 1, axis=1) - corners
    return np.arctan2(np.linalg.norm(np.cross(ahead, behind), axis=-1), (ahead * behind).sum(-1))


def vertex_normals(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> NDArray[np.float32]:
    """Outward unit normals [V, 3] float32: mean of the faces round a vertex weighted by angle, as Blender has it, so that a normal
    map baked against them fits there; +Z where there is none."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    face_normal = np.cross(b - a, c - a)
    face_normal /= np.maximum(np.linalg.norm(face_normal, axis=1, keepdims=True), 1e-30)
    weighted = (corner_angles(vertices, faces)[..., None] * face_normal[:, None]).reshape(-1, 3)  # [3F, 3]
    total = np.stack([np.bincount(faces.reshape(-1), weighted[:, i], minlength=len(vertices)) for i in range(3)], axis=1)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(length > 1e-20, total / np.maximum(length, 1e-20), [0.0, 0.0, 1.0]).astype(np.float32)


def seen_depth(
    density_at: DensityFn, vertices: NDArray[np.floating], normals: NDArray[np.floating], cell: float, *, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """How far below each vertex a ray along its inward normal sees the surface: expected depth in world units, [V] float32.

    Volume rendering (NeRF, 2003.08934, eq. 3) over a short way through the surface; weights are renormalised, so thin fog does
    not push the answer to the far end. Negative = outside. `cell` is the lattice spacing in world units.
    """
    edges = torch.linspace(-INSET_OUTSIDE_CELLS * cell, INSET_INSIDE_CELLS * cell, INSET_SAMPLES + 1)
    mids, delta = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])
    start, inward = torch.as_tensor(np.asarray(vertices, np.float32)), -torch.as_tensor(np.asarray(normals, np.float32))
    positions = start[:, None] + mids[:, None] * inward[:, None]  # [V, samples, 3]
    densities = query(density_at, positions.reshape(-1, 3), device).reshape(len(start), -1)
    thickness = densities * delta
    transmittance = torch.exp(-(thickness.cumsum(dim=1) - thickness))
    weights = transmittance * (1 - torch.exp(-thickness))
    total = weights.sum(dim=1)
    depth = torch.where(total > 1e-4, (weights * mids).sum(dim=1) / total.clamp(min=1e-4), torch.zeros(()))
    return depth.numpy()


def fill_gutters(texture: NDArray[np.floating], baked: NDArray[np.bool_]) -> NDArray[np.floating]:
    """texture [S, S, 3] with every texel that is not baked [S, S] set to its nearest baked one, to the border of the picture."""
    if not baked.any():
        raise ValueError("no texel is baked, so there is nothing to fill gutters with")
    rows, columns = ndimage.distance_transform_edt(~baked, return_distances=False, return_indices=True)
    return texture[rows, columns]


def bake_albedo(
    albedo_at: AlbedoFn,
    vertices: NDArray[np.floating],
    faces: NDArray[np.integer],
    corner_uvs: NDArray[np.floating],
    *,
    texture_size: int,
    supersample: int = 2,
    inset: NDArray[np.floating] | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[float], None] = lambda fraction: None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Texture of the field's color.

    Args:
        corner_uvs: [F, 3, 2] in [0, 1], origin bottom left.
        supersample: samples along each side of a texel.
        inset: [V] depth in world units below the surface at which to ask; None = on the surface.
        report: called with the fraction done.
    Returns:
        texture [S, S, 3] float32 in [0, 1], rows from the top, gutters filled; and baked [S, S] bool, which texels an island
        touches. Means are taken in sRGB code values, as the field was trained on them.
    """
    fine = texture_size * supersample
    found = triangle_fragments(uv_to_pixels(corner_uvs, fine, fine), fine, fine)
    texel = (found.pixel // fine // supersample) * texture_size + (found.pixel % fine) // supersample
    face, barycentric = found.face, found.barycentric

    # Faces too small to meet any sample: their middle counts, so that even an island of one tiny face has its own color.
    missed = np.setdiff1d(np.arange(len(faces)), face)
    middle = np.clip(uv_to_pixels(corner_uvs[missed], texture_size, texture_size).mean(axis=1).astype(np.int64), 0, texture_size - 1)
    middle_texel = middle[:, 1] * texture_size + middle[:, 0]
    lonely = ~np.isin(middle_texel, texel)
    face = np.concatenate([face, missed[lonely]])
    texel = np.concatenate([texel, middle_texel[lonely]])
    barycentric = np.concatenate([barycentric, np.full((int(lonely.sum()), 3), 1 / 3)])

    points = np.asarray(vertices, np.float64)
    if inset is not None:
        points = points - vertex_normals(vertices, faces) * np.asarray(inset, np.float64)[:, None]
    total = np.zeros((texture_size * texture_size, 3))
    count = np.bincount(texel, minlength=texture_size * texture_size)
    chunk = 1 << 18
    for start in range(0, len(face), chunk):
        part = slice(start, start + chunk)
        corners = points[faces[face[part]]]  # [n, 3 corners, 3]
        positions = np.einsum("nk,nkd->nd", barycentric[part], corners).astype(np.float32)
        colors = query(albedo_at, torch.from_numpy(positions), device).numpy()
        for channel in range(3):
            total[:, channel] += np.bincount(texel[part], colors[:, channel], minlength=texture_size * texture_size)
        report(min(1.0, (start + chunk) / len(face)))
    baked = (count > 0).reshape(texture_size, texture_size)
    # NaN until written: what the filling should miss must show, not turn black.
    mean = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], np.nan).reshape(texture_size, texture_size, 3)
    return np.clip(fill_gutters(mean, baked), 0, 1).astype(np.float32), baked
