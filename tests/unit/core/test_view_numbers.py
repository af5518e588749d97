"""Blender's camera numbers: window, placement, viewport projection. What Blender itself says is compared in tests/blender."""

import math

import numpy as np
import pytest

from blender_dreamfusion.core.view_numbers import (
    MAX_SIDE_PX,
    Lens,
    Placement,
    View,
    as_matrix,
    as_numbers,
    fitted_size,
    rigid,
    window_of_projection,
)


@pytest.mark.parametrize(
    ("lens", "window"),
    [
        (Lens(lens_mm=18), (-1, 1, -0.5625, 0.5625)),
        (Lens(lens_mm=18, width_px=1080, height_px=1920), (-0.5625, 0.5625, -1, 1)),
        (Lens(lens_mm=18, width_px=1080, height_px=1920, sensor_fit="HORIZONTAL"), (-1, 1, -16 / 9, 16 / 9)),
        (Lens(lens_mm=12, sensor_fit="VERTICAL"), (-16 / 9, 16 / 9, -1, 1)),
        (Lens(lens_mm=18, width_px=100, height_px=100, pixel_aspect_y=2), (-0.5, 0.5, -1, 1)),
        (Lens(lens_mm=18, shift_x=0.25, shift_y=-0.5), (-0.5, 1.5, -1.5625, -0.4375)),
        (Lens(lens_mm=18, width_px=1080, height_px=1920, shift_x=0.25), (-0.0625, 1.0625, -1, 1)),
        (Lens(orthographic=True, ortho_scale=8, width_px=200, height_px=100), (-4, 4, -2, 2)),
        (Lens(orthographic=True, ortho_scale=8, width_px=200, height_px=100, shift_y=0.5), (-4, 4, 2, 6)),
    ],
)
def test_window_of_a_lens(lens, window):
    assert lens.window() == pytest.approx(window)


def view(position=(0.0, -3.0, 0.5), **values):
    matrix = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    matrix[:3, 3] = position
    given = {"window": (-0.4, 0.4, -0.3, 0.3), "orthographic": False, "clip_start": 0.1, "clip_end": 100.0, "size": (1920.0, 1080.0)}
    return View(camera_to_world=as_numbers(matrix), **given | values)


def test_the_camera_is_told_in_heights_from_the_object_s_foot():
    asked = Placement.standing_at((10, 20, 30), 2.0).set_view(view((10, 14, 31)), job="a", every_s=2.0, number=5)
    matrix = as_matrix(asked.camera_to_world)
    assert matrix[:3, 3] == pytest.approx([0, -3, 0.5])
    assert np.allclose(matrix[:3, :3], [[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert asked.window == pytest.approx((-0.4, 0.4, -0.3, 0.3))
    assert (asked.frame, asked.job, asked.every_s, asked.number) == ("object", "a", 2.0, 5)
    assert asked.clip_start == pytest.approx(0.05) and asked.clip_end == pytest.approx(50)
    assert (asked.width_px, asked.height_px) == (768, 432)


def test_an_orthographic_window_is_told_in_heights():
    asked = Placement.standing_at((0, 0, 0), 0.5).set_view(view(orthographic=True, clip_start=-10.0), job="a")
    assert asked.orthographic and asked.window == pytest.approx((-0.8, 0.8, -0.6, 0.6)) and asked.clip_start == pytest.approx(-20)


def test_a_turned_placement_turns_the_camera_the_other_way():
    turn = math.radians(90)
    matrix = np.eye(4)
    matrix[:2, :2] = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    matrix[:3, :3] *= 2
    placement = Placement(as_numbers(matrix))
    assert placement.height == pytest.approx(2)
    seen = as_matrix(placement.set_view(view((0, -3, 0)), job="a").camera_to_world)
    assert seen[:3, 3] == pytest.approx([-1.5, 0, 0], abs=1e-12)
    assert np.allclose(seen[:3, :3] @ seen[:3, :3].T, np.eye(3))


def test_an_object_without_height_is_refused():
    with pytest.raises(ValueError, match="height above zero"):
        Placement.standing_at((0, 0, 0), 0.0).set_view(view(), job="a")


def perspective(left, right, bottom, top, near, far):
    return [
        [2 / (right - left), 0, (right + left) / (right - left), 0],
        [0, 2 / (top - bottom), (top + bottom) / (top - bottom), 0],
        [0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)],
        [0, 0, -1, 0],
    ]


def orthographic(left, right, bottom, top, near, far):
    return [
        [2 / (right - left), 0, 0, -(right + left) / (right - left)],
        [0, 2 / (top - bottom), 0, -(top + bottom) / (top - bottom)],
        [0, 0, -2 / (far - near), -(far + near) / (far - near)],
        [0, 0, 0, 1],
    ]


@pytest.mark.parametrize(("make", "near"), [(perspective, 0.1), (orthographic, -50.0)])
def test_a_projection_gives_its_window_back(make, near):
    numbers = np.array(make(-0.3, 0.5, -0.2, 0.7, near, 90.0)).reshape(-1).tolist()
    window, clip_start, clip_end = window_of_projection(numbers, make is orthographic)
    assert window == pytest.approx((-0.3, 0.5, -0.2, 0.7)) and (clip_start, clip_end) == pytest.approx((near, 90.0))


def test_views_that_give_the_same_picture_resemble_each_other_and_others_do_not():
    assert view().resembles(view((0, -3 + 1e-6, 0.5))) and view().resembles(view(size=(960.0, 540.0)))
    for other in (view((0.01, -3, 0.5)), view(window=(-0.41, 0.4, -0.3, 0.3)), view(orthographic=True), view(size=(1080.0, 1080.0))):
        assert not view().resembles(other)


def test_pixels_and_axes():
    assert fitted_size((100.0, 50.0)) == (100, 50) and fitted_size((3000.0, 6000.0)) == (MAX_SIDE_PX // 2, MAX_SIDE_PX)
    assert fitted_size((0.0, 0.0)) == (1, 1)
    scaled = np.diag([2.0, 3.0, 4.0, 1.0])
    assert np.allclose(rigid(scaled), np.eye(4)) and scaled[0, 0] == 2.0
    assert np.isfinite(rigid(np.zeros((4, 4)))).all()
