"""Reference pictures of the object from other sides: a small list, each with where it was taken from and how much it counts."""

import bpy

from .drawing import refuse
from .reference_files import SUFFIXES, checked_path

# Where a new picture was taken is most likely a side that no picture shows yet.
USUAL_AZIMUTHS_DEG = (90.0, 180.0, -90.0)
# The first picture's own place and weight are options of the engine.
FIRST_OPTIONS = ("reference.azimuth_deg", "reference.elevation_deg", "reference.weight")


class DREAMFUSION_PG_view(bpy.types.PropertyGroup):
    image: bpy.props.PointerProperty(name="Image", description="The object seen from this side", type=bpy.types.Image)  # type: ignore[valid-type]
    path: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="File", description="A picture file (PNG, JPEG or WebP); an image chosen above goes first", subtype="FILE_PATH"
    )
    azimuth_deg: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Azimuth (°)",
        description="From where it was taken: 0 is the front, 90 the object's left side, 180 the back, -90 its right side",
        min=-180.0,
        max=180.0,
        precision=0,
        step=1000,
    )
    elevation_deg: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Elevation (°)",
        description="From how high it was taken: 0 is level with the object, 90 from above",
        min=-90.0,
        max=90.0,
        precision=0,
        step=1000,
    )
    weight: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Weight", description="How much it counts against the other pictures", default=1.0, min=0.0, max=1000.0, soft_max=4.0
    )


class DREAMFUSION_UL_views(bpy.types.UIList):
    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flt_flag=0):  # type: ignore[no-untyped-def]
        row = layout.row(align=True)
        if item.image is not None:
            row.label(text=item.image.name, icon_value=item.image.preview.icon_id if item.image.preview is not None else 0)
        else:
            row.label(text=bpy.path.basename(item.path) or "No image", icon="IMAGE_DATA")
        side = row.row()
        side.alignment = "RIGHT"
        side.label(text=f"{item.azimuth_deg:.0f}°")

    def draw_filter(self, context, layout):  # type: ignore[no-untyped-def]
        pass  # a handful of rows


class DREAMFUSION_OT_reference_add(bpy.types.Operator):
    """Add a picture of the object from another side"""

    bl_idname = "dreamfusion.reference_add"
    bl_label = "Add Reference Picture"
    bl_options = {"REGISTER", "UNDO"}

    filepath: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="File", description="A PNG, JPEG or WebP picture", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )
    filter_glob: bpy.props.StringProperty(default=";".join(f"*{suffix}" for suffix in SUFFIXES), options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    azimuth_deg: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Azimuth (°)",
        description="0 is the front, 90 the object's left side; left out: a side of which there is no picture yet",
        min=-180.0,
        max=180.0,
        options={"SKIP_SAVE"},
    )
    elevation_deg: bpy.props.FloatProperty(name="Elevation (°)", description="90 is from above", min=-90.0, max=90.0, options={"SKIP_SAVE"})  # type: ignore[valid-type]
    weight: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Weight", description="How much it counts against the others", default=1.0, min=0.0, max=1000.0, options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        settings = context.scene.dreamfusion
        if settings.reference_image is None and not settings.reference_path:
            return refuse(cls, "Choose the picture from the front first")
        return True

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        settings = context.scene.dreamfusion
        try:
            image = bpy.data.images.load(checked_path(bpy.path.abspath(self.filepath)), check_existing=True)
        except (ValueError, RuntimeError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        taken = {round(view.azimuth_deg) for view in settings.further_views}
        free = next((azimuth for azimuth in USUAL_AZIMUTHS_DEG if round(azimuth) not in taken), 0.0)
        view = settings.further_views.add()
        view.image, view.elevation_deg, view.weight = image, self.elevation_deg, self.weight
        view.azimuth_deg = self.azimuth_deg if self.properties.is_property_set("azimuth_deg") else free
        settings.further_index = len(settings.further_views) - 1
        return {"FINISHED"}


class DREAMFUSION_OT_reference_remove(bpy.types.Operator):
    """Take the chosen picture out of the list"""

    bl_idname = "dreamfusion.reference_remove"
    bl_label = "Remove Reference Picture"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        settings = context.scene.dreamfusion
        if not 0 <= settings.further_index < len(settings.further_views):
            return refuse(cls, "Choose a picture in the list first")
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        settings = context.scene.dreamfusion
        settings.further_views.remove(settings.further_index)
        settings.further_index = max(0, min(settings.further_index, len(settings.further_views) - 1))
        return {"FINISHED"}


def draw_views(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """The list, its buttons, and the chosen picture's numbers."""
    layout.label(text="From Other Sides")
    row = layout.row()
    row.template_list("DREAMFUSION_UL_views", "", settings, "further_views", settings, "further_index", rows=2, maxrows=5)
    column = row.column(align=True)
    column.operator("dreamfusion.reference_add", text="", icon="ADD")
    column.operator("dreamfusion.reference_remove", text="", icon="REMOVE")
    if not 0 <= settings.further_index < len(settings.further_views):
        return
    view = settings.further_views[settings.further_index]
    column = layout.column()
    column.use_property_split = True
    column.use_property_decorate = False
    column.prop(view, "image")
    if view.image is None:
        column.prop(view, "path")
    column = column.column(align=True)
    for name in ("azimuth_deg", "elevation_deg", "weight"):
        column.prop(view, name)


CLASSES = (DREAMFUSION_PG_view, DREAMFUSION_UL_views, DREAMFUSION_OT_reference_add, DREAMFUSION_OT_reference_remove)
