"""Things for heroes, smiths and wizards."""

from __future__ import annotations

from engine.toybox.prop import Kind, Part, Prop, Variation
from engine.toybox.sdf import (
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
    prism,
    shell,
    smooth_union,
    sphere,
    subtract,
    torus,
    union,
)

STEEL = (0.70, 0.73, 0.77)
GOLD = (0.84, 0.64, 0.20)
WOOD = (0.55, 0.34, 0.17)
LEATHER = (0.36, 0.20, 0.11)


def sword(v: Variation) -> Prop:
    w, top, guard_x = v.between(0.22, 0.27), v.between(0.96, 1.08), v.between(0.46, 0.54)
    blade = prism([(-w, -0.4), (w, -0.4), (w, top - 0.32), (0, top), (-w, top - 0.32)], 0.09)
    ridge = prism([(-0.06, -0.4), (0.06, -0.4), (0.05, top - 0.4), (0, top - 0.3), (-0.05, top - 0.4)], 0.13)
    guard = union(box((guard_x, 0.14, 0.09), center=(0, 0, -0.42), round=0.05), mirrored(sphere(0.14, center=(guard_x, 0, -0.42))))
    grip = cylinder(0.1, 0.24, center=(0, 0, -0.7))
    pommel = sphere(0.17, center=(0, 0, -1.0))
    steel = v.color(STEEL)
    return Prop(
        (
            Part(blade, steel, tinted=True),
            Part(ridge, steel, tinted=True, shade=0.8),
            Part(union(guard, pommel), v.color(GOLD)),
            Part(grip, v.color(LEATHER)),
        )
    )


def shield(v: Variation) -> Prop:
    w, low, bulge = v.between(0.72, 0.82), v.between(-1.05, -0.93), v.between(1.3, 1.6)
    right = [(w * 0.6, low * 0.55), (w * 0.94, -0.05), (w, 0.7)]
    outline = [(0, low), *right, (0, 0.82), *((-x, z) for x, z in reversed(right))]
    outer, inner = ([(x * s, z * s) for x, z in outline] for s in (0.9, 0.76))
    dome = sphere(bulge, center=(0, bulge - 0.25, 0))
    face = intersect(prism(outline, 0.7, round=0.05), shell(dome, 0.22))
    rim = subtract(intersect(prism(outer, 0.8), shell(dome, 0.3)), prism(inner, 0.9))
    boss = union(ellipsoid((0.24, 0.16, 0.24), center=(0, -0.36, 0)), torus(0.26, 0.05, center=(0, -0.31, 0), axis="y"))
    grips = union(torus(0.22, 0.06, center=(0, -0.12, 0.3)), torus(0.22, 0.06, center=(0, -0.12, -0.2)))
    straps = subtract(grips, box((2, 1, 2), center=(0, -1.2, 0)))
    return Prop(
        (
            Part(face, v.color((0.20, 0.32, 0.68)), tinted=True),
            Part(rim, v.color(STEEL)),
            Part(boss, v.color(GOLD)),
            Part(straps, v.color(LEATHER)),
        )
    )


def key(v: Variation) -> Prop:
    r, foot, tooth = v.between(0.32, 0.37), v.between(-1.05, -0.95), v.between(0.36, 0.44)
    bow = torus(r, 0.12, center=(0, 0, 0.6), axis="y")
    shaft = capsule((0, 0, 0.62 - r), (0, 0, foot), 0.12)
    bits = union(
        box((tooth / 2, 0.09, 0.1), center=(tooth / 2, 0, foot + 0.12), round=0.03),
        box((tooth * 0.38, 0.09, 0.09), center=(tooth * 0.38, 0, foot + 0.42), round=0.03),
    )
    collars = union(
        cylinder(0.19, 0.06, center=(0, 0, 0.46 - r), round=0.04),
        cylinder(0.17, 0.05, center=(0, 0, foot + 0.66), round=0.03),
    )
    brass = v.color(GOLD)
    return Prop(
        (
            Part(smooth_union(0.05, bow, shaft, bits), brass, tinted=True),
            Part(collars, brass, tinted=True, shade=0.75),
        )
    )


def anvil(v: Variation) -> Prop:
    length, deep, waist = v.between(0.54, 0.62), v.between(0.28, 0.33), v.between(0.24, 0.3)
    foot = union(box((0.56, 0.4, 0.11), center=(0, 0, -0.5), round=0.04), box((0.4, 0.32, 0.1), center=(0, 0, -0.36), round=0.04))
    middle = prism([(-0.38, -0.35), (0.38, -0.35), (waist, -0.1), (0.42, 0.12), (-0.42, 0.12), (-waist, -0.1)], deep * 0.72)
    block = box((length, deep, 0.16), center=(0.06, 0, 0.22), round=0.03)
    horn = cone((0.06 - length, 0, 0.16), (-length - v.between(0.44, 0.54), 0, 0.27), 0.21, 0.07)
    plate = box((length, deep + 0.01, 0.05), center=(0.07, 0, 0.39), round=0.02)
    iron = v.color((0.30, 0.31, 0.34))
    return Prop(
        (
            Part(smooth_union(0.04, foot, middle, block, horn), iron, tinted=True),
            Part(plate, v.color((0.52, 0.53, 0.56)), tinted=True, shade=1.15),
        )
    )


