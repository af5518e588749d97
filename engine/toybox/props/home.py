"""Furniture and things of the house."""

from __future__ import annotations

from engine.toybox.prop import Kind, Part, Prop, Variation, tinted
from engine.toybox.sdf import (
    box,
    capsule,
    cone,
    corners,
    cylinder,
    intersect,
    lathe,
    mirrored,
    rotate,
    smooth_union,
    sphere,
    subtract,
    torus,
    union,
)

WOOD = (0.62, 0.40, 0.20)
DARK_WOOD = (0.42, 0.25, 0.12)
BRASS = (0.84, 0.66, 0.25)
IRON = (0.27, 0.28, 0.30)
WHITE = (0.96, 0.95, 0.91)
BLACK = (0.08, 0.08, 0.09)


def chair(v: Variation) -> Prop:
    w, back = v.between(0.46, 0.54), v.between(0.88, 1.02)
    seat = box((w, w, 0.08), center=(0, 0, 0), round=0.05)
    legs = corners(w - 0.09, w - 0.09, box((0.08, 0.08, 0.42), center=(0, 0, -0.46), round=0.03))
    posts = mirrored(box((0.08, 0.07, back / 2), center=(w - 0.09, w - 0.09, back / 2), round=0.03))
    rails = union(
        box((w - 0.05, 0.065, 0.15), center=(0, w - 0.09, back - 0.15), round=0.05),
        box((w - 0.1, 0.05, 0.08), center=(0, w - 0.09, back * 0.45), round=0.03),
    )
    wood = v.color(WOOD)
    return Prop(
        (
            Part(seat, wood, tinted=True),
            tinted(legs, wood, 0.8),
            tinted(union(posts, rails), wood, 0.92),
        )
    )


def table(v: Variation) -> Prop:
    x, y, h = v.between(0.85, 1.0), v.between(0.56, 0.68), v.between(0.36, 0.44)
    top = box((x, y, 0.08), center=(0, 0, h), round=0.04)
    apron = box((x - 0.14, y - 0.14, 0.09), center=(0, 0, h - 0.14))
    legs = corners(x - 0.15, y - 0.15, box((0.1, 0.1, h), center=(0, 0, -0.04), round=0.03))
    wood = v.color(WOOD)
    return Prop((Part(top, wood, tinted=True), tinted(union(apron, legs), wood, 0.8)))


def clock(v: Variation) -> Prop:
    r, d = v.between(0.62, 0.7), v.between(0.26, 0.32)
    case = subtract(cylinder(r, d, axis="y", round=0.08), cylinder(r - 0.15, 0.1, center=(0, -d, 0), axis="y"))
    feet = mirrored(cone((0.3, 0, -r * 0.75), (0.48, 0, -r - 0.12), 0.1, 0.08))
    dial = cylinder(r - 0.13, 0.03, center=(0, -d + 0.09, 0), axis="y", round=0.005)
    front = -d + 0.05
    ticks = union(
        mirrored(box((0.06, 0.02, 0.03), center=(r - 0.25, front, 0), round=0.01)),
        mirrored(box((0.03, 0.02, 0.06), center=(0, front, r - 0.25), round=0.01), "z"),
    )
    hands = union(capsule((0, front, 0), (0, front, r - 0.32), 0.035), capsule((0, front, 0), (0.2, front, 0.12), 0.04))
    dome = rotate(subtract(sphere(0.27), box((1, 1, 0.5), center=(0, 0, -0.5))), "y", 32)
    bells = mirrored(lambda p: dome(p - p.new_tensor((0.42, 0.0, r - 0.1))))
    handle = torus(0.2, 0.05, center=(0, 0, r + 0.06), axis="y")
    knob = union(cylinder(0.1, 0.08, center=(0, d + 0.05, 0.12), axis="y"), cylinder(0.1, 0.08, center=(0, d + 0.05, -0.2), axis="y"))
    paint = v.color((0.30, 0.52, 0.62))
    return Prop(
        (
            Part(case, paint, tinted=True),
            tinted(bells, paint, 0.85),
            Part(dial, WHITE),
            Part(union(ticks, hands), BLACK),
            Part(union(feet, handle, knob), v.color(BRASS)),
        )
    )


