"""Where the engine's Python and the jobs are."""

from pathlib import Path

import bpy

from ..core.settings import find_engine_python
from .ids import ADDON_PACKAGE

# Found once and kept: draw and poll must not look at the disk.
_cache: dict[str, Path | None] = {}


def _forget_python(_preferences: object, _context: bpy.types.Context) -> None:
    _cache.clear()


class DREAMFUSION_AP_preferences(bpy.types.AddonPreferences):
    bl_idname = ADDON_PACKAGE

    engine_python: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Engine Python",
        description="The Python with the engine's packages (torch, diffusers); empty: the one that was set up here",
        subtype="FILE_PATH",
        update=_forget_python,
    )
    jobs_folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Jobs Folder",
        description="Where every job keeps its result; empty: dreamfusion/jobs in Blender's own data folder, which survives updates",
        subtype="DIR_PATH",
    )

    def draw(self, _context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.prop(self, "engine_python")
        layout.prop(self, "jobs_folder")


def _preferences(context: bpy.types.Context) -> DREAMFUSION_AP_preferences | None:
    addon = context.preferences.addons.get(ADDON_PACKAGE)
    return addon.preferences if addon is not None else None


def engine_python(context: bpy.types.Context) -> Path | None:
    """The engine's Python, or None if none is known. Cached until the preference changes."""
    if "python" not in _cache:
        preferences = _preferences(context)
        named = bpy.path.abspath(preferences.engine_python) if preferences and preferences.engine_python else ""
        _cache["python"] = find_engine_python(named, engine_folder())
    return _cache["python"]


def forget_cache() -> None:
    """Look again at the next question (the environment or the disk may have changed)."""
    _cache.clear()


def engine_folder() -> Path:
    """Where the add-on keeps its own engine environment; removed by an uninstall."""
    return Path(bpy.utils.extension_path_user(ADDON_PACKAGE, path="engine"))


def jobs_folder(context: bpy.types.Context) -> Path:
    """Where jobs are kept; not inside the extension's own folder, so that finished objects survive an uninstall."""
    preferences = _preferences(context)
    if preferences is not None and preferences.jobs_folder:
        return Path(bpy.path.abspath(preferences.jobs_folder))
    return Path(bpy.utils.user_resource("DATAFILES", path="dreamfusion")) / "jobs"


CLASSES = (DREAMFUSION_AP_preferences,)
