"""The rules of a manifest: ours refuse what Blender's own tool refuses, and more only where we say why."""

import copy
import shutil
import tomllib
from pathlib import Path

import pytest

import build_addon
from scripts.addon_manifest import manifest_faults

ROOT = Path(build_addon.__file__).resolve().parent
MANIFEST = tomllib.loads((ROOT / "blender_manifest.toml").read_text())

# Each breaks the manifest: a field, its value (None: taken away), a word of our sentence.
BREACHES = [
    ("schema_version", "2", "must be 1.0.0"),
    ("id", None, "id is missing"),
    ("id", "dream-fusion", "single underscores"),
    ("id", "_dream", "single underscores"),
    ("id", "dream__fusion", "single underscores"),
    ("version", "1.0", "like 0.1.0"),
    ("version", "01.0.0", "like 0.1.0"),
    ("name", "  ", "not empty"),
    ("name", " DreamFusion", "white space"),
    ("tagline", "It makes things.", "full stop"),
    ("tagline", "x" * 65, "it has 65"),
    ("tagline", "one\nline", "control characters"),
    ("maintainer", None, "maintainer is missing"),
    ("type", "addon", "add-on or theme"),
    ("blender_version_min", "4.2", "three numbers"),
    ("license", [], "a list that is not empty"),
    ("license", "GPL", "a list that is not empty"),
    ("tags", ["3D view"], "names 3D view"),
    ("tags", [], "a list that is not empty"),
    ("blender_version_max", "six", "three numbers"),
    ("website", "", "not empty"),
    ("copyright", ["The authors"], "a year or two"),
    ("permissions", {"disk": "Store things"}, "has disk"),
    ("permissions", {"files": "Store things."}, "full stop"),
    ("permissions", {"files": "x" * 65}, "it has 65"),
    ("wheels", ["wheels\\x-1-py3-none-any.whl"], "forward slashes"),
    ("wheels", ["./wheels/x.whl"], "full names"),
    ("build", {"paths": ["a"], "paths_exclude_pattern": ["b"]}, "not both"),
]
# Blender would let these pass; we do not.
OURS_ALONE = [
    ("name", "DreamFusion for Blender", "trade mark"),
    ("blender_version_min", "4.1.0", "begin with Blender 4.2.0"),
    ("platforms", ["amiga"], "names amiga"),
    ("tagine", "A typing error", "not a field"),
]


def broken(name: str, value: object) -> dict:
    manifest = copy.deepcopy(MANIFEST)
    if value is None:
        del manifest[name]
    else:
        manifest[name] = value
    return manifest


def test_our_manifest_has_no_fault():
    assert manifest_faults(MANIFEST) == []


@pytest.mark.parametrize(("name", "value", "words"), BREACHES + OURS_ALONE)
def test_each_breach_is_told_in_one_sentence_that_names_the_field(name, value, words):
    faults = manifest_faults(broken(name, value))
    assert len(faults) == 1 and words in faults[0] and faults[0].startswith(name) and faults[0].endswith(".")


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {as_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


@pytest.mark.skipif(build_addon.find_blender_tool() is None, reason="no bpy wheel for this Python")
def test_blenders_own_tool_refuses_every_breach_too(tmp_path):
    tags = tmp_path / "tags.py"
    tags.write_text(f"addons = set({MANIFEST['tags']!r})\nthemes = set()\n")
    passed = []
    for number, (name, value, _) in enumerate(BREACHES):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(ROOT / "__init__.py", folder)
        manifest = broken(name, value)
        (folder / "blender_manifest.toml").write_text("\n".join(f"{key} = {as_toml(item)}" for key, item in manifest.items()))
        try:
            build_addon.run_blender_tool("build", f"--valid-tags={tags}", f"--source-dir={folder}", f"--output-dir={tmp_path}")
            passed.append((name, value))
        except build_addon.BuildError:
            pass
    assert passed == []
