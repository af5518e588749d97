"""The rasteriser's kernels where the number is not the question: edges, corners, needles, what is not in the picture, whole meshes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cuda_ext import ops
from cuda_ext.cpu import find_kernels
from cuda_ext.ops_raster import raster_count, raster_fragments, raster_nearest
from engine.meshing import raster
from engine.meshing.raster import rasterize, seen_triangles, silhouettes, triangle_fragments
from engine.scene.cameras import Cameras, orbit_cameras

pytestmark = pytest.mark.skipif(find_kernels()[0] is None, reason="no library")


def lattice(n: int, size: float, generator: torch.Generator) -> Tensor:
    """Triangles [2 n n, 3, 2] that tile a square of `size` pixels; inner corners moved, to eighths, many edges through pixel centres."""
    points = torch.stack(torch.meshgrid(*[torch.linspace(0, size, n + 1, dtype=torch.float64)] * 2, indexing="ij"), dim=-1)
    inner = points[1:-1, 1:-1]
    inner += ((torch.rand(inner.shape, generator=generator, dtype=torch.float64) - 0.5) * size / n * 0.7 * 8).round() / 8
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    return torch.cat([torch.stack([a, b, c], dim=2).reshape(-1, 3, 2), torch.stack([a, c, d], dim=2).reshape(-1, 3, 2)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("n", [1, 3, 16, 60])
def test_triangles_that_tile_a_picture_cover_each_pixel_once(n: int, dtype: torch.dtype) -> None:
    corners = lattice(n, 48.0, torch.Generator().manual_seed(n)).to(dtype)
    corners = corners[torch.randperm(len(corners), generator=torch.Generator().manual_seed(0))]
    corners = torch.stack([corners[k, torch.randperm(3, generator=torch.Generator().manual_seed(k))] for k in range(len(corners))])
    assert raster_count(corners, 48, 48).eq(1).all()
    pixel, _, barycentric = raster_fragments(corners, 48, 48)
    assert torch.equal(pixel, torch.arange(48 * 48)) and barycentric.ge(0).all()
    torch.testing.assert_close(barycentric.sum(dim=1), torch.ones(48 * 48, dtype=dtype))


def test_weights_lead_back_to_the_pixels_centre() -> None:
    corners = lattice(7, 40.0, torch.Generator().manual_seed(1))
    pixel, face, barycentric = raster_fragments(corners, 40, 40)
    center = (barycentric[..., None] * corners[face]).sum(dim=1)
    torch.testing.assert_close(center, torch.stack([pixel % 40 + 0.5, pixel // 40 + 0.5], dim=1).double())


def test_what_is_nothing_covers_nothing() -> None:
    inf, nan = float("inf"), float("nan")
    square = [[-1e9, -1e9], [1e9, -1e9], [0.0, 1e9]]
    corners = torch.tensor(
        [
            [[3.0, 3.0]] * 3,
            [[0.0, 0.0], [5.0, 5.0], [9.0, 9.0]],
            [[-9.0, -9.0], [-5.0, -9.0], [-5.0, -3.0]],
            [[99.0, 1.0], [120.0, 1.0], [99.0, 30.0]],
            [[nan, 1.0], [5.0, 1.0], [5.0, 7.0]],
            [[0.0, 1.0], [inf, 1.0], [5.0, 7.0]],
        ],
        dtype=torch.float64,
    )
    assert raster_count(corners, 20, 20).eq(0).all() and raster_count(corners[:0], 20, 20).eq(0).all()
    face, barycentric, depth = raster_nearest(corners, torch.ones(6, 3, dtype=torch.float64), 20, 20, orthographic=True, near=0.0)
    assert face.eq(-1).all() and barycentric.eq(0).all() and depth.isinf().all()
    assert raster_count(torch.tensor([square], dtype=torch.float64), 20, 20).eq(1).all(), "one that is far larger than the picture"


def test_the_last_of_equally_near_triangles_is_seen_and_none_that_reaches_behind_the_camera() -> None:
    corners = torch.tensor([[[0.0, 0.0], [40.0, 0.0], [0.0, 40.0]]], dtype=torch.float64).repeat(4, 1, 1)
    depths = torch.tensor([[2.0] * 3, [1.0] * 3, [1.0] * 3, [0.5, 0.5, -0.5]], dtype=torch.float64)
    face, _, depth = raster_nearest(corners, depths, 8, 8, orthographic=False, near=1e-3)
    assert face.eq(2).all()
    torch.testing.assert_close(depth, torch.ones(64, dtype=torch.float64))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_a_picture(threads: int) -> None:
    corners, before = lattice(30, 200.0, torch.Generator().manual_seed(2)), torch.get_num_threads()
    depths = torch.rand(len(corners), 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 1
    wanted = raster._nearest_twin(corners.numpy(), depths.numpy(), 200, 150, False)
    torch.set_num_threads(threads)
    try:
        face, _, depth = raster_nearest(corners, depths, 200, 150, orthographic=False, near=1e-3)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(face.numpy(), wanted[0])
    np.testing.assert_allclose(depth.numpy(), wanted[2], rtol=1e-12)


def ball_and_cameras() -> tuple[Tensor, Tensor, list[Cameras]]:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.7)
    angles = [torch.tensor(value) for value in ([20.0, 170.0, 0.0], [10.0, -60.0, 90.0], [2.9, 3.0, 0.75], [40.0, 45.0, 60.0])]
    perspective = orbit_cameras(*angles)  # the last looks from so near that triangles reach behind it
    return torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces, dtype=torch.int64), [perspective, perspective[:1]]


def test_meshes_look_the_same_by_kernels_and_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces, all_cameras = ball_and_cameras()
    for cameras in all_cameras:
        found = []
        for kernels in (True, False):
            with monkeypatch.context() as patch:
                if not kernels:
                    patch.setattr(ops, "serves", lambda _tensor: False)
                drawn = rasterize(vertices.numpy(), faces.numpy(), cameras, 61, 83)
                face, depth = seen_triangles(vertices, faces, cameras, 61, 83)
                outline = silhouettes(vertices.numpy(), faces.numpy(), cameras, 61, 83)
                fragments = triangle_fragments(raster.project(vertices.numpy(), cameras, 61, 83)[0][0][faces.numpy()], 61, 83)
                found.append((drawn.face, drawn.depth, drawn.barycentric, face.numpy(), depth.numpy(), outline, len(fragments.pixel)))
        (drawn_face, depth, barycentric, seen, seen_depth, outline, n), twin = found
        assert np.array_equal(drawn_face, twin[0]) and np.array_equal(seen, twin[3]) and np.array_equal(outline, twin[5]) and n == twin[6]
        assert np.array_equal(drawn_face, seen) and (drawn_face >= 0).any() and (drawn_face < 0).any()
        for ours, theirs in ((depth, twin[1]), (barycentric, twin[2]), (seen_depth, twin[4])):
            np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-7)


def test_wrong_shapes_are_refused_by_text() -> None:
    with pytest.raises(ValueError, match=r"corners must be \[F, 3, 2\]"):
        raster_count(torch.zeros(4, 2), 8, 8)
    with pytest.raises(ValueError, match="picture not empty"):
        raster_fragments(torch.zeros(1, 3, 2), 0, 8)
    with pytest.raises(ValueError, match=r"depths must be \[2, 3\]"):
        raster_nearest(torch.zeros(2, 3, 2), torch.zeros(2), 8, 8, orthographic=True, near=0.0)
