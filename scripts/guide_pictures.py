"""The pictures of the user guide, taken in a real Blender window (see real_window.py).

    python scripts/guide_pictures.py                       into docs/images, in the newest Blender there is
    python scripts/guide_pictures.py --from-job FOLDER     the job in the pictures goes on from this one's last checkpoint but one
    python scripts/guide_pictures.py --history FOLDER ...  finished jobs that are in the history as well (copies of them)

Without --from-job a whole Draft is made, which takes its minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import numpy as np
from PIL import Image

from scripts.real_window import SCREEN_SIZE, places
from tests.gui.window import ROOT, Window, open_window

PACKAGE = "bl_ext.user_default.blender_dreamfusion"
RUNTIME = f"import importlib; runtime = importlib.import_module({PACKAGE + '.blender_dreamfusion.ui.runtime'!r})\n"
SETUP = RUNTIME.replace("runtime", "setup")
JOB_S = 3000.0
# Where in the sidebar the arrows of sub-panels' headers are, and where nothing of a header is; in pixels.
ARROW_PX, MARGIN_PX, ARROW_HALF_PX, BRIGHT = slice(30, 40), slice(10, 28), 5, 150
# Panels slide when something above them grows or goes.
SLIDE_S = 1.0
# Sub-panels by their class, opened in these groups.
SUB_PANELS = {
    "prompt-panels": ("negative_seed", "model", "reference"),
    "reference-panel": ("reference",),
    "mesh-panel": ("mesh",),
    "asset-panel": ("asset",),
    "advanced": ("advanced",),
    "live-preview": ("camera",),
    "selected-object": ("object",),
    "history": ("history",),
}
VIEW_3D = "area = next(area for area in bpy.context.window_manager.windows[0].screen.areas if area.type == 'VIEW_3D')\n"
KILL = "import os, signal; os.kill(runtime.session()._engine.pid, signal.SIGKILL)"


class Book:
    """Takes pictures of one window."""

    def __init__(self, window: Window, folder: Path) -> None:
        self.window, self.folder = window, folder

    def keep(self, name: str, part: str = "sidebar") -> None:
        print(self.window.screenshot(self.folder / f"{name}.png", part), flush=True)

    def keep_open(self, name: str, panels: tuple[str, ...]) -> None:
        with self.opened(panels):
            self.keep(name)

    @contextmanager
    def opened(self, panels: tuple[str, ...]) -> Iterator[None]:
        """With these sub-panels open. From below upwards, and closed from above downwards: so each header is where it was found."""
        rows = self._headers()
        for panel in reversed(panels):
            self._click(rows[panel])
        time.sleep(SLIDE_S)
        yield
        for panel in panels:
            self._click(rows[panel])

    def wheel(self, button: int) -> None:
        """4 rolls the sidebar up, 5 down, to its end."""
        x, y, width, height = self.window.sidebar()
        self.window.mouse("mousemove", x + width // 2, y + height // 2, "sleep", 0.3, "click", "--repeat", 30, "--delay", 50, button)
        time.sleep(SLIDE_S)

    def _headers(self) -> dict[str, int]:
        """The row of each closed sub-panel on the screen, found by the arrow that only headers have there."""
        self.window.redraw()
        time.sleep(SLIDE_S)
        _, y, _, height = self.window.sidebar()
        pixels = np.asarray(Image.open(self.window.screenshot(self.window.folder / "headers.png", "sidebar")).convert("L"))
        has_arrow = (pixels[:, ARROW_PX] > BRIGHT).any(axis=1) & ~(pixels[:, MARGIN_PX] > BRIGHT).any(axis=1)
        starts = [row for row in range(1, height) if has_arrow[row] and not has_arrow[row - 1]]
        names = self.window.ask(
            "kinds = [kind for kind in bpy.types.Panel.__subclasses__() if getattr(kind, 'bl_parent_id', '') == 'DREAMFUSION_PT_main']\n"
            "answer = [kind.__name__.removeprefix('DREAMFUSION_PT_') for kind in sorted(kinds, key=lambda kind: kind.bl_order)]"
        )
        return {name: y + row + ARROW_HALF_PX for name, row in zip(names, starts[-len(names) :])}

    def _click(self, row: int) -> None:
        x, _, width, _ = self.window.sidebar()
        self.window.mouse("mousemove", x + width // 2, row, "sleep", 0.3, "mousedown", 1, "sleep", 0.1, "mouseup", 1, "sleep", 1.0)

    def keep_preferences(self, name: str) -> None:
        first = "with bpy.context.temp_override(window=bpy.context.window_manager.windows[0]): "
        self.window.ask(first + f"bpy.ops.preferences.addon_show(module={PACKAGE!r})")
        self.window.wait_until("answer = len(bpy.context.window_manager.windows) == 2", 30.0)
        width, height = SCREEN_SIZE
        self.window.mouse("search", "--sync", "--name", "Preferences", "windowmove", 0, 0, "windowsize", width * 3 // 4, height)
        self.window.wait_until(f"answer = bpy.context.window_manager.windows[1].height > {height - 50}", 30.0)
        picture = self.window.screenshot(self.window.folder / "preferences.png")
        Image.open(picture).crop((0, 0, width * 3 // 4, height)).save(self.folder / f"{name}.png", optimize=True)
        self.window.ask("with bpy.context.temp_override(window=bpy.context.window_manager.windows[1]): bpy.ops.wm.window_close()")


def take_all(book: Book, engine_python: Path, job: Path | None) -> None:
    window = book.window
    book.keep("not-set-up")
    window.ask(f"bpy.context.preferences.addons[{PACKAGE!r}].preferences.engine_folder = '/home/artist/dreamfusion-engine'")
    window.ask("bpy.ops.dreamfusion.setup_examine()")
    window.wait_until(SETUP + "answer = setup._known.findings is not None", 120.0)
    book.keep("set-up")
    book.keep_preferences("preferences")
    window.ask(f"bpy.context.preferences.addons[{PACKAGE!r}].preferences.engine_python = {str(engine_python)!r}")
    prompt = json.loads((job / "job.json").read_text(encoding="utf-8"))["request"]["prompt"] if job else "a red mug"
    window.ask(f"bpy.context.scene.dreamfusion.prompt = {prompt!r}\nbpy.data.objects.remove(bpy.data.objects['Cube'])")
    book.keep("ready")
    for name in ("prompt-panels", "mesh-panel", "asset-panel", "advanced"):
        book.keep_open(name, SUB_PANELS[name])
    if job is not None:
        take_reference(book, job)
    window.ask(
        "bpy.context.scene.dreamfusion.camera.follow = 'VIEWPORT'\n"
        + VIEW_3D
        + "area.spaces.active.region_3d.view_distance, area.spaces.active.region_3d.view_location = 5.0, (0.0, 0.0, 0.5)"
    )
    book.keep_open("live-preview", SUB_PANELS["live-preview"])
    window.ask(f"bpy.ops.dreamfusion.generate(out_dir={str(job)!r}, resume=True)" if job else "bpy.ops.dreamfusion.generate()")
    window.wait_until(RUNTIME + "answer = runtime.state().view_path or not runtime.state().is_active", JOB_S)
    book.keep("running")
    book.keep("live-preview-window", "window")
    window.wait_until(RUNTIME + "answer = not runtime.state().is_active", JOB_S)
    window.wait_until(f"answer = {prompt.replace(' ', '-')!r} in bpy.data.objects", 60.0)
    window.ask(VIEW_3D + "area.spaces.active.shading.color_type = 'TEXTURE'")
    book.keep("finished")
    book.keep("finished-window", "window")
    window.ask(RUNTIME + "runtime.shutdown()")  # the panel is short again, and has room
    book.keep_open("selected-object", SUB_PANELS["selected-object"])
    with book.opened(SUB_PANELS["history"]):
        book.wheel(5)
        book.keep("history")
        book.wheel(4)
    take_ends(book)


def take_reference(book: Book, job: Path) -> None:
    """The panel of the reference pictures, with pictures of the job's own object in it."""
    front, *_, other = sorted((job / "previews").glob("*.png"))
    book.window.ask(
        f"bpy.ops.dreamfusion.set_reference(filepath={str(front)!r})\n"
        f"bpy.ops.dreamfusion.reference_add(filepath={str(other)!r}, azimuth_deg=90)\n"
        "bpy.context.scene.dreamfusion.reference_image.name, bpy.context.scene.dreamfusion.further_views[0].image.name = 'front', 'left'"
    )
    book.keep_open("reference-panel", SUB_PANELS["reference-panel"])
    book.window.ask("bpy.context.scene.dreamfusion.further_views.clear()\nbpy.context.scene.dreamfusion.reference_image = None")


