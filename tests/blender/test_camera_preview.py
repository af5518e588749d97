"""The running job through the camera, over a viewport and as a mesh in the scene: numbers against Blender's own, data that
survives undo, load and deletion, and at the end the real engine, whose preview must stand where its mesh will stand."""

import math
import time
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Matrix

from tests.blender_results import write_png


@pytest.fixture
def camera():
    """The scene's camera, three metres in front and a little above."""
    data = bpy.data.cameras.new("Camera")
    obj = bpy.data.objects.new("Camera", data)
    bpy.context.scene.collection.objects.link(obj)
    obj.location, obj.rotation_euler = (0.0, -3.0, 1.0), (math.radians(80), 0.0, 0.0)
    bpy.context.scene.camera = obj
    bpy.context.view_layer.update()
    return obj


@pytest.fixture
def picture(tmp_path):
    """Writes pictures; every call another file."""

    def write(color=(255, 0, 0), width=16, height=8):
        path = tmp_path / f"view-{len(list(tmp_path.glob('*.png')))}.png"
        write_png(path, np.full((height, width, 3), color, np.uint8))
        return str(path)

    return write


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


def entries(camera):
    return [(entry.image.filepath, entry.show_background_image) for entry in camera.data.background_images]


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
    assert entries(camera) == [(second, False)]
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


def write_proxy(path, height=1.0):
    corners = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0], [0, 0, height]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], np.int32)
    np.savez(path, vertices=corners, faces=faces, colors=np.tile(np.array([1.0, 0.5, 0.0], np.float32), (4, 1)))
    return str(path)


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


@pytest.fixture
def job(addon, monkeypatch, camera):
    """A job in the middle, its engine played by the test: `told` is what it was asked for, `says` what it answers."""
    runtime, job_state, module = addon("ui.runtime"), addon("core.job_state"), addon("ui.camera_preview")
    state = job_state.applied(
        job_state.started("j", "a red mug", "/jobs/j"), addon("core.protocol").messages.Progress(job="j", phase="train", step=1, of=9)
    )
    told = []
    session = SimpleNamespace(state=state, tell=told.append, shutdown=lambda: None, poll=lambda budget_s: False, is_alive=True)
    plan = addon("core.import_plan").ImportPlan(
        location=(0.0, 0.0, 0.0), scene_name=bpy.context.scene.name, file_count=runtime._runtime.file_count
    )
    monkeypatch.setattr(runtime._runtime, "session", session)
    monkeypatch.setattr(runtime._runtime, "plan", plan)
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])

    def says(**values):
        session.state = session.state._replace(**values)
        runtime.pump()

    def later(seconds=0.05):
        clock[0] += seconds
        runtime.pump()

    yield SimpleNamespace(told=told, says=says, later=later, state=lambda: session.state, Status=job_state.Status, module=module)
    module.clear()


def last_view(job):
    return [command for command in job.told if hasattr(command, "camera_to_world")][-1]


def test_nothing_is_asked_for_unless_it_is_wanted(job):
    job.later()
    assert job.told == []


def test_the_camera_is_asked_for_once_and_its_picture_shown_until_the_job_ends(job, camera, picture):
    bpy.context.scene.dreamfusion.camera.follow = "CAMERA"
    job.later()
    job.later()
    (asked,) = job.told
    assert (asked.job, asked.frame, asked.number, asked.every_s) == ("j", "object", 1, 2.0)
    path = picture()
    job.says(view_path=path, view_number=1)
    assert entries(camera) == [(path, True)]
    job.says(status=job.Status.CANCELLED)
    assert not camera.data.background_images and len(bpy.data.images) == 0


def test_a_moving_camera_is_asked_for_in_steps_and_never_shown_a_stale_picture(job, camera, picture):
    bpy.context.scene.dreamfusion.camera.follow = "CAMERA"
    job.later()
    first = picture()
    job.says(view_path=first, view_number=1)
    for _ in range(10):  # moves at every pump for half a second
        camera.location.x += 0.05
        bpy.context.view_layer.update()
        job.later(0.05)
    assert 2 <= last_view(job).number <= 3
    assert entries(camera) == [(first, False)]
    job.later(0.05)  # at rest
    assert last_view(job).camera_to_world[3] == pytest.approx(camera.location.x)
    second = picture()
    job.says(view_path=second, view_number=last_view(job).number)
    assert entries(camera) == [(second, True)]


