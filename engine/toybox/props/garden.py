"""Props of the garden."""

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
    lathe,
    mirrored,
    move,
    prism,
    rotate,
    smooth_union,
    sphere,
    subtract,
    torus,
    union,
)

CREAM = (0.95, 0.91, 0.80)
TERRACOTTA = (0.76, 0.40, 0.24)
SOIL = (0.24, 0.15, 0.09)
COAL = (0.08, 0.08, 0.09)


def mushroom(v: Variation) -> Prop:
    r, h = v.between(0.74, 0.84), v.between(0.58, 0.68)
    below = box((2, 2, 1), center=(0, 0, -1.06))
    cap = subtract(ellipsoid((r, r, h)), below)

    def spots(count: int, height: float, size: float, offset: float) -> Distance:
        reach = r * (1 - height * height) ** 0.5
        return around_z(sphere(size, center=(reach, 0, height * h)), count, offset)

    dots = intersect(
        subtract(ellipsoid((r + 0.03, r + 0.03, h + 0.03)), below),
        union(spots(7, 0.26, 0.17, 90), spots(5, 0.7, 0.16, -90), sphere(0.2, center=(0, 0, h))),
    )
    gills = cylinder(r * 0.66, 0.06, center=(0, 0, -0.07), round=0.03)
    stem = lathe([(0, -0.75), (0.34, -0.75), (0.37, -0.6), (0.24, -0.3), (0.22, 0.1), (0, 0.1)], round=0.03)
    return Prop(
        (
            Part(cap, v.color((0.80, 0.13, 0.10)), tinted=True),
            Part(dots, v.color((0.96, 0.94, 0.90))),
            Part(gills, v.color((0.80, 0.70, 0.55))),
            Part(stem, v.color(CREAM)),
        )
    )


def snowman(v: Variation) -> Prop:
    big, mid, small = v.between(0.5, 0.56), v.between(0.36, 0.4), v.between(0.27, 0.31)
    mid_z, head_z = big * 0.8 + mid * 0.75 - 0.55, big * 0.8 + mid * 1.5 + small * 0.75 - 0.55
    balls = smooth_union(
        0.05,
        subtract(sphere(big, center=(0, 0, -0.55)), box((2, 2, 1), center=(0, 0, -0.55 - big * 0.9 - 1))),
        sphere(mid, center=(0, 0, mid_z)),
        sphere(small, center=(0, 0, head_z)),
    )
    coal = union(
        mirrored(sphere(0.055, center=(0.11, -small * 0.9, head_z + 0.08))),
        sphere(0.06, center=(0, -mid - 0.01, mid_z + 0.1)),
        sphere(0.06, center=(0, -mid, mid_z - 0.12)),
    )
    nose = cone((0, -small * 0.9, head_z - 0.02), (0, -small - 0.24, head_z - 0.04), 0.085, 0.04)
    scarf_z = (mid_z + mid * 0.75 + head_z - small * 0.75) / 2 + 0.01
    scarf = union(torus(0.24, 0.085, center=(0, 0, scarf_z)), capsule((0.14, -0.27, scarf_z - 0.02), (0.17, -0.36, scarf_z - 0.3), 0.075))
    arm = union(
        capsule((mid * 0.8, 0, mid_z), (mid + 0.36, 0, mid_z + 0.24), 0.05),
        capsule((mid + 0.2, 0, mid_z + 0.14), (mid + 0.38, 0, mid_z + 0.1), 0.045),
    )
    hat_z = head_z + small * 0.78
    hat = union(cylinder(0.27, 0.05, center=(0, 0, hat_z)), cylinder(0.17, 0.16, center=(0, 0, hat_z + 0.18), round=0.03))
    return Prop(
        (
            Part(balls, v.color((0.94, 0.95, 0.97)), tinted=True),
            Part(union(coal, hat), v.color(COAL)),
            Part(nose, v.color((0.95, 0.48, 0.10))),
            Part(scarf, v.color((0.78, 0.13, 0.14))),
            Part(mirrored(arm), v.color((0.36, 0.22, 0.12))),
        )
    )


