"""Props of the kitchen table."""

from __future__ import annotations

from engine.toybox.prop import Kind, Part, Prop, Variation
from engine.toybox.sdf import box, capsule, cylinder, ellipsoid, frustum, lathe, smooth_union, sphere, subtract, torus, union

BROWN = (0.30, 0.17, 0.09)
CREAM = (0.93, 0.87, 0.72)


def mug(v: Variation) -> Prop:
    r, h = v.between(0.42, 0.52), v.between(0.48, 0.6)
    outer = cylinder(r, h, round=0.05)
    hollow = cylinder(r - 0.07, h, center=(0, 0, 0.12), round=0.04)
    handle = torus(v.between(0.24, 0.3), 0.065, center=(r + 0.04, 0, 0), axis="y")
    body = smooth_union(0.04, subtract(outer, hollow), subtract(handle, cylinder(r - 0.05, h)))
    coffee = cylinder(r - 0.06, 0.02, center=(0, 0, h * 0.6))
    return Prop((Part(body, v.color((0.85, 0.82, 0.78)), tinted=True), Part(coffee, v.color(BROWN))))


def bottle(v: Variation) -> Prop:
    r, neck = v.between(0.26, 0.34), v.between(0.09, 0.12)
    body = lathe([(0, -1.0), (r, -1.0), (r, 0.15), (neck, 0.45), (neck, 0.85), (0, 0.85)], round=0.03)
    label = cylinder(r + 0.045, 0.22, center=(0, 0, -0.4), round=0.01)
    cap = cylinder(neck + 0.05, 0.09, center=(0, 0, 0.93))
    return Prop(
        (
            Part(body, v.color((0.20, 0.45, 0.25)), tinted=True),
            Part(label, v.color(CREAM)),
            Part(cap, v.color((0.75, 0.62, 0.25))),
        )
    )


def teapot(v: Variation) -> Prop:
    r, flat = v.between(0.56, 0.64), v.between(0.74, 0.86)
    pot = ellipsoid((r, r, r * flat))
    spout = smooth_union(
        0.08, capsule((r * 0.7, 0, -0.12), (r + 0.22, 0, 0.12), 0.1), capsule((r + 0.22, 0, 0.12), (r + 0.36, 0, 0.38), 0.07)
    )
    handle = torus(0.28, 0.06, center=(-r - 0.04, 0, 0.04), axis="y")
    foot = cylinder(r * 0.55, 0.06, center=(0, 0, -r * flat))
    body = smooth_union(0.06, pot, spout, handle, foot)
    lid = union(ellipsoid((0.3, 0.3, 0.09), center=(0, 0, r * flat * 0.93)), sphere(0.085, center=(0, 0, r * flat + 0.14)))
    return Prop((Part(body, v.color((0.62, 0.70, 0.78)), tinted=True), Part(lid, v.color((0.62, 0.70, 0.78)), tinted=True, shade=0.72)))


def hamburger(v: Variation) -> Prop:
    r = v.between(0.74, 0.84)
    bun = v.color((0.80, 0.52, 0.22))
    top = subtract(ellipsoid((r, r, v.between(0.5, 0.6)), center=(0, 0, 0.16)), box((2, 2, 1), center=(0, 0, -0.84)))
    bottom = cylinder(r * 0.97, 0.15, center=(0, 0, -0.43), round=0.1)
    patty = cylinder(r * 1.02, 0.1, center=(0, 0, -0.18), round=0.07)
    cheese = box((r * 0.78, r * 0.78, 0.03), center=(0, 0, -0.06), round=0.01)
    lettuce = cylinder(r * 1.08, 0.045, center=(0, 0, 0.04), round=0.03)
    tomato = cylinder(r * 1.0, 0.05, center=(0, 0, 0.11), round=0.03)
    return Prop(
        (
            Part(top, bun, tinted=True),
            Part(bottom, bun, tinted=True, shade=0.95),
            Part(patty, v.color((0.30, 0.14, 0.07))),
            Part(cheese, v.color((0.98, 0.76, 0.18))),
            Part(lettuce, v.color((0.36, 0.66, 0.20))),
            Part(tomato, v.color((0.80, 0.16, 0.10))),
        )
    )


def bowl(v: Variation) -> Prop:
    r = v.between(0.8, 0.9)
    solid = subtract(sphere(r), box((2, 2, 1), center=(0, 0, 1.05)))
    hollow = sphere(r - 0.1)
    foot = cylinder(r * 0.45, 0.08, center=(0, 0, -r + 0.06))
    return Prop((Part(smooth_union(0.04, subtract(solid, hollow), foot), v.color((0.55, 0.62, 0.75)), tinted=True),))


def lamp(v: Variation) -> Prop:
    base = cylinder(v.between(0.34, 0.42), 0.06, center=(0, 0, -0.94))
    stem = cylinder(0.06, 0.6, center=(0, 0, -0.35))
    shade_r = v.between(0.56, 0.66)
    hood = subtract(
        frustum(shade_r, v.between(0.3, 0.38), 0.36, center=(0, 0, 0.5)), frustum(shade_r - 0.05, 0.28, 0.38, center=(0, 0, 0.46))
    )
    bulb = sphere(0.16, center=(0, 0, 0.4))
    return Prop(
        (
            Part(hood, v.color((0.93, 0.85, 0.62)), tinted=True),
            Part(union(base, stem), v.color((0.35, 0.26, 0.20))),
            Part(bulb, (1.0, 0.97, 0.80)),
        )
    )


KINDS = (
    Kind("mug", mug, ("coffee mug", "cup"), ("wooden", "golden", "striped", "stone")),
    Kind("bottle", bottle, ("glass bottle",), ("golden", "striped")),
    Kind("teapot", teapot, ("tea pot", "kettle"), ("golden", "striped", "stone")),
    Kind("hamburger", hamburger, ("burger",)),
    Kind("bowl", bowl, (), ("wooden", "golden", "striped", "stone")),
    Kind("lamp", lamp, ("table lamp",), ("striped", "golden")),
)
