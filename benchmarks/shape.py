"""How near is a mesh to a prop whose shape is known, inside as well as outside? Volume IoU and Chamfer distance.

A prompt names a kind of prop, not one member of it: the nearest of the kind's typical shape and `N_SHAPES` draws counts, at the
best of a few scales, both bounding boxes centred on the origin. Distances are in world units; a prop reaches 0.9 from its middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from benchmarks.score import N_SHAPES, SCALES, centered
from engine.toybox.prop import OBJECT_RADIUS, PlacedProp, Variation, place
from engine.toybox.props import KINDS

Array = NDArray[np.floating]

SEARCH_CELLS, CELLS = 32, 64
# A surface against itself drawn again has a Chamfer distance of about 0.007: what lies below is not to be told apart.
N_POINTS = 20_000
# Columns of the lattice run beside the edges of faces that lie on round numbers.
_ASIDE = (1.37e-4, 2.71e-4)


@dataclass(frozen=True)
class ShapeScore:
    """volume_iou: 0..1, of the two solids. chamfer: mean distance from each surface to the other, mean of both ways, world units."""

    volume_iou: float
    chamfer: float


def props_of(noun: str) -> list[PlacedProp]:
    """A kind's typical shape and the draws that training never saw."""
    return [place(KINDS[noun].build(Variation(seed))) for seed in (None, *range(10_000_000, 10_000_000 + N_SHAPES))]


def shape_score(vertices: Array, faces: NDArray[np.integer], props: list[PlacedProp]) -> ShapeScore:
    """Of a closed mesh, vertices [V, 3] and faces [F, 3], against the nearest of `props`."""
    middle = centered(vertices)
    middle = middle * (OBJECT_RADIUS / np.linalg.norm(middle, axis=1).max())
    coarse = {scale: solid_of_mesh(middle * scale, faces, SEARCH_CELLS) for scale in SCALES}
    known = [solid_of_prop(prop, SEARCH_CELLS) for prop in props]
    scale, nearest = max(((s, i) for s in SCALES for i in range(len(props))), key=lambda pair: volume_iou(coarse[pair[0]], known[pair[1]]))
    fitted, prop = middle * scale, props[nearest]
    return ShapeScore(
        volume_iou(solid_of_mesh(fitted, faces, CELLS), solid_of_prop(prop, CELLS)),
        chamfer(surface_points(fitted, faces), surface_points(*surface_of_prop(prop))),
    )


def volume_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Common cells over all cells of two solids of one shape; 1 for two empty ones."""
    together = int((a | b).sum())
    return int((a & b).sum()) / together if together else 1.0


def solid_of_prop(prop: PlacedProp, n: int) -> NDArray[np.bool_]:
    """[n, n, n], axes x, y, z over [-1, 1]^3: which cell centres are inside."""
    axis = torch.from_numpy(_centers(n)).float()
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    return (prop.distance(points) < 0).reshape(n, n, n).numpy()


def solid_of_mesh(vertices: Array, faces: NDArray[np.integer], n: int) -> NDArray[np.bool_]:
    """The same of a closed mesh: where faces above wind round a cell centre, so that pieces may overlap and hollows are empty."""
    corners = vertices.astype(np.float64)[faces]  # [F, 3, 3]
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    doubled = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])  # signed area from above
    low = np.clip(np.ceil((corners[..., :2].min(axis=1) - _ASIDE + 1) * n / 2 - 0.5), 0, n).astype(int)  # [F, 2] first column
    high = np.clip(np.floor((corners[..., :2].max(axis=1) - _ASIDE + 1) * n / 2 - 0.5), -1, n - 1).astype(int)
    width = np.maximum(high - low + 1, 0)
    counts = np.where(doubled != 0, width[:, 0] * width[:, 1], 0)
    face = np.repeat(np.arange(len(faces)), counts)
    place_in = np.arange(len(face)) - np.repeat(np.cumsum(counts) - counts, counts)
    column = low[face] + np.stack([place_in // width[face, 1], place_in % width[face, 1]], axis=1)
    x, y = ((column + 0.5) * 2 / n - 1 + _ASIDE).T
    u = ((x - a[face, 0]) * (c[face, 1] - a[face, 1]) - (y - a[face, 1]) * (c[face, 0] - a[face, 0])) / doubled[face]
    v = ((b[face, 0] - a[face, 0]) * (y - a[face, 1]) - (b[face, 1] - a[face, 1]) * (x - a[face, 0])) / doubled[face]
    hit = (u >= 0) & (v >= 0) & (u + v <= 1)
    face, column, u, v = face[hit], column[hit], u[hit], v[hit]
    z = a[face, 2] + u * (b[face, 2] - a[face, 2]) + v * (c[face, 2] - a[face, 2])
    below = np.clip(np.ceil((z + 1) * n / 2 - 0.5), 0, n).astype(int)  # cells with a centre below the face
    winding = np.zeros((n, n, n + 1))
    np.add.at(winding, (column[:, 0], column[:, 1], below), np.sign(doubled[face]))
    return winding[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:] > 0.5


def surface_of_prop(prop: PlacedProp, n: int = 96) -> tuple[Array, NDArray[np.integer]]:
    """Vertices and faces of a prop's outside, from its signed distance on a lattice."""
    axis = torch.linspace(-1, 1, n)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    distances = prop.distance(points).reshape(n, n, n).numpy()
    vertices, faces, _, _ = marching_cubes(distances, 0.0, spacing=(2 / (n - 1),) * 3)
    return vertices - 1.0, faces


def surface_points(vertices: Array, faces: NDArray[np.integer], n: int = N_POINTS) -> Array:
    """[n, 3] points, evenly by area; the same each time."""
    random = np.random.default_rng(0)
    corners = vertices[faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    chosen = random.choice(len(faces), n, p=areas / areas.sum())
    u, v = np.sqrt(random.random(n)), random.random(n)
    weights = np.stack([1 - u, u * (1 - v), u * v], axis=1)
    return np.einsum("nk,nkd->nd", weights, corners[chosen])


def chamfer(a: Array, b: Array) -> float:
    """Mean distance from the points of each to the nearest of the other, mean of both ways."""
    return float((cKDTree(b).query(a)[0].mean() + cKDTree(a).query(b)[0].mean()) / 2)


def _centers(n: int) -> NDArray[np.float64]:
    return (np.arange(n) + 0.5) * 2 / n - 1