def cactus(v: Variation) -> Prop:
    r, top, arm_z = v.between(0.26, 0.31), v.between(0.6, 0.72), v.between(-0.1, 0.02)
    reach = r + 0.34
    trunk = capsule((0, 0, -0.6), (0, 0, top), r)
    arms = mirrored(
        smooth_union(
            0.05, capsule((r * 0.6, 0, arm_z), (reach, 0, arm_z), 0.15), capsule((reach, 0, arm_z), (reach, 0, arm_z + 0.42), 0.15)
        )
    )
    ribs = around_z(capsule((r - 0.02, 0, -0.6), (r - 0.02, 0, top), 0.055), 8)
    pot = union(frustum(0.32, 0.44, 0.2, center=(0, 0, -0.86)), cylinder(0.52, 0.09, center=(0, 0, -0.63), round=0.03))
    soil = cylinder(0.42, 0.03, center=(0, 0, -0.53))
    flower = union(around_z(sphere(0.09, center=(0.11, 0, top + r + 0.03)), 5, 90), sphere(0.08, center=(0, 0, top + r + 0.07)))
    green = v.color((0.25, 0.58, 0.28))
    return Prop(
        (
            Part(smooth_union(0.05, trunk, arms), green, tinted=True),
            Part(ribs, green, tinted=True, shade=0.75),
            Part(pot, v.color(TERRACOTTA)),
            Part(soil, v.color(SOIL)),
            Part(flower, v.color((0.93, 0.40, 0.60))),
        )
    )


def pumpkin(v: Variation) -> Prop:
    ring, h = v.between(0.36, 0.42), v.between(0.5, 0.6)
    body = union(around_z(ellipsoid((0.44, 0.3, h), center=(ring, 0, 0)), 8, 22.5), ellipsoid((0.4, 0.4, h * 0.8)))
    stem = smooth_union(
        0.05,
        cone((0, 0, h * 0.7), (0.02, 0, h + 0.14), 0.17, 0.1),
        capsule((0.02, 0, h + 0.12), (0.12, 0, h + v.between(0.24, 0.34)), 0.085),
    )
    return Prop((Part(body, v.color((0.93, 0.47, 0.08)), tinted=True), Part(stem, v.color((0.34, 0.44, 0.16)))))


def flower_pot(v: Variation) -> Prop:
    foot, rim, half = v.between(0.36, 0.42), v.between(0.52, 0.58), v.between(0.34, 0.4)
    pot_z = -1 + half
    pot = frustum(foot, rim, half, center=(0, 0, pot_z), round=0.02)
    collar = subtract(
        cylinder(rim + 0.11, 0.13, center=(0, 0, pot_z + half), round=0.04), cylinder(rim - 0.02, 0.1, center=(0, 0, pot_z + half + 0.14))
    )
    soil_z = pot_z + half + 0.04
    soil = cylinder(rim, 0.04, center=(0, 0, soil_z))
    high = v.between(0.56, 0.66)
    stem = capsule((0, 0, soil_z), (0, 0, high), 0.06)
    blade = [(0, -0.03), (0.26, -0.12), (0.52, 0), (0.26, 0.12), (0, 0.03)]
    leaf = move(rotate(prism(blade, 0.07, axis="z", round=0.045), "y", -38), (0, 0, soil_z + 0.12))
    petals = around_z(cylinder(0.16, 0.085, center=(0.33, 0, 0), round=0.08), 7, 90)
    heart = cylinder(0.2, 0.12, center=(0, 0, 0.03), round=0.1)

    def nod(solid: Distance) -> Distance:
        return move(rotate(solid, "x", 55), (0, -0.05, high))

    clay = v.color(TERRACOTTA)
    return Prop(
        (
            Part(pot, clay, tinted=True),
            Part(collar, clay, tinted=True, shade=0.85),
            Part(soil, v.color(SOIL)),
            Part(union(stem, mirrored(leaf)), v.color((0.25, 0.58, 0.22))),
            Part(nod(petals), v.color((0.96, 0.94, 0.92))),
            Part(nod(heart), v.color((0.97, 0.76, 0.14))),
        )
    )


KINDS = (
    Kind("mushroom", mushroom, ("toadstool",), ("wooden", "golden", "striped", "stone")),
    Kind("snowman", snowman, ("snow man",), ("wooden", "golden", "striped", "stone")),
    Kind("cactus", cactus, ("potted cactus",), ("wooden", "golden", "striped", "stone")),
    Kind("pumpkin", pumpkin, ("gourd",), ("wooden", "golden", "striped", "stone")),
    Kind("flower pot", flower_pot, ("flowerpot", "potted flower"), ("wooden", "golden", "striped", "stone")),
)
