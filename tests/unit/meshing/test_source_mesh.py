"""Mesh files of other programs, as the stages read them."""

import numpy as np
import trimesh

from engine.meshing.source_mesh import read_mesh


def test_a_plain_material_with_a_uv_map_gives_its_color_and_keeps_the_uvs(tmp_path):
    box = trimesh.creation.box()
    uv = np.random.default_rng(0).random((len(box.vertices), 2))
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[255, 128, 0, 255])
    box.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    box.export(tmp_path / "plain.glb")
    source = read_mesh(tmp_path / "plain.glb")
    assert source.texture is None and source.corner_uvs.shape == (12, 3, 2) and np.ptp(source.corner_uvs) > 0.5
    np.testing.assert_allclose(source.corner_colors, np.broadcast_to([1, 128 / 255, 0], (12, 3, 3)), atol=0.01)
