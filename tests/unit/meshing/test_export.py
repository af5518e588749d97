import json

import av
import numpy as np
import PIL.Image
import pytest
import trimesh

from engine.meshing.bake import bake_albedo
from engine.meshing.export import (
    split_vertices,
    to_bytes,
    to_y_up,
    to_z_up,
    write_glb,
    write_obj,
    write_ply,
    write_png,
    write_result,
)
from engine.meshing.mesh_stage import MeshResult, MeshStats
from engine.meshing.turntable import render_mesh, write_thumbnail, write_video
from engine.meshing.unwrap import unwrap
from tests.unit.meshing.known_fields import color_of


@pytest.fixture(scope="module")
def mesh() -> MeshResult:
    """A box 1.2 wide (x), 0.8 deep (y), 0.4 high (z), with a nose at the front (-Y), colored by position."""
    box = trimesh.creation.box((1.2, 0.8, 0.4))
    box = box.subdivide()
    vertices = np.asarray(box.vertices, np.float32)
    vertices[np.argmin(np.linalg.norm(vertices - [0, -0.4, 0], axis=1)), 1] = -0.9
    faces = np.asarray(box.faces, np.int32)
    corner_uvs, _ = unwrap(vertices, faces, texture_size=64)
    albedo, _ = bake_albedo(color_of, vertices, faces, corner_uvs, texture_size=64)
    return MeshResult(vertices, faces, corner_uvs, albedo, MeshStats(len(faces), 0, 0, 0, 1.0, 1.0, 0.1))


def corner_colors(vertices, uvs, image):
    """Color of an image (top row first) at UVs counted from the bottom."""
    size = np.array(image.size)
    column, row = (np.clip(((uvs if i == 0 else 1 - uvs)[:, i] * size[i]).astype(int), 0, size[i] - 1) for i in range(2))
    return np.asarray(image.convert("RGB"))[row, column] / 255


def test_axes_turn_and_turn_back():
    axes = np.eye(3)
    np.testing.assert_array_equal(to_y_up(axes), [[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # up Z -> Y, front -Y -> +Z
    np.testing.assert_array_equal(to_z_up(to_y_up(axes)), axes)
    assert np.linalg.det(to_y_up(axes)) == pytest.approx(1)


def test_glb_reads_back_with_axes_texture_and_material(mesh, tmp_path):
    write_glb(tmp_path / "a.glb", mesh, "red_mug")
    scene = trimesh.load(tmp_path / "a.glb")
    ((name, read),) = scene.geometry.items()
    assert name == "red_mug" and len(read.faces) == len(mesh.faces)
    np.testing.assert_allclose(read.extents, [1.2, 0.4, 1.3], atol=1e-6)
    assert read.bounds[1, 2] == pytest.approx(0.9)  # the nose looks along +Z
    assert read.volume > 0
    material = read.visual.material
    assert material.roughnessFactor == pytest.approx(0.7) and material.metallicFactor == 0
    np.testing.assert_array_equal(np.asarray(material.baseColorTexture.convert("RGB")), to_bytes(mesh.albedo))
    world = to_z_up(np.asarray(read.vertices))
    got = corner_colors(world, np.asarray(read.visual.uv), material.baseColorTexture)
    source = np.argmin(np.linalg.norm(world[:, None] - mesh.vertices[None], axis=2), axis=1)
    import torch

    wanted = color_of(torch.from_numpy(mesh.vertices[source])).numpy()
    assert np.abs(got - wanted).mean() < 0.03  # a flipped v or u would give 0.2


def test_glb_declares_what_the_standard_wants(mesh, tmp_path):
    write_glb(tmp_path / "a.glb", mesh)
    raw = (tmp_path / "a.glb").read_bytes()
    assert raw[:4] == b"glTF" and int.from_bytes(raw[8:12], "little") == len(raw)
    head = json.loads(raw[20 : 20 + int.from_bytes(raw[12:16], "little")])
    (primitive,) = head["meshes"][0]["primitives"]
    assert {"POSITION", "NORMAL", "TEXCOORD_0"} <= set(primitive["attributes"])
    assert len(head["materials"]) == 1 and head["images"][0]["mimeType"] == "image/png"
    pbr = head["materials"][0]["pbrMetallicRoughness"]
    assert pbr["metallicFactor"] == 0 and pbr["roughnessFactor"] == pytest.approx(0.7) and "baseColorTexture" in pbr


def test_obj_reads_back_with_one_position_a_vertex(mesh, tmp_path):
    write_obj(tmp_path / "a.obj", mesh, "red_mug")
    lines = (tmp_path / "a.obj").read_text().splitlines()
    positions = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    np.testing.assert_allclose(positions, to_y_up(mesh.vertices), atol=1e-6)  # seams do not tear the mesh
    read = trimesh.load(tmp_path / "a.obj", process=False, force="mesh")
    assert len(read.faces) == len(mesh.faces) and read.volume > 0
    corners = [part.split("/") for line in lines if line.startswith("f ") for part in line.split()[1:]]
    uvs = np.array([line.split()[1:] for line in lines if line.startswith("vt ")], float)
    np.testing.assert_allclose(uvs[[int(c[1]) - 1 for c in corners]], mesh.corner_uvs.reshape(-1, 2), atol=1e-6)
    material = (tmp_path / "a.mtl").read_text()
    assert "map_Kd a.png" in material and "\nd 1\n" in material and "Tr" not in material
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "a.png")), to_bytes(mesh.albedo))


