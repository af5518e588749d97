"""The differentiable rasteriser against exact areas, the plain rasteriser, and finite differences in float64."""

import math

import numpy as np
import pytest
import torch

from engine.meshing.raster import rasterize
from engine.rendering.antialias import antialias, edges_of
from engine.rendering.surface_pixels import interpolate, project, smooth_normals, surface_pixels
from engine.scene.cameras import Cameras, orbit_cameras

torch.set_num_threads(1)
SIZE = 32


def cameras_at(*azimuths):
    n = len(azimuths)
    return orbit_cameras(torch.tensor(azimuths), torch.full((n,), 20.0), torch.full((n,), 3.0), torch.full((n,), 40.0))


def flat_camera():
    """Orthographic, from the front: the picture's x is the world's x in -1..1, its y the world's z."""
    camera = orbit_cameras(*(torch.tensor([v]) for v in (0.0, 0.0, 3.0, 40.0)))
    return Cameras(camera.camera_to_world, torch.tensor([[-1.0, 1.0, -1.0, 1.0]]), orthographic=True)


def icosphere(subdivisions, radius=0.6):
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return torch.tensor(mesh.vertices, dtype=torch.float64), torch.tensor(mesh.faces)


def picture(vertices, faces, cameras, size, values):
    """[B, size, size, C + 1]: values [V, C] at the vertices over black, and coverage; antialiased."""
    raster = rasterize(vertices.detach().numpy(), faces.numpy(), cameras, size, size)
    projection = project(vertices, cameras, size, size)
    pixels = surface_pixels(projection, faces, torch.from_numpy(raster.face))
    channels = torch.cat([interpolate(values, faces, pixels), torch.ones(len(pixels.index), 1, dtype=vertices.dtype)], dim=1)
    flat = torch.zeros(len(cameras) * size * size, channels.shape[1], dtype=vertices.dtype).index_put((pixels.index,), channels)
    depth = torch.from_numpy(raster.depth)
    return antialias(flat.reshape(len(cameras), size, size, -1), projection, edges_of(faces), depth)


def test_pixels_and_weights_are_those_of_the_plain_rasteriser():
    vertices, faces = icosphere(2)
    cameras = cameras_at(0.0, 75.0)
    raster = rasterize(vertices.numpy(), faces.numpy(), cameras, SIZE, SIZE)
    pixels = surface_pixels(project(vertices, cameras, SIZE, SIZE), faces, torch.from_numpy(raster.face))
    seen = raster.face >= 0
    assert len(pixels.index) == seen.sum() > 100
    assert np.abs(pixels.weights.numpy() - raster.barycentric[seen]).max() < 1e-5
    points = interpolate(vertices, faces, pixels)
    depth = (points - cameras.positions[pixels.view]).mul(-cameras.camera_to_world[pixels.view, :3, 2]).sum(-1)
    assert np.abs(depth.numpy() - raster.depth[seen]).max() < 1e-5


@pytest.mark.parametrize("turn_deg", [0.0, 13.0, 30.0, 45.0, 60.0, 81.0])
@pytest.mark.parametrize("cells", [1, 40])
def test_coverage_adds_up_to_the_exact_area_also_where_triangles_are_smaller_than_pixels(turn_deg, cells):
    vertices, faces = turned_square(0.553, turn_deg, cells)
    image = picture(vertices, faces, flat_camera(), SIZE, vertices)
    area = image[0, ..., 3].sum() * (2 / SIZE) ** 2
    assert abs(area - 0.553**2 * 4) < 0.01 * 0.553**2 * 4


def turned_square(half, turn_deg, cells):
    axis = torch.linspace(-half, half, cells + 1, dtype=torch.float64)
    x, z = (values.reshape(-1) for values in torch.meshgrid(axis, axis, indexing="ij"))
    turn = math.radians(turn_deg)
    vertices = torch.stack([x * math.cos(turn) - z * math.sin(turn) + 0.011, 0 * x, x * math.sin(turn) + z * math.cos(turn) - 0.007], 1)
    n = cells + 1
    corner = (torch.arange(cells)[:, None] * n + torch.arange(cells)).reshape(-1)
    faces = torch.cat([torch.stack([corner, corner + n, corner + n + 1], 1), torch.stack([corner, corner + n + 1, corner + 1], 1)])
    return vertices, faces


