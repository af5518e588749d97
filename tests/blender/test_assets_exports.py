"""Assets with preview and catalogue, and files for other programs, read back."""

from pathlib import Path

import bpy
import numpy as np
import pytest

from tests.blender_results import TORUS_PX, write_torus_result


@pytest.fixture
def ring(tmp_path):
    folder = write_torus_result(tmp_path / "job" / "result", 48, 16)
    bpy.ops.dreamfusion.import_result(folder=str(folder), height_m=0.4)
    return bpy.context.view_layer.objects.active


@pytest.fixture
def asset_settings():
    settings = bpy.context.scene.dreamfusion.asset
    settings.catalog, settings.tags, settings.author, settings.licence = "Props / Rings", "ring, ,gold", "Ada", "CC0-1.0"
    return settings


def test_an_asset_has_the_prompts_words_tags_author_licence_and_the_engines_picture(tmp_path, asset_settings):
    folder = write_torus_result(tmp_path / "job" / "result", 12, 8)
    bpy.ops.dreamfusion.import_result(folder=str(folder), mark_asset=True)
    obj = bpy.context.object
    data = obj.asset_data
    assert (data.description, data.author, data.license) == ("a torus", "Ada", "CC0-1.0")
    assert sorted(tag.name for tag in data.tags) == ["gold", "ring"]
    assert obj.preview.image_size[:] == (TORUS_PX, TORUS_PX)
    preview = np.array(obj.preview.image_pixels_float[:]).reshape(TORUS_PX, TORUS_PX, 4)
    assert preview[0, 0, 0] == pytest.approx(0.9, abs=0.02) and preview[..., 3].min() == 1
    assert "a-torus_albedo" in bpy.data.images and len(bpy.data.images) == 1, "the thumbnail is no image of the file"


def test_an_unsaved_file_has_no_catalogue_and_that_is_said(ring, asset_settings, addon):
    notes = addon("bl.assets").mark_asset(ring, thumbnail=None, catalog="Props/Rings")
    assert "no preview picture" in notes[0]
    assert notes[1].startswith("The asset is not in the catalog Props/Rings yet: the file has no folder. Save it")
    assert ring.asset_data is not None


def test_a_saved_files_asset_goes_into_the_catalogue_that_is_made_once(ring, asset_settings, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(home / "scene.blend"))
    for _ in range(2):
        assert bpy.ops.dreamfusion.mark_asset() == {"FINISHED"}
    lines = [line for line in (home / "blender_assets.cats.txt").read_text().splitlines() if ":" in line and not line.startswith("#")]
    assert len(lines) == 1
    number, path, name = lines[0].split(":")
    assert (path, name) == ("Props/Rings", "Props-Rings") and ring.asset_data.catalog_id == number
    assert sorted(file.name for file in home.iterdir()) == ["blender_assets.cats.txt", "scene.blend"]


def test_inside_an_asset_library_its_own_catalogues_are_used(ring, asset_settings, tmp_path):
    library = tmp_path / "library"
    (library / "props").mkdir(parents=True)
    known = "11111111-2222-3333-4444-555555555555"
    (library / "blender_assets.cats.txt").write_text(f"VERSION 1\n\n{known}:Props/Rings:Rings\n")
    libraries = bpy.context.preferences.filepaths.asset_libraries
    entry = libraries.new(name="Mine", directory=str(library))
    try:
        bpy.ops.wm.save_as_mainfile(filepath=str(library / "props" / "scene.blend"))
        bpy.ops.dreamfusion.mark_asset()
    finally:
        libraries.remove(entry)
    assert ring.asset_data.catalog_id == known
    assert not (library / "props" / "blender_assets.cats.txt").exists()


READERS = {
    "GLB": lambda path: bpy.ops.import_scene.gltf(filepath=path),
    "OBJ": lambda path: bpy.ops.wm.obj_import(filepath=path),
    "FBX": lambda path: bpy.ops.import_scene.fbx(filepath=path),
    "USD": lambda path: bpy.ops.wm.usd_import(filepath=path),
    "STL": lambda path: bpy.ops.wm.stl_import(filepath=path),
}


def world_bounds(objects) -> np.ndarray:
    bpy.context.view_layer.update()
    corners = np.array([obj.matrix_world @ vertex.co for obj in objects for vertex in obj.data.vertices])
    return np.array([corners.min(0), corners.max(0)])


