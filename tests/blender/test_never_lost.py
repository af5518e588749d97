"""Nothing that happens to Blender in the middle of a job loses it or harms the file: undo, load, save, render, a scene that goes, a fault
of one room, a disable. And whatever the engine does, a pump never holds Blender.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import addon_utils
import bpy
import pytest

from tests.blender_results import PACKAGE, ROOT, write_box_result

CORE_TESTS = ROOT / "tests" / "unit" / "core"
MAX_PUMP_S = 0.03


@pytest.fixture
def use_engine(tmp_path, monkeypatch, addon):
    """Names a program as the engine's Python that runs one of the stand-ins instead."""

    def use(program: str, *arguments: str) -> None:
        path = tmp_path / f"python-{'-'.join(Path(word).name for word in arguments)}"
        words = " ".join(f'"{word}"' for word in arguments)
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -u "{CORE_TESTS / program}" {words}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", str(path))
        addon("ui.preferences").forget_cache()

    return use


@pytest.fixture
def box(use_engine, tmp_path):
    use_engine("box_engine.py", str(write_box_result(tmp_path / "box")))


@pytest.fixture
def begin(addon, tmp_path):
    """Start a job as a window does: it returns at once."""

    def start(prompt: str = "a slow mug"):
        runtime = addon("ui.runtime")
        request = addon("core.protocol").messages.JobRequest(prompt=prompt)
        plan = runtime.current_plan(bpy.context)
        runtime.enqueue(addon("core.queue").QueueEntry(request, str(tmp_path / prompt.replace(" ", "-")), plan))
        return runtime

    return start


def drive(runtime, reached=lambda: False, timeout_s: float = 20.0) -> float:
    """What the timer does, until `reached` or the end; returns the longest call in seconds."""
    deadline, longest = time.monotonic() + timeout_s, 0.0
    while runtime.is_busy() and not reached():
        assert time.monotonic() < deadline, runtime.state()
        begun, begun_wall = time.thread_time(), time.perf_counter()
        runtime.pump()
        # Waiting shows on the wall clock only; a busy machine does too, so that has room.
        longest = max(longest, time.thread_time() - begun, (time.perf_counter() - begun_wall) / 10)
        time.sleep(0.005)
    return longest


def runs(runtime) -> bool:
    return runtime.state().step > 0


def object_names() -> list[str]:
    return sorted(obj.name for obj in bpy.data.objects)


def test_undo_in_the_middle_of_a_job_does_not_lose_its_object(box, begin):
    bpy.ops.ed.undo_push(message="start")
    bpy.data.objects.new("mine", None)
    bpy.ops.ed.undo_push(message="an object")
    runtime = begin()
    drive(runtime, lambda: runs(runtime))
    bpy.ops.ed.undo()
    bpy.ops.dreamfusion.finish_now()
    drive(runtime)
    assert runtime.problem() is None and "a-slow-mug" in object_names()
    bpy.ops.ed.undo_push(message="later")
    bpy.ops.ed.undo()
    bpy.ops.ed.undo()
    runtime.pump()
    assert runtime.problem() is None


def test_a_scene_that_is_renamed_or_deleted_mid_job_does_not_lose_its_object(box, begin):
    bpy.ops.scene.new(type="EMPTY")
    runtime = begin()
    drive(runtime, lambda: runs(runtime))
    bpy.context.scene.name = "Another name"
    bpy.ops.scene.delete()
    bpy.ops.dreamfusion.finish_now()
    drive(runtime)
    assert runtime.problem() is None
    assert "a-slow-mug" in [obj.name for obj in bpy.context.scene.objects]


def test_the_plan_of_a_running_job_holds_nothing_of_blenders_data(box, begin):
    runtime = begin()
    entry = runtime.queue().running
    assert json.loads(json.dumps(entry.to_json()))["plan"]["scene_name"] == bpy.context.scene.name


