"""A Blender camera or viewport as the view that is asked for, pictures behind the camera, the light mesh: against Blender's own numbers."""

import math
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Matrix

from tests.blender_results import background_entries, write_proxy

LENSES = [
    {"lens": 35},
    {"lens": 85, "shift_x": 0.2, "shift_y": -0.1},
    {"sensor_fit": "VERTICAL", "sensor_height": 15},
    {"sensor_fit": "HORIZONTAL", "sensor_width": 20, "shift_y": 0.3},
    {"type": "ORTHO", "ortho_scale": 3, "shift_x": 0.15},
]


@pytest.mark.parametrize("size", [(640, 360, 1, 1), (300, 500, 1, 1), (500, 500, 1, 2), (500, 300, 1.5, 1)])
@pytest.mark.parametrize("values", LENSES)
def test_the_window_is_blender_s_own_camera_frame(addon, camera, size, values):
    render = bpy.context.scene.render
    render.resolution_x, render.resolution_y, render.pixel_aspect_x, render.pixel_aspect_y = size
    for name, value in values.items():
        setattr(camera.data, name, value)
    corners = [tuple(corner) for corner in camera.data.view_frame(scene=bpy.context.scene)]
    depth = 1.0 if camera.data.type == "ORTHO" else -corners[0][2]
    xs, ys = [corner[0] / depth for corner in corners], [corner[1] / depth for corner in corners]
    window = addon("bl.camera_view").camera_view(bpy.context.scene).window
    assert window == pytest.approx((min(xs), max(xs), min(ys), max(ys)), abs=1e-5)


@pytest.mark.parametrize("values", LENSES)
def test_a_viewport_that_looks_through_the_camera_is_the_same_view(addon, camera, values):
    """A viewport is its two matrices; here they are those that Blender computes for the camera."""
    for name, value in values.items():
        setattr(camera.data, name, value)
    camera.scale = (2, 2, 2)  # a camera's scale changes nothing
    bpy.context.view_layer.update()
    projection = camera.calc_matrix_camera(bpy.context.evaluated_depsgraph_get(), x=1920, y=1080)
    region_3d = SimpleNamespace(view_matrix=camera.matrix_world.normalized().inverted(), window_matrix=projection)
    module = addon("bl.camera_view")
    seen = module.region_view(SimpleNamespace(width=1920, height=1080), region_3d)
    expected = module.camera_view(bpy.context.scene)
    assert seen.orthographic == (camera.data.type == "ORTHO")
    assert seen.camera_to_world == pytest.approx(expected.camera_to_world, abs=1e-5)
    assert seen.window == pytest.approx(expected.window, abs=1e-4)
    assert seen.clip_start == pytest.approx(0.1, abs=1e-2) and seen.resembles(expected)


def test_cameras_that_cannot_be_followed_get_a_sentence(addon, camera):
    module = addon("bl.camera_view")
    camera.data.type = "PANO"
    with pytest.raises(module.CannotShowError, match="panoramic camera has no flat picture"):
        module.camera_view(bpy.context.scene)
    bpy.data.objects.remove(camera)
    with pytest.raises(module.CannotShowError, match="The scene has no camera"):
        module.camera_view(bpy.context.scene)


def test_a_view_in_the_object_s_frame_sees_a_corner_where_blender_sees_it(addon, camera):
    camera.data.shift_x, camera.data.lens = 0.1, 40
    bpy.context.scene.render.resolution_x, bpy.context.scene.render.resolution_y = 300, 400
    placement = addon("bl.camera_view").placement_of((0.3, 0.4, 0.5), 0.8, bpy.context.scene, None)
    asked = placement.set_view(addon("bl.camera_view").camera_view(bpy.context.scene), job="j")
    corner = np.array([0.4, -0.2, 1.0])  # in heights
    world = Matrix([[0.8, 0, 0, 0.3], [0, 0.8, 0, 0.4], [0, 0, 0.8, 0.5], [0, 0, 0, 1]]) @ Matrix.Translation(corner).translation
    expected = world_to_camera_view(bpy.context.scene, camera, world)
    local = np.linalg.inv(np.array(asked.camera_to_world).reshape(4, 4)) @ [*corner, 1]
    left, right, bottom, top = asked.window
    seen = (local[0] / -local[2] - left) / (right - left), (local[1] / -local[2] - bottom) / (top - bottom)
    assert seen == pytest.approx(expected[:2], abs=1e-5)


