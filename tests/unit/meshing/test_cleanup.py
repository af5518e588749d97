import numpy as np
import pytest
import trimesh

from engine.meshing.cleanup import bad_edges, decimate, is_closed, open_edges, pieces, smooth, solid_pieces, winding_number, without_folds
from engine.meshing.isosurface import extract, signed_volume
from tests.unit.meshing.known_fields import SHAPES, KnownField

TETRAHEDRON = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def ball(center=(0, 0, 0), radius=1.0, subdivisions=2):
    mesh = trimesh.creation.icosphere(subdivisions, radius=radius)
    return np.asarray(mesh.vertices + np.array(center), np.float32), np.asarray(mesh.faces, np.int32)


def joined(*meshes):
    offsets = np.cumsum([0] + [len(v) for v, _ in meshes])
    return np.concatenate([v for v, _ in meshes]), np.concatenate([f + o for (_, f), o in zip(meshes, offsets)])


def test_open_and_bad_edges_are_counted():
    assert open_edges(TETRAHEDRON) == 0 and is_closed(TETRAHEDRON)
    assert open_edges(TETRAHEDRON[1:]) == 3 and not is_closed(TETRAHEDRON[1:])
    flipped = TETRAHEDRON.copy()
    flipped[0] = flipped[0, ::-1]
    assert open_edges(flipped) == 0 and bad_edges(flipped) == 3 and not is_closed(flipped)
    twice = np.concatenate([TETRAHEDRON, [[0, 1, 4], [1, 0, 4]]])  # a fin on an edge
    assert not is_closed(twice)
    assert not is_closed(np.concatenate([TETRAHEDRON, [[0, 0, 1]]])) and not is_closed(np.zeros((0, 3), int))


def test_winding_number_tells_inside_from_outside():
    vertices, faces = ball()
    assert winding_number(np.array([0.2, 0.1, 0]), vertices, faces) == pytest.approx(1)
    assert winding_number(np.array([1.2, 0.1, 0]), vertices, faces) == pytest.approx(0, abs=1e-9)


def test_specks_cavities_and_what_floats_in_them_go_but_parts_stay():
    outside = ball()
    cavity = ball(radius=0.7)[0], ball(radius=0.7)[1][:, ::-1]
    core = ball(radius=0.4)
    other = ball((3, 0, 0), 0.5)
    speck = ball((0, 2, 0), 0.1)
    blade_vertices, blade_faces = ball((0, -3, 0))
    blade = ((blade_vertices - [0, -3, 0]) * [0.02, 0.02, 0.6] + [0, -3, 0]).astype(np.float32), blade_faces  # thin but long
    vertices, faces = solid_pieces(*joined(outside, cavity, core, other, speck, blade))
    assert pieces(faces, len(vertices)).max() + 1 == 3 and is_closed(faces)
    expected = sum(signed_volume(*mesh) for mesh in (outside, other, blade))
    assert signed_volume(vertices, faces) == pytest.approx(expected, rel=1e-5)
    assert set(np.unique(faces)) == set(range(len(vertices)))


def test_a_ball_with_shells_inside_becomes_one_solid_ball():
    vertices, faces = solid_pieces(*extract(KnownField(SHAPES["shells"]).density_at, resolution=40, isovalue=20))
    assert pieces(faces, len(vertices)).max() == 0
    assert signed_volume(vertices, faces) == pytest.approx(4 / 3 * np.pi * 0.611**3, rel=0.02)


def test_smoothing_takes_stairs_off_and_keeps_the_volume():
    vertices, faces = ball(subdivisions=4)
    rough = vertices * (1 + 0.02 * np.random.default_rng(0).standard_normal((len(vertices), 1)))
    calm = smooth(rough, faces, 5)
    assert np.linalg.norm(calm, axis=1).std() < 0.5 * np.linalg.norm(rough, axis=1).std()
    assert signed_volume(smooth(vertices, faces, 5), faces) == pytest.approx(signed_volume(vertices, faces), rel=3e-3)
    np.testing.assert_array_equal(smooth(rough, faces, 0), np.float32(rough))


def test_a_flap_of_two_opposite_faces_is_taken_away_and_the_rest_is_closed_again():
    flap = np.array([[4, 0, 1], [1, 0, 4]])  # hangs on the edge 0-1
    faces = np.concatenate([TETRAHEDRON[:2], flap, TETRAHEDRON[2:]])
    assert not is_closed(faces)
    np.testing.assert_array_equal(without_folds(faces), TETRAHEDRON)
    same_way = np.concatenate([TETRAHEDRON, TETRAHEDRON[:1, [1, 2, 0]]])  # twice the same face is no flap
    np.testing.assert_array_equal(without_folds(same_way), same_way)


@pytest.mark.parametrize("name", SHAPES)
def test_decimated_meshes_are_closed_small_and_keep_shape(name):
    vertices, faces = extract(KnownField(SHAPES[name]).density_at, resolution=40, isovalue=20)
    simple, triangles = decimate(vertices, faces, 1500)
    assert is_closed(triangles) and len(triangles) <= 1500
    assert signed_volume(simple, triangles) == pytest.approx(signed_volume(vertices, faces), rel=0.02)


def test_a_flap_left_by_the_simplifier_does_not_cost_the_target(monkeypatch):
    import fast_simplification

    real = fast_simplification.simplify

    def with_flap(points, faces, **options):
        points, faces = real(points, faces, **options)
        a, b, _ = faces[0]
        return np.concatenate([points, points[:1] * 2]), np.concatenate([faces, [[a, b, len(points)], [b, a, len(points)]]])

    monkeypatch.setattr(fast_simplification, "simplify", with_flap)
    vertices, faces = ball(subdivisions=4)
    simple, triangles = decimate(vertices, faces, 1000)
    assert is_closed(triangles) and len(triangles) <= 1000 and len(np.unique(triangles)) == len(simple)


def test_a_target_that_would_break_the_mesh_keeps_more_faces_instead():
    vertices, faces = joined(*(ball((3.0 * i, 0, 0)) for i in range(20)))
    simple, triangles = decimate(vertices, faces, 40)  # two triangles a ball cannot be closed
    assert is_closed(triangles) and len(triangles) > 40


def test_a_mesh_below_the_target_is_left_alone():
    vertices, faces = ball()
    same, triangles = decimate(vertices, faces, 10_000)
    np.testing.assert_array_equal(same[triangles], vertices[faces])
