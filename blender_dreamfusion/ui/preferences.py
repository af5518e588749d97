"""What the add-on's preferences say: where the engine's Python, the jobs and the models are. They are drawn in `preferences_page`."""

import os
from pathlib import Path

import bpy

from ..core.settings import find_engine_python
from .ids import ADDON_PACKAGE

# Found once and kept: draw and poll must not look at the disk.
_cache: dict[str, Path | None] = {}


def own(context: bpy.types.Context) -> bpy.types.AddonPreferences | None:
    """The add-on's preferences; None while it is not enabled by Blender (a plain checkout)."""
    addon = context.preferences.addons.get(ADDON_PACKAGE)
    return addon.preferences if addon is not None else None


def engine_python(context: bpy.types.Context) -> Path | None:
    """The engine's Python, or None if none is known. Cached until the preference changes."""
    if "python" not in _cache:
        preferences = own(context)
        named = bpy.path.abspath(preferences.engine_python) if preferences and preferences.engine_python else ""
        _cache["python"] = find_engine_python(named, engine_folder())
    return _cache["python"]


def forget_cache() -> None:
    """Look again at the next question (the environment or the disk may have changed)."""
    _cache.clear()


def engine_folder() -> Path:
    """Where the engine is set up: the preference, else the add-on's own folder, which goes with an uninstall."""
    preferences = own(bpy.context)
    if preferences is not None and preferences.engine_folder:
        return Path(bpy.path.abspath(preferences.engine_folder)).absolute()
    return Path(bpy.utils.extension_path_user(ADDON_PACKAGE, path="engine"))


def base_python(context: bpy.types.Context) -> str:
    """The Python that was named to make the engine's environment with; empty if none was."""
    preferences = own(context)
    return bpy.path.abspath(preferences.base_python) if preferences is not None and preferences.base_python else ""


def jobs_folder(context: bpy.types.Context) -> Path:
    """Where jobs are kept; not inside the extension's own folder, so that finished objects survive an uninstall."""
    preferences = own(context)
    if preferences is not None and preferences.jobs_folder:
        return Path(bpy.path.abspath(preferences.jobs_folder))
    return Path(bpy.utils.user_resource("DATAFILES", path="dreamfusion")) / "jobs"


def models_folder(context: bpy.types.Context) -> Path:
    """Where models are kept: the preference, else the environment's DREAMFUSION_MODELS, else a folder that survives an uninstall."""
    preferences = own(context)
    named = bpy.path.abspath(preferences.models_folder) if preferences is not None and preferences.models_folder else ""
    named = named or os.environ.get("DREAMFUSION_MODELS", "").strip()
    return Path(named) if named else Path(bpy.utils.user_resource("DATAFILES", path="dreamfusion")) / "models"
