"""Blender presets of the scene's settings: those that ship lie in the extension, the user's own where Blender keeps presets."""

from __future__ import annotations

import bpy
from bl_operators.presets import AddPresetBase
from bl_ui.utils import PresetPanel

from .ids import PACKAGE_ROOT
from .properties import DREAMFUSION_PG_scene

SUBDIR = "dreamfusion"
# What to make is not how to make it; `engine` only shows `options`.
NOT_IN_PRESETS = frozenset({"prompt", "seed", "reference_image", "reference_path", "camera", "engine"})
# Blender looks for presets/dreamfusion in here.
SHIPPED = str(PACKAGE_ROOT / "blender_dreamfusion")


def preset_values() -> list[str]:
    """All settings of a scene but those above, as AddPresetBase writes them; groups and collections with all they hold.

    In full: short names (`preset_defines`) fail where a system runs Blender 4.3 or older with its own Python 3.13.
    """
    return [f"bpy.context.scene.dreamfusion.{name}" for name in DREAMFUSION_PG_scene.__annotations__ if name not in NOT_IN_PRESETS]


class DREAMFUSION_PT_presets(PresetPanel, bpy.types.Panel):
    bl_label = "DreamFusion Presets"
    preset_subdir = SUBDIR
    preset_operator = "script.execute_preset"
    preset_add_operator = "dreamfusion.add_preset"


class DREAMFUSION_OT_add_preset(AddPresetBase, bpy.types.Operator):
    """Keep the settings of this scene as a preset, or remove one"""

    bl_idname = "dreamfusion.add_preset"
    bl_label = "Add DreamFusion Preset"
    preset_menu = "DREAMFUSION_PT_presets"
    preset_subdir = SUBDIR
    preset_values = preset_values()


def register_extra() -> None:
    bpy.utils.register_preset_path(SHIPPED)


def unregister_extra() -> None:
    bpy.utils.unregister_preset_path(SHIPPED)


CLASSES = (DREAMFUSION_PT_presets, DREAMFUSION_OT_add_preset)