def test_a_replaced_object_is_where_the_preview_stands(addon, write_box, tmp_path):
    obj = bpy.data.objects.new("box", bpy.data.meshes.new("box"))
    obj.data.from_pydata([(-1, -1, 0), (1, -1, 0), (0, 1, 2.0)], [], [(0, 1, 2)])
    bpy.context.scene.collection.objects.link(obj)
    obj.location, obj.scale, obj.rotation_euler = (1, 2, 3), (0.5, 0.5, 0.5), (0, 0, math.radians(90))
    bpy.context.view_layer.update()
    placement = addon("bl.camera_view").placement_of((9, 9, 9), 7.0, bpy.context.scene, obj)
    matrix = np.array(placement.object_to_world).reshape(4, 4)
    assert placement.height == pytest.approx(1.0)
    assert matrix @ [1, 0, 1, 1] == pytest.approx([1, 3, 4, 1], abs=1e-6)


def test_the_background_image_covers_the_frame_in_front_and_leaves_no_trace(addon, camera, picture):
    background = addon("bl.camera_background")
    first, second = picture(), picture((0, 0, 255), 32, 32)
    background.show(camera.data, first)
    (entry,) = camera.data.background_images
    assert (entry.display_depth, entry.frame_method, entry.alpha, entry.scale) == ("FRONT", "STRETCH", 1.0, 1.0)
    assert camera.data.show_background_images and entry.image.size[:] == (16, 8)
    background.show(camera.data, second)
    (entry,) = camera.data.background_images
    assert entry.image.size[:] == (32, 32) and entry.image.pixels[2] == 1.0 and not entry.image.is_dirty
    background.show(camera.data, second, registered=False)
    assert background_entries(camera) == [(second, False)]
    assert len(bpy.data.images) == 1
    background.clear()
    assert not camera.data.background_images and not camera.data.show_background_images and len(bpy.data.images) == 0
    assert not camera.data.keys()


def test_the_user_s_own_background_images_stay(addon, camera, picture):
    background = addon("bl.camera_background")
    own = camera.data.background_images.new()
    own.image = bpy.data.images.load(picture())
    camera.data.show_background_images = True
    background.show(camera.data, picture())
    assert len(camera.data.background_images) == 2
    background.clear()
    assert [entry.image.name for entry in camera.data.background_images] == [bpy.data.images[0].name]
    assert camera.data.show_background_images


def test_the_light_mesh_stands_where_the_result_will_and_is_replaced_in_place(addon, tmp_path):
    proxy_mesh, read = addon("bl.proxy_mesh"), addon("core.proxy_file").read_proxy
    placement = addon("core.view_numbers").Placement.standing_at((1, 2, 3), 0.5)
    obj = proxy_mesh.show(bpy.context.scene, read(tmp_path / write_proxy(tmp_path / "a.npz")), placement)
    bpy.context.view_layer.update()
    top = max((obj.matrix_world @ vertex.co).z for vertex in obj.data.vertices)
    assert top == pytest.approx(3.5) and obj.matrix_world.translation[:] == (1, 2, 3)
    colors = np.empty(4 * 4, np.float32)
    obj.data.color_attributes["Color"].data.foreach_get("color_srgb", colors)
    assert colors.reshape(4, 4)[0] == pytest.approx([1, 0.5, 0, 1], abs=0.01)
    assert obj.hide_render and obj.hide_select and not obj.select_get()
    again = proxy_mesh.show(bpy.context.scene, read(tmp_path / write_proxy(tmp_path / "b.npz", 2.0)), placement)
    assert again == obj and len(bpy.data.objects) == len(bpy.data.meshes) == 1
    assert max(vertex.co.z for vertex in obj.data.vertices) == 2.0
    proxy_mesh.clear()
    assert not (len(bpy.data.objects) or len(bpy.data.meshes) or len(bpy.data.materials))


def test_a_file_that_is_no_light_mesh_is_refused(addon, tmp_path):
    read = addon("core.proxy_file").read_proxy
    (tmp_path / "rubbish.npz").write_bytes(b"rubbish")
    arrays = {"vertices": np.zeros((3, 3), np.float32), "colors": np.zeros((3, 3), np.float32), "faces": np.array([[0, 1, 2]], np.int32)}
    bad = {"faces": np.array([[0, 1, 3]], np.int32), "colors": np.zeros((2, 3), np.float32), "vertices": np.full((3, 3), np.nan)}
    for name, array in bad.items():
        np.savez(tmp_path / f"{name}.npz", **arrays | {name: array})
    for name in ("rubbish", *bad):
        with pytest.raises(ValueError):
            read(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "good.npz", **arrays)
    assert len(read(tmp_path / "good.npz").faces) == 1