def take_ends(book: Book) -> None:
    """A job that was cancelled, and one whose engine was killed."""
    window = book.window
    for name, end in (("cancelled", "bpy.ops.dreamfusion.cancel()"), ("failed", RUNTIME + KILL)):
        window.ask("bpy.ops.dreamfusion.generate(prompt='a green apple')")
        window.wait_until(
            RUNTIME + "answer = runtime.state().phase == 'train' and runtime.state().step > 5 or not runtime.state().is_active", JOB_S
        )
        window.ask(end)
        window.wait_until(RUNTIME + "answer = not runtime.state().is_active", 60.0)
        time.sleep(SLIDE_S)  # the history has read its folder by then
        book.keep(name)


def without_its_end(job: Path, folder: Path) -> Path:
    """A copy of a finished job as if it had been broken off before its last checkpoint."""
    copy = folder / job.name
    shutil.copytree(job, copy)
    shutil.rmtree(copy / "result", ignore_errors=True)
    sorted((copy / "checkpoints").iterdir())[-1].unlink()
    return copy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-job", type=Path, metavar="FOLDER")
    parser.add_argument("--history", type=Path, metavar="FOLDER", nargs="+", default=[])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--place", help="own, trixie or sid; left out: the last that real_window.py lists")
    options = parser.parse_args()
    import build_addon

    found, reasons = places()
    chosen = [place for place in found if options.place in (None, place.name)]
    if not chosen:
        print("\n".join(["There is no such window.", *reasons]), file=sys.stderr)
        return 2
    place = chosen[-1]
    python = Path(os.environ.get("DREAMFUSION_TEST_ENGINE_PYTHON") or sys.executable)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = build_addon.build_zip(ROOT, folder)
        jobs = folder / "jobs"
        jobs.mkdir()
        job = without_its_end(options.from_job, jobs) if options.from_job else None
        for finished in options.history:
            shutil.copytree(finished, jobs / finished.name, ignore=shutil.ignore_patterns("checkpoints"))
        with open_window(place, folder) as window:
            window.install(archive)
            window.open_tab()
            window.ask(f"bpy.context.preferences.addons[{PACKAGE!r}].preferences.jobs_folder = {str(jobs)!r}")
            take_all(Book(window, options.out), place.reachable_python(python, folder), job)
    return 0


if __name__ == "__main__":
    sys.exit(main())
