"""Jobs that start from a mesh of the scene: what is asked, what comes back, and whole jobs through the real engine."""

import math
from pathlib import Path

import bpy
import numpy as np
import pytest

from tests.blender.test_panel_draw import draw
from tests.blender_results import write_box_result, write_png

# The shortest stage that passes through every phase.
TINY_STAGE = (
    "training.n_steps=3 training.batch_size=1 render.size_px=16 render.n_samples=16 field.finest_resolution=16 field.n_levels=2 "
    "mesh.resolution=24 mesh.texture_size=64 mesh.supersample=1 mesh.target_faces=300 output.turntable_frames=2 "
    "output.turntable_size_px=32 surface.resolution=10"
)


@pytest.fixture
def crate():
    """A box with Blender's own UV map, turned, stretched, off the origin, as artists leave it."""
    bpy.ops.mesh.primitive_cube_add(location=(3, 1, 2), rotation=(0.0, 0.0, 0.6))
    obj = bpy.context.active_object
    obj.name, obj.scale = "Crate", (0.5, 0.8, 1.5)
    bpy.context.view_layer.update()
    return obj


def world_places(obj):
    return np.array([obj.matrix_world @ vertex.co for vertex in obj.data.vertices])


def uvs_of(obj):
    return np.array([corner.vector[:] for corner in obj.data.uv_layers.active.uv])


# What is asked


@pytest.mark.parametrize(("name", "stage"), [("new_texture", "texture"), ("refine_shape", "refine"), ("start_from_mesh", "generate")])
def test_each_asks_for_its_stage_with_the_panels_settings_and_the_place_of_the_mesh(crate, asked, name, stage):
    settings = bpy.context.scene.dreamfusion
    settings.prompt, settings.preset, settings.seed, settings.height_m = "a wooden crate", "STANDARD", 5, 9.0
    settings.engine.training__n_steps = 77
    entry = asked(name)
    request, plan = entry.request, entry.plan
    assert (request.stage, request.prompt, request.preset, request.seed) == (stage, "a wooden crate", "standard", 5)
    assert request.overrides == {"training.n_steps": "77", "surface.colors": "gray"}, "it has no picture to start from"
    assert Path(request.start_mesh).is_file() and request.start_from == ""
    assert plan.location == pytest.approx((3, 1, 0.5)) and plan.height_m == pytest.approx(3.0), "where the mesh stands, as high as it is"
    assert plan.into_object == ("Crate" if name == "new_texture" else "") and plan.only_texture == (name == "new_texture")


def test_scene_units_and_given_values_win(crate, asked):
    bpy.context.scene.unit_settings.scale_length = 0.01
    entry = asked("refine_shape", prompt="a chest", seed=9, settings="surface.colors=gray training.n_steps=5", into_selected=True)
    assert (entry.request.prompt, entry.request.seed) == ("a chest", 9)
    assert entry.request.overrides == {"training.n_steps": "5", "surface.colors": "gray"}
    assert entry.plan.height_m == pytest.approx(0.03) and entry.plan.into_object == "Crate" and not entry.plan.only_texture


def test_a_script_can_name_a_mesh_file_instead(asked):
    request = asked("generate", prompt="a mug", start_mesh="/meshes/block-out.glb").request
    assert (request.stage, request.start_mesh) == ("generate", "/meshes/block-out.glb")


def test_a_generated_object_proposes_its_own_prompt_and_colors(asked, result_folder):
    bpy.ops.dreamfusion.import_result(folder=str(result_folder))
    bpy.context.scene.dreamfusion.prompt = "a blue car"
    refine = asked("refine_shape").request
    assert refine.prompt == "a red box" and refine.overrides["surface.colors"] == "source"
    assert asked("new_texture").request.overrides["surface.colors"] == "gray"
    assert asked("new_texture", keep_colors=True).request.prompt == "a blue car"


def test_modifiers_are_in_the_file_unless_the_mesh_is_to_be_exchanged(crate, asked, addon):
    crate.modifiers.new("Array", "ARRAY").count = 2
    read = addon("bl.source_object").read_source
    whole = asked("refine_shape", prompt="a chest").request.start_mesh
    bare = asked("refine_shape", prompt="a chest", into_selected=True).request.start_mesh
    assert Path(whole).stat().st_size >= Path(bare).stat().st_size + 12 * 3 * 5 * 4, "12 triangles more, of 3 corners with 5 numbers"
    assert len(read(crate).faces) == 24 and len(read(crate, with_modifiers=False).faces) == 12


def test_a_mirrored_object_is_read_with_its_outside_outside(crate, addon):
    crate.scale.x *= -1
    bpy.context.view_layer.update()
    source = addon("bl.source_object").read_source(crate)
    a, b, c = (source.vertices[source.faces[:, i]] for i in range(3))
    assert np.einsum("ij,ij->", a, np.cross(b, c)) > 0


