"""Signed distance functions: rounded primitives and smooth set operations, in torch.

Every function takes positions [N, 3] float32 and returns distances [N] float32: negative inside, in world units, never
longer than the true distance by much (sphere tracing multiplies by a safety factor). Sizes are half extents or radii.
Z is up, the front is -Y.

Formulas: the standard ones for exact primitives (Inigo Quilez, "Distance functions", iquilezles.org), derived again here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Distance = Callable[[Tensor], Tensor]
Point = Sequence[float]


def _shift(p: Tensor, center: Point) -> Tensor:
    return p - p.new_tensor(tuple(center))


def sphere(radius: float, center: Point = (0, 0, 0)) -> Distance:
    return lambda p: _shift(p, center).norm(dim=-1) - radius


def ellipsoid(radii: Point, center: Point = (0, 0, 0)) -> Distance:
    """First-order approximation: exact on the surface and in gradient direction near it."""

    def distance(p: Tensor) -> Tensor:
        r = p.new_tensor(tuple(radii))
        q = _shift(p, center)
        k0 = (q / r).norm(dim=-1)
        k1 = (q / (r * r)).norm(dim=-1).clamp_min(1e-6)
        return k0 * (k0 - 1.0) / k1

    return distance


def box(half: Point, center: Point = (0, 0, 0), round: float = 0.02) -> Distance:
    """Box with these half extents, edges rounded by `round` (inside the extents)."""

    def distance(p: Tensor) -> Tensor:
        q = _shift(p, center).abs() - (p.new_tensor(tuple(half)) - round)
        outside = q.clamp_min(0.0).norm(dim=-1)
        return outside + q.amax(dim=-1).clamp_max(0.0) - round

    return distance


def _axis_split(q: Tensor, axis: str) -> tuple[Tensor, Tensor]:
    """(radial distance from the axis [N], coordinate along it [N])."""
    i = "xyz".index(axis)
    others = [j for j in range(3) if j != i]
    return torch.hypot(q[:, others[0]], q[:, others[1]]), q[:, i]


def cylinder(radius: float, half_height: float, center: Point = (0, 0, 0), axis: str = "z", round: float = 0.02) -> Distance:
    def distance(p: Tensor) -> Tensor:
        radial, along = _axis_split(_shift(p, center), axis)
        a, b = radial - (radius - round), along.abs() - (half_height - round)
        return torch.maximum(a, b).clamp_max(0.0) + torch.hypot(a.clamp_min(0.0), b.clamp_min(0.0)) - round

    return distance


def capsule(a: Point, b: Point, radius: float) -> Distance:
    """Segment from a to b with this radius."""
    return cone(a, b, radius, radius)


def cone(a: Point, b: Point, radius_a: float, radius_b: float) -> Distance:
    """Rounded cone: the hull of a ball round a and a ball round b, approximated by a radius that grows along the segment."""

    def distance(p: Tensor) -> Tensor:
        start, end = p.new_tensor(tuple(a)), p.new_tensor(tuple(b))
        q, axis = p - start, end - start
        t = ((q @ axis) / (axis @ axis)).clamp(0.0, 1.0)
        return (q - t[:, None] * axis).norm(dim=-1) - (radius_a + (radius_b - radius_a) * t)

    return distance


def frustum(bottom_radius: float, top_radius: float, half_height: float, center: Point = (0, 0, 0), round: float = 0.02) -> Distance:
    """Cone with flat ends along Z: the lathe of its trapezoid outline."""
    r0, r1, h = bottom_radius, top_radius, half_height
    return lathe([(0.0, -h), (r0, -h), (r1, h), (0.0, h)], center=center, round=round)


def torus(major: float, minor: float, center: Point = (0, 0, 0), axis: str = "z") -> Distance:
    def distance(p: Tensor) -> Tensor:
        radial, along = _axis_split(_shift(p, center), axis)
        return torch.hypot(radial - major, along) - minor

    return distance


def polygon(points: Sequence[tuple[float, float]], u: Tensor, v: Tensor) -> Tensor:
    """Signed distance [N] from (u, v) to a closed polygon in the plane."""
    best = torch.full_like(u, float("inf"))
    inside = torch.zeros_like(u, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]]):
        ex, ey, wx, wy = bx - ax, by - ay, u - ax, v - ay
        t = ((wx * ex + wy * ey) / max(ex * ex + ey * ey, 1e-12)).clamp(0.0, 1.0)
        best = torch.minimum(best, (wx - ex * t).square() + (wy - ey * t).square())
        if ey != 0:
            crosses = ((v < ay) != (v < by)) & (u < ax + ex * (v - ay) / ey)
            inside = inside ^ crosses
    return torch.where(inside, -1.0, 1.0) * best.sqrt()


def lathe(outline: Sequence[tuple[float, float]], center: Point = (0, 0, 0), axis: str = "z", round: float = 0.02) -> Distance:
    """Solid of revolution: outline of (radius, height) points, closed along the axis. Edges rounded outward by `round`."""
    # Mirrored at the axis so that the axis itself is never an edge of the solid.
    mirrored = [(-r, h) for r, h in reversed(outline) if r > 0]
    points = [*outline, *mirrored]

    def distance(p: Tensor) -> Tensor:
        radial, along = _axis_split(_shift(p, center), axis)
        return polygon(points, radial, along) - round

    return distance


def prism(
    outline: Sequence[tuple[float, float]], half_depth: float, center: Point = (0, 0, 0), axis: str = "y", round: float = 0.02
) -> Distance:
    """Extruded polygon. Axis y: outline is (x, z); axis x: (y, z); axis z: (x, y)."""

    def distance(p: Tensor) -> Tensor:
        q = _shift(p, center)
        i = "xyz".index(axis)
        u, v = (q[:, j] for j in range(3) if j != i)
        a, b = polygon(outline, u, v), q[:, i].abs() - (half_depth - round)
        return torch.maximum(a, b).clamp_max(0.0) + torch.hypot(a.clamp_min(0.0), b.clamp_min(0.0)) - round

    return distance


# Set operations -------------------------------------------------------------------------------------------------------


def union(*parts: Distance) -> Distance:
    def distance(p: Tensor) -> Tensor:
        result = parts[0](p)
        for part in parts[1:]:
            result = torch.minimum(result, part(p))
        return result

    return distance


def smooth_union(radius: float, *parts: Distance) -> Distance:
    """Union whose inner edges are filled over about `radius` (polynomial smooth minimum)."""

    def distance(p: Tensor) -> Tensor:
        result = parts[0](p)
        for part in parts[1:]:
            other = part(p)
            h = (0.5 + 0.5 * (other - result) / radius).clamp(0.0, 1.0)
            result = torch.lerp(other, result, h) - radius * h * (1.0 - h)
        return result

    return distance


def subtract(solid: Distance, *holes: Distance) -> Distance:
    def distance(p: Tensor) -> Tensor:
        result = solid(p)
        for hole in holes:
            result = torch.maximum(result, -hole(p))
        return result

    return distance


def intersect(*parts: Distance) -> Distance:
    def distance(p: Tensor) -> Tensor:
        result = parts[0](p)
        for part in parts[1:]:
            result = torch.maximum(result, part(p))
        return result

    return distance


def shell(solid: Distance, thickness: float) -> Distance:
    """The skin of a solid, half inside and half outside its surface."""
    return lambda p: solid(p).abs() - thickness / 2


# Placement ------------------------------------------------------------------------------------------------------------


def move(solid: Distance, offset: Point) -> Distance:
    return lambda p: solid(_shift(p, offset))


def rotate(solid: Distance, axis: str, angle_deg: float) -> Distance:
    """Turn the solid counter-clockwise about a world axis through the origin (seen against the axis)."""
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    matrix = {
        "x": ((1, 0, 0), (0, c, -s), (0, s, c)),
        "y": ((c, 0, s), (0, 1, 0), (-s, 0, c)),
        "z": ((c, -s, 0), (s, c, 0), (0, 0, 1)),
    }[axis]
    # p_local = R^T p_world; for row vectors that is p @ R.
    return lambda p: solid(p @ p.new_tensor(matrix))


def mirrored(solid: Distance, axis: str = "x") -> Distance:
    """The solid's positive half, repeated on the negative side."""
    i = "xyz".index(axis)

    def distance(p: Tensor) -> Tensor:
        q = p.clone()
        q[:, i] = q[:, i].abs()
        return solid(q)

    return distance


def around_z(solid: Distance, count: int, offset_deg: float = 0.0) -> Distance:
    """`count` copies of the solid (which should lie round the +X axis) spread evenly about Z."""
    step = 2 * math.pi / count
    offset = math.radians(offset_deg)

    def distance(p: Tensor) -> Tensor:
        angle = torch.atan2(p[:, 1], p[:, 0]) - offset
        folded = angle - step * torch.round(angle / step)
        radial = torch.hypot(p[:, 0], p[:, 1])
        return solid(torch.stack([radial * folded.cos(), radial * folded.sin(), p[:, 2]], dim=-1))

    return distance


def corners(x: float, y: float, solid: Distance) -> Distance:
    """Four copies of the solid at (+-x, +-y): table legs, wheels. The solid should be symmetric in x and y."""

    def distance(p: Tensor) -> Tensor:
        return solid(torch.stack([p[:, 0].abs() - x, p[:, 1].abs() - y, p[:, 2]], dim=-1))

    return distance
