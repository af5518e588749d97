"""What stands in the scene after an import, step by step."""

import json
import re
import subprocess

import bpy
import numpy as np
import pytest

from tests.blender_results import ROOT


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


def test_provenance_names_licence_and_guidance_where_the_engine_tells_them(result_folder):
    info = {"prompt": "a red box", "model_licence": "CC0-1.0", "guidance": "sds", "guidance_scale": 50.0, "steps_done": 12}
    (result_folder / "result.json").write_text(json.dumps(info))
    obj = import_box(result_folder)
    assert {name: obj[f"dreamfusion_{name}"] for name in info} == info


@pytest.mark.parametrize(("said", "shown"), [("no", ", no baked-in light"), ("some", ", some baked-in light"), ("of a newer engine", "")])
def test_whether_light_is_baked_into_the_texture_is_told_and_kept(result_folder, addon, said, shown):
    (result_folder / "result.json").write_text(json.dumps({"prompt": "a red box", "baked_light": said}))
    assert import_box(result_folder)["dreamfusion_baked_light"] == said
    assert addon("ui.runtime").imported() == (f"a-red-box: 12 triangles, watertight, 32 px texture{shown}",)


def test_a_result_that_is_inside_out_is_turned_round(result_folder):
    with np.load(result_folder / "mesh.npz") as arrays:
        turned = {"vertices": arrays["vertices"], **{name: arrays[name][:, ::-1] for name in ("faces", "corner_uvs")}}
    np.savez(result_folder / "mesh.npz", **turned)
    test_faces_point_outwards_and_front_is_minus_y(result_folder)


@pytest.mark.parametrize(("shading", "n_smooth", "n_sharp"), [("SMOOTH", 12, 0), ("FLAT", 0, 0), ("AUTO", 12, 12)])
def test_shading_is_smooth_flat_or_sharp_at_the_boxs_edges(result_folder, shading, n_smooth, n_sharp):
    mesh = import_box(result_folder, shading=shading, sharp_angle_deg=60).data
    assert sum(face.use_smooth for face in mesh.polygons) == n_smooth
    assert sum(edge.use_edge_sharp for edge in mesh.edges) == n_sharp, "all edges of the box, none of the diagonals"


@pytest.mark.parametrize("shading", ["SMOOTH", "FLAT", "AUTO"])
def test_a_normal_map_is_used_with_the_shading_it_was_baked_for_only(result_folder, shading):
    (result_folder / "normal.png").write_bytes((result_folder / "albedo.png").read_bytes())
    material = import_box(result_folder, shading=shading).data.materials[0]
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    assert shader.inputs["Normal"].is_linked == (shading == "SMOOTH")


def test_roughness_is_the_settings_value(result_folder):
    material = import_box(result_folder, roughness=0.25).data.materials[0]
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    assert shader.inputs["Roughness"].default_value == pytest.approx(0.25)


def test_what_is_left_out_comes_from_the_scenes_panel(result_folder):
    settings = bpy.context.scene.dreamfusion
    settings.height_m, settings.importing.collection, settings.importing.shading = 3.0, "Props", "FLAT"
    bpy.context.scene.cursor.location = (4, 5, 6)
    obj = import_box(result_folder)
    assert obj.dimensions.z == pytest.approx(3) and tuple(obj.location) == (4, 5, 6)
    assert obj.users_collection == (bpy.data.collections["Props"],) and not obj.data.polygons[0].use_smooth
    assert tuple(import_box(result_folder, location=(0, 0, 0), collection="Scene Collection").location) == (0, 0, 0)
    assert len(bpy.context.scene.collection.objects) == 1, "the scene's own collection by its name"


