"""Signed distances against closed forms, and the property that sphere tracing rests on."""

from __future__ import annotations

import math

import pytest
import torch

from engine.toybox import sdf
from engine.toybox.prop import OBJECT_RADIUS, Variation, place
from engine.toybox.props import KINDS


def points(n: int = 400, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) * 2.4 - 1.2


def test_a_sphere_is_its_closed_form() -> None:
    p = points()
    torch.testing.assert_close(sdf.sphere(0.5, (0.1, 0.2, 0.3))(p), (p - torch.tensor([0.1, 0.2, 0.3])).norm(dim=-1) - 0.5)


def test_a_box_is_exact_in_front_of_a_face_an_edge_and_a_corner() -> None:
    p = torch.tensor([[1.0, 0, 0], [1.0, 1.0, 0], [1.0, 1.0, 1.0], [0.1, 0.0, 0.0]])
    expected = torch.tensor([0.5, 0.5 * 2**0.5, 0.5 * 3**0.5, -0.4])
    torch.testing.assert_close(sdf.box((0.5, 0.5, 0.5), round=0.0)(p), expected)


def test_rounding_a_box_keeps_its_extents() -> None:
    on_faces = torch.tensor([[0.5, 0, 0], [0, -0.4, 0], [0, 0, 0.3]])
    torch.testing.assert_close(sdf.box((0.5, 0.4, 0.3), round=0.1)(on_faces), torch.zeros(3), atol=1e-6, rtol=0)


def test_a_lathe_of_a_rectangle_is_a_cylinder() -> None:
    p = points()
    turned = sdf.lathe([(0, -0.5), (0.4, -0.5), (0.4, 0.5), (0, 0.5)], round=0.0)(p)
    torch.testing.assert_close(turned, sdf.cylinder(0.4, 0.5, round=0.0)(p), atol=1e-5, rtol=0)


def test_a_prism_of_a_square_is_a_box() -> None:
    p = points()
    square = [(-0.4, -0.4), (0.4, -0.4), (0.4, 0.4), (-0.4, 0.4)]
    torch.testing.assert_close(sdf.prism(square, 0.3, axis="y", round=0.0)(p), sdf.box((0.4, 0.3, 0.4), round=0.0)(p), atol=1e-5, rtol=0)


def test_turning_goes_counter_clockwise_against_the_axis() -> None:
    ball = sdf.rotate(sdf.sphere(0.1, (1, 0, 0)), "z", 90)
    torch.testing.assert_close(ball(torch.tensor([[0.0, 1.0, 0.0]])), torch.tensor([-0.1]), atol=1e-6, rtol=0)


def test_four_corners_are_four_copies() -> None:
    legs = sdf.corners(0.5, 0.3, sdf.sphere(0.1))
    at = torch.tensor([[x, y, 0.0] for x in (-0.5, 0.5) for y in (-0.3, 0.3)])
    torch.testing.assert_close(legs(at), torch.full((4,), -0.1))


def test_copies_round_the_axis_stand_where_they_should() -> None:
    ring = sdf.around_z(sdf.sphere(0.1, (0.8, 0, 0)), 5)
    for turn in range(5):
        x, y = (0.8 * f(2 * math.pi * turn / 5) for f in (math.cos, math.sin))
        torch.testing.assert_close(ring(torch.tensor([[x, y, 0.0]])), torch.tensor([-0.1]), atol=1e-5, rtol=0)


def test_a_smooth_union_only_adds_matter() -> None:
    p = points()
    a, b = sdf.sphere(0.4, (-0.3, 0, 0)), sdf.sphere(0.4, (0.3, 0, 0))
    assert bool((sdf.smooth_union(0.1, a, b)(p) <= sdf.union(a, b)(p) + 1e-6).all())


@pytest.mark.parametrize("noun", list(KINDS))
def test_every_prop_fits_the_ball_has_a_tinted_part_and_honest_distances(noun: str) -> None:
    placed = place(KINDS[noun].build(Variation(3)), cells=24)
    assert any(part.tinted for part in placed.prop.parts)
    p = points(400)
    outside = p[placed.distance(p) > 0.02]
    step = 1e-3 * torch.nn.functional.normalize(points(len(outside), seed=1), dim=-1)
    slope = (placed.distance(outside + step) - placed.distance(outside)).abs() / 1e-3
    assert float(slope.quantile(0.99)) < 1.15, "distances grow faster than space: tracing would step through thin parts"
    beyond = torch.nn.functional.normalize(points(300, seed=2), dim=-1) * (OBJECT_RADIUS + 0.12)
    assert bool((placed.distance(beyond) > 0).all())
