"""The normal map against known surfaces: decoded as a renderer decodes it, it is the fine surface's normal."""

import numpy as np
import pytest
import torch

from engine.meshing.bake import corner_angles, vertex_normals
from engine.meshing.cleanup import decimate, smooth
from engine.meshing.export import write_glb, write_result
from engine.meshing.isosurface import extract
from engine.meshing.mesh_config import MeshConfig
from engine.meshing.mesh_stage import MeshResult, make_mesh
from engine.meshing.normal_map import bake_normals, corner_tangents, fine_normals
from engine.meshing.turntable import sample_texture
from engine.meshing.unwrap import unwrap
from tests.unit.meshing.known_fields import KnownField, color_of, sphere

SIZE = 256


def bumpy(p):
    """A ball with waves that a few hundred triangles cannot follow."""
    return sphere(p) + 0.03 * torch.sin(14 * p).prod(dim=-1)


def true_normals(points):
    positions = torch.from_numpy(points).float().requires_grad_()
    bumpy(positions).sum().backward()
    gradient = positions.grad.numpy()
    return gradient / np.linalg.norm(gradient, axis=1, keepdims=True)


def degrees(a, b):
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return np.rad2deg(np.arccos(np.clip((a * b).sum(1), -1, 1)))


@pytest.fixture(scope="module")
def bumpy_ball():
    """Fine surface, simplified surface with UVs, and its normal map."""
    fine, fine_faces = extract(KnownField(bumpy).density_at, resolution=80, isovalue=40)
    fine = smooth(fine, fine_faces, 5)
    vertices, faces = decimate(fine, fine_faces, 600)
    corner_uvs, _ = unwrap(vertices, faces, texture_size=SIZE)
    texture = bake_normals(vertices, faces, corner_uvs, fine, fine_faces, texture_size=SIZE, cell=1.2 / 80)
    return vertices, faces, corner_uvs, texture


def decoded(vertices, faces, corner_uvs, texture, n=4000):
    """Random surface points, their smooth normals, and their normals with the map, as a renderer sees them."""
    rng = np.random.default_rng(0)
    face = rng.integers(len(faces), size=n)
    weights = rng.dirichlet([1, 1, 1], n)[..., None]
    normals = vertex_normals(vertices, faces).astype(np.float64)
    tangents, sign = corner_tangents(vertices, faces, corner_uvs, normals)
    point, normal = ((weights * values[faces[face]]).sum(1) for values in (vertices, normals))
    tangent, uv = (weights * tangents[face]).sum(1), (weights * corner_uvs[face]).sum(1)
    x, y, z = (sample_texture(texture, uv) * 2 - 1).T[..., None]
    return point, normal, x * tangent + y * sign[face][:, None] * np.cross(normal, tangent) + z * normal


def test_the_map_gives_back_the_relief_that_simplification_took(bumpy_ball):
    point, plain, mapped = decoded(*bumpy_ball)
    truth = true_normals(point)
    assert np.median(degrees(plain, truth)) > 4, "there is something to give back"
    assert np.median(degrees(mapped, truth)) < 1.5  # measured 0.65, without the map 8.4
    assert np.quantile(degrees(mapped, truth), 0.95) < 4  # measured 1.7


def test_stored_normals_are_unit_look_outward_and_leave_no_hole(bumpy_ball):
    texture = bumpy_ball[3]
    assert texture.dtype == np.float32 and texture.shape == (SIZE, SIZE, 3) and np.isfinite(texture).all()
    np.testing.assert_allclose(np.linalg.norm(texture * 2 - 1, axis=-1), 1, atol=1e-5)
    assert texture[..., 2].min() > 0.5


def test_of_the_surface_itself_the_map_is_flat():
    vertices, faces = extract(KnownField(sphere).density_at, resolution=24, isovalue=40)
    corner_uvs, _ = unwrap(vertices, faces, texture_size=128)
    texture = bake_normals(vertices, faces, corner_uvs, vertices, faces, texture_size=128, cell=0.02)
    # A bell of nearest vertices is not the linear mean across a triangle: a few degrees on this coarse ball.
    assert np.median(np.abs(texture - [0.5, 0.5, 1.0])) < 0.02


def test_the_frame_of_a_flat_square_is_its_uv_axes_whatever_their_turn():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    normals = np.tile([0.0, 0, 1], (4, 1))
    turned = vertices[:, :2] @ np.array([[0.6, 0.8], [-0.8, 0.6]])  # u runs along (0.6, -0.8)
    for uv, handed in ((turned, 1.0), (turned * [1, -1], -1.0)):
        tangents, sign = corner_tangents(vertices, faces, uv[faces], normals)
        np.testing.assert_allclose(tangents, np.broadcast_to([0.6, -0.8, 0], (2, 3, 3)), atol=1e-12)
        assert (sign == handed).all()


def test_triangles_without_uv_area_leave_their_neighbours_frame_alone():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], float)
    faces = np.array([[0, 1, 2], [1, 3, 2]])
    uvs = np.array([[[0, 0], [1, 0], [0, 1]], [[1, 0], [1, 0], [0, 1]]], float)
    tangents, _ = corner_tangents(vertices, faces, uvs, np.tile([0.0, 0, 1], (4, 1)))
    assert np.isfinite(tangents).all()
    np.testing.assert_allclose(tangents[0], np.broadcast_to([1.0, 0, 0], (3, 3)), atol=1e-12)


def test_the_far_side_of_a_thin_wall_does_not_count():
    low = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    wall = np.concatenate([low, low + [0, 0, -0.001]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [6, 5, 4], [7, 6, 4]])
    up = np.tile([0.0, 0, 1], (4, 1))
    np.testing.assert_allclose(fine_normals(low, up, wall, faces, cell=0.5), up, atol=1e-9)


def test_angles_of_a_triangle_sum_to_pi_and_normals_do_not_depend_on_how_a_square_is_cut():
    cube = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([triangle for q in quads for triangle in ((q[0], q[1], q[2]), (q[0], q[2], q[3]))])
    np.testing.assert_allclose(corner_angles(cube, faces).sum(1), np.pi)
    normals = vertex_normals(cube, faces)
    np.testing.assert_allclose(normals * np.sign((normals[0] * cube[0]).sum()), cube / np.sqrt(3), atol=1e-6)


@pytest.mark.parametrize(("n_faces", "wanted", "has_map"), [(600, True, True), (600, False, False), (500_000, True, False)])
def test_the_stage_bakes_where_triangles_were_taken_away(cameras, tmp_path, n_faces, wanted, has_map):
    field = KnownField(bumpy)
    config = MeshConfig(resolution=24, target_faces=n_faces, texture_size=64, isovalue=40.0, normal_map=wanted)
    mesh = make_mesh(field.density_at, color_of, field.opacity(cameras), cameras, config)
    assert (mesh.normal is not None) == has_map
    assert ("normal.png" in {path.name for path in write_result(tmp_path, mesh)}) == (tmp_path / "normal.png").exists() == has_map


def test_the_glb_carries_the_map(bumpy_ball, tmp_path):
    import trimesh

    vertices, faces, corner_uvs, texture = bumpy_ball
    write_glb(tmp_path / "a.glb", MeshResult(vertices, faces, corner_uvs, np.full_like(texture, 0.5), None, texture))
    (geometry,) = trimesh.load(tmp_path / "a.glb").geometry.values()
    stored = np.asarray(geometry.visual.material.normalTexture.convert("RGB")) / 255
    assert np.abs(stored - texture).max() < 0.01
