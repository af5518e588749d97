import numpy as np
import torch

from engine.meshing.raster import covered_pixels, iou, project, rasterize, silhouettes, triangle_fragments
from engine.scene.cameras import Cameras, camera_rays, orbit_cameras

SQUARE = np.array([[[0, 0], [8, 0], [8, 6]], [[0, 0], [8, 6], [0, 6]]], float)


def inside(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """Brute force: every pixel centre against the three edges, [H, W]."""
    y, x = np.mgrid[:height, :width] + 0.5
    sides = []
    for i in range(3):
        a, b = corners[i], corners[(i + 1) % 3]
        sides.append((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]))
    return (np.array(sides) > 0).all(0) | (np.array(sides) < 0).all(0)


def test_random_triangles_cover_the_pixels_that_brute_force_finds():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-10, 40, (60, 3, 2))  # partly outside the picture
    pixel, face = covered_pixels(corners, 24, 31)
    for i in range(len(corners)):
        found = np.zeros(24 * 31, bool)
        found[pixel[face == i]] = True
        np.testing.assert_array_equal(found.reshape(24, 31), inside(corners[i], 24, 31))


def test_a_square_of_two_triangles_covers_every_pixel_exactly_once():
    pixel, _ = covered_pixels(SQUARE, 6, 8)  # the diagonal passes through pixel centres
    assert sorted(pixel) == list(range(48))


def test_a_fan_covers_each_pixel_once_even_where_edges_hit_pixel_centers():
    rng = np.random.default_rng(1)
    for trial in range(20):
        center = np.array([10.5, 8.5]) if trial % 2 else rng.uniform(6, 12, 2)
        rim = np.array([[0, 0], [10.5, 0], [20, 0], [20, 8.5], [20, 16], [3.5, 16], [0, 16], [0, 8.5]])
        fan = np.stack([np.broadcast_to(center, rim.shape), rim, np.roll(rim, -1, axis=0)], axis=1)
        flip = rng.random(len(fan)) < 0.5  # winding must not matter
        fan[flip] = fan[flip][:, ::-1]
        assert sorted(covered_pixels(fan, 16, 20)[0]) == list(range(320))


def test_triangles_without_area_and_outside_the_picture_cover_nothing():
    corners = np.array(
        [[[1, 1], [5, 5], [3, 3]], [[2, 2], [2, 2], [2, 2]], [[-9, -9], [-2, -9], [-2, -1]], [[30, 2], [40, 2], [30, 9]]], float
    )
    assert len(covered_pixels(corners, 16, 16)[0]) == 0
    assert len(covered_pixels(np.zeros((0, 3, 2)), 16, 16)[0]) == 0


def test_barycentric_weights_rebuild_the_pixel_center():
    rng = np.random.default_rng(2)
    corners = rng.uniform(0, 32, (20, 3, 2))
    found = triangle_fragments(corners, 32, 32)
    rebuilt = np.einsum("nk,nkd->nd", found.barycentric, corners[found.face])
    np.testing.assert_allclose(rebuilt, np.stack([found.pixel % 32 + 0.5, found.pixel // 32 + 0.5], 1), atol=1e-9)
    np.testing.assert_allclose(found.barycentric.sum(1), 1)


def test_points_on_a_pixels_ray_project_back_to_its_center():
    cams = orbit_cameras(
        torch.tensor([20.0, -130]), torch.tensor([35.0, -60]), torch.tensor([3.0, 2.5]), torch.tensor([40.0, 55]), aspect=1.5
    )
    for cameras in (cams, Cameras(cams.camera_to_world, cams.window * 2, orthographic=True)):
        rays_o, rays_d = camera_rays(cameras, 4, 6)
        points = (rays_o + 2.2 * rays_d).reshape(2, 24, 3).numpy()
        centers = np.stack([np.tile(np.arange(6) + 0.5, 4), np.repeat(np.arange(4) + 0.5, 6)], 1)
        for view in range(2):
            pixels, depth = project(points[view], cameras[view : view + 1], 4, 6)
            np.testing.assert_allclose(pixels[0], centers, atol=1e-4)
            assert (depth > 0).all()


def test_depth_and_weights_are_where_the_pixels_ray_meets_the_plane():
    cameras = orbit_cameras(torch.tensor([30.0]), torch.tensor([20.0]), torch.tensor([3.0]), torch.tensor([40.0]), aspect=1.25)
    vertices = np.array([[-0.5, 0.3, -0.5], [0.6, -0.2, -0.4], [0.1, 0.4, 0.7]])
    raster = rasterize(vertices, np.array([[0, 1, 2]]), cameras, 24, 30)
    hit = raster.face[0] == 0
    assert hit.sum() > 20
    points = np.einsum("nk,kd->nd", raster.barycentric[0][hit], vertices)
    rays_o, rays_d = (x.numpy().reshape(24, 30, 3)[hit] for x in camera_rays(cameras, 24, 30))
    along = points - rays_o
    np.testing.assert_allclose(np.cross(along / np.linalg.norm(along, axis=1, keepdims=True), rays_d), 0, atol=1e-5)
    forward = -cameras.camera_to_world[0, :3, 2].numpy()
    np.testing.assert_allclose(raster.depth[0][hit], along @ forward, rtol=1e-5)
    assert np.isinf(raster.depth[0][~hit]).all() and (raster.face[0][~hit] == -1).all()


def test_the_nearer_of_two_triangles_is_seen_from_either_side():
    quad = np.array([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])
    vertices = np.concatenate([quad + [0, -0.3, 0], quad + [0, 0.3, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    cameras = orbit_cameras(torch.tensor([0.0, 180]), torch.zeros(2), torch.full((2,), 3.0), torch.full((2,), 40.0))
    face = rasterize(vertices, faces, cameras, 16, 16).face
    assert set(face[0][face[0] >= 0]) == {0, 1} and set(face[1][face[1] >= 0]) == {2, 3}


def test_silhouette_of_a_ball_has_the_area_of_the_closed_form():
    import trimesh

    ball = trimesh.creation.icosphere(4, radius=0.8)
    cameras = orbit_cameras(torch.tensor([0.0, 77]), torch.tensor([0.0, 40]), torch.full((2,), 3.0), torch.full((2,), 40.0))
    size = 200
    seen = silhouettes(ball.vertices, ball.faces, cameras, size, size)
    tangent = 0.8 / np.sqrt(9 - 0.64)  # radius of the picture at distance 1
    expected = np.pi * (tangent / (2 * np.tan(np.radians(20))) * size) ** 2
    np.testing.assert_allclose(seen.sum((1, 2)), expected, rtol=0.01)


def test_faces_behind_the_camera_are_not_drawn():
    vertices = np.array([[-1.0, -5, -1], [1, -5, -1], [0, -5, 1]])
    cameras = orbit_cameras(torch.zeros(1), torch.zeros(1), torch.tensor([3.0]), torch.tensor([40.0]))
    assert not silhouettes(vertices, np.array([[0, 1, 2]]), cameras, 8, 8).any()


def test_iou_counts_common_pixels_over_all_pixels():
    a, b = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert iou(a, b) == 1 / 3 and iou(a, a) == 1 and iou(a & b & ~a, b & ~b) == 1
