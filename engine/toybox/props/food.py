"""Props to eat."""

from __future__ import annotations

from engine.toybox.prop import Kind, Part, Prop, Variation
from engine.toybox.sdf import (
    Distance,
    around_z,
    box,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    frustum,
    intersect,
    move,
    prism,
    rotate,
    smooth_union,
    sphere,
    torus,
    union,
)

STEM = (0.34, 0.22, 0.11)
LEAF = (0.25, 0.55, 0.18)
CHERRY = (0.80, 0.08, 0.12)
DOUGH = (0.82, 0.58, 0.30)
WAFFLE = (0.84, 0.60, 0.30)
CREAM = (0.97, 0.93, 0.84)


def _leaf(foot: tuple[float, float, float], length: float, tilt_deg: float) -> Distance:
    """A thick leaf from `foot` towards +X, its tip raised by `tilt_deg`."""
    wide = length * 0.24
    outline = [(0, 0), (length * 0.4, -wide), (length * 0.7, -wide * 0.8), (length, 0), (length * 0.7, wide * 0.8), (length * 0.4, wide)]
    return move(rotate(prism(outline, 0.065, axis="z", round=0.04), "y", -tilt_deg), foot)


def donut(v: Variation) -> Prop:
    major, minor = v.between(0.54, 0.6), v.between(0.29, 0.34)
    dough = torus(major, minor)
    drips = around_z(sphere(0.2, center=(major + minor, 0, -0.12)), 8)
    icing = intersect(torus(major, minor + 0.045), union(box((2, 2, 1), center=(0, 0, 0.93)), drips))
    top = minor + 0.04

    def sprinkles(offset: float, shift: float, angle: float) -> Distance:
        grain = rotate(capsule((-0.07, 0, 0), (0.07, 0, 0), 0.045), "z", angle)
        return around_z(move(grain, (major + shift, 0, top - 0.6 * abs(shift))), 5, offset)

    return Prop(
        (
            Part(dough, v.color(DOUGH)),
            Part(icing, v.color((0.93, 0.48, 0.65)), tinted=True),
            Part(sprinkles(18, 0.12, 60), v.color((0.97, 0.86, 0.25))),
            Part(sprinkles(42, -0.12, -30), v.color((0.30, 0.65, 0.90))),
            Part(sprinkles(66, 0.03, 0), v.color((0.97, 0.96, 0.93))),
        )
    )


def ice_cream_cone(v: Variation) -> Prop:
    r, wide, half = v.between(0.5, 0.56), v.between(0.38, 0.43), v.between(0.5, 0.58)
    foot = -2 * half
    wafer = frustum(0.08, wide, half, center=(0, 0, foot + half), round=0.03)
    ribs = around_z(capsule((0.1, 0, foot + 0.03), (wide + 0.015, 0, -0.03), 0.04), 8)
    hoops = union(*(torus(0.08 + (wide - 0.08) * t + 0.01, 0.04, center=(0, 0, foot + 2 * half * t)) for t in (0.4, 0.72)))
    scoop = smooth_union(0.06, sphere(r, center=(0, 0, 0.34)), around_z(sphere(0.15, center=(r - 0.09, 0, 0.08)), 9))
    cherry = sphere(0.14, center=(0, 0, 0.36 + r + 0.06))
    return Prop(
        (
            Part(scoop, v.color((0.96, 0.78, 0.80)), tinted=True),
            Part(wafer, v.color(WAFFLE)),
            Part(union(ribs, hoops), v.color((0.70, 0.45, 0.19))),
            Part(cherry, v.color(CHERRY)),
        )
    )


def apple(v: Variation) -> Prop:
    major, minor = v.between(0.27, 0.32), v.between(0.42, 0.47)
    body = smooth_union(0.25, torus(major, minor, center=(0, 0, 0.08)), torus(major * 0.6, minor * 0.84, center=(0, 0, -0.24)))
    stem = capsule((0, 0, 0.3), (0.04, 0, v.between(0.68, 0.8)), 0.055)
    leaf = _leaf((0.02, 0, 0.58), 0.42, 18)
    return Prop((Part(body, v.color((0.80, 0.12, 0.12)), tinted=True), Part(stem, v.color(STEM)), Part(leaf, v.color(LEAF))))


def pineapple(v: Variation) -> Prop:
    r, h = v.between(0.44, 0.5), v.between(0.58, 0.66)
    body = ellipsoid((r, r, h), center=(0, 0, -0.3))

    def studs(height: float, offset: float) -> Distance:
        reach = r * (1 - height * height) ** 0.5
        return around_z(sphere(0.11, center=(reach - 0.045, 0, height * h - 0.3)), 8, offset)

    rows = union(studs(-0.66, 0), studs(-0.3, 22.5), studs(0.06, 0), studs(0.42, 22.5), studs(0.74, 0))
    foot = h - 0.36
    spread = v.between(0.36, 0.44)
    leaves = union(
        around_z(cone((0.08, 0, foot), (spread, 0, foot + 0.3), 0.13, 0.05), 6),
        around_z(cone((0.06, 0, foot), (spread * 0.6, 0, foot + 0.52), 0.13, 0.05), 6, 30),
        cone((0, 0, foot), (0, 0, foot + 0.7), 0.14, 0.05),
    )
    return Prop(
        (
            Part(body, v.color((0.88, 0.62, 0.14)), tinted=True, shade=0.85),
            Part(rows, v.color((0.96, 0.77, 0.22)), tinted=True, shade=1.1),
            Part(leaves, v.color((0.20, 0.52, 0.20))),
        )
    )


