"""Setting the engine up from inside Blender: what is shown, what is refused offline, and a real installation of tiny wheels."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import bpy
import psutil
import pytest

from tests.blender_results import PACKAGE
from tests.tiny_wheels import LAUNCHER, write_package_root, write_wheel, write_wheels

ICONS = {item.identifier for item in bpy.types.UILayout.bl_rna.functions["prop"].parameters["icon"].enum_items}
CONTAINERS = {"column", "row", "box", "split"}


class Drawn:
    """A layout that keeps what is drawn."""

    def __init__(self, calls: list | None = None) -> None:
        self.calls: list = [] if calls is None else calls

    def __getattr__(self, name: str):
        if name in CONTAINERS:
            return lambda **_: Drawn(self.calls)

        def record(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return SimpleNamespace()

        return record

    @property
    def text(self) -> str:
        return " ".join(str(kwargs.get("text", "")) for _, _, kwargs in self.calls)

    @property
    def operators(self) -> list[str]:
        return [args[0] for name, args, _ in self.calls if name == "operator"]


def preferences():
    """Never kept: unregistering takes what is behind it away."""
    return bpy.context.preferences.addons[PACKAGE].preferences


@pytest.fixture
def setup(addon, tmp_path, monkeypatch):
    """The set-up, with a tiny package and folders of its own; everything as before afterwards."""
    module = addon("ui.setup")
    monkeypatch.setattr(module, "PACKAGE_ROOT", write_package_root(tmp_path))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    preferences().engine_folder = str(tmp_path / "engine")
    preferences().base_python = sys.executable
    yield module
    addon("ui.tasks").shutdown()
    module.unregister_extra()
    for name in ("engine_folder", "base_python", "torch_index", "package_index", "engine_python", "engine_build"):
        preferences().property_unset(name)
    bpy.context.preferences.system.use_online_access = False


@pytest.fixture
def wheels(setup, tmp_path) -> Path:
    """Makes the plan install from a folder, so that no network is needed."""
    folder = write_wheels(tmp_path)
    preferences().torch_index = preferences().package_index = folder.as_uri()
    return folder


def sidebar(setup) -> Drawn:
    return checked(setup.draw_first_run)


def page(setup) -> Drawn:
    return checked(setup.draw_page)


def checked(draw) -> Drawn:
    drawn = Drawn()
    draw(drawn, bpy.context)
    for name, args, kwargs in drawn.calls:
        assert kwargs.get("icon", "NONE") in ICONS, kwargs
        if name == "prop":
            assert hasattr(args[0], args[1]), args
        if name == "operator":
            room, _, operator = args[0].partition(".")
            assert operator in dir(getattr(bpy.ops, room)), args
    return drawn


def engine_python(addon):
    return addon("ui.preferences").engine_python(bpy.context)


def pump_until(addon, reached, timeout_s: float = 120.0) -> None:
    """What the timer does in a window."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, addon("ui.tasks")._states
        addon("ui.tasks").pump()
        time.sleep(0.02)


def test_first_run_box_offers_the_set_up_and_starts_nothing(setup, addon):
    assert sidebar(setup).operators == ["dreamfusion.setup_examine", "dreamfusion.setup_use_python"]
    assert not bpy.app.timers.is_registered(addon("ui.tasks")._tick)
    assert not addon("ui.tasks")._running and not Path(addon("ui.preferences").engine_folder()).exists()


def test_a_look_at_the_machine_shows_what_would_happen(setup, tmp_path):
    assert bpy.ops.dreamfusion.setup_examine() == {"FINISHED"}
    drawn = sidebar(setup)
    for words in (
        "GB free on the disk",
        "Python 3.",
        "downloads 4 MB from torch.example and packages.example",
        "Into",
        "Download and Set Up",
    ):
        assert words in drawn.text, words
    assert {args[1] for name, args, _ in drawn.calls if name == "prop"} == {"engine_build", "engine_folder", "base_python"}
    assert not (tmp_path / "engine").exists(), "looking changes nothing"
    page(setup)


def test_offline_the_set_up_is_refused_with_the_button_that_allows_it(setup, addon, monkeypatch):
    bpy.ops.dreamfusion.setup_examine()
    drawn = sidebar(setup)
    assert "Blender may not go online" in drawn.text and "extensions.userpref_allow_online" in drawn.operators
    with pytest.raises(RuntimeError, match="Blender may not go online. Allow Online Access in Blender's preferences"):
        bpy.ops.dreamfusion.setup_install()
    assert not addon("ui.tasks").is_running("setup") and not addon("ui.preferences").engine_folder().exists()
    bpy.context.preferences.system.use_online_access = True
    assert setup.offline_reason() == "" and "may not go online" not in sidebar(setup).text
    forced = SimpleNamespace(app=SimpleNamespace(online_access=False, online_access_override=True))
    monkeypatch.setattr(setup, "bpy", forced)
    assert "started with --offline-mode" in setup.offline_reason()


def test_set_up_repair_less_use_and_removal_for_real(setup, wheels, addon, tmp_path):
    assert bpy.ops.dreamfusion.setup_install() == {"FINISHED"}
    python = engine_python(addon)
    assert python is not None and python.is_relative_to(tmp_path / "engine")
    version = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=True)
    assert version.stdout.strip() == "2.13.0"
    assert sidebar(setup).calls == [], "the box has done its work"
    drawn = page(setup)
    assert "Ready: Python 3." in drawn.text and "Remove (" in drawn.text and "Check and Update" in drawn.text
    assert "Successfully installed" in setup.log_path().read_text()
    assert bpy.ops.dreamfusion.setup_remove() == {"FINISHED"}
    assert engine_python(addon) is None and not (tmp_path / "engine").exists()
    assert "The engine was removed" in sidebar(setup).text


