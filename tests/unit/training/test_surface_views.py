"""What a ControlNet reads of a mesh, against what is known of a ball and of a wall."""

from __future__ import annotations

import pytest
import torch
import trimesh

from engine.scene.cameras import Cameras, orbit_cameras
from engine.training.surface_render import Surface
from engine.training.surface_views import FARTHEST, depth_pictures, normal_pictures

torch.set_num_threads(1)
SIZE, RADIUS, DISTANCE = 65, 0.6, 3.0


def ball() -> Surface:
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
    return Surface(torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces))


def wall() -> Surface:
    """Through the origin, facing -Y, as wide as it is high."""
    vertices = torch.tensor([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])
    return Surface(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]))


def cameras_at(*azimuths: float, elevation: float = 0.0, distance: float = DISTANCE) -> Cameras:
    n = len(azimuths)
    return orbit_cameras(torch.tensor(azimuths), torch.full((n,), elevation), torch.full((n,), distance), torch.full((n,), 30.0))


def test_depth_of_a_ball_is_one_over_the_distance_from_white_to_what_is_farthest() -> None:
    (picture,) = depth_pictures(ball(), cameras_at(40.0, elevation=20.0), SIZE)
    assert picture.shape == (SIZE, SIZE, 3) and picture[0, 0, 0] == 0 and picture.amax() == pytest.approx(1.0)
    seen = picture[..., 0] > 0
    assert picture[..., 0][seen].min() == pytest.approx(FARTHEST) and picture[SIZE // 2, SIZE // 2, 0] == pytest.approx(1.0, abs=1e-3)
    # Where the ray of a pixel meets the ball, and where one only touches it.
    column = SIZE // 2 + 6
    tangent = (2 * (column + 0.5) / SIZE - 1) * torch.tan(torch.deg2rad(torch.tensor(15.0)))
    a, b, c = 1 + tangent**2, -2 * DISTANCE, DISTANCE**2 - RADIUS**2
    depth = (-b - (b**2 - 4 * a * c).sqrt()) / (2 * a)
    nearest, farthest = 1 / (DISTANCE - RADIUS), DISTANCE / (DISTANCE**2 - RADIUS**2)
    expected = 1 - (1 - FARTHEST) * (nearest - 1 / depth) / (nearest - farthest)
    assert picture[SIZE // 2, column, 0] == pytest.approx(float(expected), abs=0.02)


def test_every_view_has_a_scale_of_its_own_and_a_wall_is_white() -> None:
    near, far = depth_pictures(ball(), cameras_at(0.0), SIZE)[0], depth_pictures(ball(), cameras_at(0.0, distance=9.0), SIZE)[0]
    assert near.amax() == far.amax() == 1 and near[near > 0].min() == pytest.approx(float(far[far > 0].min()))
    assert set(depth_pictures(wall(), cameras_at(0.0), SIZE).unique().tolist()) == {0.0, 1.0}
    away = Surface(ball().vertices + torch.tensor([0.0, -9.0, 0.0]), ball().faces)  # behind the camera
    assert depth_pictures(away, cameras_at(0.0), SIZE).amax() == 0


@pytest.mark.parametrize("azimuth", [0.0, 130.0])
def test_normals_of_a_ball_are_red_to_the_right_green_up_blue_to_the_camera(azimuth: float) -> None:
    close = orbit_cameras(*(torch.tensor([v]) for v in (azimuth, 35.0, 100.0, 0.9)))
    (picture,) = normal_pictures(ball(), close, SIZE)
    assert picture[0, 0].tolist() == pytest.approx([0.5, 0.5, 1.0])
    half = 100.0 * float(torch.tan(torch.deg2rad(torch.tensor(0.45))))
    for column, row in ((32, 32), (48, 32), (32, 16), (16, 40)):
        x, y = (2 * (column + 0.5) / SIZE - 1) * half / RADIUS, (1 - 2 * (row + 0.5) / SIZE) * half / RADIUS
        expected = torch.tensor([x, y, (1 - x**2 - y**2) ** 0.5])
        torch.testing.assert_close(picture[row, column], 0.5 + 0.5 * expected, atol=0.02, rtol=0)


def test_the_back_of_a_wall_faces_the_camera_too() -> None:
    for azimuth in (0.0, 180.0):
        (picture,) = normal_pictures(wall(), cameras_at(azimuth), SIZE)
        torch.testing.assert_close(picture, torch.tensor([0.5, 0.5, 1.0]).expand(SIZE, SIZE, 3), atol=1e-5, rtol=0)
