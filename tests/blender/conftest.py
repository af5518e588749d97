"""The bpy module with the real zip installed into a scratch user folder. Run in a process of its own: bpy and torch do not share one."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Read by Blender when it starts, so before bpy is imported: nobody's own preferences are touched.
USER_FOLDER = Path(tempfile.mkdtemp(prefix="dreamfusion-tests-"))
os.environ["BLENDER_USER_RESOURCES"] = str(USER_FOLDER)
PACKAGE = ".".join(("bl_ext", "user_default", "blender_dreamfusion"))
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
    bpy.ops.wm.read_homefile(app_template="", use_empty=True)
    bpy.context.scene.unit_settings.scale_length = 1.0
    yield
    importlib.import_module(f"{PACKAGE}.blender_dreamfusion.ui.runtime").shutdown()


def write_png(path: Path, pixels: np.ndarray) -> None:
    """[H, W, 3] uint8, first row on top; with the standard library, so that Blender's own reader is what is tested."""
    import struct
    import zlib

    height, width = pixels.shape[:2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + pixels[row].tobytes() for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.fixture
def result_folder(tmp_path: Path) -> Path:
    return write_box_result(tmp_path / "job" / "result")


def write_box_result(folder: Path, prompt: str = "a red box", seed: int = 7) -> Path:
    """A box of 0.6 x 0.8 x 1.2, off the origin, with a red front (-Y), and all other sides blue; every corner its own vertex."""
    import json

    low, high = np.array([0.1, -0.5, -0.9]), np.array([0.7, 0.3, 0.3])
    quads = {  # counter-clockwise from outside
        "front": [(0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)],
        "back": [(1, 1, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)],
        "right": [(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)],
        "left": [(0, 1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 1)],
        "top": [(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)],
        "bottom": [(0, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 0)],
    }
    vertices, faces, corner_uvs = [], [], []
    for name, quad in quads.items():
        left = 0.05 if name == "front" else 0.55  # red is the left half of the picture, blue the right
        square = [(left, 0.1), (left + 0.4, 0.1), (left + 0.4, 0.9), (left, 0.9)]
        first = len(vertices)
        vertices += [low + np.array(corner) * (high - low) for corner in quad]
        for triangle in ((0, 1, 2), (0, 2, 3)):
            faces.append([first + corner for corner in triangle])
            corner_uvs.append([square[corner] for corner in triangle])
    folder.mkdir(parents=True)
    np.savez(folder / "mesh.npz", vertices=np.float32(vertices), faces=np.int32(faces), corner_uvs=np.float32(corner_uvs))
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :16, 0] = 220
    pixels[:, 16:, 2] = 220
    write_png(folder / "albedo.png", pixels)
    (folder / "result.json").write_text(json.dumps({"request": {"prompt": prompt, "seed": seed, "preset": "draft"}, "engine": "0.1.0"}))
    return folder


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