def test_a_plan_says_everything_and_single_values_win_over_it(result_folder, addon):
    ImportPlan = addon("core.import_plan").ImportPlan
    plan = ImportPlan(location=(1.0, 0.0, 0.0), height_m=2.0, collection="Planned", shading="FLAT", lods=(0.5,))
    obj = import_box(result_folder, plan=json.dumps(plan.to_json()), height_m=0.5)
    assert obj.dimensions.z == pytest.approx(0.5) and obj.users_collection[0].name == "Planned"
    assert [other.name for other in bpy.data.objects] == ["a-red-box", "a-red-box_LOD1"]
    with pytest.raises(RuntimeError, match="The import plan cannot be read"):
        bpy.ops.dreamfusion.import_result(folder=str(result_folder), plan='{"height_m": "tall"}')


@pytest.fixture
def edited(result_folder):
    """A generated object as an artist left it: renamed, moved, scaled, with a modifier, in a collection of theirs."""
    obj = import_box(result_folder, height_m=2.0)
    obj.name, obj.data.vertices[0].co.x = "Hero Box", -0.51
    obj.location, obj.scale, obj.rotation_euler = (1, 2, 3), (2, 2, 2), (0, 0, 1)
    obj.modifiers.new("Bevel", "BEVEL")
    collection = bpy.data.collections.new("Heroes")
    bpy.context.scene.collection.children.link(collection)
    collection.objects.link(obj)
    obj["mine"] = 5
    return obj


def test_replacing_keeps_all_but_the_mesh_and_the_old_one_until_saved(edited, tmp_path, write_box):
    old = edited.data
    again = write_box(tmp_path / "again" / "result", prompt="a blue box", seed=8)
    assert import_box(again, replace_object="Hero Box", height_m=1.0) == edited
    assert edited.data != old and old.use_fake_user and old.name == "a-red-box_old"
    assert len(bpy.data.objects) == 1 and edited.name == "Hero Box"
    assert (tuple(edited.location), tuple(edited.scale), len(edited.modifiers), edited["mine"]) == ((1, 2, 3), (2, 2, 2), 1, 5)
    assert {collection.name for collection in edited.users_collection} == {"DreamFusion", "Heroes"}
    assert positions(edited)[:, 2].max() == pytest.approx(2.0), "as tall as the mesh it replaces"
    assert (edited["dreamfusion_prompt"], edited["dreamfusion_seed"], edited["dreamfusion_job"]) == ("a blue box", 8, "again")
    assert [material.name for material in edited.data.materials] == ["a-blue-box"] == [edited.data.name]
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "scene.blend"))
    assert not old.use_fake_user


def test_the_replace_operator_takes_the_active_object(edited, result_folder):
    assert bpy.ops.dreamfusion.replace_mesh(folder=str(result_folder)) == {"FINISHED"}
    assert len(bpy.data.objects) == 1 and edited.name == "Hero Box" and edited.data.vertices[0].co.x != -0.51


def test_a_job_replaces_what_was_active_when_it_started(edited, addon):
    bpy.context.scene.dreamfusion.importing.replace = "REPLACE"
    assert addon("ui.import_settings").scene_plan(bpy.context).replace_object == "Hero Box"
    bpy.ops.object.camera_add()
    assert addon("ui.import_settings").scene_plan(bpy.context).replace_object == ""


def test_an_object_that_is_gone_or_not_ours_is_not_replaced_and_that_is_said(result_folder, addon):
    bpy.ops.mesh.primitive_cube_add()
    cube = bpy.context.object
    ImportPlan, import_result = addon("core.import_plan").ImportPlan, addon("bl.result_object").import_result
    for name in ("Cube", "nowhere"):
        plan = ImportPlan(replace_object=name)
        imported = import_result(result_folder, plan, scene=bpy.context.scene, view_layer=bpy.context.view_layer)
        assert imported.notes == (f"{name} is no generated object of this file any more, so a new one was made.",)
    assert len(cube.data.vertices) == 8 and cube.data.name == "Cube" and len(bpy.data.objects) == 3


def test_a_spoiled_result_leaves_the_object_to_be_replaced_alone(edited, result_folder):
    old = edited.data
    (result_folder / "albedo.png").write_bytes((result_folder / "albedo.png").read_bytes()[:20])
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        bpy.ops.dreamfusion.import_result(folder=str(result_folder), replace_object="Hero Box")
    assert edited.data == old and len(bpy.data.meshes) == 1


