"""Settings of a scene, and what a window shows. What a run is doing is not here: that lives in `runtime` and is never saved in a .blend."""

import bpy

from .camera_preview import DREAMFUSION_PG_camera
from .import_settings import DREAMFUSION_PG_asset, DREAMFUSION_PG_importing
from .models import DREAMFUSION_PG_model
from .option_panels import DREAMFUSION_PG_engine, DREAMFUSION_PG_option
from .reference_views import DREAMFUSION_PG_view

PRESETS = (
    ("DRAFT", "Draft", "A first object in about two minutes without a graphics card"),
    ("STANDARD", "Standard", "More steps and detail"),
    ("HIGH", "High", "As good as it gets, for a graphics card and patience"),
    ("ZERO123", "From a Picture", "For a Zero123 model and a reference picture, which it makes the other sides of"),
    ("MVDREAM", "Four Views", "For an MVDream model, which looks at four views at once"),
)
MAX_SEED = 2**31 - 1
MAX_VARIATIONS = 64


class DREAMFUSION_PG_scene(bpy.types.PropertyGroup):
    prompt: bpy.props.StringProperty(name="Prompt", description="What to make, in words")  # type: ignore[valid-type]
    negative: bpy.props.StringProperty(name="Negative", description="What it must not look like, in words")  # type: ignore[valid-type]
    preset: bpy.props.EnumProperty(name="Quality", description="How much time and detail", items=PRESETS)  # type: ignore[valid-type]
    seed: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Seed", description="The same seed gives the same object; another one a variation", min=0, max=MAX_SEED
    )
    new_seed_each_time: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="New Seed Each Time", description="Take another seed whenever Generate is pressed, so that each object is a new one"
    )
    n_variations: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Variations",
        description="How many objects to make one after the other, each with the next seed",
        default=1,
        min=1,
        max=MAX_VARIATIONS,
        soft_max=8,
    )
    model: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Model", description="Diffusion model that judges the pictures: an id of the model table, or a folder", default="toybox"
    )
    drawn_start: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Start from Shap-E",
        description="Shap-E draws a rough shape from the prompt first, in seconds on a graphics card, and the object grows from it",
    )
    guidance_scale: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Guidance Scale",
        description="How strictly the prompt is followed; 0 takes what suits the method",
        min=0.0,
        max=1000.0,
        soft_max=100.0,
        precision=1,
    )
    reference_image: bpy.props.PointerProperty(  # type: ignore[valid-type]
        name="Reference", description="A picture of the object, seen from the front", type=bpy.types.Image
    )
    reference_path: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="File", description="A picture file (PNG, JPEG or WebP) of the object; an image chosen above goes first", subtype="FILE_PATH"
    )
    further_views: bpy.props.CollectionProperty(  # type: ignore[valid-type]
        name="From Other Sides", description="More pictures of the same object", type=DREAMFUSION_PG_view
    )
    further_index: bpy.props.IntProperty(name="Picture", description="The picture that is chosen in the list")  # type: ignore[valid-type]
    options: bpy.props.CollectionProperty(  # type: ignore[valid-type]
        name="Engine Options", description="Engine options that differ from the preset", type=DREAMFUSION_PG_option
    )
    engine: bpy.props.PointerProperty(  # type: ignore[valid-type]
        name="Engine", description="All engine options, as the preset and `options` make them", type=DREAMFUSION_PG_engine
    )
    height_m: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Height (m)", description="Height of the object in meters", default=1.0, min=0.001, soft_max=10.0
    )
    place: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Place",
        description="Where the object will stand",
        items=(
            ("CURSOR", "3D Cursor", "Where the 3D cursor is when the job starts"),
            ("ORIGIN", "World Origin", "In the middle of the world"),
        ),
    )
    camera: bpy.props.PointerProperty(type=DREAMFUSION_PG_camera)  # type: ignore[valid-type]
    importing: bpy.props.PointerProperty(type=DREAMFUSION_PG_importing)  # type: ignore[valid-type]
    asset: bpy.props.PointerProperty(type=DREAMFUSION_PG_asset)  # type: ignore[valid-type]


class DREAMFUSION_PG_window(bpy.types.PropertyGroup):
    """What the panels show, not what a job is made of."""

    option_search: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Search",
        description="Show the options with these letters in their name or description",
        options={"SKIP_SAVE", "TEXTEDIT_UPDATE"},
    )
    history_index: bpy.props.IntProperty(name="Job", description="The job that is chosen in the history", options={"SKIP_SAVE"})  # type: ignore[valid-type]
    queue_index: bpy.props.IntProperty(name="Waiting Job", description="The job that is chosen in the queue", options={"SKIP_SAVE"})  # type: ignore[valid-type]
    models: bpy.props.CollectionProperty(type=DREAMFUSION_PG_model, options={"SKIP_SAVE"})  # type: ignore[valid-type]
    helpers: bpy.props.CollectionProperty(type=DREAMFUSION_PG_model, options={"SKIP_SAVE"})  # type: ignore[valid-type]
    helper_index: bpy.props.IntProperty(name="Helper", description="The helper that is chosen in the list", options={"SKIP_SAVE"})  # type: ignore[valid-type]
    model_index: bpy.props.IntProperty(name="Model", description="The model that is chosen in the list", options={"SKIP_SAVE"})  # type: ignore[valid-type]


CLASSES = (DREAMFUSION_PG_scene, DREAMFUSION_PG_window)
