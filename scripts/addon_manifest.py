"""Checks an extension's manifest without Blender: every rule for which Blender or its build tool would refuse the zip."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# Identifies an entry for readers of every version of Blender; a plain sentence otherwise.
TEXT_CHARS = 64
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z.-]+)?")
BLENDER_VERSION = re.compile(r"\d+\.\d+\.\d+")
OLDEST_BLENDER = (4, 2, 0)
PERMISSIONS = {"files", "network", "clipboard", "camera", "microphone"}
PLATFORMS = {"windows-x64", "windows-arm64", "macos-x64", "macos-arm64", "linux-x64"}
TAGS = {
    "3D View", "Add Curve", "Add Mesh", "Animation", "Bake", "Camera", "Compositing", "Development", "Game Engine", "Geometry Nodes",
    "Grease Pencil", "Import-Export", "Lighting", "Material", "Mesh", "Modeling", "Node", "Object", "Paint", "Physics", "Pipeline",
    "Render", "Rigging", "Scene", "Sculpt", "Sequencer", "System", "Text Editor", "Tracking", "UV", "User Interface",
}  # fmt: skip


def manifest_faults(manifest: dict[str, Any]) -> list[str]:
    """What is wrong, one sentence each; empty if nothing is."""
    faults = [f"{name} is missing." for name in REQUIRED if name not in manifest]
    unknown = sorted(set(manifest) - set(REQUIRED) - set(OPTIONAL))
    faults += [f"{name} is not a field of a manifest." for name in unknown]
    for name, check in {**REQUIRED, **OPTIONAL}.items():
        if name in manifest and (fault := check(manifest[name])):
            faults.append(f"{name} {fault}.")
    if "Blender" in str(manifest.get("name", "")):
        faults.append("name must not contain Blender: it is a trade mark.")
    return faults


def _plain(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        return "must be a text that is not empty"
    if value != value.strip() or re.search(r"[\x00-\x1f\x7f-\x9f]", value):
        return f"must have neither white space at its ends nor control characters: {value!r}"
    return ""


def _short(value: Any) -> str:
    if fault := _plain(value):
        return fault
    if len(value) > TEXT_CHARS:
        return f"must be at most {TEXT_CHARS} characters long; it has {len(value)}"
    if not (value[-1].isalnum() or value[-1] in ")]}"):
        return f"must end without a full stop: {value!r}"
    return ""


def _id(value: Any) -> str:
    if fault := _plain(value):
        return fault
    if not value.isidentifier() or "__" in value or value.startswith("_") or value.endswith("_"):
        return f"is {value!r}, but must be letters, digits and single underscores inside"
    return ""


def _version(value: Any) -> str:
    return "" if isinstance(value, str) and VERSION.fullmatch(value) else f"is {value!r}, but must be like 0.1.0"


def _blender_version(value: Any) -> str:
    return "" if isinstance(value, str) and BLENDER_VERSION.fullmatch(value) else f"is {value!r}, but must be three numbers like 4.2.0"


def _oldest_blender(value: Any) -> str:
    if fault := _blender_version(value):
        return fault
    return "" if tuple(map(int, value.split("."))) >= OLDEST_BLENDER else f"is {value}, but extensions begin with Blender 4.2.0"


def _one_of(*allowed: str) -> Callable[[Any], str]:
    return lambda value: "" if value in allowed else f"is {value!r}, but must be {' or '.join(allowed)}"


def _texts(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return "must be a list that is not empty; leave it out otherwise"
    return next((fault for item in value if (fault := _plain(item))), "")


def _some_of(allowed: set[str]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if fault := _texts(value):
            return fault
        strange = [item for item in value if item not in allowed]
        return f"names {', '.join(strange)}; Blender knows {', '.join(sorted(allowed))}" if strange else ""

    return check


def _copyright(value: Any) -> str:
    if fault := _texts(value):
        return fault
    wrong = [item for item in value if not re.fullmatch(r"\d+(-\d+)? +\S.*", item)]
    return f"must be a year or two and a name, like '2026 Name': {wrong[0]!r}" if wrong else ""


def _permissions(value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return "must be a table that is not empty; leave it out otherwise"
    for name, reason in value.items():
        if name not in PERMISSIONS:
            return f"has {name}; Blender knows {', '.join(sorted(PERMISSIONS))}"
        if fault := _short(reason):
            return f"{name}: the reason {fault}"
    return ""


def _wheels(value: Any) -> str:
    if fault := _texts(value):
        return fault
    wrong = [item for item in value if "\\" in item or '"' in item or not re.fullmatch(r"[^/]+(-[^-/]+){4,5}\.whl", item.split("/")[-1])]
    return f"must be paths with forward slashes to wheels under their full names: {wrong[0]!r}" if wrong else ""


def _build(value: Any) -> str:
    if not isinstance(value, dict):
        return "must be a table"
    if "paths" in value and "paths_exclude_pattern" in value:
        return "may have paths or paths_exclude_pattern, not both"
    lists = [value[name] for name in ("paths", "paths_exclude_pattern") if name in value]
    return next((fault for items in lists if (fault := _texts(items))), "")


REQUIRED: dict[str, Callable[[Any], str]] = {
    "schema_version": _one_of("1.0.0"),
    "id": _id,
    "version": _version,
    "name": _plain,
    "tagline": _short,
    "maintainer": _plain,
    "type": _one_of("add-on", "theme"),
    "blender_version_min": _oldest_blender,
    "license": _texts,
}
OPTIONAL: dict[str, Callable[[Any], str]] = {
    "blender_version_max": _blender_version,
    "website": _plain,
    "copyright": _copyright,
    "tags": _some_of(TAGS),
    "platforms": _some_of(PLATFORMS),
    "permissions": _permissions,
    "wheels": _wheels,
    "build": _build,
}
