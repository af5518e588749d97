"""The add-on's preferences: the engine, the models, the folders. What they mean is asked of `preferences`."""

import bpy

from . import models, models_page, preferences, setup
from .ids import ADDON_PACKAGE

# The ids of requirements/builds.toml; those that do not exist for this system are refused with a sentence.
BUILDS = (
    ("auto", "Automatic", "What fits the graphics card best"),
    ("cpu", "CPU", "Runs everywhere; slow for all but Toybox"),
    ("cuda", "NVIDIA, CUDA 13", "GTX 16 and RTX 20 series and newer, driver 580 or newer"),
    ("cuda_legacy", "NVIDIA, CUDA 12.6", "Older cards and drivers"),
    ("rocm", "AMD, ROCm", "AMD cards, on Linux"),
    ("mps", "Apple GPU", "Apple silicon"),
)


def _python_changed(_owner: object, _context: bpy.types.Context) -> None:
    preferences.forget_cache()


class DREAMFUSION_AP_preferences(bpy.types.AddonPreferences):
    bl_idname = ADDON_PACKAGE

    engine_python: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Engine Python",
        description="The Python with the engine's packages (torch, diffusers); empty: the one that was set up here",
        subtype="FILE_PATH",
        update=_python_changed,
    )
    engine_folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Engine Folder",
        description="Where the engine is set up; empty: the extension's own folder, which goes with an uninstall",
        subtype="DIR_PATH",
        update=setup.place_changed,
    )
    engine_build: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Build", description="What torch is built for", items=BUILDS, update=setup.choice_changed
    )
    base_python: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Base Python",
        description="A Python 3.11 to 3.13 to make the engine's environment with; empty: Blender's own, or one that was found",
        subtype="FILE_PATH",
        update=setup.place_changed,
    )
    torch_index: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Torch Index", description="Download torch from this index instead of its own", update=setup.choice_changed
    )
    package_index: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Package Index", description="Download the other packages from this index instead of PyPI", update=setup.choice_changed
    )
    jobs_folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Jobs Folder",
        description="Where every job keeps its result; empty: dreamfusion/jobs in Blender's own data folder, which survives updates",
        subtype="DIR_PATH",
    )
    models_folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Models Folder",
        description="Where fetched models lie; empty: dreamfusion/models in Blender's own data folder, which survives updates",
        subtype="DIR_PATH",
        update=models.folder_changed,
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        box = layout.box()
        box.label(text="Engine", icon="TOOL_SETTINGS")
        setup.draw_page(box, context)
        box = layout.box()
        box.label(text="Models", icon="NODE_MATERIAL")
        models_page.draw_page(box, context)
        box = layout.box()
        box.use_property_split = True
        box.label(text="Folders and Sources", icon="FILE_FOLDER")
        for name in ("jobs_folder", "models_folder", "engine_python", "torch_index", "package_index"):
            box.prop(self, name)


CLASSES = (DREAMFUSION_AP_preferences,)
