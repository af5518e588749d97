"""Traced buffers against geometry that is known, dressing, prompts, and what a shard stores."""

from __future__ import annotations

import random

import torch

from engine.scene.cameras import orbit_cameras
from engine.toybox.appearance import COLORS, PATTERNS, Looks, degrade, draw_background, dress, paint
from engine.toybox.data import draw_angles, pack, unpack
from engine.toybox.prompts import article, draw_subject, full_prompt, vocabulary
from engine.toybox.prop import Part, PlacedProp, Prop, Variation, place
from engine.toybox.props import KINDS
from engine.toybox.sdf import sphere
from engine.toybox.tracer import Buffers, render_buffers

RADIUS = 0.6


def camera(azimuth: float = 0.0, elevation: float = 0.0, radius: float = 3.0):
    return orbit_cameras(*(torch.tensor([value]) for value in (azimuth, elevation, radius, 40.0)))


def ball() -> Buffers:
    placed = PlacedProp(Prop((Part(sphere(RADIUS), (0.2, 0.4, 0.6), tinted=True),)), torch.zeros(3), 1.0)
    return render_buffers(placed, camera(30.0, 20.0), 48, 48)


def looks(tint: tuple[float, float, float], *, shading: int = 1, pattern: str = "plain") -> Looks:
    return Looks(
        tint=torch.tensor([tint]),
        pattern=torch.tensor([PATTERNS.index(pattern)]),
        shading=torch.tensor([shading]),
        light_direction=torch.tensor([[0.0, 0.0, 1.0]]),
        ambient_ratio=torch.tensor([0.3]),
        background=torch.zeros(1, 2, 3),
    )


def test_a_traced_ball_has_its_exact_outline_depth_and_normals() -> None:
    buffers = ball()
    tangent = RADIUS / (3.0**2 - RADIUS**2) ** 0.5
    expected_area = torch.pi * (tangent / torch.tan(torch.tensor(20.0).deg2rad()) * 24) ** 2  # px
    # A ray counts as a hit 0.002 before the surface (0.7 % of this area), and 2 x 2 samples count the rest in quarters.
    assert abs(float(buffers.opacity.sum()) / float(expected_area) - 1) < 0.02
    inside = buffers.opacity[0] > 0.99
    torch.testing.assert_close(buffers.normals[0][inside], buffers.positions[0][inside] / RADIUS, atol=0.03, rtol=0)
    assert abs(float(buffers.depth[0, 24, 24]) - (3.0 - RADIUS)) < 0.01


def test_the_handle_of_the_mug_is_on_its_left_side() -> None:
    placed = place(KINDS["mug"].build(Variation(None)), cells=28)
    front, back = (render_buffers(placed, camera(azimuth), 48, 48, supersample=1).opacity[0] for azimuth in (0, 180))
    columns = torch.arange(48.0)

    def middle(opacity: torch.Tensor) -> float:
        return float((opacity.sum(dim=0) * columns).sum() / opacity.sum())

    # Camera at -Y: the object's left (+X) is on the right, and the full body, which weighs more, is on the other side.
    assert middle(front) < 22 and middle(back) > 25


def buffers_of(b: Buffers) -> dict[str, torch.Tensor]:
    return unpack(pack(b))


def test_storing_in_eight_bits_costs_at_most_a_level() -> None:
    buffers = ball()
    stored = buffers_of(buffers)
    inside = buffers.opacity > 0.99
    for name in ("opacity", "color", "tint", "positions"):
        difference = (stored[name] - getattr(buffers, name))[inside].abs().max()
        assert float(difference) <= 0.6 / 127, name


def test_the_prompts_colour_stands_on_the_tinted_part_and_light_darkens_it() -> None:
    stored = buffers_of(ball())
    inside = stored["opacity"][0] > 0.99
    flat = paint(stored, looks(COLORS["red"]))[0][inside]
    torch.testing.assert_close(flat, torch.tensor(COLORS["red"]).expand_as(flat), atol=0.02, rtol=0)
    lit = paint(stored, looks(COLORS["red"], shading=0))[0][inside]
    normals = stored["normals"][0][inside]
    expected = flat * (0.3 + 0.7 * normals[:, 2:].clamp_min(0))
    torch.testing.assert_close(lit, expected, atol=0.02, rtol=0)


def test_without_a_colour_the_natural_one_stays_and_stripes_bring_white() -> None:
    stored = buffers_of(ball())
    inside = stored["opacity"][0] > 0.99
    nothing = (float("nan"),) * 3
    natural = dress(stored, looks(nothing))[0][inside]
    torch.testing.assert_close(natural, torch.tensor((0.2, 0.4, 0.6)).expand_as(natural), atol=0.01, rtol=0)
    striped = dress(stored, looks(COLORS["blue"], pattern="striped"))[0][inside]
    white = (striped > 0.85).all(dim=-1).float().mean()
    assert 0.25 < float(white) < 0.75


def test_degraded_pictures_stay_pictures_and_follow_the_seed() -> None:
    images = torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    once, again = (degrade(images, torch.Generator().manual_seed(5)) for _ in range(2))
    torch.testing.assert_close(once, again)
    assert 0 <= float(once.min()) and float(once.max()) <= 1 and not torch.equal(once, images)
    backgrounds = draw_background(50, torch.Generator().manual_seed(1))
    assert backgrounds.shape == (50, 2, 3) and float(backgrounds.std()) > 0.2


def test_views_cover_the_sphere_and_some_stand_exactly_where_views_are_named() -> None:
    azimuth, elevation = draw_angles(4000, torch.Generator().manual_seed(0))
    assert float(elevation.min()) >= -90 and float(elevation.max()) <= 90
    exact = ((azimuth == 90) & (elevation == 0)).float().mean()
    assert 0.015 < float(exact) < 0.035  # 15 % shared by six views
    assert all(int(((azimuth > low) & (azimuth < low + 90)).sum()) > 500 for low in (-180, -90, 0, 90))


def test_prompts_name_what_the_picture_shows() -> None:
    rng = random.Random(0)
    for _ in range(300):
        kind = rng.choice(list(KINDS.values()))
        subject = draw_subject(kind, rng)
        assert any(word in subject.prompt for word in (kind.noun, *kind.synonyms))
        assert (subject.color is None) == (not any(f" {color} " in f" {subject.prompt.replace(',', ' ')} " for color in COLORS))
        assert (subject.pattern == "striped") == ("strip" in subject.prompt)


def test_grammar() -> None:
    assert article("a apple") == "an apple" and article("a red apple") == "a red apple"
    assert full_prompt("a red mug", "unlit", "left side") == "a red mug, unlit, left side view"
    assert full_prompt("a mug", "", None) == "a mug"


def test_no_word_means_two_props() -> None:
    words = [word for noun, synonyms in vocabulary(KINDS)["nouns"].items() for word in (noun, *synonyms)]
    assert len(words) == len(set(words)) and len(KINDS) >= 40
