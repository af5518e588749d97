import importlib.util

import numpy as np
import pytest
import torch

from engine.errors import UserError
from engine.meshing import isosurface
from engine.meshing.cleanup import is_closed, open_edges
from engine.meshing.isosurface import extract, occupied_box, sample_lattice, signed_volume, surface_of_lattice
from tests.unit.meshing.known_fields import SHAPES, KnownField, sphere

BOX = np.array([[-1.0] * 3, [1.0] * 3])


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_cut_closed_with_faces_outward(name):
    vertices, faces = extract(KnownField(SHAPES[name]).density_at, resolution=40, isovalue=20)
    assert is_closed(faces) and signed_volume(vertices, faces) > 0
    assert vertices.dtype == np.float32 and faces.dtype == np.int32


def test_a_balls_surface_lies_where_the_density_has_the_isovalue():
    field = KnownField(sphere, peak=80, softness=0.02)
    for isovalue in (4.0, 20.0, 60.0):
        vertices, _ = extract(field.density_at, resolution=64, isovalue=isovalue)
        radius = 0.6 + 0.02 * np.log(80 / isovalue - 1)
        np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), radius, atol=3e-3)  # a seventh of a cell


def test_a_field_that_jumps_is_cut_half_way_between_lattice_points():
    def density_at(p):
        return torch.where(p.norm(dim=-1) < 0.6, 50.0, 0.0)

    for isovalue in (0.5, 5.0):  # the value of a jump says nothing about its place
        vertices, _ = extract(density_at, resolution=64, isovalue=isovalue)
        cell = 2 * 0.6 / 60
        assert np.linalg.norm(vertices, axis=1).mean() == pytest.approx(0.6, abs=0.1 * cell)  # 0.3 with the whole logarithm


def test_two_passes_find_a_small_thing_anywhere_and_resolve_it():
    center = (0.7, -0.6, 0.8)
    field = KnownField(lambda p: sphere(p, center, 0.08), softness=0.005)
    vertices, faces = extract(field.density_at, resolution=40, isovalue=20)
    radius = 0.08 + 0.005 * np.log(80 / 20 - 1)
    np.testing.assert_allclose(np.linalg.norm(vertices - center, axis=1), radius, atol=1e-3)
    assert len(faces) > 3000  # with one pass the ball would be three cells wide


def test_an_object_that_reaches_the_border_gets_a_wall_there():
    vertices, faces = extract(lambda p: torch.full((len(p),), 30.0), resolution=16, isovalue=10)
    assert is_closed(faces)
    assert signed_volume(vertices, faces) == pytest.approx(8, rel=0.2)


def test_values_exactly_on_the_level_leave_no_face_without_area():
    def density_at(p):  # a core of 30 in a shell of 20: the shell's lattice points lie exactly on the level
        return torch.where(sphere(p) < -0.2, 30.0, torch.where(sphere(p) < 0, 20.0, 10.0))

    vertices, faces = surface_of_lattice(sample_lattice(density_at, resolution=24, aabb=BOX), 20.0)
    area = np.linalg.norm(np.cross(*(vertices[faces[:, i]] - vertices[faces[:, 0]] for i in (1, 2))), axis=1)
    assert area.min() > 0 and is_closed(faces)


@pytest.mark.skipif(importlib.util.find_spec("mcubes") is None, reason="PyMCubes is not installed")
@pytest.mark.parametrize("name", SHAPES)
def test_scikit_image_and_mcubes_cut_the_same_surface(name, monkeypatch):
    from scipy.spatial import cKDTree

    lattice = sample_lattice(KnownField(SHAPES[name]).density_at, resolution=48, aabb=BOX)
    a, faces_a = surface_of_lattice(lattice, 20)
    monkeypatch.setattr(isosurface, "_marching_cubes", isosurface._skimage_cubes)
    b, faces_b = surface_of_lattice(lattice, 20)
    assert open_edges(faces_b) == 0
    # Both put vertices on the same lattice edges at the same places; only the triangles between may differ.
    assert max(cKDTree(a).query(b)[0].max(), cKDTree(b).query(a)[0].max()) < 1e-4
    assert signed_volume(b, faces_b) == pytest.approx(signed_volume(a, faces_a), rel=1e-3)


def test_lattice_is_cubic_covers_the_box_and_asks_in_world_space():
    box = np.array([[-0.5, -0.3, 0.1], [0.5, 0.33, 0.35]])
    lattice = sample_lattice(lambda p: 5 + p[:, 0] + 10 * p[:, 1] + 100 * p[:, 2], resolution=20, aabb=box)
    assert lattice.spacing == pytest.approx(0.05) and lattice.densities.shape[0] == 21
    assert (lattice.aabb[0] <= box[0] + 1e-9).all() and (lattice.aabb[1] >= box[1] - 1e-9).all()
    x, y, z = lattice.origin + lattice.spacing * np.array([3, 7, 2])
    assert lattice.densities[3, 7, 2] == pytest.approx(5 + x + 10 * y + 100 * z, rel=1e-5)


def test_occupied_box_holds_the_object_with_its_margin():
    lattice = sample_lattice(KnownField(lambda p: sphere(p, (0.2, 0, 0), 0.3)).density_at, resolution=40, aabb=BOX)
    low, high = occupied_box(lattice, 10)
    assert (low <= [-0.1, -0.3, -0.3]).all() and (high >= [0.5, 0.3, 0.3]).all()
    assert (low >= np.array([-0.1, -0.3, -0.3]) - 0.2).all() and (high <= np.array([0.5, 0.3, 0.3]) + 0.2).all()


def test_an_empty_field_says_what_it_found_and_what_to_do():
    with pytest.raises(UserError, match=r"field is empty: its highest density is 3, .* cut at 10.*--seed") as caught:
        extract(lambda p: torch.full((len(p),), 3.0), resolution=8, isovalue=10, aabb=BOX)
    assert caught.value.code == "empty_field"


def test_a_field_with_nan_is_refused():
    with pytest.raises(UserError, match="not finite"):
        extract(lambda p: p[:, 0] / 0 * 0, resolution=8, isovalue=10)


def test_isovalue_zero_is_a_wrong_call():
    with pytest.raises(ValueError, match="isovalue must be > 0, got 0"):
        extract(lambda p: p[:, 0].abs(), resolution=8, isovalue=0, aabb=BOX)
