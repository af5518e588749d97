import math

import numpy as np
import pytest
import torch

from engine.errors import UserError
from engine.meshing.isosurface import WORLD_BOX, extract, sample_lattice
from engine.meshing.isovalue import (
    choose_isovalue,
    field_silhouettes,
    highest_log_density,
    isovalue_from_silhouettes,
    refine_isovalue,
)
from engine.meshing.raster import iou, silhouettes
from tests.unit.meshing.known_fields import SHAPES, KnownField, sphere


def test_the_curve_from_sorted_rays_equals_counting_pixels_for_every_isovalue():
    rng = np.random.default_rng(0)
    highest_log = rng.choice(np.linspace(-3, 4, 12), (2, 9, 11)).astype(np.float32)  # with ties
    wanted = rng.random((2, 9, 11)) < 1 / (1 + np.exp(-2 * highest_log))
    choice = isovalue_from_silhouettes(highest_log, wanted)
    brute = {level: iou(highest_log > level, wanted) for level in np.linspace(-3.2, 4, 200)}
    assert choice.iou == pytest.approx(max(brute.values()))
    assert iou(highest_log > math.log(choice.isovalue), wanted) == pytest.approx(choice.iou)


def test_the_middle_of_a_plateau_is_taken():
    highest_log = np.array([[[4.0, 4.0, -2.0, -2.0]]], np.float32)
    choice = isovalue_from_silhouettes(highest_log, np.array([[[True, True, False, False]]]))
    assert choice.iou == 1 and math.log(choice.isovalue) == pytest.approx(1.0)


def test_highest_density_along_a_ray_through_a_blob_is_that_of_its_nearest_point(cameras):
    center = torch.tensor([0.1, -0.2, 0.25])

    def density_at(p):
        return 50 * torch.exp(-4 * (p - center).square().sum(-1))

    lattice = sample_lattice(density_at, resolution=40, aabb=np.array(WORLD_BOX))
    found = highest_log_density(lattice, cameras, 12, 16)
    from engine.scene.cameras import camera_rays

    rays_o, rays_d = camera_rays(cameras, 12, 16)
    nearest = torch.linalg.cross(rays_o - center, rays_d).norm(dim=-1).reshape(len(cameras), 12, 16).numpy()
    middle = nearest < 0.7
    np.testing.assert_allclose(found[middle], math.log(50) - 4 * nearest[middle] ** 2, atol=0.05)


@pytest.mark.parametrize("true_isovalue", [5.0, 40.0])
def test_the_isovalue_that_made_the_silhouettes_is_found_again(cameras, true_isovalue):
    field = KnownField(sphere, peak=80, softness=0.05)  # so soft that the value decides the size
    vertices, faces = extract(field.density_at, resolution=48, isovalue=true_isovalue)
    seen = torch.from_numpy(silhouettes(vertices, faces, cameras, 64, 64)).float()
    choice = choose_isovalue(field.density_at, seen, cameras)
    radius, wanted = (0.6 + 0.05 * math.log(80 / v - 1) for v in (choice.isovalue, true_isovalue))
    assert abs(radius - wanted) < 0.01  # a pixel is 0.035 wide
    assert choice.iou > 0.98


@pytest.mark.parametrize("name", SHAPES)
def test_mesh_and_field_have_the_same_silhouettes(name, cameras):
    field = KnownField(SHAPES[name])
    choice = choose_isovalue(field.density_at, field.opacity(cameras), cameras)
    assert choice.iou >= 0.97
    for constant in (0.05, 75.0):  # and constants do worse: the choice is not idle
        vertices, faces = extract(field.density_at, resolution=32, isovalue=constant)
        assert iou(silhouettes(vertices, faces, cameras, 48, 48), field_silhouettes(field.opacity(cameras))) < choice.iou


def test_golden_section_climbs_to_the_peak_and_stays_on_a_plateau():
    found = refine_isovalue(lambda v: 1 - 0.1 * math.log(v / 13) ** 2, 10.0, n_evaluations=12)
    assert found.isovalue == pytest.approx(13, rel=0.02)
    assert refine_isovalue(lambda v: 0.9, 10.0).isovalue == 10.0


def test_thin_fog_is_measured_against_its_own_opacity_and_nothing_is_an_error():
    opacity = torch.zeros(1, 4, 4)
    opacity[0, 1:3, 1:3] = 0.3
    assert field_silhouettes(opacity).sum() == 4
    with pytest.raises(UserError, match=r"no view is more opaque than 2 %"):
        field_silhouettes(torch.full((1, 4, 4), 0.02))