def cupcake(v: Variation) -> Prop:
    foot, rim, half = v.between(0.36, 0.42), v.between(0.5, 0.55), v.between(0.28, 0.34)
    wrapper = frustum(foot, rim, half, center=(0, 0, -half), round=0.02)
    pleats = around_z(capsule((foot, 0, 0.03 - 2 * half), (rim, 0, -0.03), 0.055), 14)
    frosting = smooth_union(
        0.04,
        cylinder(0.7, 0.17, center=(0, 0, 0.08), round=0.165),
        cylinder(0.53, 0.16, center=(0, 0, 0.32), round=0.155),
        cylinder(0.36, 0.15, center=(0, 0, 0.54), round=0.145),
    )
    cherry = sphere(0.16, center=(0, 0, 0.8))
    return Prop(
        (
            Part(frosting, v.color((0.95, 0.70, 0.78)), tinted=True),
            Part(wrapper, v.color((0.60, 0.38, 0.20))),
            Part(pleats, v.color((0.78, 0.56, 0.34))),
            Part(cherry, v.color(CHERRY)),
        )
    )


def carrot(v: Variation) -> Prop:
    r, tip = v.between(0.42, 0.48), v.between(-1.0, -0.88)
    top = 0.3
    root = cone((0, 0, top), (0, 0, tip), r, 0.07)

    def ring(t: float) -> Distance:
        return torus(r + (0.07 - r) * t - 0.02, 0.035, center=(0, 0, top + (tip - top) * t))

    leaves = union(
        around_z(cone((0.04, 0, 0.62), (v.between(0.2, 0.26), 0, 1.0), 0.07, 0.12), 5, 90),
        cone((0, 0, 0.6), (0, 0, 1.12), 0.09, 0.14),
    )
    return Prop(
        (
            Part(root, v.color((0.95, 0.48, 0.10)), tinted=True),
            Part(union(ring(0.12), ring(0.38), ring(0.65)), v.color((0.84, 0.38, 0.07)), tinted=True, shade=0.8),
            Part(leaves, v.color((0.26, 0.58, 0.18))),
        )
    )


def pear(v: Variation) -> Prop:
    r, small, high = v.between(0.52, 0.58), v.between(0.27, 0.31), v.between(0.36, 0.42)
    body = smooth_union(0.38, ellipsoid((r, r, r * 0.95), center=(0, 0, -0.3)), sphere(small, center=(0, 0, high)))
    stem = capsule((0, 0, high + small - 0.08), (-0.05, 0, high + small + 0.22), 0.055)
    leaf = _leaf((-0.02, 0, high + small + 0.05), 0.4, 20)
    return Prop((Part(body, v.color((0.74, 0.78, 0.22)), tinted=True), Part(stem, v.color(STEM)), Part(leaf, v.color(LEAF))))


def cake(v: Variation) -> Prop:
    r, small, h = v.between(0.76, 0.84), v.between(0.46, 0.52), v.between(0.24, 0.28)
    top = 2 * h + 0.4
    body = union(cylinder(r, h, center=(0, 0, h - 0.6), round=0.05), cylinder(small, 0.24, center=(0, 0, 2 * h - 0.44), round=0.05))
    piping = union(
        around_z(sphere(0.09, center=(r, 0, -0.55)), 16),
        around_z(sphere(0.075, center=(small + 0.02, 0, 2 * h - 0.58)), 12),
    )
    glaze_z = top - 0.62
    glaze = union(
        cylinder(small + 0.035, 0.06, center=(0, 0, glaze_z), round=0.04),
        around_z(capsule((small, 0, glaze_z), (small, 0, glaze_z - 0.12), 0.06), 8),
    )
    candles = around_z(capsule((0.26, 0, glaze_z), (0.26, 0, glaze_z + 0.34), 0.06), 5, 90)
    flames = around_z(ellipsoid((0.065, 0.065, 0.1), center=(0.26, 0, glaze_z + 0.48)), 5, 90)
    return Prop(
        (
            Part(body, v.color((0.93, 0.62, 0.68)), tinted=True),
            Part(union(piping, glaze), v.color(CREAM)),
            Part(candles, v.color((0.35, 0.62, 0.85))),
            Part(flames, (1.0, 0.75, 0.20)),
        )
    )


KINDS = (
    Kind("donut", donut, ("doughnut",), ("golden", "striped", "stone")),
    Kind("ice cream cone", ice_cream_cone, ("ice cream",), ("golden", "striped")),
    Kind("apple", apple, ("ripe apple",), ("wooden", "golden", "striped", "stone")),
    Kind("pineapple", pineapple, (), ("wooden", "golden", "stone")),
    Kind("cupcake", cupcake, ("muffin",), ("golden", "striped")),
    Kind("carrot", carrot, (), ("wooden", "golden", "striped", "stone")),
    Kind("pear", pear, ("ripe pear",), ("wooden", "golden", "striped", "stone")),
    Kind("cake", cake, ("birthday cake",), ("golden", "striped", "stone")),
)
