"""Silhouettes that are as wide as they are: analytic coverage of the pixels along them, with gradient to the vertices.

A picture made from pixel centres jumps when an edge passes a centre and has no gradient at it. Laine et al., "Modular primitives
for high-performance differentiable rendering" (2011.03277, section 3.7), blend the two pixels beside a silhouette edge by where
the edge crosses the line between their centres. There the edges of the triangle in the pixel are looked at, which misses the
silhouette where triangles are smaller than pixels, as they are for a fine mesh in a small picture. Here the silhouette edges
themselves are walked: each row (or, for flat edges, each column) of pixel centres that an edge crosses is one crossing.

Flat edges count by columns only and steep ones by rows only; so the summed coverage of a shape is its area, up to its corners.

Shapes: B cameras, H W pixels, C channels, V vertices, F faces, E undirected edges, K crossings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.rendering.surface_pixels import Projection


@dataclass(frozen=True)
class Edges:
    """Undirected edges of a mesh.

    Attributes:
        ends: [E, 2] int64, vertices, the lower one first.
        faces: [E, 2] int64, the (first two) faces at the edge; twice the same at an open edge.
        forward: [E, 2] bool, whether that face passes the edge from its first end to its second.
        corners: [F, 3] int64, the faces of the mesh.
    """

    ends: Tensor
    faces: Tensor
    forward: Tensor
    corners: Tensor


@dataclass(frozen=True)
class _Crossings:
    """Where silhouettes pass between two neighbouring pixels.

    inside, outside: [K] int64 into B*H*W, the pixel that sees the nearer surface and its neighbour.
    distance: [K] in [0, 1], from the centre of the inner pixel to the edge, in pixels; differentiable.
    depth: [K], of the edge there, detached.
    """

    inside: Tensor
    outside: Tensor
    distance: Tensor
    depth: Tensor


def edges_of(faces: Tensor) -> Edges:
    """The edges of faces [F, 3] int64."""
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])  # [3F, 2]
    pairs = directed.sort(dim=1).values
    n = int(faces.max()) + 1 if len(faces) else 1
    order = (pairs[:, 0] * n + pairs[:, 1]).argsort(stable=True)
    owner = torch.arange(len(faces), device=faces.device).repeat(3)[order]
    pairs, forward = pairs[order], (directed[:, 0] < directed[:, 1])[order]
    first = torch.ones(len(order), dtype=torch.bool, device=faces.device)
    first[1:] = (pairs[1:] != pairs[:-1]).any(dim=1)
    start = first.nonzero()[:, 0]
    count = torch.diff(start, append=start.new_tensor([len(order)]))
    both = torch.stack([start, start + (count > 1).long()], dim=1)  # [E, 2]
    return Edges(pairs[start], owner[both], forward[both], faces)


def antialias(images: Tensor, projection: Projection, edges: Edges, depth: Tensor) -> Tensor:
    """Blend pixels along silhouettes.

    Args:
        images: [B, H, W, C], what each pixel's centre sees.
        depth: [B, H, W], distance of the surface seen there from the camera plane, inf for none. Never differentiated.
    Returns:
        [B, H, W, C], differentiable in the images and, through where the edges cross, in the vertices.
    """
    height, width = images.shape[1:3]
    found = _crossings(projection, edges, height, width)
    kept = _visible(found, depth.reshape(-1).to(found.depth))
    inside, outside, distance = found.inside[kept], found.outside[kept], found.distance[kept]
    flat = images.reshape(-1, images.shape[-1])
    step = flat[inside] - flat[outside]  # [K, C]
    outward = (distance - 0.5).clamp(min=0)[:, None] * step  # the surface reaches into the outer pixel
    inward = (distance - 0.5).clamp(max=0)[:, None] * step  # or leaves a part of the inner one free
    return flat.index_add(0, outside, outward).index_add(0, inside, inward).reshape(images.shape)


def _crossings(projection: Projection, edges: Edges, height: int, width: int) -> _Crossings:
    """All crossings of silhouette edges with rows and columns of pixel centres, visible or not."""
    view, edge, side = _silhouette(projection, edges)
    ends = projection.pixels[view[:, None], edges.ends[edge]]  # [n, 2 ends, 2]
    depths = projection.depths[view[:, None], edges.ends[edge]].detach()
    run = (ends[:, 1] - ends[:, 0]).detach()
    flat = run[:, 0].abs() > run[:, 1].abs()
    parts = []
    for along, chosen in ((1, ~flat), (0, flat)):  # 1: rows, the edge moves in x; 0: columns, it moves in y
        # Going down along a steep edge the side of growing angle is the left one, going right along a flat edge the lower one.
        ahead = side[chosen] == (run[chosen, along] < 0 if along else run[chosen, 0] > 0)
        parts.append(_walk(ends[chosen], depths[chosen], view[chosen], ahead, along, height, width, projection.orthographic))
    return _Crossings(*(torch.cat([getattr(part, name) for part in parts]) for name in ("inside", "outside", "distance", "depth")))


@torch.no_grad()
def _silhouette(projection: Projection, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
    """Edges all of whose faces lie on one side in the picture: view [n], edge [n], and that side [n] (True: of growing angle)."""
    a, b, c = (projection.pixels[:, edges.corners[:, i]] for i in range(3))  # [B, F, 2]
    u, v = b - a, c - a
    # One sign for a face, whichever of its edges asks: so a face seen edge-on leaves no gap in the silhouette.
    turns = u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0] >= 0  # [B, F]
    sides = turns[:, edges.faces] == edges.forward  # [B, E, 2]
    view, edge = (sides[..., 0] == sides[..., 1]).nonzero(as_tuple=True)
    return view, edge, sides[view, edge, 0]


def _walk(ends: Tensor, depths: Tensor, view: Tensor, ahead: Tensor, along: int, height: int, width: int, orthographic: bool) -> _Crossings:
    """Crossings of edges [n, 2, 2] with the lines of pixel centres on which coordinate `along` is constant.

    ahead: [n] bool, whether the surface lies towards larger values of the other coordinate.
    """
    n_lines, n_places = (height, width) if along else (width, height)
    start, end = ends[:, 0], ends[:, 1]
    low, high = torch.stack([start[:, along], end[:, along]]).detach().aminmax(dim=0)
    first = (low.clamp(0, n_lines) - 0.5).ceil().long()
    count = ((high.clamp(0, n_lines) - 0.5).ceil().long() - first).clamp(min=0)
    owner = torch.arange(len(count), device=ends.device).repeat_interleave(count)
    line = torch.arange(len(owner), device=ends.device) - (count.cumsum(0) - count)[owner] + first[owner]
    part = (line + 0.5 - start[owner, along]) / (end[owner, along] - start[owner, along])  # 0..1 from start to end
    other = 1 - along
    place = start[owner, other] + part * (end[owner, other] - start[owner, other])
    part = part.detach()
    near, far = depths[owner, 0], depths[owner, 1]
    depth = near + part * (far - near) if orthographic else 1 / ((1 - part) / near + part / far)
    before = (place.detach() - 0.5).floor().long()  # the pixel whose centre lies before the crossing; the next one lies behind it
    inner = torch.where(ahead[owner], before + 1, before)
    outer = torch.where(ahead[owner], before, before + 1)
    distance = (place - (inner + 0.5)).abs()
    kept = (before >= 0) & (before + 1 < n_places) & (torch.minimum(near, far) > 0)
    offset, line, inner, outer = view[owner] * (height * width), line[kept], inner[kept], outer[kept]
    offset = offset[kept]
    inside, outside = (offset + (line * width + p if along else p * width + line) for p in (inner, outer))
    return _Crossings(inside, outside, distance[kept], depth[kept])


@torch.no_grad()
def _visible(found: _Crossings, depth: Tensor) -> Tensor:
    """Indices of the crossings that can be seen, at most one between two pixels, the nearest. depth: [B*H*W], inf where nothing is."""
    inner, outer = depth[found.inside], depth[found.outside]
    # Nothing before the edge on its outer side, and the inner pixel shows the edge's surface, not what lies behind it.
    seen = (outer > found.depth) & torch.isfinite(inner) & (inner - found.depth <= 0.5 * (outer - found.depth))
    index = seen.nonzero()[:, 0]
    index = index[found.depth[index].argsort(stable=True)]
    n = len(depth)
    # The pair's name: its first pixel, and whether the second lies beside or below it.
    first, second = torch.minimum(found.inside, found.outside)[index], torch.maximum(found.inside, found.outside)[index]
    name = first + n * (second - first > 1)
    order = name.argsort(stable=True)
    index, name = index[order], name[order]
    fresh = torch.ones(len(index), dtype=torch.bool, device=depth.device)
    fresh[1:] = name[1:] != name[:-1]
    return index[fresh]
