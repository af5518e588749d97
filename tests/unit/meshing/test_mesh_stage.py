import numpy as np
import pytest
import torch

from engine.errors import UserError
from engine.meshing.cleanup import is_closed, pieces
from engine.meshing.mesh_config import MeshConfig
from engine.meshing.mesh_stage import make_mesh
from engine.meshing.turntable import sample_texture
from tests.unit.meshing.known_fields import SHAPES, KnownField, color_of

SMALL = MeshConfig(resolution=40, target_faces=1200, texture_size=96)


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_meets_the_bars(name, cameras):
    field, said = KnownField(SHAPES[name]), []
    mesh = make_mesh(field.density_at, color_of, field.opacity(cameras), cameras, SMALL, report=lambda *x: said.append(x))
    assert is_closed(mesh.faces) and mesh.stats.open_edges == 0
    assert mesh.stats.uv_overlap == 0 and mesh.stats.black_texels == 0
    assert mesh.stats.silhouette_iou >= 0.97
    assert len(mesh.faces) <= 1200 and mesh.stats.n_faces == len(mesh.faces)
    assert pieces(mesh.faces, len(mesh.vertices)).max() + 1 == (2 if name == "two" else 1)
    assert mesh.albedo.shape == (96, 96, 3) and mesh.albedo.min() > 0.29  # color_of is nowhere darker
    middle = mesh.corner_uvs.mean(axis=1)
    centers = torch.from_numpy(mesh.vertices[mesh.faces].mean(axis=1))
    assert np.abs(sample_texture(mesh.albedo, middle) - color_of(centers).numpy()).mean() < 0.03
    assert (mesh.vertices.dtype, mesh.faces.dtype, mesh.corner_uvs.dtype, mesh.albedo.dtype) == (
        np.float32,
        np.int32,
        np.float32,
        np.float32,
    )
    fractions = [fraction for _, fraction in said]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert [p for i, (p, _) in enumerate(said) if i == 0 or said[i - 1][0] != p] == ["surface", "simplify", "unwrap", "bake"]


def test_the_same_field_gives_the_same_mesh_twice(cameras):
    field = KnownField(SHAPES["torus"])
    a, b = (make_mesh(field.density_at, color_of, field.opacity(cameras), cameras, SMALL) for _ in range(2))
    np.testing.assert_array_equal(a.vertices, b.vertices)
    np.testing.assert_array_equal(a.albedo, b.albedo)


def test_a_given_isovalue_is_used(cameras):
    field = KnownField(SHAPES["sphere"], softness=0.05)
    config = MeshConfig(resolution=40, target_faces=1200, texture_size=32, isovalue=60.0, smoothing=0)
    mesh = make_mesh(field.density_at, color_of, field.opacity(cameras), cameras, config)
    assert mesh.stats.isovalue == 60
    assert np.linalg.norm(mesh.vertices, axis=1).mean() == pytest.approx(0.6 + 0.05 * np.log(80 / 60 - 1), abs=0.005)


def test_an_empty_field_is_a_sentence_with_a_fix(cameras):
    nothing = torch.zeros(len(cameras), 16, 16)
    for density_at in (lambda p: p[:, 0] * 0, KnownField(SHAPES["sphere"], peak=0.001).density_at):
        with pytest.raises(UserError, match=r"The field is empty: .*--seed") as caught:
            make_mesh(density_at, color_of, nothing, cameras, SMALL)
        assert caught.value.code == "empty_field"


def test_a_report_that_raises_stops_the_stage(cameras):
    class StopHereError(Exception):
        pass

    def report(phase, fraction):
        if phase == "simplify":
            raise StopHereError

    field = KnownField(SHAPES["sphere"])
    with pytest.raises(StopHereError):
        make_mesh(field.density_at, color_of, field.opacity(cameras), cameras, SMALL, report=report)


def test_wrong_opacity_shape_is_named(cameras):
    with pytest.raises(ValueError, match=r"opacity must be \[6, H, W\] for 6 cameras, got \[5, 4, 4\]"):
        make_mesh(lambda p: p[:, 0], color_of, torch.zeros(5, 4, 4), cameras)


@pytest.mark.parametrize("name,value", [("resolution", 4), ("target_faces", 3), ("texture_size", 1), ("supersample", 0), ("isovalue", -1)])
def test_options_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=rf"mesh\.{name} is {value}, but must lie in "):
        MeshConfig(**{name: value})
