"""Vehicles, and what stands beside the road. Fronts look to -Y."""

from __future__ import annotations

from engine.toybox.prop import Kind, Part, Prop, Variation, tinted
from engine.toybox.sdf import (
    around_z,
    box,
    capsule,
    corners,
    cylinder,
    intersect,
    lathe,
    mirrored,
    prism,
    smooth_union,
    sphere,
    subtract,
    union,
)

RUBBER = (0.11, 0.11, 0.12)
SILVER = (0.74, 0.76, 0.78)
GLASS = (0.36, 0.58, 0.72)
LAMP = (1.0, 0.93, 0.62)
TAIL = (0.80, 0.10, 0.08)
WHITE = (0.95, 0.94, 0.91)
WOOD = (0.58, 0.38, 0.20)


def car(v: Variation) -> Prop:
    w, length, roof = v.between(0.48, 0.55), v.between(0.96, 1.08), v.between(0.48, 0.58)
    lower = box((w, length, 0.21), center=(0, 0, -0.07), round=0.11)
    cabin = prism([(-0.42, 0.08), (-0.2, roof), (0.48, roof), (0.7, 0.08)], w - 0.04, axis="x", round=0.06)
    side_glass = prism([(-0.27, 0.18), (-0.15, roof - 0.06), (0.42, roof - 0.06), (0.52, 0.18)], w - 0.025, axis="x", round=0.01)
    slit = box((w - 0.13, 2, (roof - 0.2) / 2), center=(0, 0, (roof + 0.12) / 2), round=0.03)
    end_glass = intersect(prism([(-0.44, 0.08), (-0.22, roof), (0.5, roof), (0.72, 0.08)], w - 0.1, axis="x", round=0.06), slit)
    pillar = box((2, 0.045, 0.5), center=(0, 0.14, 0.3))
    glass = union(subtract(side_glass, pillar), end_glass)
    wheels = corners(w - 0.04, length * 0.6, cylinder(0.25, 0.13, center=(0, 0, -0.24), axis="x", round=0.05))
    hubs = corners(w - 0.04, length * 0.6, cylinder(0.13, 0.145, center=(0, 0, -0.24), axis="x", round=0.01))
    bumpers = mirrored(box((w - 0.02, 0.06, 0.065), center=(0, length - 0.01, -0.2), round=0.04), "y")
    lamps = mirrored(cylinder(0.1, 0.04, center=(w - 0.16, -length, 0.0), axis="y"))
    tails = mirrored(box((0.1, 0.05, 0.07), center=(w - 0.16, length, 0.0)))
    paint = v.color((0.78, 0.18, 0.16))
    return Prop(
        (
            Part(union(lower, cabin), paint, tinted=True),
            Part(glass, v.color(GLASS)),
            Part(wheels, v.color(RUBBER)),
            Part(union(hubs, bumpers), v.color(SILVER)),
            Part(lamps, LAMP),
            Part(tails, TAIL),
        )
    )


def truck(v: Variation) -> Prop:
    w, bed, roof = v.between(0.5, 0.56), v.between(0.95, 1.12), v.between(0.56, 0.66)
    bonnet = box((w, 0.42, 0.23), center=(0, -0.78, -0.03), round=0.07)
    cabin = prism([(-0.5, -0.2), (-0.5, 0.18), (-0.34, roof), (0.18, roof), (0.18, -0.2)], w, axis="x", round=0.05)
    tray = subtract(
        box((w, (bed - 0.1) / 2, 0.25), center=(0, (bed + 0.3) / 2, -0.01), round=0.04),
        box((w - 0.1, (bed - 0.1) / 2 - 0.1, 0.3), center=(0, (bed + 0.3) / 2, 0.19)),
    )
    side_glass = prism([(-0.38, 0.22), (-0.28, roof - 0.08), (0.1, roof - 0.08), (0.1, 0.22)], w + 0.015, axis="x", round=0.01)
    slit = box((w - 0.1, 2, (roof - 0.26) / 2), center=(0, 0, (roof + 0.16) / 2), round=0.03)
    screen = prism([(-0.52, 0.1), (-0.52, 0.18), (-0.36, roof), (0.2, roof), (0.2, 0.1)], w - 0.08, axis="x", round=0.05)
    end_glass = intersect(screen, slit)
    back = bed + 0.1
    front_wheels = mirrored(cylinder(0.29, 0.14, center=(w - 0.03, -0.78, -0.32), axis="x", round=0.05))
    back_wheels = mirrored(cylinder(0.29, 0.14, center=(w - 0.03, back * 0.62, -0.32), axis="x", round=0.05))
    hubs = mirrored(
        union(
            cylinder(0.14, 0.155, center=(w - 0.03, -0.78, -0.32), axis="x", round=0.01),
            cylinder(0.14, 0.155, center=(w - 0.03, back * 0.62, -0.32), axis="x", round=0.01),
        )
    )
    bumpers = union(
        box((w + 0.02, 0.06, 0.08), center=(0, -1.2, -0.22), round=0.03),
        box((w + 0.02, 0.06, 0.08), center=(0, back + 0.04, -0.2), round=0.03),
        box((0.22, 0.03, 0.09), center=(0, -1.2, 0.04), round=0.02),
    )
    lamps = mirrored(box((0.09, 0.03, 0.09), center=(w - 0.14, -1.2, 0.04)))
    tails = mirrored(box((0.07, 0.03, 0.1), center=(w - 0.12, back + 0.01, 0.06)))
    paint = v.color((0.20, 0.42, 0.66))
    return Prop(
        (
            Part(union(bonnet, cabin), paint, tinted=True),
            tinted(tray, paint, 0.85),
            Part(union(side_glass, end_glass), v.color((0.55, 0.72, 0.80))),
            Part(union(front_wheels, back_wheels), v.color(RUBBER)),
            Part(union(hubs, bumpers), v.color(SILVER)),
            Part(lamps, LAMP),
            Part(tails, TAIL),
        )
    )


