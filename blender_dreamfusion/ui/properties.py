"""Settings of a scene. What a run is doing is not here: that lives in `runtime` and is never saved in a .blend."""

import bpy

PRESETS = (
    ("DRAFT", "Draft", "A first object in about two minutes without a graphics card"),
    ("STANDARD", "Standard", "More steps and detail"),
    ("HIGH", "High", "As good as it gets, for a graphics card and patience"),
)
MAX_SEED = 2**31 - 1


class DREAMFUSION_PG_scene(bpy.types.PropertyGroup):
    prompt: bpy.props.StringProperty(name="Prompt", description="What to make, in words")  # type: ignore[valid-type]
    preset: bpy.props.EnumProperty(name="Quality", description="How much time and detail", items=PRESETS)  # type: ignore[valid-type]
    seed: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Seed", description="The same seed gives the same object; another one a variation", min=0, max=MAX_SEED
    )
    height_m: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Height (m)", description="Height of the object in metres", default=1.0, min=0.001, soft_max=10.0
    )
    place: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Place",
        description="Where the object will stand",
        items=(
            ("CURSOR", "3D Cursor", "Where the 3D cursor is when the job starts"),
            ("ORIGIN", "World Origin", "In the middle of the world"),
        ),
    )


CLASSES = (DREAMFUSION_PG_scene,)
