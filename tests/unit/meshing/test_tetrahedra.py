"""Marching tetrahedra on our own lattice, and the signed distance it starts from, against known shapes."""

import math

import numpy as np
import pytest
import torch

from engine.errors import UserError
from engine.meshing.cleanup import is_closed
from engine.meshing.isosurface import signed_volume
from engine.meshing.signed_distance import signed_distance
from engine.meshing.tetrahedra import MAX_OFFSET, bcc_lattice, marching_tetrahedra
from tests.unit.meshing.known_fields import SHAPES, sphere, torus

LOW, HIGH = torch.full((3,), -0.9), torch.full((3,), 0.9)


def surface(sdf, resolution=20):
    lattice = bcc_lattice(LOW, HIGH, resolution)
    vertices, faces = marching_tetrahedra(lattice.points, sdf(lattice.points), lattice.tets)
    return vertices.numpy(), faces.numpy()


def test_the_lattice_fills_its_box_but_for_the_border_and_no_tetrahedron_is_turned():
    lattice = bcc_lattice(torch.zeros(3), torch.tensor([1.0, 0.5, 0.5]), 8)
    a, b, c, d = (lattice.points[lattice.tets[:, i]].double() for i in range(4))
    volume = (torch.linalg.cross(b - a, c - a) * (d - a)).sum(-1) / 6
    assert volume.min() > 0 and torch.allclose(volume, torch.full_like(volume, lattice.spacing**3 / 12))
    assert len(lattice.tets) == 4 * (7 * 4 * 4 + 2 * 8 * 3 * 4)


def test_offsets_within_their_limit_turn_no_tetrahedron():
    lattice = bcc_lattice(LOW, HIGH, 8)
    generator = torch.Generator().manual_seed(0)
    moves = (torch.rand(20, len(lattice.points), 3, generator=generator) > 0.5) * 2.0 - 1.0  # the worst: always all the way
    for move in moves:
        a, b, c, d = ((lattice.points + move * MAX_OFFSET * lattice.spacing)[lattice.tets[:, i]] for i in range(4))
        assert (torch.linalg.cross(b - a, c - a) * (d - a)).sum(-1).min() > 0


@pytest.mark.parametrize("name", ["sphere", "torus", "two", "shells"])
def test_every_surface_is_closed_and_faces_outward(name):
    vertices, faces = surface(SHAPES[name])
    assert is_closed(faces) and len(np.unique(faces)) == len(vertices)
    assert signed_volume(vertices, faces) > 0


def test_random_values_give_closed_surfaces_too():
    lattice = bcc_lattice(LOW, HIGH, 6)
    values = torch.where(lattice.is_border, 1.0, torch.randn(len(lattice.points), generator=torch.Generator().manual_seed(1)))
    _, faces = marching_tetrahedra(lattice.points, values, lattice.tets)
    assert len(faces) > 500 and is_closed(faces.numpy())


def test_a_ball_has_its_volume_and_every_vertex_lies_on_it():
    vertices, faces = surface(sphere, 32)
    assert signed_volume(vertices, faces) == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.01)
    assert np.abs(np.linalg.norm(vertices, axis=1) - 0.6).max() < 0.003


def test_vertices_follow_values_and_points_by_finite_differences():
    lattice = bcc_lattice(LOW, HIGH, 6)
    points = lattice.points.double().requires_grad_()
    values = (sphere(lattice.points).double() - 0.013).requires_grad_()
    weight = torch.Generator().manual_seed(0)
    vertices, _ = marching_tetrahedra(points, values, lattice.tets)
    chosen = torch.rand(vertices.shape, generator=weight, dtype=torch.float64)

    def total(p, v):
        return (marching_tetrahedra(p, v, lattice.tets)[0] * chosen).sum()

    by_points, by_values = torch.autograd.grad(total(points, values), (points, values))
    near = values.detach().abs().argsort()[:6]
    for index in near.tolist():
        move = torch.zeros_like(values)
        move[index] = 1e-6
        with torch.no_grad():
            difference = (total(points, values + move) - total(points, values - move)) / 2e-6
            assert by_values[index].item() == pytest.approx(difference.item(), rel=1e-4, abs=1e-6)
            step = move[:, None] * torch.tensor([0.0, 1.0, 0.0])
            difference = (total(points + step, values) - total(points - step, values)) / 2e-6
            assert by_points[index, 1].item() == pytest.approx(difference.item(), rel=1e-4, abs=1e-6)


def test_nothing_inside_is_no_surface():
    lattice = bcc_lattice(LOW, HIGH, 4)
    vertices, faces = marching_tetrahedra(lattice.points, torch.ones(len(lattice.points)), lattice.tets)
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


def test_the_signed_distance_of_a_mesh_is_that_of_the_shape():
    lattice = bcc_lattice(LOW, HIGH, 40)
    vertices, faces = (part.numpy() for part in marching_tetrahedra(lattice.points, torus(lattice.points), lattice.tets))
    found = signed_distance(vertices, faces, resolution=24, margin_cells=3)
    places = (torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * torch.tensor([1.6, 1.6, 0.5])
    error = (found.at(places) - torus(places)).abs()
    near = torus(places).abs() > 0.02
    assert error.mean() < 0.004 and error.max() < 0.05
    assert bool(((found.at(places) < 0) == (torus(places) < 0))[near].all())


def test_a_mesh_with_a_hole_still_has_an_inside_and_a_sheet_has_none():
    import trimesh

    box = trimesh.creation.box((1, 1, 1)).subdivide().subdivide()
    faces = np.delete(box.faces, np.arange(3), axis=0)
    found = signed_distance(box.vertices, faces, resolution=12, margin_cells=2)
    assert (found.values < 0).mean() == pytest.approx((12 / 17) ** 3, rel=0.1)
    with pytest.raises(UserError, match="encloses nothing"):
        signed_distance(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0.1]]), np.array([[0, 1, 2]]), resolution=12, margin_cells=2)