def test_following_ends_when_it_is_switched_off_and_goes_on_with_another_camera(job, camera, picture):
    settings = bpy.context.scene.dreamfusion.camera
    settings.follow = "CAMERA"
    job.later()
    job.says(view_path=picture(), view_number=1)
    other = bpy.data.objects.new("Other", bpy.data.cameras.new("Other"))
    bpy.context.scene.collection.objects.link(other)
    bpy.data.objects.remove(camera)
    job.later()
    assert "no camera" in job.module.problem() and type(job.told[-1]).__name__ == "ClearView"
    bpy.context.scene.camera = other
    job.later()
    path = picture()
    job.says(view_path=path, view_number=last_view(job).number)
    assert entries(other) == [(path, True)] and job.module.problem() == ""
    settings.follow = "NONE"
    job.later()
    assert type(job.told[-1]).__name__ == "ClearView" and not other.data.background_images


def test_the_scene_of_the_job_is_followed_though_another_is_on_show(job, camera, picture, monkeypatch):
    first = bpy.context.scene
    first.dreamfusion.camera.follow = "CAMERA"
    second = bpy.data.scenes.new("Second")
    if bpy.context.window is not None:
        bpy.context.window.scene = second
    job.later()
    path = picture()
    job.says(view_path=path, view_number=1)
    assert entries(camera) == [(path, True)]
    bpy.data.scenes.remove(first)
    job.later()
    assert len(bpy.data.images) == 0


def test_a_light_mesh_comes_with_the_job_and_goes_with_it(job, tmp_path):
    settings = bpy.context.scene.dreamfusion.camera
    settings.use_proxy, settings.proxy_every_s = True, 3.0
    job.later()
    assert [(type(command).__name__, command.every_s) for command in job.told] == [("SetProxy", 3.0)]
    job.says(proxy_path=write_proxy(tmp_path / "a.npz"))
    assert "DreamFusion Preview" in bpy.data.objects
    job.says(proxy_path=str(tmp_path / "gone.npz"))
    assert "DreamFusion Preview" in bpy.data.objects, "a file that is gone keeps the last"
    settings.use_proxy = False
    job.later()
    assert job.told[-1].every_s == 0 and "DreamFusion Preview" not in bpy.data.objects
    settings.use_proxy = True
    job.later()
    job.says(proxy_path=write_proxy(tmp_path / "b.npz"))
    job.says(status=job.Status.FAILED)
    assert "DreamFusion Preview" not in bpy.data.objects


def show_all(job, camera, picture, tmp_path):
    settings = bpy.context.scene.dreamfusion.camera
    settings.follow, settings.use_proxy = "CAMERA", True
    job.later()
    job.says(view_path=picture(), view_number=1, proxy_path=write_proxy(tmp_path / "shown.npz"))
    assert "DreamFusion Preview" in bpy.data.objects and "DreamFusion Preview" in bpy.data.images


def test_a_saved_file_holds_nothing_of_half_a_job_and_it_comes_back_after_saving(job, camera, picture, tmp_path):
    show_all(job, camera, picture, tmp_path)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "saved.blend"), copy=True)
    with bpy.data.libraries.load(str(tmp_path / "saved.blend")) as (found, _):
        assert list(found.objects) == ["Camera"] and list(found.meshes) == []
    job.later()
    assert "DreamFusion Preview" in bpy.data.objects and len(entries(camera)) == 1


def test_what_an_autosave_kept_is_gone_after_loading(job, camera, picture, tmp_path):
    show_all(job, camera, picture, tmp_path)
    # Written without the handlers of a save, as an autosave is.
    bpy.data.libraries.write(str(tmp_path / "library.blend"), {bpy.context.scene, bpy.data.objects["DreamFusion Preview"]})
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "library.blend"))
    assert not [obj for obj in bpy.data.objects if "dreamfusion_preview" in obj]
    assert not [image for image in bpy.data.images if "dreamfusion_preview" in image]
    job.later()
    assert "DreamFusion Preview" not in bpy.data.objects, "another file was opened"


def test_undo_while_the_job_runs_and_after_it_leaves_what_is_right(job, camera, picture, tmp_path):
    bpy.ops.ed.undo_push(message="start")
    show_all(job, camera, picture, tmp_path)
    bpy.ops.ed.undo_push(message="shown")
    bpy.context.scene.dreamfusion.prompt = "x"
    bpy.ops.ed.undo_push(message="typed")
    bpy.ops.ed.undo()
    bpy.ops.ed.undo()
    job.later()
    job.says(proxy_path=write_proxy(tmp_path / "next.npz"))
    job.says(status=job.Status.DONE)
    assert not [obj for obj in bpy.data.objects if "dreamfusion_preview" in obj] and len(bpy.data.images) == 0
    bpy.ops.ed.redo()
    assert not [obj for obj in bpy.data.objects if "dreamfusion_preview" in obj] and len(bpy.data.images) == 0


