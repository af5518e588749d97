"""What the extension costs Blender: enabling it, following a job, importing a large result.

    python -m benchmarks.interface [--steps 40] [--triangles 100000] [--engine PYTHON]

Needs a Python with bpy; the zip is built and installed into a scratch user folder, the job is the real engine's with Toybox. Times are
the main thread's own processor time, so that other work on the machine changes little, with the wall clock beside them. Exit code 1
if a bar is missed. The pump is called as its timer does; what it does after the job's end, the import, is the last row's matter.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

FOLDER = Path(tempfile.mkdtemp(prefix="dreamfusion-interface-"))
os.environ["BLENDER_USER_RESOURCES"] = str(FOLDER / "user")  # read when bpy is imported
sys.dont_write_bytecode = False  # Blender keeps compiled modules, whatever this shell says

import bpy  # noqa: E402

import build_addon  # noqa: E402
from tests.blender_results import PACKAGE, write_png  # noqa: E402

# What we promise.
BARS = {"enable": 0.050, "pump, longest": 0.030, "pump, mean": 0.005, "import": 1.0}
TEXTURE_PX = 1024
REPEATS = 5
JOB_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Row:
    name: str
    about: str
    own_s: float
    wall_s: float

    @property
    def holds(self) -> bool:
        return self.own_s < BARS[self.name]


def clocked(work: Callable[[], object]) -> tuple[float, float]:
    """Processor and wall seconds of a call."""
    own, wall = time.thread_time(), time.perf_counter()
    work()
    return time.thread_time() - own, time.perf_counter() - wall


def addon(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.blender_dreamfusion.{name}")


def count_to_a_million() -> None:
    """A yardstick: what enabling costs is Python's work, and a desktop's core counts so far in about 20 ms."""
    for _ in range(1_000_000):
        pass


def measure_enable() -> Row:
    """Importing all modules and registering, with the files in the disk's cache; the median."""
    import addon_utils

    times = []
    for _ in range(REPEATS):
        addon_utils.disable(PACKAGE)
        for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
            del sys.modules[name]
        times.append(clocked(lambda: addon_utils.enable(PACKAGE)))
    return Row("enable", "add-on enabled", *(statistics.median(column) for column in zip(*times)))


def measure_pump(engine: Path, n_steps: int) -> list[Row]:
    """Every call of the pump while a real job runs, previews included."""
    runtime, messages = addon("ui.runtime"), addon("core.protocol").messages
    overrides = {"training.n_steps": str(n_steps), "mesh.resolution": "48", "output.turntable_frames": "2"}
    request = messages.JobRequest(prompt="a red mug", overrides=overrides)
    plan = runtime.current_plan(bpy.context)
    runtime.start(request, FOLDER / "job", plan, python=engine, log_path=FOLDER / "engine.log")
    times, deadline = [], time.monotonic() + JOB_TIMEOUT_S
    while runtime.state().is_active:
        assert time.monotonic() < deadline, "the job did not end"
        time.sleep(runtime.ACTIVE_POLL_S)
        times.append(clocked(runtime.pump))
    assert runtime.state().status.value == "done", runtime.problem()
    times = times[:-1]  # the last one imports
    own, wall = zip(*times)
    about = f"{len(times)} calls"
    return [
        Row("pump, longest", about, max(own), max(wall)),
        Row("pump, mean", about, statistics.fmean(own), statistics.fmean(wall)),
    ]


def write_sphere_result(folder: Path, n_triangles: int) -> int:
    """A closed ball as the engine would have made it, of about so many triangles; returns how many."""
    n = round(math.sqrt(n_triangles / 2))
    row, column = np.meshgrid(np.arange(n + 1), np.arange(n), indexing="ij")
    polar, turn = np.pi * row / n, 2 * np.pi * column / n
    vertices = np.stack([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)], axis=-1).reshape(-1, 3).round(6)
    row, column = (part.ravel() for part in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    corners = [row * n + column, row * n + (column + 1) % n, (row + 1) * n + (column + 1) % n, (row + 1) * n + column]
    faces = np.concatenate([np.stack([corners[0], corners[2], corners[1]], axis=1), np.stack([corners[0], corners[3], corners[2]], axis=1)])
    corner_uvs = np.random.default_rng(0).random((len(faces), 3, 2))
    folder.mkdir(parents=True)
    np.savez(folder / "mesh.npz", vertices=np.float32(vertices), faces=np.int32(faces), corner_uvs=np.float32(corner_uvs))
    write_png(folder / "albedo.png", np.random.default_rng(0).integers(0, 256, (TEXTURE_PX, TEXTURE_PX, 3), dtype=np.uint8))
    return len(faces)


def measure_import(n_triangles: int) -> Row:
    n_faces = write_sphere_result(FOLDER / "large" / "result", n_triangles)
    times = [clocked(lambda: bpy.ops.dreamfusion.import_result(folder=str(FOLDER / "large" / "result"))) for _ in range(REPEATS)]
    return Row("import", f"{n_faces:,} triangles, {TEXTURE_PX} px", *(statistics.median(column) for column in zip(*times)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="length of the job that is followed")
    parser.add_argument("--triangles", type=int, default=100_000)
    parser.add_argument("--engine", type=Path, default=Path(os.environ.get("DREAMFUSION_TEST_ENGINE_PYTHON") or sys.executable))
    options = parser.parse_args()
    archive = build_addon.build_zip(build_addon.ROOT, FOLDER)
    bpy.ops.extensions.package_install_files(filepath=str(archive), repo="user_default", enable_on_install=True)
    rows = [measure_enable(), measure_import(options.triangles), *measure_pump(options.engine, options.steps)]
    yardstick_s = min(clocked(count_to_a_million)[0] for _ in range(REPEATS))
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python counts to a million in {yardstick_s * 1e3:.0f} ms"
    print(f"Blender {bpy.app.version_string}, {machine}")
    print(f"{'':15}{'':28}{'own ms':>9}{'wall ms':>9}{'bar ms':>9}")
    for row in rows:
        verdict = "" if row.holds else "  missed"
        print(f"{row.name:15}{row.about:28}{row.own_s * 1e3:9.1f}{row.wall_s * 1e3:9.1f}{BARS[row.name] * 1e3:9.0f}{verdict}")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    code = main()
    addon("ui.runtime").shutdown()
    sys.stdout.flush()
    os._exit(code)  # bpy may hang while the interpreter takes itself apart