@pytest.mark.parametrize("name", ["new_texture", "refine_shape", "start_from_mesh"])
def test_without_a_mesh_or_an_engine_the_poll_says_so(name, crate, asked, addon, monkeypatch):
    operator = getattr(bpy.ops.dreamfusion, name)
    assert operator.poll()
    bpy.context.view_layer.objects.active = None
    with pytest.raises(RuntimeError, match="Select a mesh object first"):
        operator(prompt="a crate")
    bpy.context.view_layer.objects.active = crate
    monkeypatch.delenv("DREAMFUSION_ENGINE_PYTHON")
    addon("ui.preferences").forget_cache()
    with pytest.raises(RuntimeError, match="The engine is not set up"):
        operator(prompt="a crate")


def test_a_flat_mesh_and_an_empty_prompt_are_refused_with_a_sentence(crate, asked):
    with pytest.raises(RuntimeError, match="The prompt is empty"):
        asked("new_texture")
    bpy.ops.mesh.primitive_plane_add()
    with pytest.raises(RuntimeError, match="Plane is flat. Stand it up"):
        asked("new_texture", prompt="a carpet")
    bpy.context.object.data.clear_geometry()
    with pytest.raises(RuntimeError, match="has no faces"):
        asked("new_texture", prompt="a carpet")


# What comes back, from a result that was written here


def import_into(addon, obj, folder, **plan):
    import json

    base = addon("core.import_plan").ImportPlan(into_object=obj.name, **plan)
    bpy.ops.dreamfusion.import_result(folder=str(folder), plan=json.dumps(base.to_json()))
    return addon("ui.runtime").imported()


def texture_result(addon, obj, folder, shift=0.0):
    """As the engine answers: the mesh of `obj` in the engine's own size, its UVs, a green picture."""
    source = addon("bl.source_object").read_source(obj)
    write_box_result(folder, prompt="a green crate")
    np.savez(folder / "mesh.npz", vertices=source.vertices / 3, faces=source.faces, corner_uvs=source.corner_uvs + np.float32(shift))
    write_png(folder / "albedo.png", np.full((8, 8, 3), (0, 200, 0), np.uint8))
    return folder


def test_a_texture_goes_onto_the_mesh_and_changes_nothing_else_of_it(crate, addon, tmp_path):
    crate.modifiers.new("Bevel", "BEVEL").show_viewport = False
    crate.data.materials.append(bpy.data.materials.new("Old"))
    crate.data.materials.append(bpy.data.materials.new("Older"))
    crate.data.polygons[3].material_index = 1
    folder = texture_result(addon, crate, tmp_path / "job" / "result")
    mesh, places, uvs = crate.data, world_places(crate), uvs_of(crate)
    notes = import_into(addon, crate, folder, only_texture=True)
    assert len(notes) == 1 and bpy.context.active_object is crate and len(bpy.data.objects) == 1
    assert crate.data is mesh and [len(polygon.vertices) for polygon in mesh.polygons] == [4] * 6, "its quads are quads"
    np.testing.assert_array_equal(world_places(crate), places)
    np.testing.assert_array_equal(uvs_of(crate), uvs)
    assert [material.name for material in mesh.materials] == ["a-green-crate"] and {p.material_index for p in mesh.polygons} == {0}
    assert bpy.data.images["a-green-crate_albedo"].packed_file is not None
    assert crate["dreamfusion_prompt"] == "a green crate" and "Bevel" in crate.modifiers


def test_a_texture_that_does_not_fit_becomes_a_new_object_and_says_why(crate, addon, tmp_path):
    folder = texture_result(addon, crate, tmp_path / "job" / "result", shift=0.01)
    notes = import_into(addon, crate, folder, only_texture=True, location=(3.0, 1.0, 0.5), height_m=3.0)
    assert "does not fit the UV map of Crate" in notes[1] and "Smart UV Project" in notes[1]
    made = bpy.context.active_object
    assert made is not crate and not crate.data.materials
    low, high = world_places(made).min(axis=0), world_places(made).max(axis=0)
    np.testing.assert_allclose([low, high], [world_places(crate).min(axis=0), world_places(crate).max(axis=0)], atol=1e-4)


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_a_shape_goes_into_the_object_and_stands_where_it_stood(crate, addon, tmp_path, mirror):
    crate.scale.x *= mirror
    crate.rotation_euler = (0.3, -0.4, 0.6)
    bpy.context.view_layer.update()
    source = addon("bl.source_object").read_source(crate)
    folder = write_box_result(tmp_path / "job" / "result", prompt="a chest")
    np.savez(folder / "mesh.npz", vertices=source.vertices / 3 + 0.1, faces=source.faces, corner_uvs=source.corner_uvs)
    before, matrix = world_places(crate), crate.matrix_world.copy()
    import_into(addon, crate, folder, location=source.bottom, height_m=source.height)
    assert bpy.context.active_object is crate and crate.matrix_world == matrix and crate.data.name == "a-chest"
    distance = np.linalg.norm(world_places(crate)[:, None] - before[None], axis=2)
    assert distance.min(axis=1).max() < 1e-4 and distance.min(axis=0).max() < 1e-4
    local = addon("bl.source_object").read_source(crate)
    a, b, c = (local.vertices[local.faces[:, i]] for i in range(3))
    assert np.einsum("ij,ij->", a, np.cross(b, c)) > 0, "its outside is outside"