def _plan(w: float, stern: float, bow: float) -> list[tuple[float, float]]:
    """Deck outline (x, y) of a boat whose bow points to -Y."""
    right = [(w * 0.84, stern), (w, -bow * 0.1), (w * 0.6, -bow * 0.68)]
    return [*right, (0, -bow), *((-x, y) for x, y in reversed(right))]


def boat(v: Variation) -> Prop:
    w, stern, bow = v.between(0.5, 0.58), v.between(0.8, 0.92), v.between(1.0, 1.15)
    section = prism([(-w - 0.1, 0.1), (-w * 0.5, -0.5), (w * 0.5, -0.5), (w + 0.1, 0.1)], 2, axis="y")
    rake = prism([(stern + 0.1, 0.1), (stern - 0.15, -0.5), (-bow + 0.4, -0.5), (-bow - 0.1, 0.1)], 2, axis="x")
    hull = intersect(prism(_plan(w, stern, bow), 0.27, center=(0, 0, -0.25), axis="z"), section, rake)
    well = prism(_plan(w - 0.14, stern - 0.14, bow - 0.22), 0.1, center=(0, 0, 0.1), axis="z")
    gunwale = subtract(prism(_plan(w + 0.03, stern + 0.03, bow + 0.05), 0.065, center=(0, 0, 0.065), axis="z"), well)
    deck = prism(_plan(w - 0.1, stern - 0.1, bow - 0.18), 0.05, center=(0, 0, 0.01), axis="z")
    cabin = box((0.31, 0.36, 0.26), center=(0, 0.15, 0.3), round=0.04)
    roof = box((0.37, 0.43, 0.05), center=(0, 0.15, 0.58), round=0.03)
    panes = union(
        mirrored(box((0.1, 0.38, 0.1), center=(0.145, 0.15, 0.38))),
        cylinder(0.105, 0.33, center=(0, 0.0, 0.36), axis="x"),
        cylinder(0.105, 0.33, center=(0, 0.3, 0.36), axis="x"),
    )
    funnel = cylinder(0.15, 0.22, center=(0, 0.25, 0.8), round=0.03)
    ring = cylinder(0.165, 0.06, center=(0, 0.25, 0.86), round=0.02)
    paint = v.color((0.72, 0.18, 0.15))
    return Prop(
        (
            Part(hull, paint, tinted=True),
            Part(gunwale, v.color(WHITE)),
            Part(deck, v.color(WOOD)),
            Part(cabin, v.color(WHITE)),
            tinted(union(roof, funnel), paint, 0.9),
            Part(panes, v.color((0.25, 0.45, 0.60))),
            Part(ring, v.color((0.15, 0.16, 0.18))),
        )
    )


def rocket(v: Variation) -> Prop:
    r, shoulder, fin = v.between(0.36, 0.43), v.between(0.3, 0.4), v.between(0.34, 0.42)
    body = lathe([(0, -0.7), (r * 0.72, -0.7), (r * 0.96, -0.3), (r, 0.0), (r * 0.84, shoulder), (0, shoulder)], round=0.03)
    s = shoulder
    nose = lathe([(0, s), (r * 0.85, s), (r * 0.6, s + 0.3), (r * 0.25, s + 0.56), (0, s + 0.64)], round=0.035)
    fins = around_z(prism([(0.2, -0.3), (r, -0.15), (r + fin, -0.65), (r + fin, -1.0), (0.2, -0.66)], 0.075, axis="y", round=0.03), 4, 45)
    nozzle = lathe([(0, -0.68), (0.17, -0.68), (0.27, -0.92), (0.2, -0.92), (0, -0.78)], round=0.03)
    rim = mirrored(cylinder(0.2, 0.06, center=(0, r - 0.0, 0.06), axis="y", round=0.03), "y")
    pane = mirrored(cylinder(0.135, 0.06, center=(0, r + 0.02, 0.06), axis="y", round=0.03), "y")
    paint, accent = v.color((0.88, 0.88, 0.86)), v.color((0.80, 0.20, 0.15))
    return Prop(
        (
            Part(body, paint, tinted=True),
            Part(nose, accent),
            Part(fins, accent, tinted=True, shade=0.75),
            Part(nozzle, v.color((0.30, 0.31, 0.33))),
            Part(rim, v.color(SILVER)),
            Part(pane, v.color((0.30, 0.55, 0.80))),
        )
    )