def candle(v: Variation) -> Prop:
    r, top = v.between(0.37, 0.45), v.between(0.22, 0.36)
    pillar = subtract(cylinder(r, (top + 0.85) / 2, center=(0, 0, (top - 0.85) / 2), round=0.05), sphere(0.3, center=(0, 0, top + 0.2)))
    drips = union(
        capsule((r * 0.55, -r * 0.82, top - 0.06), (r * 0.55, -r * 0.82, top - 0.42), 0.075),
        capsule((-r * 0.9, -r * 0.35, top - 0.06), (-r * 0.9, -r * 0.35, top - 0.28), 0.075),
        capsule((0.1, r * 0.96, top - 0.06), (0.1, r * 0.96, top - 0.5), 0.075),
    )
    dish = lathe([(0, -0.95), (r + 0.1, -0.95), (r + 0.24, -0.74), (r + 0.17, -0.74), (r + 0.08, -0.86), (0, -0.86)], round=0.03)
    wick = cylinder(0.045, 0.13, center=(0, 0, top + 0.03))
    flame = lathe([(0, top + 0.08), (0.1, top + 0.16), (0.13, top + 0.26), (0.07, top + 0.46), (0, top + 0.62)], round=0.03)
    glow = sphere(0.1, center=(0, 0, top + 0.2))
    wax = v.color((0.94, 0.89, 0.76))
    return Prop(
        (
            Part(smooth_union(0.05, pillar, drips), wax, tinted=True),
            Part(dish, v.color(BRASS)),
            Part(wick, BLACK),
            Part(union(flame, glow), (1.0, 0.68, 0.12)),
        )
    )


def vase(v: Variation) -> Prop:
    r, neck, rim = v.between(0.5, 0.6), v.between(0.2, 0.26), v.between(0.32, 0.4)
    body = lathe(
        [(0, -0.95), (0.3, -0.95), (r * 0.88, -0.5), (r, -0.1), (r * 0.82, 0.28), (neck, 0.6), (rim, 0.95), (neck - 0.09, 0.58), (0, 0.3)],
        round=0.04,
    )
    band = cylinder(r + 0.055, 0.09, center=(0, 0, -0.1), round=0.05)
    foot = cylinder(0.37, 0.07, center=(0, 0, -0.95), round=0.04)
    glaze = v.color((0.28, 0.47, 0.66))
    return Prop((Part(body, glaze, tinted=True), tinted(union(band, foot), glaze, 0.72)))


def bell(v: Variation) -> Prop:
    r, top = v.between(0.68, 0.8), v.between(0.36, 0.44)
    body = lathe(
        [(0, 0.55), (top * 0.7, 0.5), (top, 0.3), (top + 0.08, -0.2), (r, -0.62)]
        + [(r - 0.12, -0.62), (top - 0.05, -0.2), (top - 0.14, 0.3), (0, 0.4)],
        round=0.04,
    )
    rim = torus(r - 0.02, 0.085, center=(0, 0, -0.62))
    loop = torus(0.17, 0.07, center=(0, 0, 0.74), axis="y")
    clapper = union(capsule((0, 0, 0.4), (0, 0, -0.6), 0.06), sphere(0.2, center=(0, 0, -0.68)))
    metal = v.color(BRASS)
    return Prop(
        (
            Part(body, metal, tinted=True),
            tinted(union(rim, loop), metal, 0.8),
            Part(clapper, v.color(IRON)),
        )
    )


def book(v: Variation) -> Prop:
    w, h, t = v.between(0.58, 0.68), v.between(0.8, 0.92), v.between(0.2, 0.27)
    boards = mirrored(box((w, 0.05, h), center=(0, t, 0)), "y")
    spine = intersect(cylinder(t + 0.09, h, center=(-w + 0.12, 0, 0)), box((0.5, 2, 2), center=(-w - 0.38, 0, 0)))
    pages = box((w - 0.05, t - 0.02, h - 0.07), center=(-0.02, 0, 0), round=0.01)
    label = box((w * 0.55, 0.02, 0.16), center=(0.06, -t - 0.05, h * 0.38), round=0.01)
    emblem = cylinder(0.18, 0.02, center=(0.06, -t - 0.05, -h * 0.35), axis="y", round=0.01)
    bands = mirrored(cylinder(t + 0.11, 0.05, center=(-w + 0.12, 0, h * 0.6)), "z")
    ribs = intersect(bands, box((0.5, 2, 2), center=(-w - 0.38, 0, 0)))
    cloth = v.color((0.55, 0.16, 0.15))
    return Prop(
        (
            Part(boards, cloth, tinted=True),
            tinted(spine, cloth, 0.85),
            Part(pages, v.color((0.95, 0.91, 0.80))),
            Part(union(label, emblem, ribs), v.color(BRASS)),
        )
    )


def stool(v: Variation) -> Prop:
    r, splay = v.between(0.5, 0.58), v.between(0.4, 0.46)
    seat = cylinder(r, 0.11, center=(0, 0, 0.5), round=0.07)
    legs = mirrored(mirrored(capsule((0.25, 0.25, 0.45), (splay, splay, -0.72), 0.085)), "y")
    ring = torus(0.48, 0.06, center=(0, 0, -0.22))
    wood = v.color(WOOD)
    return Prop((Part(seat, wood, tinted=True), tinted(union(legs, ring), wood, 0.78)))