def test_another_file_opened_mid_job_leaves_the_result_for_a_click(box, begin, tmp_path):
    runtime = begin()
    drive(runtime, lambda: runs(runtime))
    bpy.ops.wm.read_homefile(app_template="", use_empty=True)
    bpy.ops.dreamfusion.finish_now()
    drive(runtime)
    assert not bpy.data.objects
    assert str(runtime.problem()) == "Another file was opened while the job ran. Click Import Result to have the object here."
    bpy.ops.dreamfusion.import_result()
    assert object_names() == ["a-slow-mug"]


def test_saving_mid_job_writes_a_whole_file_and_the_object_comes_afterwards(box, begin, tmp_path):
    runtime = begin()
    drive(runtime, lambda: runs(runtime))
    bpy.ops.dreamfusion.finish_now()
    time.sleep(0.5)  # the result waits to be taken
    seen = []
    bpy.app.handlers.save_pre.append(lambda *_: (runtime.pump(), seen.append(object_names())))
    try:
        bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    finally:
        bpy.app.handlers.save_pre.pop()
    assert seen == [[]], "nothing is imported while the file is written"
    drive(runtime)
    assert object_names() == ["a-slow-mug"]


def test_rendering_mid_job_sees_a_scene_that_does_not_change(box, begin):
    scene = bpy.context.scene
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera, scene.render.engine = camera, "CYCLES"
    scene.render.resolution_x = scene.render.resolution_y = 8
    scene.cycles.samples = 1
    runtime = begin()
    drive(runtime, lambda: runs(runtime))
    bpy.ops.dreamfusion.finish_now()
    time.sleep(0.5)
    seen = []
    bpy.app.handlers.render_pre.append(lambda *_: (runtime.pump(), seen.append(object_names())))
    try:
        bpy.ops.render.render()
    finally:
        bpy.app.handlers.render_pre.pop()
    assert seen == [["camera"]]
    drive(runtime)
    assert object_names() == ["a-slow-mug", "camera"]


def test_a_fault_of_a_follower_ends_the_follower_and_not_the_job(box, begin, capsys):
    calls = []

    def broken(state):
        calls.append(state)
        raise KeyError("a fault")

    runtime = begin("a mug")
    runtime.followers.append(broken)
    drive(runtime)
    assert object_names() == ["a-mug"] and len(calls) == 1
    assert broken not in runtime.followers and "a fault" in capsys.readouterr().err


def test_a_fault_in_the_pump_is_told_and_the_timer_goes_on(box, begin, monkeypatch):
    runtime = begin()
    drive(runtime, lambda: runs(runtime))

    def broken(*_arguments):
        raise ReferenceError("StructRNA of type Scene has been removed")

    with monkeypatch.context() as patch:
        patch.setattr(runtime._runtime.session, "poll", broken)
        assert runtime._tick() is not None
    assert "A fault in the add-on" in runtime.problem().text
    bpy.ops.dreamfusion.finish_now()
    drive(runtime)
    assert object_names() == ["a-slow-mug"]


@pytest.mark.parametrize("mode", ["hang", "deaf", "flood", "trickle", "crash", "orphan", "never_greets", "endless_line"])
def test_a_pump_is_never_held_whatever_the_engine_does(use_engine, begin, addon, monkeypatch, mode):
    session = addon("core.session")
    for name, seconds in {"HELLO_TIMEOUT_S": 1.0, "HANG_TIMEOUT_S": 1.0, "ORPHANED_PIPE_S": 0.5, "CANCEL_GRACE_S": 0.5}.items():
        monkeypatch.setattr(session, name, seconds)
    use_engine("fake_engine.py", mode)
    runtime = begin()
    if mode == "deaf":
        drive(runtime, lambda: runs(runtime))
        bpy.ops.dreamfusion.cancel()
    assert drive(runtime) < MAX_PUMP_S
    assert not runtime.is_busy()
    problem = runtime.problem()
    assert problem is None if mode == "deaf" else str(problem)


def our_timers() -> list[str]:
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(PACKAGE)]
    functions = {value for module in modules for value in vars(module).values() if isinstance(value, types.FunctionType)}
    return [function.__qualname__ for function in functions if bpy.app.timers.is_registered(function)]


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dreamfusion")]


