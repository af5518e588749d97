"""A Blender window under a test's hands: questions to its Python, a mouse, screenshots."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from scripts.real_window import SCREEN_SIZE, Place, read_screen

ROOT = Path(__file__).resolve().parents[2]
ANSWERING = Path(__file__).with_name("answering.py")
# The first frame of a window that a CPU draws takes its time.
START_TIMEOUT_S = 120.0
# Installing unpacks 40 MB while Blender draws.
INSTALL_TIMEOUT_S = 240.0
# Rows of buttons are 20 pixels high; half of one finds each.
SCAN_STEP_PX = 9
# Shares of the sidebar's width: the middle, then the outer ones of three buttons in a row. The tabs take the right edge.
SCAN_COLUMNS = (0.46, 0.74, 0.18)
# The mouse must rest before Blender draws the button under it as touched.
HOVER_S = 0.12

# The 3D view's sidebar, for the code of questions.
SIDEBAR = """
window = bpy.context.window_manager.windows[0]
area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
region = next(region for region in area.regions if region.type == "UI")
"""


class Window:
    """One running Blender. Positions are pixels of the screen, (0, 0) top left."""

    def __init__(self, place: Place, folder: Path, process: subprocess.Popen[bytes], screen: dict[str, str]) -> None:
        self.place, self.folder = place, folder
        self._process, self._screen = process, screen
        self._n_questions = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, code: str, timeout_s: float = 60.0) -> Any:
        """Run `code` in Blender between two frames; what it leaves in `answer` comes back (as JSON carries it)."""
        self._n_questions += 1
        path = self.folder / f"{self._n_questions:05d}.ask"
        path.with_suffix(".new").write_text(code, encoding="utf-8")
        path.with_suffix(".new").rename(path)
        answer = path.with_suffix(".answer")
        deadline = time.monotonic() + timeout_s
        while not answer.exists():
            assert self._process.poll() is None, f"Blender ended: {self.log()[-2000:]}"
            assert time.monotonic() < deadline, f"Blender does not answer: {code}\n{self.log()[-2000:]}"
            time.sleep(0.02)
        said = json.loads(answer.read_text(encoding="utf-8"))
        answer.unlink()
        assert "error" not in said, said.get("error")
        return said["answer"]

    def wait_until(self, code: str, timeout_s: float) -> Any:
        """Ask until the answer is true; returns it."""
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self.ask(code)
            if answer:
                return answer
            if time.monotonic() > deadline:
                picture = self.screenshot(self.folder / "timed-out.png")
                raise AssertionError(f"not within {timeout_s} s: {code}\nThe screen is in {picture}\n{self.log()[-2000:]}")
            time.sleep(0.5)

    def log(self) -> str:
        return (self.folder / "blender.log").read_text(errors="replace")

    def redraw(self) -> None:
        """Everything is drawn as it is now when this returns."""
        self.ask(
            "for window in bpy.context.window_manager.windows:\n"
            "    for area in window.screen.areas: area.tag_redraw()\n"
            "    with bpy.context.temp_override(window=window): bpy.ops.wm.redraw_timer(type='DRAW_WIN_SWAP', iterations=1)"
        )

    def screenshot(self, path: Path, part: str = "window") -> Path:
        """Save what the screen shows; `part`: "window", or "sidebar" for the 3D view's sidebar alone."""
        self.mouse("mousemove", SCREEN_SIZE[0] - 1, SCREEN_SIZE[1] - 1)  # out of the picture
        self.redraw()
        width, height, pixels = read_screen(self.folder)
        screen = Image.frombuffer("RGB", (width, height), pixels, "raw", "BGRX", 0, 1)
        left, top, width, height = self.sidebar() if part == "sidebar" else (0, 0, width, height)
        path.parent.mkdir(parents=True, exist_ok=True)
        screen.crop((left, top, left + width, top + height)).save(path, optimize=True)
        return path

    def install(self, archive: Path) -> None:
        """Install and enable the extension's zip."""
        code = f"bpy.ops.extensions.package_install_files(filepath={str(archive)!r}, repo='user_default', enable_on_install=True)"
        self.ask(code, timeout_s=INSTALL_TIMEOUT_S)
        self.ask("bpy.context.preferences.view.show_tooltips = False")  # they would cover what a screenshot shows

    def open_tab(self, name: str = "DreamFusion") -> None:
        """Show the sidebar with this tab in front, as wide as Blender makes it."""
        self.ask(SIDEBAR + "area.spaces.active.show_region_ui = True")
        time.sleep(0.5)  # the tabs are known once they were drawn
        self.ask(SIDEBAR + f"region.active_panel_category = {name!r}; area.tag_redraw()")
        self.wait_until(SIDEBAR + "answer = region.active_panel_category == " + repr(name), timeout_s=10.0)

    def sidebar(self) -> tuple[int, int, int, int]:
        """x, y, width, height."""
        x, y, width, height, window_height = self.ask(SIDEBAR + "answer = region.x, region.y, region.width, region.height, window.height")
        return x, window_height - y - height, width, height

    def mouse(self, *arguments: str | int | float) -> None:
        """An xdotool command line: mouse("mousemove", 10, 20, "click", 1)."""
        command = self.place.command(["xdotool", *map(str, arguments)], [self.folder], self._screen)
        subprocess.run(command, check=True, timeout=30)

    def find_button(self, operator: str) -> tuple[int, int]:
        """Where in the sidebar the button of an operator is: moves the mouse down and asks Blender what lies under it."""
        self.redraw()
        x, y, width, height = self.sidebar()
        question = (
            SIDEBAR + "bpy.context.window_manager.clipboard = ''\n"
            "with bpy.context.temp_override(window=window, area=area, region=region):\n"
            "    if bpy.ops.ui.copy_python_command_button.poll(): bpy.ops.ui.copy_python_command_button()\n"
            "answer = bpy.context.window_manager.clipboard"
        )
        for share in SCAN_COLUMNS:
            column = x + round(share * width)
            for row in range(y + SCAN_STEP_PX, y + height, SCAN_STEP_PX):
                self.mouse("mousemove", column, row)
                time.sleep(HOVER_S)
                if f"bpy.ops.{operator}(" in self.ask(question):
                    return column, row
        raise AssertionError(f"no button of {operator} in the sidebar")

    def click(self, operator: str) -> None:
        """Press the sidebar's button of this operator with the mouse."""
        x, y = self.find_button(operator)
        # A step aside first: a button reacts to a mouse that comes to it.
        self.mouse("mousemove", x + 3, y, "mousemove", x, y, "sleep", 0.2, "mousedown", 1, "sleep", 0.1, "mouseup", 1)

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Take what lies at `start` with the left button, and let it go at `end`; slowly, for a window that a CPU draws."""
        (x, y), (to_x, to_y) = start, end
        way: list[str | int] = ["mousemove", x, y, "sleep", 0.5, "mousedown", 1, "sleep", 0.4]
        for share in (0.05, 0.5, 0.95, 1.0):
            way += ["mousemove", round(x + share * (to_x - x)), round(y + share * (to_y - y)), "sleep", 0.4]
        self.mouse(*way, "mouseup", 1)


@contextmanager
def open_window(place: Place, folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[Window]:
    """A Blender with its own fresh user folder under `folder`; closed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with place.screen(folder) as screen, (folder / "blender.log").open("wb") as log:
        inside = {
            **screen,
            "HOME": str(folder),
            "BLENDER_USER_RESOURCES": str(folder / "user"),
            "DREAMFUSION_GUI_FOLDER": str(folder),
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        geometry = ["--window-geometry", "0", "0", *map(str, SCREEN_SIZE)]
        command = [place.blender, "--no-window-focus", *geometry, "--threads", "1", *arguments, "--python", str(ANSWERING)]
        process = subprocess.Popen(
            place.command(command, [ROOT, folder], inside), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        window = Window(place, folder, process, screen)
        try:
            window.ask("answer = bpy.app.version_string", timeout_s=START_TIMEOUT_S)
            yield window
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
