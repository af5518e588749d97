"""Registration in one visible order, undone in the reverse. Costs milliseconds; starts, reads and downloads nothing."""

import bpy
from bpy.app.handlers import persistent

from . import (
    camera_preview,
    generate,
    history,
    history_operators,
    import_settings,
    mesh_panels,
    models,
    models_page,
    object_operators,
    operators,
    option_panels,
    panels,
    preferences_page,
    presets,
    properties,
    queue,
    reference_image,
    reference_views,
    runtime,
    setup,
    stage_operators,
    tasks,
    viewport_overlay,
)
from .drawing import guarded

# Each has CLASSES and may have register_extra() and unregister_extra() for menus, draw handlers and followers of the job.
# A module with a property group of its own stands before `properties`, which points to it.
MODULES = (
    camera_preview,
    viewport_overlay,
    import_settings,
    option_panels,
    models,
    reference_views,
    properties,
    preferences_page,
    setup,
    generate,
    history,
    history_operators,
    queue,
    operators,
    object_operators,
    stage_operators,
    panels,
    mesh_panels,
    models_page,
    reference_image,
    presets,
    tasks,
)


def _rank(cls: type) -> int:
    """What others name in their annotations or as their parent comes first."""
    if issubclass(cls, bpy.types.PropertyGroup):
        return 0
    return 2 if getattr(cls, "bl_parent_id", "") else 1


CLASSES = sorted((guarded(cls) for module in MODULES for cls in module.CLASSES), key=_rank)


@persistent
def _before_save(*_arguments: object) -> None:
    runtime.block("save")


@persistent
def _after_save(*_arguments: object) -> None:
    runtime.unblock("save")


@persistent
def _before_render(*_arguments: object) -> None:
    runtime.block("render")


@persistent
def _after_render(*_arguments: object) -> None:
    runtime.unblock("render")


@persistent
def _after_load(*_arguments: object) -> None:
    runtime.file_was_loaded()


HANDLERS = (
    ("save_pre", _before_save),
    ("save_post", _after_save),
    ("save_post_fail", _after_save),
    ("render_init", _before_render),
    ("render_complete", _after_render),
    ("render_cancel", _after_render),
    ("load_post", _after_load),
)


def register() -> None:
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    bpy.types.Scene.dreamfusion = bpy.props.PointerProperty(type=properties.DREAMFUSION_PG_scene)
    bpy.types.WindowManager.dreamfusion = bpy.props.PointerProperty(type=properties.DREAMFUSION_PG_window, options={"SKIP_SAVE"})
    for name, handler in HANDLERS:
        getattr(bpy.app.handlers, name).append(handler)
    for module in MODULES:
        if hasattr(module, "register_extra"):
            module.register_extra()


def unregister() -> None:
    runtime.shutdown()  # first: it uses what goes away below
    for module in reversed(MODULES):
        if hasattr(module, "unregister_extra"):
            module.unregister_extra()
    for name, handler in HANDLERS:
        getattr(bpy.app.handlers, name).remove(handler)
    del bpy.types.WindowManager.dreamfusion
    del bpy.types.Scene.dreamfusion
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