def test_ply_reads_back_z_up_with_colors(mesh, tmp_path):
    write_ply(tmp_path / "a.ply", mesh)
    read = trimesh.load(tmp_path / "a.ply", process=False)
    np.testing.assert_allclose(read.vertices, mesh.vertices, atol=1e-6)
    import torch

    wanted = color_of(torch.from_numpy(mesh.vertices)).numpy()
    assert np.abs(read.visual.vertex_colors[:, :3] / 255 - wanted).mean() < 0.03


def test_npz_and_png_hold_what_blender_imports(mesh, tmp_path):
    paths = write_result(tmp_path, mesh, "red_mug")
    assert [p.name for p in paths] == ["mesh.npz", "albedo.png", "red_mug.glb"] and all(p.exists() for p in paths)
    with np.load(tmp_path / "mesh.npz", allow_pickle=False) as data:
        assert {name: (data[name].dtype, data[name].shape) for name in data} == {
            "vertices": (np.float32, (len(mesh.vertices), 3)),
            "faces": (np.int32, (len(mesh.faces), 3)),
            "corner_uvs": (np.float32, (len(mesh.faces), 3, 2)),
        }
        np.testing.assert_array_equal(data["corner_uvs"], mesh.corner_uvs)
    image = PIL.Image.open(tmp_path / "albedo.png")
    assert image.mode == "RGB" and image.size == (64, 64)


def test_splitting_gives_each_vertex_and_uv_pair_one_copy(mesh):
    source, uvs, faces = split_vertices(mesh.faces, mesh.corner_uvs)
    np.testing.assert_array_equal(source[faces], mesh.faces)
    np.testing.assert_array_equal(uvs[faces], mesh.corner_uvs)
    assert len(np.unique(np.column_stack([source, uvs]), axis=0)) == len(source) < 3 * len(faces)


def test_png_rounds_and_clips(tmp_path):
    write_png(tmp_path / "a.png", np.array([[[0, 0.5, 1.0], [-0.2, 1.2, 0.4999]]]))
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "a.png")), [[[0, 128, 255], [0, 255, 127]]])


def test_the_rendered_mesh_has_its_colors_where_the_rays_meet_it(mesh, cameras):
    image = render_mesh(mesh, cameras[:1], 32, 48, ambient_ratio=1.0, supersample=1)
    assert image.shape == (1, 32, 48, 3)
    assert (image[0, 0] == 1).all()  # background
    import torch

    from engine.meshing.raster import rasterize

    raster = rasterize(mesh.vertices, mesh.faces, cameras[:1], 32, 48)
    seen = raster.face[0] >= 0
    points = np.einsum("nk,nkd->nd", raster.barycentric[0][seen], mesh.vertices[mesh.faces[raster.face[0][seen]]])
    assert np.abs(image[0][seen] - color_of(torch.from_numpy(points).float()).numpy()).mean() < 0.02


@pytest.mark.parametrize("size", [(48, 64), (33, 47)])
def test_video_reads_back_frame_by_frame(tmp_path, size):
    frames = [np.full((*size, 3), 0.0) + np.array([i / 5, 0.5, 1 - i / 5]) for i in range(6)]
    write_video(tmp_path / "t.mp4", frames, fps=12)
    with av.open(str(tmp_path / "t.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p" and stream.average_rate == 12
        read = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(read) == 6 and read[0].shape == (size[0] // 2 * 2, size[1] // 2 * 2, 3)
    for i, frame in enumerate(read):
        np.testing.assert_allclose(frame.mean((0, 1)) / 255, [i / 5, 0.5, 1 - i / 5], atol=0.03)


def test_a_video_without_frames_is_a_wrong_call(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "t.mp4", [])


def test_thumbnail_fits_its_square(tmp_path):
    write_thumbnail(tmp_path / "t.png", np.full((100, 200, 3), 0.5), size_px=64)
    image = PIL.Image.open(tmp_path / "t.png")
    assert image.size == (64, 32) and image.getpixel((3, 3)) == (128, 128, 128)
