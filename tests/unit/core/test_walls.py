"""What may not be imported inside Blender, and what may not be written in an extension."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "blender_dreamfusion").rglob("*.py"))
# What every Blender brings.
BLENDER = {"bpy", "bpy_extras", "mathutils", "gpu", "gpu_extras", "bl_operators", "bl_ui"}
ALLOWED_TOP = BLENDER | {"numpy", "engine", "__future__"}


def imports_of(path: Path) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_blender_numpy_and_the_standard_library_are_imported(path):
    import sys

    for name, level in imports_of(path):
        top = name.partition(".")[0]
        assert level or top in ALLOWED_TOP or top in sys.stdlib_module_names, name
        assert top != "engine" or path.name == "protocol.py", "engine is reached through core/protocol.py only"
        if path.parent.name == "core":
            assert top not in BLENDER, "core knows no bpy"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_extension_rules_are_kept(path):
    """No literal package name, no path games (but in the launcher, which runs in the engine's Python), no network."""
    source = path.read_text(encoding="utf-8")
    assert '"bl_ext' not in source and "'bl_ext" not in source
    assert "sys.path" not in source or path.name == "launch_engine.py"
    assert "urllib" not in source and "requests." not in source
    assert len(source.splitlines()) < 400
