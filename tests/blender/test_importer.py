"""What stands in the scene after an import, step by step."""

import re

import bpy
import numpy as np
import pytest


def import_box(folder, **arguments):
    assert bpy.ops.dreamfusion.import_result(folder=str(folder), **arguments) == {"FINISHED"}
    return bpy.context.view_layer.objects.active


def positions(obj) -> np.ndarray:
    flat = np.empty(3 * len(obj.data.vertices), np.float32)
    obj.data.vertices.foreach_get("co", flat)
    return flat.reshape(-1, 3)


def test_object_stands_upright_with_height_baked_in_and_origin_at_its_bottom_centre(result_folder):
    obj = import_box(result_folder, height_m=2.0)
    assert obj.rotation_mode == "XYZ"
    np.testing.assert_array_equal(np.array(obj.matrix_world), np.eye(4))
    low, high = positions(obj).min(0), positions(obj).max(0)
    np.testing.assert_allclose(low, [-0.5, -2 / 3, 0], atol=1e-6)  # 0.6 x 0.8 x 1.2, scaled by 2 / 1.2
    np.testing.assert_allclose(high, [0.5, 2 / 3, 2], atol=1e-6)


def test_height_is_in_metres_whatever_the_scene_counts_in(result_folder):
    bpy.context.scene.unit_settings.scale_length = 0.01
    assert import_box(result_folder, height_m=1.0).dimensions.z == pytest.approx(100)


def test_location_moves_the_origin_only(result_folder):
    obj = import_box(result_folder, location=(1, 2, 3))
    assert tuple(obj.location) == (1, 2, 3)
    assert positions(obj)[:, 2].min() == pytest.approx(0)


def test_positions_are_welded_and_uvs_stay_on_the_corners(result_folder):
    obj = import_box(result_folder)
    mesh = obj.data
    assert (len(mesh.vertices), len(mesh.edges), len(mesh.polygons)) == (8, 18, 12)  # Euler: closed
    with np.load(result_folder / "mesh.npz") as arrays:
        expected = arrays["corner_uvs"].reshape(-1, 2)
    uvs = np.empty(2 * len(mesh.loops), np.float32)
    mesh.uv_layers["UVMap"].uv.foreach_get("vector", uvs)
    np.testing.assert_array_equal(uvs.reshape(-1, 2), expected)


def test_faces_point_outwards_and_front_is_minus_y(result_folder):
    obj = import_box(result_folder)
    for face in obj.data.polygons:
        assert face.normal.dot(face.center - type(face.center)((0, 0, 0.5))) > 0
    front = [face for face in obj.data.polygons if face.normal.y < -0.9]
    layer = obj.data.uv_layers["UVMap"].uv
    assert len(front) == 2
    assert all(layer[corner].vector.x < 0.5 for face in front for corner in face.loop_indices), "the red half of the texture"


def test_one_principled_material_with_packed_srgb_albedo(result_folder):
    obj = import_box(result_folder)
    (material,) = obj.data.materials
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    image = shader.inputs["Base Color"].links[0].from_node.image
    assert image.colorspace_settings.name == "sRGB"
    assert image.packed_file is not None
    assert image.size[:] == (32, 32)
    assert str(result_folder) not in image.filepath and str(result_folder) not in image.packed_files[0].filepath
    assert [material.name, obj.data.name, image.name] == ["a-red-box", "a-red-box", "a-red-box_albedo"]


def test_data_textures_are_non_color_and_wired(result_folder):
    for name in ("normal", "roughness"):
        (result_folder / f"{name}.png").write_bytes((result_folder / "albedo.png").read_bytes())
    obj = import_box(result_folder)
    shader = next(node for node in obj.data.materials[0].node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    roughness = shader.inputs["Roughness"].links[0].from_node.image
    normal = shader.inputs["Normal"].links[0].from_node.inputs["Color"].links[0].from_node.image
    assert {roughness.colorspace_settings.name, normal.colorspace_settings.name} == {"Non-Color"}
    assert (roughness.name, normal.name) == ("a-red-box_roughness", "a-red-box_normal")


def test_pictures_survive_saving_without_the_job_folder(result_folder, tmp_path):
    import shutil

    import_box(result_folder)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    shutil.rmtree(result_folder)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "scene.blend"))
    pixels = np.array(bpy.data.images["a-red-box_albedo"].pixels[:]).reshape(32, 32, 4)
    np.testing.assert_allclose(pixels[0, 0], [220 / 255, 0, 0, 1], atol=0.01)


def test_provenance_is_on_the_object(result_folder):
    obj = import_box(result_folder)
    assert (obj["dreamfusion_prompt"], obj["dreamfusion_seed"], obj["dreamfusion_preset"]) == ("a red box", 7, "draft")
    assert obj["dreamfusion_job"] == result_folder.parent.name
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", obj["dreamfusion_date"])


@pytest.mark.parametrize("prompt", ["ein sehr langer Satz mit Käfern " * 10, "花" * 50, "🍔"])
def test_names_fit_63_bytes_in_every_script(tmp_path, write_box, prompt):
    obj = import_box(write_box(tmp_path / "job" / "result", prompt=prompt, seed=2**31))
    names = [obj.name, obj.data.name, obj.data.materials[0].name, *(image.name for image in bpy.data.images if image.packed_file)]
    assert all(0 < len(name.encode()) <= 63 for name in names)
    assert len({name.removesuffix("_albedo") for name in names}) == 1, "one stem for all"
    assert obj["dreamfusion_prompt"] == prompt
    assert obj["dreamfusion_seed"] == str(2**31), "beyond what a custom property's integer holds"


