"""The running job through the camera, over a viewport and as a mesh in the scene: data that
survives undo, load and deletion, and at the end the real engine, whose preview must stand where its mesh will stand."""

import math
import time
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Matrix

from tests.blender_results import background_entries, write_proxy


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
    assert background_entries(camera) == [(path, True)]
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
    assert background_entries(camera) == [(first, False)]
    job.later(0.05)  # at rest
    assert last_view(job).camera_to_world[3] == pytest.approx(camera.location.x)
    second = picture()
    job.says(view_path=second, view_number=last_view(job).number)
    assert background_entries(camera) == [(second, True)]


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
    assert background_entries(other) == [(path, True)] and job.module.problem() == ""
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
    assert background_entries(camera) == [(path, True)]
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
    assert "DreamFusion Preview" in bpy.data.objects and len(background_entries(camera)) == 1


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
