"""Reading a result folder: what is right comes through unchanged, what is wrong is a sentence, and the mesh stands as promised."""

import json
from pathlib import Path

import numpy as np
import pytest

from blender_dreamfusion.core.results import ResultError, extent, open_edge_count, outward, png_width, read_result, standing, welded
from tests.blender_results import write_png

TETRAHEDRON = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 4]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
UVS = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 3, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    (tmp_path / "albedo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "result.json").write_text(json.dumps({"request": {"prompt": "a red mug", "seed": 7}}))
    return tmp_path


def write(folder: Path, **changed: np.ndarray) -> None:
    np.savez(folder / "mesh.npz", **{"vertices": TETRAHEDRON, "faces": FACES, "corner_uvs": UVS, **changed})


def test_arrays_textures_and_settings_come_through_unchanged(folder):
    result = read_result(folder)
    np.testing.assert_array_equal(result.vertices, TETRAHEDRON)
    np.testing.assert_array_equal(result.faces, FACES)
    np.testing.assert_array_equal(result.corner_uvs, UVS)
    assert list(result.textures) == ["albedo"]
    assert (result.prompt, result.setting("seed")) == ("a red mug", 7)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"vertices": TETRAHEDRON[:, :2]}, r"vertices are float32 \[4, 2\]"),
        ({"vertices": TETRAHEDRON.astype(np.int32)}, "vertices are int32"),
        ({"faces": FACES + 1}, r"vertices outside 0\.\.3"),
        ({"faces": FACES[:0], "corner_uvs": UVS[:0]}, "no faces"),
        ({"faces": FACES.astype(np.float32)}, "faces are float32"),
        ({"corner_uvs": UVS[:2]}, "corner_uvs are"),
        ({"vertices": TETRAHEDRON * np.float32(np.nan)}, "not finite"),
        ({"vertices": np.array([None, {}])}, "cannot be read"),  # pickled inside: never opened
    ],
)
def test_arrays_of_another_form_are_refused_by_name(folder, changed, words):
    write(folder, **changed)
    with pytest.raises(ResultError, match=words):
        read_result(folder)


def test_missing_and_cut_short_files_are_sentences(folder):
    with pytest.raises(ResultError, match="no mesh.npz"):
        read_result(folder / "nowhere")
    whole = (folder / "mesh.npz").read_bytes()
    (folder / "mesh.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResultError, match="cannot be read as a mesh"):
        read_result(folder)
    (folder / "mesh.npz").write_bytes(whole)
    (folder / "albedo.png").write_bytes(b"GIF89a")
    with pytest.raises(ResultError, match="albedo.png is not a PNG"):
        read_result(folder)


def test_the_width_of_a_picture_is_read_from_its_header(tmp_path):
    write_png(tmp_path / "wide.png", np.zeros((3, 700, 3), np.uint8))
    assert png_width(tmp_path / "wide.png") == 700
    (tmp_path / "wide.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert png_width(tmp_path / "wide.png") == 0


def test_welding_closes_seams_and_drops_what_has_no_area():
    split = TETRAHEDRON[FACES].reshape(-1, 3)  # every corner its own vertex: 12 for 4
    faces = np.arange(12, dtype=np.int32).reshape(4, 3)
    faces = np.concatenate([faces, [[0, 0, 1]]]).astype(np.int32)
    uvs = np.concatenate([UVS, UVS[:1]])
    assert open_edge_count(faces[:4]) == 12
    vertices, joined, corner_uvs = welded(split, faces, uvs)
    assert (len(vertices), len(joined)) == (4, 4)
    assert open_edge_count(joined) == 0
    np.testing.assert_array_equal(corner_uvs, UVS)
    np.testing.assert_array_equal(vertices[joined], TETRAHEDRON[FACES])


def test_a_surface_that_is_inside_out_is_turned_with_its_uvs():
    faces, uvs = outward(TETRAHEDRON, FACES, UVS)
    np.testing.assert_array_equal(faces, FACES)
    turned, turned_uvs = outward(TETRAHEDRON, FACES[:, ::-1], UVS)
    np.testing.assert_array_equal(turned, FACES)
    np.testing.assert_array_equal(turned_uvs, UVS[:, ::-1])


def test_an_edge_with_one_or_three_faces_is_open():
    assert open_edge_count(FACES[:3]) == 3
    assert open_edge_count(np.concatenate([FACES, [[0, 1, 4]]])) == 3  # the fin: one edge of three, two of one


def test_welding_drops_vertices_that_no_face_uses():
    vertices, faces, _ = welded(np.concatenate([[[9, 9, 9]], TETRAHEDRON]).astype(np.float32), FACES + 1, UVS)
    assert len(vertices) == 4 and faces.max() == 3


def test_object_stands_on_its_bottom_centre_at_the_height_asked_for():
    placed = standing(TETRAHEDRON - 5, 1.5)
    np.testing.assert_allclose([placed[:, 2].min(), placed[:, 2].max()], [0, 1.5], atol=1e-6)
    np.testing.assert_allclose((placed.min(0) + placed.max(0))[:2], [0, 0], atol=1e-6)
    # no stretching: edge ratios stay
    np.testing.assert_allclose(np.ptp(placed, axis=0) / 1.5, np.ptp(TETRAHEDRON, axis=0) / 4, atol=1e-6)


def test_a_flat_object_keeps_its_size():
    flat = TETRAHEDRON * np.array([1, 1, 0], np.float32)
    np.testing.assert_allclose(np.ptp(standing(flat, 3.0), axis=0), [2, 2, 0])
    assert extent(TETRAHEDRON) == 4 and extent(flat) == 0 == extent(TETRAHEDRON[:0])
    np.testing.assert_allclose(np.ptp(standing(TETRAHEDRON, 0.0), axis=0), [2, 2, 4])  # to replace a flat object
