"""The operator in the background: with engines that fail, and with the real one from prompt to object."""

import json
import os
import stat
import sys
import time
from pathlib import Path

import bpy
import numpy as np
import pytest

from tests.blender_results import ROOT, write_png

FAKE = ROOT / "tests" / "unit" / "core" / "fake_engine.py"
# The shortest run that passes through every phase.
TINY_RUN = (
    "training.n_steps=3 training.batch_size=1 render.size_px=16 render.n_samples=16 mesh.resolution=32 mesh.texture_size=128 "
    "mesh.target_faces=500 output.turntable_frames=2 output.turntable_size_px=32"
)


@pytest.fixture
def use_fake(tmp_path, monkeypatch):
    """Names a program as the engine's Python that runs the misbehaving engine instead."""

    def use(mode: str) -> None:
        program = tmp_path / f"python-{mode}"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -u "{FAKE}" {mode}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", str(program))

    return use


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("die_in_load", "no module named torch"),
        ("killed", "memory ran out"),
        ("crash", "ended unexpectedly"),
        ("out_of_memory", "Take the preset draft"),
        ("other_protocol", "speaks protocol 99"),
        ("good", "no mesh.npz"),  # the fake names a result folder that is not there
    ],
)
def test_every_failure_of_the_engine_is_an_error_of_the_operator(use_fake, addon, tmp_path, mode, words):
    use_fake(mode)
    with pytest.raises(RuntimeError, match=words):
        bpy.ops.dreamfusion.generate(prompt="a red mug", out_dir=str(tmp_path / "job"))
    assert not addon("ui.runtime").session().is_alive
    assert len(bpy.data.objects) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": " "}, "The prompt is empty"),
        ({"prompt": "a mug", "settings": "steps"}, "is not a setting"),
        ({"prompt": "x" * 2_000_000}, "too long"),
    ],
)
def test_bad_input_is_refused_before_an_engine_starts(use_fake, addon, arguments, words):
    use_fake("slow")
    with pytest.raises(RuntimeError, match=words):
        bpy.ops.dreamfusion.generate(**arguments)
    session = addon("ui.runtime").session()
    assert session is None or not session.is_alive


def test_without_an_engine_the_operator_says_how_to_set_one_up():
    with pytest.raises(RuntimeError, match="The engine is not set up. Click Set Up Engine, or name its Python in the add-on's preferences"):
        bpy.ops.dreamfusion.generate(prompt="a red mug")


def test_values_not_given_come_from_the_scenes_panel(use_fake, addon, monkeypatch):
    use_fake("good")
    seen = []
    runtime = addon("ui.runtime")
    real_start = runtime.start
    monkeypatch.setattr(
        runtime, "start", lambda request, *args, **kwargs: (seen.append((request, args[1])), real_start(request, *args, **kwargs))
    )
    settings = bpy.context.scene.dreamfusion
    settings.prompt, settings.preset, settings.seed, settings.height_m = "a blue chair", "STANDARD", 5, 0.9
    bpy.context.scene.cursor.location = (1, 2, 3)
    with pytest.raises(RuntimeError):
        bpy.ops.dreamfusion.generate(seed=6)
    request, plan = seen[0]
    assert (request.prompt, request.preset, request.seed) == ("a blue chair", "standard", 6)
    assert plan.location == (1, 2, 3) and plan.height_m == pytest.approx(0.9)


def drive(addon, reached, timeout_s: float = 10.0) -> None:
    """What the timer does in a window."""
    runtime = addon("ui.runtime")
    deadline = time.monotonic() + timeout_s
    while not reached(runtime.state()):
        assert time.monotonic() < deadline, runtime.state()
        runtime.pump()
        time.sleep(0.01)


def start_in_window(addon, tmp_path) -> None:
    """The window's half of the operator: start and return."""
    runtime, messages = addon("ui.runtime"), addon("core.protocol").messages
    plan = runtime.current_plan(bpy.context)
    python = Path(os.environ["DREAMFUSION_ENGINE_PYTHON"])
    runtime.start(messages.JobRequest(prompt="a red mug"), tmp_path / "job", plan, python=python, log_path=tmp_path / "engine.log")


def test_cancel_operator_ends_a_running_job_and_another_can_start(use_fake, addon, tmp_path):
    use_fake("slow")
    start_in_window(addon, tmp_path)
    drive(addon, lambda state: state.step > 2)
    bpy.ops.dreamfusion.cancel()
    drive(addon, lambda state: not state.is_active, timeout_s=5.0)
    assert addon("ui.runtime").state().status.value == "cancelled"


def test_another_file_opened_mid_job_does_not_get_the_object(use_fake, addon, tmp_path):
    use_fake("good")
    start_in_window(addon, tmp_path)
    drive(addon, lambda state: state.step > 2)
    bpy.ops.wm.read_homefile(app_template="", use_empty=True)
    drive(addon, lambda state: not state.is_active)
    assert addon("ui.runtime").problem().text == "Another file was opened while the job ran."


