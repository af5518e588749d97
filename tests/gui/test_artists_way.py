"""What an artist sees and does, in a real window: the panel in each state, the mouse on its buttons, the real engine behind."""

import time

import psutil
import pytest
from PIL import Image

from tests.gui.conftest import PACKAGE

# A whole job with the model that ships, as short as it can be without leaving a phase out.
SHORT_JOB = {
    "training__n_steps": 30,
    "training__batch_size": "1",
    "mesh__resolution": 48,
    "mesh__texture_size": 256,
    "mesh__target_faces": 3000,
    "output__turntable_frames": 2,
    "output__turntable_size_px": 64,
}
# A click is a frame or two; a frame that a busy CPU draws can take seconds.
CLICK_S = 20.0
LOADING_S = 180.0
JOB_S = 420.0
# The promise to the user.
CANCEL_S = 5.0

RUNTIME = f"import importlib; runtime = importlib.import_module({PACKAGE + '.blender_dreamfusion.ui.runtime'!r})\n"
STATUS = RUNTIME + "answer = runtime.state().status.value"


# Pixels of the screen, (0, 0) top left.
FIND_AREAS = """
window = bpy.context.window_manager.windows[0]
view = next(area for area in window.screen.areas if area.type == 'VIEW_3D')
outliner = next((area for area in window.screen.areas if area.type == 'OUTLINER'), None)
files = next((area for area in window.screen.areas if area.ui_type == 'FILES'), None)
def main_region(area): return next(region for region in area.regions if region.type == 'WINDOW')
def corner(area): return main_region(area).x, window.height - main_region(area).y - main_region(area).height
def middle(area): return corner(area)[0] + main_region(area).width // 3, corner(area)[1] + main_region(area).height // 2
"""

# When the job first was in each status, by Blender's clock.
NOTE_TIMES = """
import time
def note(state):
    if state.status.value not in ('cancelling', 'cancelled') or state.status.value not in note.times:
        note.times[state.status.value] = time.monotonic()
note.times = {}
runtime.followers.append(note)
"""


def status(window) -> str:
    return window.ask(STATUS)


def wait_for(window, wanted: str, timeout_s: float) -> None:
    window.wait_until(RUNTIME + f"answer = runtime.state().status.value == {wanted!r}", timeout_s)


def set_up(window, engine_python) -> None:
    window.ask(f"bpy.context.preferences.addons[{PACKAGE!r}].preferences.engine_python = {str(engine_python)!r}")


def describe_job(window, prompt: str, **options) -> None:
    lines = [f"settings.engine.{name} = {value!r}" for name, value in {**SHORT_JOB, **options}.items()]
    window.ask("settings = bpy.context.scene.dreamfusion\n" + f"settings.prompt = {prompt!r}\n" + "\n".join(lines))