def chest(v: Variation) -> Prop:
    x, y, h = v.between(0.8, 0.92), v.between(0.5, 0.58), v.between(0.28, 0.34)
    base = box((x, y, h), center=(0, 0, -h), round=0.03)
    above = box((2, 2, 1), center=(0, 0, 1.05), round=0)
    lid = intersect(cylinder(y, x, axis="x", round=0.03), above)
    straps = union(
        mirrored(box((0.09, y + 0.03, h + 0.03), center=(x * 0.62, 0, -h), round=0.02)),
        intersect(mirrored(cylinder(y + 0.03, 0.09, center=(x * 0.62, 0, 0), axis="x")), above),
        box((x + 0.025, y + 0.025, 0.06), center=(0, 0, -0.05), round=0.02),
    )
    lock = box((0.15, 0.06, 0.17), center=(0, -y - 0.02, -0.08), round=0.03)
    keyhole = union(
        cylinder(0.05, 0.02, center=(0, -y - 0.08, -0.03), axis="y", round=0.01),
        box((0.028, 0.02, 0.08), center=(0, -y - 0.08, -0.11), round=0.01),
    )
    wood = v.color(DARK_WOOD)
    return Prop(
        (
            Part(base, wood, tinted=True),
            tinted(lid, wood, 1.12),
            Part(union(straps, lock), v.color(BRASS)),
            Part(keyhole, BLACK),
        )
    )


def barrel(v: Variation) -> Prop:
    end, belly, h = v.between(0.5, 0.56), v.between(0.64, 0.72), v.between(0.78, 0.9)
    middle = (end + belly) / 2 + (belly - end) * 0.28
    outline = [(0, -h), (end, -h), (middle, -h / 2), (belly, 0), (middle, h / 2), (end, h), (0, h)]
    recess = mirrored(cylinder(end - 0.08, 0.1, center=(0, 0, h)), "z")
    staves = subtract(lathe(outline), recess)
    heads = cylinder(end - 0.07, h - 0.08)
    rings = mirrored(
        union(
            cylinder(middle + 0.045, 0.06, center=(0, 0, h * 0.45)),
            cylinder(end + 0.055, 0.06, center=(0, 0, h - 0.08)),
        ),
        "z",
    )
    hoops = subtract(rings, recess)
    wood = v.color((0.58, 0.36, 0.17))
    return Prop(
        (
            Part(staves, wood, tinted=True),
            tinted(heads, wood, 0.75),
            Part(hoops, v.color(IRON)),
        )
    )


def crate(v: Variation) -> Prop:
    s, frame = v.between(0.7, 0.78), v.between(0.13, 0.17)
    panels = box((s - 0.12, s - 0.12, s - 0.12))
    hole = s - 1.35 * frame
    edges = subtract(
        box((s, s, s)),
        box((2, hole, hole)),
        box((hole, 2, hole)),
        box((hole, hole, 2)),
    )
    reach = s * 1.414 - 0.2
    cross_y = mirrored(mirrored(rotate(box((reach, s - 0.04, frame * 0.7)), "y", -45)), "z")
    cross_x = mirrored(mirrored(rotate(box((s - 0.04, reach, frame * 0.7)), "x", 45), "y"), "z")
    wood = v.color((0.70, 0.50, 0.28))
    return Prop(
        (
            tinted(panels, wood, 0.62),
            Part(edges, wood, tinted=True),
            tinted(union(cross_y, cross_x), wood, 0.86),
        )
    )


KINDS = (
    Kind("chair", chair, ("kitchen chair",), ("wooden", "golden", "striped", "stone")),
    Kind("table", table, ("dining table",), ("wooden", "golden", "striped", "stone")),
    Kind("clock", clock, ("alarm clock",), ("golden", "striped")),
    Kind("candle", candle, ("wax candle",), ("golden", "striped")),
    Kind("vase", vase, ("flower vase",), ("wooden", "golden", "striped", "stone")),
    Kind("bell", bell, ("church bell",), ("wooden", "golden", "striped", "stone")),
    Kind("book", book, ("closed book",), ("golden", "striped")),
    Kind("stool", stool, ("bar stool",), ("wooden", "golden", "striped", "stone")),
    Kind("chest", chest, ("treasure chest",), ("wooden", "golden", "striped", "stone")),
    Kind("barrel", barrel, ("keg",), ("wooden", "golden", "striped", "stone")),
    Kind("crate", crate, ("shipping crate",), ("wooden", "golden", "striped", "stone")),
)