def our_properties() -> list[str]:
    kinds = (bpy.types.Scene, bpy.types.WindowManager, bpy.types.Object, bpy.types.Camera)
    return [f"{kind.__name__}.{name}" for kind in kinds for name in dir(kind) if "dreamfusion" in name]


def test_a_disable_mid_job_leaves_no_process_thread_timer_property_or_image(box, begin, addon, tmp_path):
    images = len(bpy.data.images)
    runtime = begin()
    runtime.open_queue(tmp_path / "queue")
    begin("a bowl")
    drive(runtime, lambda: runs(runtime))
    addon("ui.history").read_again()
    pid = runtime.session()._engine.pid
    bpy.app.timers.register(runtime._tick, first_interval=60.0, persistent=True)
    assert our_timers() and our_properties()
    addon_utils.disable(PACKAGE)
    try:
        deadline = time.monotonic() + 10
        while our_threads() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert our_threads() == [] and our_timers() == [] and our_properties() == []
        assert len(bpy.data.images) == images
        assert not Path(f"/proc/{pid}").exists()
    finally:
        addon_utils.enable(PACKAGE)
    runtime = sys.modules[runtime.__name__]
    assert not runtime.is_busy() and runtime.session() is None, "nothing starts by itself"
    runtime.open_queue(tmp_path / "queue")
    assert [entry.request.prompt for entry in runtime.queue().left] == ["a slow mug", "a bowl"]
    assert runtime.queue().left[0].resume


def test_python_that_ends_mid_job_takes_the_engine_with_it(tmp_path):
    """A Blender that quits in good order: a process of its own, which leaves without a word to the add-on."""
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "import bpy\n"
        "from blender_dreamfusion.core.engine_process import EngineProcess\n"
        "from pathlib import Path\n"
        "engine = EngineProcess([sys.executable, '-I', '-u', sys.argv[2], 'deaf'], Path(sys.argv[3]))\n"
        "print(engine.pid, flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(ROOT), str(CORE_TESTS / "fake_engine.py"), str(tmp_path / "log")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    pid, deadline = int(done.stdout.split()[-1]), time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, "the engine outlived Blender"
        time.sleep(0.05)


TINY_RUN = (
    "training.n_steps=100000 training.checkpoint_every_s=1 training.batch_size=1 render.size_px=16 render.n_samples=16 "
    "mesh.resolution=24 mesh.texture_size=64 mesh.target_faces=300 mesh.isovalue=2 output.turntable_frames=0 output.turntable_size_px=32"
)


@pytest.mark.slow
def test_the_real_engine_killed_mid_job_goes_on_from_its_checkpoint_and_the_object_lands(addon, tmp_path, monkeypatch, engine_python):
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", engine_python)
    runtime, history = addon("ui.runtime"), addon("core.history")
    addon("ui.preferences").forget_cache()
    overrides = addon("core.settings").parse_overrides(TINY_RUN)
    request = addon("core.protocol").messages.JobRequest(prompt="a red mug", model="toybox", overrides=overrides)
    folder = tmp_path / "job"
    runtime.enqueue(addon("core.queue").QueueEntry(request, str(folder), runtime.current_plan(bpy.context)))
    longest = drive(runtime, lambda: bool((entry := history.read_entry(folder)) and entry.step), timeout_s=200)
    os.kill(runtime.session()._engine.pid, signal.SIGKILL)
    drive(runtime)
    assert "continue the job in the history" in runtime.problem().fix and not bpy.data.objects
    step = history.read_entry(folder).step
    assert step > 0

    plan = runtime.current_plan(bpy.context)
    runtime.enqueue(addon("core.queue").QueueEntry(history.saved_request(folder), str(folder), plan, resume=True))
    longest = max(longest, drive(runtime, lambda: runtime.state().phase == "train", timeout_s=200))
    assert runtime.state().step > step
    bpy.ops.dreamfusion.finish_now()
    drive(runtime, timeout_s=200)
    assert object_names() == ["a-red-mug"] and runtime.problem() is None
    assert longest < MAX_PUMP_S
