"""From the raw surface to one that an artist can use: no floaters, no inner shells, no stairs, few triangles, no holes.

Shapes: V vertices, F faces, E undirected edges.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from engine.meshing.isosurface import signed_volume

logger = logging.getLogger(__name__)

Mesh = tuple[NDArray[np.float32], NDArray[np.int32]]
"""vertices [V, 3] float32, faces [F, 3] int32."""

# A loose piece this long beside the largest one is a part (a leg, a blade), however little volume it has.
LONG_PIECE = 0.25
# Taubin's pass-band pair: shrink, then grow a little more. Taubin, "Curve and surface smoothing without shrinkage", 1995.
TAUBIN_SHRINK, TAUBIN_GROW = 0.5, -0.53


def edge_faces(faces: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Undirected edges [E, 2] (lower vertex first) and how many faces have each, [E]."""
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64), axis=1)
    n = int(faces.max()) + 1 if len(faces) else 1
    keys, counts = np.unique(edges[:, 0] * n + edges[:, 1], return_counts=True)
    return np.stack([keys // n, keys % n], axis=1), counts


def open_edges(faces: NDArray[np.integer]) -> int:
    """Edges with one face; 0 = watertight."""
    return int((edge_faces(faces)[1] == 1).sum())


def bad_edges(faces: NDArray[np.integer]) -> int:
    """Edges that a closed, oriented surface does not have: not exactly two faces, or two that pass it in one direction."""
    directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    n = int(faces.max()) + 1 if len(faces) else 1
    _, directed_counts = np.unique(directed[:, 0] * n + directed[:, 1], return_counts=True)
    return int((edge_faces(faces)[1] != 2).sum() + (directed_counts > 1).sum())


def is_closed(faces: NDArray[np.integer]) -> bool:
    """True if every edge has two faces that pass it in opposite directions, and no face names a vertex twice."""
    collapsed = (faces[:, 0] == faces[:, 1]) | (faces[:, 1] == faces[:, 2]) | (faces[:, 2] == faces[:, 0])
    return len(faces) > 0 and not collapsed.any() and bad_edges(faces) == 0


def drop_unused(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> Mesh:
    """The mesh without vertices that no face names."""
    used = np.zeros(len(vertices), dtype=bool)
    used[faces.reshape(-1)] = True
    index = np.cumsum(used) - 1
    return np.ascontiguousarray(vertices[used], np.float32), np.ascontiguousarray(index[faces], np.int32)


def pieces(faces: NDArray[np.integer], n_vertices: int) -> NDArray[np.int32]:
    """Number of the connected piece of each vertex, [V] int32."""
    rows = faces[:, [0, 1]].reshape(-1)
    columns = faces[:, [1, 2]].reshape(-1)
    graph = sparse.coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(n_vertices, n_vertices))
    return connected_components(graph, directed=False)[1]


def winding_number(point: NDArray[np.floating], vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> float:
    """How often the mesh surrounds point [3]: 1 inside, 0 outside a closed mesh. Van Oosterom and Strackee 1983, eq. 8."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) - point for i in range(3))
    la, lb, lc = (np.linalg.norm(x, axis=1) for x in (a, b, c))
    over = np.einsum("ij,ij->i", a, np.cross(b, c))
    under = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
    return float(np.arctan2(over, under).sum() / (2 * np.pi))


def solid_pieces(vertices: NDArray[np.floating], faces: NDArray[np.integer], *, min_component: float = 0.01) -> Mesh:
    """Only what can be seen and belongs to the object.

    Removed are walls of cavities (pieces that enclose negative volume), what floats inside another piece, and pieces that have
    less than `min_component` of the largest one's volume and are shorter than a quarter of its length.
    """
    label = pieces(faces, len(vertices))
    face_label = label[faces[:, 0]]
    n_pieces = int(label.max()) + 1
    if n_pieces == 1:
        return drop_unused(vertices, faces)
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    volume = np.bincount(face_label, np.einsum("ij,ij->i", a, np.cross(b, c)) / 6, minlength=n_pieces)
    low, high = np.full((n_pieces, 3), np.inf), np.full((n_pieces, 3), -np.inf)
    np.minimum.at(low, label, vertices)
    np.maximum.at(high, label, vertices)
    length = np.linalg.norm(high - low, axis=1)
    largest = int(volume.argmax())
    keep = (volume > 0) & ((volume >= min_component * volume[largest]) | (length >= LONG_PIECE * length[largest]))
    keep[largest] = True
    for inner in np.flatnonzero(keep):
        for outer in np.flatnonzero(keep & (low <= low[inner]).all(axis=1) & (high >= high[inner]).all(axis=1)):
            point = vertices[faces[face_label == inner][0]].mean(axis=0)
            if outer != inner and winding_number(point, vertices, faces[face_label == outer]) > 0.5:
                keep[inner] = False
                break
    return drop_unused(vertices, faces[keep[face_label]])


def smooth(vertices: NDArray[np.floating], faces: NDArray[np.integer], rounds: int) -> NDArray[np.float32]:
    """Taubin smoothing: each round moves every vertex towards the mean of its neighbours, then back a little further.

    Takes the stairs of marching cubes off and leaves the volume. Returns vertices [V, 3] float32.
    """
    if rounds == 0 or not len(faces):
        return np.asarray(vertices, np.float32)
    edges, _ = edge_faces(faces)
    ends = np.concatenate([edges, edges[:, ::-1]])
    n = len(vertices)
    adjacency = sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n)).tocsr()
    degree = np.maximum(np.asarray(adjacency.sum(axis=1)), 1)
    moved = np.asarray(vertices, np.float64)
    for _ in range(rounds):
        for factor in (TAUBIN_SHRINK, TAUBIN_GROW):
            moved = moved + factor * (adjacency @ moved / degree - moved)
    return moved.astype(np.float32)


def without_folds(faces: NDArray[np.integer]) -> NDArray[np.int64]:
    """Faces without pairs on the same three vertices that look in opposite directions.

    Such a pair is a flap of no thickness that edge collapse leaves behind; its edges then have four faces. Both faces pass each
    of their edges in opposite directions, so taking the pair away leaves a closed surface closed.
    """
    faces = np.asarray(faces, np.int64)
    ordered = np.sort(faces, axis=1)
    # A cyclic shift keeps the orientation, a swap turns it round: is the vertex after the lowest one the middle one?
    lowest = faces.argmin(axis=1)
    forward = faces[np.arange(len(faces)), (lowest + 1) % 3] == ordered[:, 1]
    _, group = np.unique(ordered, axis=0, return_inverse=True)
    group = group.reshape(-1)
    keep = np.ones(len(faces), dtype=bool)
    for name in np.flatnonzero(np.bincount(group) > 1):  # a handful
        members = np.flatnonzero(group == name)
        ahead, back = members[forward[members]], members[~forward[members]]
        n = min(len(ahead), len(back))
        keep[ahead[:n]] = keep[back[:n]] = False
    return faces[keep]


def decimate(vertices: NDArray[np.floating], faces: NDArray[np.integer], target_faces: int) -> Mesh:
    """The mesh with at most target_faces triangles by quadric edge collapse, still closed.

    Edge collapse leaves flaps now and then, which are removed. Where it pinches a thin part into edges with four faces, other
    settings are tried, then more faces; in the worst case the mesh is returned as it was, so the result is closed whenever the
    input is.
    """
    import fast_simplification

    if len(faces) <= target_faces:
        return drop_unused(vertices, faces)
    volume = signed_volume(vertices, faces)
    for target in (target_faces, int(1.25 * target_faces), int(1.6 * target_faces), 2 * target_faces, 4 * target_faces):
        for aggressiveness in (5, 7, 3):
            if target >= len(faces):
                break
            points, triangles = fast_simplification.simplify(
                np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32), target_count=target, agg=aggressiveness
            )
            reduced = without_folds(triangles)
            if len(reduced) > 1.05 * target or not is_closed(reduced):
                continue
            # A collapse can also turn a thin part inside out without opening an edge.
            if abs(signed_volume(points, reduced) - volume) < 0.05 * abs(volume):
                return drop_unused(points, reduced)
    logger.warning("the mesh keeps its %d faces: every simplification to %d would have opened it", len(faces), target_faces)
    return drop_unused(vertices, faces)