def engines(window) -> list[psutil.Process]:
    """Processes that Blender started and that still run."""
    return [child for child in psutil.Process(window.pid).children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(autouse=True)
def idle(window):
    """Whatever a test began is over when the next begins."""
    yield
    window.ask(RUNTIME + "runtime.shutdown()")


def test_before_set_up_the_panel_tells_what_to_do_and_generate_does_nothing(window, keep_screenshot):
    window.ask("bpy.context.scene.dreamfusion.prompt = 'a red mug'")
    picture = Image.open(keep_screenshot("not-set-up"))
    assert len(picture.convert("L").getcolors()) > 20, "something is drawn"
    window.click("dreamfusion.generate")
    assert status(window) == "idle" and engines(window) == []


def test_a_picture_dropped_on_the_3d_view_becomes_the_reference(window):
    """Blender asks which of its drop handlers is meant; the key is the underlined letter of ours."""
    folder = window.folder / "pictures"
    folder.mkdir()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(folder / "mug.png")
    window.ask(FIND_AREAS + "outliner.ui_type = 'FILES'")
    window.wait_until(FIND_AREAS + "answer = files.spaces.active.params is not None", CLICK_S)
    window.ask(FIND_AREAS + f"files.spaces.active.params.directory = {str(folder).encode()!r}")
    window.ask(FIND_AREAS + "files.spaces.active.params.display_type = 'THUMBNAIL'; files.spaces.active.show_region_toolbar = False")
    time.sleep(2.0)  # the files are read beside
    window.redraw()
    (x, y), middle = window.ask(FIND_AREAS + "answer = corner(files), middle(view)")
    for _ in range(3):  # a busy machine misses a movement, or shows the menu late
        window.drag((x + 50, y + 60), tuple(middle))
        time.sleep(2.0)
        window.mouse("key", "d", "sleep", 2.0)
        if window.ask("answer = bpy.context.scene.dreamfusion.reference_image is not None"):
            break
        window.mouse("key", "Escape")
    assert window.ask("image = bpy.context.scene.dreamfusion.reference_image; answer = image and image.name") == "mug.png"
    window.ask(FIND_AREAS + "files.ui_type = 'OUTLINER'\nbpy.context.scene.dreamfusion.reference_image = None")


def test_a_click_on_generate_ends_with_the_object_in_the_scene(window, engine_python, keep_screenshot):
    set_up(window, engine_python)
    describe_job(window, "a red mug")
    before = window.ask("answer = sorted(obj.name for obj in bpy.context.scene.objects)")
    keep_screenshot("ready")
    window.click("dreamfusion.generate")
    window.wait_until(RUNTIME + "answer = runtime.state().is_active", CLICK_S)
    window.wait_until(RUNTIME + "answer = runtime.preview_icon() != 0 or not runtime.state().is_active", LOADING_S)
    assert status(window) == "running", window.ask(RUNTIME + "answer = str(runtime.problem())")
    keep_screenshot("running")
    wait_for(window, "done", JOB_S)
    window.wait_until("answer = bpy.context.view_layer.objects.active and bpy.context.view_layer.objects.active.name == 'a-red-mug'", 30.0)
    time.sleep(1.0)
    keep_screenshot("finished")
    keep_screenshot("finished-window", "window")
    made = window.ask(
        "obj = bpy.context.view_layer.objects.active\n"
        "low = min((obj.matrix_world @ vertex.co).z for vertex in obj.data.vertices)\n"
        "answer = obj.name, len(obj.data.polygons), obj.dimensions.z, low, len(obj.data.materials), obj.get('dreamfusion_prompt')"
    )
    name, n_faces, height, low, n_materials, prompt = made
    assert (name, prompt, n_materials) == ("a-red-mug", "a red mug", 1)
    assert n_faces > 100 and height == pytest.approx(1.0, abs=1e-3) and low == pytest.approx(0.0, abs=1e-3)
    assert set(before) < set(window.ask("answer = [obj.name for obj in bpy.context.scene.objects]"))


def test_one_undo_takes_the_object_away_and_redo_brings_it_back(window):
    names = "answer = 'a-red-mug' in bpy.data.objects"
    assert window.ask(names), "made by the test before"
    undo = "with bpy.context.temp_override(window=bpy.context.window_manager.windows[0]): bpy.ops.ed.{}()"
    window.ask(undo.format("undo"))
    assert not window.ask(names)
    window.ask(undo.format("redo"))
    assert window.ask(names)


def test_cancel_by_mouse_is_over_within_five_seconds_also_while_the_engine_loads(window, engine_python, keep_screenshot):
    set_up(window, engine_python)
    describe_job(window, "a blue bottle", training__n_steps=5000)
    window.click("dreamfusion.generate")
    window.wait_until(RUNTIME + "answer = runtime.state().is_active", CLICK_S)
    # Blender's own clock: questions and screenshots take a busy machine longer than the cancelling.
    window.ask(RUNTIME + NOTE_TIMES)
    window.click("dreamfusion.cancel")
    wait_for(window, "cancelled", CLICK_S)
    times = window.ask(RUNTIME + "answer = runtime.followers.pop().times")
    # From when it was first seen cancelling; that may be over between two looks, then from when it was last seen at work.
    cancelled = times.pop("cancelled")
    assert cancelled - times.get("cancelling", max(times.values())) < CANCEL_S
    keep_screenshot("cancelled")


def test_a_killed_engine_leaves_blender_alive_and_a_sentence_in_the_panel(window, engine_python, keep_screenshot):
    set_up(window, engine_python)
    describe_job(window, "a green apple", training__n_steps=5000)
    window.click("dreamfusion.generate")
    wait_for(window, "running", LOADING_S)
    for process in engines(window):
        process.kill()
    wait_for(window, "failed", 10.0)
    assert "memory ran out" in window.ask(RUNTIME + "answer = str(runtime.problem())")
    keep_screenshot("failed")
    begun = time.monotonic()
    window.ask("answer = 1")
    assert time.monotonic() - begun < 2.0 and engines(window) == []


def test_blenders_log_holds_no_traceback(window):
    """Last: of everything that the tests above drew and pressed."""
    assert "Traceback" not in window.log(), window.log()[-4000:]