def test_nothing_is_imported_while_blender_renders_or_saves(use_fake, addon, tmp_path):
    use_fake("good")
    runtime = addon("ui.runtime")
    start_in_window(addon, tmp_path)
    runtime.block("render")
    drive(addon, lambda state: not state.is_active)
    runtime.pump()
    assert runtime.problem() is None, "the import (which fails with this engine) has not been tried"
    runtime.unblock("render")
    runtime.pump()
    assert "no mesh.npz" in str(runtime.problem())


def test_saving_lets_go_of_the_pump_again(addon, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    assert addon("ui.runtime")._runtime.blockers == set()


def test_pump_calls_stay_short_while_a_job_runs(use_fake, addon, tmp_path):
    use_fake("slow")
    start_in_window(addon, tmp_path)
    drive(addon, lambda state: state.step > 2)
    times = []
    for _ in range(50):
        time.sleep(0.01)
        begun = time.thread_time()  # of this thread: a busy machine does not count
        addon("ui.runtime").pump()
        times.append(time.thread_time() - begun)
    assert max(times) < 0.03 and sum(times) / len(times) < 0.005


@pytest.mark.slow
def test_prompt_becomes_an_object_through_the_real_engine(addon, tmp_path, monkeypatch, engine_python, tiny_model):
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", engine_python)
    end = bpy.ops.dreamfusion.generate(
        prompt="a red mug", preset="DRAFT", seed=3, model=str(tiny_model), settings=TINY_RUN, out_dir=str(tmp_path / "job"), height_m=0.5
    )
    assert end == {"FINISHED"}
    obj = bpy.context.view_layer.objects.active
    assert obj.name == "a-red-mug" and obj["dreamfusion_prompt"] == "a red mug" and obj["dreamfusion_seed"] == 3
    assert obj.dimensions.z == pytest.approx(0.5, rel=1e-3)
    edges = np.sort([edge.vertices[:] for edge in obj.data.edges])
    assert len(obj.data.vertices) - len(edges) + len(obj.data.polygons) == 2 or len(obj.data.polygons) * 3 == 2 * len(edges)
    assert bpy.data.images["a-red-mug_albedo"].packed_file is not None
    assert json.loads((tmp_path / "job" / "result" / "result.json").read_text())
    assert (tmp_path / "job" / "result" / "a-red-mug.glb").is_file()


@pytest.mark.slow
def test_an_engine_refusal_arrives_as_its_own_words(tmp_path, monkeypatch, engine_python):
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", engine_python)
    with pytest.raises(RuntimeError, match="no-such-model"):
        bpy.ops.dreamfusion.generate(prompt="a red mug", model="no-such-model", out_dir=str(tmp_path / "job"))


def test_a_model_that_works_from_a_picture_asks_for_a_picture_and_not_for_words(addon, asked, picture, tmp_path):
    readiness, settings = addon("ui.readiness"), bpy.context.scene.dreamfusion
    settings.prompt, settings.model = "", "toybox-image"
    assert readiness.reason_against(bpy.context).text == "no picture"
    with pytest.raises(
        RuntimeError, match="The model toybox-image makes an object from a picture, not from words. Choose a reference image"
    ):
        asked("generate")
    shoe = Path(picture()).rename(tmp_path / "Left Shoe.png")
    settings.reference_path = str(shoe)
    assert readiness.reason_against(bpy.context) is None
    entry = asked("generate")
    assert (entry.request.prompt, entry.request.model, entry.request.reference_image) == ("", "toybox-image", str(shoe))
    assert Path(entry.folder).name.endswith("_left-shoe")
    settings.model = "toybox"  # words or not, the picture does not say what the other sides are of
    assert readiness.reason_against(bpy.context).text == "no prompt"
    with pytest.raises(RuntimeError, match="The prompt is empty"):
        asked("generate")


@pytest.mark.slow
def test_a_picture_alone_becomes_an_object_that_is_called_after_it(addon, tmp_path, monkeypatch, engine_python):
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", engine_python)
    pixels = np.full((48, 48, 3), 255, np.uint8)
    pixels[12:36, 16:32] = (200, 30, 30)
    write_png(tmp_path / "Red Box.png", pixels)
    end = bpy.ops.dreamfusion.generate(
        model="toybox-image", reference_image=str(tmp_path / "Red Box.png"), settings=TINY_RUN, out_dir=str(tmp_path / "job")
    )
    assert end == {"FINISHED"}
    obj = bpy.context.view_layer.objects.active
    assert obj.name == "red-box" and obj.get("dreamfusion_prompt", "") == ""
    assert (tmp_path / "job" / "result" / "red-box.glb").is_file()
    entry = addon("core.history").read_entry(tmp_path / "job")
    assert entry.prompt == "Red Box"