def hammer(v: Variation) -> Prop:
    r, reach, foot = v.between(0.25, 0.3), v.between(0.46, 0.54), v.between(-0.74, -0.62)
    z = 0.62
    poll = union(
        cylinder(r * 0.78, reach / 2, center=(reach / 2, 0, z), axis="x"), cylinder(r, 0.13, center=(reach, 0, z), axis="x", round=0.04)
    )
    cheek = box((0.22, 0.22, 0.27), center=(0, 0, z), round=0.04)
    upper, lower = [(-0.1, z + 0.21), (-0.36, z + 0.19), (-0.6, z + 0.02), (-0.74, z - 0.22)], [(-0.64, z - 0.22), (-0.42, z - 0.08)]
    hook = [(-0.1, z - 0.15), *upper, *lower]
    claw = subtract(prism(hook, 0.2, round=0.03), prism([(-0.3, -2), (-0.3, 2), (-2, 2), (-2, -2)], 0.06))
    handle = smooth_union(0.05, capsule((0, 0, foot), (0, 0, z), 0.11), capsule((0, 0, foot), (0, 0, foot + 0.45), 0.14))
    steel = v.color((0.45, 0.47, 0.51))
    return Prop(
        (
            Part(union(poll, cheek), steel, tinted=True),
            Part(claw, steel, tinted=True, shade=0.85),
            Part(handle, v.color(WOOD)),
        )
    )


def potion(v: Variation) -> Prop:
    r, neck, high = v.between(0.6, 0.68), v.between(0.19, 0.24), v.between(0.6, 0.7)
    bulb = subtract(sphere(r, center=(0, 0, -0.3)), box((2, 2, 1), center=(0, 0, -0.3 - r * 0.9 - 1)))
    throat = union(cylinder(neck, 0.3, center=(0, 0, high - 0.25), round=0.03), torus(neck + 0.02, 0.07, center=(0, 0, high)))
    collar = torus(neck + 0.03, 0.07, center=(0, 0, r - 0.3 - 0.03))
    cork = frustum(neck - 0.05, neck + 0.01, 0.13, center=(0, 0, high + 0.14))
    bubbles = union(
        around_z(sphere(0.1, center=(r * 0.93, 0, -0.18)), 5, 55),
        around_z(sphere(0.07, center=(r * 0.86, 0, -0.52)), 5, 20),
        around_z(sphere(0.075, center=(r * 0.84, 0, 0.04)), 5, 88),
    )
    return Prop(
        (
            Part(bulb, v.color((0.45, 0.20, 0.70)), tinted=True),
            Part(bubbles, v.color((0.68, 0.45, 0.88)), tinted=True, shade=1.15),
            Part(throat, v.color((0.80, 0.90, 0.92))),
            Part(collar, v.color(GOLD)),
            Part(cork, v.color((0.66, 0.46, 0.26))),
        )
    )


def hat(v: Variation) -> Prop:
    brim, r, top = v.between(0.82, 0.92), v.between(0.46, 0.52), v.between(0.5, 0.66)
    crown = lathe([(0, -0.4), (r, -0.4), (r - 0.02, 0.0), (r + 0.06, top), (0, top)], round=0.03)
    flange = lathe([(0, -0.44), (brim * 0.72, -0.44), (brim, -0.34), (brim, -0.28), (brim * 0.72, -0.38), (0, -0.38)], round=0.03)
    hollow = cylinder(r - 0.07, 0.4, center=(0, 0, -0.5))
    band = cylinder(r + 0.05, 0.12, center=(0, 0, -0.22), round=0.03)
    lining = cylinder(r - 0.06, 0.03, center=(0, 0, -0.12))
    felt = v.color((0.20, 0.20, 0.24))
    return Prop(
        (
            Part(subtract(crown, hollow), felt, tinted=True),
            Part(subtract(flange, hollow), felt, tinted=True, shade=0.88),
            Part(subtract(band, hollow), v.color((0.70, 0.12, 0.16))),
            Part(lining, v.color((0.55, 0.42, 0.30))),
        )
    )


KINDS = (
    Kind("sword", sword, ("longsword",), ("wooden", "golden", "striped", "stone")),
    Kind("shield", shield, ("knight shield",), ("wooden", "golden", "striped", "stone")),
    Kind("key", key, ("door key",), ("wooden", "golden", "striped", "stone")),
    Kind("anvil", anvil, ("blacksmith anvil",), ("wooden", "golden", "striped", "stone")),
    Kind("hammer", hammer, ("claw hammer",), ("wooden", "golden", "striped", "stone")),
    Kind("potion", potion, ("magic potion", "potion flask"), ("golden", "striped")),
    Kind("hat", hat, ("top hat",), ("wooden", "golden", "striped", "stone")),
)