def test_the_overlay_is_drawn_only_over_the_view_it_was_made_for(addon, monkeypatch, camera, picture):
    overlay, module = addon("ui.viewport_overlay"), addon("bl.camera_view")
    view = module.camera_view(bpy.context.scene)
    overlay.show(picture((255, 128, 0), 4, 2), view, bpy.context.scene.name)
    drawn = []
    monkeypatch.setattr(overlay, "_draw_over", lambda region, shown: drawn.append((region, shown.size)))
    projection = camera.calc_matrix_camera(bpy.context.evaluated_depsgraph_get(), x=1920, y=1080)

    def draw(shift=0.0, scene_name=None, width=1920):
        region_3d = SimpleNamespace(
            view_matrix=Matrix.Translation((shift, 0, 0)) @ camera.matrix_world.inverted(), window_matrix=projection
        )
        scene = SimpleNamespace(name=scene_name or bpy.context.scene.name)
        context = SimpleNamespace(scene=scene, region_data=region_3d, region=SimpleNamespace(width=width, height=1080))
        monkeypatch.setattr(overlay, "bpy", SimpleNamespace(context=context))
        drawn.clear()
        overlay._draw()
        return len(drawn)

    real = overlay.bpy
    assert overlay._overlay.picture.pixels[:4] == pytest.approx([1.0, 128 / 255, 0.0, 1.0]), "colours as stored: the shader converts them"
    assert draw() == 1 and drawn[0][1] == (4, 2)
    assert draw(shift=0.1) == 0 and draw(scene_name="Other") == 0 and draw(width=1000) == 0
    monkeypatch.setattr(overlay, "bpy", real)
    overlay.clear()
    assert overlay._overlay.handle is None and len(bpy.data.images) == 0


def test_the_panel_draws_with_and_without_a_problem(job, camera):
    calls = []

    class Layout:
        def column(self, **_):
            return self

        def prop(self, data, name, **_):
            assert hasattr(data, name)
            calls.append(name)

        def label(self, text="", icon="NONE"):
            calls.append(text)

    settings = bpy.context.scene.dreamfusion.camera
    settings.follow, settings.use_proxy = "CAMERA", True
    bpy.context.scene.camera = None
    job.later()
    bpy.types.DREAMFUSION_PT_camera.draw(SimpleNamespace(layout=Layout()), bpy.context)
    assert calls[:4] == ["follow", "every_s", "use_proxy", "proxy_every_s"] and "The scene has no camera" in " ".join(calls)


def silhouette(obj, scene, camera, width, height):
    """Where the camera sees the object, [H, W] bool, rows from the top: Blender projects, numpy fills."""
    points = np.array([world_to_camera_view(scene, camera, obj.matrix_world @ vertex.co) for vertex in obj.data.vertices])
    xy = np.stack([points[:, 0] * width, (1 - points[:, 1]) * height], axis=1)
    mask = np.zeros((height, width), bool)
    for polygon in obj.data.polygons:
        a, b, c = xy[list(polygon.vertices)]
        low = np.clip(np.floor(np.minimum(np.minimum(a, b), c) - 0.5), 0, (width, height)).astype(int)
        high = np.clip(np.ceil(np.maximum(np.maximum(a, b), c) + 0.5), low, (width, height)).astype(int)
        ys, xs = np.mgrid[low[1] : high[1], low[0] : high[0]] + 0.5
        sides = [(q[0] - p[0]) * (ys - p[1]) - (q[1] - p[1]) * (xs - p[0]) for p, q in ((a, b), (b, c), (c, a))]
        inside = (np.minimum.reduce(sides) >= 0) | (np.maximum.reduce(sides) <= 0)
        mask[low[1] : high[1], low[0] : high[0]] |= inside
    return mask


def iou(a, b):
    return float((a & b).sum() / (a | b).sum())


SHORT_RUN = {
    "training.n_steps": "70",
    "training.preview_every_s": "0",
    "training.batch_size": "2",
    "mesh.resolution": "48",
    "mesh.target_faces": "3000",
    "mesh.texture_size": "128",
    "mesh.supersample": "1",
    "output.turntable_frames": "0",
}