@pytest.mark.parametrize("file_format", READERS)
def test_an_exported_object_reads_back_with_its_size_and_texture(ring, tmp_path, file_format):
    ring.location = (1, 2, 0)
    bpy.ops.mesh.primitive_cube_add()  # selected, but not what is exported
    cube = bpy.context.object
    bpy.context.view_layer.objects.active = ring
    suffix = {"GLB": ".glb", "OBJ": ".obj", "FBX": ".fbx", "USD": ".usdz", "STL": ".stl"}[file_format]
    path = tmp_path / f"ring{suffix}"
    assert bpy.ops.dreamfusion.export(filepath=str(tmp_path / "ring"), file_format=file_format) == {"FINISHED"}
    assert bpy.context.selected_objects == [cube] and bpy.context.view_layer.objects.active == ring
    assert len(bpy.data.scenes) == 1 and path.is_file()
    bpy.ops.wm.read_homefile(app_template="", use_empty=True)
    READERS[file_format](str(path))
    meshes = [obj for obj in bpy.data.objects if obj.type == "MESH"]
    assert sum(len(face.vertices) - 2 for obj in meshes for face in obj.data.polygons) == 2 * 48 * 16
    np.testing.assert_allclose(world_bounds(meshes), [[0.25, 1.25, 0], [1.75, 2.75, 0.4]], atol=1e-3)
    if file_format == "STL":
        return
    images = [image for image in bpy.data.images if image.name != "Render Result"]
    assert [image.size[:] for image in images] == [(TORUS_PX, TORUS_PX)]
    pixels = np.array(images[0].pixels[:]).reshape(TORUS_PX, TORUS_PX, -1)
    assert pixels[0, 0, 0] == pytest.approx(0.9, abs=0.02) and len(meshes[0].data.materials) == 1


def test_hidden_lods_are_exported_with_the_object_where_asked_for(ring, tmp_path):
    bpy.ops.dreamfusion.make_lods()
    for file_format, suffix in (("GLB", ".glb"), ("USD", ".usdc"), ("OBJ", ".obj")):
        bpy.ops.dreamfusion.export(filepath=str(tmp_path / f"ring{suffix}"), file_format=file_format, with_lods=True)
    assert all(bpy.data.objects[f"a-torus_LOD{n}"].hide_get() for n in (1, 2, 3))
    for file_format, suffix in (("GLB", ".glb"), ("USD", ".usdc"), ("OBJ", ".obj")):
        bpy.ops.wm.read_homefile(app_template="", use_empty=True)
        READERS[file_format](str(tmp_path / f"ring{suffix}"))
        assert sum(obj.type == "MESH" for obj in bpy.data.objects) == 4, file_format


def test_a_missing_exporter_is_a_sentence_with_the_way_to_it(ring, tmp_path):
    import addon_utils

    addon_utils.disable("io_scene_fbx")
    try:
        with pytest.raises(RuntimeError, match="needs the add-on FBX format. Switch it on in Preferences, Add-ons"):
            bpy.ops.dreamfusion.export(filepath=str(tmp_path / "ring.fbx"), file_format="FBX")
    finally:
        addon_utils.enable("io_scene_fbx")
    assert bpy.ops.dreamfusion.export(filepath=str(tmp_path / "ring.fbx"), file_format="FBX") == {"FINISHED"}


def test_places_that_cannot_be_written_are_sentences(ring, tmp_path):
    with pytest.raises(RuntimeError, match="There is no folder"):
        bpy.ops.dreamfusion.export(filepath=str(tmp_path / "nowhere" / "ring.glb"), file_format="GLB")
    with pytest.raises(RuntimeError, match="No file was named"):
        bpy.ops.dreamfusion.export(file_format="GLB")
    (tmp_path / "ring.stl").mkdir()
    with pytest.raises(RuntimeError, match="written"):
        bpy.ops.dreamfusion.export(filepath=str(tmp_path / "ring.stl"), file_format="STL")


def test_catalogue_paths_are_cleaned_and_strange_files_left_alone(addon, tmp_path):
    catalogs = addon("core.asset_catalogs")
    assert catalogs.clean_path(" Props //Kitchen: new/ ") == "Props/Kitchen- new"
    (tmp_path / catalogs.CATALOGS_FILE).write_text("VERSION 2\n")
    with pytest.raises(ValueError, match="version"):
        catalogs.catalog_id(tmp_path, "Props")
    assert (tmp_path / catalogs.CATALOGS_FILE).read_text() == "VERSION 2\n"
    libraries = [Path("/a"), Path("/a/b"), Path("/c")]
    assert catalogs.library_root(Path("/a/b/d/x.blend"), libraries) == Path("/a/b")
    assert catalogs.library_root(Path("/e/x.blend"), libraries) == Path("/e")