@pytest.mark.parametrize("turn_deg", [0.0, 20.0, 45.0, 70.0])
def test_growing_a_shape_changes_its_coverage_as_its_area_changes(turn_deg):
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    vertices, faces = turned_square(0.553, turn_deg, 1)
    picture(vertices * scale, faces, flat_camera(), SIZE, vertices)[..., 3].sum().mul((2 / SIZE) ** 2).backward()
    assert scale.grad.item() == pytest.approx(2 * 4 * 0.553**2, rel=0.06)


def test_a_fine_ball_has_the_area_of_its_disk_and_it_grows_as_it_should():
    vertices, faces = icosphere(4)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    area = picture(vertices * scale, faces, flat_camera(), SIZE, vertices)[..., 3].sum() * (2 / SIZE) ** 2
    area.backward()
    assert area.item() == pytest.approx(math.pi * 0.36, rel=0.01)
    assert scale.grad.item() == pytest.approx(2 * math.pi * 0.36, rel=0.05)


@pytest.mark.parametrize("shape", ["ball", "two triangles, one before the other"])
def test_the_gradient_of_vertices_is_that_of_finite_differences(shape):
    if shape == "ball":
        vertices, faces = icosphere(1)
    else:
        vertices = torch.tensor(
            [[-0.61, 0.2, -0.5], [0.63, 0.1, -0.41], [0.1, 0.3, 0.62], [-0.2, -0.4, -0.1], [0.71, -0.5, 0.12], [0.17, -0.3, 0.53]],
            dtype=torch.float64,
        )
        faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    cameras = cameras_at(11.0, 140.0)
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(len(vertices), 3, dtype=torch.float64, generator=generator)
    weight = torch.rand(2, SIZE, SIZE, 4, dtype=torch.float64, generator=generator)

    def loss(at):
        return (picture(at, faces, cameras, SIZE, values) * weight).sum()

    vertices.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(vertices), vertices)
    step = 1e-6
    for vertex, axis in [(v, a) for v in range(min(len(vertices), 8)) for a in range(3)]:
        move = torch.zeros_like(vertices)
        move[vertex, axis] = step
        with torch.no_grad():
            difference = (loss(vertices + move) - loss(vertices - move)) / (2 * step)
        assert gradient[vertex, axis].item() == pytest.approx(difference.item(), rel=1e-5, abs=1e-6)


def test_an_edge_before_another_surface_has_a_gradient_and_a_hidden_one_has_none():
    # A small triangle behind a large one, and before it.
    vertices = torch.tensor(
        [[-0.9, 0.0, -0.9], [0.9, 0.0, -0.9], [0.0, 0.0, 0.9], [-0.2, 0.3, -0.3], [0.2, 0.3, -0.3], [0.0, 0.3, 0.1]], dtype=torch.float64
    )
    values = torch.tensor([[1.0]] * 3 + [[0.2]] * 3, dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    for depth, moves in ((0.3, False), (-0.3, True)):
        at = vertices.clone()
        at[3:, 1] = depth
        at.requires_grad_()
        picture(at, faces, flat_camera(), SIZE, values)[..., 0].sum().backward()
        assert bool(at.grad[3:].abs().sum() > 0.1) is moves


def test_smooth_normals_point_outward_and_are_unit():
    vertices, faces = icosphere(3)
    normals = smooth_normals(vertices, faces)
    assert torch.allclose(normals, torch.nn.functional.normalize(vertices, dim=1), atol=0.02)


def test_no_faces_are_an_empty_picture():
    empty = torch.zeros(0, 3, dtype=torch.float64)
    image = picture(empty, torch.zeros(0, 3, dtype=torch.int64), flat_camera(), SIZE, empty)
    assert image.shape == (1, SIZE, SIZE, 4) and image.abs().sum() == 0