def test_cancel_in_the_window_and_then_go_on(setup, wheels, addon, monkeypatch):
    write_wheel(wheels, "torch", "2.13.0", payload_bytes=150_000_000)
    tasks = addon("ui.tasks")
    bpy.ops.dreamfusion.setup_examine()
    tasks.start(setup.WORK, addon("core.setup_task").install_task(setup._known.plan, setup.log_path()), setup._installed)
    assert not bpy.ops.dreamfusion.setup_install.poll() and not bpy.ops.dreamfusion.setup_remove.poll()
    pump_until(addon, lambda: tasks.state(setup.WORK).phase == "torch")
    drawn = sidebar(setup)
    assert "torch (3 of 5)" in drawn.text and drawn.operators == ["dreamfusion.setup_cancel", "dreamfusion.setup_open_log"]
    begun = time.monotonic()
    bpy.ops.dreamfusion.setup_cancel()
    pump_until(addon, lambda: not tasks.is_running(setup.WORK))
    assert time.monotonic() - begun < 5.0 and tasks.state(setup.WORK).status.value == "cancelled"
    pump_until(addon, lambda: not tasks.is_running(setup.EXAMINE))
    drawn = sidebar(setup)
    assert "Cancelled" in drawn.text and "Go On" in drawn.text and engine_python(addon) is None
    assert bpy.ops.dreamfusion.setup_install() == {"FINISHED"}
    assert "venv: done before" in setup.log_path().read_text() and engine_python(addon) is not None


def test_unregistering_ends_a_set_up_and_all_its_processes(setup, wheels, addon):
    tasks = addon("ui.tasks")
    bpy.ops.dreamfusion.setup_examine()
    task = addon("core.setup_task").install_task(setup._known.plan, setup.log_path())
    tasks.start(setup.WORK, task)
    pump_until(addon, lambda: tasks.state(setup.WORK).phase == "venv")
    children = psutil.Process(task._process.pid).children(recursive=True)
    addon("ui.addon").unregister()
    try:
        _, alive = psutil.wait_procs([*children], timeout=5)
        assert not alive and task._process.poll() is not None
        assert not tasks._running and setup._known.findings is None
    finally:
        addon("ui.addon").register()


def test_what_stands_in_the_way_is_shown_and_refused_before_anything_is_done(setup, wheels, addon, tmp_path):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "thesis.blend").write_text("years")
    with pytest.raises(RuntimeError, match="is not empty, and it is no engine's. Choose an empty one"):
        bpy.ops.dreamfusion.setup_install()
    assert "is not empty" in sidebar(setup).text
    assert os.listdir(tmp_path / "engine") == ["thesis.blend"]
    with pytest.raises(RuntimeError, match="nothing was deleted"):
        bpy.ops.dreamfusion.setup_remove()
    preferences().engine_folder = str(tmp_path / "other")  # looks again by itself
    addon("ui.tasks").wait(setup.EXAMINE)
    assert "is not empty" not in sidebar(setup).text
    preferences().engine_build = "rocm"
    assert "Choose Automatic" in sidebar(setup).text


def test_a_failure_is_a_sentence_in_the_box_with_the_log_and_a_way_on(setup, wheels, addon):
    (wheels / "torch-2.13.0-py3-none-any.whl").unlink()
    with pytest.raises(RuntimeError, match="A package has no version for this Python on this system"):
        bpy.ops.dreamfusion.setup_install()
    drawn = sidebar(setup)
    assert "A package has no version" in drawn.text and "Go On" in drawn.text and "dreamfusion.setup_open_log" in drawn.operators


def test_an_existing_python_is_checked_before_it_is_used(setup, addon, tmp_path):
    own = preferences()
    launcher = setup.PACKAGE_ROOT / "blender_dreamfusion" / "core" / "launch_engine.py"
    with pytest.raises(RuntimeError, match="is no program"):
        bpy.ops.dreamfusion.setup_use_python(filepath=str(tmp_path / "nothing"))
    launcher.write_text(LAUNCHER.replace("diffusers", "no-such-package"))
    with pytest.raises(RuntimeError, match="no-such-package missing"):
        bpy.ops.dreamfusion.setup_use_python(filepath=sys.executable)
    assert own.engine_python == "", "what failed is not used"
    launcher.write_text(LAUNCHER.replace('"ok" if v else "missing"', '"ok"'))
    assert bpy.ops.dreamfusion.setup_use_python(filepath=sys.executable) == {"FINISHED"}
    assert own.engine_python == sys.executable and engine_python(addon) == Path(sys.executable)
    assert "Ready: Python 3." in page(setup).text


def test_the_whole_preferences_page_draws(setup, addon):
    bpy.ops.dreamfusion.setup_examine()
    drawn = Drawn()
    page_class = addon("ui.preferences_page").DREAMFUSION_AP_preferences
    values = {name: getattr(preferences(), name) for name in page_class.__annotations__}
    page_class.draw(SimpleNamespace(layout=drawn, **values), bpy.context)
    assert "A fault" not in drawn.text and {"Engine", "Models", "Folders and Sources"} <= {kw.get("text") for _, _, kw in drawn.calls}


def test_no_log_is_said(setup):
    setup.log_path().unlink(missing_ok=True)
    with pytest.raises(RuntimeError, match="There is no log yet"):
        bpy.ops.dreamfusion.setup_open_log()
