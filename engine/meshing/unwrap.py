"""UV map by xatlas, checked for overlaps, which are cut off and packed as islands of their own.

Shapes: V vertices, F faces. UVs lie in [0, 1], origin bottom left.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.meshing.raster import covered_pixels

logger = logging.getLogger(__name__)

# Overlaps are looked for on a lattice this much finer than the texture.
OVERLAP_SUPERSAMPLE = 2
MAX_ROUNDS = 4
# Up to so many overlapping triangles are put into gaps between islands one by one; more are worth a new packing.
MAX_MOVED = 24


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


def _double_area(corners: NDArray[np.floating]) -> NDArray[np.float64]:
    """Twice the area of triangles [n, 3, 2 or 3]."""
    u, v = (corners[:, i].astype(np.float64) - corners[:, 0] for i in (1, 2))
    return np.sqrt(np.maximum((u * u).sum(1) * (v * v).sum(1) - (u * v).sum(1) ** 2, 0))


def _flat(triangle: NDArray[np.floating]) -> NDArray[np.float64]:
    """A triangle [3, 3] laid into the plane, [3, 2], its middle at the origin, counter-clockwise with y up."""
    a, b, c = triangle.astype(np.float64)
    base = max(float(np.linalg.norm(b - a)), 1e-12)
    along = float((c - a) @ (b - a)) / base
    flat = np.array([[0, 0], [base, 0], [along, np.sqrt(max(float((c - a) @ (c - a)) - along**2, 0))]])
    return flat - flat.mean(axis=0)


def move_to_gaps(
    corner_uvs: NDArray[np.float32],
    vertices: NDArray[np.floating],
    faces: NDArray[np.integer],
    moved: NDArray[np.int64],
    size: int,
    padding: int,
) -> NDArray[np.float32] | None:
    """The UV map with the triangles `moved` laid into the widest gaps between islands, or None if one finds no room.

    An overlap is mostly one sliver that folds over its neighbour; a second run of xatlas for it would double the time.
    """
    result = corner_uvs.copy()
    stay = np.setdiff1d(np.arange(len(faces)), moved)
    fine = size * OVERLAP_SUPERSAMPLE
    pixel, _ = covered_pixels(uv_to_pixels(corner_uvs[stay], fine, fine), fine, fine)
    taken = np.zeros((fine, fine), dtype=bool)
    taken.reshape(-1)[pixel] = True
    scale = np.sqrt(_double_area(corner_uvs[stay]).sum() / max(_double_area(vertices[faces[stay]]).sum(), 1e-30))  # UV per world unit
    rows, columns = np.mgrid[:fine, :fine]
    for face in moved:
        flat = _flat(vertices[faces[face]]) * scale * fine * [1, -1]  # rows run down
        radius = float(np.linalg.norm(flat, axis=1).max())
        room = ndimage.distance_transform_edt(~np.pad(taken, 1, constant_values=True))[1:-1, 1:-1]
        row, column = np.unravel_index(int(room.argmax()), room.shape)
        if room[row, column] < radius + padding * OVERLAP_SUPERSAMPLE:
            return None
        center = np.array([column + 0.5, row + 0.5])
        result[face] = (np.array([0.0, 1.0]) + np.array([1.0, -1.0]) * (center + flat) / fine).astype(np.float32)
        taken |= (rows - row) ** 2 + (columns - column) ** 2 <= (radius + 1) ** 2
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
        if 0 < len(guilty) <= 2 * MAX_MOVED:
            smaller = guilty[np.argsort(_double_area(corner_uvs[guilty]))]
            for n_moved in (len(guilty) // 2, len(guilty)):  # mostly the smaller half folds over the larger
                tidy = move_to_gaps(corner_uvs, vertices, faces, smaller[:n_moved], texture_size, padding)
                if tidy is not None and overlap_pixels(tidy, texture_size * OVERLAP_SUPERSAMPLE)[0] == 0:
                    corner_uvs, overlap = tidy, 0
                    break
        if overlap == 0:
            break
        logger.info("UV map: %d faces overlap, round %d", len(guilty), round_)
        # An island that folds over itself: take the faces concerned out, they come back as islands of their own. In the
        # last round each gets a group of its own, and one triangle cannot overlap itself.
        group_of_face[guilty] = group_of_face.max() + 1 + (np.arange(len(guilty)) if round_ >= MAX_ROUNDS - 2 else 0)
    return corner_uvs, overlap