@pytest.mark.slow
@pytest.mark.needs_weights
def test_what_stands_in_the_preview_is_where_the_mesh_stands(addon, tmp_path, engine_python, camera):
    """One run of the real engine: a shifted portrait perspective while paused, then an orthographic one to the end."""
    scene, runtime, messages = bpy.context.scene, addon("ui.runtime"), addon("core.protocol").messages
    read_picture = addon("bl.preview").read_picture
    scene.render.resolution_x, scene.render.resolution_y = 300, 420
    scene.dreamfusion.camera.follow, scene.dreamfusion.camera.use_proxy = "CAMERA", True
    scene.dreamfusion.camera.proxy_every_s = 2.0
    camera.location, camera.rotation_euler = (1.6, -2.2, 1.5), (math.radians(75), 0, math.radians(35))
    camera.data.lens, camera.data.shift_x, camera.data.shift_y = 45, 0.08, -0.06
    bpy.context.view_layer.update()
    plan = addon("core.import_plan").ImportPlan(
        location=(0.2, 0.1, 0.4), height_m=0.8, scene_name=scene.name, file_count=runtime._runtime.file_count
    )
    request = messages.JobRequest(prompt="a red apple", overrides=SHORT_RUN, seed=1)
    runtime.start(request, tmp_path / "job", plan, python=engine_python, log_path=tmp_path / "engine.log")
    deadline = time.monotonic() + 500  # on a machine where everything else runs too

    def pump_until(reached):
        while not reached(runtime.state()):
            assert time.monotonic() < deadline and runtime.problem() is None, (runtime.state(), runtime.problem())
            runtime.pump()
            time.sleep(0.02)

    def pictured():
        """Coverage [H, W] bool of the picture that the camera shows now."""
        (entry,) = camera.data.background_images
        assert entry.show_background_image
        (width, height), pixels = read_picture(entry.image.filepath)
        return pixels.reshape(height, width, 4)[::-1, :, 3] > 0.5

    pump_until(lambda state: state.phase == "train" and state.step >= 50)
    runtime.session().pause()
    time.sleep(2.0)  # the step is done, and measuring the object anew is cheap again
    camera.location.x += 0.05
    bpy.context.view_layer.update()
    number = runtime.state().view_number
    pump_until(
        lambda state: (
            state.view_number > number + 1 or state.view_number > number and camera.data.background_images[0].show_background_image
        )
    )
    perspective, perspective_matrix = pictured(), camera.matrix_world.copy()
    proxy = next(obj for obj in bpy.data.objects if "dreamfusion_preview" in obj)
    proxy_mask = silhouette(proxy, scene, camera, perspective.shape[1], perspective.shape[0])

    other = bpy.data.objects.new("Flat", bpy.data.cameras.new("Flat"))
    scene.collection.objects.link(other)
    other.data.type, other.data.ortho_scale = "ORTHO", 1.6
    other.location, other.rotation_euler = (-2.0, -2.0, 1.9), (math.radians(70), 0, math.radians(-45))
    scene.camera = other
    bpy.context.view_layer.update()
    runtime.pump()  # asks for the new view before the job goes on
    runtime.session().resume()
    runtime.session().finish_now()
    last = ""

    def is_imported(state):
        nonlocal last
        last = state.view_path or last
        return runtime._runtime.plan is None and not state.is_active

    pump_until(is_imported)
    (width, height), pixels = read_picture(last)
    orthographic = pixels.reshape(height, width, 4)[::-1, :, 3] > 0.5
    assert not [obj for obj in bpy.data.objects if "dreamfusion_preview" in obj], "the proxy goes when the object is there"
    obj = bpy.context.view_layer.objects.active
    assert obj.dimensions.z == pytest.approx(0.8, rel=1e-3) and obj.location[:] == pytest.approx((0.2, 0.1, 0.4))
    camera.matrix_world = perspective_matrix
    bpy.context.view_layer.update()
    mask = silhouette(obj, scene, camera, perspective.shape[1], perspective.shape[0])
    scores = {
        "perspective": iou(mask, perspective),
        "proxy": iou(mask, proxy_mask),
        "orthographic": iou(silhouette(obj, scene, other, width, height), orthographic),
    }
    assert 0.02 < mask.mean() < 0.8 and min(scores.values()) >= 0.9, scores
