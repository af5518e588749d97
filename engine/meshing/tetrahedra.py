"""A surface out of values at the points of a tetrahedral lattice, with gradient: marching tetrahedra.

The lattice is the body-centred cubic one: the corners and the middles of cubes. Two neighbouring middles and an edge of the square
between them span a tetrahedron; all are alike, and nearly regular. (Doi and Koide 1991 for marching tetrahedra; Labelle and
Shewchuk, "Isosurface stuffing" (2007), section 3, for the lattice. No table is taken over: the sixteen cases follow from the
definition below.)

Shapes: P lattice points, T tetrahedra, V vertices, F faces.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

# Points may move this part of a cube's side along each axis. Two that move towards each other by the whole length of such a
# vector, 2 * 0.2 * sqrt(3), stay apart by the height of a tetrahedron, 1 / sqrt(2): none ever turns inside out.
MAX_OFFSET = 0.2
EDGES = tuple(itertools.combinations(range(4), 2))
"""The six edges of a tetrahedron, by its corners."""


@dataclass(frozen=True)
class TetLattice:
    """A body-centred cubic lattice.

    Attributes:
        points: [P, 3] float32 in world space.
        tets: [T, 4] int64, positively oriented.
        is_border: [P] bool, points at the end of the lattice. Where all of them are outside, every surface is closed.
        spacing: side of a cube in world units.
    """

    points: Tensor
    tets: Tensor
    is_border: Tensor
    spacing: float


def bcc_lattice(low: Tensor, high: Tensor, resolution: int) -> TetLattice:
    """A lattice over the box low..high, [3] each, with `resolution` cubes along its longest side."""
    spacing = float((high - low).max()) / resolution
    n = ((high - low) / spacing - 1e-4).ceil().long().clamp(min=2)  # cubes along each axis
    origin = (low + high) / 2 - spacing * n / 2
    corner_index = _grid((n + 1).tolist())  # [A, 3]
    middle_index = _grid(n.tolist())  # [C, 3]
    points = torch.cat([corner_index.float(), middle_index + 0.5]) * spacing + origin
    border = torch.cat([((corner_index == 0) | (corner_index == n)).any(1), ((middle_index == 0) | (middle_index == n - 1)).any(1)])
    corners = torch.arange(len(corner_index)).reshape((n + 1).tolist())
    middles = torch.arange(len(middle_index)).reshape(n.tolist()) + len(corner_index)
    tets = torch.cat([_tets_along(corners, middles, axis) for axis in range(3)])
    return TetLattice(points, _oriented(points, tets), border, spacing)


def _grid(shape: list[int]) -> Tensor:
    return torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"), dim=-1).reshape(-1, 3)


def _tets_along(corners: Tensor, middles: Tensor, axis: int) -> Tensor:
    """The tetrahedra [T, 4] whose two middles are neighbours along `axis`."""
    middles, corners = middles.movedim(axis, 0), corners.movedim(axis, 0)
    first, second = middles[:-1].reshape(-1), middles[1:].reshape(-1)
    square = corners[1:-1]  # the corners of the squares between them
    ring = [square[:, :-1, :-1], square[:, 1:, :-1], square[:, 1:, 1:], square[:, :-1, 1:]]
    ring = [part.reshape(-1) for part in ring]
    return torch.cat([torch.stack([first, second, ring[i], ring[(i + 1) % 4]], dim=1) for i in range(4)])


def _oriented(points: Tensor, tets: Tensor) -> Tensor:
    a, b, c, d = (points[tets[:, i]] for i in range(4))
    volume = (torch.linalg.cross(b - a, c - a) * (d - a)).sum(-1)
    return torch.where((volume < 0)[:, None], tets[:, [1, 0, 2, 3]], tets)


def _cases() -> tuple[Tensor, Tensor]:
    """For each of the sixteen ways in which corners can lie inside (bit i: corner i): triangles [16, 2, 3] by numbers of EDGES, and how
    many there are [16].

    One corner alone is cut off by a triangle, two by a quadrilateral; each is turned so that its front faces the outside, which
    is found out on one positively oriented tetrahedron and holds for all.
    """
    reference = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    triangles, counts = torch.zeros(16, 2, 3, dtype=torch.int64), torch.zeros(16, dtype=torch.int64)
    for case in range(1, 15):
        inside = [i for i in range(4) if case >> i & 1]
        outside = [i for i in range(4) if i not in inside]
        if len(inside) == 2:  # round the quadrilateral: neighbours share a corner of the tetrahedron
            loop = [(inside[0], outside[0]), (inside[0], outside[1]), (inside[1], outside[1]), (inside[1], outside[0])]
        else:
            loop = list(itertools.product(inside, outside))
        numbers = [EDGES.index((min(pair), max(pair))) for pair in loop]
        middles = torch.stack([(reference[a] + reference[b]) / 2 for a, b in loop])
        normal = torch.linalg.cross(middles[1] - middles[0], middles[2] - middles[0])
        if float(normal @ (reference[outside].mean(0) - reference[inside].mean(0))) < 0:
            numbers.reverse()
        for k in range(len(numbers) - 2):
            triangles[case, k] = torch.tensor([numbers[0], numbers[k + 1], numbers[k + 2]])
        counts[case] = len(numbers) - 2
    return triangles, counts


_TRIANGLES, _COUNTS = _cases()


def marching_tetrahedra(points: Tensor, values: Tensor, tets: Tensor) -> tuple[Tensor, Tensor]:
    """The surface on which linearly interpolated values are 0.

    Args:
        points: [P, 3]. values: [P], negative inside. tets: [T, 4] int64, positively oriented.
    Returns:
        vertices [V, 3], differentiable in points and values, and faces [F, 3] int64, counter-clockwise seen from outside. Closed
        where the values at the border of the lattice are positive; no vertex stands twice.
    """
    device = tets.device
    inside = values < 0
    case = (inside[tets] * torch.tensor([1, 2, 4, 8], device=device)).sum(1)
    cut = ((case > 0) & (case < 15)).nonzero()[:, 0]
    tets, case = tets[cut], case[cut]
    pairs = tets[:, torch.tensor(EDGES, device=device)].sort(dim=-1).values  # [t, 6, 2]
    crossed = inside[pairs[..., 0]] != inside[pairs[..., 1]]  # [t, 6]
    names = pairs[..., 0] * len(points) + pairs[..., 1]
    unique, number = names[crossed].unique(return_inverse=True)
    vertex = torch.full(crossed.shape, -1, dtype=torch.int64, device=device)
    vertex[crossed] = number
    a, b = unique // len(points), unique % len(points)
    part = values[a] / (values[a] - values[b])
    vertices = points[a] + part[:, None] * (points[b] - points[a])
    counts, triangles = _COUNTS.to(device)[case], _TRIANGLES.to(device)[case]  # [t], [t, 2, 3]
    present = torch.arange(2, device=device) < counts[:, None]
    faces = vertex.gather(1, triangles.reshape(len(tets), 6)).reshape(-1, 2, 3)[present]
    return vertices, faces