def house(v: Variation) -> Prop:
    w, d, h, ridge = v.between(0.62, 0.72), v.between(0.6, 0.72), v.between(0.2, 0.3), v.between(0.5, 0.6)
    walls = prism([(-w, -0.75), (w, -0.75), (w, h), (0, h + ridge), (-w, h)], d, axis="y", round=0.02)
    slope = ridge / w
    e, drop = w + 0.17, 0.17 * slope
    up = 0.15
    roof = prism(
        [(-e, h - drop), (0, h + ridge), (e, h - drop), (e, h - drop + up), (0, h + ridge + up), (-e, h - drop + up)],
        d + 0.12,
        axis="y",
        round=0.03,
    )
    chimney = box((0.12, 0.12, 0.32), center=(w * 0.55, 0.2, h + ridge * 0.6 + 0.12))
    door = box((0.18, 0.04, 0.33), center=(0, -d - 0.01, -0.44), round=0.02)
    step = box((0.26, 0.1, 0.05), center=(0, -d - 0.06, -0.74))
    knob = sphere(0.045, center=(0.1, -d - 0.06, -0.45))
    frames = union(
        mirrored(box((0.16, d + 0.025, 0.19), center=(w - 0.22, 0, -0.2), round=0.01)),
        mirrored(box((w + 0.045, 0.16, 0.19), center=(0, d * 0.5, -0.2), round=0.01), "y"),
        cylinder(0.15, d + 0.025, center=(0, 0, h + 0.12), axis="y", round=0.01),
    )
    panes = union(
        mirrored(box((0.11, d + 0.04, 0.14), center=(w - 0.22, 0, -0.2), round=0.01)),
        mirrored(box((w + 0.06, 0.11, 0.14), center=(0, d * 0.5, -0.2), round=0.01), "y"),
        cylinder(0.1, d + 0.04, center=(0, 0, h + 0.12), axis="y", round=0.01),
    )
    return Prop(
        (
            Part(walls, v.color((0.90, 0.82, 0.66)), tinted=True),
            Part(roof, v.color((0.62, 0.26, 0.19))),
            Part(union(chimney, step), v.color((0.56, 0.52, 0.50))),
            Part(door, v.color((0.40, 0.25, 0.14))),
            Part(knob, v.color((0.84, 0.66, 0.25))),
            Part(frames, v.color(WHITE)),
            Part(panes, v.color((0.42, 0.62, 0.74))),
        )
    )


def tree(v: Variation) -> Prop:
    r, top = v.between(0.42, 0.5), v.between(0.5, 0.62)
    crown = smooth_union(
        0.12,
        sphere(r + 0.06, center=(0, 0, 0.2)),
        mirrored(sphere(r * 0.92, center=(0.36, -0.12, 0.06))),
        sphere(r * 0.88, center=(0, -0.36, 0.2)),
        sphere(r * 0.88, center=(0, 0.36, 0.14)),
        sphere(r * 0.85, center=(0, 0.04, top)),
    )
    trunk = union(
        lathe([(0, -1.0), (0.26, -1.0), (0.17, -0.8), (0.15, 0.0), (0, 0.0)], round=0.03),
        mirrored(capsule((0.08, 0, -0.45), (0.34, -0.05, -0.12), 0.075)),
    )
    return Prop(
        (
            Part(crown, v.color((0.30, 0.58, 0.22)), tinted=True),
            Part(trunk, v.color((0.42, 0.27, 0.15))),
        )
    )


KINDS = (
    Kind("car", car, ("toy car", "automobile"), ("wooden", "golden", "striped")),
    Kind("boat", boat, ("tugboat", "ship"), ("wooden", "golden", "striped")),
    Kind("rocket", rocket, ("space rocket", "rocket ship"), ("wooden", "golden", "striped")),
    Kind("house", house, ("cottage",), ("wooden", "golden", "striped", "stone")),
    Kind("tree", tree, ("leafy tree",), ("golden", "striped", "stone")),
    Kind("truck", truck, ("pickup truck",), ("wooden", "golden", "striped")),
)
