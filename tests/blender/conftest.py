"""The bpy module with the real zip installed into a scratch user folder. Run in a process of its own: bpy and torch do not share one."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.blender_results import PACKAGE, ROOT, write_box_result, write_png

# Read by Blender when it starts, so before bpy is imported: nobody's own preferences are touched.
USER_FOLDER = Path(tempfile.mkdtemp(prefix="dreamfusion-tests-"))
os.environ["BLENDER_USER_RESOURCES"] = str(USER_FOLDER)
# For the real engine: on a busy machine, spinning threads of several programs slow each other down tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")
_exit_status = 0

bpy = pytest.importorskip("bpy", reason="no bpy wheel for this Python")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    global _exit_status
    _exit_status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """bpy 4.2 and 4.5 can crash or hang while the interpreter takes itself apart; the result is known by now."""
    shutil.rmtree(USER_FOLDER, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_exit_status)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip, built and installed and enabled as a user would; returns the zip."""
    import build_addon

    archive = build_addon.build_zip(ROOT, tmp_path_factory.mktemp("zip"))
    bpy.ops.extensions.package_install_files(filepath=str(archive), repo="user_default", enable_on_install=True)
    return archive


@pytest.fixture
def addon(installed: Path) -> Callable[[str], ModuleType]:
    """Modules of the installed extension by their path inside it: addon("ui.runtime")."""
    return lambda name: importlib.import_module(f"{PACKAGE}.blender_dreamfusion.{name}")


@pytest.fixture(autouse=True)
def fresh_file(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts in an empty file with no job and no engine."""
    monkeypatch.delenv("DREAMFUSION_ENGINE_PYTHON", raising=False)
    importlib.import_module(f"{PACKAGE}.blender_dreamfusion.ui.preferences").forget_cache()
    bpy.ops.wm.read_homefile(app_template="", use_empty=True)
    bpy.context.scene.unit_settings.scale_length = 1.0
    yield
    importlib.import_module(f"{PACKAGE}.blender_dreamfusion.ui.runtime").shutdown()


@pytest.fixture
def result_folder(tmp_path: Path) -> Path:
    return write_box_result(tmp_path / "job" / "result")


@pytest.fixture
def write_box() -> Callable[..., Path]:
    return write_box_result


@pytest.fixture(scope="session")
def engine_python() -> str:
    """A Python with torch: named in the environment, or this one."""
    named = os.environ.get("DREAMFUSION_TEST_ENGINE_PYTHON", "")
    if not named and importlib.util.find_spec("torch") is None:
        pytest.skip("no torch in this Python; name one that has it in DREAMFUSION_TEST_ENGINE_PYTHON")
    return named or sys.executable


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


@pytest.fixture
def asked(addon, monkeypatch, tmp_path):
    """Operators as far as the queue: what would have been run."""
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", "/usr/bin/python3")
    addon("ui.preferences").forget_cache()
    entries = []
    monkeypatch.setattr(addon("ui.runtime"), "enqueue", entries.append)
    monkeypatch.setattr(addon("ui.preferences"), "jobs_folder", lambda _context: tmp_path / "jobs")

    def ask(name, **arguments):
        entries.clear()
        getattr(bpy.ops.dreamfusion, name)(**arguments)
        return entries[0]

    return ask


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, engine_python) -> Path:
    """A Stable Diffusion layout with random weights, written by a process that may import torch."""
    folder = tmp_path_factory.mktemp("tiny_sd")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import tiny_sd; tiny_sd.build_tiny_sd(Path(sys.argv[2]))"
    subprocess.run([engine_python, "-c", code, str(ROOT / "tests"), str(folder)], check=True, capture_output=True)
    return folder
