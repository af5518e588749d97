"""UV map by xatlas, checked for overlaps, which are cut off and packed as islands of their own.

Shapes: V vertices, F faces. UVs lie in [0, 1], origin bottom left.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from engine.meshing.raster import covered_pixels

logger = logging.getLogger(__name__)

# Overlaps are looked for on a lattice this much finer than the texture.
OVERLAP_SUPERSAMPLE = 2
MAX_ROUNDS = 4


def uv_to_pixels(corner_uvs: NDArray[np.floating], height: int, width: int) -> NDArray[np.float64]:
    """Corners [F, 3, 2] in UV (origin bottom left) to pixels (origin top left)."""
    corner_uvs = np.asarray(corner_uvs, np.float64)
    return np.stack([corner_uvs[..., 0] * width, (1 - corner_uvs[..., 1]) * height], axis=-1)


def overlap_pixels(corner_uvs: NDArray[np.floating], size: int) -> tuple[int, NDArray[np.int64]]:
    """Number of pixel centres of a size x size picture that lie in more than one UV triangle, and those faces, [n] int64."""
    pixel, face = covered_pixels(uv_to_pixels(corner_uvs, size, size), size, size)
    count = np.bincount(pixel, minlength=size * size)
    return int((count > 1).sum()), np.unique(face[count[pixel] > 1]).astype(np.int64)


def uv_overlap(corner_uvs: NDArray[np.floating], texture_size: int) -> int:
    """Sub-texels (OVERLAP_SUPERSAMPLE along each side of a texel) that lie in more than one triangle. 0 = no overlap."""
    return overlap_pixels(corner_uvs, texture_size * OVERLAP_SUPERSAMPLE)[0]


def _atlas(vertices: NDArray[np.floating], groups: list[NDArray[np.int32]], texture_size: int, padding: int) -> list[NDArray[np.float32]]:
    """Corner UVs [F_g, 3, 2] of each group of faces, all packed into one square."""
    import xatlas

    atlas = xatlas.Atlas()
    for group in groups:
        atlas.add_mesh(np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(group, np.uint32))
    charts = xatlas.ChartOptions()
    pack = xatlas.PackOptions()
    pack.resolution = texture_size
    pack.padding = padding
    pack.bilinear = True
    atlas.generate(chart_options=charts, pack_options=pack)
    if atlas.atlas_count > 1:
        raise ValueError(f"xatlas made {atlas.atlas_count} pictures instead of one")
    # xatlas divides by its own picture's width and height, which may differ: undo that, or texels would not be square.
    size = np.array([atlas.width, atlas.height], np.float64)
    result = []
    for i, group in enumerate(groups):
        mapping, indices, uvs = atlas.get_mesh(i)
        if not np.array_equal(mapping[indices], group):
            raise ValueError("xatlas returned other faces than it was given")
        result.append((uvs[indices] * size / size.max()).astype(np.float32))
    return result


def unwrap(
    vertices: NDArray[np.floating], faces: NDArray[np.integer], *, texture_size: int = 512, padding: int = 4
) -> tuple[NDArray[np.float32], int]:
    """UV map of a mesh without overlaps.

    Args:
        vertices: [V, 3]. faces: [F, 3].
        texture_size: texels along a side of the square texture the map is made for.
        padding: empty texels between islands.
    Returns:
        corner_uvs [F, 3, 2] float32 in [0, 1], and the number of overlapping sub-texels that are left (0 in all known cases).
    """
    group_of_face = np.zeros(len(faces), dtype=np.int64)
    corner_uvs = np.zeros((len(faces), 3, 2), dtype=np.float32)
    overlap = 0
    for round_ in range(MAX_ROUNDS):
        names = np.unique(group_of_face)
        groups = [np.flatnonzero(group_of_face == name) for name in names]
        for members, uvs in zip(groups, _atlas(vertices, [faces[members].astype(np.int32) for members in groups], texture_size, padding)):
            corner_uvs[members] = uvs
        overlap, guilty = overlap_pixels(corner_uvs, texture_size * OVERLAP_SUPERSAMPLE)
        if overlap == 0:
            break
        logger.info("UV map: %d faces overlap, round %d", len(guilty), round_)
        # An island that folds over itself: take the faces concerned out, they come back as islands of their own. In the
        # last round each gets a group of its own, and one triangle cannot overlap itself.
        group_of_face[guilty] = group_of_face.max() + 1 + (np.arange(len(guilty)) if round_ >= MAX_ROUNDS - 2 else 0)
    return corner_uvs, overlap
