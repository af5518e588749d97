"""Walls are tests: imports in the engine go down, never up, and Blender never comes in."""

import ast
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[3] / "engine"
# From the ground up (docs/architecture.md). Files that lie beside the rooms are above all of them, but for these words,
# which every room may use.
FLOORS = ["fields", "rendering", "scene", "guidance", "meshing", "training"]
WORDS_FOR_ALL = {"errors", "protocol", "schedule", "options", "version"}
# The trainer takes the whole of a job's settings; config.py holds settings only and imports no room's code.
CONFIG = "config"
# The shipped model's own workshop: uses the engine as anyone may, nothing in the engine uses it.
OUTSIDE = "toybox"
# A renderer is asked for pictures through cameras, so scene/cameras.py lies below it.
CAMERAS = "scene"


def engine_files():
    return sorted(path for path in ENGINE.rglob("*.py") if OUTSIDE not in path.relative_to(ENGINE).parts)


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def floor_of(room):
    return FLOORS.index(room) if room in FLOORS else len(FLOORS)


@pytest.mark.parametrize("path", engine_files(), ids=lambda p: str(p.relative_to(ENGINE)))
def test_imports_only_go_down(path):
    room = path.relative_to(ENGINE).parts[0].removesuffix(".py")
    for module in imported_modules(path):
        assert module.split(".")[0] not in ("bpy", "mathutils", "blender_dreamfusion"), module
        if not module.startswith("engine."):
            continue
        target = module.split(".")[1]
        if target in WORDS_FOR_ALL or target == room or (target == CONFIG and room == "training"):
            continue
        assert target != OUTSIDE, f"{path.name} imports {module}"
        if room == "rendering" and module == "engine.scene.cameras":
            continue
        if room in WORDS_FOR_ALL or room == CONFIG:
            assert target.endswith("_config") or module.split(".")[-1].endswith("_config"), f"{path.name} imports {module}"
            continue
        assert floor_of(target) <= floor_of(room), f"{path.name} imports {module}, which lies above it"


@pytest.mark.parametrize("path", engine_files(), ids=lambda p: str(p.relative_to(ENGINE)))
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


def test_guidance_knows_no_field_and_no_renderer():
    for path in (ENGINE / "guidance").glob("*.py"):
        assert not [m for m in imported_modules(path) if m.startswith(("engine.fields", "engine.rendering"))], path.name