def test_target_collection_is_made_once_and_shared(result_folder):
    first, second = import_box(result_folder), import_box(result_folder)
    assert first.users_collection == second.users_collection == (bpy.data.collections["DreamFusion"],)
    assert len(bpy.data.collections) == 1
    other = bpy.data.scenes.new("Other")
    import_box(result_folder, scene_name="Other")
    assert [part.name for part in other.collection.children] == ["DreamFusion"]


def test_new_object_is_active_and_alone_selected_and_the_camera_stays(result_folder):
    bpy.ops.object.camera_add()
    camera = bpy.context.scene.camera = bpy.context.object
    obj = import_box(result_folder)
    assert bpy.context.selected_objects == [obj]
    assert bpy.context.scene.camera == camera


def test_import_leaves_edit_mode_first(result_folder):
    first = import_box(result_folder)
    bpy.ops.object.mode_set(mode="EDIT")
    second = import_box(result_folder)
    assert first.mode == second.mode == bpy.context.mode == "OBJECT"


def test_an_excluded_collection_is_said_and_does_no_harm(result_folder):
    import_box(result_folder)
    bpy.context.view_layer.layer_collection.children["DreamFusion"].exclude = True
    assert bpy.ops.dreamfusion.import_result(folder=str(result_folder)) == {"FINISHED"}
    assert len(bpy.data.collections["DreamFusion"].objects) == 2


def test_import_is_one_undo_step(result_folder):
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.dreamfusion.import_result("EXEC_DEFAULT", True, folder=str(result_folder))
    assert len(bpy.data.objects) == 1
    bpy.ops.ed.undo()
    assert len(bpy.data.objects) == 0
    bpy.ops.ed.redo()
    assert [obj.name for obj in bpy.data.objects] == ["a-red-box"]


def test_operator_and_function_import_the_same_mesh(result_folder, addon):
    by_operator = import_box(result_folder)
    scene, view_layer = bpy.context.scene, bpy.context.view_layer
    direct = addon("bl.result_object").import_result(result_folder, scene=scene, view_layer=view_layer)
    np.testing.assert_array_equal(positions(by_operator), positions(direct.obj))
    assert direct.summary.startswith("a-red-box.001: 12 triangles, watertight, 32 px texture, in ")
    assert str(result_folder) in direct.summary


def everything() -> list:
    return [
        *bpy.data.objects,
        *bpy.data.meshes,
        *bpy.data.materials,
        *(image for image in bpy.data.images if image.name != "Render Result"),
    ]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "mesh.npz").write_bytes(b"rubbish"), "cannot be read as a mesh"),
        (lambda folder: (folder / "albedo.png").write_bytes(b"rubbish"), "is not a PNG"),
        (lambda folder: (folder / "albedo.png").write_bytes((folder / "albedo.png").read_bytes()[:20]), "cannot be loaded"),
        (lambda folder: (folder / "mesh.npz").unlink(), "no mesh.npz"),
        (lambda folder: (folder / "result.json").write_text("{"), "result.json cannot be read"),
    ],
)
def test_a_spoiled_result_is_a_sentence_and_leaves_nothing_behind(result_folder, spoil, words):
    spoil(result_folder)
    with pytest.raises(RuntimeError, match=words):
        bpy.ops.dreamfusion.import_result(folder=str(result_folder))
    assert everything() == []


def test_import_without_a_job_says_what_to_do():
    with pytest.raises(RuntimeError, match="no finished job yet"):
        bpy.ops.dreamfusion.import_result()


def test_a_hundred_thousand_triangles_import_within_a_second(tmp_path, write_box):
    import time

    folder = write_box(tmp_path / "job" / "result")
    n = 225
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n)), -1).reshape(-1, 2)
    vertices = np.concatenate([grid, np.cos(3 * grid[:, :1])], axis=1).astype(np.float32)
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).reshape(-1)
    faces = np.concatenate([np.stack([corner, corner + 1, corner + n], 1), np.stack([corner + 1, corner + n + 1, corner + n], 1)])
    uvs = (grid[faces] / 2 + 0.5).astype(np.float32)
    np.savez(folder / "mesh.npz", vertices=vertices, faces=faces.astype(np.int32), corner_uvs=uvs)
    begun = time.process_time()  # of this process: other programs on the machine do not count
    obj = import_box(folder)
    assert time.process_time() - begun < 1.0
    assert len(obj.data.polygons) == 2 * (n - 1) ** 2


def test_cycles_sees_red_from_the_front_and_blue_from_behind(result_folder, tmp_path):
    obj = import_box(result_folder)
    scene = bpy.context.scene
    scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 2, False
    scene.render.resolution_x = scene.render.resolution_y = 8
    scene.view_settings.view_transform = "Standard"
    scene.world = bpy.data.worlds.new("World")
    if scene.world.node_tree is None:
        scene.world.use_nodes = True
    next(node for node in scene.world.node_tree.nodes if node.type == "BACKGROUND").inputs["Color"].default_value = (1, 1, 1, 1)
    seen = {}
    for side, y, turn in (("front", -3.0, 0.0), ("back", 3.0, np.pi)):
        bpy.ops.object.camera_add(location=(0, y, 0.5), rotation=(np.pi / 2, 0, turn))
        scene.camera = bpy.context.object
        scene.render.filepath = str(tmp_path / f"{side}.png")
        bpy.ops.render.render(write_still=True)
        image = bpy.data.images.load(scene.render.filepath)
        seen[side] = np.array(image.pixels[:]).reshape(8, 8, 4)[3:5, 3:5, :3].mean((0, 1))
    assert obj.name == "a-red-box"
    assert seen["front"][0] > 0.4 and seen["front"][2] < 0.25
    assert seen["back"][2] > 0.4 and seen["back"][0] < 0.25