def test_the_panel_tells_what_the_last_import_made_and_could_not_do(result_folder, addon):
    import_box(result_folder, replace_object="nowhere", mark_asset=True)
    made, gone, preview = addon("ui.runtime").imported()
    assert made == "a-red-box: 12 triangles, watertight, 32 px texture"
    assert "nowhere is no generated object" in gone and "no preview picture" in preview


BUMPS = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from engine.meshing.export import write_result
from engine.meshing.mesh_config import MeshConfig
from engine.meshing.mesh_stage import make_mesh
from engine.scene.sampling import survey_cameras
from tests.unit.meshing.test_normal_map import KnownField, bumpy, color_of
field, cameras = KnownField(bumpy), survey_cameras(4)
config = MeshConfig(resolution=80, target_faces=600, texture_size=256, isovalue=40.0)
mesh = make_mesh(field.density_at, color_of, field.opacity(cameras, 16), cameras, config)
write_result(Path(sys.argv[2]), mesh)
"""


def waves(points: np.ndarray) -> np.ndarray:
    """The shape of BUMPS: below 0 inside."""
    return np.linalg.norm(points, axis=1) - 0.6 + 0.03 * np.sin(14 * points).prod(axis=1)


@pytest.mark.slow
def test_the_engines_normal_map_means_in_blender_what_the_engine_meant(tmp_path, engine_python):
    """The map, decoded with the tangents that Blender computes for the imported mesh, gives the normals of the known shape."""
    folder = tmp_path / "job" / "result"
    folder.mkdir(parents=True)
    subprocess.run([engine_python, "-c", BUMPS, str(ROOT), str(folder)], check=True, capture_output=True, timeout=250)
    obj = import_box(folder, height_m=1.0)
    mesh = obj.data
    mesh.calc_tangents()
    n = len(mesh.polygons)
    corner = {}
    for name, size in (("normal", 3), ("tangent", 3), ("bitangent_sign", 1)):
        flat = np.empty(3 * n * size, np.float32)
        mesh.loops.foreach_get(name, flat)
        corner[name] = flat.reshape(n, 3, size)
    uv = np.empty(6 * n, np.float32)
    mesh.uv_layers["UVMap"].uv.foreach_get("vector", uv)
    vertex_of = np.empty(3 * n, np.int32)
    mesh.loops.foreach_get("vertex_index", vertex_of)
    with np.load(folder / "mesh.npz") as arrays:  # back to the engine's place and size
        low, high = arrays["vertices"].min(0), arrays["vertices"].max(0)
    foot = np.array([*(low + high)[:2] / 2, low[2]])
    points = positions(obj)[vertex_of].reshape(n, 3, 3) * (high[2] - low[2]) + foot
    rng = np.random.default_rng(0)
    face, weights = rng.integers(n, size=3000), rng.dirichlet([1, 1, 1], 3000)[..., None]
    point, normal, tangent = ((weights * values[face]).sum(1) for values in (points, corner["normal"], corner["tangent"]))
    where = (weights * uv.reshape(n, 3, 2)[face]).sum(1)
    picture = np.array(bpy.data.images["job_normal"].pixels[:]).reshape(256, 256, 4)[..., :3]
    x, y, z = (picture[(where[:, 1] * 256).astype(int), (where[:, 0] * 256).astype(int)] * 2 - 1).T[..., None]
    mapped = x * tangent + y * corner["bitangent_sign"][face][:, 0] * np.cross(normal, tangent) + z * normal
    step = 1e-4 * np.eye(3)
    truth = np.stack([waves(point + axis) - waves(point - axis) for axis in step], axis=1)

    def degrees(a, b):
        return np.rad2deg(np.arccos(np.clip((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1), -1, 1)))

    assert np.median(degrees(normal, truth)) > 5
    assert np.median(degrees(mapped, truth)) < 2 and np.quantile(degrees(mapped, truth), 0.95) < 6


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
