"""A real Blender in a window with the zip installed, one for all tests; the tests leave it idle."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.real_window import places
from tests.gui.window import ROOT, Window, open_window

PACKAGE = "bl_ext.user_default.blender_dreamfusion"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    found, reasons = places()
    for item in items:
        if str(item.path).startswith(here) and not found:
            item.add_marker(pytest.mark.skip(reason=" ".join(reasons)))


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    """The place that DREAMFUSION_WINDOW names, else the first there is."""
    import build_addon

    found, _ = places()
    place = next((place for place in found if place.name == os.environ.get("DREAMFUSION_WINDOW", place.name)), None)
    if place is None:
        pytest.skip(f"there is no window called {os.environ['DREAMFUSION_WINDOW']}")
    folder = tmp_path_factory.mktemp("window")
    archive = build_addon.build_zip(ROOT, folder)
    with open_window(place, folder) as opened:
        opened.install(archive)
        opened.open_tab()
        yield opened


@pytest.fixture(scope="session")
def engine_python(window: Window) -> Path:
    """A Python with torch that this window's Blender can start: named in the environment, or this one."""
    named = os.environ.get("DREAMFUSION_TEST_ENGINE_PYTHON") or sys.executable
    return window.place.reachable_python(Path(named), window.folder)


@pytest.fixture
def keep_screenshot(window: Window, tmp_path: Path) -> Callable[..., Path]:
    """Saves a picture of the window (or its sidebar) where DREAMFUSION_SCREENSHOTS says, else in the test's own folder."""
    folder = Path(os.environ.get("DREAMFUSION_SCREENSHOTS") or tmp_path)
    version = ".".join(str(number) for number in window.ask("answer = bpy.app.version[:2]"))
    return lambda name, part="sidebar": window.screenshot(folder / f"{name}-{version}.png", part)
