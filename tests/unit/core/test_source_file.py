"""A mesh written for the engine is what the engine reads: places, the order of triangles, UVs and the picture."""

import numpy as np
import pytest

from blender_dreamfusion.core.source_file import MAX_TRIANGLES, Source, SourceError, check_source, write_source
from engine.meshing.source_mesh import RADIUS, read_mesh
from tests.blender_results import write_png


def wedge(height=2.0, with_uvs=True):
    """Four corners, standing on the origin, nothing symmetric about them; every triangle has a quarter of the picture."""
    vertices = np.array([[-1, -0.5, 0], [1, -0.5, 0], [0.3, 0.5, 0], [0.2, 0, height]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], np.int32)
    corner = np.array([[0.02, 0.02], [0.4, 0.05], [0.1, 0.45]], np.float32)
    uvs = np.stack([corner + np.array(shift, np.float32) for shift in ((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5))])
    return Source(vertices, faces, uvs if with_uvs else None, (4.0, 5.0, 6.0), height)


@pytest.fixture
def picture(tmp_path):
    """Red on top, blue below."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8, :, 0] = pixels[8:, :, 2] = 255
    write_png(tmp_path / "colors.png", pixels)
    return (tmp_path / "colors.png").read_bytes()


def test_the_engine_reads_back_every_triangle_in_order_with_its_uvs_and_colors(tmp_path, picture):
    source = wedge()
    path = write_source(source, picture, tmp_path / "sources")
    read = read_mesh(path)
    places = read.vertices * read.scale + np.array(read.center)
    np.testing.assert_allclose(places[read.faces], source.vertices[source.faces], atol=1e-5)
    np.testing.assert_allclose(read.corner_uvs, source.corner_uvs, atol=1e-6)
    assert len(read.vertices) == 4, "corners in one place are one vertex again"
    assert np.linalg.norm(read.vertices, axis=1).max() == pytest.approx(RADIUS, abs=1e-5)
    third = np.full((4, 3), 1 / 3)
    lower, upper = [1, 1], [0, 0]
    colors = read.colors_at(np.arange(4), third)
    assert colors[:, 0].round().tolist() == upper + lower and colors[:, 2].round().tolist() == lower + upper


def test_uvs_reach_the_engine_without_a_picture_too(tmp_path):
    source = wedge()
    read = read_mesh(write_source(source, None, tmp_path))
    np.testing.assert_allclose(read.corner_uvs, source.corner_uvs, atol=1e-6)
    assert read.texture is None and np.ptp(read.corner_colors) == 0, "nothing but gray"


def test_without_uvs_there_are_no_colors_either(tmp_path, picture):
    read = read_mesh(write_source(wedge(with_uvs=False), picture, tmp_path))
    assert read.corner_uvs is None and not read.has_colors and len(read.faces) == 4


def test_the_same_mesh_is_the_same_file_and_another_one_another(tmp_path):
    first = write_source(wedge(), None, tmp_path)
    assert write_source(wedge(), None, tmp_path) == first != write_source(wedge(3.0), None, tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".glb", ".glb"], "nothing half written stays"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s._replace(faces=s.faces[:0]), "Plane has no faces"),
        (lambda s: s._replace(faces=np.repeat(s.faces, MAX_TRIANGLES // 4 + 1, axis=0)), "Decimate it first"),
        (lambda s: s._replace(height=0.0), "is flat. Stand it up"),
        (lambda s: s._replace(vertices=s.vertices * np.float32(np.nan)), "no numbers"),
    ],
)
def test_what_cannot_be_worked_on_is_a_sentence_with_the_way_out(change, words):
    check_source(wedge(), "Plane")
    with pytest.raises(SourceError, match=words):
        check_source(change(wedge()), "Plane")