def test_an_object_that_is_gone_gets_a_new_one_and_a_sentence(crate, addon, tmp_path):
    folder = texture_result(addon, crate, tmp_path / "job" / "result")
    bpy.data.objects.remove(crate)
    plan = addon("core.import_plan").ImportPlan
    imported = addon("bl.result_object").import_result(
        folder, plan(into_object="Crate", only_texture=True), scene=bpy.context.scene, view_layer=bpy.context.view_layer
    )
    assert imported.notes == ("Crate is no mesh of this file any more, so a new object was made.",)


def test_a_job_that_goes_on_is_for_what_it_began_for_until_another_file_is_open(crate, asked, addon, monkeypatch):
    entry = asked("new_texture", prompt="a crate")
    monkeypatch.undo()  # from here on the queue is the real one; without an engine the job ends at once and has begun all the same
    addon("ui.preferences").forget_cache()
    runtime = addon("ui.runtime")
    runtime.enqueue(entry)
    bpy.context.scene.cursor.location = (9, 9, 9)
    assert runtime.plan_again(bpy.context, entry.folder) == entry.plan
    assert runtime.plan_again(bpy.context, "/jobs/another").location == (9, 9, 9)
    bpy.ops.wm.read_homefile(app_template="", use_empty=True)
    assert runtime.plan_again(bpy.context, entry.folder).into_object == ""


def test_the_panel_offers_what_can_be_done_with_a_mesh_and_says_when_there_is_none(crate):
    drawn = draw("DREAMFUSION_PT_object")
    assert drawn.operators()[:3] == ["dreamfusion.new_texture", "dreamfusion.refine_shape", "dreamfusion.start_from_mesh"]
    bpy.context.view_layer.objects.active = None
    assert draw("DREAMFUSION_PT_object").texts() == "Select a mesh object first"


# Whole jobs


@pytest.mark.slow
def test_a_new_texture_comes_through_the_real_engine_onto_the_selected_mesh(crate, monkeypatch, engine_python, tiny_model, tmp_path):
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", engine_python)
    mesh, places, uvs = crate.data, world_places(crate), uvs_of(crate)
    folder = tmp_path / "job"
    end = bpy.ops.dreamfusion.new_texture(prompt="a wooden crate", seed=3, model=str(tiny_model), settings=TINY_STAGE, out_dir=str(folder))
    assert end == {"FINISHED"} and bpy.context.active_object is crate and crate.data is mesh
    np.testing.assert_array_equal(world_places(crate), places)
    np.testing.assert_array_equal(uvs_of(crate), uvs)
    assert [material.name for material in mesh.materials] == ["a-wooden-crate"]
    image = bpy.data.images["a-wooden-crate_albedo"]
    assert tuple(image.size) == (64, 64) and image.packed_file is not None and np.ptp(np.array(image.pixels[:])[:3]) >= 0
    assert crate["dreamfusion_prompt"] == "a wooden crate"
    again = bpy.ops.dreamfusion.history_more(folder=str(folder), n_steps=5)
    assert again == {"FINISHED"} and bpy.context.active_object["dreamfusion_steps_done"] == 2, "a stage goes on from what it made"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["refine_shape", "start_from_mesh"])
def test_a_shape_comes_through_the_real_engine_to_where_the_mesh_stands(
    name, crate, monkeypatch, engine_python, tiny_model, tmp_path, addon
):
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", engine_python)
    before = world_places(crate)
    operator = getattr(bpy.ops.dreamfusion, name)
    end = operator(prompt="a wooden crate", seed=3, model=str(tiny_model), settings=TINY_STAGE, out_dir=str(tmp_path / "job"))
    made = bpy.context.active_object
    assert end == {"FINISHED"} and made is not crate and tuple(made.scale) == (1, 1, 1)
    np.testing.assert_array_equal(world_places(crate), before)
    places = world_places(made)
    assert places[:, 2].min() == pytest.approx(0.5, abs=1e-3) and places[:, 2].max() == pytest.approx(3.5, abs=1e-3)
    assert math.dist(made.location, (3, 1, 0.5)) < 1e-3
