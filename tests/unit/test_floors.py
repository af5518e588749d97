"""The floors of docs/architecture.md: an import in the engine goes down, never up; what both sides import needs no package at all."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for path in (ROOT / "engine").rglob("*.py"))

# Room or module -> floor; the longest matching name counts. Geometry of cameras, errors and schedules lie at the bottom.
FLOORS = {
    "engine": 9,
    "engine.errors": 0,
    "engine.schedule": 0,
    "engine.version": 0,
    "engine.protocol": 0,
    "engine.options": 0,
    "engine.scene.cameras": 0,
    "engine.fields": 1,
    "engine.rendering": 1,
    "engine.scene": 2,
    "engine.guidance": 3,
    "engine.meshing": 4,
    "engine.model_store": 4,
    "engine.toybox": 4,
    "engine.training": 6,
    "engine.training.training_config": 5,
    "engine.training.surface_config": 5,
    "engine.config": 5,
}


def floor_of(module: str) -> int:
    while module not in FLOORS:
        module = module.rpartition(".")[0]
    return FLOORS[module]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def engine_imports(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("engine."):
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("engine.")]
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down(path: Path) -> None:
    here = module_of(path)
    for name in engine_imports(path):
        assert floor_of(name) <= floor_of(here), f"{here} (floor {floor_of(here)}) imports {name} (floor {floor_of(name)})"


def test_the_guidance_knows_no_field_and_no_renderer() -> None:
    for path in (ROOT / "engine" / "guidance").glob("*.py"):
        assert not [name for name in engine_imports(path) if name.startswith(("engine.fields", "engine.rendering"))], path.name


def test_what_blender_imports_needs_only_the_standard_library() -> None:
    for name in ("__init__.py", "protocol.py"):
        tree = ast.parse((ROOT / "engine" / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                assert module.partition(".")[0] in sys.stdlib_module_names, f"{name} imports {module}"
